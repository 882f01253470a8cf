//! When the flows that the kernel knows have to be judged, and as whose.
//!
//! An address goes from one pod to the next, and conntrack does not show which of the two
//! began a flow. When the owner changes, the agent cuts what the new owner's rules forbid:
//! its address enters sets, so the plan narrows. What these rules admit goes on, because it
//! may be the new owner's. That pod may have begun connections before the agent knew of it.
//! For the same reason an address keeps its flows when the agent learns that its owner has
//! gone: the next owner may be using them. Only if it has had no owner for long, all of
//! them are those of the pod that went.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use npc_compiler::engine::Engine;
use npc_compiler::plan::Plan;
use npc_compiler::plan::conntrack::{AddressOwners, FlowJudgement, FlowKey, FlowScope, narrowed};
use tokio::time::Instant;
use tracing::debug;

use super::flow_index::FlowIndex;
use crate::dataplane::CutRequest;
use crate::dataplane::network::Network;

/// How long an address of this node has had no owner when its flows are cut. A pod may
/// send for some seconds before the agent learns of it, until the kubelet has reported its
/// address; this is longer.
const VACANT: Duration = Duration::from_secs(60);

/// Which flows are to be judged, and as whose.
#[derive(Debug)]
pub(super) struct Established {
    /// Some may be forbidden once what is being written is in the kernel: the agent has not
    /// judged them since it started, or since policies became narrower, or since rules were
    /// missing in the kernel.
    due: FlowScope,
    /// Some may be forbidden, and the rules that forbid them are in the kernel.
    pending: FlowScope,
    /// The endpoints of this node by their addresses.
    owners: BTreeMap<IpAddr, Owner>,
    /// Addresses that an endpoint of this node had and none has now, since when.
    vacant: BTreeMap<IpAddr, Instant>,
    /// Those of them that had no owner for long when the flows were last to be judged.
    departed: BTreeSet<IpAddr>,
    /// The node's own addresses.
    own: BTreeSet<IpAddr>,
    /// Only flows of new sandboxes' addresses are judged.
    keeps_all: bool,
    /// Which addresses have no flow.
    pub(super) index: FlowIndex,
}

/// Flows that a sweep is to judge.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) cut: CutRequest,
    /// Addresses that have had no owner for long when it begins.
    departed: BTreeSet<IpAddr>,
}

/// Namespace and name of a pod.
type Owner = [String; 2];

impl Established {
    /// No flow was judged yet.
    pub(super) fn new() -> Self {
        Self {
            due: FlowScope::All,
            pending: FlowScope::default(),
            owners: BTreeMap::new(),
            vacant: BTreeMap::new(),
            departed: BTreeSet::new(),
            own: BTreeSet::new(),
            keeps_all: false,
            index: FlowIndex::default(),
        }
    }

    /// Packets may have passed without meeting our rules.
    pub(super) fn rules_were_lost(&mut self) {
        self.due = FlowScope::All;
    }

    /// A plan is going to the kernel.
    pub(super) fn planned(&mut self, plan: &Plan) {
        self.due.add(narrowed(plan));
    }

    /// Takes in which endpoints of this node own which addresses now.
    pub(super) fn owned_as(&mut self, engine: &Engine) {
        let owners: BTreeMap<IpAddr, Owner> =
            engine.local_owners().map(|(address, [namespace, name, _])| (address, [namespace, name])).collect();
        let now = Instant::now();
        let left = self.owners.keys().filter(|address| !owners.contains_key(address));
        self.vacant.extend(left.map(|address| (*address, now)));
        self.vacant.retain(|address, _| !owners.contains_key(address));
        self.departed.retain(|address| !owners.contains_key(address));
        self.owners = owners;
    }

