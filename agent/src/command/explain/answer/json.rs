//! The answer as JSON: `FlowExplanation`.

use std::net::IpAddr;

use npc_agent::finding::{Finding, Place};
use npc_compiler::API_VERSION;
use npc_compiler::cluster::PolicyId;
use npc_compiler::object::{Family, TargetPort};
use npc_compiler::verdict::explain::{
    Candidate, Conjunct, Decision, Discrepancy, EndName, Flow, FlowExplanation, Mark, MisleadingPolicy, Pairs, Part,
    ReasonCode, RuleHalf, SeparateItems, Verdict, Via, Way,
};
use serde::Serialize;

use crate::command::explain::fix::{FixJson, UnfixedJson};
use crate::command::explain::reasons::misleading::want_and_got;
use crate::command::explain::reasons::{denied, dns};
use crate::command::explain::services::no_backend;
use crate::command::explain::traffic::by_protocol;
use crate::command::explain::words::{bracketed, port_text};
use crate::command::explain::{AnsweredQuestion, Context, warnings};
use crate::command::input::Input;
use crate::command::warning;

/// Why flows between two endpoints are or are not allowed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::command::explain) struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    query: Query,
    verdict: Verdict,
    flows: Vec<FlowJson<'a>>,
    fixes: Vec<FixJson<'a>>,
    /// Denied flows for which there is no fix.
    unfixed: Vec<UnfixedJson>,
    warnings: Vec<String>,
    unknowns: Vec<String>,
    /// What is wrong with the objects.
    findings: Vec<Finding>,
    /// The ends that flows stand for, where they stand for many.
    ends: Vec<EndJson<'a>>,
}

#[derive(Debug, Serialize)]
struct Query {
    from: String,
    to: String,
    source: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FlowJson<'a> {
    from: EndJson<'a>,
    to: EndJson<'a>,
    via: Option<ViaJson<'a>>,
    /// By which way, where that makes a difference: `own-node`, `other-node`, `host-port`,
    /// `same-node`, `different-nodes`, `other-replica`, `itself`.
    way: Option<&'static str>,
    /// The nodes that it comes by, where not all are meant.
    nodes: Option<&'a [String]>,
    family: Option<Family>,
    protocol: Option<&'static str>,
    ports: Option<Vec<[u16; 2]>>,
    port_name: Option<&'a str>,
    verdict: Verdict,
    egress: Option<Side>,
    ingress: Option<Side>,
    /// What the denial of a flow to a DNS server breaks, in words.
    breaks: Option<String>,
    alike: Option<AlikeJson<'a>>,
}

