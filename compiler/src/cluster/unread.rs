//! What the input left out: kinds and namespaces of objects that exist, or may exist, and
//! were not read. A verdict that such an object may decide is unknown.

mod why;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

pub use why::{FileFault, WhyUnread};

use super::private::is_private;
use super::selection::Selection;
use super::{Class, Cluster};
use crate::algebra::cidr::{self, Cidr};
use crate::algebra::selector::{Operator, Selector};
use crate::object::{Family, Labels, NAMESPACE_NAME_LABEL};
use crate::policy::{Direction, Namespaces, PodPeer, Policy};

/// The namespaces whose objects were not read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extent {
    /// Those of every namespace; also for kinds that live outside namespaces.
    Everywhere,
    /// Those of every namespace but these.
    AllBut(BTreeSet<String>),
    /// Those of this namespace.
    In(String),
}

/// Objects that were not read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unread {
    /// Their kind, as `NetworkPolicy`; `None` for a document whose kind could not be read either.
    pub kind: Option<String>,
    /// Where they live.
    pub namespace: Extent,
    /// For a policy: its podSelector, if that could be read; none if the policy may select any pod.
    pub subject: Option<Selector>,
    /// Why they were not read.
    pub why: WhyUnread,
}

impl Extent {
    /// The extents of a kind that was read in these namespaces only: every other namespace, or every namespace if none
    /// was read.
    pub fn all_but(read: impl IntoIterator<Item = String>) -> Self {
        let read: BTreeSet<String> = read.into_iter().collect();
        if read.is_empty() { Self::Everywhere } else { Self::AllBut(read) }
    }

    /// Whether the objects of a namespace are among these.
    #[must_use]
    pub fn covers(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::AllBut(read) => !read.contains(namespace),
            Self::In(unread) => unread == namespace,
        }
    }

    /// Whether some namespace may be among these and among others.
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::In(one), other) | (other, Self::In(one)) => other.covers(one),
            (Self::Everywhere | Self::AllBut(_), Self::Everywhere | Self::AllBut(_)) => true,
        }
    }
}

impl Unread {
    /// Whether objects of this kind may be missing.
    #[must_use]
    pub fn may_be(&self, kind: &str) -> bool {
        self.kind.as_deref().is_none_or(|unread| unread == kind)
    }

    /// Whether objects of this kind and namespace may be missing. The namespace of an
    /// object that lives outside namespaces is empty.
    #[must_use]
    pub fn may_hold(&self, kind: &str, namespace: &str) -> bool {
        self.may_be(kind) && self.namespace.covers(namespace)
    }
}

/// The kinds whose objects make pods.
const WORKLOADS: [&str; 7] =
    ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"];

impl Unread {
    /// Whether objects that make pods in this namespace may be missing.
    #[must_use]
    pub fn may_make_pods(&self, namespace: &str) -> bool {
        WORKLOADS.iter().any(|kind| self.may_hold(kind, namespace))
    }

    /// Whether pods may be missing: these themselves, or what makes them.
    #[must_use]
    pub fn may_be_pods(&self) -> bool {
        self.may_be("Pod") || WORKLOADS.iter().any(|kind| self.may_be(kind))
    }

    /// Whether the API server refused to list them; else they are there and cannot be read.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.why, WhyUnread::NoRight(_) | WhyUnread::NotServed(_))
    }
}

/// Addresses that have as many bits in common with an address of the cluster are taken to be
/// of the cluster too, by family.
const IN_COMMON: [u32; 2] = [16, 48];

/// An address of each private prefix.
const PRIVATE: [&str; 4] = ["10.0.0.0", "172.16.0.0", "192.168.0.0", "fd00::"];

impl Cluster {
    /// The same cluster, with what could not be read from the input.
    #[must_use]
    pub fn with_unread(mut self, mut unread: Vec<Unread>) -> Self {
        unread.sort_unstable();
        unread.dedup();
        self.unread = unread.into();
        self.find_open();
        self
    }

    /// What the input leaves out, sorted.
    #[must_use]
    pub fn unread(&self) -> &[Unread] {
        &self.unread
    }

    /// Whether policies that may select pods of a namespace could not be read.
    #[must_use]
    pub fn has_unread_policies(&self, namespace: &str) -> bool {
        self.unread_policies(namespace).next().is_some()
    }

