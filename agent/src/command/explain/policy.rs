//! One policy alone: what it selects, what it admits, and what of it has no effect now.

use std::collections::BTreeSet;
use std::io::{self, Write};

use npc_agent::finding::Place;
use npc_agent::near;
use npc_compiler::API_VERSION;
use npc_compiler::cluster::{ClassId, Cluster, PodId, PolicyId};
use npc_compiler::policy::{Direction, Namespaces, Peer, Peers, PolicyRule, PortMatch, Ports};
use serde::Serialize;

use super::Context;
use super::answer::location;
use crate::command::endpoint::short_kind;
use crate::command::input::Input;
use crate::command::short::block_text;
use crate::command::words::{policy_name, shorten};
use crate::command::{Exit, Stop};

/// So many workloads are written out.
const LISTED: usize = 6;

/// Why a peer with selectors has no effect.
const NO_POD: &str = "no pod of the input is meant";

/// What there is to say of a policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct About {
    api_version: &'static str,
    kind: &'static str,
    policy: String,
    /// The podSelector, as kubectl writes selectors.
    selector: String,
    /// The workloads that it selects.
    selects: Vec<String>,
    isolates: Vec<Direction>,
    rules: Vec<Rule>,
}

/// A rule of the policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    direction: Direction,
    path: String,
    location: Option<Place>,
    peers: Vec<Part>,
    ports: Vec<Part>,
    /// Whether it admits nothing now.
    unused: bool,
}

/// A peer or a port of a rule.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    text: String,
    /// The workloads that a peer means.
    selects: Vec<String>,
    /// Why it means nothing now.
    unused: Option<String>,
}

/// The policy of this name, or why there is none.
pub(super) fn find(input: &Input, namespace: &str, name: &str) -> Result<PolicyId, Stop> {
    let policies = || input.cluster.policies().filter(|(_, policy)| policy.namespace == namespace);
    if let Some((id, _)) = policies().find(|(_, policy)| policy.name == name) {
        return Ok(id);
    }
    let names: Vec<&str> = policies().map(|(_, policy)| policy.name.as_str()).collect();
    let known = match names.as_slice() {
        [] => "which has none".to_owned(),
        names => format!("which has {}", near::listed(names.iter().copied())),
    };
    let message = format!("there is no networkpolicy {name:?} in namespace {namespace}, {known}");
    Err(Stop::new(Exit::NotFound, message))
}

impl About {
    pub(super) fn new(context: &Context<'_>, id: PolicyId) -> Self {
        let cluster = &context.input.cluster;
        let policy = cluster.policy(id);
        let selected: Vec<PodId> = cluster
            .endpoints()
            .filter(|(_, pod)| pod.namespace == policy.namespace && policy.subject.matches(&pod.labels))
            .map(|(id, _)| id)
            .collect();
        let isolates: Vec<Direction> = Direction::ALL.into_iter().filter(|of| policy.isolates(*of)).collect();
        let rule = |direction: Direction, rule: &PolicyRule| {
            let peers = peers(cluster, rule);
            let ends: Vec<PodId> = match (direction, &rule.peers) {
                (Direction::Ingress, _) => selected.clone(),
                (Direction::Egress, Peers::Everyone) => cluster.endpoints().map(|(id, _)| id).collect(),
                (Direction::Egress, Peers::AnyOf(peers)) => peers.iter().flat_map(|peer| pods(cluster, peer)).collect(),
            };
            let ports = ports(cluster, rule, &ends);
            let none = |parts: &[Part]| !parts.is_empty() && parts.iter().all(|part| part.unused.is_some());
            let unused = selected.is_empty() || none(&peers) || none(&ports);
            let location = location(context, id, &rule.path);
            Rule { direction, path: rule.path.clone(), location, peers, ports, unused }
        };
        let rules =
            isolates.iter().flat_map(|direction| policy.rules(*direction).iter().map(|of| rule(*direction, of)));
        Self {
            api_version: API_VERSION,
            kind: "PolicyExplanation",
            policy: policy_name(cluster, id),
            selector: policy.subject.to_string(),
            selects: workloads(cluster, &selected),
            rules: rules.collect(),
            isolates,
        }
    }

