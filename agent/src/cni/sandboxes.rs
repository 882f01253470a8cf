//! Which addresses belong to which pod of this node now, as CNI reports it.
//!
//! The API reports a pod's address after its container has started, and goes on
//! reporting it after the address has gone to another pod. CNI reports it before, and
//! also when it ends. So of the addresses that CNI reported for a pod, CNI says which it has.
//! Any other that the API lists is the pod's too, unless a sandbox has it: of an interface whose ADD
//! did not come to the agent, only the API knows.
//!
//! Sandboxes are known by container id and interface, never by a pod's UID: a sandbox
//! that is made again has the same UID, and the DEL of the old one may come after the
//! ADD of the new one.
//!
//! Objects go in, and come out with the addresses that the engine is to know. Some addresses are to be isolated
//! although no object decides how: those of a static pod whose mirror is not there yet, of a pod whose object went
//! before its sandbox, and those whose interface is still there. Such an address is an endpoint of a namespace of its
//! own ([`UNIDENTIFIED`](super::endpoints::UNIDENTIFIED)), whose only policy denies everything. No selector of a policy
//! selects it, because that namespace has no labels.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_cni::moment::Moment;
use npc_cni::protocol::{Add, Attachment, HostInterface};
use npc_compiler::engine::{Event, PodKey};
use npc_compiler::object::Pod;

use super::contested::contested;
use super::given::{CurrentAddresses, Given};
use super::links::SeenLinks;
use super::sandbox::{Sandbox, Saved, SavedSandbox, ToSave, mark, object_of, report};

/// For how many rounds ([`Sandboxes::age`]) the API may go on to list an address whose
/// sandbox has gone. After that the address is what the API says: a pod that was started
/// again without the plugin may have it.
const BEHIND: u32 = 120;

/// For how many rounds the address of a sandbox that has gone stays isolated if its interface
/// has no end on the node (macvlan, ipvlan). The plugins of the chain have their DEL within
/// seconds, and then the runtime removes the network namespace.
const HELD: u32 = 30;

/// What CNI reports about the pods of one node, and their objects.
#[derive(Debug)]
pub struct Sandboxes {
    node: String,
    /// The objects of this node's pods, as the source has them.
    pods: BTreeMap<PodKey, Pod>,
    /// When each of them came first, as moments that the caller counts.
    arrived: BTreeMap<PodKey, u64>,
    /// Of these, the mirrors of static pods that the API has no more, though a sandbox has one for
    /// its object. A mirror can be deleted; the pod goes on, and kubelet makes it another.
    deleted_mirrors: BTreeSet<PodKey>,
    /// The sandboxes, by container and interface.
    live: BTreeMap<Attachment, Sandbox>,
    /// How many there were.
    number: u64,
    /// Addresses whose sandbox has gone and whose interface may still be there.
    released: BTreeMap<IpAddr, HostInterface>,
    /// The same, without an interface of the node that shows it: for how many more rounds.
    held: BTreeMap<IpAddr, u32>,
    /// The addresses that CNI reported for each pod ([`mark`]) once. The API may go on to
    /// list them after they have gone to another pod.
    reported: BTreeMap<String, BTreeSet<IpAddr>>,
    /// For how many rounds such an address has had no sandbox of its pod.
    past: BTreeMap<(String, IpAddr), u32>,
    /// What the engine was given of these objects.
    given: Given,
    /// The source has delivered everything once.
    is_synced: bool,
    /// Something changed since the last [`Sandboxes::update`].
    is_dirty: bool,
}

