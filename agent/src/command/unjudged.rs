//! Kinds in the input that npc does not judge and that bear on every answer.

use std::collections::BTreeMap;

use npc_agent::finding::Finding;
use npc_agent::source::manifests::{Loaded, Location, ObjectRef};
use npc_compiler::object::{self, Consequence};

use super::warning::{Warning, WarningCode};

/// What a kind that was passed over means for the answers: by its name, or because a pod's
/// containers stand in its objects.
fn consequence(loaded: &Loaded, qualified: &str) -> Option<Consequence> {
    let (kind, group) = qualified.split_once('.').unwrap_or((qualified, ""));
    let makes_pods = || loaded.pod_makers.contains(qualified).then_some(Consequence::MakesPods);
    object::consequence(group, kind).or_else(makes_pods)
}

/// The kinds that were passed over and have one of these consequences, as `1 Kafka.kafka.strimzi.io`.
pub(super) fn with(loaded: &Loaded, wanted: &[Consequence]) -> Vec<String> {
    let has = |qualified: &str| consequence(loaded, qualified).is_some_and(|of| wanted.contains(&of));
    let found = loaded.skipped.iter().filter(|(qualified, _)| has(qualified));
    found.map(|(qualified, count)| format!("{count} {qualified}")).collect()
}

/// What to say of the kinds that were passed over: nothing of those that say nothing about
/// connectivity.
pub(super) fn warnings(loaded: &Loaded) -> Vec<Warning> {
    let mut by_consequence = BTreeMap::<Consequence, Vec<(&str, String)>>::new();
    for (qualified, count) in &loaded.skipped {
        if let Some(consequence) = consequence(loaded, qualified) {
            by_consequence.entry(consequence).or_default().push((qualified, format!("{count} {qualified}")));
        }
    }
    let warning = |(consequence, kinds): (Consequence, Vec<(&str, String)>)| {
        let (code, what) = match consequence {
            Consequence::Decides => (
                WarningCode::PoliciesNotJudged,
                "npc judges NetworkPolicies only; not judged, and may decide otherwise",
            ),
            Consequence::MakesPods => (WarningCode::PodsNotInInput, "the pods that these make are not in the input"),
            Consequence::MakesObjects => {
                (WarningCode::ObjectsNotInInput, "the pods and policies that these may make are not in the input")
            }
        };
        let findings = kinds.iter().flat_map(|(qualified, _)| findings(loaded, code, what, qualified)).collect();
        let kinds: Vec<&str> = kinds.iter().map(|(_, counted)| counted.as_str()).collect();
        Warning::of_each(code, format!("{what}: {}", kinds.join(", ")), findings)
    };
    by_consequence.into_iter().map(warning).collect()
}

/// A finding for each object of a kind that is from a file, and one for those of a cluster, which are only counted.
fn findings(loaded: &Loaded, code: WarningCode, what: &str, qualified: &str) -> Vec<Finding> {
    let placed = loaded.skipped_objects.get(qualified).map(Vec::as_slice).unwrap_or_default();
    let count = loaded.skipped.get(qualified).copied().unwrap_or_default();
    let others = count.saturating_sub(placed.len());
    let of_object = |(object, place): &(ObjectRef, Location)| {
        code.of_object(format!("{what}: {qualified}"), object.clone(), Some(place))
    };
    let of_others = (others > 0).then(|| code.finding(format!("{what}: {others} {qualified}")));
    placed.iter().map(of_object).chain(of_others).collect()
}