/// The ends that a flow stands for, as ranges of places in `ends`.
#[derive(Debug, Clone, Serialize)]
struct AlikeJson<'a> {
    from: &'a [(usize, usize)],
    to: &'a [(usize, usize)],
    pairs: &'static str,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndJson<'a> {
    kind: &'a str,
    namespace: Option<&'a str>,
    name: &'a str,
    addresses: &'a [IpAddr],
    host_network: bool,
    except: Vec<IpAddr>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct ViaJson<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    port: Option<u16>,
    target_port: Option<TargetJson<'a>>,
    backends: usize,
    /// Why it leads nowhere, where it does.
    without_backend: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum TargetJson<'a> {
    Number(u16),
    Name(&'a str),
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Side {
    verdict: Verdict,
    reason: Option<&'static str>,
    isolated_by: Vec<PolicyJson>,
    rules: Vec<RuleJson>,
    /// How many rules admit it, where not all are listed.
    rule_count: Option<usize>,
    candidates: Vec<CandidateJson>,
    /// How many candidates there are, where not all are listed.
    candidate_count: Option<usize>,
    /// Policies that look as if they decided and do not.
    near: Vec<MisleadingJson>,
}

#[derive(Debug, Clone, Serialize)]
pub(in crate::command::explain) struct MisleadingJson {
    code: &'static str,
    policy: PolicyJson,
    path: String,
    location: Option<Place>,
    want: String,
    got: String,
    /// How many endpoints items admit, where separate items mean OR.
    endpoints: Option<SeparateItemsJson>,
    /// The very thing to look at.
    marks: Vec<MarkJson>,
}

/// How many endpoints an item with a namespaceSelector and one with a podSelector admit, each
/// alone, and how many one item with both would.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct SeparateItemsJson {
    namespace_selector: usize,
    pod_selector: usize,
    both: usize,
}

/// A policy, named.
#[derive(Debug, Clone, Serialize)]
pub(in crate::command::explain) struct PolicyJson {
    kind: &'static str,
    namespace: String,
    name: String,
}

/// A rule, and where it stands.
#[derive(Debug, Clone, Serialize)]
pub(in crate::command::explain) struct RuleJson {
    policy: PolicyJson,
    path: String,
    location: Option<Place>,
    /// The items of the peers that admit the other end; none of a rule without peers.
    items: Vec<ItemJson>,
}

/// An item of a rule's peers, by its path below the rule, and where it stands.
#[derive(Debug, Clone, Serialize)]
struct ItemJson {
    path: String,
    location: Option<Place>,
}

#[derive(Debug, Clone, Serialize)]
struct CandidateJson {
    policy: PolicyJson,
    path: String,
    distance: usize,
    location: Option<Place>,
    conjuncts: Vec<ConjunctJson>,
}

#[derive(Debug, Clone, Serialize)]
struct ConjunctJson {
    of: RuleHalf,
    path: String,
    part: Part,
    /// What kind of miss it is, as `npc reason` knows it.
    code: &'static str,
    result: &'static str,
    want: String,
    got: String,
    /// The very things that fail.
    marks: Vec<MarkJson>,
}

/// A label, an operator, an item or a number that something fails by.
#[derive(Debug, Clone, Serialize)]
struct MarkJson {
    /// The path in the policy.
    path: String,
    range: Option<RangeJson>,
    want: String,
    got: String,
}

/// A stretch of a file: lines and columns from 1, the end just behind the last character.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct RangeJson {
    file: String,
    line: u32,
    column: u32,
    end_line: u32,
    end_column: u32,
}

impl<'a> Answer<'a> {
    pub(in crate::command::explain) fn of(said: &AnsweredQuestion<'a>) -> Self {
        let AnsweredQuestion { context, from, to, explanation, fixes } = *said;
        let port = to.port.as_ref().map(port_text);
        let query = Query {
            from: from.name.clone(),
            to: format!("{}{}", bracketed(&to.name, port.is_some()), port.map(|p| format!(":{p}")).unwrap_or_default()),
            source: context.input.source.as_str(),
        };
        let warnings = context.input.with_left_out(warnings::of_answer(context.input, explanation));
        Self {
            api_version: API_VERSION,
            kind: "FlowExplanation",
            query,
            verdict: explanation.verdict(),
            flows: explanation.flows.iter().flat_map(|flow| flows(context, explanation, flow)).collect(),
            fixes: fixes.json(),
            unfixed: fixes.unfixed(),
            warnings: warning::texts(&warnings),
            unknowns: warnings::unknowns(&explanation.missing()),
            findings: context.input.findings_with(&warnings),
            ends: explanation.ends.iter().map(|name| end(name, Vec::new())).collect(),
        }
    }

    /// The answer about ends that were not read.
    pub(in crate::command::explain) fn without_ends(
        input: &'a Input,
        [from, to]: [&str; 2],
        unknowns: &[String],
    ) -> Self {
        let warnings = input.with_left_out(input.warnings.clone());
        Self {
            api_version: API_VERSION,
            kind: "FlowExplanation",
            query: Query { from: from.to_owned(), to: to.to_owned(), source: input.source.as_str() },
            verdict: Verdict::Unknown,
            flows: Vec::new(),
            fixes: Vec::new(),
            unfixed: Vec::new(),
            warnings: warning::texts(&warnings),
            unknowns: unknowns.to_vec(),
            findings: input.findings_with(&warnings),
            ends: Vec::new(),
        }
    }
}

