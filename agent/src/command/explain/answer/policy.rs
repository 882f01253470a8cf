//! One policy alone: what it selects, what it admits, and what of it has no effect now.

use std::collections::BTreeSet;
use std::io::{self, Write};

use npc_agent::finding::{Finding, Place};
use npc_agent::words::near;
use npc_compiler::API_VERSION;
use npc_compiler::cluster::group::Groups;
use npc_compiler::cluster::selection::WhyNone;
use npc_compiler::cluster::{Cluster, PodId, PolicyId};
use npc_compiler::policy::{Direction, Peer, Peers, Policy, PortMatch, Ports};
use npc_compiler::verdict::explain::{
    MisleadingPolicy, PeerExplanation, PeerWithoutEffect, PolicyExplanation, PortExplanation, PortWithoutEffect,
    RuleExplanation, explain_policy,
};
use serde::Serialize;

use super::json::{MisleadingJson, location, misleading as misleading_json};
use crate::command::dead_block::DEAD;
use crate::command::endpoint::{no_namespace, short_kind};
use crate::command::explain::Context;
use crate::command::explain::reasons::misleading;
use crate::command::input::{Input, Source, unread_words};
use crate::command::rule_text::{self, Style};
use crate::command::warning;
use crate::command::words::{policy_name, shorten};
use crate::command::{Exit, Stop};

/// At most this many workloads are written out.
const LISTED: usize = 6;

/// What there is to say of a policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::command::explain) struct About {
    api_version: &'static str,
    kind: &'static str,
    #[serde(skip)]
    namespace: String,
    /// `NAMESPACE/NAME`.
    policy: String,
    /// Whether it was read: else all that is said of it is why not.
    read: bool,
    /// The podSelector, as kubectl writes selectors.
    selector: String,
    /// The workloads that it selects.
    selects: Vec<String>,
    /// Those that it may select: it asks for labels that the input does not say.
    may_select: Vec<String>,
    /// Those whose pods its selector fits and that are hostNetwork pods, so that it selects none.
    hosts: Vec<String>,
    isolates: Vec<Direction>,
    /// Where there is no room for its rules, so that it admits nothing.
    without_rules: Option<WithoutRules>,
    rules: Vec<Rule>,
    /// For a policy that selects nothing: the workload that it looks as if it meant, and why it does not.
    near: Vec<Near>,
    /// Pods that were not read may be among those that it selects.
    #[serde(skip)]
    may_select_unread: bool,
    warnings: Vec<String>,
    /// What was not read and this policy may mean.
    unknowns: Vec<String>,
    /// What is wrong with the objects, and what the answer does not take into account.
    findings: Vec<Finding>,
}

/// A workload that a policy looks as if it meant.
#[derive(Debug, Serialize)]
struct Near {
    workload: String,
    #[serde(flatten)]
    json: MisleadingJson,
    #[serde(skip)]
    policy: MisleadingPolicy,
}

/// Where there is no room for the rules of a policy.
#[derive(Debug, Serialize)]
struct WithoutRules {
    /// The nodes; none where it is every node.
    nodes: Vec<String>,
}

/// A rule of the policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    direction: Direction,
    path: String,
    location: Option<Place>,
    peers: Vec<PeerOrPort>,
    ports: Vec<PeerOrPort>,
    /// Whether it admits nothing now.
    unused: bool,
}

/// A peer or a port of a rule.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PeerOrPort {
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

/// The policy that is written so, with a namespace or without one; `NAME.NAMESPACE` where none has the name.
pub(in crate::command::explain) fn find_as_written(
    input: &Input,
    namespace: Option<&str>,
    name: &str,
) -> Result<PolicyId, Stop> {
    let found = find(input, namespace.unwrap_or(&input.namespace), name);
    let (Err(stop), None, Some((short, of))) = (&found, namespace, name.split_once('.')) else { return found };
    if stop.exit != Exit::NotFound || of.contains('.') {
        return found;
    }
    match find(input, of, short) {
        Err(stop) if stop.exit == Exit::NotFound => found,
        other => other,
    }
}

