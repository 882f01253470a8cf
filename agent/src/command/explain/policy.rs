//! One policy alone: what it selects, what it admits, and what of it has no effect now.

use std::collections::BTreeSet;
use std::io::{self, Write};

use npc_agent::finding::Place;
use npc_agent::near;
use npc_compiler::API_VERSION;
use npc_compiler::cluster::group::Groups;
use npc_compiler::cluster::{ClassId, Cluster, PodId, PolicyId};
use npc_compiler::object::Protocol;
use npc_compiler::policy::finding::Code;
use npc_compiler::policy::{Direction, Namespaces, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};
use npc_compiler::verdict::explain::Beside;
use serde::Serialize;

use super::answer::{BesideJson, beside as beside_json, location};
use super::{Context, alone, beside};
use crate::command::endpoint::{no_namespace, short_kind};
use crate::command::input::{Input, Source, unread_words};
use crate::command::short::block_text;
use crate::command::words::{policy_name, shorten};
use crate::command::{Exit, Stop};

/// So many workloads are written out.
const LISTED: usize = 6;

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
    /// Those that it may select: it asks for labels that the input does not say.
    may_select: Vec<String>,
    /// Those that its selector fits and that are in their nodes' networks, so that it selects none.
    hosts: Vec<String>,
    isolates: Vec<Direction>,
    /// Where there is no room for its rules, so that it admits nothing.
    without_rules: Option<WithoutRules>,
    rules: Vec<Rule>,
    /// Of a policy that selects nothing, the workload that it looks as if it meant, and why it does not.
    near: Vec<Near>,
    warnings: Vec<String>,
    /// What was not read and this policy may mean.
    unknowns: Vec<String>,
}

/// A workload that a policy looks as if it meant.
#[derive(Debug, Serialize)]
struct Near {
    workload: String,
    #[serde(flatten)]
    json: BesideJson,
    #[serde(skip)]
    beside: Beside,
}

/// Where there is no room for the rules of a policy.
#[derive(Debug, Serialize)]
struct WithoutRules {
    /// The nodes; none where it is every node.
    nodes: Vec<String>,
}

impl WithoutRules {
    fn of(cluster: &Cluster, id: PolicyId) -> Option<Self> {
        let nodes: Vec<String> = cluster.nodes_without_rules_of(id).map(str::to_owned).collect();
        let is_everywhere = || cluster.findings_of(id).any(|finding| finding.code == Code::PolicyTooLarge);
        (!nodes.is_empty() || is_everywhere()).then_some(Self { nodes })
    }
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
    /// Those that it may mean: the input does not say.
    may_select: Vec<String>,
    /// Why it means nothing now.
    unused: Option<String>,
    /// Whether all pods that it may mean were read.
    #[serde(skip)]
    is_certain: bool,
    /// What a port's name means at the pods of the input.
    #[serde(skip)]
    numbers: String,
}

/// The policy of this name, or why there is none.
pub(super) fn find(input: &Input, namespace: &str, name: &str) -> Result<PolicyId, Stop> {
    let policies = || input.cluster.policies().filter(|(_, policy)| policy.namespace == namespace);
    if let Some((id, _)) = policies().find(|(_, policy)| policy.name == name) {
        return Ok(id);
    }
    let unread = unread_words(input.loaded.unread.iter().filter(|of| of.may_hold("NetworkPolicy", namespace)));
    if !unread.is_empty() {
        let message = format!(
            "no networkpolicy {name:?} was read in namespace {namespace}, but it may be there: {}",
            unread.join("; ")
        );
        return Err(Stop::new(Exit::Unknown, message));
    }
    let names: Vec<&str> = policies().map(|(_, policy)| policy.name.as_str()).collect();
    if let Some(message) = no_namespace(input, namespace) {
        return Err(Stop::new(Exit::NotFound, message));
    }
    let known = match names.as_slice() {
        [] => "which has none".to_owned(),
        names => format!("which has {}", near::listed(names.iter().copied())),
    };
    let alike = input.cluster.policies().filter(|(_, policy)| {
        policy.name == name || (policy.namespace == namespace && near::is_alike(&policy.name, name))
    });
    let alike: BTreeSet<String> =
        alike.map(|(_, policy)| format!("{}/netpol/{}", policy.namespace, policy.name)).collect();
    let meant = match Vec::from_iter(alike).as_slice() {
        [] => String::new(),
        alike => format!("; did you mean: {}", shorten(alike, LISTED, ", ")),
    };
    let message = format!("there is no networkpolicy {name:?} in namespace {namespace}, {known}{meant}");
    Err(Stop::new(Exit::NotFound, message))
}

