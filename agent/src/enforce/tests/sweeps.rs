//! Sweeps through the flows run beside passes, and judge by the latest one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::mpsc::{SendError, Sender, channel};

use npc_compiler::plan::conntrack::FlowScope;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::Waiter;
use super::*;

/// A sweep that stands, or will. While its thread is there, the clock of the test does not go on
/// by itself, and a pass may wait for a moment. So it goes on by hand, no faster than the
/// machine's.
struct StoppedSweep {
    go_on: Sender<()>,
    clock: JoinHandle<()>,
}

impl StoppedSweep {
    /// Lets it go on.
    fn send(self, (): ()) -> Result<(), SendError<()>> {
        self.go_on.send(())
    }
}

impl Drop for StoppedSweep {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

impl World {
    /// The next sweep stops once it has its list, until something is sent.
    fn stop_next_sweep(&self) -> StoppedSweep {
        let (go_on, stopped) = channel();
        self.memory.lock().expect("no thread panicked").sweep_hangs = Some(stopped);
        let clock = tokio::spawn(async {
            loop {
                std::thread::sleep(Duration::from_millis(1));
                tokio::time::advance(Duration::from_millis(1)).await;
            }
        });
        StoppedSweep { go_on, clock }
    }

    /// The scopes of all sweeps that have begun.
    fn scopes(&self) -> Vec<FlowScope> {
        self.memory.lock().expect("no thread panicked").scopes.clone()
    }

