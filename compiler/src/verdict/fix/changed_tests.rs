//! A cluster in which one policy changed is the one that the objects describe.

use proptest::prelude::*;

use super::*;
use crate::cluster::PodId;
use crate::cluster::group::Group;
use crate::ruleset::layout::{Bounds, RulesetOptions};
use crate::ruleset::members;
use crate::sample_services::objects_with_services;
use crate::verdict::fix::added::Added;
use crate::verdict::fix::change::{Change, Edit};

/// What decides about a pod in a direction.
fn group_of<'a>(cluster: &Cluster, groups: &'a Groups, pod: PodId, direction: Direction) -> Option<(&'a Group, bool)> {
    let of_pod = groups.of(pod, direction)?;
    let is_listed = groups.iter().any(|(id, _)| id == of_pod);
    assert!(cluster.pod(pod).is_endpoint());
    Some((groups.get(of_pod), is_listed))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_policy_that_changed_or_is_new_decides_as_in_a_cluster_made_anew(
        objects in objects_with_services(),
        others in objects_with_services(),
        same_name in any::<bool>(),
        most in 1_u64..40,
    ) {
        let options = RulesetOptions { bounds: Bounds::of_members(most), ..RulesetOptions::default() };
        let bounded = |cluster: Cluster, namespace: Option<&str>| match namespace {
            Some(namespace) => members::bounded_in(cluster, namespace, &options),
            None => members::bounded(cluster, &options),
        };
        let first = members::bounded(Cluster::new(&objects), &options);
        let groups = Groups::of_cluster(&first);
        let mut made = None::<Changed>;
        let mut objects_now = objects.clone();
        for (place, mut policy) in others.policies.into_iter().take(3).enumerate() {
            if same_name && let Some(of) = objects.policies.get(place) {
                policy.object.metadata.name.clone_from(&of.object.metadata.name);
                policy.object.metadata.namespace.clone_from(&of.object.metadata.namespace);
            }
            let object = ObjectName::new("NetworkPolicy", policy.namespace(), policy.name());
            let document = serde_json::to_value(&policy.object).expect("a policy is JSON");
            let edit = Edit::NewPolicy(document);
            let direction = Direction::Ingress;
            let change = Change { direction, object, edit, rollout: None, adds: Added::default() };
            policy.unknown_fields.clear();
            put(&mut objects_now.policies, policy);

            let root = View::new(&objects, (&first, &groups), &(), &bounded);
            let before = made.as_ref().map_or(root, |made| made.view(root));
            let after = Changed::new(before, &change).expect("a new policy fits");
            let anew = members::bounded(Cluster::new(&objects_now), &options);
            let anew_groups = Groups::of_cluster(&anew);
            for ((id, policy), (id_anew, policy_anew)) in after.cluster.policies().zip(anew.policies()) {
                prop_assert_eq!((id, policy), (id_anew, policy_anew));
                let nodes = after.cluster.nodes_without_rules_of(id);
                prop_assert!(nodes.eq(anew.nodes_without_rules_of(id)), "{:?}", policy);
            }
            prop_assert_eq!(after.cluster.policies().count(), anew.policies().count());
            prop_assert_eq!(after.cluster.findings(), anew.findings());
            for (pod, _) in anew.endpoints() {
                for direction in Direction::ALL {
                    let of = |cluster, groups| group_of(cluster, groups, pod, direction).map(|(of, is_listed)| (&of.key, &of.admitted, is_listed));
                    prop_assert_eq!(of(&after.cluster, &after.groups), of(&anew, &anew_groups));
                }
            }
            prop_assert_eq!(after.groups.iter().count(), anew_groups.iter().count(), "no group is left over");
            made = Some(after);
        }
    }
}
