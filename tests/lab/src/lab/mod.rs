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
pub mod cleanup;
pub mod complete;
mod engine;
mod error;
pub mod faults;
mod inspect;
pub mod judge;
pub mod manifests;
mod netns;
pub mod outside;
mod own;
pub mod plan;
pub mod probe;
mod receivers;
pub mod report;
pub mod services;
pub mod topology;
mod wire;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use npc_compiler::object::{Family, Objects};
use tempfile::TempDir;

use crate::apiserver::Server;
use crate::skip::{self, Lack};

pub use agent::Agent;
pub use complete::Cluster;
pub use error::{Doing, Error, Result};
pub use netns::Netns;
pub use probe::{Payload, Probe, Seen, Via};
pub use receivers::raw_ip_socket;
pub use services::{Backend, Target};
pub use topology::{Kind, Mode, Place};
pub use wire::{ones_complement, whole_datagram};

/// Whether this machine lets this process build a lab. If not, the calling test is
/// skipped, or fails in strict mode.
#[must_use]
pub fn can_run() -> bool {
    let lack = check_machine(Backend::Nft).and(check_machine(Backend::Legacy)).err();
    if let Some(lack) = &lack {
        skipped(lack);
    }
    lack.is_none()
}

/// Skips the calling test because the lab lacks something.
///
/// # Panics
/// In strict mode: see [`crate::skip`].
pub fn skipped(why: &Error) {
    skip::skipped(Lack::Lab, why);
}

/// Checks for what the lab needs before it begins, because it can say it better
/// than the first thing that fails.
fn check_machine(backend: Backend) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if netns::find_program("ip").is_none() {
        return Err(Error::Missing { what: "ip".to_owned(), remedy: "install iproute2".to_owned() });
    }
    for family in Family::ALL {
        backend.program(family, "-restore")?;
    }
    if !Path::new("/proc/sys/net/ipv6").exists() {
        let remedy = "boot without ipv6.disable=1, or load its module";
        return Err(Error::Missing { what: "IPv6 in this kernel".to_owned(), remedy: remedy.to_owned() });
    }
    Ok(())
}

/// What enforces the policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enforcer {
    /// Nothing: everything passes.
    None,
    /// An `npc agent` on each node, by the path of the binary.
    Agent(PathBuf),
}

impl Enforcer {
    /// The agents of the `npc` that lies beside this program, or beside the
    /// folder of this program as for tests.
    ///
    /// # Errors
    /// When there is none.
    pub fn sibling() -> Result<Self> {
        sibling("npc", "cargo build, or give its path with --npc").map(Self::Agent)
    }

    /// The same for tests. If no lab can be built here, the calling test is skipped.
    #[must_use]
    pub fn for_test() -> Option<Self> {
        can_run().then(Self::sibling)?.inspect_err(skipped).ok()
    }
}

/// A binary of ours that lies beside this program, or beside the folder of this
/// program as for tests.
///
/// # Errors
/// When there is none; it says the remedy.
pub fn sibling(name: &str, remedy: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().doing(|| "find this program's own path".to_owned())?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    beside
        .into_iter()
        .find(|file| file.is_file())
        .ok_or_else(|| Error::Missing { what: format!("{name} beside {}", own.display()), remedy: remedy.to_owned() })
}

/// What a lab is made of; [`Builder::start`] builds it.
#[derive(Debug)]
pub struct Builder {
    objects: Objects,
    mode: Mode,
    backend: Backend,
    enforcer: Enforcer,
    outside: Vec<IpAddr>,
    arguments: Vec<String>,
    environment: Vec<(String, OsString)>,
    through: Option<PathBuf>,
    api_server: Option<Server>,
    agent_folder: Option<PathBuf>,
    patience: Duration,
}

impl Builder {
    /// Changes the objects.
    #[must_use]
    pub fn change(mut self, change: impl FnOnce(Objects) -> Objects) -> Self {
        self.objects = change(self.objects);
        self
    }

    /// How pods are attached; routed by default.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Which iptables; nft by default.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// What enforces the policies; nothing by default.
    #[must_use]
    pub fn enforcer(mut self, enforcer: Enforcer) -> Self {
        self.enforcer = enforcer;
        self
    }

    /// More addresses for the outside world, beside the edges of the policies'
    /// blocks. Needed for policies that come later.
    #[must_use]
    pub fn outside(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.outside.extend(addresses);
        self
    }

