//! Policies as the compiler understands them: every selector, prefix and port
//! read once, and everything that was not understood turned into a
//! [`Finding`] and into whatever fails safe.

pub mod finding;
mod spelling;

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::algebra::cidr::{AddressSet, Cidr};
use crate::algebra::ranges::RangeSet;
use crate::algebra::selector::Selector;
use crate::algebra::traffic::Traffic;
use crate::object::{Family, NetworkPolicy, Protocol};
use crate::policy::finding::{Effect, Finding};

/// A direction of traffic, seen from the pod that a policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The other one.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// As policyTypes spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }

    /// The section of the spec, and the field with a rule's peers.
    const fn fields(self) -> (&'static str, &'static str) {
        match self {
            Self::Ingress => ("ingress", "from"),
            Self::Egress => ("egress", "to"),
        }
    }
}

/// A network policy, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pods of its namespace that it selects.
    pub subject: Selector,
    /// The directions it isolates, in the order of [`Direction::ALL`].
    isolates: [bool; 2],
    /// The rules, in the order of [`Direction::ALL`].
    rules: [Vec<PolicyRule>; 2],
}

/// One item of `ingress` or `egress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Its path: `spec.ingress[0]`.
    pub path: String,
    /// Who may be at the other end.
    pub peers: Peers,
    /// On which ports.
    pub ports: Ports,
}

/// The other ends of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// `from` or `to` is absent or empty: everyone.
    Everyone,
    /// Any of these; the index is that in the object.
    AnyOf(Vec<Peer>),
}

/// One item of `from` or `to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods by their labels and those of their namespaces.
    Pods(PodPeer),
    /// Addresses.
    Block(IpBlock),
    /// Not understood: nobody.
    Nobody,
}

/// Pods by their labels and those of their namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodPeer {
    /// The namespaces.
    pub namespaces: Namespaces,
    /// The pods in them.
    pub pods: Selector,
}

/// The namespaces of a [`PodPeer`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespaces {
    /// No namespaceSelector: the policy's own, this one.
    Own(String),
    /// The namespaces with such labels.
    Selected(Selector),
}

/// An ipBlock as it is written, for who explains it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock {
    /// `cidr`
    pub cidr: Cidr,
    /// `except`; the index is that in the object.
    pub except: Vec<Cidr>,
    /// What it means.
    pub block: Block,
}

/// What an ipBlock means: the addresses of `cidr` that are in no `except`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The family of `cidr`.
    pub family: Family,
    /// The addresses.
    pub addresses: AddressSet,
}

/// The ports of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// `ports` is absent or empty: every protocol, with or without ports.
    Everything,
    /// Any of these; the index is that in the object.
    AnyOf(Vec<PortMatch>),
}

/// One item of `ports`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// A protocol's ports from the first to the last, both included.
    Range(Protocol, u16, u16),
    /// The port with this name on the destination pod.
    Named(Protocol, String),
    /// Not understood: none.
    Nothing,
}

impl Policy {
    /// Reads a policy. It never fails: what is not understood is reported and
    /// matches nothing, and pods that the policy was to isolate are isolated.
    #[must_use]
    pub fn read(policy: &NetworkPolicy) -> (Self, Vec<Finding>) {
        let mut unknown: Vec<(&str, usize)> = policy.unknown_fields.iter().map(String::as_str).zip(0..).collect();
        unknown.sort_unstable();
        let mut reader =
            Reader { namespace: policy.namespace(), name: policy.name(), unknown, findings: Vec::new(), more: 0 };
        let read = reader.policy(policy.object.spec.as_ref());
        (read, reader.findings())
    }

    /// Whether it isolates its pods in this direction.
    #[must_use]
    pub fn isolates(&self, direction: Direction) -> bool {
        self.isolates[direction as usize]
    }

    /// Its rules of a direction; meaningless unless it isolates in it.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[PolicyRule] {
        &self.rules[direction as usize]
    }
}