    /// Why policies were not read that may select pods of a namespace.
    pub fn unread_policies(&self, namespace: &str) -> impl Iterator<Item = &WhyUnread> {
        let may_hold = move |unread: &&Unread| unread.may_hold("NetworkPolicy", namespace);
        self.unread.iter().filter(may_hold).map(|unread| &unread.why)
    }

    /// Whether a patch that was not applied changes a policy, so that what it says is not what will be in force.
    pub(super) fn is_patched(&self, policy: &Policy) -> bool {
        self.unread.iter().any(|unread| match &unread.why {
            WhyUnread::InFile(_, FileFault::PolicyPatch(name)) => {
                unread.namespace.covers(&policy.namespace) && name.as_ref().is_none_or(|name| *name == policy.name)
            }
            _ => false,
        })
    }

    /// Why policies were not read that may select the endpoints of a class.
    pub fn unread_policies_of<'a>(&'a self, class: &'a Class) -> impl Iterator<Item = &'a WhyUnread> {
        let may_select = move |unread: &&Unread| {
            unread.may_hold("NetworkPolicy", &class.namespace)
                && unread.subject.as_ref().is_none_or(|subject| class.selection(subject) != Selection::No)
        };
        self.unread.iter().filter(may_select).map(|unread| &unread.why)
    }

    /// Whether policies that may select the endpoints of a class could not be read.
    #[must_use]
    pub fn has_unread_policies_of(&self, class: &Class) -> bool {
        self.unread_policies_of(class).next().is_some()
    }

    fn unread_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Unread> {
        self.unread().iter().filter(move |unread| unread.may_be(kind))
    }

    fn unread_pods(&self) -> impl Iterator<Item = &Unread> {
        self.unread().iter().filter(|unread| unread.may_be_pods())
    }

    /// Whether some Services were not read.
    #[must_use]
    pub fn has_unread_services(&self) -> bool {
        self.unread_of("Service").next().is_some()
    }

