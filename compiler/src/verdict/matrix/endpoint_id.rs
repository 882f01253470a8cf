//! What names an endpoint of a matrix. It is data until it is printed: nothing reads it back from text.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The name of an endpoint; no two endpoints of a matrix have the same. Sorts as its text does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointId(Arc<EndpointName>);

/// What an endpoint is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum EndpointName {
    /// A pod or a workload.
    Object {
        /// Its namespace.
        namespace: String,
        /// The kind of a workload, `Pod` for a pod without one; none in a matrix of pods, where the name alone is
        /// enough.
        kind: Option<String>,
        /// Its name.
        name: String,
    },
    /// An address.
    Address(IpAddr),
}

impl EndpointId {
    /// The name of a pod in a matrix of pods.
    pub(crate) fn of_pod(namespace: &str, name: &str) -> Self {
        Self(Arc::new(EndpointName::Object { namespace: namespace.to_owned(), kind: None, name: name.to_owned() }))
    }

    /// The name of a workload, or of a pod that is one of its own.
    pub(crate) fn of_workload(namespace: &str, kind: &str, name: &str) -> Self {
        let (namespace, kind, name) = (namespace.to_owned(), Some(kind.to_owned()), name.to_owned());
        Self(Arc::new(EndpointName::Object { namespace, kind, name }))
    }

    /// The name of an address.
    pub(crate) fn of_address(address: IpAddr) -> Self {
        Self(Arc::new(EndpointName::Address(address)))
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &EndpointName {
        &self.0
    }
}

/// `NS/NAME`, `NS/KIND/NAME`, or the address.
impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            EndpointName::Object { namespace, kind: Some(kind), name } => write!(f, "{namespace}/{kind}/{name}"),
            EndpointName::Object { namespace, kind: None, name } => write!(f, "{namespace}/{name}"),
            EndpointName::Address(address) => write!(f, "{address}"),
        }
    }
}

impl Serialize for EndpointId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The bytes of the text of an object's name.
fn bytes<'a>(namespace: &'a str, kind: Option<&'a str>, name: &'a str) -> impl Iterator<Item = u8> + 'a {
    let kind = kind.into_iter().flat_map(|kind| kind.bytes().chain([b'/']));
    namespace.bytes().chain([b'/']).chain(kind).chain(name.bytes())
}

impl Ord for EndpointId {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.name(), other.name()) {
            // Thousands of them are sorted: without a text of each.
            (
                EndpointName::Object { namespace, kind, name },
                EndpointName::Object { namespace: other, kind: of_kind, name: called },
            ) => bytes(namespace, kind.as_deref(), name).cmp(bytes(other, of_kind.as_deref(), called)),
            _ => self.to_string().cmp(&other.to_string()),
        }
    }
}

impl PartialOrd for EndpointId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_as_their_texts() {
        let address = |text: &str| EndpointId::of_address(text.parse().expect("an address"));
        let mut ids = vec![
            EndpointId::of_pod("shop", "web"),
            EndpointId::of_pod("shop", "Web"),
            EndpointId::of_pod("shop-2", "a"),
            EndpointId::of_workload("shop", "Deployment", "web"),
            EndpointId::of_workload("shop", "Pod", "a"),
            EndpointId::of_pod("10", "a"),
            address("10.0.0.9"),
            address("10.0.0.10"),
            address("2001:db8::1"),
        ];
        let mut texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
        ids.sort();
        texts.sort();
        assert_eq!(ids.iter().map(ToString::to_string).collect::<Vec<_>>(), texts);
    }
}
