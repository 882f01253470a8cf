//! An agent, the API server that it follows, and the namespaces that are not the tenant's.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{self, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::ipset::Ipset;
use npc_benches::netns::Netns;
use npc_benches::samples::Samples;
use npc_compiler::object::Family;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::names::SetName;
use npc_compiler::ruleset::set::Member;
use npc_lab::apiserver::{Disturbance, Fault, Resource, Server, Verb};
use serde_json::{Value, json};

use crate::agent::{Agent, NODE};
use crate::{Case, Result};

/// How many other namespaces there are. Each gets a policy once, and then a pod.
pub(crate) const VICTIMS: usize = 500;

/// How many of them are measured before the abuse, while it lasts at least, and during each list.
const BEFORE: usize = 50;
const DURING: usize = 150;
const LISTING: usize = 8;

/// How many lists are measured of each kind.
const LISTS: usize = 3;

/// How long the abuse lasts at most, unless one policy alone takes longer.
const LONGEST: Duration = Duration::from_secs(150);

/// How long a policy may take to come into force.
const PATIENCE: Duration = Duration::from_secs(300);

/// The time from one look at the kernel to the next.
const LOOKS: Duration = Duration::from_millis(2);

/// The least time from one policy to the next, while the abuse lasts, and when enough are
/// measured.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// How many megabytes a tenant writes in a second. etcd keeps what was overwritten until the
/// API server compacts it, after five minutes; more than this fills its largest quota, 8 GB.
const WRITES: f64 = 25.0;

/// The number of the address of the first local pod of the tenant, and of his first remote one.
const LOCAL: usize = 20_000;
const REMOTE: usize = 30_000;

/// What a case does its abuse to: the tenant writes in [`Scene::TENANT`], and sends from his
/// pods.
pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) node: Netns,
    pub(crate) agent: Agent,
    backend: Backend,
    is_over: AtomicBool,
    rounds: AtomicUsize,
    victim: AtomicUsize,
    notes: Mutex<Vec<String>>,
}

/// How long other namespaces waited.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// For a default-deny of a pod that is there.
    pub(crate) policies: Samples,
    /// For the isolation of a new pod.
    pub(crate) pods: Samples,
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) before: Waits,
    pub(crate) during: Waits,
    /// Policies that came during a list.
    pub(crate) streamed: Samples,
    pub(crate) pages: Samples,
    /// The most that was resident of the agent, in bytes.
    pub(crate) peak: u64,
    /// What was in the kernel at the end of the abuse.
    pub(crate) rules: usize,
    pub(crate) sets: usize,
    /// How much of a processor the agent took during the abuse.
    pub(crate) cpu: f64,
    /// How many tasks ran or wanted to, a minute's mean, before the case and after the abuse.
    pub(crate) loads: [f64; 2],
    /// What the case found itself.
    pub(crate) notes: Vec<String>,
}

impl Scene {
    /// The tenant's namespace.
    pub(crate) const TENANT: &str = "tenant";

    /// The name of each other namespace's policy.
    pub(crate) const DENY: &str = "default-deny";

    /// Whether all is measured, so that the case should end.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// The tenant has done once all that he does. The abuse lasts until then at least.
    pub(crate) fn round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of the next namespace that gets a policy.
    pub(crate) fn next_victim(&self) -> usize {
        self.victim.load(Ordering::Relaxed)
    }

    /// Has something printed with the outcome.
    pub(crate) fn note(&self, note: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }

    /// Puts the first local pods of the tenant on the node.
    pub(crate) fn put_local(&self, count: usize) {
        for number in 0..count {
            self.server.put(&local(number));
        }
    }

