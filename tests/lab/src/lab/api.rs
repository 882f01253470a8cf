//! The objects by way of an API server, which every node has at hand.
//!
//! The server listens on the loopback of each node's namespace, so no policy keeps agents from it.

use std::fmt::Debug;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use npc_agent::dataplane::backend::Backend as AgentBackend;
use npc_agent::dataplane::{Kernel as _, Linux};
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::RetainedGroup;
use npc_compiler::object::{Family, Objects};
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::layout::{self, RulesetOptions, SelfMatch};
use npc_compiler::ruleset::names::seed::Seed;

use super::error::{Doing, Error, Result};
use super::{Backend, Kind, Lab, Place, inspect, manifests, own};
use crate::apiserver::Server;

/// Has a server store these objects and no others.
pub(super) fn store(server: &Server, objects: &Objects) {
    let list = manifests::list(objects);
    server.replace_all(list["items"].as_array().map_or(&[], Vec::as_slice));
}

/// Has a server listen on every node; answers a kubeconfig for agents there.
pub(super) fn listen(server: &Server, places: &[Place], folder: &Path) -> Result<PathBuf> {
    for node in places.iter().filter(|place| place.kind == Kind::Node) {
        let netns = node.netns.try_clone()?;
        let bind = move |port| {
            let bound = netns.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
            bound.map_err(io::Error::other)?
        };
        server.listen(bind).doing(|| format!("serve the API on {}", node.name))?;
    }
    server.write_kubeconfig(folder).doing(|| "write a kubeconfig".to_owned())
}

impl Lab {
    /// The API server that the agents have the objects from.
    ///
    /// # Errors
    /// When they have them from manifests.
    pub fn api_server(&self) -> Result<&Server> {
        self.server.as_ref().ok_or_else(|| Error::Unknown("API server".to_owned()))
    }

    /// Waits until every node that has an agent holds what the objects ask for, and its established
    /// flows are judged by it.
    ///
    /// # Errors
    /// When an agent ends or takes too long, or a kernel cannot be read.
    pub fn settle(&mut self) -> Result<()> {
        let cluster = Cluster::new(&self.cluster.objects);
        let has = |flag: &str| self.recipe.iter().flat_map(|recipe| &recipe.arguments).any(|argument| argument == flag);
        let options = RulesetOptions {
            keep_established: has("--keep-established"),
            allow_tunnels: has("--allow-tunnels"),
            anti_spoof: has("--anti-spoof"),
            ..RulesetOptions::default()
        };
        let wiring = (&self.places[..], self.mode);
        for (index, (agent, place)) in self.agents.iter_mut().zip(&self.places).enumerate() {
            let Some(agent) = agent else { continue };
            let node = place.name.trim_start_matches("node/");
            // Which of the two the agent writes depends on the kernel.
            let wanted = |retained: &[RetainedGroup], seed: Option<Seed>| {
                [SelfMatch::Bpf, SelfMatch::PerEndpoint].map(|self_match| {
                    let options = RulesetOptions { self_match, seed, ..options.clone() };
                    let mut wanted = KernelState::from(&layout::ruleset_with(&cluster, node, &options, retained));
                    own::fill(&mut wanted, wiring, index);
                    wanted
                })
            };
            let interfaces = own::interfaces(wiring, index);
            agent.wait_until(|_| {
                // While the agent writes, a kernel may not be readable.
                let held = match read(place, self.backend) {
                    Ok(held) => held,
                    Err(error) => return Ok(Some(format!("{error:?}"))),
                };
                let held_interfaces = own::in_group(place)?;
                if held_interfaces != interfaces {
                    return Ok(Some(format!(
                        "{held_interfaces:?} are in the group of pods' interfaces, not {interfaces:?}"
                    )));
                }
                let reported = inspect::reported(&place.netns)?;
                let wanted = wanted(&reported.retained, held.seed());
                let differences = wanted.each_ref().map(|wanted| difference(&held, wanted));
                Ok(if !differences.iter().any(Option::is_none) {
                    differences.into_iter().flatten().next()
                } else if !reported.flows_judged {
                    // Of thousands of probes some have the addresses and ports of an earlier flow.
                    Some("its established flows are not judged by this yet".to_owned())
                } else {
                    None
                })
            })?;
        }
        Ok(())
    }
}

/// What a node's kernel holds of ours.
fn read(place: &Place, backend: Backend) -> Result<KernelState> {
    let backend = match backend {
        Backend::Nft => AgentBackend::Nft,
        Backend::Legacy => AgentBackend::Legacy,
    };
    let read = place.netns.within(|| Linux::open(Some(backend))?.read())?;
    read.map_err(io::Error::other).doing(|| format!("read the kernel of {}", place.name))
}

/// The first thing in which a kernel is not what it should be.
fn difference(held: &KernelState, wanted: &KernelState) -> Option<String> {
    Family::ALL.into_iter().find_map(|family| {
        let (held, wanted) = (held.family(family), wanted.family(family));
        first(&held.sets, &wanted.sets).or_else(|| first(&held.chains, &wanted.chains))
    })
}

fn first<'a, K, V>(
    held: &'a std::collections::BTreeMap<K, V>,
    wanted: &'a std::collections::BTreeMap<K, V>,
) -> Option<String>
where
    K: Ord + Debug,
    V: PartialEq + Debug,
{
    let lacks = wanted.iter().find(|(name, value)| held.get(*name) != Some(value));
    let lacks = lacks.map(|(name, value)| format!("{name:?} is {:?}, not {value:?}", held.get(name)));
    lacks.or_else(|| Some(format!("{:?} should not be there", held.keys().find(|name| !wanted.contains_key(*name))?)))
}
