//! What brings a changed pod template to the pods that run.
//!
//! Sources: <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>,
//! <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#update-strategies>,
//! <https://kubernetes.io/docs/tasks/manage-daemon/update-daemon-set/>. The controllers of
//! ReplicaSets and ReplicationControllers make new pods after the template and leave those that
//! run; a CronJob makes new Jobs after it.

use super::object_name::ObjectName;
use super::written::Written;

/// What must happen after a change of a pod template, or hold, so that the pods get what it adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Rollout {
    /// The workload replaces its pods, of which some run.
    Replaces,
    /// The Deployment is paused. It replaces its pods when it is resumed.
    Resume,
    /// The workload replaces no pod that runs. Its pods get the change when they are deleted.
    DeletePods,
    /// The CronJob's next Job has pods with it.
    NextJob,
    /// The Deployment replaces its pods unless it is paused. The input does not say whether it is.
    UnlessPaused,
    /// The StatefulSet or DaemonSet replaces its pods, unless its update strategy is `OnDelete` or
    /// has a partition. The input does not say its strategy.
    UnlessOnDelete,
}

/// What brings a change of its template to the pods of a workload: inside none, where the workload
/// replaces its pods and nothing else is needed. None where the change does not reach all pods.
#[allow(clippy::option_option, reason = "whether the change reaches the pods, and what that needs")]
pub(super) fn rollout(written: &dyn Written, object: &ObjectName) -> Option<Option<Rollout>> {
    let text = |path: &[&str]| written.text(object, path);
    let is_written = written.has(object);
    let unless = |rollout: Rollout| Some((!is_written).then_some(rollout));
    match object.kind.as_str() {
        "Deployment" => match text(&["spec", "paused"]) {
            Some(paused) if paused.eq_ignore_ascii_case("true") => Some(Some(Rollout::Resume)),
            _ => unless(Rollout::UnlessPaused),
        },
        "DaemonSet" | "StatefulSet" => {
            let partition = text(&["spec", "updateStrategy", "rollingUpdate", "partition"]);
            match text(&["spec", "updateStrategy", "type"]).as_deref() {
                Some("OnDelete") => Some(Some(Rollout::DeletePods)),
                // Pods below the partition keep the old template, also when they are made anew.
                _ if partition.is_some_and(|partition| partition.trim() != "0") => None,
                _ => unless(Rollout::UnlessOnDelete),
            }
        }
        "CronJob" => Some(Some(Rollout::NextJob)),
        _ => Some(Some(Rollout::DeletePods)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields that an object has.
    struct Fields(&'static [(&'static str, &'static str)]);

    impl Written for Fields {
        fn has(&self, _: &ObjectName) -> bool {
            true
        }

        fn text(&self, _: &ObjectName, path: &[&str]) -> Option<String> {
            let path = path.join(".");
            self.0.iter().find(|(of, _)| *of == path).map(|(_, text)| (*text).to_owned())
        }
    }

    #[test]
    fn a_template_reaches_the_pods_as_its_controller_says() {
        let on_delete = &[("spec.updateStrategy.type", "OnDelete")][..];
        let part =
            &[("spec.updateStrategy.type", "RollingUpdate"), ("spec.updateStrategy.rollingUpdate.partition", "2")][..];
        let whole = &[("spec.updateStrategy.rollingUpdate.partition", "0")][..];
        for (kind, fields, expected) in [
            ("Deployment", &[][..], Some(None)),
            ("Deployment", &[("spec.paused", "false")], Some(None)),
            ("Deployment", &[("spec.paused", "true")], Some(Some(Rollout::Resume))),
            ("StatefulSet", &[], Some(None)),
            ("StatefulSet", on_delete, Some(Some(Rollout::DeletePods))),
            ("StatefulSet", part, None),
            ("StatefulSet", whole, Some(None)),
            ("DaemonSet", on_delete, Some(Some(Rollout::DeletePods))),
            ("DaemonSet", &[], Some(None)),
            ("ReplicaSet", &[], Some(Some(Rollout::DeletePods))),
            ("ReplicationController", &[], Some(Some(Rollout::DeletePods))),
            ("CronJob", &[], Some(Some(Rollout::NextJob))),
        ] {
            let object = ObjectName::new(kind, "shop", "cart");
            assert_eq!(rollout(&Fields(fields), &object), expected, "{kind} {fields:?}");
        }
        let of_pods = |kind| rollout(&(), &ObjectName::new(kind, "shop", "cart"));
        assert_eq!(of_pods("Deployment"), Some(Some(Rollout::UnlessPaused)));
        assert_eq!(of_pods("StatefulSet"), Some(Some(Rollout::UnlessOnDelete)));
    }
}
