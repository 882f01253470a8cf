//! Pods that are like a pod in all labels but one: replicas of one thing with different roles.

use crate::algebra::selector::Requirement;
use crate::cluster::{Cluster, PodId};
use crate::object::{Labels, is_controller_label};
use crate::policy::PodPeer;

/// Whether a podSelector that misses a pod by one requirement selects pods that are like it in all
/// other labels. These are replicas of one thing, and the policy means some of them.
pub(in crate::verdict::explain) fn selects_similar_pods(
    cluster: &Cluster,
    selector: &PodPeer,
    pod: PodId,
    failing: &Requirement,
) -> bool {
    let own = |labels: &Labels| -> Labels {
        let kept = labels.iter().filter(|(key, _)| **key != failing.key && !is_controller_label(key));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let like = own(&cluster.pod(pod).labels);
    !like.is_empty() && cluster.selected(selector).iter().any(|class| own(&cluster.class(*class).labels) == like)
}
