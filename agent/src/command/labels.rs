//! Labels by which commands show less, as kubectl's `-l` takes them.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use npc_compiler::algebra::selector::Selector;
use npc_compiler::object;

/// Labels as kubectl takes them: `app=web,tier!=db,env in (a,b),!legacy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Labels(Selector, String);

/// As they were written.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl Labels {
    /// Whether an object with these labels is meant.
    pub(super) fn select(&self, labels: &object::Labels) -> bool {
        self.0.matches(labels)
    }
}

impl FromStr for Labels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let requirements = split(text).into_iter().map(requirement).collect::<Result<Vec<_>, _>>()?;
        let selector = LabelSelector { match_expressions: Some(requirements), match_labels: None };
        let (selector, bad) = Selector::read(&selector);
        match bad.first() {
            Some(bad) => Err(bad.problem.clone()),
            None => Ok(Self(selector, text.to_owned())),
        }
    }
}

/// The requirements: between commas that stand in no brackets.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let is_end = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    text.split(is_end).map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn requirement(text: &str) -> Result<LabelSelectorRequirement, String> {
    let made = |key: &str, operator: &str, values: Option<Vec<String>>| {
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(format!(
                "{text:?} is no requirement on a label; write app=web, app!=web, app in (a,b), app or !app"
            ));
        }
        Ok(LabelSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values })
    };
    let one = |value: &str| Some(vec![value.trim().to_owned()]);
    if let Some((key, values)) = text.split_once('(') {
        let values = values.trim_end().strip_suffix(')').ok_or("a \")\" is missing")?;
        let values = Some(values.split(',').map(|value| value.trim().to_owned()).collect());
        let key = key.trim_end();
        return match (key.strip_suffix(" notin"), key.strip_suffix(" in")) {
            (Some(key), _) => made(key, "NotIn", values),
            (None, Some(key)) => made(key, "In", values),
            (None, None) => made("", "", None),
        };
    }
    if let Some((key, value)) = text.split_once("!=") {
        return made(key, "NotIn", one(value));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return made(key, "In", one(value));
    }
    match text.strip_prefix('!') {
        Some(key) => made(key, "DoesNotExist", None),
        None => made(text, "Exists", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_kubectl_reads_them() {
        for (text, expected) in [
            ("app=web", "app=web"),
            ("app==web, tier != db", "app=web,tier!=db"),
            ("env in (a, b),!legacy,team", "env in (a,b),!legacy,team"),
            ("env notin (a,b)", "env notin (a,b)"),
        ] {
            let read: Labels = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(read.0.to_string(), expected, "{text}");
        }
        for text in ["=web", "app within (a)", "env in (a", "a b"] {
            assert!(text.parse::<Labels>().is_err(), "{text}");
        }
    }
}
