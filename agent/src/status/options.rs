//! What an agent's rules depend on besides the cluster, as its status has it.

use npc_compiler::ruleset::layout::{self, Bounds, MissingMatches, SelfMatch};
use serde::{Deserialize, Serialize};

/// The options of an agent: its flags as far as this kernel supports them, and the
/// matches that the kernel lacks. A tool that compares the kernel with the policies
/// compiles with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "each is a choice that stands by itself")]
pub struct RuleOptions {
    /// `--keep-established`
    pub keep_established: bool,
    /// `--allow-tunnels`
    pub allow_tunnels: bool,
    /// `--log-denied`
    pub log_denied: bool,
    /// `--anti-spoof`
    pub anti_spoof: bool,
    /// Whether the kernel has `-m bpf`; else each isolated endpoint has a rule for its
    /// traffic to itself.
    pub bpf: bool,
    /// Whether the kernel has `-m hl`.
    pub hop_limit: bool,
    /// Whether the kernel has `-m length`.
    pub length: bool,
    /// Whether the kernel has `-m devgroup`.
    pub device_group: bool,
    /// `--max-set-members`. An agent of an earlier version has no bound.
    #[serde(default = "unbounded")]
    pub max_set_members: u64,
    /// `--max-rules`. An agent of an earlier version has no bound.
    #[serde(default = "unbounded")]
    pub max_rules: u64,
}

const fn unbounded() -> u64 {
    u64::MAX
}

impl From<&layout::RulesetOptions> for RuleOptions {
    fn from(options: &layout::RulesetOptions) -> Self {
        // The seed is a secret, which the kernel keeps.
        let layout::RulesetOptions {
            self_match,
            lacks,
            keep_established,
            allow_tunnels,
            log_denied,
            anti_spoof,
            bounds,
            seed: _,
        } = options;
        Self {
            keep_established: *keep_established,
            allow_tunnels: *allow_tunnels,
            log_denied: *log_denied,
            anti_spoof: *anti_spoof,
            bpf: *self_match == SelfMatch::Bpf,
            hop_limit: !lacks.hop_limit,
            length: !lacks.length,
            device_group: !lacks.device_group,
            max_set_members: bounds.set_members,
            max_rules: bounds.rules,
        }
    }
}

impl From<RuleOptions> for layout::RulesetOptions {
    fn from(options: RuleOptions) -> Self {
        let RuleOptions { keep_established, allow_tunnels, log_denied, anti_spoof, .. } = options;
        Self {
            self_match: if options.bpf { SelfMatch::Bpf } else { SelfMatch::PerEndpoint },
            lacks: MissingMatches {
                hop_limit: !options.hop_limit,
                length: !options.length,
                device_group: !options.device_group,
            },
            keep_established,
            allow_tunnels,
            log_denied,
            anti_spoof,
            bounds: Bounds { set_members: options.max_set_members, rules: options.max_rules },
            seed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::AgentStatus;

    /// Options that differ from the default in one thing each.
    fn each() -> Vec<layout::RulesetOptions> {
        let default = layout::RulesetOptions::default;
        let lacks = MissingMatches::default;
        vec![
            default(),
            layout::RulesetOptions { self_match: SelfMatch::PerEndpoint, ..default() },
            layout::RulesetOptions { keep_established: true, ..default() },
            layout::RulesetOptions { allow_tunnels: true, ..default() },
            layout::RulesetOptions { log_denied: true, ..default() },
            layout::RulesetOptions { anti_spoof: true, ..default() },
            layout::RulesetOptions { bounds: Bounds::of_members(5_000), ..default() },
            layout::RulesetOptions { bounds: Bounds::of_rules(500), ..default() },
            layout::RulesetOptions { lacks: MissingMatches { hop_limit: true, ..lacks() }, ..default() },
            layout::RulesetOptions { lacks: MissingMatches { length: true, ..lacks() }, ..default() },
            layout::RulesetOptions { lacks: MissingMatches { device_group: true, ..lacks() }, ..default() },
        ]
    }

    #[test]
    fn options_come_out_of_a_status_as_they_went_in() {
        for options in each() {
            let mut status = AgentStatus::new("node-1", "cluster");
            status.options = Some(RuleOptions::from(&options));
            let json = serde_json::to_string(&status).expect("JSON");
            let read: AgentStatus = serde_json::from_str(&json).expect("a status");
            let read: layout::RulesetOptions = read.options.expect("options").into();
            assert_eq!(format!("{read:?}"), format!("{options:?}"));
        }
    }

    #[test]
    fn an_agent_that_says_no_bound_has_none() {
        let mut json = serde_json::to_value(RuleOptions::from(&layout::RulesetOptions::default())).expect("JSON");
        for bound in ["maxSetMembers", "maxRules"] {
            json.as_object_mut().expect("an object").remove(bound).expect("it is there");
        }
        let read: RuleOptions = serde_json::from_value(json).expect("options");
        assert_eq!(layout::RulesetOptions::from(read).bounds, Bounds { set_members: u64::MAX, rules: u64::MAX });
    }

    #[test]
    fn the_status_of_an_earlier_agent_has_no_options() {
        let mut json = serde_json::to_value(AgentStatus::new("node-1", "cluster")).expect("JSON");
        json.as_object_mut().expect("an object").remove("options");
        let read: AgentStatus = serde_json::from_value(json).expect("a status");
        assert_eq!(read.options, None);
    }
}