    /// Another argument for every agent.
    #[must_use]
    pub fn agent_argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// A variable of every agent's environment.
    #[must_use]
    pub fn agent_variable(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Agents are run by this program, which is given the command and becomes
    /// it.
    #[must_use]
    pub fn agent_through(mut self, program: impl Into<PathBuf>) -> Self {
        self.through = Some(program.into());
        self
    }

    /// Agents have the objects from this API server, which listens on each node
    /// then; from manifests by default.
    #[must_use]
    pub fn api_server(mut self, server: Server) -> Self {
        self.api_server = Some(server);
        self
    }

    /// Whether they have them from one.
    #[must_use]
    pub fn has_api_server(&self) -> bool {
        self.api_server.is_some()
    }

    /// Where agents keep their logs and ready files; a folder that goes with the
    /// lab by default.
    #[must_use]
    pub fn agent_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.agent_folder = Some(folder.into());
        self
    }

    /// How long an agent may take to apply a change; 30 seconds by default.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Builds the cluster, writes its manifests, starts the agents and waits
    /// until they are ready.
    ///
    /// # Errors
    /// Without root or kernel support, when the cluster cannot be built, or
    /// when an agent does not come up.
    pub fn start(self) -> Result<Lab> {
        check_machine(self.backend)?;
        let cluster = Cluster::complete(self.objects)?;
        let mut outside = outside::edges(&cluster.objects);
        outside.extend(self.outside);
        outside.sort_unstable();
        outside.dedup();
        let (prefix, folder) = cleanup::register()?;
        // From here on a failure has something to clean up.
        let ground = Ground { prefix, folder };
        let folder = ground.folder.path();
        let manifests = folder.join("manifests");
        std::fs::create_dir(&manifests).doing(|| format!("make {}", manifests.display()))?;
        manifests::write(&manifests, &cluster.objects)?;
        let places = topology::build(&ground.prefix, &cluster, &outside, self.mode)?;
        let targets = services::targets(&cluster.objects);
        for node in places.iter().filter(|place| place.kind == Kind::Node) {
            services::install(node, &targets, self.backend)?;
        }
        let source = match &self.api_server {
            None => agent::Source::Manifests(manifests.clone()),
            Some(server) => {
                api::store(server, &cluster.objects);
                agent::Source::Kubeconfig(api::listen(server, &places, folder)?)
            }
        };
        let engine = engine::Engine::new(&places)?;
        let recipe = match self.enforcer {
            Enforcer::None => None,
            Enforcer::Agent(npc) => Some(agent::Recipe {
                npc,
                through: self.through,
                folder: self.agent_folder.unwrap_or_else(|| folder.to_owned()),
                source,
                backend: self.backend,
                arguments: self.arguments,
                environment: self.environment,
                patience: self.patience,
            }),
        };
        let agents = places.iter().map(|_| None).collect();
        let mut lab = Lab {
            agents,
            engine,
            places,
            targets,
            cluster,
            mode: self.mode,
            backend: self.backend,
            recipe,
            manifests,
            server: self.api_server,
            ground,
        };
        lab.start_agents()?;
        Ok(lab)
    }
}

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
    ground: Ground,
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
        Builder {
            objects,
            mode: Mode::Routed,
            backend: Backend::Nft,
            enforcer: Enforcer::None,
            outside: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            through: None,
            api_server: None,
            agent_folder: None,
            patience: Duration::from_secs(30),
        }
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
        let mut arrived = vec![false; probes.len()];
        for _ in 0..3 {
            let left: Vec<usize> = (0..probes.len()).filter(|index| !arrived[*index]).collect();
            let again: Vec<Probe> = left.iter().map(|index| probes[*index]).collect();
            for (index, seen) in left.into_iter().zip(self.probe(&again)?) {
                if matches!(seen, Seen::Unsent(_) | Seen::Astray(_)) {
                    return Err(Error::Cluster(format!("{:?}: {seen:?}", probes[index])));
                }
                arrived[index] = seen == Seen::Arrived;
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

    /// Sends all probes that [`plan::all`] finds worth sending, and judges
    /// them.
    ///
    /// # Errors
    /// When the lab itself fails.
    pub fn judge(&mut self) -> Result<judge::Judgement> {
        let probes = plan::all(self);
        judge::judge(self, &probes)
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
        Ok(self.agents[index].take())
    }

    /// Starts an agent on a node that has none, and does not wait for it.
    ///
    /// # Errors
    /// When there is no such node, or the agent cannot be started.
    pub fn start_agent(&mut self, node: &str) -> Result<()> {
        let index = self.find(&format!("node/{node}"))?;
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
        let Some(recipe) = &self.recipe else { return Ok(()) };
        for (index, place) in self.places.iter().enumerate().filter(|(_, place)| place.kind == Kind::Node) {
            if self.agents[index].is_none() {
                self.agents[index] = Some(Agent::start(recipe, place)?);
            }
        }
        self.agents.iter_mut().flatten().try_for_each(|agent| agent.wait_generation(0))
    }
}
