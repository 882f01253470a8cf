//! Marks: the very things of a rule that a conjunct fails by.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::algebra::selector::{Operator, Requirement, Selector};
use crate::algebra::typo::is_slip_of;
use crate::object::Labels;
use crate::verdict::explain::decision::item_path::ItemPath;

/// The very thing that a [`Conjunct`](crate::verdict::explain::Conjunct) fails by: a label, an operator, an
/// item, a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The path of the field, or of the selector that has the requirement.
    pub path: ItemPath,
    /// The requirement of the selector at this path, where it is one.
    pub requirement: Option<FailedRequirement>,
}

/// A requirement of a selector that labels do not meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailedRequirement {
    /// The requirement.
    pub requirement: Requirement,
    /// The value of the label, if there is one.
    pub value: Option<String>,
}

impl Mark {
    /// A field.
    #[must_use]
    pub const fn field(path: ItemPath) -> Self {
        Self { path, requirement: None }
    }

    /// A requirement of the selector at a path.
    pub(in crate::verdict::explain) const fn requirement(path: ItemPath, failed: FailedRequirement) -> Self {
        Self { path, requirement: Some(failed) }
    }
}

/// A requirement, with the first few of many values.
pub(in crate::verdict::explain) fn in_words(requirement: &Requirement) -> String {
    /// At most this many values are listed.
    const LISTED: usize = 8;
    let Requirement { key, operator } = requirement;
    let (word, values) = match operator {
        Operator::In(values) if values.len() > LISTED + 1 => ("in", values),
        Operator::NotIn(values) if values.len() > LISTED + 1 => ("notin", values),
        _ => return requirement.to_string(),
    };
    format!("{key} {word} ({}, +{} more)", values[..LISTED].join(","), values.len() - LISTED)
}

/// The value of a label: `app=api`, `no label app`.
pub(in crate::verdict::explain) fn label_in_words(key: &str, value: Option<&str>) -> String {
    value.map_or_else(|| format!("no label {key}"), |value| format!("{key}={value}"))
}

impl FailedRequirement {
    /// A requirement that labels do not meet.
    pub(in crate::verdict::explain) fn of(requirement: &Requirement, labels: &Labels) -> Self {
        Self { requirement: requirement.clone(), value: labels.get(&requirement.key).cloned() }
    }

    /// What it asks for: `app=web`.
    #[must_use]
    pub fn want(&self) -> String {
        in_words(&self.requirement)
    }

    /// What there is: `app=api`, `no label app`.
    #[must_use]
    pub fn got(&self) -> String {
        label_in_words(&self.requirement.key, self.value.as_deref())
    }

    /// Whether the label has a value that differs by little from one that is asked for.
    pub(in crate::verdict::explain) fn is_slip(&self) -> bool {
        self.value.as_ref().is_some_and(|value| is_slip_of(&self.requirement, value))
    }

    /// Where the requirement stands in a selector as it is written, and there the very part
    /// that fails: `matchLabels.app`, `matchExpressions[1].values`. None if the selector does
    /// not have it.
    #[must_use]
    pub fn path_in(&self, written: &LabelSelector) -> Option<String> {
        let Requirement { key, operator } = &self.requirement;
        let label = written.match_labels.iter().flatten().find(|(of, value)| {
            *of == key && matches!(operator, Operator::In(values) if values.len() == 1 && values[0] == **value)
        });
        if label.is_some() {
            return Some(format!("matchLabels.{key}"));
        }
        let expressions = written.match_expressions.as_deref().unwrap_or_default();
        let (i, expression) = expressions.iter().enumerate().find(|(_, expression)| {
            let alone = LabelSelector { match_labels: None, match_expressions: Some(vec![(*expression).clone()]) };
            let (read, _) = Selector::read(&alone);
            read.requirements().eq([&self.requirement])
        })?;
        let part = match (operator, &self.value) {
            (Operator::In(_), None) => "key".to_owned(),
            (Operator::In(_), Some(_)) => "values".to_owned(),
            (Operator::NotIn(_), value) => {
                let mut values = expression.values.iter().flatten();
                let at = values.position(|of| Some(of) == value.as_ref());
                at.map_or_else(|| "values".to_owned(), |at| format!("values[{at}]"))
            }
            (Operator::Exists | Operator::DoesNotExist, _) => "operator".to_owned(),
        };
        Some(format!("matchExpressions[{i}].{part}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_is_found_in_the_selector_as_it_is_written() {
        let written = r#"{"matchLabels": {"a/b.c": "x", "tier": "db"}, "matchExpressions": [
            {"key": "tier", "operator": "Exists"}, {"key": "env", "operator": "In", "values": ["b", "a"]},
            {"key": "env", "operator": "NotIn", "values": ["test", "dev"]}, {"key": "old", "operator": "DoesNotExist"},
            {"key": "tier", "operator": "In", "values": ["db"]}]}"#;
        let written: LabelSelector = serde_json::from_str(written).expect("a selector");
        let (selector, bad) = Selector::read(&written);
        assert!(bad.is_empty());
        let paths = |labels: &[(&str, &str)]| -> Vec<String> {
            let labels: Labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let failed = selector.requirements().filter(|of| !of.matches(&labels));
            let failed = failed.map(|of| FailedRequirement::of(of, &labels));
            failed.map(|failed| failed.path_in(&written).expect("it is there")).collect()
        };
        assert_eq!(
            paths(&[]),
            ["matchLabels.a/b.c", "matchExpressions[1].key", "matchLabels.tier", "matchExpressions[0].operator"]
        );
        assert_eq!(
            paths(&[("a/b.c", "y"), ("tier", "web"), ("env", "dev"), ("old", "yes")]),
            [
                "matchLabels.a/b.c",
                "matchExpressions[1].values",
                "matchExpressions[2].values[1]",
                "matchExpressions[3].operator",
                "matchLabels.tier"
            ]
        );
        let other = Requirement { key: "tier".to_owned(), operator: Operator::In(["other".to_owned()].into()) };
        assert_eq!(FailedRequirement::of(&other, &Labels::new()).path_in(&written), None);
    }
}
