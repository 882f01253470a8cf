//! What is kept for pods that may come back has bounds, in time and in number.

use std::collections::BTreeSet;

use npc_compiler::ruleset::node::ChainName;
use serde_json::json;
use tokio::time;

use super::*;

/// Policies that each isolate the pods with one label.
fn policies_by_bit() -> Vec<NetworkPolicy> {
    let of_bit = |bit| {
        let mut policy = networking::v1::NetworkPolicy::default();
        policy.metadata.name = Some(format!("np-{bit}"));
        let spec = json!({"podSelector": {"matchLabels": {format!("bit-{bit}"): "yes"}}});
        policy.spec = Some(serde_json::from_value(spec).expect("a spec"));
        NetworkPolicy::from(policy)
    };
    (0..10).map(of_bit).collect()
}

/// A pod that the policies of these bits isolate, which is a group of its own.
fn of_bits(number: u32) -> Objects {
    let labels = (0..10).filter(|bit| number >> bit & 1 == 1).map(|bit| (format!("bit-{bit}"), "yes".to_owned()));
    let mut objects = objects(&["10.0.0.1"]);
    objects.pods[0].labels = labels.collect();
    objects.policies = policies_by_bit();
    objects
}

impl World {
    fn group_chains(&self) -> BTreeSet<ChainName> {
        let memory = self.memory.lock().expect("no thread panicked");
        let chains = memory.state.v4.chains.keys();
        chains.filter(|chain| chain.direction_of_group().is_some()).cloned().collect()
    }
}

#[tokio::test(start_paused = true)]
async fn empty_groups_expire_while_changes_come_without_a_pause() {
    let mut world = World::new(settings(), 0, vec![network(), Input::Objects(of_bits(1))]);
    for number in 2..10 {
        world.send(Input::Objects(of_bits(number))).await;
        time::sleep(Duration::from_millis(100)).await;
    }
    let early = world.group_chains();
    assert!(early.len() >= 8, "they are retained: {early:?}");
    // Ten changes a second, between two other groups.
    for number in 0..2_500 {
        world.send(Input::Objects(of_bits(512 + number % 2))).await;
        time::sleep(Duration::from_millis(100)).await;
    }
    let late = world.group_chains();
    assert!(late.is_disjoint(&early), "{late:?}");
    world.agent.abort();
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_labels_flip_has_a_bounded_number_of_groups() {
    let mut world = World::new(settings(), 0, vec![network(), Input::Objects(of_bits(1))]);
    let mut most = 0;
    for number in 2..1_000 {
        world.send(Input::Objects(of_bits(number))).await;
        time::sleep(Duration::from_millis(100)).await;
        most = most.max(world.group_chains().len());
    }
    assert_eq!(most, 17, "the pod's group and those that are retained");
    world.agent.abort();
}
