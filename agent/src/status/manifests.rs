//! What of a folder of manifests was not read.

use serde::{Deserialize, Serialize};

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
    /// What is wrong.
    pub problem: String,
    /// What happens now, or what to do; null if there is nothing to add.
    pub effect: Option<String>,
}

impl ManifestError {
    /// The errors among problems, 100 at most, and how many there are.
    #[must_use]
    pub fn of(problems: &[Problem]) -> (Vec<Self>, usize) {
        let errors = || problems.iter().filter(|problem| problem.severity == Severity::Error);
        (errors().take(MOST).map(Self::from).collect(), errors().count())
    }
}

impl From<&Problem> for ManifestError {
    fn from(problem: &Problem) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let place = problem.span.map(|span| format!(":{}:{}", span.start.line, span.start.column));
        let object = problem.object.as_ref().map(ToString::to_string);
        Self {
            location: format!("{}{}", problem.file, place.unwrap_or_default()),
            field: some([object.unwrap_or_default().as_str(), problem.path.as_str()].join(" ").trim().to_owned()),
            problem: problem.message.clone(),
            effect: some(problem.help.clone()),
        }
    }
}
