//! A NetworkPolicy as Azure NPM understands it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::algebra::cidr::{AddressSet, Cidr};
use crate::algebra::ranges::RangeSet;
use crate::algebra::traffic::Traffic;
use crate::object::{Family, Labels, NetworkPolicy, Protocol};
use crate::policy::{Direction, PortMatch, Ports};

/// A policy that Azure NPM programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// The directions it isolates, in the order of [`Direction::ALL`].
    pub isolates: [bool; 2],
    /// What it lets pass, in the same order.
    pub terms: [Vec<Term>; 2],
}

/// A policy that Azure NPM does not program at all: neither does it isolate,
/// nor does it allow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Refusal {
    /// The field for which it is refused.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

/// One peer of a rule with the rule's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The field it comes from: a peer (`spec.ingress[0].from[1]`), or the
    /// rule where it has none.
    pub path: String,
    /// The ends that a term means.
    pub peer: TermPeer,
    /// The ports for which the term holds.
    pub ports: Ports,
    /// It is one of several terms for a `NotIn` with several values, and matching one of them is
    /// enough.
    pub flattened: bool,
}

/// The ends that a term means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TermPeer {
    /// Everyone.
    Everyone,
    /// The addresses that meet all of these matches.
    Sets(Vec<SetMatch>),
    /// These IPv4 addresses.
    Block(AddressSet),
}

/// `-m set [!] --match-set`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetMatch {
    /// The set has to hold the address; otherwise it must not.
    pub included: bool,
    /// The members of the set.
    pub member: PodSet,
}

/// Which pods a set holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodSet {
    /// Those of a namespace.
    InNamespace(String),
    /// Those of all namespaces.
    InAnyNamespace,
    /// Those of the namespaces with a label, of this value or of any.
    NamespaceLabel(String, Option<String>),
    /// Those with a label, of one of these values or of any.
    PodLabel(String, Option<BTreeSet<String>>),
}

impl PodSet {
    /// Whether the set holds a pod of this namespace.
    #[must_use]
    pub fn holds(&self, namespace: &str, of_namespace: Option<&Labels>, labels: &Labels) -> bool {
        match self {
            Self::InNamespace(name) => name == namespace,
            Self::InAnyNamespace => true,
            Self::NamespaceLabel(key, value) => (of_namespace.and_then(|labels| labels.get(key)))
                .is_some_and(|had| value.as_ref().is_none_or(|value| value == had)),
            Self::PodLabel(key, values) => {
                labels.get(key).is_some_and(|had| values.as_ref().is_none_or(|values| values.contains(had)))
            }
        }
    }
}

impl Translation {
    /// Translates a policy.
    ///
    /// # Errors
    /// If Azure NPM refuses it as a whole.
    pub fn read(policy: &NetworkPolicy) -> Result<Self, Refusal> {
        let empty = api::NetworkPolicySpec::default();
        let spec = policy.object.spec.as_ref().unwrap_or(&empty);
        if let Some(selector) = &spec.pod_selector {
            pod_matches(selector, "spec.podSelector")?;
        }
        let mut translation = Self { isolates: isolates(spec), terms: [Vec::new(), Vec::new()] };
        let namespace = policy.namespace();
        let ingress = spec.ingress.iter().flatten().map(|rule| (rule.from.as_deref(), rule.ports.as_deref()));
        let egress = spec.egress.iter().flatten().map(|rule| (rule.to.as_deref(), rule.ports.as_deref()));
        for (direction, rules) in
            [(Direction::Ingress, ingress.collect::<Vec<_>>()), (Direction::Egress, egress.collect())]
        {
            if translation.isolates[direction as usize] {
                translation.terms[direction as usize] = read_rules(direction, namespace, &rules)?;
            }
        }
        Ok(translation)
    }
}

/// The directions of a policy, as the API server fills them in. Azure NPM takes
/// everything that is not Ingress for Egress.
fn isolates(spec: &api::NetworkPolicySpec) -> [bool; 2] {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let egress = Direction::Egress.as_str();
    match types {
        [] => [true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())],
        types => {
            [types.iter().any(|text| text == Direction::Ingress.as_str()), types.iter().any(|text| text == egress)]
        }
    }
}

type ApiRule<'a> = (Option<&'a [api::NetworkPolicyPeer]>, Option<&'a [api::NetworkPolicyPort]>);

