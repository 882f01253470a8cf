//! One sandbox, the object of its pod, and what is saved of all sandboxes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_cni::moment::Moment;
use npc_cni::protocol::{Add, HostInterface};
use npc_compiler::engine::PodKey;
use npc_compiler::object::Pod;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// Its place in the order in which ADDs began, because of two that have one address the later
    /// has it: the network gave the address to the first one before. Of two moments that are equal
    /// the second number decides.
    pub(super) order: (Moment, u64),
    pub(super) add: Add,
    /// The plugin has its answer, so the pod may run.
    pub(super) is_answered: bool,
    /// Its addresses that a later sandbox also had and that may belong to no pod now.
    pub(super) lost: BTreeSet<IpAddr>,
    /// The key of its pod's object, if that object has the UID of the ADD.
    key: Option<PodKey>,
    /// What is saved of it, which is made once: with each ADD all are saved.
    pub(super) text: Option<Box<RawValue>>,
}

impl Sandbox {
    pub(super) fn new(number: u64, saved: SavedSandbox) -> Self {
        let SavedSandbox { mut add, answered: is_answered, began, lost } = saved;
        let mut known = BTreeSet::new();
        add.addresses.retain(|address| known.insert(*address));
        let key = add.uid.as_ref().map(|uid| PodKey::from_parts(uid, &add.namespace, &add.name));
        let mut sandbox = Self { order: (began, number), add, is_answered, lost, key, text: None };
        sandbox.write();
        sandbox
    }

    /// The plugin has its answer.
    pub(super) fn set_answered(&mut self) {
        self.is_answered = true;
        self.write();
    }

    /// Its pod has an object, so that decides from now on.
    pub(super) fn object_came(&mut self) {
        self.add.open = false;
        self.write();
    }

    /// A later sandbox had these addresses, and is gone. Unless an interface of the node shows that this
    /// one is still there, they may belong to no pod.
    pub(super) fn lose(&mut self, addresses: &[IpAddr]) {
        let shared = addresses.iter().copied().filter(|address| self.add.addresses.contains(address));
        let shared: BTreeSet<_> = shared.filter(|address| !self.lost.contains(address)).collect();
        if self.add.host_interface.is_none() && !shared.is_empty() {
            self.lost.extend(shared);
            self.write();
        }
    }

    fn write(&mut self) {
        let (add, lost) = (self.add.clone(), self.lost.clone());
        let saved = SavedSandbox { add, answered: self.is_answered, began: self.order.0, lost };
        // Names, numbers and addresses: there is nothing that cannot be JSON.
        self.text = serde_json::value::to_raw_value(&saved).ok();
    }

    /// The object of its pod.
    pub(super) fn object<'a>(&self, pods: &'a BTreeMap<PodKey, Pod>) -> Option<&'a Pod> {
        object_of(pods, self.key.as_ref(), &self.add)
    }
}

/// A sandbox as it is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedSandbox {
    /// What CNI reported.
    #[serde(flatten)]
    pub add: Add,
    /// The plugin has its answer, so the pod may run. Files of older agents do not say it: there
    /// an ADD that comes again counts as one without an answer, because a plugin that has one does
    /// not ask again.
    #[serde(default)]
    pub answered: bool,
    /// When its ADD began. In files of older agents before all others.
    #[serde(default)]
    pub began: Moment,
    /// Addresses of it that a later sandbox had. Older agents know none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lost: BTreeSet<IpAddr>,
}

/// What outlives an agent: all that CNI reported and no object has.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Saved {
    /// The sandboxes, in the order of their ADDs.
    pub sandboxes: Vec<SavedSandbox>,
    /// Addresses without a sandbox whose interface may still be there.
    pub released: Vec<(IpAddr, HostInterface)>,
    /// Addresses without a sandbox that stay isolated for a while. Older agents know none.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub held: BTreeSet<IpAddr>,
    /// The files of network namespaces that an agent has found. Older agents know none.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub seen_netns: BTreeSet<String>,
    /// The addresses that CNI reported for each pod once. Pods are known by UID; by
    /// namespace and name where files have none.
    pub reported_addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    /// The pods that CNI reported once, in files of older agents, which saved no addresses
    /// of theirs.
    #[serde(skip_serializing)]
    pub reported: BTreeSet<String>,
    /// The agent that saved it, or one after it, could not save what CNI reported later.
    #[serde(skip)]
    pub is_stale: bool,
}

impl Saved {
    /// Of a file that is out of date, only those sandboxes stay that are shown to be there. The network may
    /// have given the addresses of the others to other pods. They are isolated for a while, until the API says
    /// whose they are. Nor does it count which addresses were a pod's once: they may be its own again.
    pub(super) fn without_doubtful(mut self, is_there: impl Fn(&Add) -> bool) -> Self {
        if self.is_stale {
            self.reported_addresses.clear();
            self.reported.clear();
            for doubtful in self.sandboxes.extract_if(.., |saved| !is_there(&saved.add)) {
                self.held.extend(doubtful.add.addresses);
            }
        }
        self
    }
}

/// The file, of sandboxes whose text is made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ToSave<'a> {
    pub(super) sandboxes: Vec<&'a RawValue>,
    pub(super) released: Vec<(&'a IpAddr, &'a HostInterface)>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) held: BTreeSet<&'a IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seen_netns: Option<&'a BTreeSet<String>>,
    pub(super) reported_addresses: &'a BTreeMap<String, BTreeSet<IpAddr>>,
}

/// CNI has reported the addresses of a sandbox, so they are its pod's and no other's.
pub(super) fn report(
    reported: &mut BTreeMap<String, BTreeSet<IpAddr>>,
    pods: &BTreeMap<PodKey, Pod>,
    sandbox: &Sandbox,
) {
    let Some(pod) = sandbox.object(pods).map(mark) else { return };
    match reported.get_mut(&*pod) {
        Some(addresses) => addresses.extend(&sandbox.add.addresses),
        None => drop(reported.insert(pod.into_owned(), sandbox.add.addresses.iter().copied().collect())),
    }
}

/// The object of the pod that an ADD is about. A UID distinguishes a pod from its
/// successor under the same name. A runtime that gives none means the pod of this name that is
/// not terminating, if there is one. `key` is that of the pod with the ADD's UID.
pub(super) fn object_of<'a>(pods: &'a BTreeMap<PodKey, Pod>, key: Option<&PodKey>, add: &Add) -> Option<&'a Pod> {
    let has_name = |pod: &&Pod| pod.namespace == add.namespace && pod.name == add.name;
    // There are as many objects as sandboxes, and most are found so.
    if let Some(pod) = key.and_then(|key| pods.get(key)).filter(has_name) {
        return Some(pod);
    }
    let named = || pods.values().filter(has_name);
    match &add.uid {
        Some(uid) => {
            // Objects from files may have none.
            let is_meant = |pod: &&Pod| pod.uid == *uid || pod.uid.is_empty() || pod.config_hash.as_ref() == Some(uid);
            named().find(is_meant)
        }
        None => named().find(|pod| !pod.terminating).or_else(|| named().next()),
    }
}

/// What a pod is remembered by. No UID has a slash.
pub(super) fn mark(pod: &Pod) -> Cow<'_, str> {
    if pod.uid.is_empty() { format!("{}/{}", pod.namespace, pod.name).into() } else { (&*pod.uid).into() }
}
