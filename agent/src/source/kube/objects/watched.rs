//! The kinds that are watched, what is kept of their objects, and what happens to these.

use ipnetwork::IpNetwork;
use kube::Resource;
use npc_compiler::object;
use serde::de::DeserializeOwned;

use super::decode::{Identity, Item};
use super::named::PolicyNames;
use super::slim;

/// What happens to the objects of a kind.
#[derive(Debug)]
pub(in super::super) enum ObjectEvent<T> {
    /// The API server answers again.
    Answered,
    /// A list begins.
    ListBegins,
    /// The list holds this object.
    Listed(Item<T>),
    /// The list holds this object as it was reported last.
    ListedAgain(Identity),
    /// The list is complete: what it did not hold does not exist.
    ListEnds,
    /// This object was created or changed.
    Applied(Item<T>),
    /// An object is there that cannot be read and shows no name, and why.
    Unnamed(String),
    /// This object was deleted.
    Deleted(Identity),
    /// A watch that follows a failure has proved steady.
    Steady,
}

/// A kind that is watched.
pub(in super::super) trait Watched:
    Resource<DynamicType = ()> + DeserializeOwned + Send + 'static
{
    /// What is kept of an object.
    type Object: Send + 'static;

    /// What is kept depends on the object alone, not on `PolicyNames`, so an object that did not
    /// change is not read again.
    const IS_KEPT_WHOLE: bool = false;

    /// Keeps what is needed, and about how many bytes that is.
    fn keep(self, named: &PolicyNames) -> (Self::Object, usize);

    /// What can be made of an object that cannot be read as a whole.
    fn rescue(_bytes: &[u8], _identity: &Identity, _error: &str) -> Option<Self::Object> {
        None
    }
}

/// An object that may be large, with only those parts that policies name.
#[derive(Debug)]
pub(in super::super) struct Trimmed<T> {
    pub(in super::super) object: T,
    /// The generation of names by which it was trimmed, if it is large.
    pub(in super::super) generation: Option<u64>,
}

impl Watched for slim::Pod {
    type Object = Trimmed<object::Pod>;

    fn keep(self, named: &PolicyNames) -> (Self::Object, usize) {
        let mut object = object::Pod::from(self);
        let generation = named.trim(&mut object.labels, &mut object.ports);
        object.unnamed_ports = Box::default();
        object.local_addresses = Box::default();
        object.containers_of_ports = Box::default();
        object.dns_name = None;
        object.not_ready = false;
        let labels: usize = object.labels.iter().map(|(key, value)| OF_STRINGS + key.len() + value.len()).sum();
        let bytes = OF_POD + labels + OF_STRINGS * object.ports.len();
        (Trimmed { object, generation }, bytes)
    }
}

impl Watched for slim::Namespace {
    type Object = Trimmed<object::Namespace>;

    fn keep(self, named: &PolicyNames) -> (Self::Object, usize) {
        let mut object = object::Namespace::from(self);
        let generation = named.trim(&mut object.labels, &mut Vec::new());
        let labels: usize = object.labels.iter().map(|(key, value)| OF_STRINGS + key.len() + value.len()).sum();
        (Trimmed { object, generation }, OF_STRINGS + labels)
    }
}

impl Watched for slim::Node {
    /// The networks of its pods.
    type Object = Vec<IpNetwork>;

    fn keep(self, _: &PolicyNames) -> (Vec<IpNetwork>, usize) {
        let pod_cidrs = object::Node::from(self).pod_cidrs;
        let bytes = size_of_val(pod_cidrs.as_slice());
        (pod_cidrs, bytes)
    }
}

impl Watched for slim::Policy {
    type Object = object::NetworkPolicy;

    const IS_KEPT_WHOLE: bool = true;

    fn keep(self, _: &PolicyNames) -> (Self::Object, usize) {
        let policy = object::NetworkPolicy::from(self);
        let bytes = policy.retained_bytes();
        (policy, bytes)
    }

    fn rescue(bytes: &[u8], identity: &Identity, error: &str) -> Option<Self::Object> {
        slim::selector_of(bytes, identity, error)
    }
}

/// About what two strings of an object take.
const OF_STRINGS: usize = 96;

/// About what a pod takes beside its labels and ports.
const OF_POD: usize = 512;

/// Keeps what is needed of an object.
pub(in super::super) fn keep<K: Watched>(item: Item<K>, named: &PolicyNames) -> Item<K::Object> {
    let mut bytes = item.bytes;
    let mut item = item.map(|object| {
        let (object, kept) = object.keep(named);
        bytes = kept;
        object
    });
    item.bytes = bytes;
    item
}
