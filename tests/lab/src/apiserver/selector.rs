//! Label and field selectors as they stand in a query.

use std::collections::BTreeSet;

use super::failure::Failure;
use super::object::Object;
use super::resource::Resource;

/// What a list or watch is restricted to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone)]
struct Requirement {
    of: Of,
    key: String,
    wanted: Wanted,
}

#[derive(Debug, Clone, Copy)]
enum Of {
    Label,
    Field,
}

#[derive(Debug, Clone)]
enum Wanted {
    Exists,
    Absent,
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
}

impl Selector {
    /// Reads both selectors of a request.
    pub(crate) fn parse(resource: Resource, labels: &str, fields: &str) -> Result<Self, Failure> {
        let mut requirements = Vec::new();
        for text in split(labels).into_iter().filter(|text| !text.is_empty()) {
            requirements.push(label(text).ok_or_else(|| {
                Failure::bad_request(format!("unable to parse requirement: found '{text}' in the label selector"))
            })?);
        }
        for text in fields.split(',').filter(|text| !text.is_empty()) {
            let (key, wanted) = comparison(text).ok_or_else(|| {
                Failure::bad_request(format!("invalid selector: '{fields}'; can't understand '{text}'"))
            })?;
            if !Object::fields(resource).contains(&key) {
                return Err(Failure::bad_request(format!(
                    "Unable to find \"{}, Resource={}\" that match label selector \"{labels}\", field selector \
                     \"{fields}\": field label not supported: {key}",
                    match resource.group().name() {
                        "" => "/v1".to_owned(),
                        group => format!("{group}/v1"),
                    },
                    resource.plural(),
                )));
            }
            requirements.push(Requirement { of: Of::Field, key: key.to_owned(), wanted });
        }
        Ok(Self { requirements })
    }

    /// Whether it selects everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether it selects this object.
    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = match requirement.of {
                Of::Label => object.label(&requirement.key),
                // A field that is not set is empty.
                Of::Field => Some(object.field(&requirement.key)),
            };
            match &requirement.wanted {
                Wanted::Exists => value.is_some(),
                Wanted::Absent => value.is_none(),
                Wanted::In(values) => value.is_some_and(|value| values.contains(value)),
                Wanted::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

/// Splits at the commas that are not in parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let at_comma = |letter: char| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    };
    text.split(at_comma).map(str::trim).collect()
}

fn label(text: &str) -> Option<Requirement> {
    let (key, wanted) = if let Some(key) = text.strip_prefix('!') {
        (key, Wanted::Absent)
    } else if let Some((before, values)) = text.split_once('(') {
        let values = values.strip_suffix(')')?.split(',').map(|value| value.trim().to_owned()).collect();
        match before.trim().rsplit_once(char::is_whitespace)? {
            (key, "in") => (key, Wanted::In(values)),
            (key, "notin") => (key, Wanted::NotIn(values)),
            _ => return None,
        }
    } else if let Some(found) = comparison(text) {
        found
    } else {
        (text, Wanted::Exists)
    };
    let key = key.trim();
    let sound = !key.is_empty() && key.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_./".contains(letter));
    sound.then(|| Requirement { of: Of::Label, key: key.to_owned(), wanted })
}

fn comparison(text: &str) -> Option<(&str, Wanted)> {
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    if let Some((key, value)) = text.split_once("!=") {
        return Some((key.trim(), Wanted::NotIn(one(value))));
    }
    let (key, value) = text.split_once("==").or_else(|| text.split_once('='))?;
    Some((key.trim(), Wanted::In(one(value))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(labels: &str, fields: &str) -> bool {
        let pod = json!({
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web", "tier": ""}},
            "spec": {"nodeName": "node-1"},
        });
        let pod = Object::new(Resource::Pods, pod, 1);
        Selector::parse(Resource::Pods, labels, fields).unwrap().matches(&pod)
    }

    #[test]
    fn selectors_select_what_the_api_says() {
        let chosen =
            ["", "app", "tier", "!zone", "app=web", "app==web,tier=", "app in (a, web),tier", "app!=api", "zone!=a"];
        for labels in chosen {
            assert!(selects(labels, ""), "{labels}");
        }
        for labels in ["!app", "zone", "app=api", "app in (a,b)", "app notin (web)", "app!=web", "tier=x"] {
            assert!(!selects(labels, ""), "{labels}");
        }
        assert!(selects("", "spec.nodeName=node-1,metadata.name!=x") && !selects("", "spec.nodeName!=node-1"));
        assert!(selects("", "status.phase="), "a field that is not set is empty");
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for (labels, fields) in [("a b", ""), ("app in web", ""), ("", "spec.nodeName"), ("", "spec.hostname=a")] {
            let failure = Selector::parse(Resource::Pods, labels, fields).unwrap_err();
            assert_eq!(failure.code, 400, "{labels} {fields}");
        }
    }
}
