//! The loop against a kernel that records, in a time that stands still until
//! everybody waits.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::{self, v1::NetworkPolicySpec};
use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Family, Labels, NetworkPolicy, Objects, Pod};
use npc_compiler::plan::conntrack::Tuple;
use npc_compiler::plan::{Delta, Held, KernelState, Plan, SetWrite, Step, Unexpected};
use npc_compiler::ruleset::layout;
use npc_compiler::ruleset::program::{ChainName, InterfaceName, Member, SetName};
use npc_compiler::ruleset::text::POD_GROUP;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::agent::Error;
use super::{Enforcer, Event, Settings, run};
use crate::dataplane::audit::{Audit, Depth};
use crate::dataplane::bridge::{self, BridgeTable, peer::Peer};
use crate::dataplane::conntrack::Swept;
use crate::dataplane::iptables::{self, Hook};
use crate::dataplane::links::NO_GROUP;
use crate::dataplane::network::{Interface, Network};
use crate::dataplane::probe::Capabilities;
use crate::dataplane::{self, Failures, Kernel, ipset, nftables};
use crate::metrics::Metrics;
use crate::source::Changes;
use crate::source::difference::Known;

mod faults;
mod owners;
mod readiness;

use faults::Fault;

/// What was asked of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Probe,
    Read,
    Apply,
    Refused,
    Hook,
    Audit,
    Cut,
    Group(u32, u32),
}
use Call::{Apply, Audit as Audited, Cut, Hook as Hooked, Probe, Read, Refused};

/// What a recording kernel holds.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact that stands by itself")]
struct Memory {
    state: KernelState,
    hooks: [Hook; 2],
    flows: Vec<Tuple>,
    /// How many plans it will refuse, each at its first write of chains.
    refusals: usize,
    /// The last plan that it carried out.
    plan: Plan,
    /// The next look at everything fails.
    is_blind: bool,
    /// Somebody makes this of it before the next look at everything.
    put_back: Option<KernelState>,
    /// When it says that plans came into force; otherwise when they are done.
    in_force: Option<std::time::Instant>,
    /// What another program does after so many more steps.
    fault: Option<(usize, Fault)>,
    /// Plans are said to be carried out, and are not.
    lies: bool,
    /// Plans are begun, and end when this says so.
    hangs: Option<std::sync::mpsc::Receiver<()>>,
    /// The jump cannot be put into its place.
    unhookable: bool,
    bridge: BridgeTable,
    /// It refuses that table, with this number.
    no_bridge: Option<i32>,
    /// Another program keeps the lock that rules need.
    locked: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            state: KernelState::default(),
            hooks: [Hook::Absent; 2],
            flows: Vec::new(),
            refusals: 0,
            plan: Plan::default(),
            is_blind: false,
            put_back: None,
            in_force: None,
            fault: None,
            lies: false,
            hangs: None,
            unhookable: false,
            bridge: BridgeTable::default(),
            no_bridge: None,
            locked: false,
        }
    }
}

impl Memory {
    /// One step more is done, and another program does what it is to do after it.
    fn stepped(&mut self) {
        match &mut self.fault {
            Some((0, fault)) => {
                let fault = *fault;
                self.fault = None;
                fault.befall(self);
            }
            Some((steps, _)) => *steps -= 1,
            None => {}
        }
    }
}

fn refused() -> dataplane::Error {
    ipset::Error::Silent(Duration::ZERO).into()
}

/// A kernel that does in memory what it is told, and tells of every call. It
/// tells under the lock: who hears of a call and then takes the lock finds the
/// call done.
struct Recording {
    memory: Arc<Mutex<Memory>>,
    calls: mpsc::UnboundedSender<Call>,
}

impl Kernel for Recording {
    fn probe_each(&mut self, _: &mut Failures) -> Option<Capabilities> {
        self.calls.send(Probe).expect("the test listens");
        Some(Capabilities { bpf: true, ..Capabilities::default() })
    }

