//! Label selectors, in one canonical form, so that equal selectors written
//! differently are one.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::algebra::syntax::{wrong_label_key, wrong_label_value};
use crate::object::Labels;

/// A label selector: all its requirements hold.
///
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Selector {
    /// Sorted, each once. Most selectors have one or none, and a cluster has
    /// hundreds of thousands of selectors, so nothing bigger than a slice.
    requirements: Box<[Requirement]>,
}

/// One requirement on one key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is required of its value.
    pub operator: Operator,
}

/// What is required of a key. `matchLabels` is [`Operator::In`] one value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Operator {
    /// The key is there with one of these values: sorted, each once.
    In(Box<[String]>),
    /// The key is absent, or has none of these values: sorted, each once.
    NotIn(Box<[String]>),
    /// The key is there.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

/// A requirement that cannot be understood, and where it stands in the
/// selector (`matchExpressions[1].operator`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRequirement {
    /// The path below the selector.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Selector {
    /// Reads the selector of an object. What cannot be understood is left out
    /// of the selector and listed: the API says that such a requirement makes
    /// the whole selector invalid, so the caller decides what fails safe.
    #[must_use]
    pub fn read(selector: &LabelSelector) -> (Self, Vec<BadRequirement>) {
        let mut requirements = Vec::new();
        let mut bad = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            let problems = [wrong_label_key(key), wrong_label_value(value)];
            let had = bad.len();
            bad.extend(problems.into_iter().flatten().map(|problem| BadRequirement { path: label(key), problem }));
            if bad.len() == had {
                let operator = Operator::In(Box::new([value.clone()]));
                requirements.push(Requirement { key: key.clone(), operator });
            }
        }
        for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let had = bad.len();
            let mut report = |field: &str, problem: Option<String>| {
                let path = || format!("matchExpressions[{i}].{field}");
                bad.extend(problem.map(|problem| BadRequirement { path: path(), problem }));
            };
            report("key", wrong_label_key(&expression.key));
            for (place, value) in expression.values.iter().flatten().enumerate() {
                report(&format!("values[{place}]"), wrong_label_value(value));
            }
            let values: BTreeSet<&String> = expression.values.iter().flatten().collect();
            let values: Box<[String]> = values.into_iter().cloned().collect();
            let operator = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Some(Operator::In(values)),
                ("NotIn", false) => Some(Operator::NotIn(values)),
                ("Exists", true) => Some(Operator::Exists),
                ("DoesNotExist", true) => Some(Operator::DoesNotExist),
                (operator, empty) => {
                    let (field, problem) = match operator {
                        "In" | "NotIn" => ("values", format!("{operator} needs at least one value")),
                        "Exists" | "DoesNotExist" if !empty => ("values", format!("{operator} takes no values")),
                        _ => ("operator", format!("\"{operator}\" is none of In, NotIn, Exists, DoesNotExist")),
                    };
                    report(field, Some(problem));
                    None
                }
            };
            let operator = operator.filter(|_| bad.len() == had);
            requirements.extend(operator.map(|operator| Requirement { key: expression.key.clone(), operator }));
        }
        requirements.sort_unstable();
        requirements.dedup();
        (Self { requirements: requirements.into() }, bad)
    }

    /// What the author of a selector most likely means of which a part is not understood: operators in other letters,
    /// and values as they stand. None where an operator is no word that is known.
    #[must_use]
    pub fn meant(selector: &LabelSelector) -> Option<Self> {
        let labels = selector.match_labels.iter().flatten();
        let mut requirements: Vec<Requirement> = labels
            .map(|(key, value)| Requirement { key: key.clone(), operator: Operator::In([value.clone()].into()) })
            .collect();
        for expression in selector.match_expressions.iter().flatten() {
            let letters = expression.operator.chars().filter(char::is_ascii_alphabetic);
            let word = letters.map(|c| c.to_ascii_lowercase()).collect::<String>();
            let values: BTreeSet<&String> = expression.values.iter().flatten().collect();
            let values: Box<[String]> = values.into_iter().cloned().collect();
            let operator = match (word.as_str(), values.is_empty()) {
                ("in" | "equals" | "equal", false) => Operator::In(values),
                ("notin", false) => Operator::NotIn(values),
                ("exists" | "exist", _) => Operator::Exists,
                ("doesnotexist" | "notexists", _) => Operator::DoesNotExist,
                _ => return None,
            };
            requirements.push(Requirement { key: expression.key.clone(), operator });
        }
        requirements.sort_unstable();
        requirements.dedup();
        Some(Self { requirements: requirements.into() })
    }

    /// The selector `matchLabels: {…}`.
    #[must_use]
    pub fn of_labels(labels: &Labels) -> Self {
        Self::read(&LabelSelector { match_labels: Some(labels.clone()), match_expressions: None }).0
    }

    /// Whether it selects an object with these labels. The empty selector
    /// selects every object.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// The same for labels whose values this function returns by their keys.
    pub(crate) fn matches_by<'l>(&self, value: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.admits(value(&requirement.key)))
    }

    /// The requirements, sorted.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.requirements.iter()
    }

    /// Whether it selects everything: it has no requirement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

/// How many bytes of a key a path has: no label key that is right has more.
const LONGEST_KEY: usize = 320;

/// The path of a label in a selector. A wrong key may be as long as an object.
fn label(key: &str) -> String {
    if key.len() > LONGEST_KEY { "matchLabels".to_owned() } else { format!("matchLabels.{key}") }
}

impl Requirement {
    /// Whether labels meet it.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.admits(labels.get(&self.key).map(String::as_str))
    }

    /// Whether the key may have this value, or be absent.
    fn admits(&self, value: Option<&str>) -> bool {
        let is_in = |values: &[String], value| values.binary_search_by(|known| known.as_str().cmp(value)).is_ok();
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| is_in(values, value)),
            Operator::NotIn(values) => value.is_none_or(|value| !is_in(values, value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// As kubectl writes selectors: `app=web,tier in (a,b),!legacy`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let list = |values: &[String]| values.join(",");
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", list(values)),
            Operator::In(values) => write!(f, "{key} in ({})", list(values)),
            Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", list(values)),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", list(values)),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}
