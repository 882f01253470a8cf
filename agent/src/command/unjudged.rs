//! Kinds in the input that npc does not judge and that bear on every answer.

use std::collections::BTreeMap;

use npc_agent::finding::{Finding, Place};
use npc_agent::source::manifests::Loaded;
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
        // At the first object of each kind.
        let finding = |(qualified, counted): &(&str, String)| Finding {
            location: loaded.skipped_at.get(*qualified).map(Place::from),
            ..code.finding(format!("{what}: {counted}"))
        };
        let findings = kinds.iter().map(finding).collect();
        let kinds: Vec<&str> = kinds.iter().map(|(_, counted)| counted.as_str()).collect();
        Warning::of_each(code, format!("{what}: {}", kinds.join(", ")), findings)
    };
    by_consequence.into_iter().map(warning).collect()
}