fn read_rules(direction: Direction, namespace: &str, rules: &[ApiRule<'_>]) -> Result<Vec<Term>, Refusal> {
    let (section, field) = (direction.section(), direction.peers_field());
    let list = |rule: &ApiRule<'_>| (rule.0.unwrap_or_default().len(), rule.1.unwrap_or_default().len());
    // If one rule is empty, Azure NPM ignores all others.
    if let Some(i) = rules.iter().position(|rule| list(rule) == (0, 0)) {
        let path = format!("spec.{section}[{i}]");
        return Ok(vec![Term { path, peer: TermPeer::Everyone, ports: Ports::Everything, flattened: false }]);
    }
    let mut terms = Vec::new();
    for (i, (peers, ports)) in rules.iter().enumerate() {
        let path = format!("spec.{section}[{i}]");
        let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
        let ports = read_ports(&path, ports)?;
        let is_peer = |peer: &api::NetworkPolicyPeer| {
            peer.ip_block.is_some() || peer.namespace_selector.is_some() || peer.pod_selector.is_some()
        };
        if !peers.iter().any(is_peer) {
            // Peers that say nothing are as good as none; without ports the
            // rule then means every pod.
            let peer = match &ports {
                Ports::Everything => TermPeer::Sets(vec![SetMatch { included: true, member: PodSet::InAnyNamespace }]),
                Ports::AnyOf(_) => TermPeer::Everyone,
            };
            terms.push(Term { path, peer, ports, flattened: false });
            continue;
        }
        for (k, peer) in peers.iter().enumerate() {
            let path = format!("{path}.{field}[{k}]");
            let read = read_peer(&path, namespace, peer)?;
            let flattened = read.len() > 1 && has_many_not_in(peer);
            terms.extend(read.into_iter().map(|peer| Term {
                path: path.clone(),
                peer,
                ports: ports.clone(),
                flattened,
            }));
        }
    }
    Ok(terms)
}

/// Whether the namespaceSelector has a `NotIn` with several values.
fn has_many_not_in(peer: &api::NetworkPolicyPeer) -> bool {
    let expressions = peer.namespace_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    expressions.into_iter().any(|expression| expression.operator == "NotIn" && values(expression).len() > 1)
}

fn values(expression: &LabelSelectorRequirement) -> &[String] {
    expression.values.as_deref().unwrap_or_default()
}

/// A peer is one match per combination of the values of its namespaceSelector.
fn read_peer(path: &str, namespace: &str, peer: &api::NetworkPolicyPeer) -> Result<Vec<TermPeer>, Refusal> {
    if let Some(block) = &peer.ip_block {
        return Ok(read_block(&format!("{path}.ipBlock"), block)?.into_iter().collect());
    }
    let pods = match &peer.pod_selector {
        None => Vec::new(),
        Some(selector) => pod_matches(selector, &format!("{path}.podSelector"))?,
    };
    let own = || SetMatch { included: true, member: PodSet::InNamespace(namespace.to_owned()) };
    match (&peer.namespace_selector, &peer.pod_selector) {
        (None, None) => Ok(Vec::new()),
        (None, Some(_)) => Ok(vec![TermPeer::Sets(pods.into_iter().chain([own()]).collect())]),
        (Some(namespaces), _) => {
            let flat = namespace_matches(namespaces, &format!("{path}.namespaceSelector"))?;
            Ok(flat
                .into_iter()
                .map(|namespaces| TermPeer::Sets(namespaces.into_iter().chain(pods.clone()).collect()))
                .collect())
        }
    }
}

fn namespace_matches(selector: &LabelSelector, path: &str) -> Result<Vec<Vec<SetMatch>>, Refusal> {
    let mut base: Vec<SetMatch> = (selector.match_labels.iter().flatten())
        .map(|(key, value)| SetMatch {
            included: true,
            member: PodSet::NamespaceLabel(key.clone(), Some(value.clone())),
        })
        .collect();
    let mut flat = vec![Vec::new()];
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let key = &expression.key;
        match (expression.operator.as_str(), check_values(expression, path, i)?) {
            ("Exists" | "DoesNotExist", _) => base.push(SetMatch {
                included: expression.operator == "Exists",
                member: PodSet::NamespaceLabel(key.clone(), None),
            }),
            // Each value makes a rule of its own. For In that is right; for
            // NotIn one of the rules lets in what another was to keep out.
            (_, values) => {
                let included = expression.operator == "In";
                let of_value = |value: &String| SetMatch {
                    included,
                    member: PodSet::NamespaceLabel(key.clone(), Some(value.clone())),
                };
                let with = |had: &Vec<SetMatch>, value| had.iter().cloned().chain([of_value(value)]).collect();
                flat = flat.iter().flat_map(|had| values.iter().map(move |value| with(had, value))).collect();
            }
        }
    }
    if base.is_empty() && flat == [Vec::new()] {
        base.push(SetMatch { included: true, member: PodSet::InAnyNamespace });
    }
    Ok(flat.into_iter().map(|more| base.iter().cloned().chain(more).collect()).collect())
}

fn pod_matches(selector: &LabelSelector, path: &str) -> Result<Vec<SetMatch>, Refusal> {
    let mut matches: Vec<SetMatch> = (selector.match_labels.iter().flatten())
        .map(|(key, value)| SetMatch {
            included: true,
            member: PodSet::PodLabel(key.clone(), Some(BTreeSet::from([value.clone()]))),
        })
        .collect();
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let values = check_values(expression, path, i)?;
        let operator = expression.operator.as_str();
        let values = matches!(operator, "In" | "NotIn").then(|| values.iter().cloned().collect());
        matches.push(SetMatch {
            included: matches!(operator, "In" | "Exists"),
            member: PodSet::PodLabel(expression.key.clone(), values),
        });
    }
    Ok(matches)
}

