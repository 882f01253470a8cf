//! Large changes of one namespace are loaded first, and the others do not wait.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::MutexGuard;

use serde_json::json;
use tokio::sync::oneshot;

use super::super::Waiter;
use super::super::pass::Pass;
use super::super::waiters::Waiters;
use super::*;
use crate::dataplane;

/// An enforcer to which a change of more than ten rules is a large one, and its kernel.
struct Passes {
    enforcer: Enforcer<Recording>,
    known: LastObjects,
    memory: Arc<Mutex<Memory>>,
    _calls: mpsc::UnboundedReceiver<Call>,
}

impl Passes {
    /// A policy of one rule is in force.
    fn new() -> Self {
        let memory = Arc::new(Mutex::new(Memory::default()));
        let (sender, calls) = mpsc::unbounded_channel();
        let kernel = Recording { memory: Arc::clone(&memory), calls: sender };
        let enforcer = Enforcer::new(kernel, "node-1").with_large_changes(10);
        let mut passes = Self { enforcer, known: LastObjects::default(), memory, _calls: calls };
        passes.pass(&two(1, false)).expect("no refusal");
        passes
    }

    /// A pass after the cluster came to be this.
    fn pass(&mut self, objects: &Objects) -> Result<Pass, dataplane::Error> {
        self.enforcer.take(self.known.changes(objects, "node-1").changes.into_iter().map(|change| change.event));
        self.enforcer.pass(&Network::default())
    }

    fn kernel(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no thread panicked")
    }
}

/// What a kernel is to hold in the end.
fn desired(objects: &Objects) -> KernelState {
    KernelState::from(&layout::ruleset(&Cluster::new(objects), "node-1", &layout::RulesetOptions::default()))
}

/// A pod in each of two namespaces. A policy of the first admits so many separate ports, and
/// one of the second may isolate its pod.
fn two(ports: u16, is_other_isolated: bool) -> Objects {
    let policy = |namespace: &str, ports: u16| {
        let ports: Vec<_> = (0..ports).map(|port| json!({"port": 1 + 2 * port})).collect();
        let policy = json!({
            "metadata": {"namespace": namespace, "name": "np"},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": ports}]},
        });
        NetworkPolicy::from(serde_json::from_value::<networking::v1::NetworkPolicy>(policy).expect("a policy"))
    };
    let pod = |(namespace, address): (&str, [u8; 4])| Pod {
        node: Some("node-1".to_owned()),
        ipv4: Some(address.into()),
        ..Pod::from_template(namespace.to_owned(), "pod".to_owned(), Labels::new(), PodSpec::default())
    };
    let mut policies = vec![policy("large", ports)];
    policies.extend(is_other_isolated.then(|| policy("small", 1)));
    let pods = [("large", [10, 0, 0, 1]), ("small", [10, 0, 0, 2])].map(pod).into();
    let mut objects = Objects { pods, policies, ..Objects::default() };
    objects.declare_namespaces();
    objects
}

fn addresses(text: &str) -> BTreeSet<IpAddr> {
    BTreeSet::from([text.parse().expect("an address")])
}

/// What a kernel holds of groups' chains: how many rules the largest has.
fn largest(memory: &Memory) -> usize {
    memory.state.v4.chains.values().map(Vec::len).max().unwrap_or_default()
}

#[test]
fn another_namespace_goes_on_while_a_large_change_is_loaded_and_after_a_write_of_it_failed() {
    let mut passes = Passes::new();
    assert!(!passes.enforcer.is_loading());
    passes.kernel().refusals = 1;
    // 3,000 rules in 8 portions and more; the first write of them fails.
    let large = two(22_500, false);
    let mut refused = 0;
    let mut count = 0;
    while refused == 0 {
        refused += usize::from(passes.pass(&large).is_err());
        count += 1;
        assert!(count < 10, "nothing of it was loaded");
    }
    let both = two(22_500, true);
    passes.pass(&both).expect("it refuses once");
    let enforcer = &passes.enforcer;
    assert!(enforcer.is_loading() && enforcer.waits_for(&addresses("10.0.0.1"), 1));
    assert!(!enforcer.waits_for(&addresses("10.0.0.1"), 0), "what came later is not asked about");
    assert!(!enforcer.waits_for(&addresses("10.0.0.2"), 9) && !enforcer.waits_for(&addresses("10.0.0.3"), 9));
    let isolated = passes.kernel().state.v4.sets[&SetName::new(Family::V4, "ingress")].1.len();
    assert_eq!(isolated, 2, "the other namespace waits");
    while passes.enforcer.is_loading() {
        let before = largest(&passes.kernel());
        passes.pass(&both).expect("no refusal");
        assert!(largest(&passes.kernel()) <= before + 1_000, "a portion is too large");
        count += 1;
        assert!(count < 100, "it never ends");
    }
    assert_eq!(passes.kernel().state, desired(&both));
}

