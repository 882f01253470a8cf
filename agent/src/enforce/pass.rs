//! What a pass of the enforcer did.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use npc_compiler::cluster::group::RetainedGroup;
use npc_compiler::engine::Contested;
use npc_compiler::object::Family;
use npc_compiler::policy::finding::Finding;
use npc_compiler::ruleset::layout;
use npc_compiler::ruleset::node::InterfaceName;

use super::bridge_table::BridgeState;
use super::bridges::UnfilteredBridge;
use super::writes::Writes;
use crate::dataplane::iptables::Hook;
use crate::metrics::RulesetSize;
use crate::status::{LoadingNamespace, Spoofable};

/// What a pass did.
#[derive(Debug, Clone)]
pub struct Pass {
    /// How many policies there are in the cluster.
    pub policies: usize,
    /// How many endpoints are on this node.
    pub endpoints: usize,
    /// What the compiler did not understand; `None` where that is the same as at the last pass
    /// that succeeded.
    pub findings: Option<Vec<Finding>>,
    /// The empty groups that are retained.
    pub retained: Vec<RetainedGroup>,
    /// What the rules depend on besides the cluster.
    pub options: layout::RulesetOptions,
    /// What was written.
    pub writes: Writes,
    /// Where the jump to our chains was, in the families where it was not first.
    pub rehooked: Vec<(Family, Hook)>,
    /// Bridges behind which endpoints of this node reach each other past
    /// iptables.
    pub unfiltered_bridges: BTreeSet<UnfilteredBridge>,
    /// How the table of the bridge family stands.
    pub bridge: BridgeState,
    /// How many interfaces of pods are in their device group from now on, and how
    /// many not any more.
    pub regrouped: (usize, usize),
    /// Interfaces of pods that are not in it, and why.
    pub unpinned: BTreeMap<InterfaceName, String>,
    /// Pods of this node whose forged sources are not dropped, though it was asked
    /// for.
    pub spoofable: Vec<Spoofable>,
    /// The large changes that are being loaded, by namespace. What came of them, and behind them, is
    /// not in force.
    pub loading: Vec<LoadingNamespace>,
    /// Another program holds the lock that rules need, so nothing of it was loaded.
    pub is_load_blocked: bool,
    /// Addresses that several pods of the cluster list.
    pub contests: Vec<Contested>,
    /// How much of ours each family of the kernel holds.
    pub sizes: [(Family, RulesetSize); 2],
    /// Since when every first packet of a flow gets the new verdict. Leftovers are cleared
    /// away after that, and flows that were established are cut beside the loop.
    pub enforced: Instant,
    /// How long it took to get to the writes.
    pub compiled: Duration,
    /// How long it took from there to the kernel.
    pub applied: Duration,
}