/// The values of an expression, if Azure NPM takes them and its operator.
fn check_values<'a>(
    expression: &'a LabelSelectorRequirement,
    path: &str,
    index: usize,
) -> Result<&'a [String], Refusal> {
    let refuse = |field: &str, problem: String| {
        Err(Refusal { path: format!("{path}.matchExpressions[{index}].{field}"), problem })
    };
    match expression.operator.as_str() {
        "Exists" | "DoesNotExist" => Ok(&[]),
        "In" | "NotIn" => match values(expression).iter().find(|value| !is_label_value(value)) {
            Some(value) => refuse("values", format!("\"{value}\" is no value of a label")),
            None => Ok(values(expression)),
        },
        other => refuse("operator", format!("\"{other}\" is no operator")),
    }
}

/// Empty, or letters, digits, `-`, `_` and `.` between letters or digits.
fn is_label_value(value: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.chars().all(inner) && end(value.chars().next()) && end(value.chars().next_back())
}

/// An ipBlock: a `hash:net` of its own with the exceptions as `nomatch`. None
/// where it names no block.
fn read_block(path: &str, block: &api::IPBlock) -> Result<Option<TermPeer>, Refusal> {
    if block.cidr.is_empty() {
        return Ok(None);
    }
    let Some(cidr) = strict_cidr(&block.cidr) else {
        return Err(Refusal { path: format!("{path}.cidr"), problem: format!("\"{}\" is no IPv4 prefix", block.cidr) });
    };
    // The longest prefix decides, so an exception that is no part of the block
    // cuts nothing out of it. One that ipset cannot read is not there.
    let cut = block.except.iter().flatten().filter_map(|text| ipset_cidr(text));
    let cut = cut.filter(|except| except.length >= cidr.length).map(|except| (except.first, except.last));
    Ok(Some(TermPeer::Block(cidr.addresses().difference(&RangeSet::from_ranges(cut)))))
}

/// A prefix that Azure NPM takes for one: IPv4, no leading zeros in the
/// address, and of length 0 (or of a text that begins with 0: 10.0.0.0/08) only 0.0.0.0.
fn strict_cidr(text: &str) -> Option<Cidr> {
    let (address, _) = text.split_once('/')?;
    let parsed: Ipv4Addr = address.parse().ok()?;
    if text.contains("/0") && parsed != Ipv4Addr::UNSPECIFIED {
        return None;
    }
    Cidr::parse(text).ok().filter(|cidr| cidr.family == Family::V4)
}

/// An IPv4 prefix as ipset reads it: an octet with a leading zero is octal.
fn ipset_cidr(text: &str) -> Option<Cidr> {
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    let octet = |text: &str| match text.strip_prefix('0') {
        Some(digits) if !digits.is_empty() => u8::from_str_radix(digits, 8).ok(),
        _ => text.parse::<u8>().ok(),
    };
    let octets: Option<Vec<u8>> = address.split('.').map(octet).collect();
    let octets: [u8; 4] = octets?.try_into().ok()?;
    // The null prefix is refused.
    Cidr::parse(&format!("{}/{length}", Ipv4Addr::from(octets))).ok().filter(|cidr| cidr.length > 0)
}

/// The ports of a rule. What iptables would not take fails the policy.
fn read_ports(path: &str, ports: &[api::NetworkPolicyPort]) -> Result<Ports, Refusal> {
    if ports.is_empty() {
        return Ok(Ports::Everything);
    }
    let read = |(i, port): (usize, &api::NetworkPolicyPort)| {
        read_port(port).map_err(|(field, problem)| Refusal { path: format!("{path}.ports[{i}].{field}"), problem })
    };
    ports.iter().enumerate().map(read).collect::<Result<_, _>>().map(Ports::AnyOf)
}

fn read_port(port: &api::NetworkPolicyPort) -> Result<PortMatch, (&'static str, String)> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let protocol = Protocol::parse(protocol).ok_or_else(|| ("protocol", format!("\"{protocol}\" is no protocol")))?;
    let range = |first: i32| {
        let last = port.end_port.unwrap_or(first);
        match (u16::try_from(first), u16::try_from(last)) {
            (Ok(first), Ok(last)) if first <= last => Ok(PortMatch::Range(protocol, first, last)),
            (Ok(_), _) if port.end_port.is_some() => Err(("endPort", format!("{first}:{last} is no range of ports"))),
            _ => Err(("port", format!("{first}:{last} is no range of ports"))),
        }
    };
    match &port.port {
        None => Ok(PortMatch::Range(protocol, Traffic::PORTS.0, Traffic::PORTS.1)),
        // Port 0 passes for a name, which no container has.
        Some(IntOrString::Int(0)) => Ok(PortMatch::Named(protocol, "0".to_owned())),
        Some(IntOrString::Int(first)) => range(*first),
        // A name that is a number is a number; endPort says nothing of names.
        Some(IntOrString::String(name)) => match name.parse::<i32>() {
            Ok(number) if number != 0 => range(number),
            _ => Ok(PortMatch::Named(protocol, name.clone())),
        },
    }
}