    fn read_each(&mut self, _: &KernelState, _: &mut Failures) -> Result<KernelState, dataplane::Error> {
        let mut memory = self.memory.lock().expect("nobody panicked");
        self.calls.send(Read).expect("the test listens");
        let state = memory.state.clone();
        memory.stepped();
        Ok(state)
    }

    fn set_group(&mut self, links: &[u32], group: u32) -> Result<(), dataplane::Error> {
        for link in links {
            self.calls.send(Call::Group(*link, group)).expect("the test listens");
        }
        Ok(())
    }

    fn set_bridge(&mut self, wanted: &BridgeTable) -> Result<bridge::Written, dataplane::Error> {
        let mut memory = self.memory.lock().expect("nobody panicked");
        if let Some(errno) = memory.no_bridge.filter(|_| !wanted.is_empty()) {
            return Err(nftables::Error::Refused { what: "make the table".to_owned(), errno }.into());
        }
        memory.bridge = wanted.clone();
        Ok(bridge::Written::default())
    }

    fn peers(&mut self, ports: &[u32]) -> Vec<(u32, Peer)> {
        let peer = |port: &u32| {
            let last = u8::try_from(*port).expect("it is small");
            (*port, Peer { ethernet: [2, 0, 0, 0, 0, last], addresses: [[10, 0, 0, last].into()].into() })
        };
        ports.iter().map(peer).collect()
    }

    fn apply_each(&mut self, plan: &Plan, failed: &mut Failures) -> std::time::Instant {
        let hangs = self.memory.lock().expect("nobody panicked").hangs.take();
        if let Some(end) = hangs {
            // Once the test is done, it does not matter.
            let _ = end.recv();
        }
        let mut memory = self.memory.lock().expect("nobody panicked");
        for step in plan.steps.iter().filter(|_| !memory.lies).collect::<Vec<_>>() {
            if memory.refusals > 0 && matches!(step, Step::Chains(..)) {
                memory.refusals -= 1;
                self.calls.send(Refused).expect("the test listens");
                for family in Family::ALL {
                    failed.add(family, refused());
                }
                return std::time::Instant::now();
            }
            carry_out(&mut memory.state, step, failed);
            memory.stepped();
        }
        memory.plan = plan.clone();
        self.calls.send(Apply).expect("the test listens");
        memory.in_force.unwrap_or_else(std::time::Instant::now)
    }

    fn wait_for_lock(&mut self) -> Result<(), dataplane::Error> {
        let locked = self.memory.lock().expect("nobody panicked").locked;
        let error = || iptables::Error::Locked { waited: Duration::ZERO, holder: None };
        if locked { Err(error().into()) } else { Ok(()) }
    }

    fn hook_each(&mut self, failed: &mut Failures) -> Vec<(Family, Hook)> {
        if failed.is_of_all() {
            return Vec::new();
        }
        let mut memory = self.memory.lock().expect("nobody panicked");
        self.calls.send(Hooked).expect("the test listens");
        let mut found = Vec::new();
        for (n, family) in
            Family::ALL.into_iter().enumerate().filter(|(_, family)| !failed.contains(*family)).collect::<Vec<_>>()
        {
            let leads_somewhere = memory.state.family(family).chains.contains_key(&ChainName::forward());
            if memory.unhookable || !leads_somewhere && !memory.lies {
                failed.add(family, dataplane::Error::Unhooked(Box::new(refused())));
                continue;
            }
            found.push((family, memory.hooks[n]));
            if !memory.lies {
                memory.hooks[n] = Hook::First;
            }
            memory.stepped();
        }
        found
    }

    fn prove(&mut self, wanted: &KernelState, failed: &mut Failures) {
        let memory = self.memory.lock().expect("nobody panicked");
        // That a restore was done is no proof.
        for family in Family::ALL.into_iter().filter(|_| memory.lies) {
            if memory.state.family(family).chains != wanted.family(family).chains {
                failed.add(family, dataplane::Error::Unproven(vec!["NPC-X".to_owned()]));
            }
        }
    }

