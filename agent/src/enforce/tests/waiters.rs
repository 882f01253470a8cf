//! What waits until its events are in the kernel is answered then, and not before.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::super::Waiter;
use super::faults::Fault;
use super::kernel::{Memory, refused};
use super::*;
use crate::dataplane::{self, Failures};

impl World {
    async fn wait_for(&self, families: &[Family]) -> oneshot::Receiver<()> {
        self.wait_for_flows_of(families, &[]).await
    }

    pub(super) async fn wait_for_flows_of(&self, families: &[Family], addresses: &[&str]) -> oneshot::Receiver<()> {
        let (reply, answered) = oneshot::channel();
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        let waiter = Waiter { families: families.iter().copied().collect(), addresses, is_new: false, reply };
        self.events.send(Event::Waiters(vec![waiter])).await.expect("the agent listens");
        answered
    }

    async fn check(&self) -> oneshot::Receiver<bool> {
        let (reply, answered) = oneshot::channel();
        self.events.send(Event::Check(reply)).await.expect("the agent listens");
        answered
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_answered_when_the_kernel_holds_what_came_before_it() {
    let mut world = World::new(settings(), 3, vec![network(), Input::Objects(objects(&[]))]);
    world.send(Input::Objects(objects(&["10.0.0.1"]))).await;
    let answered = world.wait_for(&[Family::V4]).await;
    answered.await.expect("an answer, after three refusals");
    assert_eq!(world.ingress(), ["10.0.0.1"]);
    // One that has nothing to wait for is answered as well.
    world.wait_for(&Family::ALL).await.await.expect("an answer");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_waits_for_the_whole_cluster() {
    let mut world = World::new(settings(), 0, vec![network()]);
    let mut answered = world.wait_for(&[Family::V4]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(answered.try_recv().is_err());
    world.send(Input::Objects(objects(&["10.0.0.1"]))).await;
    answered.await.expect("an answer");
}

#[tokio::test(start_paused = true)]
async fn what_fails_in_one_family_keeps_no_waiter_of_the_other() {
    let world = World::new(settings(), 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.wait_for(&[Family::V4]).await.await.expect("an answer");
    let mut waiters = super::super::waiters::Waiters::default();
    let mut failed = Failures::default();
    failed.add(Family::V6, refused());
    let mut waiting = Vec::new();
    let mut waiter = |families: &[Family]| {
        let (reply, answer) = oneshot::channel();
        waiting.push(answer);
        Waiter { families: families.iter().copied().collect(), addresses: BTreeSet::new(), is_new: false, reply }
    };
    waiters.add(waiter(&[Family::V4]));
    waiters.add(waiter(&Family::ALL));
    let answered: Vec<_> = waiters
        .failed(&dataplane::Error::Families(failed), &BTreeSet::new(), 0, |_, _| false)
        .into_iter()
        .map(|waiter| waiter.families)
        .collect();
    assert_eq!(answered, [[Family::V4].into()]);
    // What fails in both, or before it is known in which, answers none.
    assert!(waiters.failed(&refused(), &BTreeSet::new(), 0, |_, _| false).is_empty());
    let answered: Vec<_> = waiters.passed(0, |_, _| false).into_iter().map(|waiter| waiter.families).collect();
    assert_eq!(answered, [Family::ALL.into()]);
}

#[tokio::test(start_paused = true)]
async fn a_check_reads_the_kernel_and_finds_what_is_missing() {
    let world = World::new(settings(), 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    assert!(world.check().await.await.expect("an answer"), "after the first pass");
    Fault::FlushSets.befall(&mut world.memory.lock().expect("no thread panicked"));
    assert!(!world.check().await.await.expect("an answer"), "the sets were flushed");
    assert!(world.check().await.await.expect("an answer"), "they were put back");
}

#[tokio::test(start_paused = true)]
async fn a_check_whose_audit_was_slow_is_answered_by_what_it_found() {
    let world = World::new(settings(), 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    assert!(world.check().await.await.expect("an answer"), "after the first pass");
    let (end, slow) = std::sync::mpsc::channel();
    world.memory.lock().expect("no thread panicked").slow_audit = Some(slow);
    let answered = world.check().await;
    // Longer than what makes an agent doubt that it is ready. Time stands still while the
    // kernel is being read.
    for _ in 0..110 {
        tokio::time::advance(Duration::from_millis(100)).await;
        std::thread::sleep(Duration::from_millis(1));
    }
    end.send(()).expect("the audit waits");
    assert!(answered.await.expect("an answer"), "the kernel held everything");
}

#[tokio::test(start_paused = true)]
async fn a_check_waits_while_the_kernel_cannot_be_read() {
    let world = World::new(settings(), 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    assert!(world.check().await.await.expect("an answer"), "after the first pass");
    world.memory.lock().expect("no thread panicked").is_blind = true;
    assert!(world.check().await.await.expect("an answer"), "no other program had changed anything");
}

/// A pod of the namespace shop.
fn of_shop(last: u8) -> Pod {
    Pod {
        node: Some("node-1".to_owned()),
        ipv4: Some([10, 0, 1, last].into()),
        ..Pod::from_template("shop".to_owned(), format!("shop-{last}"), Labels::new(), PodSpec::default())
    }
}

/// These pods, all isolated, and so many of the namespace shop, whose pods have this port open.
fn beside_shop(addresses: &[&str], port: u16, pods: u8) -> Objects {
    let policy = serde_json::json!({"metadata": {"namespace": "shop", "name": "port"},
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": port}]}]}});
    let policy: networking::v1::NetworkPolicy = serde_json::from_value(policy).expect("a policy");
    let mut objects = objects(addresses);
    objects.policies.push(policy.into());
    objects.pods.extend((1..=pods).map(of_shop));
    objects.declare_namespaces();
    objects
}

impl World {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().expect("no thread panicked")
    }

    /// Whether a waiter for this address is answered within ten seconds, which are several passes.
    async fn is_answered(&self, address: &str) -> bool {
        let answered = self.wait_for_flows_of(&[Family::V4], &[address]).await;
        tokio::time::timeout(Duration::from_secs(10), answered).await.is_ok_and(|answered| answered.is_ok())
    }
}

#[tokio::test(start_paused = true)]
async fn rules_of_others_that_wait_for_the_lock_keep_no_waiter_whose_own_are_there() {
    let before = beside_shop(&["10.0.0.1"], 80, 1);
    let mut world = World::new(settings(), 0, vec![network(), Input::Objects(before)]);
    world.wait_for(&[Family::V4]).await.await.expect("an answer");
    world.memory().locked = true;
    world.send(Input::Objects(beside_shop(&["10.0.0.1"], 81, 1))).await;
    world.flows(&[flow("10.0.0.2")]);
    world.send(Input::Objects(beside_shop(&["10.0.0.1", "10.0.0.2"], 81, 2))).await;
    assert!(world.is_answered("10.0.0.2").await, "its group was there");
    assert_eq!(world.ingress(), ["10.0.0.1", "10.0.0.2", "10.0.1.1"]);
    assert_eq!(world.left(), [], "a flow from before its rules");
    assert!(!world.is_answered("10.0.1.2").await, "its rules are to be written yet");
    // Another program removes the jump, and the kernel refuses to insert it again.
    world.memory().hooks = [Hook::Absent; 2];
    world.memory().unhookable = true;
    assert!(!world.is_answered("10.0.0.2").await, "no packet meets its rules");
    world.memory().unhookable = false;
    assert!(world.is_answered("10.0.0.2").await);
    // Or the sets.
    Fault::FlushSets.befall(&mut world.memory());
    let gone = world.wait_for_flows_of(&[Family::V4], &["10.0.0.2"]).await;
    gone.await.expect("an answer");
    assert!(world.ingress().contains(&"10.0.0.2".to_owned()), "not before its rules were back");
    world.memory().locked = false;
    assert!(world.is_answered("10.0.1.2").await, "all is written");
}

/// A pod of the namespace shop that no policy isolates, on another node.
fn remote(last: u8) -> Pod {
    Pod { node: Some("node-2".to_owned()), ..of_shop(last) }
}

/// A policy of the namespace shop that admits these peers.
fn admitting(name: &str, from: &serde_json::Value) -> NetworkPolicy {
    let policy = serde_json::json!({"metadata": {"namespace": "shop", "name": name},
        "spec": {"podSelector": {"matchLabels": {"app": name}}, "ingress": [{"from": from}]}});
    let policy: networking::v1::NetworkPolicy = serde_json::from_value(policy).expect("a policy");
    policy.into()
}

/// The kernel refuses what a namespace needs: a member of one of its sets, a new set, or all rules. A
/// pod of another namespace, whose group is in the kernel, is answered all the same, and none that needs
/// what is refused.
#[tokio::test(start_paused = true)]
async fn what_the_kernel_refuses_of_others_keeps_no_waiter_whose_own_part_is_there() {
    let cluster = |own: &[&str], remotes: u8, blocks: &[&str]| {
        let labelled = |mut pod: Pod, app: &str| {
            pod.labels.insert("app".to_owned(), app.to_owned());
            pod
        };
        let mut objects = objects(own);
        objects.pods.extend([labelled(of_shop(1), "peers"), labelled(of_shop(2), "blocks")]);
        objects.pods.extend((11..11 + remotes).map(|last| labelled(remote(last), "far")));
        let far = serde_json::json!([{"podSelector": {"matchLabels": {"app": "far"}}}]);
        let blocks: Vec<_> = blocks.iter().map(|cidr| serde_json::json!({"ipBlock": {"cidr": cidr}})).collect();
        objects.policies.extend([admitting("peers", &far), admitting("blocks", &blocks.into())]);
        objects.declare_namespaces();
        objects
    };
    let mut world = World::new(settings(), 0, vec![network(), Input::Objects(cluster(&["10.0.0.1"], 1, &[]))]);
    world.wait_for(&[Family::V4]).await.await.expect("an answer");
    // A member of a peer set.
    world.memory().refused_words = vec!["10.0.1.12"];
    world.send(Input::Objects(cluster(&["10.0.0.1", "10.0.0.2"], 2, &[]))).await;
    assert!(world.is_answered("10.0.0.2").await, "its group was there");
    assert!(world.ingress().contains(&"10.0.0.2".to_owned()));
    assert!(!world.is_answered("10.0.1.1").await, "a peer of it is refused");
    // A new set, beside it.
    world.memory().refused_words.push("hash:net");
    world.send(Input::Objects(cluster(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], 2, &["192.0.2.0/24"]))).await;
    assert!(world.is_answered("10.0.0.3").await, "its group was there");
    assert!(!world.is_answered("10.0.1.2").await, "a set of it is refused");
    // All rules.
    world.memory().refused_words.clear();
    world.memory().broken = Some(Family::V4);
    world.send(Input::Objects(cluster(&["10.0.0.1", "10.0.0.2", "10.0.0.4"], 2, &["192.0.2.0/24"]))).await;
    assert!(world.is_answered("10.0.0.4").await, "its group was there");
    assert!(world.is_answered("10.0.1.1").await, "its peer is not refused any more");
    assert!(!world.is_answered("10.0.1.2").await, "a rule of it is refused");
    // The set that every isolated pod is in.
    world.memory().refused_words = vec!["npc4-ingress"];
    world.send(Input::Objects(cluster(&["10.0.0.1", "10.0.0.5"], 2, &["192.0.2.0/24"]))).await;
    assert!(!world.is_answered("10.0.0.5").await, "it is not isolated");
    world.memory().refused_words.clear();
    world.memory().broken = None;
    assert!(world.is_answered("10.0.0.5").await && world.is_answered("10.0.1.2").await, "all is written");
}