impl About {
    pub(super) fn new(context: &Context<'_>, groups: &Groups, id: PolicyId) -> Self {
        let cluster = &context.input.cluster;
        let policy = cluster.policy(id);
        let subject = policy.subject_peer();
        let [selected, possible] =
            [cluster.selected(&subject), cluster.possibly_selected(&subject)].map(|classes| pods_of(cluster, classes));
        let unread = unread(context.input, &subject);
        let is_open = !possible.is_empty() || !unread.is_empty();
        // A policy for every pod means those in their own networks.
        let hosts = cluster.host_pods_of(&subject).filter(|_| !policy.subject.is_empty());
        let hosts: Vec<PodId> = hosts.map(|(id, _)| id).collect();
        let isolates: Vec<Direction> = Direction::ALL.into_iter().filter(|of| policy.isolates(*of)).collect();
        let without_rules = WithoutRules::of(cluster, id);
        // Nothing is left of them if all pods that the policy selects are where there is no room.
        let are_left_out = without_rules.as_ref().is_some_and(|of| {
            let is_there = |pod: &PodId| cluster.pod(*pod).node.as_ref().is_some_and(|node| of.nodes.contains(node));
            of.nodes.is_empty() || selected.iter().chain(&possible).all(is_there)
        });
        let rule = |direction: Direction, rule: &PolicyRule| {
            let peers = peers(context.input, rule);
            let selected_or_possible = || selected.iter().chain(&possible).copied().collect();
            let ends: Vec<PodId> = match (direction, &rule.peers) {
                (Direction::Ingress, _) => selected_or_possible(),
                (Direction::Egress, Peers::Everyone) => cluster.endpoints().map(|(id, _)| id).collect(),
                (Direction::Egress, Peers::AnyOf(peers)) => {
                    peers.iter().flat_map(|peer| pods(cluster, peer).into_iter().flatten()).collect()
                }
            };
            let all_are_read = match direction {
                Direction::Ingress => unread.is_empty(),
                Direction::Egress => peers.iter().all(|peer| peer.is_certain),
            };
            let ports = ports(cluster, rule, &ends, all_are_read);
            let none = |parts: &[Part]| !parts.is_empty() && parts.iter().all(|part| part.unused.is_some());
            let unused =
                !policy.isolates(direction) || (selected.is_empty() && !is_open) || none(&peers) || none(&ports);
            let unused = unused || are_left_out;
            let location = location(context, id, &rule.path);
            Rule { direction, path: rule.path.clone(), location, peers, ports, unused }
        };
        let meant = || {
            let (pod, beside) = alone::meant(context.input, groups, id)?;
            let workload = workloads(cluster, &[pod]).pop()?;
            Some(Near { workload, json: beside_json(context, &beside), beside })
        };
        // A rule of a direction that policyTypes leaves out stands here too: it has no effect.
        let rules =
            Direction::ALL.iter().flat_map(|direction| policy.rules(*direction).iter().map(|of| rule(*direction, of)));
        Self {
            api_version: API_VERSION,
            kind: "PolicyExplanation",
            policy: policy_name(cluster, id),
            selector: policy.subject.to_string(),
            selects: workloads(cluster, &selected),
            may_select: workloads(cluster, &possible),
            near: if selected.is_empty() && !is_open { meant().into_iter().collect() } else { Vec::new() },
            hosts: workloads(cluster, &hosts),
            rules: rules.collect(),
            isolates,
            without_rules,
            warnings: context.input.with_passed_over(context.input.warnings.clone()),
            unknowns: unread,
        }
    }

