//! Which interfaces of pods are in their device group, and so pinned to what rules ask of
//! them.

use npc_compiler::engine::Engine;
use npc_compiler::ruleset::constants::POD_GROUP;
use tracing::warn;

use super::pod_interfaces::PodInterfaces;
use super::writer::Writer;
use crate::dataplane::Kernel;
use crate::dataplane::links::NO_GROUP;
use crate::dataplane::network::Network;
use crate::words::causes::with_causes;

/// Takes interfaces out of the group before the sources of their pods go, and into it
/// after these came.
#[derive(Debug, Default)]
pub(super) struct DeviceGroup {
    /// The engine was given the sources of pods.
    has_sources: bool,
}

impl DeviceGroup {
    /// Has the interfaces leave that are no pods' any more, and gives the engine the
    /// sources of those that are. What leaves is pinned to nothing when its sources go. If
    /// the rest of the pass fails, it joins again with the next one.
    pub(super) fn leave<K: Kernel>(
        &mut self,
        interfaces: &mut PodInterfaces,
        writer: &mut Writer<K>,
        engine: &mut Engine,
    ) {
        let left = writer.set_group(&interfaces.leave, NO_GROUP);
        // Without any sources, the rules would drop all that comes from the group.
        if left.is_ok() || !self.has_sources {
            engine.own(interfaces.own.iter().copied());
            self.has_sources = true;
        }
        if let Err(error) = left {
            warn!(
                error = with_causes(&error),
                "cannot remove interfaces from the pod device group; rules still treat them as pod interfaces"
            );
            (interfaces.join, interfaces.leave) = Default::default();
        }
    }

    /// Has the interfaces of new pods join.
    pub(super) fn join<K: Kernel>(interfaces: &mut PodInterfaces, writer: &mut Writer<K>, network: &Network) {
        if let Err(error) = writer.set_group(&interfaces.join, POD_GROUP) {
            warn!(
                error = with_causes(&error),
                "cannot add interfaces of new pods to the pod device group; until then npc does not drop forged ICMP errors \
                 from these pods, nor forged sources with --anti-spoof; policies are enforced"
            );
            interfaces
                .not_joined(network, "the kernel does not let the interface into the device group of pods' interfaces");
        }
    }
}
