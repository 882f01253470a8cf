//! The name of an object that a change is of.

/// The kind and name of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// `NetworkPolicy`, `Deployment`, ….
    pub kind: String,
    /// Its namespace; none of a Namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// The name of an object in a namespace.
    #[must_use]
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: Some(namespace.to_owned()), name: name.to_owned() }
    }
}
