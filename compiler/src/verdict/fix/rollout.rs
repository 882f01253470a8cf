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
    /// The workload replaces its pods; some of them run.
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

/// Whether a pod template, as it is by now, reaches the pods that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum TemplateReach {
    /// The workload replaces its pods, and nothing else is needed.
    Replaced,
    /// This must happen, or hold.
    By(Rollout),
    /// Some pods keep the older template, also when they are made anew.
    NotAll,
}

/// What brings a change of its template to the pods of a workload.
pub(super) fn template_reach(written: &dyn Written, object: &ObjectName) -> TemplateReach {
    let text = |path: &[&str]| written.text(object, path);
    let is_written = written.has(object);
    let unless = |rollout: Rollout| if is_written { TemplateReach::Replaced } else { TemplateReach::By(rollout) };
    match object.kind.as_str() {
        "Deployment" => match text(&["spec", "paused"]) {
            Some(paused) if paused.eq_ignore_ascii_case("true") => TemplateReach::By(Rollout::Resume),
            _ => unless(Rollout::UnlessPaused),
        },
        "DaemonSet" | "StatefulSet" => {
            let partition = text(&["spec", "updateStrategy", "rollingUpdate", "partition"]);
            match text(&["spec", "updateStrategy", "type"]).as_deref() {
                Some("OnDelete") => TemplateReach::By(Rollout::DeletePods),
                // Pods below the partition keep the old template, also when they are made anew.
                _ if partition.is_some_and(|partition| partition.trim() != "0") => TemplateReach::NotAll,
                _ => unless(Rollout::UnlessOnDelete),
            }
        }
        "CronJob" => TemplateReach::By(Rollout::NextJob),
        _ => TemplateReach::By(Rollout::DeletePods),
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
            ("Deployment", &[][..], TemplateReach::Replaced),
            ("Deployment", &[("spec.paused", "false")], TemplateReach::Replaced),
            ("Deployment", &[("spec.paused", "true")], TemplateReach::By(Rollout::Resume)),
            ("StatefulSet", &[], TemplateReach::Replaced),
            ("StatefulSet", on_delete, TemplateReach::By(Rollout::DeletePods)),
            ("StatefulSet", part, TemplateReach::NotAll),
            ("StatefulSet", whole, TemplateReach::Replaced),
            ("DaemonSet", on_delete, TemplateReach::By(Rollout::DeletePods)),
            ("DaemonSet", &[], TemplateReach::Replaced),
            ("ReplicaSet", &[], TemplateReach::By(Rollout::DeletePods)),
            ("ReplicationController", &[], TemplateReach::By(Rollout::DeletePods)),
            ("CronJob", &[], TemplateReach::By(Rollout::NextJob)),
        ] {
            let object = ObjectName::new(kind, "shop", "cart");
            assert_eq!(template_reach(&Fields(fields), &object), expected, "{kind} {fields:?}");
        }
        let of_pods = |kind| template_reach(&(), &ObjectName::new(kind, "shop", "cart"));
        assert_eq!(of_pods("Deployment"), TemplateReach::By(Rollout::UnlessPaused));
        assert_eq!(of_pods("StatefulSet"), TemplateReach::By(Rollout::UnlessOnDelete));
    }
}
