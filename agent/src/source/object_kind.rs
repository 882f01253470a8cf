//! The kinds of objects that an agent follows.

use npc_compiler::engine::Event;
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// The kinds of objects that an agent follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// Pods of all nodes: they may be peers.
    Pod,
    /// Namespaces.
    Namespace,
    /// Network policies.
    NetworkPolicy,
    /// The Node that the agent runs on.
    Node,
}

impl ObjectKind {
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

impl EncodeLabelValue for ObjectKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}
