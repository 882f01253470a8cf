//! What distinguishes a pod from all others.

use crate::object::Pod;

/// What distinguishes a pod from all others, its successors under its name included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum PodKey {
    /// The UID that the API server gave.
    Uid(u128),
    /// Any other UID.
    Text(Box<str>),
    /// Namespace and name, for pods from files that have no UID.
    Name(Box<str>, Box<str>),
}

impl PodKey {
    /// The key of a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        Self::from_parts(&pod.uid, &pod.namespace, &pod.name)
    }

    /// The key of the pod with this UID, namespace and name.
    #[must_use]
    pub fn from_parts(uid: &str, namespace: &str, name: &str) -> Self {
        if uid.is_empty() {
            return Self::Name(namespace.into(), name.into());
        }
        uuid(uid).map_or_else(|| Self::Text(uid.into()), Self::Uid)
    }

    /// The UID as the object has it.
    pub(super) fn uid(&self) -> String {
        match self {
            Self::Uid(uid) => {
                let hex = format!("{uid:032x}");
                [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
            }
            Self::Text(text) => text.to_string(),
            Self::Name(..) => String::new(),
        }
    }
}

/// A UUID in its canonical text, and in no other.
fn uuid(text: &str) -> Option<u128> {
    let dashes = [8, 13, 18, 23];
    let canonical = text.len() == 36
        && text.bytes().enumerate().all(|(i, byte)| {
            if dashes.contains(&i) { byte == b'-' } else { byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte) }
        });
    canonical.then(|| u128::from_str_radix(&text.replace('-', ""), 16).ok()).flatten()
}