    pub(super) fn text(&self, context: &Context<'_>, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "networkpolicy {}\n", self.policy)?;
        let namespace = self.policy.split('/').next().unwrap_or_default();
        let selector =
            if self.selector.is_empty() { "every pod".to_owned() } else { format!("pods with {}", self.selector) };
        let whole = if context.input.source == Source::Cluster { "cluster" } else { "input" };
        let may_select = || shorten(&self.may_select, LISTED, ", ");
        let selects = match (self.selects.as_slice(), self.may_select.as_slice()) {
            ([], []) if !self.hosts.is_empty() => format!(
                "none, because {} in the network of nodes, and no policy applies to such pods",
                match self.hosts.as_slice() {
                    [one] => format!("{one} is"),
                    all => format!("{} are", shorten(all, LISTED, ", ")),
                }
            ),
            ([], []) if self.unknowns.is_empty() => format!("none in the {whole}, so it has no effect now"),
            ([], []) => "none that was read".to_owned(),
            ([], _) => format!("perhaps {} (labels that the input does not say)", may_select()),
            (some, []) => shorten(some, LISTED, ", "),
            (some, _) => format!(
                "{}; perhaps {} (labels that the input does not say)",
                shorten(some, LISTED, ", "),
                may_select()
            ),
        };
        writeln!(out, "  selects   {selector} of namespace {namespace}: {selects}")?;
        let isolates: Vec<String> = self.isolates.iter().map(|of| of.as_str().to_lowercase()).collect();
        writeln!(
            out,
            "  isolates  {}",
            if isolates.is_empty() { "in no direction".to_owned() } else { isolates.join(", ") }
        )?;
        if let Some(WithoutRules { nodes }) = &self.without_rules {
            let on = if nodes.is_empty() { String::new() } else { format!(" on {}", shorten(nodes, LISTED, ", ")) };
            writeln!(out, "  admits    nothing{on}: there is no room for its rules (npc reason policy-too-large)")?;
        }
        for direction in &Direction::ALL {
            let isolates = self.isolates.contains(direction);
            let rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.direction == *direction).collect();
            let name = direction.as_str().to_lowercase();
            if rules.is_empty() && isolates {
                writeln!(out, "\n  {name}  nothing is admitted")?;
            }
            for rule in rules {
                let unused = match (rule.unused, isolates) {
                    (_, false) => format!("  (has no effect: policyTypes lacks {})", direction.as_str()),
                    (true, true) => "  (admits nothing now)".to_owned(),
                    (false, true) => String::new(),
                };
                writeln!(out, "\n  {}{unused}", rule.path)?;
                let way = direction.peers_field();
                if rule.peers.is_empty() {
                    writeln!(out, "    {way}  everyone")?;
                }
                for peer in &rule.peers {
                    let may_select = || shorten(&peer.may_select, LISTED, ", ");
                    let means = match (&peer.unused, peer.selects.as_slice(), peer.may_select.as_slice()) {
                        (Some(why), ..) => format!(": unused, {why}"),
                        (None, [], []) if !peer.is_certain => ": none that was read".to_owned(),
                        (None, [], []) => String::new(),
                        (None, some, []) => format!(": {}", shorten(some, LISTED, ", ")),
                        (None, [], _) => format!(": perhaps {}", may_select()),
                        (None, some, _) => format!(": {}; perhaps {}", shorten(some, LISTED, ", "), may_select()),
                    };
                    writeln!(out, "    {way}  {}{means}", peer.text)?;
                }
                if rule.ports.is_empty() {
                    writeln!(out, "    on  every port and protocol")?;
                }
                for port in &rule.ports {
                    let unused = port.unused.as_ref().map(|why| format!(": unused, {why}")).unwrap_or_default();
                    writeln!(out, "    on  {}{}{unused}", port.text, port.numbers)?;
                }
            }
        }
        if !self.unknowns.is_empty() {
            writeln!(out, "\nunknown: pods that this policy may mean and that were not read")?;
            self.unknowns.iter().try_for_each(|text| writeln!(out, "   = note: {text}"))?;
        }
        for Near { workload, beside, .. } in &self.near {
            writeln!(out, "\nit may mean {workload}")?;
            beside::near(context, beside, &[], out)?;
        }
        // Standard error has what was passed over already.
        context.input.warnings.iter().try_for_each(|text| writeln!(out, "\nwarning: {text}"))?;
        out.flush()
    }
}

/// The peers of a rule; none for everyone.
fn peers(input: &Input, rule: &PolicyRule) -> Vec<Part> {
    let cluster = &input.cluster;
    let Peers::AnyOf(peers) = &rule.peers else { return Vec::new() };
    if peers.is_empty() {
        return vec![Part {
            text: "a rule that is not understood".to_owned(),
            selects: Vec::new(),
            may_select: Vec::new(),
            unused: Some("it admits nothing".to_owned()),
            is_certain: true,
            numbers: String::new(),
        }];
    }
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
        let [selects, may_select] = pods(cluster, peer).map(|pods| workloads(cluster, &pods));
        let is_certain = !matches!(peer, Peer::Pods(peer) if !unread(input, peer).is_empty());
        let unused = match peer {
            Peer::Pods(peer) if selects.is_empty() && may_select.is_empty() && is_certain => Some(no_pod(input, peer)),
            Peer::Nothing => Some("it means no end".to_owned()),
            Peer::Pods(_) | Peer::Block(_) => None,
        };
        Part { text, selects, may_select, unused, is_certain, numbers: String::new() }
    };
    peers.iter().map(part).collect()
}

