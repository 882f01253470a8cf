//! The chains and sets of the table, by their names.

/// A chain of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BridgeChain {
    /// Its name.
    pub(super) name: &'static str,
    /// The number of the hook by which frames enter it; the others are led to.
    pub(super) hook: Option<u32>,
}

/// Ahead of all that others do, br_netfilter's hooks among it, which lead to
/// iptables at priority 0.
pub(super) const PRIORITY: i32 = -300;

/// Frames that a port of a bridge receives.
pub(super) const RECEIVED: BridgeChain = BridgeChain { name: "PREROUTING", hook: Some(0) };
/// Frames that a bridge hands from one port to another.
pub(super) const FORWARDED: BridgeChain = BridgeChain { name: "FORWARD", hook: Some(2) };

// One question of a set leads a frame to its chain, and one of its type on: asked in
// each rule, they would cost more than all else (measured: 1.8 µs a frame instead of 0.5).
pub(super) const FROM_PODS: BridgeChain = led_to("from-pods");
pub(super) const FROM_PODS_ARP: BridgeChain = led_to("from-pods-arp");
pub(super) const FROM_PODS_IPV4: BridgeChain = led_to("from-pods-ip");
pub(super) const FROM_PODS_IPV6: BridgeChain = led_to("from-pods-ip6");
pub(super) const FRAGMENTS: BridgeChain = led_to("fragments");
pub(super) const PINNED: BridgeChain = led_to("held");
pub(super) const PINNED_ARP: BridgeChain = led_to("held-arp");
pub(super) const PINNED_IPV4: BridgeChain = led_to("held-ip");
pub(super) const PINNED_IPV6: BridgeChain = led_to("held-ip6");
pub(super) const GUARDED: BridgeChain = led_to("guarded");

const fn led_to(name: &'static str) -> BridgeChain {
    BridgeChain { name, hook: None }
}

/// All of them.
pub(super) const CHAINS: [BridgeChain; 12] = [
    RECEIVED,
    FORWARDED,
    FROM_PODS,
    FROM_PODS_ARP,
    FROM_PODS_IPV4,
    FROM_PODS_IPV6,
    FRAGMENTS,
    PINNED,
    PINNED_ARP,
    PINNED_IPV4,
    PINNED_IPV6,
    GUARDED,
];

/// The sets that rules ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BridgeSet {
    /// Ports of pods.
    Ports,
    /// Ports pinned to their own sources.
    Pinned,
    /// Ports to which nothing goes but what is for their own addresses.
    Guarded,
    /// Ports from which nothing goes to a known one but what is for its own addresses.
    Confined,
    /// Ports whose addresses are known.
    Known,
    /// A port and its pod's Ethernet address.
    Senders,
    /// A port and an IPv4 address of its pod.
    Addresses4,
    /// A port and an IPv6 address of its pod.
    Addresses6,
}

impl BridgeSet {
    pub(super) const ALL: [Self; 8] = [
        Self::Ports,
        Self::Pinned,
        Self::Guarded,
        Self::Confined,
        Self::Known,
        Self::Senders,
        Self::Addresses4,
        Self::Addresses6,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Pinned => "held",
            Self::Guarded => "guarded",
            Self::Confined => "confined",
            Self::Known => "known",
            Self::Senders => "senders",
            Self::Addresses4 => "addresses4",
            Self::Addresses6 => "addresses6",
        }
    }

    /// How many bytes a member has. Each of its fields fills whole registers of
    /// four.
    pub(super) const fn key_length(self) -> usize {
        match self {
            Self::Ports | Self::Pinned | Self::Guarded | Self::Confined | Self::Known => 4,
            Self::Senders => 12,
            Self::Addresses4 => 8,
            Self::Addresses6 => 20,
        }
    }

    /// For `nft`, which prints members by it: its numbers of types, six bits each.
    pub(super) const fn key_type(self) -> u32 {
        const INTERFACE: u32 = 20;
        match self {
            Self::Ports | Self::Pinned | Self::Guarded | Self::Confined | Self::Known => INTERFACE,
            Self::Senders => INTERFACE << 6 | 9,
            Self::Addresses4 => INTERFACE << 6 | 7,
            Self::Addresses6 => INTERFACE << 6 | 8,
        }
    }
}