    pub(super) fn text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "networkpolicy {}\n", self.policy)?;
        let namespace = self.policy.split('/').next().unwrap_or_default();
        let selector =
            if self.selector.is_empty() { "every pod".to_owned() } else { format!("pods with {}", self.selector) };
        let selects = match self.selects.as_slice() {
            [] => "none in the input, so it has no effect now".to_owned(),
            some => shorten(some, LISTED, ", "),
        };
        writeln!(out, "  selects   {selector} of namespace {namespace}: {selects}")?;
        let isolates: Vec<String> = self.isolates.iter().map(|of| of.as_str().to_lowercase()).collect();
        writeln!(
            out,
            "  isolates  {}",
            if isolates.is_empty() { "in no direction".to_owned() } else { isolates.join(", ") }
        )?;
        for direction in &self.isolates {
            let rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.direction == *direction).collect();
            let name = direction.as_str().to_lowercase();
            if rules.is_empty() {
                writeln!(out, "\n  {name}  nothing is admitted")?;
            }
            for rule in rules {
                let unused = if rule.unused { "  (admits nothing now)" } else { "" };
                writeln!(out, "\n  {}{unused}", rule.path)?;
                let way = direction.peers_field();
                if rule.peers.is_empty() {
                    writeln!(out, "    {way}  everyone")?;
                }
                for peer in &rule.peers {
                    let means = match (&peer.unused, peer.selects.as_slice()) {
                        (Some(why), _) => format!(": unused, {why}"),
                        (None, []) => String::new(),
                        (None, some) => format!(": {}", shorten(some, LISTED, ", ")),
                    };
                    writeln!(out, "    {way}  {}{means}", peer.text)?;
                }
                if rule.ports.is_empty() {
                    writeln!(out, "    on  every port and protocol")?;
                }
                for port in &rule.ports {
                    let unused = port.unused.as_ref().map(|why| format!(": unused, {why}")).unwrap_or_default();
                    writeln!(out, "    on  {}{unused}", port.text)?;
                }
            }
        }
        out.flush()
    }
}

/// The peers of a rule; none for everyone.
fn peers(cluster: &Cluster, rule: &PolicyRule) -> Vec<Part> {
    let Peers::AnyOf(peers) = &rule.peers else { return Vec::new() };
    let part = |peer: &Peer| {
        let text = match peer {
            Peer::Pods(peer) => {
                let pods = if peer.pods.to_string().is_empty() {
                    "every pod".to_owned()
                } else {
                    format!("pods with {}", peer.pods)
                };
                match &peer.namespaces {
                    Namespaces::Own(name) => format!("{pods} of namespace {name}"),
                    Namespaces::Selected(of) if of.to_string().is_empty() => format!("{pods} of every namespace"),
                    Namespaces::Selected(of) => format!("{pods} of namespaces with {of}"),
                }
            }
            Peer::Block(block) => block_text(block),
            Peer::Nothing => "a peer that is not understood".to_owned(),
        };
        let selects = workloads(cluster, &pods(cluster, peer));
        let unused = match peer {
            Peer::Pods(_) if selects.is_empty() => Some(NO_POD.to_owned()),
            Peer::Nothing => Some("it means no end".to_owned()),
            Peer::Pods(_) | Peer::Block(_) => None,
        };
        Part { text, selects, unused }
    };
    peers.iter().map(part).collect()
}

/// The ports of a rule, whose names these pods resolve; none for every port.
fn ports(cluster: &Cluster, rule: &PolicyRule, ends: &[PodId]) -> Vec<Part> {
    let Ports::AnyOf(ports) = &rule.ports else { return Vec::new() };
    let part = |port: &PortMatch| {
        let (text, unused) = match port {
            PortMatch::Range(protocol, 0 | 1, u16::MAX) => (format!("every {} port", protocol.as_str()), None),
            PortMatch::Range(protocol, first, last) if first == last => {
                (format!("{} {first}", protocol.as_str()), None)
            }
            PortMatch::Range(protocol, first, last) => (format!("{} {first}-{last}", protocol.as_str()), None),
            PortMatch::Named(protocol, name) => {
                let has =
                    |id: &PodId| cluster.pod(*id).ports.iter().any(|of| of.name == *name && of.protocol == *protocol);
                let unused = (!ends.iter().any(has)).then(|| "no pod that is meant has a port of this name".to_owned());
                (format!("{} {name}", protocol.as_str()), unused)
            }
            PortMatch::Nothing => ("a port that is not understood".to_owned(), Some("it means no port".to_owned())),
        };
        Part { text, selects: Vec::new(), unused }
    };
    ports.iter().map(part).collect()
}

/// The pods that a peer means.
fn pods(cluster: &Cluster, peer: &Peer) -> Vec<PodId> {
    let Peer::Pods(peer) = peer else { return Vec::new() };
    let of_class = |class: ClassId| cluster.class(class).endpoints.clone();
    cluster.selected(peer).into_iter().flat_map(of_class).collect()
}

/// The workloads of pods, or the pods that have none, as `NS/TYPE/NAME`.
pub(super) fn workloads(cluster: &Cluster, pods: &[PodId]) -> Vec<String> {
    let name = |id: &PodId| {
        let pod = cluster.pod(*id);
        let (kind, name) = pod.workload.as_ref().map_or(("Pod", &pod.name), |of| (of.kind.as_str(), &of.name));
        format!("{}/{}/{name}", pod.namespace, short_kind(kind))
    };
    pods.iter().map(name).collect::<BTreeSet<_>>().into_iter().collect()
}