    /// Writes so many objects, each about a megabyte, then overwrites each, or deletes it and
    /// writes it anew, in turns, as fast as an API server takes them. `object` makes one by its
    /// number and version. When this ends all exist.
    pub(crate) fn rewrite(&self, count: usize, object: impl Fn(usize, usize) -> Value) -> Result<()> {
        let begun = Instant::now();
        for written in 0.. {
            let (version, number) = (written / count, written % count);
            if version > 0 && self.is_over() {
                return Ok(());
            }
            let object = object(number, version);
            if version > 0 && written % 2 == 0 {
                let resource = Resource::of_kind(object["kind"].as_str().unwrap_or_default());
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                self.server.delete(resource.ok_or("it has a kind")?, Self::TENANT, name);
            }
            self.server.put(&object);
            if written + 1 >= (2 * count).max(100) {
                self.round();
            }
            // The history would fill this process's memory. No watch needs it that is open.
            if written % 200 == 199 {
                self.server.compact();
            }
            let due = Duration::from_secs_f64(f64::from(u32::try_from(written)?) / WRITES);
            thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        Ok(())
    }

    /// Runs a case.
    pub(crate) fn run(case: Case, backend: Backend, loads_first: Option<bool>) -> Result<Outcome> {
        let server = Server::in_process();
        server.put(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}));
        for namespace in ["kube-system", Self::TENANT].map(str::to_owned).into_iter().chain((0..VICTIMS).map(victim)) {
            server.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        }
        for number in 0..VICTIMS {
            server.put(&pod(&victim(number), "app", NODE, number));
        }
        let node = Netns::create(&format!("npc-bench-{}", process::id()))?;
        let agent = Agent::start(&server, &node, backend, loads_first)?;
        let scene = Self {
            server,
            node,
            agent,
            backend,
            is_over: AtomicBool::new(false),
            rounds: AtomicUsize::new(0),
            victim: AtomicUsize::new(0),
            notes: Mutex::default(),
        };
        let mut kernel = scene.node.within(Ipset::open)??;
        // The agent's start is no abuse.
        scene.isolate(&mut kernel, &mut Waits::default())?;
        let (mut before, mut during) = (Waits::default(), Waits::default());
        let loads = [load()?, 0.0];
        (0..BEFORE).try_for_each(|_| scene.isolate(&mut kernel, &mut before))?;
        let (begun, cpu) = (Instant::now(), scene.agent.cpu_seconds()?);
        let (rules, sets) = thread::scope(|scope| {
            let abused = scope.spawn(|| (case.abuse)(&scene));
            let measured = scene.measure(&mut kernel, &mut during, || abused.is_finished());
            scene.is_over.store(true, Ordering::Relaxed);
            abused.join().map_err(|_| "the case panicked")??;
            measured
        })?;
        let cpu = (scene.agent.cpu_seconds()? - cpu) / begun.elapsed().as_secs_f64();
        let loads = [loads[0], load()?];
        let (mut streamed, mut pages) = (Samples::default(), Samples::default());
        if case.lists {
            scene.list(&mut kernel, &mut streamed)?;
            scene.refuse_streams()?;
            scene.list(&mut kernel, &mut pages)?;
        }
        let peak = scene.agent.peak()?;
        let notes = scene.notes.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Outcome { before, during, streamed, pages, peak, rules, sets, cpu, loads, notes })
    }

    /// Measures while the abuse lasts; then how many rules and sets there are.
    fn measure(&self, kernel: &mut Ipset, waits: &mut Waits, is_idle: impl Fn() -> bool) -> Result<(usize, usize)> {
        let begun = Instant::now();
        let most = VICTIMS - 2 * LISTS * LISTING;
        for count in 0.. {
            let is_enough = count >= DURING;
            let is_round = self.rounds.load(Ordering::Relaxed) > 0 || is_idle();
            if is_enough && is_round || begun.elapsed() > LONGEST || self.next_victim() >= most {
                break;
            }
            self.isolate(kernel, waits)?;
            thread::sleep(PAUSES[usize::from(is_enough)]);
        }
        self.in_kernel(kernel)
    }

    /// How many rules and sets of ours there are.
    fn in_kernel(&self, kernel: &mut Ipset) -> Result<(usize, usize)> {
        let save = format!("iptables-{}-save", self.backend);
        let listed = Command::new("ip").args(["netns", "exec", self.node.name(), &save, "-t", "filter"]).output()?;
        let rules = String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.starts_with("-A NPC")).count();
        Ok((rules, kernel.names()?.len()))
    }

    /// Refuses streamed lists from now on, and awaits that the agent lists in pages.
    fn refuse_streams(&self) -> Result<()> {
        self.server.inject(Fault::no_streaming_lists());
        self.server.compact();
        self.server.disturb(None, Disturbance::Expire);
        for resource in [Resource::Pods, Resource::NetworkPolicies] {
            let what = format!("{resource:?} are listed in pages and watched");
            let is_paged = |server: &Server| server.count(resource, Verb::List) > 0 && server.watches(resource) > 0;
            // A list of large objects takes longer than one wait.
            let begun = Instant::now();
            while let Err(error) = self.server.wait(&what, is_paged) {
                if begun.elapsed() > PATIENCE {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Has the agent list everything, as one whose API server was away for long, and measures
    /// policies that come meanwhile. A list has them behind all objects of the tenant.
    fn list(&self, kernel: &mut Ipset, waits: &mut Samples) -> Result<()> {
        for _ in 0..LISTS {
            self.server.wait("policies are watched", |server| server.watches(Resource::NetworkPolicies) > 0)?;
            self.server.compact();
            self.server.disturb(None, Disturbance::Expire);
            (0..LISTING).try_for_each(|_| self.deny(kernel, waits).map(drop))?;
        }
        Ok(())
    }

    /// Gives the next namespace a default-deny, and then a pod.
    fn isolate(&self, kernel: &mut Ipset, waits: &mut Waits) -> Result<()> {
        let number = self.deny(kernel, &mut waits.policies)?;
        let late = VICTIMS + number;
        self.server.put(&pod(&victim(number), "late", NODE, late));
        waits.pods.push(isolated(kernel, late)?);
        Ok(())
    }

    /// Gives the next namespace a default-deny, and awaits it in the kernel.
    fn deny(&self, kernel: &mut Ipset, waits: &mut Samples) -> Result<usize> {
        let number = self.victim.fetch_add(1, Ordering::Relaxed);
        self.server.put(&policy(&victim(number), Self::DENY, &json!({"podSelector": {}, "policyTypes": ["Ingress"]})));
        waits.push(isolated(kernel, number)?);
        Ok(number)
    }
}

/// Waits until the pod with the address of this number is isolated.
fn isolated(kernel: &mut Ipset, number: usize) -> Result<Duration> {
    let begun = Instant::now();
    let (name, member) =
        (SetName::isolated(Family::V4, Direction::Ingress), Member::Address(IpAddr::V4(address(number))));
    // The set does not exist before the first pod is isolated.
    while !kernel.members_of(&name, Family::V4)?.is_some_and(|(_, members)| members.contains(&member)) {
        if begun.elapsed() > PATIENCE {
            return Err("a pod is not isolated after five minutes".into());
        }
        thread::sleep(LOOKS);
    }
    Ok(begun.elapsed())
}

/// The mean number of tasks that run or want to.
fn load() -> Result<f64> {
    let loads = std::fs::read_to_string("/proc/loadavg")?;
    Ok(loads.split(' ').next().ok_or("a load")?.parse()?)
}

/// The namespace of this number.
pub(crate) fn victim(number: usize) -> String {
    format!("victim-{number}")
}

/// The address of this number.
pub(crate) fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a01_0001 + u32::try_from(number).unwrap_or_default())
}

/// The address of a local pod of the tenant's.
pub(crate) fn local_address(number: usize) -> Ipv4Addr {
    address(LOCAL + number)
}

/// A running pod with the address of this number.
fn pod(namespace: &str, name: &str, node: &str, number: usize) -> Value {
    let address = address(number);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "registry.example/app:1"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

/// A pod of the tenant's on the agent's node.
pub(crate) fn local(number: usize) -> Value {
    pod(Scene::TENANT, &format!("local-{number}"), NODE, LOCAL + number)
}

/// A pod of the tenant's on another node.
pub(crate) fn remote(name: &str, number: usize) -> Value {
    pod(Scene::TENANT, name, "another", REMOTE + number)
}

/// A pod of the tenant's that no node takes.
pub(crate) fn unscheduled(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": Scene::TENANT, "name": format!("pod-{number}"), "labels": {}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/app:1"}]}, "status": {"phase": "Pending"},
    })
}

/// A policy.
pub(crate) fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    })
}
