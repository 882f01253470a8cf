//! What of a folder of manifests was not read.

use serde::{Deserialize, Serialize};

use crate::finding::Place;
use crate::source::manifests::{Problem, Severity};

/// How many of them a status has.
const MOST: usize = 100;

/// Something in a file of manifests because of which an object, or a whole file, was not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestError {
    /// Where it stands: `FILE`, or `FILE:LINE:COLUMN`.
    pub location: String,
    /// The object (`KIND NS/NAME`) and the field, as far as they are known.
    pub field: Option<String>,
    /// What kind of mistake it is, as `npc reason` knows it.
    pub code: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it, or what happens meanwhile; null if there is nothing to add.
    pub help: Option<String>,
}

impl ManifestError {
    /// The errors among problems, 100 at most, and how many there are.
    #[must_use]
    pub fn of(problems: &[Problem]) -> (Vec<Self>, usize) {
        let errors = || problems.iter().filter(|problem| problem.severity() == Severity::Error);
        (errors().take(MOST).map(Self::from).collect(), errors().count())
    }
}

impl From<&Problem> for ManifestError {
    fn from(problem: &Problem) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let object = problem.object.as_ref().map(ToString::to_string);
        Self {
            location: Place::from(problem).to_string(),
            field: some([object.unwrap_or_default().as_str(), problem.path.as_str()].join(" ").trim().to_owned()),
            code: problem.code.as_str().to_owned(),
            problem: problem.message.clone(),
            help: some(problem.help.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::manifests::{Options, parse_text};

    #[test]
    fn an_error_has_its_code_and_help_under_their_names() {
        let options = Options { allow_errors: true, ..Options::default() };
        let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyy\nmetadata: {name: a}\n";
        let parsed = parse_text("a.yaml", text, &options).expect("errors are left out");
        let (errors, count) = ManifestError::of(&parsed.problems);
        let json = serde_json::to_value(&errors).expect("plain data");
        assert_eq!(count, 1, "{json}");
        assert_eq!(json[0]["code"], "document-unreadable", "{json}");
        assert!(json[0]["help"].as_str().is_some_and(|help| help.contains("NetworkPolicy")), "{json}");
        assert!(json[0].get("effect").is_none(), "{json}");
    }
}