#[test]
fn a_family_that_fails_does_not_keep_a_large_change_from_the_other() {
    let mut passes = Passes::new();
    passes.kernel().broken = Some(Family::V6);
    let large = two(22_500, true);
    let desired = desired(&large);
    let mut count = 0;
    while passes.kernel().state.v4 != desired.v4 {
        drop(passes.pass(&large));
        count += 1;
        assert!(count < 30, "it is never in force");
    }
    assert!(!passes.enforcer.is_in_sync());
    passes.kernel().broken = None;
    passes.pass(&large).expect("no refusal");
    while passes.enforcer.is_loading() {
        passes.pass(&large).expect("no refusal");
    }
    assert_eq!(passes.kernel().state, desired);
}

#[tokio::test(start_paused = true)]
async fn a_check_is_answered_while_a_large_change_waits() {
    let mut world = World::with_large_changes_first(settings(), vec![network(), Input::Objects(two(1, false))]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.memory.lock().expect("no thread panicked").locked = true;
    world.send(Input::Objects(two(22_500, false))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (reply, answered) = oneshot::channel();
    world.events.send(Event::Check(reply)).await.expect("the agent listens");
    let answer = tokio::time::timeout(Duration::from_secs(1), answered).await;
    assert_eq!(answer.expect("it is answered"), Ok(true));
    world.agent.abort();
}

#[test]
fn what_waits_for_a_large_change_is_answered_when_it_is_in_force() {
    let mut waiters = Waiters::default();
    let mut add = |address: &str| {
        let (reply, answered) = oneshot::channel();
        let (families, addresses) = (BTreeSet::from([Family::V4]), addresses(address));
        waiters.add(Waiter { families, addresses, is_new: true, reply });
        answered
    };
    let (_of_large, _of_other, gone) = (add("10.0.0.1"), add("10.0.0.2"), add("10.0.0.1"));
    drop(gone);
    // The oldest event that waits is the fourth, then the seventh.
    let waits =
        |first: u64| move |waiter: &Waiter, until: u64| waiter.addresses == addresses("10.0.0.1") && first <= until;
    let answered: Vec<_> = waiters.passed(5, waits(4)).into_iter().map(|waiter| waiter.addresses).collect();
    assert_eq!(answered, [addresses("10.0.0.2")]);
    assert!(waiters.passed(8, waits(5)).is_empty());
    // Edits come without a pause, and what came before the waiter is in force all the same.
    let answered: Vec<_> = waiters.passed(9, waits(7)).into_iter().map(|waiter| waiter.addresses).collect();
    assert_eq!(answered, [addresses("10.0.0.1")], "and one that had waited for too long is gone");
}

#[tokio::test(start_paused = true)]
async fn status_metrics_and_the_ready_file_say_what_waits_for_a_large_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    let settings = Settings { ready_file: Some(ready.clone()), ..settings() };
    let (metrics, status) = (settings.metrics.clone(), settings.status.clone());
    let value = |name: &str| {
        let text = Metrics::text(&metrics.registry()).expect("a String takes it");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
        line.expect("it is there").parse::<i64>().expect("a number")
    };
    let mut world = World::with_large_changes_first(settings, vec![network(), Input::Objects(two(1, false))]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((status.now().loading, value("npc_loading_namespaces")), (Vec::new(), 0));
    // Nothing of it can be loaded.
    world.memory.lock().expect("no thread panicked").locked = true;
    world.send(Input::Objects(two(22_500, false))).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let now = status.now();
    let [loading] = &now.loading[..] else { panic!("{:?}", now.loading) };
    assert_eq!((loading.namespace.as_str(), &loading.objects[..]), ("large", &["NetworkPolicy np".to_owned()][..]));
    assert!(loading.rules > 2_000 && loading.rules_loaded == 0, "{loading:?}");
    assert_eq!(
        (value("npc_loading_namespaces"), value("npc_loading_since_timestamp_seconds")),
        (1, loading.since.as_second())
    );
    assert!(now.ready, "the rest of the cluster is in force");
    assert_eq!(fs::read_to_string(&ready).expect("it is ready"), "1\n", "the second change is not in force");
    world.memory.lock().expect("no thread panicked").locked = false;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((status.now().loading, value("npc_loading_namespaces")), (Vec::new(), 0));
    assert_eq!(value("npc_loading_since_timestamp_seconds"), 0);
    assert_eq!(fs::read_to_string(&ready).expect("it is ready"), "2\n");
    world.agent.abort();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_writes_once_ends_with_a_large_change_in_force() {
    let settings = Settings { once: true, ..settings() };
    let world = World::with_large_changes_first(settings, vec![network(), Input::Objects(two(22_500, true))]);
    world.agent.await.expect("no panic").expect("a quiet end");
    assert_eq!(world.memory.lock().expect("no thread panicked").state, desired(&two(22_500, true)));
}
