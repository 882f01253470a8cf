//! When the flows that the kernel knows have to be judged, and by whom.
//!
//! An address goes from one pod to the next, and conntrack does not tell which of
//! the two began a flow. What the new owner's rules forbid is cut when the owner
//! changes: the owner's address enters sets, so the plan narrows. What they admit
//! goes on, because it may be the new owner's, whose connections can be older than
//! the agent's knowledge of it. Nor does an address lose its flows when the agent
//! learns that its owner has gone: its next owner may be using them already. Only
//! when it has had no owner for long are all of them those of the pod that went.

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
use crate::source::difference::given_uid;

/// How long an address of this node has had no owner when its flows are cut.
/// Longer than the agent can learn later of a pod than the pod began to send: the
/// kubelet reports a pod's address within seconds.
const VACANT: Duration = Duration::from_secs(60);

/// What is to be judged of the flows, and what was.
#[derive(Debug)]
pub(super) struct Established {
    /// Some may be forbidden by now: nobody has judged them since this agent
    /// began, or since policies became narrower, or since the rules were not
    /// all there.
    due: bool,
    /// The endpoints of this node by their addresses.
    owners: BTreeMap<IpAddr, Owner>,
    /// Addresses that an endpoint of this node had and none has now, since when.
    vacant: BTreeMap<IpAddr, Instant>,
    /// How many were cut in all.
    pub(super) cut: u64,
}

/// What makes a pod another one: namespace, name and UID.
type Owner = [String; 3];

impl Established {
    /// Nothing is known of any flow.
    pub(super) fn new() -> Self {
        Self { due: true, owners: BTreeMap::new(), vacant: BTreeMap::new(), cut: 0 }
    }

    /// The rules may not have been in the way of every packet.
    pub(super) fn rules_were_lost(&mut self) {
        self.due = true;
    }

    /// A plan is going to the kernel.
    pub(super) fn planned(&mut self, plan: &Plan) {
        self.due |= may_narrow(plan);
    }

    /// Takes in who owns the addresses of this node's endpoints now.
    pub(super) fn owned_as(&mut self, engine: &Engine) {
        let owners: BTreeMap<IpAddr, Owner> = engine
            .owners_here()
            .map(|(address, [namespace, name, uid])| (address, [namespace, name, given_uid(&uid).to_owned()]))
            .collect();
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

    /// Flows are let be, whatever the rules say by now.
    pub(super) fn let_be(&mut self) {
        self.due = false;
        self.vacant.clear();
    }

    /// Deletes what the kernel knows of flows that its rules forbid, which are
    /// those that the engine has committed.
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
                    protocol = flow.protocol, port = flow.port, "a flow is denied by now"
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

/// Whose addresses are whose on this node.
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
    /// An address by the name of this node's endpoint that owns it, for people.
    fn name(&self, address: IpAddr) -> String {
        match self.owners.get(&address) {
            Some([namespace, name, _]) => format!("{namespace}/{name}"),
            None => address.to_string(),
        }
    }
}