/// The ports of a rule, whose names these pods resolve; none for every port.
fn ports(cluster: &Cluster, rule: &PolicyRule, ends: &[PodId], all_are_read: bool) -> Vec<Part> {
    let Ports::AnyOf(ports) = &rule.ports else { return Vec::new() };
    let part = |port: &PortMatch| {
        let mut numbers = String::new();
        let (text, unused) = match port {
            PortMatch::Range(protocol, 0 | 1, u16::MAX) => (format!("every {} port", protocol.as_str()), None),
            PortMatch::Range(protocol, first, last) if first == last => {
                (format!("{} {first}", protocol.as_str()), None)
            }
            PortMatch::Range(protocol, first, last) => (format!("{} {first}-{last}", protocol.as_str()), None),
            PortMatch::Named(protocol, name) => {
                let has = |id: &PodId| cluster.pod(*id).ports.iter().any(|of| of.is_named(*protocol, name));
                let unused = (!ends.iter().any(has) && all_are_read)
                    .then(|| "no pod that is meant has a port of this name".to_owned());
                numbers = numbers_of(cluster, ends, *protocol, name);
                // In quotes a number is a name.
                let name = if name.parse::<u16>().is_ok() { format!("port named {name:?}") } else { name.clone() };
                (format!("{} {name}", protocol.as_str()), unused)
            }
            PortMatch::Nothing => ("a port that is not understood".to_owned(), Some("it means no port".to_owned())),
        };
        Part { text, selects: Vec::new(), may_select: Vec::new(), unused, is_certain: true, numbers }
    };
    ports.iter().map(part).collect()
}

/// What a port's name means at these pods: ` (8080)`, or nothing if no pod has it.
fn numbers_of(cluster: &Cluster, ends: &[PodId], protocol: Protocol, name: &str) -> String {
    let ports = ends.iter().flat_map(|id| &cluster.pod(*id).ports);
    let numbers: BTreeSet<u16> = ports.filter(|port| port.is_named(protocol, name)).map(|port| port.port).collect();
    let numbers: Vec<String> = numbers.iter().map(u16::to_string).collect();
    if numbers.is_empty() { String::new() } else { format!(" ({})", shorten(&numbers, LISTED, ", ")) }
}

/// The pods that a peer means, and those that it may mean.
fn pods(cluster: &Cluster, peer: &Peer) -> [Vec<PodId>; 2] {
    let Peer::Pods(peer) = peer else { return [Vec::new(), Vec::new()] };
    [cluster.selected(peer), cluster.possibly_selected(peer)].map(|classes| pods_of(cluster, classes))
}

fn pods_of(cluster: &Cluster, classes: Vec<ClassId>) -> Vec<PodId> {
    classes.into_iter().flat_map(|class| cluster.class(class).endpoints.clone()).collect()
}

/// What was not read and may hold pods that a peer means, in words.
fn unread(input: &Input, peer: &PodPeer) -> Vec<String> {
    if !input.cluster.may_select_unread(peer) {
        return Vec::new();
    }
    unread_words(input.loaded.unread.iter().filter(|unread| unread.may_be_pods()))
}

/// Why a peer means no pod.
fn no_pod(input: &Input, peer: &PodPeer) -> String {
    let cluster = &input.cluster;
    let whole = if input.source == Source::Cluster { "cluster" } else { "input" };
    if cluster.host_pods_of(peer).next().is_some() {
        return format!("the only such pods of the {whole} are in their nodes' networks, and no selector means these");
    }
    format!("no pod of the {whole} is meant")
}

/// The workloads of pods, or the pods that have none, as `NS/TYPE/NAME`.
pub(super) fn workloads(cluster: &Cluster, pods: &[PodId]) -> Vec<String> {
    let name = |id: &PodId| {
        let pod = cluster.pod(*id);
        let (kind, name) = pod.identity();
        format!("{}/{}/{name}", pod.namespace, short_kind(kind))
    };
    pods.iter().map(name).collect::<BTreeSet<_>>().into_iter().collect()
}
