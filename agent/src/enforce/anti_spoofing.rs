//! What is done about forged sources.

/// What is done about forged sources.
#[derive(Debug)]
pub(super) enum AntiSpoofing {
    /// Nothing: it was not asked for.
    Off,
    /// The rules of [`RulesetOptions::anti_spoof`](npc_compiler::ruleset::layout::RulesetOptions::anti_spoof), and
    /// ports of bridges are pinned to their pods' addresses.
    On,
    /// Ports of bridges are pinned, which takes nothing of iptables. The kernel lacks something that the rules
    /// take.
    PortsOnly {
        /// What that is, as a sentence.
        lack: String,
    },
}

impl AntiSpoofing {
    /// Whether ports of bridges are to be pinned to their pods' addresses.
    pub(super) const fn pins_ports(&self) -> bool {
        !matches!(self, Self::Off)
    }
}
