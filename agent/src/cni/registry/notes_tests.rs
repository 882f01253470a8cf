//! What the plugin leaves while no agent answers, and what cannot be saved for the next one.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use npc_cni::note;
use npc_cni::protocol::HostInterface;

use super::tests_world::{World, add, attachment, came, pod};
use super::*;

/// As many events as the loop's channel holds, so that the registry waits within its next round.
const AS_MANY_AS_THE_LOOP_TAKES: usize = 64;

/// A registry that has read the note about a sandbox and has not removed it yet, until the loop takes events.
async fn with_a_note_that_is_read() -> World {
    let (world, web) = World::with_web(false).await;
    // It has an interface, which stays: the loopback.
    let link = HostInterface { name: "lo".to_owned(), index: 1 };
    for _ in 0..AS_MANY_AS_THE_LOOP_TAKES {
        world.event(Event::PacketFilterChanged).await;
    }
    world.leave_note(Command::Add(Add { host_interface: Some(link), ..add("c1", &web, "10.0.0.1") }));
    time::sleep(ROUND * 2).await;
    world
}

/// The addresses in the next changes, after the events that held up the registry.
async fn next_pods(world: &mut World) -> Vec<(String, Vec<IpAddr>)> {
    loop {
        if let Event::Changes(changes) = world.next().await {
            return World::pods_of(changes);
        }
    }
}

async fn is_released_next(mut world: World) {
    assert_eq!(next_pods(&mut world).await, [("web".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    assert_eq!(next_pods(&mut world).await, [("web".to_owned(), vec![]), (address.to_string(), vec![address])]);
    time::sleep(ROUND * 2).await;
    assert!(note::read_all(&world.socket()).unwrap().is_empty());
}

/// The network gave the address of a sandbox that ended without a DEL to a pod that started without an agent.
#[tokio::test(start_paused = true)]
async fn the_address_of_a_pod_in_a_note_is_not_that_of_a_sandbox_that_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new] = [("old", "u1"), ("new", "u2")].map(|(name, uid)| pod(name, uid));
    let link = |name: &str, index: u32| Some(HostInterface { name: name.to_owned(), index });
    // No interface has the first index; the loopback has the other one.
    let before = Add { host_interface: link("gone", u32::MAX >> 2), ..add("c1", &old, "10.0.0.1") };
    let saved = serde_json::json!({"version": 1, "sandboxes": [before]});
    std::fs::write(folder.path().join(note::SANDBOXES), saved.to_string()).unwrap();
    let mut world = World::within(false, folder);
    world.leave_note(Command::Add(Add { host_interface: link("lo", 1), ..add("c2", &new, "10.0.0.1") }));
    world.objects(vec![came(&old), came(&new)]).await;
    let mut given = Vec::new();
    while !given.iter().any(|(name, addresses): &(String, Vec<IpAddr>)| name == "new" && !addresses.is_empty()) {
        given.extend(next_pods(&mut world).await);
    }
    assert!(given.iter().all(|(name, _)| name != "10.0.0.1"), "isolated as if both had it: {given:?}");
}

/// The plugin replaces the note of the ADD, which the agent has saved by now.
#[tokio::test(start_paused = true)]
async fn a_note_of_a_del_that_comes_while_that_of_its_add_is_read_counts() {
    let world = with_a_note_that_is_read().await;
    world.leave_note(Command::Delete { attachment: attachment("c1") });
    is_released_next(world).await;
}

/// The plugin removes the note of the ADD, because it finds no agent that has saved it.
#[tokio::test(start_paused = true)]
async fn a_del_that_removes_the_note_of_its_add_while_that_is_read_counts() {
    let world = with_a_note_that_is_read().await;
    let folder = note::folder(&world.socket());
    std::fs::remove_file(note::path(&folder, &attachment("c1"))).unwrap();
    is_released_next(world).await;
}

/// The agent had too much to do: the plugin of the DEL gave up, and the runtime added the same attachment anew.
#[tokio::test(start_paused = true)]
async fn a_del_removes_no_note_that_was_left_after_it() {
    let (mut world, web) = World::with_web(false).await;
    let received = Moment::now();
    let add = add("c1", &web, "10.0.0.1");
    time::sleep(ROUND / 2).await;
    // The clock of the node goes on while that of the test stands.
    while Moment::now() == received {
        tokio::task::yield_now().await;
    }
    world.leave_note(Command::Add(add));
    let deleted = world.ask_at(Command::Delete { attachment: attachment("c1") }, received).await;
    assert_eq!(deleted.await.unwrap(), Answer::done());
    assert_eq!(world.pods().await, [("web".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
}

/// As on a file system that is full: the name of the new file is taken by what cannot be removed.
#[tokio::test(start_paused = true)]
async fn a_pod_starts_though_nothing_can_be_saved_and_the_status_says_so() {
    let (mut world, web) = World::with_web(false).await;
    let obstacle = world.folder.path().join("sandboxes.half");
    std::fs::create_dir(&obstacle).unwrap();
    // Nor is there the room that the agent keeps.
    std::fs::remove_dir_all(note::folder(&world.socket())).unwrap();
    let answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    assert_eq!(world.pods().await.len(), 1);
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
    assert_eq!(world.status.now().cni_saved, Some(false));
    // The agent has it all the same: a DEL ends it.
    let deleted = world.ask(Command::Delete { attachment: attachment("c1") }).await;
    assert_eq!(deleted.await.unwrap(), Answer::done());
    assert_eq!(world.pods().await[0], ("web".to_owned(), vec![]));
    assert_eq!(world.status.now().cni_saved, Some(false));
    std::fs::remove_dir(&obstacle).unwrap();
    time::sleep(ROUND * 2).await;
    assert_eq!(world.status.now().cni_saved, Some(true));
}
