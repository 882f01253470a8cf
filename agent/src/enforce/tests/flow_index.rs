//! When a sweep asks the kernel's index, and when the index is renewed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::object::Node;
use npc_compiler::plan::conntrack::FlowScope;
use tokio::sync::oneshot;

use super::super::Waiter;
use super::*;
use crate::dataplane::flow_index::{Forget, RenewalRequest};

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|text| text.parse().expect("an address")).collect()
}

/// The objects, and the Node with the network of its pods.
fn on_node(addresses: &[&str]) -> Input {
    let pod_cidrs = vec!["10.0.0.0/24".parse().expect("a network")];
    let node = Node { name: "node-1".to_owned(), addresses: Vec::new(), pod_cidrs };
    Input::Objects(Objects { nodes: vec![node], ..objects(addresses) })
}

impl World {
    /// These addresses have no flow, by the index.
    fn free(&self, addresses: &[&str]) {
        self.memory.lock().expect("no thread panicked").index = Some(set(addresses));
    }

    /// A pod with these addresses comes, and its ADD waits.
    async fn add(&mut self, objects: Input, addresses: &[&str]) -> oneshot::Receiver<()> {
        self.send(objects).await;
        let (reply, answered) = oneshot::channel();
        let waiter = Waiter { families: Family::ALL.into(), addresses: set(addresses), is_new: true, reply };
        self.events.send(Event::Waiters(vec![waiter])).await.expect("the agent listens");
        answered
    }

