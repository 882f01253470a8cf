//! The options by which the rules in this kernel were made.

use npc_agent::status::{AgentStatus, Error};
use npc_compiler::cluster::group::RetainedGroup;
use npc_compiler::object::Family;
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::layout::{Bounds, MissingMatches, RulesetOptions, SelfMatch};
use npc_compiler::ruleset::node::{ChainName, Match, Rule, SetName, Target};

/// What the agent of a node says of itself that its rules depend on.
#[derive(Debug, Default)]
pub(in crate::command) struct AgentAnswer {
    /// Its options; none where no agent says them.
    pub(in crate::command) options: Option<RulesetOptions>,
    /// The groups that it keeps though they have no endpoint.
    pub(in crate::command) retained: Vec<RetainedGroup>,
    /// Why there are no options.
    pub(in crate::command) why_not: Option<String>,
}

impl AgentAnswer {
    /// Asks the agent in this network namespace.
    pub(in crate::command) fn ask(node: &str) -> Self {
        Self::of(node, AgentStatus::ask())
    }

    fn of(node: &str, answer: Result<AgentStatus, Error>) -> Self {
        let without = |why: String| Self { why_not: Some(why), ..Self::default() };
        match answer {
            Err(Error::NoAgent(_)) => without("no agent answers here".to_owned()),
            Err(error) => without(error.to_string()),
            Ok(status) if status.node != node => without(format!("the agent here is that of node {}", status.node)),
            Ok(status) => Self {
                why_not: match (&status.options, &status.synced) {
                    (Some(_), _) => None,
                    (None, None) => Some("the agent has written nothing yet".to_owned()),
                    (None, Some(_)) => {
                        Some(format!("the agent is of version {} and does not say them", status.version))
                    }
                },
                options: status.options.map(Into::into),
                // Without an agent, what it kept for pods that may come back is too much.
                retained: status.retained.into_iter().map(Into::into).collect(),
            },
        }
    }
}

/// The options that come nearest to what a kernel holds, by a distance that is 0 where
/// nothing differs.
///
/// The bounds show nowhere. Chains, sets and rules show the others, but for tunnels: both
/// choices are compared, or one where it fits.
pub(in crate::command) fn nearest(
    actual: &KernelState,
    bounds: Bounds,
    distance: impl Fn(&RulesetOptions) -> usize,
) -> RulesetOptions {
    let families = || Family::ALL.into_iter().map(|family| actual.family(family));
    let has_rule = |is_it: fn(&Rule) -> bool| families().any(|actual| actual.chains.values().flatten().any(is_it));
    let asks_for_itself = |rule: &Rule| rule.matches.contains(&Match::SourceIsDestination);
    let shown = RulesetOptions {
        keep_established: !families().any(|actual| actual.chains.contains_key(&ChainName::stray())),
        log_denied: has_rule(|rule| rule.target == Target::Log),
        self_match: if has_rule(asks_for_itself) { SelfMatch::Bpf } else { SelfMatch::PerEndpoint },
        anti_spoof: families().any(|actual| actual.sets.keys().any(SetName::is_own)),
        lacks: MissingMatches::of_actual(actual),
        seed: actual.seed(),
        bounds,
        ..RulesetOptions::default()
    };
    let with_tunnels = RulesetOptions { allow_tunnels: true, ..shown.clone() };
    match distance(&shown) {
        0 => shown,
        without if distance(&with_tunnels) < without => with_tunnels,
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use npc_agent::source::manifests;
    use npc_agent::status::RuleOptions;
    use npc_compiler::cluster::Cluster;
    use npc_compiler::ruleset::layout;
    use npc_compiler::ruleset::names::seed::Seed;

    use super::*;
    use crate::command::node_kernel::distance;

    fn cluster() -> Cluster {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/shop.yaml");
        let options = manifests::ReadOptions {
            default_namespace: "default".to_owned(),
            allow_errors: false,
            ..manifests::ReadOptions::default()
        };
        let mut objects = manifests::load(&[folder.into()], &options).expect("the shop").objects;
        // Templates have no node and no address.
        for (number, pod) in (1..).zip(&mut objects.pods) {
            pod.node = Some("node-1".to_owned());
            pod.ipv4 = Some([10, 0, 0, number].into());
        }
        Cluster::new(&objects)
    }

    #[test]
    fn every_choice_of_options_is_found_by_few_comparisons() {
        let cluster = cluster();
        for choice in 0..32_u8 {
            let is = |bit: u8| choice >> bit & 1 == 1;
            let chosen = RulesetOptions {
                self_match: if is(0) { SelfMatch::PerEndpoint } else { SelfMatch::Bpf },
                keep_established: is(1),
                allow_tunnels: is(2),
                log_denied: is(3),
                anti_spoof: is(4),
                bounds: Bounds::default(),
                lacks: MissingMatches::default(),
                seed: is(1).then(|| Seed::from_bytes([1; 32])),
            };
            let actual = KernelState::from(&layout::ruleset(&cluster, "node-1", &chosen));
            let count = Cell::new(0);
            let found = nearest(&actual, chosen.bounds, |options| {
                count.set(count.get() + 1);
                let desired = KernelState::from(&layout::ruleset(&cluster, "node-1", options));
                distance(&desired, &actual)
            });
            let desired = KernelState::from(&layout::ruleset(&cluster, "node-1", &found));
            assert!(desired == actual, "{chosen:?}, not {found:?}");
            // Without a group that it makes a difference to, tunnels show nowhere.
            let most = if is(2) { 2 } else { 1 };
            assert!(count.get() <= most, "{} comparisons for {chosen:?}", count.get());
        }
    }

    #[test]
    fn the_options_in_the_agents_status_count_and_others_are_named() {
        let mut status = AgentStatus::new("node-1", "cluster");
        let why = |status: &AgentStatus, node| AgentAnswer::of(node, Ok(status.clone())).why_not.unwrap_or_default();
        assert_eq!(why(&status, "node-1"), "the agent has written nothing yet");
        assert_eq!(why(&status, "node-2"), "the agent here is that of node node-1");
        status.synced = Some(status.started);
        assert_eq!(why(&status, "node-1"), format!("the agent is of version {} and does not say them", status.version));
        status.options = Some(RuleOptions::from(&RulesetOptions { log_denied: true, ..RulesetOptions::default() }));
        let said = AgentAnswer::of("node-1", Ok(status));
        assert!(said.why_not.is_none() && said.options.is_some_and(|options| options.log_denied));
        let none = AgentAnswer::of("node-1", Err(Error::NoAgent(std::io::Error::other("refused"))));
        assert_eq!(none.why_not.as_deref(), Some("no agent answers here"));
    }
}
