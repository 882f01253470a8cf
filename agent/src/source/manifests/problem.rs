//! What is wrong with the input, and where.

use std::fmt;
use std::sync::Arc;

use npc_compiler::cluster::unread::{FileFault, WhyUnread};

use super::span::Span;
use crate::words::folded::Folded;

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Severity {
    /// The object was read, but most likely not as it was meant.
    Warning,
    /// The document or object was not read.
    Error,
}

impl Severity {
    /// The severity as texts and other programs' formats have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Kinds of mistakes in files; stable codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemCode {
    /// A file, document or object that cannot be read.
    DocumentUnreadable,
    /// Two objects of one kind, namespace and name.
    DuplicateName,
    /// A value that may not mean what its author thinks.
    ValueDoubtful,
    /// A namespace that no object declares, and whose name is nearly that of one that is.
    NamespaceUndeclared,
    /// A version of NetworkPolicy that no Kubernetes serves any more.
    VersionGone,
    /// A label that no API server takes.
    LabelInvalid,
    /// An annotation of a policy that no API server takes.
    AnnotationInvalid,
}

impl ProblemCode {
    /// All codes, in the order in which they are listed.
    pub const ALL: [Self; 7] = [
        Self::DocumentUnreadable,
        Self::DuplicateName,
        Self::ValueDoubtful,
        Self::NamespaceUndeclared,
        Self::VersionGone,
        Self::LabelInvalid,
        Self::AnnotationInvalid,
    ];

    /// Its stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DocumentUnreadable => "document-unreadable",
            Self::DuplicateName => "duplicate-name",
            Self::ValueDoubtful => "value-doubtful",
            Self::NamespaceUndeclared => "namespace-undeclared",
            Self::VersionGone => "version-gone",
            Self::LabelInvalid => "label-invalid",
            Self::AnnotationInvalid => "annotation-invalid",
        }
    }

    /// How bad it is.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            // The pods that such a policy was to isolate would be open.
            Self::DocumentUnreadable | Self::VersionGone => Severity::Error,
            Self::DuplicateName
            | Self::ValueDoubtful
            | Self::NamespaceUndeclared
            | Self::LabelInvalid
            | Self::AnnotationInvalid => Severity::Warning,
        }
    }

    /// What happens now.
    #[must_use]
    pub const fn effect(self) -> &'static str {
        match self {
            Self::DocumentUnreadable | Self::VersionGone => "it is not judged",
            Self::DuplicateName => "the earlier one is not judged",
            Self::ValueDoubtful => "it is taken as it stands",
            Self::NamespaceUndeclared => "it is taken for a namespace of its own",
            Self::AnnotationInvalid => "no annotation decides, but the API server refuses the object",
            Self::LabelInvalid => "the label counts as it stands, but the API server refuses the object",
        }
    }
}

/// Something wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// The file as it was named, `-` for standard input.
    pub file: Arc<str>,
    /// Where in the file; `None` where the file as a whole could not be read.
    pub span: Option<Span>,
    /// What kind of mistake it is.
    pub code: ProblemCode,
    /// The object, where it is known.
    pub object: Option<ObjectRef>,
    /// The field inside the object (`spec.ingress[0].from`), or empty.
    pub path: String,
    /// What is wrong; where another place is meant, its last words lead to it.
    pub message: String,
    /// The other place that it is about: of two objects with one name, the earlier one.
    pub other: Option<OtherPlace>,
    /// What to do about it, or empty.
    pub help: String,
}

/// Another place that a [`Problem`] is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OtherPlace {
    /// The file as it was named, `-` for standard input.
    pub file: Arc<str>,
    /// Where in the file.
    pub span: Span,
}

impl fmt::Display for OtherPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.span.start.line, self.span.start.column)
    }
}

impl Problem {
    /// Whether the object was read.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// What is wrong, and at which other place.
    #[must_use]
    pub fn message_with_other(&self) -> String {
        match &self.other {
            Some(other) => format!("{} at {other}", self.message),
            None => self.message.clone(),
        }
    }

    /// The problem's text without its severity, for a log whose line has that already.
    #[must_use]
    pub fn without_severity(&self) -> String {
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = self.place(&mut text).and_then(|()| self.what(&mut text));
        text
    }

    /// Why the document was not read that has it.
    pub(super) fn why_unread(&self) -> WhyUnread {
        let place = self.span.map(|span| (span.start.line, span.start.column));
        let mut problem = String::new();
        // Writing to a text cannot fail.
        let _ = self.what(&mut problem);
        WhyUnread::InFile(self.file.to_string(), FileFault::DidNotParse { place, problem })
    }

    fn place(&self, f: &mut impl fmt::Write) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(span) = self.span {
            write!(f, ":{}:{}", span.start.line, span.start.column)?;
        }
        f.write_str(": ")
    }

    /// What is wrong, without the place.
    fn what(&self, f: &mut impl fmt::Write) -> fmt::Result {
        let Self { object, path, message, other, help, .. } = self;
        if let Some(object) = object {
            write!(f, "{object}: ")?;
        }
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        f.write_str(message)?;
        if let Some(other) = other {
            write!(f, " at {other}")?;
        }
        if !help.is_empty() {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

/// With `#`, the code stands behind the severity: `warning[label-invalid]`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place(f)?;
        f.write_str(self.severity().as_str())?;
        if f.alternate() {
            write!(f, "[{}]", self.code.as_str())?;
        }
        f.write_str(": ")?;
        self.what(f)
    }
}

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct ObjectRef {
    /// `NetworkPolicy`, `Pod`, `Deployment`, ….
    pub kind: String,
    /// Its namespace; empty for a Namespace and a Node.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// Names the object of this kind, namespace and name.
    #[must_use]
    pub fn new(kind: impl Into<String>, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.to_ascii_lowercase())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// Why the input was not taken: every error in it, not only the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    /// The problems, warnings among them, in the order of the input. The text has the errors first, and
    /// folds those that say the same.
    pub problems: Vec<Problem>,
    /// The problems are that paths that were named lead nowhere; no flag helps there.
    pub are_paths_missing: bool,
}

impl Errors {
    /// What is wrong, for an agent: it has no flag to leave a document out.
    #[must_use]
    pub fn for_agent(&self) -> String {
        struct Lines<'a>(&'a Errors);
        impl fmt::Display for Lines<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.lines(f)
            }
        }
        let (documents, them) = self.documents();
        format!("{}{documents} not read, so nothing is enforced; correct {them} and start the agent again", Lines(self))
    }

    /// How many documents were not read, and the pronoun for them.
    fn documents(&self) -> (String, &'static str) {
        match self.problems.iter().filter(|problem| problem.severity() == Severity::Error).count() {
            1 => ("1 document".to_owned(), "it"),
            errors => (format!("{errors} documents"), "them"),
        }
    }

    fn lines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for severity in [Severity::Error, Severity::Warning] {
            let mut folded = Folded::default();
            for problem in self.problems.iter().filter(|problem| problem.severity() == severity) {
                folded.add(&problem.message, format!("{problem:#}"));
            }
            for line in folded.lines() {
                writeln!(f, "{line}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines(f)?;
        if self.are_paths_missing {
            return f.write_str("nothing was judged");
        }
        let (documents, them) = self.documents();
        write!(
            f,
            "{documents} not read, so nothing was judged; correct {them}, or leave {them} out with --allow-errors"
        )
    }
}

impl std::error::Error for Errors {}
