//! The labels of metrics.

use std::fmt;

use npc_compiler::object::Family as IpFamily;
use prometheus_client::encoding::EncodeLabelSet;

use crate::source::ObjectKind;

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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfKind {
    pub(super) kind: ObjectKind,
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
