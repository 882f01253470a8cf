//! What to say where several pods list the address of an end.

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::cluster::{Cluster, PodId};
use npc_compiler::verdict::explain::Party;
use npc_compiler::verdict::flow::End;

use super::ends::Unit;

/// A warning for each address of these ends that several pods list.
pub(super) fn warnings(cluster: &Cluster, units: &[Unit]) -> Vec<String> {
    let listed = |unit: &Unit| match unit.party {
        Party::End(End::Pod(pod)) | Party::Host(pod) => cluster.pod(pod).addresses().collect(),
        Party::End(End::Address(address)) => vec![address],
    };
    let addresses: BTreeSet<IpAddr> = units.iter().flat_map(listed).collect();
    addresses.into_iter().filter_map(|address| warning(cluster, address)).collect()
}

/// Who lists an address, and who has it as seen from where.
fn warning(cluster: &Cluster, address: IpAddr) -> Option<String> {
    let contest = cluster.contest(address)?;
    let name = |id: &PodId| {
        let pod = cluster.pod(*id);
        let node = pod.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
        format!("pod {}/{}{node}", pod.namespace, pod.name)
    };
    let names = |pods: &[PodId]| pods.iter().map(name).collect::<Vec<_>>().join(" and ");
    let mut views: Vec<String> = contest
        .holders_by_node()
        .map(|(node, holders)| match holders {
            [pod] => format!("node {node} judges it as {}", name(pod)),
            pods => format!(
                "nothing tells node {node} whose it is, so it is isolated there if any is, and admitted only what the \
                 policies of {} admit",
                names(pods)
            ),
        })
        .collect();
    views.push(match contest.holders_elsewhere() {
        [pod] => format!("rules of other nodes take it for {}", name(pod)),
        pods => format!("rules of other nodes admit it only where they admit {}", names(pods)),
    });
    Some(format!("{} list {address}: {}", names(&contest.claimants), views.join("; ")))
}