impl PolicyRule {
    /// The named ports that it mentions.
    pub fn named_ports(&self) -> impl Iterator<Item = (Protocol, &str)> {
        let ports = match &self.ports {
            Ports::Everything => &[][..],
            Ports::AnyOf(ports) => ports,
        };
        ports.iter().filter_map(|port| match port {
            PortMatch::Named(protocol, name) => Some((*protocol, name.as_str())),
            PortMatch::Range(..) | PortMatch::Nothing => None,
        })
    }
}

/// How many findings of one policy are reported each for itself. A policy can hold
/// hundreds of thousands, and each is a line of the log and an Event.
const MOST_FINDINGS: usize = 100;

/// Reads one policy and collects what is wrong with it.
struct Reader<'a> {
    namespace: &'a str,
    name: &'a str,
    /// The paths of unknown fields, sorted, so that those below a path are found without
    /// a look at all others; and their places in the document.
    unknown: Vec<(&'a str, usize)>,
    findings: Vec<Finding>,
    /// How many findings there are beyond [`MOST_FINDINGS`].
    more: usize,
}

impl<'a> Reader<'a> {
    /// What was found, and how much more there is.
    fn findings(mut self) -> Vec<Finding> {
        if let (Some(last), 1..) = (self.findings.last(), self.more) {
            let problem = format!("{} more parts of this policy were not understood", self.more);
            let path = "spec".to_owned();
            self.findings.push(Finding { path, problem, ..last.clone() });
        }
        self.findings
    }

    fn report(&mut self, path: impl Into<String>, problem: impl Into<String>, effect: Effect) {
        if self.findings.len() >= MOST_FINDINGS {
            self.more += 1;
            return;
        }
        self.findings.push(Finding {
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            path: path.into(),
            problem: problem.into(),
            effect,
        });
    }

    /// Reports the unknown fields at or below a path; whether there are any.
    fn unknown_below(&mut self, path: &str, effect: Effect) -> bool {
        let fields = self.unknown_at(path, |_| true);
        self.report_unknown(&fields, effect)
    }

    /// Reports the unknown fields below a rule's path that are in none of its
    /// items, which are read for themselves. (A misspelt name may look like an
    /// item, so only items that are there count.)
    fn unknown_in_rule(&mut self, path: &str, lists: [(&str, usize); 2]) -> bool {
        let in_item = |field: &str| {
            let rest = field.strip_prefix(path).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
            lists.iter().any(|(list, items)| {
                let index = rest.strip_prefix(list).and_then(|rest| rest.strip_prefix('[')?.split_once(']'));
                index.is_some_and(|(index, _)| index.parse::<usize>().is_ok_and(|index| index < *items))
            })
        };
        let fields = self.unknown_at(path, |field| !in_item(field));
        self.report_unknown(&fields, Effect::MatchesNothing)
    }

    /// The unknown fields at or below a path that are wanted, in the order of the
    /// document.
    fn unknown_at(&self, path: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<&'a str> {
        let first = self.unknown.partition_point(|(field, _)| *field < path);
        let below = self.unknown[first..].iter().take_while(|(field, _)| field.starts_with(path));
        let mut below: Vec<(usize, &str)> = below
            .filter(|(field, _)| is_below(field, path) && is_wanted(field))
            .map(|(field, at)| (*at, *field))
            .collect();
        below.sort_unstable();
        below.into_iter().map(|(_, field)| field).collect()
    }

    fn report_unknown(&mut self, fields: &[&str], effect: Effect) -> bool {
        for field in fields {
            let problem = match spelling::meant(field) {
                Some(meant) => format!("the API has no such field (did you mean {meant}?)"),
                None => "the API has no such field".to_owned(),
            };
            self.report(*field, problem, effect);
        }
        !fields.is_empty()
    }

