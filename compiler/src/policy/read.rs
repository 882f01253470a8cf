//! Reads a policy: its subject, its directions, its rules and their peers. A part that is not
//! understood becomes a [`Finding`], and its effect fails safe.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::finding::{Effect, Finding, FindingCode, is_below};
use super::{Direction, HalfRead, Namespaces, Peer, Peers, PodPeer, Policy, PolicyRule, Ports, spelling};
use crate::algebra::cidr::Cidr;
use crate::algebra::meant_block::meant_blocks;
use crate::algebra::selector::Selector;
use crate::algebra::short_text::shorten;
use crate::algebra::syntax;
use crate::object::{NetworkPolicy, OWN_NAMESPACES};

/// How many findings of one policy are reported each for itself. A policy can hold
/// hundreds of thousands, and each is a line of the log and an Event.
const MOST_FINDINGS: usize = 100;

/// How many bytes of a text say what is wrong. It quotes the policy, in which one word may be as
/// long as an object.
const LONGEST_PROBLEM: usize = 2_000;

/// Reads one policy and collects what is wrong with it.
pub(super) struct Reader<'a> {
    namespace: &'a str,
    name: &'a str,
    /// The unknown fields, sorted.
    unknown: Vec<&'a str>,
    findings: Vec<Finding>,
    /// As in [`Policy`].
    pub(super) half_read: HalfRead,
    /// How many findings there are beyond [`MOST_FINDINGS`].
    more: usize,
}

/// Reads a policy, and says what of it was not understood.
pub(super) fn read(policy: &NetworkPolicy) -> (Policy, Vec<Finding>) {
    let mut unknown: Vec<&str> = policy.unknown_fields.iter().map(String::as_str).collect();
    unknown.sort_unstable();
    let (namespace, name) = (policy.namespace(), policy.name());
    let mut reader = Reader { namespace, name, unknown, findings: Vec::new(), half_read: HalfRead::default(), more: 0 };
    if let Some(why) = &policy.restriction {
        reader.report("spec", FindingCode::PolicyTooLarge, why, Effect::RulesLeftOut);
    }
    let prefix = policy.object.metadata.generate_name.as_deref();
    let read = reader.policy(policy.object.spec.as_ref(), prefix.filter(|prefix| name.starts_with(prefix)));
    (read, reader.findings())
}

/// Reads which pods a policy isolates, and in which directions: the policy without its rules.
pub(super) fn read_without_rules(policy: &NetworkPolicy) -> Policy {
    let (namespace, name) = (policy.namespace(), policy.name());
    let mut reader =
        Reader { namespace, name, unknown: Vec::new(), findings: Vec::new(), half_read: HalfRead::default(), more: 0 };
    let empty = api::NetworkPolicySpec::default();
    let spec = policy.object.spec.as_ref().unwrap_or(&empty);
    let (subject, _) = reader.subject(spec.pod_selector.as_ref());
    Policy {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subject,
        isolates: reader.isolates(spec),
        rules: [Vec::new(), Vec::new()],
        has_empty_list: [false, false],
        half_read: HalfRead::default(),
    }
}

