//! What this node's kernel holds, of npc and of Azure NPM.

use std::collections::BTreeSet;

use anyhow::Context as _;
use npc_agent::dataplane::backend::{self, Backend};
use npc_agent::dataplane::iptables::{self, Hook};
use npc_agent::dataplane::{self, Kernel as _, Linux, azure};
use npc_agent::status::AgentStatus;
use npc_compiler::azure::Placement;
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::Lingering;
use npc_compiler::object::Family;
use npc_compiler::plan::{Held, KernelState};
use npc_compiler::ruleset::layout::{self, SelfMatch};
use serde::Serialize;

/// The state of this node's kernel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    pub(super) name: String,
    pub(super) backend: String,
    /// Whether the kernel holds what the policies ask for, first in FORWARD.
    holds: bool,
    /// What is different.
    pub(super) differs: Vec<String>,
    pub(super) azure_npm: AzureNpm,
    #[serde(skip)]
    behind_kube_proxy: Option<bool>,
}

/// What there is of Azure NPM.
#[derive(Debug, Serialize)]
pub(super) struct AzureNpm {
    pub(super) tables: Vec<Table>,
    pub(super) sets: usize,
    /// How many processes of its name are seen from here.
    pub(super) processes: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Table {
    pub(super) backend: String,
    pub(super) family: Family,
    pub(super) chains: usize,
    pub(super) jumps: usize,
    pub(super) behind_npc: bool,
    pub(super) forward_drops: bool,
}

impl State {
    /// Reads the kernel of the network namespace that this runs in.
    pub(super) fn read(name: &str, cluster: &Cluster) -> anyhow::Result<Self> {
        let reading = || "cannot look into this kernel; npc migrate --node needs root";
        let (kernel, held) = open().with_context(reading)?;
        // Without an agent, what it kept for pods that may come back is too much.
        let lingering = AgentStatus::ask().map(|status| status.lingering).unwrap_or_default();
        let lingering: Vec<Lingering> = lingering.into_iter().map(Into::into).collect();
        let mut differs = smallest_difference(name, cluster, &lingering, &held);
        for (family, hook) in kernel.hooks() {
            let expected = !held.family(family).chains.is_empty() || !differs.is_empty();
            match hook {
                Ok(Hook::First) => {}
                Ok(hook) if expected => {
                    differs.push(format!("{family}: the jump to NPC-FORWARD is not first in FORWARD ({hook:?})"));
                }
                Ok(_) => {}
                // One family of which no packet meets the rules is no reason to tell nothing.
                Err(dataplane::Error::Iptables(error @ iptables::Error::Misplaced { .. })) => {
                    differs.push(error.to_string());
                }
                Err(error) => return Err(error).with_context(reading),
            }
        }
        let remains = azure::look().with_context(reading)?;
        let in_force = remains.tables.iter().find(|table| !table.jumps.is_empty());
        Ok(Self {
            name: name.to_owned(),
            backend: kernel.backend().to_string(),
            holds: differs.is_empty(),
            differs,
            behind_kube_proxy: in_force.map(|table| table.is_behind_kube_proxy),
            azure_npm: AzureNpm {
                tables: remains.tables.iter().map(table).collect(),
                sets: remains.sets.len(),
                processes: azure::processes().len(),
            },
        })
    }

    /// Where the jump of Azure NPM stands, if it is there.
    pub(super) fn placement(&self) -> Option<Placement> {
        self.behind_kube_proxy.map(|behind| if behind { Placement::BehindKubeProxy } else { Placement::First })
    }
}

/// The packet filter that holds chains of ours; where none does, the one that
/// an agent would take.
fn open() -> Result<(Linux, KernelState), dataplane::Error> {
    let mut kernel = Linux::open(None)?;
    let mut held = kernel.read()?;
    let is_empty = |held: &KernelState| Family::ALL.iter().all(|family| held.family(*family).chains.is_empty());
    let others = Backend::ALL.into_iter().filter(|other| *other != kernel.backend());
    for other in others.filter(|other| backend::is_live(*other, Family::V4)).collect::<Vec<_>>() {
        if is_empty(&held) {
            let mut tried = Linux::open(Some(other))?;
            let found = tried.read()?;
            if !is_empty(&found) {
                (kernel, held) = (tried, found);
            }
        }
    }
    Ok((kernel, held))
}

fn table(table: &azure::Table) -> Table {
    Table {
        backend: table.backend.to_string(),
        family: table.family,
        chains: table.chains.len(),
        jumps: table.jumps.len(),
        behind_npc: table.is_behind_us,
        forward_drops: table.drops_by_default,
    }
}

/// Compares with what an agent writes, by whichever of its options comes
/// nearest: which were chosen, the kernel does not say.
fn smallest_difference(node: &str, cluster: &Cluster, lingering: &[Lingering], held: &KernelState) -> Vec<String> {
    let options = (0..32_u8).map(|choice| {
        let is = |bit: u8| choice >> bit & 1 == 1;
        layout::Options {
            self_match: if is(0) { SelfMatch::PerEndpoint } else { SelfMatch::Bpf },
            keep_established: is(1),
            allow_tunnels: is(2),
            log_denied: is(3),
            anti_spoof: is(4),
            lacks: layout::Lacks::of_held(held),
        }
    });
    let compared = options.map(|options| {
        let wanted = KernelState::from(&layout::program_with(cluster, node, &options, lingering));
        Family::ALL.into_iter().flat_map(|family| compare(family, wanted.family(family), held.family(family))).collect()
    });
    compared.min_by_key(Vec::len).unwrap_or_default()
}

fn compare(family: Family, wanted: &Held, held: &Held) -> Vec<String> {
    // Without a chain of ours there is one thing to say.
    if held.chains.is_empty() && !wanted.chains.is_empty() {
        return vec![format!("{family}: there is no chain of npc")];
    }
    let mut lines = Vec::new();
    for chain in wanted.chains.keys().chain(held.chains.keys()).collect::<BTreeSet<_>>() {
        match (wanted.chains.get(chain), held.chains.get(chain)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(_), Some(_)) => lines.push(format!("{family}: chain {chain} has other rules")),
            (Some(_), None) => lines.push(format!("{family}: chain {chain} is missing")),
            (None, _) => lines.push(format!("{family}: chain {chain} is not asked for")),
        }
    }
    for set in wanted.sets.keys().chain(held.sets.keys()).collect::<BTreeSet<_>>() {
        match (wanted.sets.get(set), held.sets.get(set)) {
            // What may come from an interface, no object tells.
            (Some((a, _)), Some((b, _))) if set.is_own() && a == b => {}
            (Some(a), Some(b)) if a == b => {}
            (Some((_, a)), Some((_, b))) => lines.push(format!(
                "{family}: set {set} lacks {} members and has {} others",
                a.difference(b).count(),
                b.difference(a).count()
            )),
            (Some(_), None) => lines.push(format!("{family}: set {set} is missing")),
            (None, _) => lines.push(format!("{family}: set {set} is not asked for")),
        }
    }
    lines
}