    fn sweeps(&self) -> Vec<(FlowScope, Option<Forget>)> {
        let memory = self.memory.lock().expect("no thread panicked");
        let forget = |renewal: &Option<RenewalRequest>| renewal.as_ref().map(|renewal| renewal.forget.clone());
        memory.scopes.iter().cloned().zip(memory.renewals.iter().map(forget)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn flows_of_an_address_that_is_not_in_the_index_are_not_looked_for() {
    let queued = vec![network(), on_node(&["10.0.0.1"])];
    let mut world = World::with_flow_index(layout::RulesetOptions::default(), queued);
    world.free(&["10.0.0.2", "10.0.0.3"]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    let first = (FlowScope::All, Some(Forget::AllBut(set(&["10.0.0.1"]))));
    assert_eq!(world.sweeps(), std::slice::from_ref(&first));
    // One that the index does not have shows that none is looked for.
    world.flows(&[flow("10.0.0.2")]);
    let answered = world.add(on_node(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]), &["10.0.0.2", "10.0.0.3"]).await;
    world.calls([Apply, Cut]).await;
    answered.await.expect("an answer");
    assert_eq!(world.left(), [flow("10.0.0.2")]);
    // No other sweep comes, and no renewal.
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(world.sweeps(), [first, (FlowScope::Of(set(&["10.0.0.2", "10.0.0.3"])), None)]);
    assert_eq!(world.memory.lock().expect("no thread panicked").epochs, [1]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_address_in_the_index_waits_for_its_sweep_and_then_the_index_is_renewed() {
    let queued = vec![network(), on_node(&["10.0.0.1"])];
    let mut world = World::with_flow_index(layout::RulesetOptions::default(), queued);
    world.free(&["10.0.0.2"]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    let begun = Instant::now();
    world.flows(&[flow("10.0.0.3")]);
    // Of a pod with two addresses one is in it.
    let all = on_node(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let answered = world.add(all, &["10.0.0.2", "10.0.0.3"]).await;
    world.calls([Apply]).await;
    answered.await.expect("an answer");
    assert_eq!(world.left(), [], "it was cut before the answer");
    world.calls([Cut]).await;
    world.cut_between_audits().await;
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    let sweeps = world.sweeps();
    assert_eq!(sweeps[1], (FlowScope::Of(set(&["10.0.0.2", "10.0.0.3"])), None));
    let owned = set(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(sweeps[2..], [(FlowScope::default(), Some(Forget::AllBut(owned)))]);
    // None comes but where another ADD needs it.
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(world.sweeps().len(), 3);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_departed_address_is_forgotten_by_the_sweep_that_cuts_its_flows() {
    let queued = vec![network(), on_node(&["10.0.0.1", "10.0.0.2"])];
    let mut world = World::with_flow_index(layout::RulesetOptions::default(), queued);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    world.send(on_node(&["10.0.0.1"])).await;
    world.calls([Apply]).await;
    world.cut_between_audits().await;
    let gone = set(&["10.0.0.2"]);
    assert_eq!(world.sweeps()[1..], [(FlowScope::Of(gone.clone()), Some(Forget::Only(gone)))]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn where_flows_are_kept_a_new_sandboxs_are_asked_for_all_the_same() {
    let options = layout::RulesetOptions { keep_established: true, ..layout::RulesetOptions::default() };
    let mut world = World::with_flow_index(options, vec![network(), on_node(&["10.0.0.1"])]);
    world.free(&["10.0.0.2"]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    assert_eq!(world.sweeps(), [(FlowScope::default(), Some(Forget::AllBut(set(&["10.0.0.1"]))))]);
    let answered = world.add(on_node(&["10.0.0.1", "10.0.0.2"]), &["10.0.0.2"]).await;
    world.calls([Apply, Cut]).await;
    answered.await.expect("an answer");
    let answered = world.add(on_node(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]), &["10.0.0.3"]).await;
    world.calls([Apply, Cut]).await;
    answered.await.expect("an answer");
    let of = |address| (FlowScope::Of(set(&[address])), None);
    assert_eq!(world.sweeps()[1..], [of("10.0.0.2"), of("10.0.0.3")]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_network_of_pods_or_an_index_in_the_kernel_all_is_as_before() {
    let begin = |objects: Input| World::with_flow_index(layout::RulesetOptions::default(), vec![network(), objects]);
    let mut world = begin(Input::Objects(objects(&["10.0.0.1"])));
    world.free(&["10.0.0.2"]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    let answered = world.add(Input::Objects(objects(&["10.0.0.1", "10.0.0.2"])), &["10.0.0.2"]).await;
    world.calls([Apply, Cut]).await;
    answered.await.expect("an answer");
    let two = FlowScope::Of(set(&["10.0.0.2"]));
    assert_eq!(world.sweeps(), [(FlowScope::All, None), (two.clone(), None)]);
    world.end().await;

    let mut world = begin(on_node(&["10.0.0.1"]));
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    let answered = world.add(on_node(&["10.0.0.1", "10.0.0.2"]), &["10.0.0.2"]).await;
    world.calls([Apply, Cut]).await;
    answered.await.expect("an answer");
    assert_eq!(world.sweeps()[1..], [(two, None)]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_refuses_the_index_is_asked_once_and_the_table_of_before_is_removed() {
    let mut world = World::with_flow_index(layout::RulesetOptions::default(), vec![network(), on_node(&["10.0.0.1"])]);
    {
        let mut memory = world.memory.lock().expect("no thread panicked");
        (memory.lacks_index, memory.index_removals) = (true, Some(1));
    }
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    assert_eq!(world.memory.lock().expect("no thread panicked").index_removals, Some(1), "it is kept");
    // The clock moves on once the agent has nothing left to do, so it has learnt what came of the sweep.
    tokio::time::sleep(Duration::from_millis(1)).await;
    for addresses in [&["10.0.0.1", "10.0.0.2"][..], &["10.0.0.1", "10.0.0.2", "10.0.0.3"]] {
        let new = *addresses.last().expect("some");
        let answered = world.add(on_node(addresses), &[new]).await;
        world.calls([Apply, Cut]).await;
        answered.await.expect("an answer");
        assert_eq!(world.sweeps().last(), Some(&(FlowScope::Of(set(&[new])), None)), "no renewal");
    }
    assert_eq!(world.memory.lock().expect("no thread panicked").epochs, [0; 0], "and no question");
    // The first pass without an index could not remove the table; the second did.
    assert_eq!(world.memory.lock().expect("no thread panicked").index_removals, None);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_networks_of_pods_come_from_the_watch_of_the_node() {
    let nets = |cidrs: &[&str]| {
        let pod_cidrs = cidrs.iter().map(|text| text.parse().expect("a network")).collect();
        let node = Node { name: "node-1".to_owned(), addresses: Vec::new(), pod_cidrs };
        Input::Objects(Objects { nodes: vec![node], ..objects(&["10.0.0.1"]) })
    };
    let domains = |world: &World| -> Vec<Vec<String>> {
        let memory = world.memory.lock().expect("no thread panicked");
        let text = |renewal: &RenewalRequest| renewal.domain.iter().map(ToString::to_string).collect();
        memory.renewals.iter().flatten().map(text).collect()
    };
    // A Node gets its networks after it registered.
    let mut world = World::with_flow_index(layout::RulesetOptions::default(), vec![network(), nets(&[])]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    assert_eq!(domains(&world), [[""; 0]; 0]);
    world.send(nets(&["10.0.0.0/24"])).await;
    world.cut_between_audits().await;
    assert_eq!(domains(&world), [vec!["10.0.0.0/24"]]);
    world.send(nets(&["10.0.0.0/24", "fd00::/64"])).await;
    world.cut_between_audits().await;
    assert_eq!(domains(&world)[1..], [vec!["10.0.0.0/24", "fd00::/64"]]);
    world.end().await;
}