/// The policy of this name, or why there is none.
pub(in crate::command::explain) fn find(input: &Input, namespace: &str, name: &str) -> Result<PolicyId, Stop> {
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
    pub(in crate::command::explain) fn new(context: &Context<'_>, groups: &Groups, id: PolicyId) -> Self {
        let cluster = &context.input.cluster;
        let policy = cluster.policy(id);
        let PolicyExplanation { selects, may_select, may_select_unread, hosts, isolates, without_rules, rules, meant } =
            explain_policy(cluster, groups, id);
        let rule = |of: RuleExplanation| Rule {
            direction: of.direction,
            path: of.rule.path.clone(),
            location: location(context, id, &of.rule.path),
            peers: peers(context.input, &of),
            ports: ports(&of),
            unused: of.is_without_effect,
        };
        let near = |(pod, misleading): (PodId, MisleadingPolicy)| {
            let workload = workloads(cluster, &[pod]).pop()?;
            Some(Near { workload, json: misleading_json(context, &misleading), policy: misleading })
        };
        let warnings = context.input.with_left_out(context.input.warnings.clone());
        Self {
            api_version: API_VERSION,
            kind: "PolicyExplanation",
            namespace: policy.namespace.clone(),
            policy: policy_name(cluster, id),
            read: true,
            selector: policy.subject.to_string(),
            selects: workloads(cluster, &selects),
            may_select: workloads(cluster, &may_select),
            near: meant.and_then(near).into_iter().collect(),
            hosts: workloads(cluster, &hosts),
            rules: rules.into_iter().map(rule).collect(),
            isolates,
            may_select_unread,
            without_rules: without_rules.map(|nodes| WithoutRules { nodes }),
            findings: context.input.findings_with(&warnings),
            warnings: warning::texts(&warnings),
            unknowns: unread(context.input, policy),
        }
    }

    /// What there is to say of a policy that may be there and was not read.
    pub(in crate::command::explain) fn unread(input: &Input, policy: String, why: &str) -> Self {
        let warnings = input.with_left_out(input.warnings.clone());
        Self {
            api_version: API_VERSION,
            kind: "PolicyExplanation",
            namespace: String::new(),
            policy,
            read: false,
            selector: String::new(),
            selects: Vec::new(),
            may_select: Vec::new(),
            near: Vec::new(),
            hosts: Vec::new(),
            rules: Vec::new(),
            isolates: Vec::new(),
            may_select_unread: false,
            without_rules: None,
            findings: input.findings_with(&warnings),
            warnings: warning::texts(&warnings),
            unknowns: vec![why.to_owned()],
        }
    }

    pub(in crate::command::explain) fn text(&self, context: &Context<'_>, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "networkpolicy {}\n", self.policy)?;
        let namespace = &self.namespace;
        let selector =
            if self.selector.is_empty() { "every pod".to_owned() } else { format!("pods with {}", self.selector) };
        let whole = if context.input.source == Source::Cluster { "cluster" } else { "input" };
        let may_select = || shorten(&self.may_select, LISTED, ", ");
        let selects = match (self.selects.as_slice(), self.may_select.as_slice()) {
            ([], []) if !self.hosts.is_empty() => format!(
                "none, because {} hostNetwork, and no policy applies to such pods",
                match self.hosts.as_slice() {
                    [one] => format!("{one} has"),
                    all => format!("{} have", shorten(all, LISTED, ", ")),
                }
            ),
            ([], []) if !self.may_select_unread => format!("none in the {whole}, so it has no effect now"),
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
        for Near { workload, policy, .. } in &self.near {
            writeln!(out, "\nit may mean {workload}")?;
            misleading::near(context, policy, &[], out)?;
        }
        // Standard error has what was passed over already.
        context.input.warnings.iter().try_for_each(|warning| writeln!(out, "\n{warning}"))?;
        out.flush()
    }
}

/// The peers of a rule; none for everyone.
fn peers(input: &Input, of: &RuleExplanation) -> Vec<PeerOrPort> {
    let cluster = &input.cluster;
    let Peers::AnyOf(peers) = &of.rule.peers else { return Vec::new() };
    if peers.is_empty() {
        return vec![PeerOrPort {
            text: "a rule that is not understood".to_owned(),
            selects: Vec::new(),
            may_select: Vec::new(),
            unused: Some("it admits nothing".to_owned()),
            is_certain: true,
            numbers: String::new(),
        }];
    }
    let part = |(peer, of): (&Peer, &PeerExplanation)| PeerOrPort {
        text: rule_text::peer(peer, Style::Full),
        selects: workloads(cluster, &of.selects),
        may_select: workloads(cluster, &of.may_select),
        unused: of.without_effect.map(|why| match why {
            PeerWithoutEffect::SelectsNone(why) => no_pod(input, why),
            PeerWithoutEffect::ServiceAddress => DEAD.to_owned(),
            PeerWithoutEffect::NotUnderstood => "it means no end".to_owned(),
        }),
        is_certain: !of.may_select_unread,
        numbers: String::new(),
    };
    peers.iter().zip(&of.peers).map(part).collect()
}

/// The ports of a rule; none for every port.
fn ports(of: &RuleExplanation) -> Vec<PeerOrPort> {
    let Ports::AnyOf(ports) = &of.rule.ports else { return Vec::new() };
    let part = |(port, of): (&PortMatch, &PortExplanation)| {
        let numbers: Vec<String> = of.numbers.iter().map(u16::to_string).collect();
        PeerOrPort {
            text: rule_text::port(port, Style::Full).unwrap_or_else(|| "a port that is not understood".to_owned()),
            selects: Vec::new(),
            may_select: Vec::new(),
            unused: of.without_effect.map(|why| match why {
                PortWithoutEffect::NoPodHasName => "no pod that is meant has a port of this name".to_owned(),
                PortWithoutEffect::NotUnderstood => "it means no port".to_owned(),
            }),
            is_certain: true,
            numbers: if numbers.is_empty() { String::new() } else { format!(" ({})", shorten(&numbers, LISTED, ", ")) },
        }
    };
    ports.iter().zip(&of.ports).map(part).collect()
}

/// What was not read and may hold pods that a policy means, in words.
fn unread(input: &Input, policy: &Policy) -> Vec<String> {
    let subject = Peer::Pods(policy.subject_peer());
    let rules = Direction::ALL.into_iter().flat_map(|direction| policy.rules(direction));
    let peers = rules.flat_map(|rule| if let Peers::AnyOf(peers) = &rule.peers { peers.as_slice() } else { &[] });
    let may_select = |peer: &Peer| matches!(peer, Peer::Pods(peer) if input.cluster.may_select_unread(peer));
    if !std::iter::once(&subject).chain(peers).any(may_select) {
        return Vec::new();
    }
    unread_words(input.loaded.unread.iter().filter(|unread| unread.may_be_pods()))
}

/// Why a peer means no pod.
fn no_pod(input: &Input, why: WhyNone) -> String {
    let whole = if input.source == Source::Cluster { "cluster" } else { "input" };
    match why {
        WhyNone::OnlyHostNetworkPods => {
            format!("the only such pods of the {whole} are hostNetwork pods, and no selector means these")
        }
        WhyNone::NoPod => format!("no pod of the {whole} is meant"),
    }
}

/// The workloads of pods, or the pods that have none, as `NS/TYPE/NAME`.
pub(in crate::command::explain) fn workloads(cluster: &Cluster, pods: &[PodId]) -> Vec<String> {
    let name = |id: &PodId| {
        let pod = cluster.pod(*id);
        let (kind, name) = pod.shown_as();
        format!("{}/{}/{name}", pod.namespace, short_kind(kind))
    };
    pods.iter().map(name).collect::<BTreeSet<_>>().into_iter().collect()
}