/// One entry for each protocol, or one for everything.
fn flows<'a>(context: &Context<'_>, explanation: &FlowExplanation, flow: &'a Flow) -> Vec<FlowJson<'a>> {
    let [except_from, except_to] = explanation.apart(flow);
    let sides: Vec<Option<Side>> = match (&flow.decisions, flow.broken) {
        (Some([egress, ingress]), _) => {
            vec![Some(side(context, egress, &flow.to)), Some(side(context, ingress, &flow.from))]
        }
        // The input does not say where the Service leads.
        (None, None) => vec![None, None],
        // There is no backend that could receive anything.
        (None, Some(code)) => {
            let (verdict, reason) = (Verdict::Denied, Some(code.as_str()));
            let (isolated_by, rules, candidates, near) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let (rule_count, candidate_count) = (None, None);
            vec![
                None,
                Some(Side { verdict, reason, isolated_by, rules, rule_count, candidates, candidate_count, near }),
            ]
        }
    };
    let one = |protocol, ports| FlowJson {
        from: end(&flow.from, except_from.clone()),
        to: end(&flow.to, except_to.clone()),
        via: flow.via.as_ref().map(|of| via(context, of)),
        way: flow.way.as_ref().map(|way| match way {
            Way::OwnNode => "own-node",
            Way::OtherNode(_) => "other-node",
            Way::HostPort(_) => "host-port",
            Way::SameNode => "same-node",
            Way::DifferentNodes(_) => "different-nodes",
            Way::OtherReplica => "other-replica",
            Way::Itself => "itself",
        }),
        nodes: match &flow.way {
            Some(Way::OtherNode(nodes) | Way::DifferentNodes(nodes)) if !nodes.is_empty() => Some(nodes),
            _ => None,
        },
        family: flow.family,
        protocol,
        ports,
        port_name: flow.port_name.as_deref(),
        verdict: flow.verdict,
        egress: sides[0].clone(),
        ingress: sides[1].clone(),
        breaks: dns::broken(flow).filter(|_| flow.verdict == Verdict::Denied),
        alike: flow.alike.as_ref().map(|alike| AlikeJson {
            from: &alike.from.0,
            to: &alike.to.0,
            pairs: match alike.pairs {
                Pairs::Others => "others",
                Pairs::Itself => "itself",
                Pairs::OwnNode => "own-node",
            },
        }),
    };
    by_protocol(&flow.traffic).into_iter().map(|(protocol, ports)| one(protocol, ports)).collect()
}

fn end(name: &EndName, except: Vec<IpAddr>) -> EndJson<'_> {
    EndJson {
        kind: &name.kind,
        namespace: name.namespace.as_deref(),
        name: &name.name,
        addresses: &name.addresses,
        host_network: name.host_network,
        except,
    }
}

fn via<'a>(context: &Context<'_>, via: &'a Via) -> ViaJson<'a> {
    let without_backend = || {
        let why = via.without_backend.as_ref()?;
        let service = context.input.cluster.service(&via.namespace, &via.name)?;
        Some(no_backend::without_backend(context.input, service, why))
    };
    ViaJson {
        kind: "Service",
        namespace: &via.namespace,
        name: &via.name,
        port: via.port,
        target_port: via.target.as_ref().map(|target| match target {
            TargetPort::Number(number) => TargetJson::Number(*number),
            TargetPort::Name(name) => TargetJson::Name(name),
        }),
        backends: via.backends,
        without_backend: without_backend(),
    }
}

fn side(context: &Context<'_>, decision: &Decision, other: &EndName) -> Side {
    Side {
        verdict: decision.verdict,
        reason: decision.reason.as_str(),
        isolated_by: decision.isolated_by.iter().map(|id| policy(context, *id)).collect(),
        rules: decision.rules.iter().map(|of| rule(context, decision, of)).collect(),
        rule_count: Some(decision.admitting_count).filter(|count| *count > decision.rules.len()),
        candidates: decision.candidates.iter().map(|of| candidate(context, of, other)).collect(),
        candidate_count: Some(decision.candidate_count).filter(|count| *count > decision.candidates.len()),
        near: decision.misleading.iter().map(|of| misleading(context, of)).collect(),
    }
}

