//! When the flows that the kernel knows have to be judged, and by whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_compiler::cluster::Cluster;
use npc_compiler::engine::Engine;
use npc_compiler::established::{Judge, may_narrow};
use npc_compiler::layout::Options;
use npc_compiler::plan::Plan;
use tracing::debug;

use super::difference::given_uid;
use crate::dataplane::conntrack::Swept;
use crate::dataplane::{Error, Kernel};

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

    /// Deletes what the kernel knows of flows that are forbidden.
    pub(super) fn cut<K: Kernel>(
        &mut self,
        kernel: &mut K,
        cluster: &Cluster,
        node: &str,
        options: &Options,
    ) -> Result<Swept, Error> {
        let mut judge = Judge::new(cluster, node, options, &self.departed);
        let swept = kernel.cut(&mut |flow| {
            let forbidden = judge.forbids(flow);
            if forbidden {
                let (from, to) = (judge.name(flow.source), judge.name(flow.destination));
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