    fn audit(&mut self, wanted: &KernelState, depth: Depth) -> Result<Audit, dataplane::Error> {
        let mut memory = self.memory.lock().expect("nobody panicked");
        self.calls.send(Audited).expect("the test listens");
        if depth == Depth::Whole {
            if std::mem::take(&mut memory.is_blind) {
                return Err(ipset::Error::Silent(Duration::ZERO).into());
            }
            if let Some(state) = memory.put_back.take() {
                memory.state = state;
            }
        }
        let between = |family| Delta::between(wanted.family(family), memory.state.family(family));
        let hooks = Family::ALL.into_iter().zip(memory.hooks).filter(|(_, hook)| *hook != Hook::First).collect();
        let (v4, v6) = (between(Family::V4), between(Family::V6));
        Ok(Audit { v4, v6, hooks, ..Audit::default() })
    }

    fn cut(&mut self, forbids: &mut dyn FnMut(&Tuple) -> bool) -> Result<Swept, dataplane::Error> {
        let mut memory = self.memory.lock().expect("nobody panicked");
        let judged = memory.flows.len();
        memory.flows.retain(|flow| !forbids(flow));
        let cut = judged - memory.flows.len();
        self.calls.send(Cut).expect("the test listens");
        Ok(Swept { judged: judged as u64, cut: cut as u64, stuck: 0 })
    }
}

/// Does what a kernel does, and refuses what a kernel refuses.
fn carry_out(state: &mut KernelState, step: &Step, failed: &mut Failures) {
    match step {
        Step::Sets(writes) => {
            for write in writes {
                let family = write.set().family();
                if failed.contains(family) {
                    continue;
                }
                match write.apply(state.family_mut(family)) {
                    Err(Unexpected::NoSet(_)) if !matches!(write, SetWrite::Destroy(_)) => {
                        failed.add(family, refused())
                    }
                    // A write that says nothing new is done.
                    _ => {}
                }
            }
        }
        Step::Grace => {}
        Step::Chains(family, _) if failed.contains(*family) => {}
        Step::Chains(family, writes) => {
            let held = state.family_mut(*family);
            let before = held.chains.clone();
            // A chain that is not there is declared, and then deleted.
            let _ = writes.apply(held);
            // What a rule names has to be there.
            if held.dangling().is_some() {
                held.chains = before;
                failed.add(*family, refused());
            }
        }
    }
}

/// What a world tells its agent.
#[derive(Debug, Clone)]
enum Told {
    /// The objects of the cluster are now these, all of them.
    Objects(Objects),
    Network(Network),
}

impl Told {
    fn event(self, known: &mut Known) -> Event {
        match self {
            Self::Objects(objects) => Event::Changes(known.changes(&objects, "node-1")),
            Self::Network(network) => Event::Network(network),
        }
    }
}

/// An agent that is to run, and both ends of its world.
struct World {
    memory: Arc<Mutex<Memory>>,
    known: Known,
    events: mpsc::Sender<Event>,
    calls: mpsc::UnboundedReceiver<Call>,
    agent: JoinHandle<Result<(), Error>>,
}

impl World {
    fn new(settings: Settings, refusals: usize, queued: Vec<Told>) -> Self {
        Self::with_options(settings, layout::Options::default(), refusals, queued)
    }

    fn with_options(settings: Settings, options: layout::Options, refusals: usize, queued: Vec<Told>) -> Self {
        let (events, receiver) = mpsc::channel(16);
        let (sender, calls) = mpsc::unbounded_channel();
        let mut known = Known::default();
        for told in queued {
            events.try_send(told.event(&mut known)).expect("there is room");
        }
        let memory = Arc::new(Mutex::new(Memory { refusals, ..Memory::default() }));
        let kernel = Recording { memory: Arc::clone(&memory), calls: sender };
        let enforcer = Enforcer::new(kernel, "node-1").with_options(options);
        Self { memory, known, events, calls, agent: tokio::spawn(run(enforcer, settings, receiver)) }
    }

