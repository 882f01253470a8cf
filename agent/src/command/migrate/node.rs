//! What this node's kernel holds, of npc and of Azure NPM.

use anyhow::Context as _;
use npc_agent::dataplane::iptables::{self, Hook};
use npc_agent::dataplane::{self, azure};
use npc_agent::status::RuleOptions;
use npc_compiler::azure::Placement;
use npc_compiler::object::Family;
use npc_compiler::plan::{Delta, FamilyState, KernelState, SetDelta};
use npc_compiler::ruleset::layout;
use serde::Serialize;

use crate::command::input::Input;
use crate::command::node_kernel::options::{self, AgentAnswer};
use crate::command::node_kernel::{distance, open};

/// The state of this node's kernel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeKernel {
    pub(super) name: String,
    pub(super) backend: String,
    /// Whether the kernel holds what the policies ask for, first in FORWARD.
    holds: bool,
    /// What is different.
    pub(super) differs: Vec<String>,
    /// The options by which the rules were compared.
    options: RuleOptions,
    /// Why they are those that come nearest to the kernel; null where the agent says its
    /// options.
    pub(super) options_guessed: Option<String>,
    pub(super) azure_npm: AzureNpmTraces,
    #[serde(skip)]
    behind_kube_proxy: Option<bool>,
}

/// What there is of Azure NPM.
#[derive(Debug, Serialize)]
pub(super) struct AzureNpmTraces {
    pub(super) tables: Vec<AzureTable>,
    pub(super) sets: usize,
    /// How many processes of its name are seen from here.
    pub(super) processes: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AzureTable {
    pub(super) backend: String,
    pub(super) family: Family,
    pub(super) chains: usize,
    pub(super) jumps: usize,
    pub(super) behind_npc: bool,
    pub(super) forward_drops: bool,
}

impl NodeKernel {
    /// Reads the kernel of the network namespace that this runs in.
    pub(super) fn read(name: &str, input: &Input) -> anyhow::Result<Self> {
        let cluster = &input.cluster;
        let reading = || "cannot read this kernel; npc migrate --node needs root";
        let (kernel, actual) = open().with_context(reading)?;
        let AgentAnswer { options, retained, why_not } = AgentAnswer::ask(name);
        let desired = |options: &_| KernelState::from(&layout::ruleset_with(cluster, name, options, &retained));
        let options = options
            .unwrap_or_else(|| options::nearest(&actual, input.bounds, |options| distance(&desired(options), &actual)));
        // An agent does not say its secret, but the kernel keeps it.
        let options = layout::RulesetOptions { seed: actual.seed(), ..options };
        let desired = desired(&options);
        let hooks = kernel.hooks();
        // A kernel without a family has no packets of it that rules could miss.
        let families: Vec<Family> = hooks.iter().map(|(family, _)| *family).collect();
        let mut differs = differences(&families, &desired, &actual);
        for (family, hook) in hooks {
            let expected = !actual.family(family).chains.is_empty() || !differs.is_empty();
            match hook {
                Ok(Hook::First) => {}
                Ok(hook) if expected => differs.push(format!("{family}: {hook}")),
                Ok(_) => {}
                // If no packet meets the rules of one family, the rest is still worth saying.
                Err(dataplane::Error::Iptables(error @ iptables::Error::ForeignForward { .. })) => {
                    differs.push(error.to_string());
                }
                Err(error) => return Err(error).with_context(reading),
            }
        }
        let leftovers = azure::find_leftovers().with_context(reading)?;
        let in_force = leftovers.tables.iter().find(|table| !table.jumps.is_empty());
        Ok(Self {
            name: name.to_owned(),
            backend: kernel.backend().to_string(),
            holds: differs.is_empty(),
            differs,
            options: RuleOptions::from(&options),
            options_guessed: why_not,
            behind_kube_proxy: in_force.map(|table| table.is_behind_kube_proxy),
            azure_npm: AzureNpmTraces {
                tables: leftovers.tables.iter().map(table).collect(),
                sets: leftovers.sets.len(),
                processes: azure::processes().len(),
            },
        })
    }

    /// Where the jump of Azure NPM stands, if it is there.
    pub(super) fn placement(&self) -> Option<Placement> {
        self.behind_kube_proxy.map(|behind| if behind { Placement::BehindKubeProxy } else { Placement::First })
    }
}

fn table(table: &azure::Table) -> AzureTable {
    AzureTable {
        backend: table.backend.to_string(),
        family: table.family,
        chains: table.chains.len(),
        jumps: table.jumps.len(),
        behind_npc: table.is_behind_us,
        forward_drops: table.drops_by_default,
    }
}

/// What differs in these families.
fn differences(families: &[Family], desired: &KernelState, actual: &KernelState) -> Vec<String> {
    let of_family = |family: &Family| compare(*family, desired.family(*family), actual.family(*family));
    families.iter().flat_map(of_family).collect()
}

fn compare(family: Family, desired: &FamilyState, actual: &FamilyState) -> Vec<String> {
    // Without a chain of ours there is one thing to say.
    if actual.chains.is_empty() && !desired.chains.is_empty() {
        return vec![format!("{family}: there is no chain of npc")];
    }
    let delta = Delta::between(actual, desired);
    let chains = delta.chains.iter().map(|(chain, rules)| match rules {
        Some(_) if actual.chains.contains_key(chain) => format!("{family}: chain {chain} has other rules"),
        Some(_) => format!("{family}: chain {chain} is missing"),
        None => format!("{family}: chain {chain} is not asked for"),
    });
    let sets = delta.sets.iter().filter_map(|(set, change)| {
        let shown = set.shown();
        Some(match change {
            SetDelta::Created(..) => format!("{family}: set {shown} is missing"),
            // No object says what may come from an interface.
            SetDelta::Changed { .. } if set.is_own() => return None,
            SetDelta::Changed { added, removed } => {
                format!("{family}: set {shown} lacks {} members and has {} others", added.len(), removed.len())
            }
            SetDelta::Remade(kind, _) => format!("{family}: set {shown} is not of the type {}", kind.as_str()),
            SetDelta::Gone => format!("{family}: set {shown} is not asked for"),
        })
    });
    chains.chain(sets).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use k8s_openapi::api::networking::v1 as networking;
    use npc_compiler::cluster::Cluster;
    use npc_compiler::object::{Labels, NetworkPolicy, Objects, Pod};
    use npc_compiler::ruleset::layout::RulesetOptions;

    use super::*;

    #[test]
    fn a_node_without_ipv6_lacks_no_rules_of_it() {
        let spec = serde_json::json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"podSelector": {}}});
        let policy: networking::NetworkPolicy = serde_json::from_value(spec).expect("a policy");
        let pod = Pod::from_template("ns".to_owned(), "a".to_owned(), Labels::new(), PodSpec::default());
        let pod =
            Pod { node: Some("n1".to_owned()), ipv4: "10.0.0.1".parse().ok(), ipv6: "fd00::1".parse().ok(), ..pod };
        let mut objects =
            Objects { pods: vec![pod], policies: vec![NetworkPolicy::from(policy)], ..Objects::default() };
        objects.declare_namespaces();
        let ruleset = layout::ruleset(&Cluster::new(&objects), "n1", &RulesetOptions::default());
        let desired = KernelState::from(&ruleset);
        let mut actual = KernelState::from(&ruleset);
        *actual.family_mut(Family::V6) = FamilyState::default();
        assert_eq!(differences(&[Family::V4], &desired, &actual), [""; 0], "this kernel has no IPv6");
        assert_eq!(differences(&Family::ALL, &desired, &actual), ["IPv6: there is no chain of npc"]);
    }
}