    fn policy(&mut self, spec: Option<&api::NetworkPolicySpec>) -> Policy {
        let empty = api::NetworkPolicySpec::default();
        let spec = spec.unwrap_or(&empty);
        let fields = self.unknown_at("", |field| {
            !["spec.podSelector", "spec.ingress", "spec.egress"].iter().any(|part| is_below(field, part))
        });
        self.report_unknown(&fields, Effect::Ignored);
        let (subject, allows) = self.subject(spec.pod_selector.as_ref());
        let isolates = self.isolates(spec);
        let mut rules = [Vec::new(), Vec::new()];
        let ingress = spec.ingress.iter().flatten();
        rules[Direction::Ingress as usize] = ingress
            .enumerate()
            .map(|(i, rule)| self.rule(Direction::Ingress, i, rule.from.as_deref(), rule.ports.as_deref()))
            .collect();
        let egress = spec.egress.iter().flatten();
        rules[Direction::Egress as usize] = egress
            .enumerate()
            .map(|(i, rule)| self.rule(Direction::Egress, i, rule.to.as_deref(), rule.ports.as_deref()))
            .collect();
        if !allows {
            // They were read for what is wrong with them.
            rules = [Vec::new(), Vec::new()];
        }
        Policy { namespace: self.namespace.to_owned(), name: self.name.to_owned(), subject, isolates, rules }
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
            self.report(format!("{path}.{}", requirement.path), requirement.problem, Effect::AllowsNothing);
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
        let mut isolates = [false, false];
        for (i, text) in types.iter().enumerate() {
            match Direction::ALL.into_iter().find(|direction| direction.as_str() == text) {
                Some(direction) => isolates[direction as usize] = true,
                None => {
                    isolates = [true, true];
                    let problem = format!("\"{text}\" is neither Ingress nor Egress");
                    self.report(format!("spec.policyTypes[{i}]"), problem, Effect::IsolatesBoth);
                }
            }
        }
        isolates
    }

