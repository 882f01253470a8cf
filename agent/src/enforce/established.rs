//! When the flows that the kernel knows have to be judged, and by whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_compiler::engine::Engine;
use npc_compiler::established::{Ends, Judge, may_narrow};
use npc_compiler::plan::{KernelState, Plan};
use tracing::debug;

use crate::dataplane::conntrack::Swept;
use crate::dataplane::network::Network;
use crate::dataplane::{Error, Kernel};
use crate::source::difference::given_uid;

/// What is to be judged of the flows, and what was.
#[derive(Debug)]
pub(super) struct Established {
    /// Some may be forbidden by now: nobody has judged them since this agent
    /// began, or since policies became narrower, or since the rules were not
    /// all there.
    due: bool,
    /// The endpoints of this node by their addresses.
    owners: BTreeMap<IpAddr, Owner>,
    /// Addresses whose flows were those of an endpoint that has gone.
    departed: BTreeSet<IpAddr>,
    /// How many were cut in all.
    pub(super) cut: u64,
}

/// What makes a pod another one: namespace, name and UID.
type Owner = [String; 3];

impl Established {
    /// Nothing is known of any flow.
    pub(super) fn new() -> Self {
        Self { due: true, owners: BTreeMap::new(), departed: BTreeSet::new(), cut: 0 }
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
        let gone = self.owners.iter().filter(|(address, owner)| owners.get(address) != Some(owner));
        self.departed.extend(gone.map(|(address, _)| *address));
        self.owners = owners;
    }

    /// Whether flows have to be judged.
    pub(super) fn is_due(&self) -> bool {
        self.due || !self.departed.is_empty()
    }

    /// The addresses of this node's endpoints.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.owners.keys().copied()
    }

    /// Deletes what the kernel knows of flows that its rules forbid.
    pub(super) fn cut<K: Kernel>(
        &mut self,
        kernel: &mut K,
        state: &KernelState,
        network: &Network,
    ) -> Result<Swept, Error> {
        let here = Here {
            owners: &self.owners,
            departed: &self.departed,
            own: network.addresses.iter().map(ipnetwork::IpNetwork::ip).collect(),
        };
        let mut judge = Judge::new(state, &here);
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
        self.due = false;
        self.departed.clear();
        self.cut += swept.cut;
        Ok(swept)
    }
}

/// Whose addresses are whose on this node.
#[derive(Debug)]
struct Here<'a> {
    owners: &'a BTreeMap<IpAddr, Owner>,
    departed: &'a BTreeSet<IpAddr>,
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