    /// What was not read and may have any address of the cluster: Pods, what makes them, and Services.
    #[must_use]
    pub fn unread_holders(&self) -> Vec<Unread> {
        let mut holders: Vec<Unread> = self.unread_pods().chain(self.unread_of("Service")).cloned().collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// Whether an address may be that of a Pod or a Service that was not read: no object has
    /// it, and it is private or near to an address of the cluster.
    #[must_use]
    pub fn may_be_unread(&self, address: IpAddr) -> bool {
        let is_unread = self.unread_pods().next().is_some() || self.has_unread_services();
        is_unread
            && self.holders(address, None).is_empty()
            && !self.is_node(address)
            && !self.is_service(address)
            && self.may_be_of_cluster(address)
    }

    /// Whether an address is one that a cluster may give to a pod, a node or a Service: it is
    /// private, or near to an address of the cluster.
    pub(crate) fn may_be_of_cluster(&self, address: IpAddr) -> bool {
        is_private(address) || self.is_near(address)
    }

    /// Whether an address is near to that of some pod or node.
    fn is_near(&self, address: IpAddr) -> bool {
        let bits = |of: &IpAddr| match of {
            IpAddr::V4(of) => u128::from(u32::from(*of)) << 96,
            IpAddr::V6(of) => u128::from(*of),
        };
        let family = Family::of(&address);
        let is_near = |of: &IpAddr| {
            Family::of(of) == family && (bits(of) ^ bits(&address)).leading_zeros() >= IN_COMMON[family as usize]
        };
        self.nodes().values().flatten().any(is_near)
            || self.endpoints().any(|(_, pod)| pod.addresses().any(|of| is_near(&of)))
    }

    /// What was not read and may make pods of these namespaces.
    pub(crate) fn unread_pods_of<'a>(&'a self, meant: &'a Extent) -> impl Iterator<Item = &'a Unread> {
        self.unread_pods().filter(|unread| unread.namespace.overlaps(meant))
    }

    /// Whether policies may isolate, in a direction, a pod of these namespaces that was not read.
    pub(crate) fn may_isolate_unread_of(&self, meant: &Extent, direction: Direction) -> bool {
        self.unread_pods_of(meant).any(|unread| {
            let pods = if matches!(meant, Extent::In(_)) { meant } else { &unread.namespace };
            self.may_isolate_some_of(pods, &|of| *of == direction)
        })
    }

    /// Whether policies may isolate pods of these namespaces in some of the directions that are meant.
    fn may_isolate_some_of(&self, pods: &Extent, is_meant: &dyn Fn(&Direction) -> bool) -> bool {
        let isolates = |namespace: &str| {
            let mut policies = self.policies_in(namespace);
            policies.any(|(_, policy)| Direction::ALL.iter().any(|of| is_meant(of) && policy.isolates(*of)))
        };
        let is_isolated = match pods {
            Extent::In(namespace) => isolates(namespace),
            Extent::Everywhere | Extent::AllBut(_) => {
                self.policies().any(|(_, policy)| pods.covers(&policy.namespace) && isolates(&policy.namespace))
            }
        };
        is_isolated || self.unread_of("NetworkPolicy").any(|unread| unread.namespace.overlaps(pods))
    }

    /// Whether policies may isolate a pod that was not read, or what a Service leads to that was
    /// not read.
    #[must_use]
    pub fn may_isolate_unread(&self, direction: Direction) -> bool {
        // A Service may lead to pods of its namespace, which policies of both ends judge.
        let by_service = direction == Direction::Ingress && self.has_unread_services();
        (by_service && self.may_isolate_some_of(&Extent::Everywhere, &|_| true))
            || self.may_isolate_unread_of(&Extent::Everywhere, direction)
    }

    /// Whether a prefix may hold the address of a Pod or a Service that was not read.
    #[must_use]
    pub fn may_hold_unread(&self, prefix: &Cidr) -> bool {
        let private = PRIVATE.iter().filter_map(|text| text.parse().ok()).filter(|of| prefix.holds(*of));
        let ends = [prefix.first, prefix.last].map(|number| cidr::address(prefix.family, number));
        ends.into_iter().chain(private).any(|address| self.may_be_unread(address))
    }

    /// Whether a rule's pod peer may select a pod that was not read, or one that a workload makes which was
    /// not read.
    #[must_use]
    pub fn may_select_unread(&self, peer: &PodPeer) -> bool {
        self.unread_pods().any(|unread| self.may_be_in(peer, &unread.namespace))
    }

    /// Whether a peer may mean pods of these namespaces.
    fn may_be_in(&self, peer: &PodPeer, extent: &Extent) -> bool {
        match &peer.namespaces {
            Namespaces::Own(name) => extent.covers(name),
            Namespaces::Selected(selector) => self.may_select_some_of(selector, extent),
        }
    }

    /// Whether a namespaceSelector may select some of the namespaces in which objects were not
    /// read.
    fn may_select_some_of(&self, selector: &Selector, extent: &Extent) -> bool {
        let may_select = |name: &str| match self.namespace(name) {
            Some(_) => self.namespace_selection(name, selector) > Selection::No,
            None => may_be_named(selector, name),
        };
        if let Extent::In(name) = extent {
            return may_select(name);
        }
        let by_name = selector.requirements().find_map(|of| match &of.operator {
            Operator::In(names) if of.key == NAMESPACE_NAME_LABEL => Some(names),
            _ => None,
        });
        match by_name {
            Some(names) => names.iter().any(|name| extent.covers(name) && may_select(name)),
            None if self.unread_of("Namespace").next().is_some() => true,
            None => {
                let mut names = self.namespaces().map(String::as_str).filter(|name| extent.covers(name));
                names.any(may_select)
            }
        }
    }
}

/// Names in one line.
#[must_use]
pub fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Whether a selector may select a namespace if only the namespace's name is known.
fn may_be_named(selector: &Selector, name: &str) -> bool {
    let own = Labels::from([(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned())]);
    selector.requirements().all(|of| of.key != NAMESPACE_NAME_LABEL || of.matches(&own))
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Some(kind) => write!(f, "objects of kind {kind}")?,
            None => f.write_str("a document")?,
        }
        match &self.namespace {
            Extent::Everywhere => {}
            Extent::AllBut(read) => write!(f, " of namespaces other than {}", joined(read))?,
            Extent::In(unread) => write!(f, " of namespace {unread}")?,
        }
        write!(f, ": {}", self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Peer, Peers};
    use crate::sample::cluster;

