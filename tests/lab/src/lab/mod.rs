//! The lab: a cluster as network namespaces, with real agents and real packets.
//!
//! ```no_run
//! use npc_lab::lab::{Enforcer, Lab, Mode, Payload, Probe, Seen};
//! use npc_compiler::object::{Objects, Protocol};
//!
//! # fn main() -> npc_lab::lab::Result<()> {
//! let objects = Objects::default(); // from manifests, or made in code
//! let mut lab = Lab::builder(objects).mode(Mode::Bridge).enforcer(Enforcer::None).start()?;
//! let (web, api) = (lab.find("shop/web-1")?, lab.find("shop/api-1")?);
//! let address = lab.places()[api].addresses[0];
//! let seen = lab.probe(&[Probe::new(web, api, address, Payload::Port(Protocol::Tcp, 8080))])?;
//! assert_eq!(seen, [Seen::Arrived]);
//! let rules = lab.node("node-1")?.exec(["iptables-save"], "")?;
//! # drop(rules); Ok(())
//! # }
//! ```
//!
//! [`complete`] fills in what manifests leave out, [`topology`] builds the
//! namespaces, [`services`] has the nodes translate Service addresses,
//! [`agent`] starts the enforcers, the engine sends and receives packets,
//! [`plan`] chooses them, [`judge`] says what the oracle
//! expects of each, and [`report`] prints the table. Dropping a [`Lab`]
//! removes all of it.

pub mod agent;
mod api;
mod builder;
pub mod cleanup;
pub mod complete;
mod engine;
mod error;
pub mod faults;
mod inspect;
pub mod judge;
mod machine;
pub mod manifests;
mod netns;
pub mod outside;
mod own;
pub mod plan;
pub mod probe;
mod receivers;
pub mod report;
pub mod services;
mod share;
pub mod topology;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use npc_compiler::object::Objects;
use tempfile::TempDir;

use crate::apiserver::Server;

pub use agent::Agent;
pub use builder::{Builder, Enforcer};
pub use complete::Cluster;
pub use error::{Doing, Error, Result};
pub use machine::{can_run, sibling, skipped, write_program};
pub use netns::Netns;
pub use probe::{Payload, Probe, Seen, Via};
pub use receivers::raw_ip_socket;
pub use services::{Backend, Target};
pub use share::{MachineUse, Share};
pub use topology::{Kind, Mode, Place};
pub use wire::{ones_complement, whole_datagram};

/// A cluster that runs. Dropping it ends its agents and removes its namespaces.
#[derive(Debug)]
pub struct Lab {
    // In the order in which they go: processes, sockets, names.
    agents: Vec<Option<Agent>>,
    engine: engine::Engine,
    places: Vec<Place>,
    targets: Vec<Target>,
    cluster: Cluster,
    mode: Mode,
    backend: Backend,
    recipe: Option<agent::Recipe>,
    manifests: PathBuf,
    server: Option<Server>,
    sent: judge::Sent,
    ground: Ground,
    /// Others may begin when all of it is gone.
    _share: Arc<Share>,
}

/// What is left to remove at the end.
#[derive(Debug)]
struct Ground {
    prefix: String,
    folder: TempDir,
}

impl Drop for Ground {
    fn drop(&mut self) {
        // `npc-lab clean` removes what cannot be removed now.
        let _ = cleanup::remove(&self.prefix);
    }
}

impl Lab {
    /// Begins a lab for these objects.
    #[must_use]
    pub fn builder(objects: Objects) -> Builder {
        Builder::of(objects)
    }

