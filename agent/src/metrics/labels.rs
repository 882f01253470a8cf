//! The labels of metrics.

use std::fmt;

use npc_compiler::engine::Event;
use npc_compiler::object::Family as IpFamily;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// What drifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DriftKind {
    /// The jump from FORWARD to our chains.
    Hook,
    /// The rules of a chain.
    Chain,
    /// A whole set: gone, of another kind, or not ours.
    Set,
    /// Members of a set.
    Members,
    /// The table of the bridge family.
    Bridge,
}

impl DriftKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Hook, Self::Chain, Self::Set, Self::Members, Self::Bridge];

    /// As in the log and as a label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hook => "hook",
            Self::Chain => "chain",
            Self::Set => "set",
            Self::Members => "members",
            Self::Bridge => "bridge",
        }
    }
}

impl fmt::Display for DriftKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kinds of objects that an agent follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Pods of all nodes: they may be peers.
    Pod,
    /// Namespaces.
    Namespace,
    /// Network policies.
    NetworkPolicy,
    /// The Node that the agent runs on.
    Node,
}

impl Kind {
    /// All of them, in the order of their indexes.
    pub const ALL: [Self; 4] = [Self::Pod, Self::Namespace, Self::NetworkPolicy, Self::Node];

    /// As the API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Node => "Node",
        }
    }

    /// The kind that something happened to.
    #[must_use]
    pub const fn of(event: &Event) -> Self {
        match event {
            Event::Pod(_) | Event::PodGone(_) => Self::Pod,
            Event::Namespace(_) | Event::NamespaceGone(_) => Self::Namespace,
            Event::Policy(_) | Event::PackedPolicy(_) | Event::PolicyGone(..) => Self::NetworkPolicy,
            Event::Node(_) | Event::NodeGone(_) => Self::Node,
        }
    }
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfKind {
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfFamily {
    pub(super) family: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfStage {
    pub(super) stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfWhat {
    pub(super) what: &'static str,
}

pub(super) const fn family_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}