impl Reader<'_> {
    /// What was found, and how much more there is.
    fn findings(mut self) -> Vec<Finding> {
        if let (Some(last), 1..) = (self.findings.last(), self.more) {
            let problem = match self.more {
                1 => "1 more part of this policy was not understood".to_owned(),
                more => format!("{more} more parts of this policy were not understood"),
            };
            let path = "spec".to_owned();
            self.findings.push(Finding { path, code: FindingCode::TooManyFindings, problem, ..last.clone() });
        }
        self.findings
    }

    pub(super) fn report(
        &mut self,
        path: impl Into<String>,
        code: FindingCode,
        problem: impl Into<String>,
        effect: Effect,
    ) {
        self.report_address(path, code, problem, effect, None);
    }

    /// Reports a prefix that was not understood, and the address that is written in its place.
    pub(super) fn report_address(
        &mut self,
        path: impl Into<String>,
        code: FindingCode,
        problem: impl Into<String>,
        effect: Effect,
        address: Option<IpAddr>,
    ) {
        if self.findings.len() >= MOST_FINDINGS {
            self.more += 1;
            return;
        }
        let mut problem = problem.into();
        shorten(&mut problem, LONGEST_PROBLEM);
        self.findings.push(Finding {
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            path: path.into(),
            code,
            problem,
            effect,
            address,
        });
    }

    /// Reports the unknown fields at or below a path. Returns whether there are any.
    pub(super) fn unknown_below(&mut self, path: &str, effect: Effect) -> bool {
        self.unknown_fields(path, |_| true, effect)
    }

    /// Reports the unknown fields below a rule's path that are in none of its
    /// items, which are read for themselves. (A misspelt name may have the form of
    /// an item, so only items that are there count.)
    fn unknown_in_rule(&mut self, path: &str, lists: [(&str, usize); 2]) -> bool {
        let in_item = |field: &str| {
            let rest = field.strip_prefix(path).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
            lists.iter().any(|(list, items)| {
                let index = rest.strip_prefix(list).and_then(|rest| rest.strip_prefix('[')?.split_once(']'));
                index.is_some_and(|(index, _)| index.parse::<usize>().is_ok_and(|index| index < *items))
            })
        };
        self.unknown_fields(path, |field| !in_item(field), Effect::MatchesNothing)
    }

    /// Reports those unknown fields at or below a path, or without one all, that are
    /// wanted. It reads no others: an object may have as many unknown fields as places that
    /// may hold one.
    fn unknown_fields(&mut self, path: &str, wanted: impl Fn(&str) -> bool, effect: Effect) -> bool {
        let first = self.unknown.partition_point(|field| *field < path);
        let below = self.unknown[first..].iter().copied().take_while(|field| field.starts_with(path));
        let fields: Vec<&str> =
            below.filter(|field| (path.is_empty() || is_below(field, path)) && wanted(field)).collect();
        for field in &fields {
            let problem = match (spelling::meant(field), misplaced(field)) {
                (Some(meant), _) => format!("the API has no such field (did you mean {meant}?)"),
                _ if is_ports_of_peer(field) => {
                    "the API has no such field; ports stands beside from or to, one level up".to_owned()
                }
                _ if is_peers_of_other_direction(field) => {
                    let (here, instead) =
                        if field.starts_with("spec.egress") { ("egress", "to") } else { ("ingress", "from") };
                    format!("the API has no such field; a rule for {here} has \"{instead}\" in its place")
                }
                (None, Some(misplaced)) => format!("the API has no such field; {misplaced}"),
                _ if is_namespace_of_peer(field) => {
                    "the API has no such field; a namespaceSelector with the label kubernetes.io/metadata.name means a \
                     namespace by its name"
                        .to_owned()
                }
                _ if is_in_selector(field) => "the API has no such field; labels stand below matchLabels".to_owned(),
                (None, None) => "the API has no such field".to_owned(),
            };
            self.report(*field, FindingCode::FieldUnknown, problem, effect);
        }
        !fields.is_empty()
    }

    /// The policy; of one that has its name from `metadata.generateName`, how that name begins.
    fn policy(&mut self, spec: Option<&api::NetworkPolicySpec>, prefix: Option<&str>) -> Policy {
        let (empty, lacks_spec) = (api::NetworkPolicySpec::default(), spec.is_none());
        let spec = spec.unwrap_or(&empty);
        let is_of_spec = |field: &str| is_below(field, "spec");
        let is_elsewhere =
            |field: &str| !["spec.podSelector", "spec.ingress", "spec.egress"].iter().any(|part| is_below(field, part));
        // Under another name a spec is left out as a whole.
        let is_spec = |field: &str| lacks_spec && spelling::meant(field) == Some("spec");
        let is_misplaced = |field: &str| misplaced(field).is_some() || is_spec(field);
        self.unknown_fields("", |field| !is_of_spec(field) && !is_misplaced(field), Effect::Ignored);
        self.unknown_fields("", |field| !is_of_spec(field) && is_misplaced(field), Effect::FieldDropped);
        self.unknown_fields("spec", is_elsewhere, Effect::FieldDropped);
        let wrong_name = match prefix.filter(|prefix| !prefix.is_empty()) {
            Some(prefix) => syntax::wrong_name_prefix(prefix).map(|problem| ("metadata.generateName", problem)),
            None => syntax::wrong_name(self.name).map(|problem| ("metadata.name", problem)),
        };
        if let Some((field, problem)) = wrong_name.filter(|_| !self.name.is_empty()) {
            self.report(field, FindingCode::NameInvalid, problem, Effect::Works);
        }
        let is_of_cluster = !self.namespace.is_empty() && !self.namespace.starts_with(OWN_NAMESPACES);
        if let Some(problem) = syntax::wrong_namespace(self.namespace).filter(|_| is_of_cluster) {
            self.report("metadata.namespace", FindingCode::NameInvalid, problem, Effect::Works);
        }
        let (subject, allows) = self.subject(spec.pod_selector.as_ref());
        let isolates = self.isolates(spec);
        let ingress = spec.ingress.iter().flatten().map(|rule| (rule.from.as_deref(), rule.ports.as_deref()));
        let egress = spec.egress.iter().flatten().map(|rule| (rule.to.as_deref(), rule.ports.as_deref()));
        let mut rules = [self.rules(Direction::Ingress, ingress), self.rules(Direction::Egress, egress)];
        if !allows {
            // They were read for what is wrong with them.
            rules = [Vec::new(), Vec::new()];
        }
        let is_empty =
            [spec.ingress.as_ref().is_some_and(Vec::is_empty), spec.egress.as_ref().is_some_and(Vec::is_empty)];
        let (namespace, name) = (self.namespace.to_owned(), self.name.to_owned());
        let half_read = std::mem::take(&mut self.half_read);
        Policy { namespace, name, subject, isolates, rules, has_empty_list: is_empty, half_read }
    }

    /// The subject, and whether it was understood in full. What is left of it
    /// otherwise selects too many pods: they are isolated, but none of them is
    /// given what only some were meant to have.
    fn subject(&mut self, selector: Option<&LabelSelector>) -> (Selector, bool) {
        let path = "spec.podSelector";
        let mut understood = !self.unknown_below(path, Effect::AllowsNothing);
        let (subject, bad) = selector.map(Selector::read).unwrap_or_default();
        for requirement in bad {
            understood = false;
            self.report(
                format!("{path}.{}", requirement.path),
                FindingCode::SelectorInvalid,
                requirement.problem,
                Effect::AllowsNothing,
            );
        }
        (subject, understood)
    }

    fn isolates(&mut self, spec: &api::NetworkPolicySpec) -> [bool; 2] {
        let types = spec.policy_types.as_deref().unwrap_or_default();
        if types.is_empty() {
            // As the API server defaults it.
            let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
            return [true, has_egress];
        }
        if types.len() > Direction::ALL.len() {
            self.report(
                "spec.policyTypes",
                FindingCode::PolicyTypesInvalid,
                "there are more than two policyTypes",
                Effect::Works,
            );
        }
        let mut isolates = [false, false];
        for (i, text) in types.iter().enumerate() {
            match Direction::ALL.into_iter().find(|direction| direction.as_str() == text) {
                Some(direction) => isolates[direction as usize] = true,
                None => {
                    isolates = [true, true];
                    let problem = format!("\"{text}\" is neither Ingress nor Egress");
                    self.report(
                        format!("spec.policyTypes[{i}]"),
                        FindingCode::PolicyTypesInvalid,
                        problem,
                        Effect::IsolatesBoth,
                    );
                }
            }
        }
        isolates
    }

    fn rules<'p>(
        &mut self,
        direction: Direction,
        written: impl Iterator<Item = (Option<&'p [api::NetworkPolicyPeer]>, Option<&'p [api::NetworkPolicyPort]>)>,
    ) -> Vec<PolicyRule> {
        let read = |(index, (peers, ports)): (usize, (Option<&[_]>, Option<&[_]>))| {
            self.rule(direction, index, peers.unwrap_or_default(), ports.unwrap_or_default())
        };
        written.enumerate().map(read).collect()
    }

    fn rule(
        &mut self,
        direction: Direction,
        index: usize,
        peers: &[api::NetworkPolicyPeer],
        ports: &[api::NetworkPolicyPort],
    ) -> PolicyRule {
        let (section, field) = direction.fields();
        let path = format!("spec.{section}[{index}]");
        let unknown = self.unknown_in_rule(&path, [(field, peers.len()), ("ports", ports.len())]);
        // What is in no field that is known is read too, for what is wrong with it.
        let read = |(i, peer)| self.peer(&format!("{path}.{field}[{i}]"), peer);
        let read: Vec<Peer> = peers.iter().enumerate().map(read).collect();
        let peers = match read {
            _ if unknown => Peers::AnyOf(Vec::new()),
            read if read.is_empty() => Peers::Everyone,
            read => Peers::AnyOf(read),
        };
        let ports = match ports {
            [] => Ports::Everything,
            ports => {
                let read = |(i, port)| self.port(&format!("{path}.ports[{i}]"), port);
                Ports::AnyOf(ports.iter().enumerate().map(read).collect())
            }
        };
        PolicyRule { path, peers, ports }
    }

    /// Reads a peer. All that is wrong with it is reported, because people mend what they are told.
    fn peer(&mut self, path: &str, peer: &api::NetworkPolicyPeer) -> Peer {
        let has_unknown = self.unknown_below(path, Effect::MatchesNothing);
        let block = peer.ip_block.as_ref().map(|block| self.ip_block(&format!("{path}.ipBlock"), block));
        let mut read = |field: &str, selector: &LabelSelector| {
            let (selector, bad) = Selector::read(selector);
            let understood = bad.is_empty();
            for requirement in bad {
                let path = format!("{path}.{field}.{}", requirement.path);
                self.report(path, FindingCode::SelectorInvalid, requirement.problem, Effect::MatchesNothing);
            }
            (selector, understood)
        };
        let namespaces = peer.namespace_selector.as_ref().map(|selector| read("namespaceSelector", selector));
        let pods = peer.pod_selector.as_ref().map(|selector| read("podSelector", selector));
        let understood = match (block, namespaces, pods) {
            (Some(block), None, None) => {
                if block.is_none()
                    && let Some(written) = &peer.ip_block
                {
                    match Cidr::parse(&written.cidr) {
                        Ok(cidr) => self.half_read.blocks.push((path.to_owned(), cidr)),
                        Err(_) => self.half_read.meant_blocks.push((path.to_owned(), meant_blocks(&written.cidr))),
                    }
                }
                block.map(Peer::Block)
            }
            (Some(_), ..) => {
                let problem = "ipBlock cannot be combined with podSelector or namespaceSelector";
                self.report(path, FindingCode::PeerCombined, problem, Effect::MatchesNothing);
                let meant = self.meant_peer(peer).map(|meant| (path.to_owned(), meant));
                self.half_read.meant_peers.extend(meant);
                None
            }
            (None, None, None) => {
                let problem = "the peer is empty: a selector with nothing behind it is null; podSelector: {} means every pod of \
                               the namespace, namespaceSelector: {} every pod of every namespace";
                // What it was to have may stand in the field that is not known.
                if !has_unknown {
                    self.report(path, FindingCode::PeerEmpty, problem, Effect::MatchesNothing);
                }
                None
            }
            (None, namespaces, pods) => {
                let own = || (Namespaces::Own(self.namespace.to_owned()), true);
                let (namespaces, of_namespaces) =
                    namespaces.map_or_else(own, |(of, is)| (Namespaces::Selected(of), is));
                let (pods, of_pods) = pods.unwrap_or_else(|| (Selector::default(), true));
                let read = PodPeer { namespaces, pods };
                if of_namespaces && of_pods {
                    Some(Peer::Pods(read))
                } else {
                    let meant = self.meant_peer(peer).map(|meant| (path.to_owned(), meant));
                    self.half_read.meant_peers.extend(meant);
                    self.half_read.peers.push((path.to_owned(), read));
                    None
                }
            }
        };
        understood.filter(|_| !has_unknown).unwrap_or(Peer::Nothing)
    }

    /// A peer of selectors as its author most likely means it.
    fn meant_peer(&self, peer: &api::NetworkPolicyPeer) -> Option<PodPeer> {
        let namespaces = match &peer.namespace_selector {
            Some(selector) => Namespaces::Selected(Selector::meant(selector)?),
            None => Namespaces::Own(self.namespace.to_owned()),
        };
        let pods = peer.pod_selector.as_ref().map_or_else(|| Some(Selector::default()), Selector::meant)?;
        Some(PodPeer { namespaces, pods })
    }
}

