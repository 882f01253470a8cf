//! What the nodes of a lab hold and say, beside the packets that they let
//! through.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;

use npc_agent::dataplane::backend::Backend as AgentBackend;
use npc_agent::dataplane::iptables::{Hook, Iptables};
use npc_agent::dataplane::{Kernel as _, Linux};
use npc_agent::status::{self, AgentStatus};
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::RetainedGroup;
use npc_compiler::object::Family;
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::layout::{self, RulesetOptions, SelfMatch};
use npc_compiler::ruleset::node::Match;

use super::error::{Doing, Error, Result};
use super::netns::Netns;
use super::services::Backend;
use super::{Kind, Lab, own};

/// Where an agent serves its metrics by default.
const METRICS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 10_901);

impl Lab {
    /// The groups that the agent of a node keeps for pods that may come back;
    /// none if there is no agent.
    ///
    /// # Errors
    /// When there is no such node, or its agent is not understood.
    pub fn retained(&self, node: &str) -> Result<Vec<RetainedGroup>> {
        Ok(reported(self.node(node)?)?.retained)
    }

    /// What the agent of a node says of itself, if one runs.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn status(&self, node: &str) -> Result<Option<AgentStatus>> {
        // One that ends meanwhile says nothing.
        Ok(self.node(node)?.within(AgentStatus::ask)?.ok())
    }

    /// Everything in which a node's kernel differs from what its agent is to
    /// make of the objects, in words; nothing if it is right.
    ///
    /// # Errors
    /// When there is no such node, or its kernel cannot be read.
    pub fn differences(&self, node: &str, options: &RulesetOptions) -> Result<Vec<String>> {
        /// Between reading an agent's kernel and reading what it says of
        /// it, it may let go of a group, as it does once a minute at most.
        const READS: usize = 3;
        let mut found = Vec::new();
        for _ in 0..READS {
            found = self.differences_now(node, options)?;
            if found.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    fn differences_now(&self, node: &str, options: &RulesetOptions) -> Result<Vec<String>> {
        let backend = match self.backend() {
            Backend::Nft => AgentBackend::Nft,
            Backend::Legacy => AgentBackend::Legacy,
        };
        let failed = |error: &dyn std::error::Error| Error::Cluster(format!("the kernel of {node}: {error}"));
        let read = || {
            let mut linux = Linux::open(Some(backend)).map_err(|error| failed(&error))?;
            let held = linux.read().map_err(|error| failed(&error))?;
            let hooks = Family::ALL.map(|family| Iptables::new(backend, family).and_then(|table| table.hook()));
            Ok::<_, Error>((held, hooks))
        };
        let (held, hooks) = self.node(node)?.within(read)??;
        // Which of the two the agent writes depends on the kernel. To ask that
        // takes sets and chains of our names, which the agent would remove.
        let uses_bpf = |one: &Match| matches!(one, Match::SourceIsDestination | Match::ErrorFromQuotedDestination);
        let is_per_endpoint = !held.v4.chains.values().flatten().flat_map(|rule| &rule.matches).any(uses_bpf);
        let self_match = if is_per_endpoint { SelfMatch::PerEndpoint } else { SelfMatch::Bpf };
        let options = RulesetOptions { self_match, seed: held.seed(), ..options.clone() };
        let cluster = Cluster::new(&self.cluster().objects);
        let mut wanted = KernelState::from(&layout::ruleset_with(&cluster, node, &options, &self.retained(node)?));
        let mut differences = Vec::new();
        let (wiring, index) = ((self.places(), self.mode()), self.find(&format!("node/{node}"))?);
        own::fill(&mut wanted, wiring, index);
        let interfaces = own::interfaces(wiring, index);
        let held_interfaces = own::in_group(&self.places()[index])?;
        if held_interfaces != interfaces {
            differences.push(format!("{held_interfaces:?} are in the group of pods' interfaces, not {interfaces:?}"));
        }
        for (family, hook) in Family::ALL.into_iter().zip(hooks) {
            match hook {
                Ok(Hook::First) => {}
                Ok(hook) => differences.push(format!("{family}: the jump is {hook:?}")),
                Err(error) => return Err(failed(&error)),
            }
            let (held, wanted) = (held.family(family), wanted.family(family));
            compare(&format!("{family} set"), &held.sets, &wanted.sets, &mut differences);
            compare(&format!("{family} chain"), &held.chains, &wanted.chains, &mut differences);
        }
        Ok(differences)
    }

    /// The metrics of a node's agent.
    ///
    /// # Errors
    /// When no agent answers.
    pub fn metrics(&self, node: &str) -> Result<String> {
        let ask = || {
            let mut stream = TcpStream::connect(METRICS)?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        self.node(node)?.within(ask)?.doing(|| format!("read the metrics of {node}"))
    }

    /// The sum of a metric over all its labels.
    ///
    /// # Errors
    /// When no agent answers, or it has no such metric.
    pub fn metric(&self, node: &str, name: &str) -> Result<f64> {
        let text = self.metrics(node)?;
        let of = text.lines().filter_map(|line| line.strip_prefix(name));
        let values = of.filter(|rest| rest.starts_with([' ', '{'])).filter_map(|rest| rest.rsplit(' ').next());
        let values: Vec<f64> = values.filter_map(|value| value.parse().ok()).collect();
        if values.is_empty() {
            return Err(Error::Unknown(format!("metric {name} of {node}")));
        }
        Ok(values.into_iter().sum())
    }

    /// Whether tunnels are left to policies: by agents with that flag, or
    /// because there are none.
    #[must_use]
    pub fn allows_tunnels(&self) -> bool {
        let told =
            |recipe: &super::agent::Recipe| recipe.arguments.iter().any(|argument| argument == "--allow-tunnels");
        self.recipe.as_ref().is_none_or(told)
    }

    /// From now on agents that start have these arguments beside those that
    /// every agent has.
    pub fn set_agent_arguments(&mut self, arguments: Vec<String>) {
        if let Some(recipe) = &mut self.recipe {
            recipe.arguments = arguments;
        }
    }

    /// From now on agents that start are this `npc`, as in an upgrade.
    pub fn set_agent(&mut self, npc: PathBuf) {
        if let Some(recipe) = &mut self.recipe {
            recipe.npc = npc;
        }
    }

    /// What the agents of a node have logged.
    ///
    /// # Errors
    /// When there is no log.
    pub fn log(&self, node: &str) -> Result<String> {
        super::error::read(&self.folder().join(format!("{node}.log")))
    }

    /// Has the nodes forget flows that have ended within seconds, so that a
    /// test which begins thousands has tables as small as they need be.
    ///
    /// # Errors
    /// When a node has no connection tracking.
    pub fn forget_flows_soon(&self) -> Result<()> {
        let seconds = [
            ("udp_timeout", "3"),
            ("udp_timeout_stream", "10"),
            ("tcp_timeout_close", "2"),
            ("tcp_timeout_syn_sent", "5"),
            ("tcp_timeout_time_wait", "2"),
        ];
        let settings = seconds.map(|(name, value)| (format!("net/netfilter/nf_conntrack_{name}"), value));
        let settings = settings.each_ref().map(|(name, value)| (name.as_str(), *value));
        let mut nodes = self.places().iter().filter(|place| place.kind == Kind::Node);
        nodes.try_for_each(|node| node.netns.sysctl(&settings))
    }
}

/// What the agent of a network namespace says of its kernel.
#[derive(Debug)]
pub(super) struct Reported {
    /// The groups that it keeps for pods that may come back.
    pub(super) retained: Vec<RetainedGroup>,
    /// It has judged the established flows by what it wrote last.
    pub(super) flows_judged: bool,
}

/// What the agent of a network namespace says of its kernel.
pub(super) fn reported(node: &Netns) -> Result<Reported> {
    match node.within(AgentStatus::ask)? {
        Ok(AgentStatus { retained, flows_judged, .. }) => {
            Ok(Reported { retained: retained.into_iter().map(Into::into).collect(), flows_judged })
        }
        Err(status::Error::NoAgent(_)) => Ok(Reported { retained: Vec::new(), flows_judged: true }),
        Err(error) => Err(Error::Cluster(error.to_string())),
    }
}

fn compare<N: Ord + std::fmt::Display, T: PartialEq + Debug>(
    what: &str,
    held: &BTreeMap<N, T>,
    wanted: &BTreeMap<N, T>,
    differences: &mut Vec<String>,
) {
    for (name, wanted) in wanted {
        match held.get(name) {
            Some(held) if held == wanted => {}
            Some(held) => differences.push(format!("{what} {name} is {held:?}, not {wanted:?}")),
            None => differences.push(format!("{what} {name} is not there")),
        }
    }
    let extra = held.keys().filter(|name| !wanted.contains_key(name));
    differences.extend(extra.map(|name| format!("{what} {name} should not be there")));
}
