//! What rules admit whose other ends are not in the input, as it is printed.

use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::{Cluster, PolicyId};
use npc_compiler::policy::Direction;
use npc_compiler::verdict::absent_peer::{Absent, absent_peers};
use serde::Serialize;

use super::rule_text::{self, Style};
use super::words::policy_name;

/// What a rule admits whose other end is not in the input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct AbsentEnd {
    /// As tables write them: `8080`, `53/udp`, a name, `*`.
    pub(super) ports: String,
    /// What the ports mean; of a name, all ports of its protocol.
    #[serde(skip)]
    pub(super) traffic: Traffic,
    /// The peer: `app=prometheus in namespace monitoring`.
    pub(super) peer: String,
    /// The policy as `NS/NAME`.
    pub(super) policy: String,
    /// The path of the peer.
    pub(super) path: String,
    /// Whether the input has pods that it means, in the policy's own namespace alone.
    #[serde(skip)]
    pub(super) is_partly_here: bool,
    /// Why none of its pods is judged.
    pub(super) found: Absent,
}

/// The same for a peer whose pods in the policy's own namespace the input may have.
pub(super) const fn words_of_part(absent: Absent, is_partly_here: bool) -> &'static str {
    match absent {
        Absent::None if is_partly_here => "(none of other namespaces in the input)",
        absent => words(absent),
    }
}

/// Why none of a peer's pods is judged, behind the peer, in brackets.
pub(super) const fn words(absent: Absent) -> &'static str {
    match absent {
        Absent::None => "(none in the input)",
        Absent::NotRead => "(not read)",
        Absent::NotKnown => "(the input does not say whether it has these)",
        Absent::HostNetwork => "(only hostNetwork pods have these labels; no selector selects them)",
    }
}

/// What rules of a policy admit whose other ends are not in the input.
pub(super) fn elsewhere(cluster: &Cluster, id: PolicyId, direction: Direction) -> Vec<AbsentEnd> {
    let absent = absent_peers(cluster, id, direction).into_iter().map(|of| AbsentEnd {
        ports: rule_text::ports(&of.rule.ports),
        traffic: of.traffic,
        peer: rule_text::peer(of.peer, Style::Short),
        policy: policy_name(cluster, id),
        path: format!("{}.{}[{}]", of.rule.path, direction.peers_field(), of.place),
        is_partly_here: of.is_partly_here,
        found: of.why,
    });
    absent.collect()
}