pub(in crate::command::explain) fn misleading(context: &Context<'_>, of: &MisleadingPolicy) -> MisleadingJson {
    let endpoints = match &of.discrepancy {
        Discrepancy::SeparateItems { items: SeparateItems { namespace_selector, pod_selector, both }, .. } => {
            let (namespace_selector, pod_selector) = (namespace_selector.1, pod_selector.1);
            Some(SeparateItemsJson { namespace_selector, pod_selector, both: *both })
        }
        _ => None,
    };
    let path = match of.code() {
        // A field that the API does not have is in the file only.
        ReasonCode::RuleNotUnderstood | ReasonCode::PolicyTooLarge => of.path.clone(),
        _ => context.places.path(of.policy, of.path.clone(), of.failed()),
    };
    let location = location(context, of.policy, &path);
    let [want, got] = want_and_got(&context.input.cluster, of);
    let range = range(context, of.policy, &path);
    let marks = vec![MarkJson { path: path.clone(), range, want: want.clone(), got: got.clone() }];
    MisleadingJson {
        code: of.code().as_str(),
        policy: policy(context, of.policy),
        path,
        location,
        want,
        got,
        endpoints,
        marks,
    }
}

pub(in crate::command::explain) fn policy(context: &Context<'_>, id: PolicyId) -> PolicyJson {
    let policy = context.input.cluster.policy(id);
    PolicyJson { kind: "NetworkPolicy", namespace: policy.namespace.clone(), name: policy.name.clone() }
}

fn rule(context: &Context<'_>, decision: &Decision, of: &(PolicyId, String)) -> RuleJson {
    let (id, path) = of;
    let item =
        |item: &String| ItemJson { path: item.clone(), location: location(context, *id, &format!("{path}.{item}")) };
    RuleJson {
        policy: policy(context, *id),
        path: path.clone(),
        location: location(context, *id, path),
        items: decision.items.get(of).into_iter().flatten().map(item).collect(),
    }
}

pub(in crate::command::explain) fn location(context: &Context<'_>, id: PolicyId, path: &str) -> Option<Place> {
    context.places.locate(id, path).as_ref().map(Place::from)
}

/// Where a field of a policy stands, from its first character to its last.
fn range(context: &Context<'_>, id: PolicyId, path: &str) -> Option<RangeJson> {
    context.places.locate(id, path).map(|place| RangeJson {
        file: place.file.to_string(),
        line: place.line(),
        column: place.column(),
        end_line: place.span.end.line,
        end_column: place.span.end.column,
    })
}

fn mark(context: &Context<'_>, of: &Candidate, conjunct: &Conjunct, mark: &Mark, other: &EndName) -> MarkJson {
    let path = context.places.of_mark(of, mark);
    let range = range(context, of.policy, &path);
    let (want, got) = match &mark.requirement {
        Some(_) => conjunct.said_of(mark),
        None => (conjunct.want.to_string(), denied::got(conjunct, other)),
    };
    MarkJson { path, range, want, got }
}

fn candidate(context: &Context<'_>, candidate: &Candidate, other: &EndName) -> CandidateJson {
    let marks = |of: &Conjunct| -> Vec<MarkJson> {
        // What stands at the path fails as a whole.
        let whole = [Mark::field(of.path)];
        let marks = if of.marks.is_empty() { &whole[..] } else { of.marks.as_slice() };
        marks.iter().map(|one| mark(context, candidate, of, one, other)).collect()
    };
    let conjunct = |of: &Conjunct| ConjunctJson {
        marks: marks(of),
        of: of.of(),
        path: of.path.to_string(),
        part: of.part,
        code: of.code.as_str(),
        result: "no",
        want: of.want.to_string(),
        got: denied::got(of, other),
    };
    // Where its first part that fails stands.
    let Candidate { policy: id, path, conjuncts, .. } = candidate;
    let first = conjuncts.first().map_or(path.clone(), |first| format!("{path}.{}", first.path));
    CandidateJson {
        policy: policy(context, *id),
        path: path.clone(),
        distance: conjuncts.len(),
        location: location(context, *id, &first),
        conjuncts: conjuncts.iter().map(conjunct).collect(),
    }
}
