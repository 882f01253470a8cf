//! The loop against a kernel that records, in a time that stands still until all tasks
//! wait.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::{self, v1::NetworkPolicySpec};
use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Family, Labels, NetworkPolicy, Objects, Pod};
use npc_compiler::plan::conntrack::FlowKey;
use npc_compiler::plan::{FamilyState, KernelState, Step};
use npc_compiler::ruleset::constants::POD_GROUP;
use npc_compiler::ruleset::layout;
use npc_compiler::ruleset::node::{InterfaceName, Member, SetName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Enforcer, Error, Event, Settings, run};
use crate::dataplane::iptables::Hook;
use crate::dataplane::links::NO_GROUP;
use crate::dataplane::network::{Interface, Network};
use crate::metrics::Metrics;
use crate::source::Changes;
use crate::source::difference::LastObjects;

mod audits;
mod faults;
mod flow_index;
mod flows;
mod interfaces;
mod kernel;
mod large;
mod owners;
mod passes;
mod readiness;
mod reports;
mod retained;
mod sweeps;
mod waiters;
mod watchdog;
mod writer;

use kernel::Call::{self, Apply, Audit as Audited, Cut, Hook as Hooked, Probe, Read, Refused};
use kernel::{Memory, Recording};

/// What a world sends its agent.
#[derive(Debug, Clone)]
enum Input {
    /// The objects of the cluster are now these, all of them.
    Objects(Objects),
    Network(Network),
}

impl Input {
    fn event(self, known: &mut LastObjects) -> Event {
        match self {
            Self::Objects(objects) => Event::Changes(known.changes(&objects, "node-1")),
            Self::Network(network) => Event::Network(network),
        }
    }
}

/// An agent that is to run, and both ends of its world.
struct World {
    memory: Arc<Mutex<Memory>>,
    known: LastObjects,
    events: mpsc::Sender<Event>,
    calls: mpsc::UnboundedReceiver<Call>,
    agent: JoinHandle<Result<(), Error>>,
}

impl World {
    fn new(settings: Settings, refusals: usize, queued: Vec<Input>) -> Self {
        Self::with_options(settings, layout::RulesetOptions::default(), refusals, queued)
    }

    fn with_options(settings: Settings, options: layout::RulesetOptions, refusals: usize, queued: Vec<Input>) -> Self {
        Self::of(settings, refusals, queued, |enforcer| enforcer.with_options(options))
    }

    /// With large changes loaded first.
    fn with_large_changes_first(settings: Settings, queued: Vec<Input>) -> Self {
        Self::of(settings, 0, queued, Enforcer::with_large_changes_first)
    }

    /// With an index of addresses that have flows.
    fn with_flow_index(options: layout::RulesetOptions, queued: Vec<Input>) -> Self {
        Self::of(settings(), 0, queued, |enforcer| enforcer.with_options(options).with_flow_index())
    }

    fn of(
        settings: Settings,
        refusals: usize,
        queued: Vec<Input>,
        with: impl FnOnce(Enforcer<Recording>) -> Enforcer<Recording>,
    ) -> Self {
        let (events, receiver) = mpsc::channel(16);
        let (sender, calls) = mpsc::unbounded_channel();
        let mut known = LastObjects::default();
        for input in queued {
            events.try_send(input.event(&mut known)).expect("there is room");
        }
        let memory = Arc::new(Mutex::new(Memory { refusals, ..Memory::default() }));
        let kernel = Recording { memory: Arc::clone(&memory), calls: sender };
        let enforcer = with(Enforcer::new(kernel, "node-1"));
        Self { memory, known, events, calls, agent: tokio::spawn(run(enforcer, settings, receiver)) }
    }

    async fn send(&mut self, input: Input) {
        self.events.send(input.event(&mut self.known)).await.expect("the agent listens");
    }

    async fn calls<const N: usize>(&mut self, wanted: [Call; N]) {
        for (n, call) in wanted.into_iter().enumerate() {
            assert_eq!(self.calls.recv().await, Some(call), "call {n} of {wanted:?}");
        }
    }

    /// Ends the agent, which must not have read or written again. It may have
    /// audited it: that is due by the clock.
    async fn end(mut self) {
        self.events.send(Event::Shutdown).await.expect("the agent listens");
        self.agent.await.expect("no panic").expect("a quiet end");
        while let Some(call) = self.calls.recv().await {
            assert_eq!(call, Audited);
        }
    }

    fn ingress(&self) -> Vec<String> {
        let memory = self.memory.lock().expect("no thread panicked");
        let (_, members) = &memory.state.v4.sets[&SetName::new(Family::V4, "ingress")];
        members.iter().map(Member::to_string).collect()
    }
}

/// A policy that isolates every pod of a namespace with these addresses.
fn objects(addresses: &[&str]) -> Objects {
    let mut policy = networking::v1::NetworkPolicy::default();
    policy.metadata.name = Some("deny".to_owned());
    policy.spec = Some(NetworkPolicySpec::default());
    let pod = |address: &&str| Pod {
        node: Some("node-1".to_owned()),
        ipv4: Some(address.parse().expect("an address")),
        ..Pod::from_template("default".to_owned(), format!("p{address}"), Labels::new(), PodSpec::default())
    };
    let mut objects = Objects {
        pods: addresses.iter().map(pod).collect(),
        policies: vec![NetworkPolicy::from(policy)],
        ..Objects::default()
    };
    objects.declare_namespaces();
    objects
}

fn settings() -> Settings {
    Settings::new("node-1", "a test")
}

fn network() -> Input {
    Input::Network(Network { bridged: BTreeMap::new(), ..Network::default() })
}

/// A flow from outside to an address.
fn flow(to: &str) -> FlowKey {
    let address = |text: &str| text.parse().expect("an address");
    FlowKey { source: address("192.0.2.1"), destination: address(to), protocol: 6, port: 80, mid_stream: false }
}

impl World {
    fn flows(&self, flows: &[FlowKey]) {
        self.memory.lock().expect("no thread panicked").flows.extend(flows);
    }

    /// Waits until flows were judged, with nothing but audits before.
    async fn cut_between_audits(&mut self) {
        loop {
            match self.calls.recv().await {
                Some(Audited) => {}
                call => return assert_eq!(call, Some(Cut)),
            }
        }
    }

    fn left(&self) -> Vec<FlowKey> {
        self.memory.lock().expect("no thread panicked").flows.clone()
    }
}
