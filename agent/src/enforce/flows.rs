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
use npc_compiler::plan::conntrack::{Ends, Judge, may_narrow};
use tokio::time::Instant;
use tracing::debug;

use crate::dataplane::conntrack::Swept;
use crate::dataplane::network::Network;
use crate::dataplane::{Error, Kernel};

/// How long an address of this node has had no owner when its flows are cut. A pod may
/// send for some seconds before the agent learns of it, until the kubelet has reported its
/// address; this is longer.
const VACANT: Duration = Duration::from_secs(60);

/// Which flows are to be judged, and how many were cut.
#[derive(Debug)]
pub(super) struct Established {
    /// Some may be forbidden: the agent has not judged them since it started, or since
    /// policies became narrower, or since rules were missing in the kernel.
    due: bool,
    /// The endpoints of this node by their addresses.
    owners: BTreeMap<IpAddr, Owner>,
    /// Addresses that an endpoint of this node had and none has now, since when.
    vacant: BTreeMap<IpAddr, Instant>,
    /// How many were cut in all.
    pub(super) cut: u64,
}

/// Namespace and name of a pod.
type Owner = [String; 2];

impl Established {
    /// No flow was judged yet.
    pub(super) fn new() -> Self {
        Self { due: true, owners: BTreeMap::new(), vacant: BTreeMap::new(), cut: 0 }
    }

    /// Packets may have passed without meeting our rules.
    pub(super) fn rules_were_lost(&mut self) {
        self.due = true;
    }

    /// A plan is going to the kernel.
    pub(super) fn planned(&mut self, plan: &Plan) {
        self.due |= may_narrow(plan);
    }

    /// Takes in which endpoints of this node own which addresses now.
    pub(super) fn owned_as(&mut self, engine: &Engine) {
        let owners: BTreeMap<IpAddr, Owner> =
            engine.local_owners().map(|(address, [namespace, name, _])| (address, [namespace, name])).collect();
        let now = Instant::now();
        let left = self.owners.keys().filter(|address| !owners.contains_key(address));
        self.vacant.extend(left.map(|address| (*address, now)));
        self.vacant.retain(|address, _| !owners.contains_key(address));
        self.owners = owners;
    }

    /// Whether flows have to be judged.
    pub(super) fn is_due(&self) -> bool {
        self.due || self.vacant.values().any(|since| since.elapsed() >= VACANT)
    }

    /// The addresses of this node's endpoints.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.owners.keys().copied()
    }

    /// All established flows may go on, whatever the rules say now.
    pub(super) fn let_be(&mut self) {
        self.due = false;
        self.vacant.clear();
    }

    /// Deletes the flows that the rules forbid which the engine has committed.
    pub(super) fn cut<K: Kernel>(
        &mut self,
        kernel: &mut K,
        engine: &Engine,
        network: &Network,
    ) -> Result<Swept, Error> {
        self.vacant.retain(|address, since| since.elapsed() < VACANT || engine.owner(*address).is_none());
        let departed = self.vacant.iter().filter(|(_, since)| since.elapsed() >= VACANT);
        let here = Here {
            owners: &self.owners,
            departed: departed.map(|(address, _)| *address).collect(),
            own: network.addresses.iter().map(ipnetwork::IpNetwork::ip).collect(),
        };
        let judge = Judge::new(engine.state(), &here);
        let swept = kernel.cut(&mut |flow| {
            let forbidden = judge.forbids(flow);
            if forbidden {
                let (from, to) = (here.name(flow.source), here.name(flow.destination));
                debug!(
                    from, to, source = %flow.source, destination = %flow.destination,
                    protocol = flow.protocol, port = flow.port, "cutting a flow that policies deny now"
                );
            }
            forbidden
        })?;
        let departed = here.departed;
        self.vacant.retain(|address, _| !departed.contains(address));
        self.due = false;
        self.cut += swept.cut;
        Ok(swept)
    }
}

/// Which addresses of this node are whose.
#[derive(Debug)]
struct Here<'a> {
    owners: &'a BTreeMap<IpAddr, Owner>,
    departed: BTreeSet<IpAddr>,
    own: BTreeSet<IpAddr>,
}

impl Ends for Here<'_> {
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

impl Here<'_> {
    /// An address by the name of this node's endpoint that owns it, for the log.
    fn name(&self, address: IpAddr) -> String {
        match self.owners.get(&address) {
            Some([namespace, name]) => format!("{namespace}/{name}"),
            None => address.to_string(),
        }
    }
}