    /// Whether a pass has to find out which flows are to be judged.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty() || self.long_vacant().next().is_some()
    }

    /// Addresses whose flows no sweep has cut yet though they have had no owner for long.
    fn long_vacant(&self) -> impl Iterator<Item = IpAddr> {
        let long = self.vacant.iter().filter(|(_, since)| since.elapsed() >= VACANT).map(|(address, _)| *address);
        long.filter(|address| !self.departed.contains(address))
    }

    /// The addresses of this node's endpoints.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.owners.keys().copied()
    }

    /// All established flows may go on, even if the rules deny them now. Those of a new sandbox's
    /// addresses are not its own, so they are cut all the same.
    pub(super) fn let_be(&mut self) {
        self.keeps_all = true;
        (self.due, self.pending) = (FlowScope::default(), FlowScope::default());
        self.vacant.clear();
        self.departed.clear();
    }

    /// What was planned is in the kernel, as far as it goes there at all: flows can be judged
    /// by what the engine has committed.
    pub(super) fn enforced(&mut self, engine: &Engine, network: &Network) {
        self.own_are(network);
        // One that another node's endpoint has now may have flows of that one's.
        self.vacant.retain(|address, since| since.elapsed() < VACANT || engine.owner(*address).is_none());
        let departed: BTreeSet<IpAddr> = self.long_vacant().collect();
        self.pending.add(std::mem::take(&mut self.due));
        self.pending.add(FlowScope::Of(departed.clone()));
        self.departed.extend(departed);
    }

    /// The rules for these addresses are in the kernel, though not all that was planned is.
    pub(super) fn enforced_for(&mut self, addresses: &BTreeSet<IpAddr>, network: &Network) {
        self.own_are(network);
        if !self.keeps_all {
            self.pending.add(FlowScope::Of(addresses.clone()));
        }
    }

    fn own_are(&mut self, network: &Network) {
        self.own = network.addresses.iter().map(ipnetwork::IpNetwork::ip).collect();
    }

    /// Whether flows go on even if the rules deny them ([`Established::let_be`]).
    pub(super) const fn keeps_all(&self) -> bool {
        self.keeps_all
    }

    /// Which flows are to be judged now.
    pub(super) fn pending(&self) -> &FlowScope {
        &self.pending
    }

    /// Takes the flows that are pending, which the caller judges.
    pub(super) fn take_pending(&mut self) -> Due {
        let scope = std::mem::take(&mut self.pending);
        let renewal = self.index.renewal(&scope, &self.departed, self.owners.keys().copied());
        Due {
            cut: CutRequest { scope, new: BTreeSet::new(), index_epoch: None, renewal },
            departed: self.departed.clone(),
        }
    }

    /// The flows of these addresses, which the caller has judged. The `new` ones are those of new
    /// sandboxes.
    pub(super) fn take_pending_of(&mut self, addresses: &BTreeSet<IpAddr>, new: BTreeSet<IpAddr>) -> Due {
        self.pending.remove(addresses);
        let index_epoch = self.index.asked_by(addresses);
        let cut = CutRequest { scope: FlowScope::Of(addresses.clone()), new, index_epoch, renewal: None };
        Due { cut, departed: BTreeSet::new() }
    }

    /// These flows were to be judged and could not be.
    pub(super) fn put_back(&mut self, due: Due) {
        self.pending.add(due.cut.scope);
    }

    /// These flows are judged. An address that has had no owner for long only since then is
    /// not among them.
    pub(super) fn judged(&mut self, due: &Due) {
        for address in due.departed.iter().filter(|address| due.cut.scope.covers(**address)) {
            if self.departed.remove(address) {
                self.vacant.remove(address);
            }
        }
    }

    /// Whether the rules that the engine has committed forbid these flows. An address counts as
    /// its present owner's, not as that of the owner when the flows were listed.
    pub(super) fn forbidden(&self, engine: &Engine, flows: &[FlowKey]) -> Vec<bool> {
        let gone = self.departed.iter().copied().filter(|address| engine.owner(*address).is_none());
        let here = NodeAddresses { owners: &self.owners, departed: gone.collect(), own: &self.own };
        let judge = FlowJudgement::new(engine.state(), &here);
        let forbidden = flows.iter().map(|flow| {
            let forbidden = judge.forbids(flow);
            if forbidden {
                let (from, to) = (here.name(flow.source), here.name(flow.destination));
                debug!(
                    from, to, source = %flow.source, destination = %flow.destination,
                    protocol = flow.protocol, port = flow.port, "cutting a flow that policies deny now"
                );
            }
            forbidden
        });
        forbidden.collect()
    }
}

/// Which addresses of this node are whose.
#[derive(Debug)]
struct NodeAddresses<'a> {
    owners: &'a BTreeMap<IpAddr, Owner>,
    departed: BTreeSet<IpAddr>,
    own: &'a BTreeSet<IpAddr>,
}

impl AddressOwners for NodeAddresses<'_> {
    fn is_local(&self, address: IpAddr) -> bool {
        self.owners.contains_key(&address)
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    fn is_departed(&self, address: IpAddr) -> bool {
        self.departed.contains(&address)
    }
}

impl NodeAddresses<'_> {
    /// An address by the name of this node's endpoint that owns it, for the log.
    fn name(&self, address: IpAddr) -> String {
        match self.owners.get(&address) {
            Some([namespace, name]) => format!("{namespace}/{name}"),
            None => address.to_string(),
        }
    }
}
