//! Kinds in the input that npc does not judge and that bear on every answer.

use std::collections::BTreeMap;

use npc_compiler::object::{Consequence, consequence};

/// The kinds that were passed over and have this consequence, as `1 Kafka.kafka.strimzi.io`.
pub(super) fn with(skipped: &BTreeMap<String, usize>, wanted: Consequence) -> Vec<String> {
    let has = |qualified: &str| {
        let (kind, group) = qualified.split_once('.').unwrap_or((qualified, ""));
        consequence(group, kind) == Some(wanted)
    };
    let found = skipped.iter().filter(|(qualified, _)| has(qualified));
    found.map(|(qualified, count)| format!("{count} {qualified}")).collect()
}

/// What to say of the kinds that were passed over: nothing of those that say nothing about
/// connectivity.
pub(super) fn warnings(skipped: &BTreeMap<String, usize>) -> Vec<String> {
    let mut by_consequence = BTreeMap::<Consequence, Vec<String>>::new();
    for (qualified, count) in skipped {
        let (kind, group) = qualified.split_once('.').unwrap_or((qualified, ""));
        if let Some(consequence) = consequence(group, kind) {
            by_consequence.entry(consequence).or_default().push(format!("{count} {qualified}"));
        }
    }
    let text = |(consequence, kinds): (Consequence, Vec<String>)| {
        let kinds = kinds.join(", ");
        match consequence {
            Consequence::Decides => {
                format!("npc judges NetworkPolicies only; not judged, and may decide otherwise: {kinds}")
            }
            Consequence::MakesPods => format!("the pods that these make are not in the input: {kinds}"),
        }
    };
    by_consequence.into_iter().map(text).collect()
}