    #[test]
    fn what_was_not_read_may_hold_objects_of_its_kind_and_namespaces() {
        let unread = |kind: Option<&str>, namespace| Unread {
            kind: kind.map(str::to_owned),
            namespace,
            subject: None,
            why: WhyUnread::NoRight("pods".into()),
        };
        let but_shop = unread(Some("Pod"), Extent::all_but(["shop".to_owned()]));
        assert!(but_shop.may_hold("Pod", "ops"));
        assert!(!but_shop.may_hold("Pod", "shop"));
        assert!(!but_shop.may_hold("Service", "ops"));
        assert_eq!(but_shop.to_string(), "objects of kind Pod of namespaces other than shop: no right to list pods");
        let document = unread(None, Extent::Everywhere);
        assert!(document.may_hold("NetworkPolicy", "shop") && document.may_hold("Node", ""));
        assert!(!unread(None, Extent::In("ops".to_owned())).may_hold("Pod", "shop"));
        let job = unread(Some("Job"), Extent::In("ops".to_owned()));
        assert!(job.may_make_pods("ops") && !job.may_make_pods("shop") && job.is_refused());
        assert!(!Unread { why: WhyUnread::DidNotParse(String::new()), ..job }.is_refused());
    }

    #[test]
    fn only_an_address_of_the_cluster_may_be_that_of_something_that_was_not_read() {
        let read = || cluster(&["ns/a 10.0.0.1 @n"], &[]);
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let pods = Unread {
            kind: Some("Pod".to_owned()),
            namespace: Extent::all_but(["ns".to_owned()]),
            subject: None,
            why: WhyUnread::NoRight("pods".into()),
        };
        let policies = Unread { kind: Some("NetworkPolicy".to_owned()), ..pods.clone() };
        let open = read().with_unread(vec![pods]);
        for (text, expected) in [
            ("10.0.0.9", true),
            ("192.168.7.7", true),
            ("fd00::1", true),
            ("10.0.0.1", false),
            ("8.8.8.8", false),
            ("169.254.169.254", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(open.may_be_unread(address(text)), expected, "{text}");
            assert!(!read().may_be_unread(address(text)), "everything was read");
            assert!(!read().with_unread(vec![policies.clone()]).may_be_unread(address(text)), "pods were read");
        }
        let near = cluster(&["ns/a 198.18.0.1", "ns/b 2001:db8::1"], &[]).with_unread(open.unread().to_vec());
        assert!(near.may_be_unread(address("198.18.7.7")) && near.may_be_unread(address("2001:db8:0:1::9")));
        assert!(!near.may_be_unread(address("198.19.0.1")) && !near.may_be_unread(address("2001:db8:1::1")));
    }

    /// Whether a peer of a rule of `ns/p` may select a pod that was not read.
    fn may_select(peer: &str, unread: &[(&str, Extent)]) -> bool {
        let spec = format!(r#"ns/p {{"podSelector": {{}}, "ingress": [{{"from": [{peer}]}}]}}"#);
        let unread = unread.iter().map(|(kind, namespace)| Unread {
            kind: Some((*kind).to_owned()),
            namespace: namespace.clone(),
            subject: None,
            why: WhyUnread::DidNotParse(String::new()),
        });
        let cluster = cluster(&["ns/a 10.0.0.1", "ops/b 10.0.0.2"], &[&spec]).with_unread(unread.collect());
        let (_, policy) = cluster.policies().next().expect("a policy");
        let rule = policy.rules(Direction::Ingress).first().expect("a rule");
        let Peers::AnyOf(peers) = &rule.peers else { panic!("peers") };
        let Peer::Pods(peer) = &peers[0] else { panic!("a peer with selectors") };
        cluster.may_select_unread(peer)
    }

    #[test]
    fn a_peer_may_select_what_was_not_read_in_the_namespaces_that_it_means() {
        let own = r#"{"podSelector": {"matchLabels": {"app": "x"}}}"#;
        let named = r#"{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}}"#;
        let team = r#"{"namespaceSelector": {"matchLabels": {"team": "sre"}}}"#;
        let but = |name: &str| ("Pod", Extent::all_but([name.to_owned()]));
        let within = |name: &str| ("Pod", Extent::In(name.to_owned()));
        assert!(may_select(own, &[but("ops")]) && may_select(own, &[within("ns")]));
        assert!(!may_select(own, &[but("ns")]) && !may_select(own, &[within("ops")]));
        assert!(may_select(named, &[but("ns")]) && may_select(named, &[within("ops")]));
        assert!(!may_select(named, &[but("ops")]) && !may_select(named, &[within("far")]));
        assert!(!may_select(team, &[but("ns")]), "the namespaces are known, and none has the label");
        assert!(may_select(team, &[but("ns"), ("Namespace", Extent::Everywhere)]));
        assert!(may_select(team, &[within("far")]), "nothing says the labels of far");
        assert!(!may_select(own, &[]));
    }
}