/// Whether a field is the `from` of a rule for egress, or the `to` of one for ingress.
fn is_peers_of_other_direction(field: &str) -> bool {
    let is_of = |section: &str, peers: &str| {
        let rest = field.strip_prefix(section).and_then(|rest| rest.strip_suffix(peers));
        rest.is_some_and(|index| index.chars().all(|c| c.is_ascii_digit()))
    };
    is_of("spec.egress[", "].from") || is_of("spec.ingress[", "].to")
}

/// Whether a field is a list of ports in an item of `from` or `to`.
fn is_ports_of_peer(field: &str) -> bool {
    let item = field.strip_suffix(".ports").and_then(|item| item.strip_suffix(']'));
    let list = item.and_then(|item| item.rsplit_once('[')).map(|(list, _)| list);
    let field = list.and_then(|list| list.rsplit_once('.')).map(|(_, field)| field);
    matches!(field, Some("from" | "to"))
}

/// Where a part of a policy belongs that stands one level too deep or too high.
fn misplaced(field: &str) -> Option<&'static str> {
    let is_of_spec = |key: &str| matches!(key, "podSelector" | "policyTypes" | "ingress" | "egress");
    match field.strip_prefix("metadata.") {
        Some("spec") => Some("spec stands beside metadata, one level up"),
        Some(key) if is_of_spec(key) => Some("it is a field of spec, which stands beside metadata"),
        None if is_of_spec(field) => Some("it is a field of spec, one level down"),
        Some(_) | None => None,
    }
}

/// Whether a field names a namespace in an item of `from` or `to`.
fn is_namespace_of_peer(field: &str) -> bool {
    let peer = field.strip_suffix(".namespace").and_then(|peer| peer.rsplit('.').next());
    peer.is_some_and(|peer| peer.starts_with("from[") || peer.starts_with("to["))
}

/// Whether a field stands directly in a selector, where people write a label.
fn is_in_selector(field: &str) -> bool {
    ["podSelector.", "namespaceSelector."].iter().any(|selector| {
        let label = field.rsplit_once(selector).map(|(_, label)| label);
        label.is_some_and(|label| !label.starts_with("matchLabels") && !label.starts_with("matchExpressions"))
    })
}
