//! What a lab is made of, and its start.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use npc_compiler::object::Objects;

use super::machine::{can_run, check_machine, sibling, skipped};
use super::{Backend, Cluster, Doing as _, Ground, Kind, Lab, MachineUse, Mode, Result, Share};
use super::{agent, api, cleanup, engine, judge, manifests, outside, services, topology};
use crate::apiserver::Server;

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

    /// An enforcer for tests. If no lab can be built here, the calling test is skipped.
    #[must_use]
    pub fn for_test() -> Option<Self> {
        can_run().then(Self::sibling)?.inspect_err(skipped).ok()
    }
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
    /// Of these objects, with everything else as by default.
    pub(super) fn of(objects: Objects) -> Self {
        Self {
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
            patience: Duration::from_secs(90),
        }
    }

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

    /// How long an agent may take to apply a change; 90 seconds by default, for a busy machine.
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
        let share = Share::wait(MachineUse::Waiting);
        // Before the first one opens: labs that are built at once have the files of one process.
        engine::allow_many_files()?;
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
        let places = topology::build((&ground.prefix, folder), &cluster, &outside, self.mode)?;
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
            sent: judge::Sent::default(),
            ground,
            _share: share,
        };
        lab.start_agents()?;
        Ok(lab)
    }
}