    /// Nodes, pods and the outside, in this order.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The index of a place: `NAMESPACE/POD`, `node/NODE` or `outside`.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn find(&self, name: &str) -> Result<usize> {
        let found = self.places.iter().position(|place| place.name == name);
        found.ok_or_else(|| Error::Unknown(format!("place named {name}")))
    }

    /// The namespace of a node.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn node(&self, name: &str) -> Result<&Netns> {
        self.find(&format!("node/{name}")).map(|index| &self.places[index].netns)
    }

    /// The completed objects, as the agents read them.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The Services' ports with their backends.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// How its pods are attached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Which iptables it uses.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The folder of the agents' logs; it goes with the lab.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.ground.folder.path()
    }

    /// The folder of manifests that the agents watch, unless they have the
    /// objects from an API server.
    #[must_use]
    pub fn manifests(&self) -> &Path {
        &self.manifests
    }

    /// Sends probes and waits until it is clear what became of each; the
    /// answers are in the order of the probes.
    ///
    /// # Errors
    /// When the lab itself fails; that a packet cannot be sent is an answer.
    pub fn probe(&mut self, probes: &[Probe]) -> Result<Vec<Seen>> {
        self.engine.run(&self.places, probes)
    }

    /// Whether each of these arrives; that one does not is tried thrice, because a packet
    /// can get lost on a busy machine.
    ///
    /// # Errors
    /// When the lab itself fails, or a probe cannot be sent or arrives elsewhere.
    pub fn arrived(&mut self, probes: &[Probe]) -> Result<Vec<bool>> {
        self.send(probes, &vec![true; probes.len()], 3)
    }

    /// As [`Lab::arrived`], if the test knows what should arrive. Only that is tried again, as
    /// often as the judge does it. For each packet that should not arrive the lab has to wait a
    /// while.
    ///
    /// # Errors
    /// Those of [`Self::arrived`].
    pub fn arrived_as(&mut self, probes: &[Probe], expected: &[bool]) -> Result<Vec<bool>> {
        self.send(probes, expected, 1 + judge::RETRIES)
    }

    fn send(&mut self, probes: &[Probe], expected: &[bool], times: usize) -> Result<Vec<bool>> {
        let mut arrived = vec![false; probes.len()];
        let mut left: Vec<usize> = (0..probes.len()).collect();
        for _ in 0..times {
            let again: Vec<Probe> = left.iter().map(|index| probes[*index]).collect();
            for (index, seen) in left.iter().zip(self.probe(&again)?) {
                if matches!(seen, Seen::Unsent(_) | Seen::Astray(_)) {
                    return Err(Error::Cluster(format!("{:?}: {seen:?}", probes[*index])));
                }
                arrived[*index] = seen == Seen::Arrived;
            }
            left.retain(|index| !arrived[*index] && expected.get(*index) == Some(&true));
            if left.is_empty() {
                break;
            }
        }
        Ok(arrived)
    }

    /// Replaces the manifests, or what the API server stores. Namespaces, nodes
    /// and pods' networks stay as they were built; policies and labels may change
    /// at will. Agents follow when they do: see [`Lab::apply`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_manifests(&mut self, objects: Objects) -> Result<()> {
        match &self.server {
            Some(server) => api::store(server, &objects),
            None => manifests::write(&self.manifests, &objects)?,
        }
        self.cluster.objects = objects;
        Ok(())
    }

    /// Replaces the objects and waits until every agent has applied them.
    ///
    /// # Errors
    /// When the file cannot be written, or an agent does not follow.
    pub fn apply(&mut self, objects: Objects) -> Result<()> {
        let before: Vec<Option<u64>> = self.agents.iter().map(|agent| agent.as_ref()?.generation()).collect();
        self.write_manifests(objects)?;
        if self.server.is_some() {
            return self.settle();
        }
        for (agent, before) in self.agents.iter_mut().zip(before) {
            if let Some(agent) = agent {
                agent.wait_generation(before.map_or(0, |generation| generation + 1))?;
            }
        }
        Ok(())
    }

    /// Sends all probes that [`plan::all`] finds worth sending, and judges them. The next time
    /// it sends those that did not agree or are judged otherwise since, and a sample of the rest,
    /// unless `NPC_EVERY_PROBE` is `1`. After agents came or went it sends all again.
    ///
    /// # Errors
    /// When the lab itself fails.
    pub fn judge(&mut self) -> Result<judge::Judgement> {
        let probes = plan::all(self);
        judge::judge_changed(self, probes)
    }

    /// The agent of a node, if one runs.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn agent(&mut self, node: &str) -> Result<Option<&mut Agent>> {
        let index = self.find(&format!("node/{node}"))?;
        Ok(self.agents[index].as_mut())
    }

    /// Waits until every agent has applied this many states of the objects.
    ///
    /// # Errors
    /// When one ends before, or takes too long.
    pub fn wait_generation(&mut self, generation: u64) -> Result<()> {
        self.agents.iter_mut().flatten().try_for_each(|agent| agent.wait_generation(generation))
    }

    /// Takes the agent of a node away; the caller decides how it ends. Its
    /// rules stay in the kernel.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn take_agent(&mut self, node: &str) -> Result<Option<Agent>> {
        let index = self.find(&format!("node/{node}"))?;
        self.sent.forget();
        Ok(self.agents[index].take())
    }

    /// Starts an agent on a node that has none, and does not wait for it.
    ///
    /// # Errors
    /// When there is no such node, or the agent cannot be started.
    pub fn start_agent(&mut self, node: &str) -> Result<()> {
        let index = self.find(&format!("node/{node}"))?;
        self.sent.forget();
        if let (Some(recipe), None) = (&self.recipe, &self.agents[index]) {
            self.agents[index] = Some(Agent::start(recipe, &self.places[index])?);
        }
        Ok(())
    }

    /// Starts an agent on every node that has none, and waits until all are
    /// ready.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_agents(&mut self) -> Result<()> {
        self.sent.forget();
        let Some(recipe) = &self.recipe else { return Ok(()) };
        for (index, place) in self.places.iter().enumerate().filter(|(_, place)| place.kind == Kind::Node) {
            if self.agents[index].is_none() {
                self.agents[index] = Some(Agent::start(recipe, place)?);
            }
        }
        self.agents.iter_mut().flatten().try_for_each(|agent| agent.wait_generation(0))
    }
}