    async fn tell(&mut self, told: Told) {
        self.events.send(told.event(&mut self.known)).await.expect("the agent listens");
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
        let memory = self.memory.lock().expect("nobody panicked");
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

fn network() -> Told {
    Told::Network(Network { bridged: BTreeMap::new(), ..Network::default() })
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_of_the_kernel_before_both_sides_were_heard() {
    for first in [network(), Told::Objects(objects(&["10.0.0.1"]))] {
        let world = World::new(settings(), 0, vec![first]);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(world.calls.is_empty());
        world.end().await;
    }
}

/// A part of `objects`, as a list that is not complete.
fn part(known: &mut Known, objects: &Objects) -> Event {
    Event::Changes(Changes { is_part: true, ..known.changes(objects, "node-1") })
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_of_a_part_before_the_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    let mut world = World::new(Settings { ready_file: Some(ready.clone()), ..settings() }, 0, vec![network()]);
    for addresses in [&["10.0.0.1"] as &[_], &["10.0.0.1", "10.0.0.2"]] {
        let event = part(&mut world.known, &objects(addresses));
        world.events.send(event).await.expect("the agent listens");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(world.calls.is_empty());
    }
    // Of what is told last, only the last pod is new.
    world.tell(Told::Objects(objects(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]))).await;
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fs::read_to_string(&ready).expect("it is ready"), "1\n");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_jump_goes_in_after_the_chains_and_once() {
    let mut world = World::new(settings(), 0, vec![network(), Told::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    world.tell(Told::Objects(objects(&["10.0.0.2"]))).await;
    // What flows the first pod had are not the second one's.
    world.calls([Apply, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.2"]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_came_while_a_pass_ran_is_one_change_and_all_of_it_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    let settings = Settings { ready_file: Some(ready.clone()), ..settings() };
    let states = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|address| Told::Objects(objects(&[address])));
    let mut world = World::new(settings, 0, [network()].into_iter().chain(states).collect());
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.3"]);
    // The same again: nothing is written, and it counts as handled.
    world.tell(Told::Objects(objects(&["10.0.0.3"]))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fs::read_to_string(&ready).expect("it is ready"), "4\n");
    world.end().await;
    assert!(ready.exists(), "what is in the kernel stays true");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_tried_again_later_and_later_on_what_the_kernel_holds_then() {
    let begun = Instant::now();
    let mut world = World::new(settings(), 3, vec![network(), Told::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Refused]).await;
    // More to do does not make it hurry.
    world.tell(Told::Objects(objects(&["10.0.0.1", "10.0.0.2"]))).await;
    world.calls([Read, Refused, Read, Refused, Read, Apply, Hooked, Cut]).await;
    assert_eq!(begun.elapsed().as_millis(), 250 + 500 + 1000);
    assert_eq!(world.ingress(), ["10.0.0.1", "10.0.0.2"]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_in_a_known_group_writes_to_sets_and_looks_at_no_chain() {
    let mut world = World::new(settings(), 0, vec![network(), Told::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    world.tell(Told::Objects(objects(&["10.0.0.1", "10.0.0.2"]))).await;
    world.calls([Apply, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.1", "10.0.0.2"]);
    let plan = world.memory.lock().expect("nobody panicked").plan.clone();
    assert!(plan.steps.iter().all(|step| matches!(step, Step::Sets(_) | Step::Grace)), "{plan:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_change_takes_is_until_it_is_in_force_and_not_until_all_is_cleared_up() {
    let settings = settings();
    let metrics = settings.metrics.clone();
    let taken = || {
        let text = crate::metrics::Metrics::text(&metrics.registry()).expect("a String takes it");
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{{kind=\"Pod\"}} ")));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
        };
        (value("npc_event_to_kernel_seconds_sum"), value("npc_event_to_kernel_seconds_count"))
    };
    let mut world = World::new(settings, 0, vec![network(), Told::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = taken();
    // In force at the moment at which it was heard of, whatever comes then.
    world.memory.lock().expect("nobody panicked").in_force = Some(std::time::Instant::now());
    world.tell(Told::Objects(objects(&["10.0.0.1", "10.0.0.2"]))).await;
    world.calls([Apply, Cut]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = taken();
    assert!(after.1 > before.1, "{before:?} {after:?}");
    assert!((after.0 - before.0).abs() < f64::EPSILON, "{before:?} {after:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_kernel_gets_to_where_it_would_have_been() {
    let mut world = World::new(settings(), 0, vec![network(), Told::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    world.memory.lock().expect("nobody panicked").refusals = 1;
    let mut edited = objects(&["10.0.0.2"]);
    edited.policies[0].object.metadata.name = Some("another".to_owned());
    let spec = edited.policies[0].object.spec.as_mut().expect("it has one");
    spec.policy_types = Some(vec!["Ingress".to_owned(), "Egress".to_owned()]);
    world.tell(Told::Objects(edited.clone())).await;
    world.calls([Refused]).await;
    // What comes in between counts too.
    edited.pods.extend(objects(&["10.0.0.3"]).pods);
    world.tell(Told::Objects(edited.clone())).await;
    world.calls([Read, Apply, Hooked, Cut]).await;
    let program = layout::program(&Cluster::new(&edited), "node-1", &layout::Options::default());
    assert_eq!(world.memory.lock().expect("nobody panicked").state, KernelState::from(&program));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_wait_has_an_upper_bound() {
    let begun = Instant::now();
    let mut world = World::new(settings(), 20, vec![network(), Told::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe]).await;
    for _ in 0..20 {
        world.calls([Read, Refused]).await;
    }
    world.calls([Read, Apply, Hooked, Cut]).await;
    assert!(begun.elapsed() < Duration::from_secs(20 * 10), "{:?}", begun.elapsed());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_others_took_is_put_back_and_flows_are_judged_then() {
    let mut world = World::new(settings(), 0, vec![network(), Told::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    let begun = Instant::now();
    world.calls([Audited, Audited]).await;
    assert!(begun.elapsed() <= Duration::from_secs(10));
    *world.memory.lock().expect("nobody panicked") = Memory::default();
    // What was noticed is followed by a look at everything.
    world.calls([Audited, Audited, Apply, Hooked, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.1"]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_look_at_everything_that_fails_forgets_nothing() {
    let mut world = World::new(settings(), 0, vec![network(), Told::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut, Audited]).await;
    *world.memory.lock().expect("nobody panicked") = Memory { is_blind: true, ..Memory::default() };
    // The jump is gone as well.
    world.calls([Audited, Audited, Read, Apply, Hooked, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.1"]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn flows_are_judged_that_came_while_something_was_gone_that_somebody_has_put_back() {
    let settings = settings();
    let registry = settings.metrics.registry();
    let mut world = World::new(settings, 0, vec![network(), Told::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut, Audited]).await;
    {
        let mut memory = world.memory.lock().expect("nobody panicked");
        memory.put_back = Some(std::mem::take(&mut memory.state));
    }
    world.calls([Audited, Audited, Cut]).await;
    world.end().await;
    let text = Metrics::text(&registry).expect("a String takes it");
    let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
    let found = text.lines().filter(|line| line.starts_with("npc_drift_found_total{what=\"chain\"}")).find_map(count);
    assert!(found > Some(0), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_an_audit_could_not_put_back_counts_as_repaired_once_a_pass_has() {
    let settings = settings();
    let registry = settings.metrics.registry();
    let sum = |name: &str| {
        let text = Metrics::text(&registry).expect("a String takes it");
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<u64>().expect("a count")).sum::<u64>()
    };
    let mut world = World::new(settings, 0, vec![network(), Told::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut, Audited]).await;
    *world.memory.lock().expect("nobody panicked") = Memory { refusals: 1, ..Memory::default() };
    world.calls([Audited, Audited, Refused, Read]).await;
    let found = sum("npc_drift_found_total");
    assert!(found > 0);
    world.calls([Apply, Hooked, Cut]).await;
    world.end().await;
    assert_eq!((sum("npc_drift_found_total"), sum("npc_drift_repaired_total")), (found, found));
}

#[tokio::test(start_paused = true)]
async fn once_ends_after_one_pass_well_or_not() {
    let once = Settings { once: true, ..settings() };
    let queued = || vec![network(), Told::Objects(objects(&["10.0.0.1"]))];
    let mut world = World::new(once.clone(), 0, queued());
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    world.agent.await.expect("no panic").expect("it went well");
    let world = World::new(once, 1, queued());
    let error = world.agent.await.expect("no panic").expect_err("it was refused");
    assert!(matches!(error, Error::Kernel(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hears_nothing_any_more_ends_with_an_error() {
    let world = World::new(settings(), 0, Vec::new());
    drop(world.events);
    assert!(matches!(world.agent.await.expect("no panic"), Err(Error::Deaf)));
}

/// A flow from outside to an address.
fn flow(to: &str) -> Tuple {
    let address = |text: &str| text.parse().expect("an address");
    Tuple { source: address("192.0.2.1"), destination: address(to), protocol: 6, port: 80, mid_stream: false }
}

impl World {
    fn flows(&self, flows: &[Tuple]) {
        self.memory.lock().expect("nobody panicked").flows.extend(flows);
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

    fn left(&self) -> Vec<Tuple> {
        self.memory.lock().expect("nobody panicked").flows.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn flows_are_judged_at_the_start_and_when_something_may_have_become_narrower() {
    let mut world = World::new(settings(), 0, Vec::new());
    let (one, two, other) = (flow("10.0.0.1"), flow("10.0.0.2"), flow("10.0.0.9"));
    world.flows(&[one, two, other]);
    world.tell(network()).await;
    let mut open = objects(&["10.0.0.1", "10.0.0.2"]);
    let policies = std::mem::take(&mut open.policies);
    world.tell(Told::Objects(open.clone())).await;
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    assert_eq!(world.left(), [one, two, other], "nobody denies anything");
    // A pod that nobody isolates comes: nothing is written, nothing narrower.
    let mut more = open.clone();
    more.pods.extend(objects(&["10.0.0.3"]).pods);
    world.tell(Told::Objects(more)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.calls.is_empty());
    // It goes. Its flows may be the next owner's, until there was none for long.
    world.flows(&[flow("10.0.0.3")]);
    world.tell(Told::Objects(open.clone())).await;
    let begun = Instant::now();
    world.cut_between_audits().await;
    assert!(begun.elapsed() >= Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(world.left(), [one, two, other]);
    let isolated = Objects { policies, ..open.clone() };
    world.tell(Told::Objects(isolated.clone())).await;
    world.calls([Apply, Cut]).await;
    assert_eq!(world.left(), [other]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn flows_are_let_be_where_that_is_asked_for() {
    let options = layout::Options { keep_established: true, ..layout::Options::default() };
    let queued = vec![network(), Told::Objects(objects(&["10.0.0.1"]))];
    let mut world = World::with_options(settings(), options, 0, queued);
    world.flows(&[flow("10.0.0.1")]);
    world.calls([Probe, Read, Apply, Hooked]).await;
    world.end().await;
}

/// A veth of pods to which these addresses are routed.
fn veth(index: u32, group: u32, addresses: &[&str]) -> Told {
    let routes = addresses.iter().map(|address| address.parse().expect("an address")).collect();
    let name = InterfaceName::new("azv1").expect("a name");
    let interface = Interface { index, group, is_bridge: false, routes };
    let in_pod_group = (group == POD_GROUP).then_some(index).into_iter().collect();
    Told::Network(Network { interfaces: [(name, interface)].into(), in_pod_group, ..Network::default() })
}

#[tokio::test(start_paused = true)]
async fn an_interface_joins_after_its_addresses_came_and_leaves_before_they_go() {
    let options = layout::Options { anti_spoof: true, keep_established: true, ..layout::Options::default() };
    let queued = vec![veth(7, 0, &["10.0.0.1/32"]), Told::Objects(objects(&["10.0.0.1"]))];
    let mut world = World::with_options(settings(), options, 0, queued);
    world.calls([Probe, Read, Apply, Hooked, Call::Group(7, POD_GROUP)]).await;
    // The echo of that.
    world.tell(veth(7, POD_GROUP, &["10.0.0.1/32"])).await;
    // Another link of its name, which is in no group.
    world.tell(veth(8, 0, &["10.0.0.2/32"])).await;
    world.calls([Apply, Call::Group(8, POD_GROUP)]).await;
    // The pod goes, the link not yet.
    let gone = Told::Network(Network { in_pod_group: [8].into(), ..Network::default() });
    world.tell(gone).await;
    world.calls([Call::Group(8, NO_GROUP), Apply]).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_joins_while_the_kernel_refuses() {
    let options = layout::Options { anti_spoof: true, keep_established: true, ..layout::Options::default() };
    let queued = vec![veth(7, 0, &["10.0.0.1/32"]), Told::Objects(objects(&["10.0.0.1"]))];
    let mut world = World::with_options(settings(), options, 1, queued);
    world.calls([Probe, Read, Refused, Read, Apply, Hooked, Call::Group(7, POD_GROUP)]).await;
    world.end().await;
}

/// A bridge with these ports.
fn bridge(ports: &[u32]) -> Told {
    let bridge_ports = [("cbr0".to_owned(), ports.iter().copied().collect())].into();
    Told::Network(Network { bridge_ports, ..Network::default() })
}

#[tokio::test(start_paused = true)]
async fn a_port_is_in_the_table_when_its_link_comes_and_guarded_when_its_pod_does() {
    let queued = vec![bridge(&[1]), Told::Objects(objects(&["10.0.0.1"]))];
    let mut world = World::new(settings(), 0, queued);
    let table = |world: &World| world.memory.lock().expect("nobody panicked").bridge.clone();
    world.calls([Probe, Read]).await;
    // Before the first write of a rule or a set.
    assert_eq!((table(&world).ports, table(&world).guarded), ([1].into(), [1].into()));
    world.calls([Apply, Hooked, Cut]).await;
    world.tell(bridge(&[1, 2])).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((table(&world).ports, table(&world).guarded), ([1, 2].into(), [1].into()));
    world.tell(Told::Objects(objects(&["10.0.0.1", "10.0.0.2"]))).await;
    world.calls([Apply, Cut]).await;
    assert_eq!(table(&world).guarded, [1, 2].into());
    assert_eq!(table(&world).addresses, [1, 2].map(|last| (last.into(), [10, 0, 0, last].into())).into());
    world.tell(bridge(&[])).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(table(&world).is_empty());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_bridge_family_all_else_is_enforced_and_the_lack_is_told() {
    let settings = settings();
    let (status, metrics) = (settings.status.clone(), settings.metrics.clone());
    let missing = move || {
        let text = Metrics::text(&metrics.registry()).expect("a text");
        text.lines().find_map(|line| line.strip_prefix("npc_bridge_table_missing ").map(str::to_owned))
    };
    let mut world = World::new(settings, 0, vec![bridge(&[1]), Told::Objects(objects(&["10.0.0.1"]))]);
    world.memory.lock().expect("nobody panicked").no_bridge = Some(95);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.ingress(), ["10.0.0.1"]);
    let now = status.now();
    assert!(now.ready && now.bridge.lack.expect("it is told").contains("this kernel lacks nf_tables"));
    assert_eq!((now.bridge.ports, missing().as_deref()), (0, Some("1")));
    // It is tried again, by the clock, and the flows that began meanwhile are judged.
    world.memory.lock().expect("nobody panicked").no_bridge = None;
    world.calls([Audited, Cut]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let now = status.now();
    assert_eq!((now.bridge.lack, now.bridge.ports, missing().as_deref()), (None, 1, Some("0")));
    world.end().await;
}
