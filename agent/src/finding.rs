//! What is wrong with an object, as commands say it: one type for what the compiler did not
//! understand of a policy, for what is wrong with files, and for what the API server listed and
//! npc cannot read.

use std::fmt;

use npc_compiler::policy::finding as policy;
use npc_compiler::verdict::lint;

use crate::source::manifests::{Location, ObjectRef, OtherPlace, Problem, ProblemCode, Severity};

/// Something wrong with an object or a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// Where it stands, if it is from a file.
    pub location: Option<Place>,
    /// Another place that it is about: of two objects with one name, the earlier one.
    pub related: Option<Place>,
    /// How bad it is. An error is enforced or judged otherwise than its author meant.
    pub severity: Severity,
    /// What kind of mistake it is, as `npc reason` knows it.
    pub code: &'static str,
    /// The object, where it is known.
    pub object: Option<ObjectRef>,
    /// The field, with 0-based indexes; empty where the object as a whole is meant.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What happens now.
    pub effect: String,
    /// What to do, where that is more than to correct it; or empty.
    pub help: String,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Place {
    /// The file as it was named, `-` for standard input.
    pub file: String,
    /// The line, from 1; none where the file as a whole is meant.
    pub line: Option<u32>,
    /// The column, from 1.
    pub column: Option<u32>,
}

impl Finding {
    /// Sorts as an editor shows them: by file, line and column, then by code. What has no place stands
    /// behind, and the order of the input decides nothing.
    pub fn sort(findings: &mut [Self]) {
        // An object without a place is one of a cluster.
        fn key(of: &Finding) -> impl Ord + '_ {
            (of.location.is_none(), &of.location, of.code, &of.object, &of.path, of)
        }
        findings.sort_by(|one, other| key(one).cmp(&key(other)));
    }

    /// What is wrong with a policy; the place is that of its path.
    #[must_use]
    pub fn of_policy(finding: &policy::Finding, place: Option<&Location>) -> Self {
        Self {
            location: place.map(Place::from),
            related: None,
            severity: if finding.effect.is_harmful() { Severity::Error } else { Severity::Warning },
            code: finding.code.as_str(),
            object: Some(ObjectRef::new("NetworkPolicy", &finding.namespace, &finding.name)),
            path: finding.path.clone(),
            problem: finding.problem.clone(),
            effect: finding.effect.to_string(),
            help: String::new(),
        }
    }

    /// A mistake in a policy that is understood; the place is that of its path.
    #[must_use]
    pub fn of_mistake(mistake: &lint::Mistake, (namespace, name): (&str, &str), place: Option<&Location>) -> Self {
        Self {
            location: place.map(Place::from),
            related: None,
            severity: if mistake.is_harmful() { Severity::Error } else { Severity::Warning },
            code: mistake.code.as_str(),
            object: Some(ObjectRef::new("NetworkPolicy", namespace, name)),
            path: mistake.path.clone(),
            problem: mistake.problem.clone(),
            effect: mistake.effect().to_owned(),
            help: String::new(),
        }
    }

    /// What is wrong with a file.
    #[must_use]
    pub fn of_problem(problem: &Problem) -> Self {
        Self {
            location: Some(Place::from(problem)),
            related: problem.other.as_ref().map(Place::from),
            severity: problem.severity(),
            code: problem.code.as_str(),
            object: problem.object.clone(),
            path: problem.path.clone(),
            problem: problem.message_with_other(),
            effect: problem.code.effect().to_owned(),
            help: problem.help.clone(),
        }
    }

    /// An object that the API server listed and npc cannot read.
    #[must_use]
    pub fn of_listing(problem: &str) -> Self {
        Self {
            location: None,
            related: None,
            severity: Severity::Error,
            code: ProblemCode::DocumentUnreadable.as_str(),
            object: None,
            path: String::new(),
            problem: problem.to_owned(),
            effect: ProblemCode::DocumentUnreadable.effect().to_owned(),
            help: String::new(),
        }
    }
}

impl From<&Location> for Place {
    fn from(location: &Location) -> Self {
        let (line, column) = (Some(location.line()), Some(location.column()));
        Self { file: location.file.to_string(), line, column }
    }
}

impl From<&OtherPlace> for Place {
    fn from(other: &OtherPlace) -> Self {
        let start = other.span.start;
        Self { file: other.file.to_string(), line: Some(start.line), column: Some(start.column) }
    }
}

impl From<&Problem> for Place {
    fn from(problem: &Problem) -> Self {
        let start = problem.span.map(|span| span.start);
        let (line, column) = (start.map(|start| start.line), start.map(|start| start.column));
        Self { file: problem.file.to_string(), line, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        Ok(())
    }
}

/// The object, the field, what is wrong, what happens now, what to do.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            write!(f, "{object}")?;
            if !self.path.is_empty() {
                write!(f, " {}", self.path)?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}; {}", self.problem, self.effect)?;
        if !self.help.is_empty() {
            write!(f, "; {}", self.help)?;
        }
        Ok(())
    }
}
