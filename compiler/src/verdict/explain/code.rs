//! Why flows are denied, as stable codes.

/// Why a flow is denied; stable codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is its code, which `npc reason` explains at length")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Code {
    DefaultDenyOnly,
    RuleMissing,
    PeerLabelMissing,
    PeerLabelValue,
    PeerOtherNamespace,
    PeerNamespaceLabel,
    PeerAndNotOr,
    PeerOrNotAnd,
    PeerHostNetwork,
    IpBlockOutside,
    IpBlockExcept,
    IpBlockFamily,
    IpBlockIsServiceAddress,
    PortNumber,
    PortProtocol,
    PortIsServicePort,
    PortNamedUnresolved,
    PortNamedOtherProtocol,
    PortRange,
    DirectionOther,
    PolicyOtherNamespace,
    SubjectNearMiss,
    PolicyTypesMissing,
    RuleNotUnderstood,
    PolicyTooLarge,
    ServiceNoBackends,
    ServicePortUnknown,
    ServiceSourceRanges,
}

impl Code {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 28] = [
        Self::DefaultDenyOnly,
        Self::RuleMissing,
        Self::PeerLabelMissing,
        Self::PeerLabelValue,
        Self::PeerOtherNamespace,
        Self::PeerNamespaceLabel,
        Self::PeerAndNotOr,
        Self::PeerOrNotAnd,
        Self::PeerHostNetwork,
        Self::IpBlockOutside,
        Self::IpBlockExcept,
        Self::IpBlockFamily,
        Self::IpBlockIsServiceAddress,
        Self::PortNumber,
        Self::PortProtocol,
        Self::PortIsServicePort,
        Self::PortNamedUnresolved,
        Self::PortNamedOtherProtocol,
        Self::PortRange,
        Self::DirectionOther,
        Self::PolicyOtherNamespace,
        Self::SubjectNearMiss,
        Self::PolicyTypesMissing,
        Self::RuleNotUnderstood,
        Self::PolicyTooLarge,
        Self::ServiceNoBackends,
        Self::ServicePortUnknown,
        Self::ServiceSourceRanges,
    ];

    /// Its stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DefaultDenyOnly => "default-deny-only",
            Self::RuleMissing => "rule-missing",
            Self::PeerLabelMissing => "peer-label-missing",
            Self::PeerLabelValue => "peer-label-value",
            Self::PeerOtherNamespace => "peer-other-namespace",
            Self::PeerNamespaceLabel => "peer-namespace-label",
            Self::PeerAndNotOr => "peer-and-not-or",
            Self::PeerOrNotAnd => "peer-or-not-and",
            Self::PeerHostNetwork => "peer-hostnetwork",
            Self::IpBlockOutside => "ipblock-outside",
            Self::IpBlockExcept => "ipblock-except",
            Self::IpBlockFamily => "ipblock-family",
            Self::IpBlockIsServiceAddress => "ipblock-is-service-address",
            Self::PortNumber => "port-number",
            Self::PortProtocol => "port-protocol",
            Self::PortIsServicePort => "port-is-service-port",
            Self::PortNamedUnresolved => "port-named-unresolved",
            Self::PortNamedOtherProtocol => "port-named-other-protocol",
            Self::PortRange => "port-range",
            Self::DirectionOther => "direction-other",
            Self::PolicyOtherNamespace => "policy-other-namespace",
            Self::SubjectNearMiss => "subject-near-miss",
            Self::PolicyTypesMissing => "policytypes-missing",
            Self::RuleNotUnderstood => "rule-not-understood",
            Self::PolicyTooLarge => "policy-too-large",
            Self::ServiceNoBackends => "service-no-backends",
            Self::ServicePortUnknown => "service-port-unknown",
            Self::ServiceSourceRanges => "service-source-ranges",
        }
    }
}