    fn rule(
        &mut self,
        direction: Direction,
        index: usize,
        peers: Option<&[api::NetworkPolicyPeer]>,
        ports: Option<&[api::NetworkPolicyPort]>,
    ) -> PolicyRule {
        let (section, field) = direction.fields();
        let path = format!("spec.{section}[{index}]");
        let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
        let unknown = self.unknown_in_rule(&path, [(field, peers.len()), ("ports", ports.len())]);
        let peers = match peers {
            _ if unknown => Peers::AnyOf(Vec::new()),
            [] => Peers::Everyone,
            peers => {
                let read = |(i, peer)| self.peer(&format!("{path}.{field}[{i}]"), peer);
                Peers::AnyOf(peers.iter().enumerate().map(read).collect())
            }
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

    fn peer(&mut self, path: &str, peer: &api::NetworkPolicyPeer) -> Peer {
        if self.unknown_below(path, Effect::MatchesNothing) {
            return Peer::Nobody;
        }
        match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
            (Some(block), None, None) => {
                self.block(&format!("{path}.ipBlock"), block).map_or(Peer::Nobody, Peer::Block)
            }
            (Some(_), _, _) => {
                let problem = "ipBlock cannot be combined with podSelector or namespaceSelector";
                self.report(path, problem, Effect::MatchesNothing);
                Peer::Nobody
            }
            (None, None, None) => {
                self.report(path, "the peer is empty", Effect::MatchesNothing);
                Peer::Nobody
            }
            (None, namespaces, pods) => {
                let read = |this: &mut Self, field: &str, selector: &LabelSelector| {
                    let (selector, bad) = Selector::read(selector);
                    let understood = bad.is_empty();
                    for requirement in bad {
                        let path = format!("{path}.{field}.{}", requirement.path);
                        this.report(path, requirement.problem, Effect::MatchesNothing);
                    }
                    understood.then_some(selector)
                };
                let namespaces = match namespaces {
                    None => Some(Namespaces::Own(self.namespace.to_owned())),
                    Some(selector) => read(self, "namespaceSelector", selector).map(Namespaces::Selected),
                };
                let pods = match pods {
                    None => Some(Selector::default()),
                    Some(selector) => read(self, "podSelector", selector),
                };
                match (namespaces, pods) {
                    (Some(namespaces), Some(pods)) => Peer::Pods(PodPeer { namespaces, pods }),
                    _ => Peer::Nobody,
                }
            }
        }
    }

    fn block(&mut self, path: &str, block: &api::IPBlock) -> Option<IpBlock> {
        let cidr = self.cidr(format!("{path}.cidr"), &block.cidr);
        // An exception that is not understood must not let its addresses in,
        // so it takes the whole peer with it. All are read, to report all.
        let mut excepts = Vec::new();
        let mut understood = true;
        for (i, text) in block.except.iter().flatten().enumerate() {
            match self.cidr(format!("{path}.except[{i}]"), text) {
                Some(except) => excepts.push(except),
                None => understood = false,
            }
        }
        let cidr = cidr.filter(|_| understood)?;
        let cut = excepts.iter().filter(|except| except.family == cidr.family);
        let cut = RangeSet::from_ranges(cut.map(|except| (except.first, except.last)));
        let block = Block { family: cidr.family, addresses: cidr.addresses().difference(&cut) };
        Some(IpBlock { cidr, except: excepts, block })
    }

    fn cidr(&mut self, path: String, text: &str) -> Option<Cidr> {
        match Cidr::parse(text) {
            Ok(cidr) => {
                let canonical = cidr.network().to_string();
                if text != canonical && text.parse() != Ok(cidr.network()) {
                    self.report(path, format!("\"{text}\" means {canonical}; write that"), Effect::Works);
                }
                Some(cidr)
            }
            Err(problem) => {
                self.report(path, format!("\"{text}\" is no prefix: {problem}"), Effect::MatchesNothing);
                None
            }
        }
    }

    fn port(&mut self, path: &str, port: &api::NetworkPolicyPort) -> PortMatch {
        if self.unknown_below(path, Effect::MatchesNothing) {
            return PortMatch::Nothing;
        }
        match read_port(port) {
            Ok(port) => port,
            Err((field, problem)) => {
                self.report(format!("{path}.{field}"), problem, Effect::MatchesNothing);
                PortMatch::Nothing
            }
        }
    }
}

/// Whether a field's path is this path, or leads on from it.
fn is_below(field: &str, path: &str) -> bool {
    path.is_empty() || field.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Reads an item of `ports`, or says which field is wrong and why.
fn read_port(port: &api::NetworkPolicyPort) -> Result<PortMatch, (&'static str, String)> {
    let number = |field, number: i32| {
        (u16::try_from(number).ok().filter(|n| *n > 0)).ok_or((field, format!("{number} is no port (1 to 65535)")))
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let protocol =
        Protocol::parse(protocol).ok_or_else(|| ("protocol", format!("\"{protocol}\" is none of TCP, UDP, SCTP")))?;
    match (&port.port, port.end_port) {
        (None, None) => Ok(PortMatch::Range(protocol, Traffic::PORTS.0, Traffic::PORTS.1)),
        (None, Some(_)) => Err(("endPort", "endPort needs a port".to_owned())),
        (Some(IntOrString::String(name)), None) => Ok(PortMatch::Named(protocol, name.clone())),
        (Some(IntOrString::String(_)), Some(_)) => Err(("endPort", "endPort needs a numeric port".to_owned())),
        (Some(IntOrString::Int(first)), last) => {
            let first = number("port", *first)?;
            let last = last.map_or(Ok(first), |last| number("endPort", last))?;
            if last < first {
                return Err(("endPort", format!("endPort {last} is less than port {first}")));
            }
            Ok(PortMatch::Range(protocol, first, last))
        }
    }
}
