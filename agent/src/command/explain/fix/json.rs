//! Fixes as JSON: patches (RFC 6902) against the objects as they are written.

use json_patch::Patch;
use npc_agent::finding::Place;
use npc_compiler::object::Family;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::fix::{Change, Closing, Fix, NoFix, ObjectName, Opened, Wider};
use serde::Serialize;
use serde_json::Value;

use super::service::{self, ServiceJson};
use super::why_not::why_not;
use super::words::{given_up, then};
use super::{Fixes, anchor, apply};
use crate::command::explain::traffic::by_protocol;
use crate::command::input::Input;

/// A change of one object. Those with the same flows belong together.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct FixJson<'a> {
    /// The places of the flows that it turns to ALLOWED, in `flows`.
    flows: Vec<usize>,
    /// How many fixes of this list come before it: it was found and checked after these were applied, and what it opens
    /// is what it adds to them.
    after: usize,
    direction: Direction,
    /// The policy that it changes or adds; none where it changes another object.
    policy: Option<String>,
    object: ObjectJson<'a>,
    /// Empty where there is an object to create.
    patch: Patch,
    /// A whole new object.
    create: Option<&'a Value>,
    /// The line of a shell that makes the change in a cluster, also of an object to create; none where the changes close
    /// something, or a name is none that a cluster has.
    command: Option<String>,
    /// What else must be done.
    then: Option<String>,
    /// What may be wrong beside the policies.
    note: Option<String>,
    /// Where the text stands that it changes, if other places may use it by a YAML anchor.
    shared_text: Option<Place>,
    verified: bool,
    /// What all changes of these flows together open besides, by pod.
    opens: Vec<OpenedJson<'a>>,
    /// What they close.
    closes: Vec<OpenedJson<'a>>,
    /// The Services, as NAMESPACE/NAME, that get the pods as backends by a label of the changes.
    backend_of: Vec<String>,
    /// Changes that mend what the denial names, and are not proposed because they close something.
    would_close: Vec<ClosingJson<'a>>,
    /// The same, because they open much more.
    would_open: Vec<WiderJson<'a>>,
}

/// A change that is not proposed, and what it would close.
#[derive(Debug, Serialize)]
struct ClosingJson<'a> {
    #[serde(flatten)]
    change: NotProposedJson<'a>,
    closes: Vec<OpenedJson<'a>>,
}

/// A change that is not proposed, and what it would open.
#[derive(Debug, Serialize)]
struct WiderJson<'a> {
    #[serde(flatten)]
    change: NotProposedJson<'a>,
    opens: Vec<OpenedJson<'a>>,
}

#[derive(Debug, Serialize)]
struct NotProposedJson<'a> {
    direction: Direction,
    object: ObjectJson<'a>,
    patch: Patch,
    create: Option<&'a Value>,
}

#[derive(Debug, Serialize)]
struct ObjectJson<'a> {
    kind: &'a str,
    namespace: Option<&'a str>,
    name: &'a str,
}

#[derive(Debug, Serialize)]
struct OpenedJson<'a> {
    from: &'a str,
    to: &'a str,
    family: Option<Family>,
    protocol: Option<&'static str>,
    ports: Option<Vec<[u16; 2]>>,
    /// Whether the input has all facts that decide it.
    certain: bool,
}

/// Flows for which there is no fix, and why.
#[derive(Debug, Serialize)]
pub(in super::super) struct UnfixedJson {
    flows: Vec<usize>,
    reason: String,
    /// A change of a Service that leads the flow to a port that policies admit.
    service: Option<ServiceJson>,
}

impl Fixes<'_> {
    /// The changes.
    pub(in super::super) fn json(&self) -> Vec<FixJson<'_>> {
        let mut all = Vec::new();
        for found in &self.found {
            let Ok(fix) = &found.fix else { continue };
            let (flows, after) = (self.places(&found.flows), all.len());
            all.extend(fix.changes.iter().map(|change| one(self.input, flows.clone(), after, fix, change)));
        }
        all
    }

    /// The flows without.
    pub(in super::super) fn unfixed(&self) -> Vec<UnfixedJson> {
        let none = self.found.iter().filter_map(|of| Some((&of.flows, of.fix.as_ref().err()?)));
        let unfixed = |(flows, reason): (&Vec<usize>, &NoFix)| UnfixedJson {
            flows: self.places(flows),
            reason: why_not(reason),
            service: service::json(self.input, reason),
        };
        none.map(unfixed).collect()
    }

    /// The places of flows in the JSON, which has one for each protocol.
    fn places(&self, flows: &[usize]) -> Vec<usize> {
        let count = |place: usize| by_protocol(&self.explanation.flows[place].traffic).len();
        let first = |place: usize| (0..place).map(count).sum::<usize>();
        flows.iter().flat_map(|place| first(*place)..first(*place) + count(*place)).collect()
    }
}

fn one<'a>(input: &Input, flows: Vec<usize>, after: usize, fix: &'a Fix, change: &'a Change) -> FixJson<'a> {
    let namespace = change.object.namespace.as_deref();
    let not_proposed = |change: &'a Change| NotProposedJson {
        direction: change.direction,
        object: object(&change.object),
        patch: change.patch().cloned().unwrap_or_default(),
        create: change.new_object(),
    };
    let closing = |of: &'a Closing| ClosingJson {
        change: not_proposed(&of.change),
        closes: of.closes.iter().flat_map(opened).collect(),
    };
    let wider = |of: &'a Wider| WiderJson {
        change: not_proposed(&of.change),
        opens: of.opens.iter().flat_map(opened).collect(),
    };
    let gives_up = (fix.is_safe() && !change.adds.gives_up.is_none()).then(|| given_up(fix));
    let notes: Vec<String> =
        fix.undeclared_target.as_ref().map(service::undeclared).into_iter().chain(gives_up).collect();
    FixJson {
        flows,
        after,
        direction: change.direction,
        policy: namespace
            .filter(|_| change.object.kind == "NetworkPolicy")
            .map(|namespace| format!("{namespace}/{}", change.object.name)),
        object: object(&change.object),
        patch: change.patch().cloned().unwrap_or_default(),
        create: change.new_object(),
        command: apply::command(change).filter(|_| fix.is_safe()),
        then: then(change),
        note: (!notes.is_empty()).then(|| notes.join("; ")),
        shared_text: anchor::shared_text(input, change).as_ref().map(Place::from),
        verified: fix.is_safe(),
        opens: fix.opens.iter().flat_map(opened).collect(),
        closes: fix.closes.iter().flat_map(opened).collect(),
        backend_of: fix.backend_of.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect(),
        would_close: fix.closing.iter().map(closing).collect(),
        would_open: fix.wider.iter().map(wider).collect(),
    }
}

fn object(of: &ObjectName) -> ObjectJson<'_> {
    ObjectJson { kind: &of.kind, namespace: of.namespace.as_deref(), name: &of.name }
}

fn opened(of: &Opened) -> Vec<OpenedJson<'_>> {
    let Opened { from, to, family, certain, .. } = of;
    let (family, certain) = (*family, *certain);
    let entry = |(protocol, ports)| OpenedJson { from: &from.id, to: &to.id, family, protocol, ports, certain };
    by_protocol(&of.traffic).into_iter().map(entry).collect()
}