impl Sandboxes {
    /// The sandboxes of a node, from what an earlier agent saved. No object is known yet.
    #[must_use]
    pub fn new(node: &str, saved: Saved) -> Self {
        let sandboxes = saved.sandboxes.into_iter().zip(1..);
        let live: BTreeMap<_, _> =
            sandboxes.map(|(saved, number)| (saved.add.attachment.clone(), Sandbox::new(number, saved))).collect();
        let mut reported = saved.reported_addresses;
        for pod in saved.reported {
            // Which of them were this pod's is not known; none of them is a pod's now.
            let released = saved.released.iter().map(|(address, _)| *address);
            reported.entry(pod).or_default().extend(released);
        }
        Self {
            node: node.to_owned(),
            pods: BTreeMap::new(),
            arrived: BTreeMap::new(),
            deleted_mirrors: BTreeSet::new(),
            number: live.len() as u64,
            live,
            released: saved.released.into_iter().collect(),
            held: saved.held.into_iter().map(|address| (address, HELD)).collect(),
            reported,
            past: BTreeMap::new(),
            given: Given::default(),
            is_synced: false,
            is_dirty: true,
        }
    }

    /// What an agent after this one has to know.
    #[must_use]
    pub fn saved(&self) -> ToSave<'_> {
        ToSave {
            sandboxes: self.in_order().into_iter().filter_map(|sandbox| sandbox.text.as_deref()).collect(),
            released: self.released.iter().collect(),
            held: self.held.keys().collect(),
            reported_addresses: &self.reported,
            seen_netns: None,
        }
    }

    /// The sandboxes, in the order of their ADDs.
    fn in_order(&self) -> Vec<&Sandbox> {
        let mut sandboxes: Vec<_> = self.live.values().collect();
        sandboxes.sort_by_key(|sandbox| sandbox.order);
        sandboxes
    }

    /// The namespace of a pod that is bound to this node by an event and was not before, if the
    /// plugin is to report it yet. It counts as known from this moment on.
    pub fn newly_bound(&mut self, event: &Event, moment: u64) -> Option<String> {
        let Event::Pod(pod) = event else { return None };
        let key = PodKey::of(pod);
        if pod.node.as_deref() != Some(&self.node) || self.arrived.contains_key(&key) {
            return None;
        }
        self.arrived.insert(key, moment);
        let is_started = !pod.is_endpoint() || pod.terminating || pod.addresses().next().is_some();
        (!is_started).then(|| pod.namespace.clone())
    }

    /// Takes in an event of the source. Events that are not about pods of this node are
    /// answered as they are, the others come with [`Sandboxes::update`].
    pub fn object(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Pod(pod) if pod.node.as_deref() == Some(&self.node) => {
                let key = PodKey::of(&pod);
                self.deleted_mirrors.remove(&key);
                for former in self.former_mirrors(&pod) {
                    self.remove_object(&former);
                }
                self.given.object_changed(key.clone());
                self.pods.insert(key, *pod);
                self.is_dirty = true;
                None
            }
            Event::PodGone(key) if self.is_mirror_in_use(&key) => {
                self.deleted_mirrors.insert(key);
                None
            }
            Event::PodGone(key) => (!self.remove_object(&key)).then_some(Event::PodGone(key)),
            other => Some(other),
        }
    }

    /// Removes an object of this node that is gone. Returns whether there was one.
    fn remove_object(&mut self, key: &PodKey) -> bool {
        let Some(pod) = self.pods.remove(key) else { return false };
        self.deleted_mirrors.remove(key);
        self.arrived.remove(key);
        self.reported.remove(&*mark(&pod));
        self.is_dirty = true;
        true
    }

    /// Whether this is the mirror of a static pod that has a sandbox.
    fn is_mirror_in_use(&self, key: &PodKey) -> bool {
        let Some(Pod { config_hash: Some(hash), namespace, name, .. }) = self.pods.get(key) else { return false };
        let is_its = |Sandbox { add, .. }: &Sandbox| {
            add.uid.as_ref() == Some(hash) && add.namespace == *namespace && add.name == *name
        };
        self.live.values().any(is_its)
    }

    /// The deleted mirrors of the static pod that has this one now.
    fn former_mirrors(&self, mirror: &Pod) -> Vec<PodKey> {
        let is_former = |key: &&PodKey| {
            self.pods.get(*key).is_some_and(|pod| {
                pod.config_hash == mirror.config_hash && pod.namespace == mirror.namespace && pod.name == mirror.name
            })
        };
        self.deleted_mirrors.iter().filter(is_former).cloned().collect()
    }

    /// Forgets the deleted mirrors of static pods that have no sandbox any more.
    fn forget_deleted_mirrors(&mut self) {
        let unused: Vec<_> = self.deleted_mirrors.iter().filter(|key| !self.is_mirror_in_use(key)).cloned().collect();
        for key in unused {
            self.remove_object(&key);
        }
    }

    /// The source has delivered everything. What was saved of pods that are gone is
    /// forgotten; a sandbox without an object is isolated from now on.
    pub fn synced(&mut self) {
        if std::mem::replace(&mut self.is_synced, true) {
            return;
        }
        let there: BTreeSet<Cow<'_, str>> = self.pods.values().map(mark).collect();
        self.reported.retain(|pod, _| there.contains(&**pod));
        self.is_dirty = true;
    }

    /// When the object of the pod that this ADD is about came ([`Sandboxes::newly_bound`]); nothing
    /// if it is not here.
    #[must_use]
    pub fn arrived(&self, add: &Add) -> Option<u64> {
        let key = add.uid.as_ref().map(|uid| PodKey::from_parts(uid, &add.namespace, &add.name));
        let pod = object_of(&self.pods, key.as_ref(), add)?;
        Some(self.arrived.get(&PodKey::of(pod)).copied().unwrap_or(u64::MAX))
    }

    /// The addresses of this ADD are its pod's from now on, even if objects list them for other
    /// pods, unless an ADD that began later has them. The same container reported twice is one
    /// sandbox, with the later addresses. It may still have the earlier ones, so they are released
    /// as after a DEL.
    ///
    /// `is_answered` if its pod may run: the plugin let it start without an agent.
    pub fn admit(&mut self, add: Add, began: Moment, is_answered: bool) {
        let was_answered = self.is_answered(&add.attachment);
        self.delete(&add.attachment);
        self.number += 1;
        for address in &add.addresses {
            self.released.remove(address);
            self.held.remove(address);
        }
        let sandbox = Sandbox::new(
            self.number,
            SavedSandbox { add, answered: is_answered || was_answered, began, lost: BTreeSet::new() },
        );
        report(&mut self.reported, &self.pods, &sandbox);
        let attachment = sandbox.add.attachment.clone();
        self.live.insert(attachment.clone(), sandbox);
        self.end_former(&attachment);
        self.is_dirty = true;
    }

    /// Kubelet makes a pod another sandbox once the one before has ended. If that had no DEL, its addresses are
    /// no more the pod's than after one, and its claim to them must not hold up the pod to which the network
    /// gave them. Of two sandboxes of a pod the one whose ADD began later stays.
    fn end_former(&mut self, attachment: &Attachment) {
        let Some(sandbox) = self.live.get(attachment).filter(|sandbox| sandbox.add.uid.is_some()) else { return };
        let is_of_the_pod = |Sandbox { add, .. }: &&Sandbox| {
            (&add.uid, &add.namespace, &add.name, &add.attachment.interface)
                == (&sandbox.add.uid, &sandbox.add.namespace, &sandbox.add.name, &attachment.interface)
        };
        let of_the_pod: Vec<_> = self.live.values().filter(is_of_the_pod).collect();
        let Some(last) = of_the_pod.iter().map(|sandbox| sandbox.order).max() else { return };
        let former = of_the_pod.into_iter().filter(|sandbox| sandbox.order < last);
        let former: Vec<_> = former.map(|sandbox| sandbox.add.attachment.clone()).collect();
        for attachment in former {
            self.delete(&attachment);
        }
    }

    /// Whether the plugin had its answer about a sandbox, so that its pod may run.
    #[must_use]
    pub fn is_answered(&self, attachment: &Attachment) -> bool {
        self.live.get(attachment).is_some_and(|sandbox| sandbox.is_answered)
    }

    /// The plugin has its answer about the ADD that began then.
    pub fn answered(&mut self, attachment: &Attachment, began: Moment) {
        if let Some(sandbox) = self.live.get_mut(attachment).filter(|sandbox| sandbox.order.0 == began) {
            sandbox.set_answered();
        }
    }

    /// Deletes a sandbox that is gone. Returns whether it was known. Its addresses leave the sets
    /// of peers at once. They stay isolated while the node's end of its interface is there, for
    /// some rounds if there is none, or until they are another sandbox's.
    pub fn delete(&mut self, attachment: &Attachment) -> bool {
        let Some(gone) = self.live.remove(attachment) else { return false };
        self.is_dirty = true;
        self.take_from_older(&gone);
        let add = gone.add;
        for address in add.addresses {
            // The DEL of an old sandbox takes nothing from a new one.
            if self.owner(address).is_some() {
                continue;
            }
            match &add.host_interface {
                Some(link) => {
                    self.released.insert(address, link.clone());
                }
                None => {
                    self.held.insert(address, HELD);
                }
            }
        }
        true
    }

    /// This sandbox is gone. Older sandboxes had its addresses before it, and may have ended without a DEL.
    fn take_from_older(&mut self, gone: &Sandbox) {
        let older = self.live.values_mut().filter(|sandbox| sandbox.order < gone.order);
        older.for_each(|sandbox| sandbox.lose(&gone.add.addresses));
    }

    /// The runtime removed a sandbox at this moment. One whose ADD began later stays: the runtime
    /// added the same attachment anew.
    pub fn removed(&mut self, attachment: &Attachment, moment: Moment) {
        let is_later = |sandbox: &Sandbox| sandbox.order.0 > moment;
        if !self.live.get(attachment).is_some_and(is_later) {
            self.delete(attachment);
        }
    }

    /// Deletes all sandboxes of a network that are not in `valid` and whose ADD began at `before` or earlier. Returns
    /// how many.
    pub fn collect(&mut self, network: &str, valid: &BTreeSet<Attachment>, before: Moment) -> usize {
        self.delete_all(|Sandbox { add, order, .. }| {
            add.network == network && !valid.contains(&add.attachment) && order.0 <= before
        })
    }

    /// Deletes all sandboxes that match. Returns how many.
    fn delete_all(&mut self, is_gone: impl Fn(&Sandbox) -> bool) -> usize {
        let gone = self.live.values().filter(|sandbox| is_gone(sandbox));
        let gone: Vec<_> = gone.map(|sandbox| sandbox.add.attachment.clone()).collect();
        gone.iter().filter(|attachment| self.delete(attachment)).count()
    }

    /// A round has passed. Forgets the addresses that were held for long, and those that CNI
    /// reported so long ago that the API cannot be behind any more.
    pub fn age(&mut self) {
        let held = self.held.len();
        // Before that nothing is isolated, and the API server may be away for longer than these rounds.
        if self.is_synced {
            self.held.retain(|_, rounds| {
                *rounds -= 1;
                *rounds > 0
            });
        }
        self.is_dirty |= held != self.held.len();
        let mut live = BTreeSet::new();
        for sandbox in self.live.values() {
            if let Some(pod) = sandbox.object(&self.pods) {
                // If the API server is away, the API is behind for longer. What it lists beside what the
                // sandbox has stays past for as long.
                let addresses = sandbox.add.addresses.iter().copied().chain(pod.addresses());
                live.extend(addresses.map(|address| (mark(pod).into_owned(), address)));
            }
        }
        let mut has_forgotten = false;
        for (pod, addresses) in &mut self.reported {
            addresses.retain(|address| {
                let key = (pod.clone(), *address);
                if live.contains(&key) {
                    self.past.remove(&key);
                    return true;
                }
                let rounds = self.past.entry(key).or_default();
                *rounds += 1;
                let is_kept = *rounds <= BEHIND;
                has_forgotten |= !is_kept;
                is_kept
            });
        }
        let reported = &self.reported;
        self.past.retain(|(pod, address), _| reported.get(pod).is_some_and(|all| all.contains(address)));
        self.is_dirty |= has_forgotten;
    }

    /// The interfaces of the node that sandboxes have or had.
    #[must_use]
    pub fn links(&self) -> BTreeSet<u32> {
        let live = self.live.values().filter_map(|sandbox| sandbox.add.host_interface.as_ref());
        live.chain(self.released.values()).map(|link| link.index).collect()
    }

    /// Some interfaces are gone, and so are the sandboxes that had them: the other end
    /// goes with its network namespace. How many sandboxes.
    ///
    /// An address without a sandbox is released with its interface, and also if that has another name: then its index
    /// is another interface's. For a sandbox that lives this is not enough, because a program may have given its
    /// interface the name, and the pod would be open ([`Sandboxes::netns_without_link`]).
    pub fn links_gone(&mut self, seen: &SeenLinks) -> usize {
        let has_ended = |sandbox: &Sandbox| sandbox.add.host_interface.as_ref().is_some_and(|link| seen.is_gone(link));
        let ended: Vec<_> = self.live.iter().filter(|(_, of)| has_ended(of)).map(|(at, _)| at.clone()).collect();
        let ended: Vec<_> = ended.iter().filter_map(|attachment| self.live.remove(attachment)).collect();
        for sandbox in &ended {
            self.take_from_older(sandbox);
        }
        let released = self.released.len();
        self.released.retain(|_, link| !seen.is_gone(link) && !seen.has_other_name(link));
        self.is_dirty |= !ended.is_empty() || released != self.released.len();
        ended.len()
    }

    /// The network namespaces of sandboxes if no interface of the node shows whether the sandbox is there. Such a
    /// sandbox has no interface on the node, or an interface with another name has its index.
    #[must_use]
    pub fn netns_without_link(&self, seen: &SeenLinks) -> BTreeSet<String> {
        let unlinked = self.live.values().filter(|sandbox| seen.says_nothing_of(&sandbox.add));
        unlinked.map(|sandbox| sandbox.add.netns.clone()).collect()
    }

    /// Deletes the sandboxes of these network namespaces, which are gone. A sandbox stays if an interface of the node
    /// shows whether it is there. Returns how many were deleted.
    pub fn netns_gone(&mut self, gone: &BTreeSet<String>, seen: &SeenLinks) -> usize {
        self.delete_all(|Sandbox { add, .. }| seen.says_nothing_of(add) && gone.contains(&add.netns))
    }

    /// The sandbox of a container and interface, as CNI reported it.
    #[must_use]
    pub fn sandbox(&self, attachment: &Attachment) -> Option<&Add> {
        self.live.get(attachment).map(|sandbox| &sandbox.add)
    }

    /// How many sandboxes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether there are no sandboxes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// What the engine has to be given, so that it knows this node's pods as they are
    /// now.
    pub fn update(&mut self) -> Vec<Event> {
        if !std::mem::take(&mut self.is_dirty) {
            return Vec::new();
        }
        self.forget_deleted_mirrors();
        // Also of a sandbox that was known before its object.
        for sandbox in self.live.values_mut() {
            report(&mut self.reported, &self.pods, sandbox);
            if sandbox.add.open && sandbox.object(&self.pods).is_some() {
                sandbox.object_came();
            }
        }
        let now = self.addresses();
        self.given.update(&self.node, &self.pods, now)
    }

    /// Which of these sandboxes has each address, the latest of several, and the addresses that an
    /// earlier one may have instead.
    fn owners(&self, in_order: &[&Sandbox]) -> (BTreeMap<IpAddr, (Moment, u64)>, BTreeSet<IpAddr>) {
        let mut owners = BTreeMap::new();
        let mut shared = BTreeSet::new();
        for sandbox in in_order {
            let addresses = sandbox.add.addresses.iter().copied();
            shared.extend(addresses.filter(|address| owners.insert(*address, sandbox.order).is_some()));
        }
        let contested = contested(&shared, in_order, &self.pods);
        (owners, contested)
    }

    /// The addresses that two running pods of this node have. They are isolated.
    #[must_use]
    pub fn contested(&self) -> BTreeSet<IpAddr> {
        self.owners(&self.in_order()).1
    }

    /// The interfaces of the other sandboxes that have an address of this ADD.
    pub fn links_beside<'a>(&'a self, add: &'a Add) -> impl Iterator<Item = u32> + 'a {
        let others = self.live.values().filter(move |sandbox| sandbox.add.attachment != add.attachment);
        let beside =
            others.filter(move |other| other.add.addresses.iter().any(|address| add.addresses.contains(address)));
        beside.filter_map(|other| Some(other.add.host_interface.as_ref()?.index))
    }

    /// The addresses as they are now.
    fn addresses(&self) -> CurrentAddresses {
        let in_order = self.in_order();
        let (owners, contested) = self.owners(&in_order);
        let mut of_pods: BTreeMap<PodKey, Vec<IpAddr>> = BTreeMap::new();
        let mut unidentified = contested.clone();
        for sandbox in in_order {
            let addresses = sandbox.add.addresses.iter().copied().filter(|address| !contested.contains(address));
            let own = addresses.filter(|address| owners.get(address) == Some(&sandbox.order));
            match sandbox.object(&self.pods).filter(|pod| pod.is_endpoint()) {
                Some(pod) => {
                    let (lost, kept): (Vec<_>, Vec<_>) = own.partition(|address| sandbox.lost.contains(address));
                    of_pods.entry(PodKey::of(pod)).or_default().extend(kept);
                    // If it is the pod's all the same, it must not be open.
                    unidentified.extend(lost);
                }
                // The settings let it start without its rules, because a node may need it before
                // the agent can know them.
                None if sandbox.add.open => {}
                None => unidentified.extend(own),
            }
        }
        let mut of_objects = BTreeMap::new();
        let mut claimed: BTreeSet<IpAddr> = BTreeSet::new();
        for (key, pod) in &self.pods {
            let of_sandboxes = of_pods.remove(key);
            // It has no sandbox of the plugin, one that was made again without it, or an interface
            // beside those of its sandboxes.
            let is_past = |address: &IpAddr| {
                let reported = self.reported.get(&*mark(pod));
                reported.is_some_and(|reported| reported.contains(address))
                    || of_sandboxes.is_some() && self.is_without_sandbox(*address)
            };
            let listed = pod.addresses().filter(|address| !owners.contains_key(address) && !is_past(address));
            let listed: Vec<_> = listed.collect();
            let mut addresses = of_sandboxes.unwrap_or_default();
            addresses.extend(listed);
            if pod.is_endpoint() {
                claimed.extend(&addresses);
            }
            of_objects.insert(key.clone(), addresses);
        }
        if !self.is_synced {
            return CurrentAddresses { of_objects, unidentified: BTreeSet::new() };
        }
        let without_sandbox = self.released.keys().chain(self.held.keys()).copied();
        unidentified
            .extend(without_sandbox.filter(|address| !owners.contains_key(address) && !claimed.contains(address)));
        CurrentAddresses { of_objects, unidentified }
    }

    /// Whether an address stays isolated though its sandbox has gone.
    fn is_without_sandbox(&self, address: IpAddr) -> bool {
        self.released.contains_key(&address) || self.held.contains_key(&address)
    }

    /// The sandbox that has an address: of several, the latest.
    fn owner(&self, address: IpAddr) -> Option<&Add> {
        let have = self.live.values().filter(|sandbox| sandbox.add.addresses.contains(&address));
        have.max_by_key(|sandbox| sandbox.order).map(|sandbox| &sandbox.add)
    }
}

#[cfg(test)]
#[path = "released_tests.rs"]
mod released_tests;
#[cfg(test)]
#[path = "sandboxes_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "unreported_tests.rs"]
mod unreported_tests;
#[cfg(test)]
#[path = "sandboxes_tests_world.rs"]
pub(super) mod world;
