//! What the compiler did not understand of an object, for its owner.

use std::fmt;
use std::net::IpAddr;

/// A part of a policy that was not understood and what follows. The rest of
/// the policy holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// The field, with 0-based indexes: `spec.ingress[0].from[1].ipBlock.cidr`.
    pub path: String,
    /// What kind of mistake it is.
    pub code: FindingCode,
    /// What is wrong with it.
    pub problem: String,
    /// What happens now.
    pub effect: Effect,
    /// The address that is written where a prefix should stand, which its author most likely means.
    pub address: Option<IpAddr>,
}

/// Whether a field's path is this path, or leads on from it.
pub(crate) fn is_below(field: &str, path: &str) -> bool {
    field.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Kinds of mistakes in a policy; stable codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is its code, which `npc reason` explains at length")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum FindingCode {
    FieldUnknown,
    NameInvalid,
    SelectorInvalid,
    PolicyTypesInvalid,
    PeerEmpty,
    PeerCombined,
    CidrInvalid,
    CidrLegacy,
    ExceptOutsideCidr,
    ExceptCoversCidr,
    PortInvalid,
    PortNameInvalid,
    PolicyTooLarge,
    TooManyFindings,
}

impl FindingCode {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 14] = [
        Self::FieldUnknown,
        Self::NameInvalid,
        Self::SelectorInvalid,
        Self::PolicyTypesInvalid,
        Self::PeerEmpty,
        Self::PeerCombined,
        Self::CidrInvalid,
        Self::CidrLegacy,
        Self::ExceptOutsideCidr,
        Self::ExceptCoversCidr,
        Self::PortInvalid,
        Self::PortNameInvalid,
        Self::PolicyTooLarge,
        Self::TooManyFindings,
    ];

    /// Whether the API server refuses a policy with this mistake, and every change that leaves it there. It drops
    /// fields that it does not know, and keeps what it took in earlier releases.
    #[must_use]
    pub const fn is_refused(self) -> bool {
        !matches!(self, Self::CidrLegacy | Self::FieldUnknown | Self::PolicyTooLarge)
    }

    /// Its stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FieldUnknown => "field-unknown",
            Self::NameInvalid => "name-invalid",
            Self::SelectorInvalid => "selector-invalid",
            Self::PolicyTypesInvalid => "policytypes-invalid",
            Self::PeerEmpty => "peer-empty",
            Self::PeerCombined => "peer-combined",
            Self::CidrInvalid => "cidr-invalid",
            Self::CidrLegacy => "cidr-legacy",
            Self::ExceptOutsideCidr => "except-outside-cidr",
            Self::ExceptCoversCidr => "except-covers-cidr",
            Self::PortInvalid => "port-invalid",
            Self::PortNameInvalid => "port-name-invalid",
            Self::PolicyTooLarge => "policy-too-large",
            Self::TooManyFindings => "too-many-findings",
        }
    }
}

/// What npc makes of a part that it does not understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Effect {
    /// This peer, port or rule matches nothing.
    MatchesNothing,
    /// The policy isolates what the rest of its podSelector selects, and
    /// allows nothing.
    AllowsNothing,
    /// The policy isolates the pods that it selects, and its rules allow nothing, because there is no
    /// room for them.
    RulesLeftOut,
    /// The policy isolates its pods in both directions.
    IsolatesBoth,
    /// It is understood as older API servers did, and works.
    Works,
    /// A field directly below `spec` that the API does not have, or a `spec` under another name. The policy is what the
    /// other fields make of it: without its podSelector it selects every pod of its namespace.
    FieldDropped,
    /// It makes no difference.
    Ignored,
}

impl Effect {
    /// Whether npc enforces something else than the policy's author meant. Otherwise only its spelling
    /// is to be corrected.
    #[must_use]
    pub fn is_harmful(self) -> bool {
        !matches!(self, Self::Works | Self::Ignored)
    }

    /// Whether npc understood the part, and a bound leaves no room for it.
    #[must_use]
    pub fn is_of_bound(self) -> bool {
        self == Self::RulesLeftOut
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MatchesNothing => "this part matches nothing",
            Self::AllowsNothing => "the policy isolates what the rest of its podSelector selects and allows nothing",
            Self::RulesLeftOut => "the policy isolates the pods that it selects there, and its rules allow nothing",
            Self::IsolatesBoth => "the policy isolates its pods for ingress and egress",
            Self::Works => "it works, but today's API server would refuse it",
            Self::FieldDropped => "npc enforces the policy without it",
            Self::Ignored => "it is ignored",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name, path, problem, effect, .. } = self;
        write!(f, "networkpolicy {namespace}/{name} {path}: {problem}; {effect}")
    }
}