    /// Waits until so many sweeps have begun. Their threads are no tasks, so time does not go
    /// on for them by itself. A sweep may wait for a pause, which is as long as the one before was
    /// at work by the machine's clock.
    async fn begun(&self, count: usize) {
        while self.scopes().len() < count {
            std::thread::sleep(Duration::from_millis(1));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }
}

fn of(addresses: &[&str]) -> FlowScope {
    FlowScope::Of(addresses.iter().map(|text| text.parse::<IpAddr>().expect("an address")).collect())
}

/// One flow that a peer of each address has with it.
fn flows(addresses: &[&str]) -> Vec<FlowKey> {
    addresses.iter().map(|address| flow(address)).collect()
}

#[tokio::test(start_paused = true)]
async fn new_pods_are_isolated_while_a_sweep_reads_a_long_list() {
    let mut world = World::new(settings(), 0, vec![network()]);
    let go_on = world.stop_next_sweep();
    world.flows(&flows(&["10.0.0.1", "10.0.0.2"]));
    world.send(Input::Objects(objects(&["10.0.0.1"]))).await;
    world.calls([Probe, Read, Apply, Hooked]).await;
    world.begun(1).await;
    // Four changes, and the sweep has its list still.
    for last in 2..=5 {
        let addresses: Vec<String> = (1..=last).map(|n| format!("10.0.0.{n}")).collect();
        world.send(Input::Objects(objects(&addresses.iter().map(String::as_str).collect::<Vec<_>>()))).await;
        world.calls([Apply]).await;
    }
    assert_eq!(world.ingress().len(), 5);
    assert_eq!(world.scopes(), [FlowScope::All], "one at a time");
    go_on.send(()).expect("it waits");
    // One more sweep for all four.
    world.calls([Cut, Cut]).await;
    assert_eq!(world.scopes()[1..], [of(&["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"])]);
    assert_eq!(world.left(), []);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_flow_is_judged_by_the_owner_and_the_rules_of_the_moment() {
    let mut world = World::new(settings(), 0, vec![network()]);
    let listed = flows(&["10.0.0.1", "10.0.0.2"]);
    let mut before = objects(&["10.0.0.1", "10.0.0.2"]);
    before.pods[1].namespace = "free".to_owned();
    before.declare_namespaces();
    let go_on = world.stop_next_sweep();
    world.flows(&listed);
    world.send(Input::Objects(before.clone())).await;
    world.calls([Probe, Read, Apply, Hooked]).await;
    world.begun(1).await;
    // While the sweep has its list, both addresses go to other pods: one that nothing
    // isolates, and one that is isolated.
    let mut after = before;
    for (pod, namespace) in after.pods.iter_mut().zip(["free", "default"]) {
        (pod.namespace, pod.name) = (namespace.to_owned(), format!("next-{namespace}"));
        pod.uid = pod.name.clone();
    }
    world.send(Input::Objects(after)).await;
    world.calls([Apply]).await;
    go_on.send(()).expect("it waits");
    world.calls([Cut]).await;
    assert_eq!(world.left(), listed[..1]);
    world.calls([Cut]).await;
    assert_eq!(world.left(), listed[..1]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_waits_for_the_flows_of_its_addresses_and_for_no_others() {
    let mut world = World::new(settings(), 0, vec![network()]);
    let all = world.stop_next_sweep();
    world.send(Input::Objects(objects(&["10.0.0.1"]))).await;
    world.calls([Probe, Read, Apply, Hooked]).await;
    world.begun(1).await;
    // While a sweep of all flows goes on and on.
    let urgent = world.stop_next_sweep();
    world.flows(&flows(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    world.send(Input::Objects(objects(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]))).await;
    let mut two = world.wait_for_flows_of(&[Family::V4], &["10.0.0.2"]).await;
    world.begun(2).await;
    assert_eq!(world.scopes()[1..], [of(&["10.0.0.2"])]);
    // What comes meanwhile is one sweep.
    let mut three = world.wait_for_flows_of(&[Family::V4], &["10.0.0.3"]).await;
    let mut one = world.wait_for_flows_of(&[Family::V4], &["10.0.0.1"]).await;
    let mut none = world.wait_for_flows_of(&[Family::V4], &[]).await;
    (&mut none).await.expect("an answer, because no flow matters to it");
    for waiting in [&mut one, &mut two, &mut three] {
        assert!(waiting.try_recv().is_err());
    }
    urgent.send(()).expect("it waits");
    for waiting in [&mut one, &mut two, &mut three] {
        waiting.await.expect("an answer");
    }
    assert_eq!(world.scopes()[2..], [of(&["10.0.0.1", "10.0.0.3"])]);
    assert_eq!(world.left(), [], "they are cut before the answers");
    all.send(()).expect("it waits");
    world.calls([Apply, Cut, Cut, Cut]).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_ready_file_counts_changes_whose_flows_are_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    let mut world = World::new(Settings { ready_file: Some(ready.clone()), ..settings() }, 0, vec![network()]);
    let read = || fs::read_to_string(&ready).ok();
    let first = world.stop_next_sweep();
    world.send(Input::Objects(objects(&["10.0.0.1"]))).await;
    world.calls([Probe, Read, Apply, Hooked]).await;
    world.begun(1).await;
    assert_eq!(read(), None, "it is not ready before it has judged the flows that it found");
    first.send(()).expect("it waits");
    world.calls([Cut]).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(read().as_deref(), Some("1\n"));
    let second = world.stop_next_sweep();
    world.send(Input::Objects(objects(&["10.0.0.1", "10.0.0.2"]))).await;
    world.calls([Apply]).await;
    world.begun(2).await;
    assert_eq!(read().as_deref(), Some("1\n"));
    second.send(()).expect("it waits");
    world.calls([Cut]).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(read().as_deref(), Some("2\n"));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_fails_is_tried_again_and_the_agent_is_unready_meanwhile() {
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    let mut world = World::new(Settings { ready_file: Some(ready.clone()), ..settings() }, 0, vec![network()]);
    world.send(Input::Objects(objects(&["10.0.0.1"]))).await;
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(ready.exists());
    world.memory.lock().expect("no thread panicked").uncut = 8;
    world.flows(&flows(&["10.0.0.2"]));
    world.send(Input::Objects(objects(&["10.0.0.1", "10.0.0.2"]))).await;
    let mut waiting = world.wait_for_flows_of(&[Family::V4], &["10.0.0.2"]).await;
    world.calls([Apply]).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(ready.exists() && waiting.try_recv().is_err());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!ready.exists() && waiting.try_recv().is_err());
    // A pass that goes well says nothing of flows.
    world.send(network()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!ready.exists());
    (&mut waiting).await.expect("an answer");
    assert_eq!(world.left(), []);
    world.cut_between_audits().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(ready.exists());
    assert!(world.scopes().len() < 14, "{} sweeps", world.scopes().len());
}

#[tokio::test(start_paused = true)]
async fn after_a_first_pass_that_failed_no_flow_counts_as_judged() {
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    let mut world = World::new(Settings { ready_file: Some(ready.clone()), ..settings() }, 1, vec![network()]);
    let sweep = world.stop_next_sweep();
    world.send(Input::Objects(objects(&["10.0.0.1"]))).await;
    // A later pass goes well, and its sweep stands. The clock does not go on by itself
    // meanwhile, because the thread of the sweep is no task.
    while world.scopes().is_empty() {
        tokio::time::advance(Duration::from_millis(50)).await;
    }
    for _ in 0..100 {
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(world.ingress().len(), 1);
    assert!(!ready.exists(), "it has not judged the flows that it found");
    sweep.send(()).expect("it waits");
    while !ready.exists() {
        tokio::time::advance(Duration::from_millis(1)).await;
    }
}

/// What waits for an address, whether its sandbox is new, and whether it waits still.
#[tokio::test(start_paused = true)]
async fn flows_go_without_a_verdict_only_where_all_that_waits_is_of_new_sandboxes() {
    let mut world = World::new(settings(), 0, vec![network()]);
    world.send(Input::Objects(objects(&["10.0.0.9"]))).await;
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    let go_on = world.stop_next_sweep();
    let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.9"];
    world.send(Input::Objects(objects(&addresses))).await;
    world.calls([Apply]).await;
    world.begun(2).await;
    let all = [("10.0.0.1", true), ("10.0.0.2", false), ("10.0.0.3", true), ("10.0.0.3", false), ("10.0.0.4", true)];
    let mut waiting = Vec::new();
    let waiters = all.map(|(address, is_new)| {
        let (reply, answered) = oneshot::channel();
        waiting.push(answered);
        let addresses = [address.parse().expect("an address")].into();
        Waiter { families: [Family::V4].into(), addresses, is_new, reply }
    });
    // The plugin gave up, and the pod may run without its answer.
    drop(waiting.pop());
    world.events.send(Event::Waiters(waiters.into())).await.expect("the agent listens");
    for answered in waiting {
        answered.await.expect("an answer");
    }
    let new = world.memory.lock().expect("no thread panicked").new.clone();
    let one: BTreeSet<IpAddr> = ["10.0.0.1".parse().expect("an address")].into();
    assert_eq!(new.into_iter().filter(|new| !new.is_empty()).collect::<Vec<_>>(), [one]);
    go_on.send(()).expect("it waits");
}
