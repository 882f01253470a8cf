//! Flows of addresses that go from one pod to the next.

use super::*;

#[tokio::test(start_paused = true)]
async fn flows_of_an_address_that_changes_its_owner_are_judged_by_the_new_ones_rules() {
    let mut world = World::new(settings(), 0, vec![network()]);
    let (one, elsewhere) = (flow("10.0.0.1"), flow("10.0.0.9"));
    let isolated = objects(&["10.0.0.1"]);
    let in_place_of_it = |finished: bool, namespace: &str, uid: &str| {
        let mut objects = isolated.clone();
        objects.pods[0].finished = true;
        let next = Pod {
            finished,
            namespace: namespace.to_owned(),
            name: uid.to_owned(),
            uid: uid.to_owned(),
            ..objects.pods[0].clone()
        };
        objects.pods.push(next);
        objects.declare_namespaces();
        objects
    };
    world.send(Input::Objects(in_place_of_it(false, "free", "a"))).await;
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    world.flows(&[one, elsewhere]);
    // Another pod that no policy isolates: its allowed flows go on, whether it or the other end began them.
    world.send(Input::Objects(in_place_of_it(false, "free", "b"))).await;
    // The agent learns late of the next one: the address is of no pod for a while.
    world.send(Input::Objects(in_place_of_it(true, "free", "b"))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.calls.is_empty());
    world.send(Input::Objects(in_place_of_it(false, "free", "c"))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.calls.is_empty());
    assert_eq!(world.left(), [one, elsewhere]);
    // One that is isolated.
    world.send(Input::Objects(in_place_of_it(false, "default", "d"))).await;
    world.calls([Apply, Cut]).await;
    assert_eq!(world.left(), [elsewhere]);
    // And after a while without an owner.
    world.send(Input::Objects(in_place_of_it(true, "default", "d"))).await;
    world.calls([Apply, Cut]).await;
    world.flows(&[one]);
    world.send(Input::Objects(in_place_of_it(false, "default", "e"))).await;
    world.calls([Apply, Cut]).await;
    assert_eq!(world.left(), [elsewhere]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn flows_of_an_address_that_went_to_another_node_are_let_be() {
    let mut world = World::new(settings(), 0, vec![network()]);
    let mut objects = objects(&["10.0.0.1", "10.0.0.2"]);
    objects.policies.clear();
    world.send(Input::Objects(objects.clone())).await;
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    let kept = FlowKey { source: "10.0.0.2".parse().expect("an address"), ..flow("10.0.0.1") };
    world.flows(&[kept]);
    objects.pods[0].node = Some("node-2".to_owned());
    objects.pods[0].uid = "elsewhere".to_owned();
    world.send(Input::Objects(objects)).await;
    // Longer than an address is vacant before its flows are those of a pod that went.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.left(), [kept]);
    // Nothing but audits has happened since.
    world.end().await;
}
