//! Why objects were not read.

use std::borrow::Cow;
use std::fmt;

/// At most this many namespaces are named.
const NAMED: usize = 3;

/// Why objects were not read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum WhyUnread {
    /// This file holds them, or may, and cannot be taken as it is.
    InFile(String, FileFault),
    /// The API server sent an object that does not have the form of its kind, as the reader says it.
    DidNotParse(String),
    /// No object declares these namespaces, so only their names are known.
    Undeclared(Vec<String>),
    /// The reader has no right to list this resource: `pods`.
    NoRight(Cow<'static, str>),
    /// The API server does not have this resource: `endpointslices`.
    NotServed(Cow<'static, str>),
}

/// Why a file, or a document of it, was not read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum FileFault {
    /// It is a template, mostly of a Helm chart.
    Template,
    /// It has parameters, which another program replaces.
    Parameters,
    /// It is a Template of OpenShift.
    OpenShiftTemplate,
    /// It is encrypted.
    Encrypted,
    /// It has what kubectl printed for people: a table, a description or an error.
    Printed,
    /// It has a patch, which a kustomization applies, of the policy of this name; without one, of any.
    PolicyPatch(Option<String>),
    /// It is broken.
    DidNotParse {
        /// The line and column where the problem is, from 1; none where the file as a whole cannot be read.
        place: Option<(u32, u32)>,
        /// The problem, as the reader says it.
        problem: String,
    },
}

impl fmt::Display for WhyUnread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFile(file, fault) => fault.write(f, file),
            Self::DidNotParse(problem) => f.write_str(problem),
            Self::Undeclared(names) => {
                // A line that says "1 more" could as well say what it is.
                let listed = if names.len() <= NAMED + 1 { names.len() } else { NAMED };
                let (first, rest) = names.split_at(listed);
                write!(f, "no Namespace object of {}", first.join(", "))?;
                if !rest.is_empty() {
                    write!(f, ", +{} more", rest.len())?;
                }
                f.write_str(" is in the input")
            }
            Self::NoRight(resource) => write!(f, "no right to list {resource}"),
            Self::NotServed(resource) => write!(f, "the API server has no {resource}"),
        }
    }
}

impl FileFault {
    fn write(&self, f: &mut fmt::Formatter<'_>, file: &str) -> fmt::Result {
        match self {
            Self::Template => write!(f, "{file} is a template that is not rendered"),
            Self::Parameters => write!(f, "{file} has parameters without values"),
            Self::OpenShiftTemplate => write!(f, "{file} is a Template of OpenShift that is not processed"),
            Self::Encrypted => write!(f, "{file} is encrypted"),
            Self::Printed => write!(f, "{file} has what kubectl printed in place of objects"),
            Self::PolicyPatch(policy) => {
                let policy =
                    policy.as_ref().map_or_else(|| "policies".to_owned(), |name| format!("networkpolicy {name}"));
                write!(f, "{file} has a patch of {policy}, which the kustomization applies and -f does not")
            }
            Self::DidNotParse { place, problem } => {
                f.write_str(file)?;
                if let Some((line, column)) = place {
                    write!(f, ":{line}:{column}")?;
                }
                write!(f, ": error: {problem}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_said_in_words() {
        let named = |names: &[&str]| WhyUnread::Undeclared(names.iter().map(|name| (*name).to_owned()).collect());
        let in_file = |fault| WhyUnread::InFile("a.yaml".to_owned(), fault);
        let broken = |place| in_file(FileFault::DidNotParse { place, problem: "no YAML".to_owned() });
        for (why, text) in [
            (WhyUnread::NoRight("pods".into()), "no right to list pods"),
            (WhyUnread::NotServed("endpointslices".into()), "the API server has no endpointslices"),
            (in_file(FileFault::Encrypted), "a.yaml is encrypted"),
            (in_file(FileFault::Printed), "a.yaml has what kubectl printed in place of objects"),
            (broken(Some((3, 1))), "a.yaml:3:1: error: no YAML"),
            (broken(None), "a.yaml: error: no YAML"),
            (named(&["a", "b", "c", "d"]), "no Namespace object of a, b, c, d is in the input"),
            (named(&["a", "b", "c", "d", "e"]), "no Namespace object of a, b, c, +2 more is in the input"),
        ] {
            assert_eq!(why.to_string(), text);
        }
    }
}
