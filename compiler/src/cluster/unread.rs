//! What the input left out: kinds and namespaces of objects that exist, or may exist, and
//! were not read. A verdict that such an object may decide is unknown.

use std::fmt;

/// The namespaces whose objects were not read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extent {
    /// Those of every namespace; also for kinds that live outside namespaces.
    Everywhere,
    /// Those of every namespace but this one.
    AllBut(String),
    /// Those of this namespace.
    In(String),
}

/// Objects that were not read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unread {
    /// Their kind, as `NetworkPolicy`; `None` for a document of which not even the kind
    /// could be read.
    pub kind: Option<String>,
    /// Where they live.
    pub namespace: Extent,
    /// Why they were not read, in words.
    pub why: String,
}

impl Extent {
    /// Whether the objects of a namespace are among these.
    #[must_use]
    pub fn covers(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::AllBut(read) => read != namespace,
            Self::In(unread) => unread == namespace,
        }
    }
}

impl Unread {
    /// Whether objects of this kind and namespace may be missing. The namespace of an
    /// object that lives outside namespaces is empty.
    #[must_use]
    pub fn may_hold(&self, kind: &str, namespace: &str) -> bool {
        self.kind.as_deref().is_none_or(|unread| unread == kind) && self.namespace.covers(namespace)
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

    /// Whether the API server refused to list them; else they are there and cannot be read.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        ["no right to list ", "the API server has no "].iter().any(|begin| self.why.starts_with(begin))
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Some(kind) => write!(f, "objects of kind {kind}")?,
            None => f.write_str("a document")?,
        }
        match &self.namespace {
            Extent::Everywhere => {}
            Extent::AllBut(read) => write!(f, " of namespaces other than {read}")?,
            Extent::In(unread) => write!(f, " of namespace {unread}")?,
        }
        write!(f, ": {}", self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_read_may_hold_objects_of_its_kind_and_namespaces() {
        let unread = |kind: Option<&str>, namespace| Unread {
            kind: kind.map(str::to_owned),
            namespace,
            why: "forbidden".to_owned(),
        };
        let but_shop = unread(Some("Pod"), Extent::AllBut("shop".to_owned()));
        assert!(but_shop.may_hold("Pod", "ops"));
        assert!(!but_shop.may_hold("Pod", "shop"));
        assert!(!but_shop.may_hold("Service", "ops"));
        assert_eq!(but_shop.to_string(), "objects of kind Pod of namespaces other than shop: forbidden");
        let document = unread(None, Extent::Everywhere);
        assert!(document.may_hold("NetworkPolicy", "shop") && document.may_hold("Node", ""));
        assert!(!unread(None, Extent::In("ops".to_owned())).may_hold("Pod", "shop"));
        let job = unread(Some("Job"), Extent::In("ops".to_owned()));
        assert!(job.may_make_pods("ops") && !job.may_make_pods("shop") && !job.is_refused());
    }
}
