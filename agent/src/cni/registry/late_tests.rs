//! ADDs of plugins that outlived their runtime, and what the next agent does with the others.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use npc_cni::note;
use npc_cni::protocol::HostInterface;

use super::tests_world::{World, add, attachment, came, pod};
use super::*;

/// An index that no interface of this machine has.
const NO_LINK: u32 = 0x7fff_fff0;

fn refusal(answer: Answer) -> (Reason, String) {
    let refusal = answer.error.unwrap();
    (refusal.kind, refusal.message)
}

/// The runtime was started again, and removed the sandbox of a plugin that still waits.
#[tokio::test(start_paused = true)]
async fn an_add_whose_interface_is_gone_is_refused_and_takes_no_address() {
    let (mut world, web) = World::with_web(false).await;
    let free = pod("free", "u2");
    world.objects(vec![came(&free)]).await;
    world.pods().await;
    let _answer = world.ask(Command::Add(add("c2", &web, "10.0.0.1"))).await;
    assert_eq!(world.pods().await, [("web".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
    world.waiter().await.reply.send(()).unwrap();
    let link = HostInterface { name: "veth1".to_owned(), index: NO_LINK };
    let late = Add { host_interface: Some(link), ..add("c1", &free, "10.0.0.1") };
    let (kind, message) = refusal(world.ask(Command::Add(late.clone())).await.await.unwrap());
    assert_eq!(kind, Reason::Gone);
    assert!(message.contains("veth1"), "{message}");
    // The same of one that the plugin let start.
    world.leave_note(Command::Add(late));
    time::sleep(ROUND * 3).await;
    assert!(note::read_all(&world.socket()).unwrap().is_empty());
    assert!(world.is_silent());
}

/// Of a macvlan no interface shows that the sandbox has ended.
#[tokio::test(start_paused = true)]
async fn an_address_is_of_the_sandbox_whose_add_began_last() {
    let (mut world, web) = World::with_web(false).await;
    let free = pod("free", "u2");
    world.objects(vec![came(&free)]).await;
    world.pods().await;
    let _answer = world.ask(Command::Add(add("c2", &web, "10.0.0.1"))).await;
    world.pods().await;
    world.waiter().await.reply.send(()).unwrap();
    let late = Add { waited: 20_000, ..add("c1", &free, "10.0.0.1") };
    let answer = world.ask(Command::Add(late.clone())).await;
    // There is nothing to write.
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
    // Nor for the agent that follows.
    let mut next = World::within(false, world.folder);
    next.objects(vec![came(&web), came(&free)]).await;
    let owned = |name: &str, address: &str| (name.to_owned(), vec![address.parse().unwrap()]);
    let none = ("free".to_owned(), vec![]);
    let mut pods = next.pods().await;
    pods.sort();
    assert_eq!(pods, [none, owned("web", "10.0.0.1")]);
    let _answer = next.ask(Command::Add(late)).await;
    next.waiter().await;
    // It is the next owner's once that begins.
    let _answer = next.ask(Command::Add(add("c3", &free, "10.0.0.1"))).await;
    let mut pods = next.pods().await;
    pods.sort();
    assert_eq!(pods, [owned("free", "10.0.0.1"), ("web".to_owned(), vec![])]);
}

/// Its runtime forgot it, and the one after that made the pod another sandbox.
#[tokio::test(start_paused = true)]
async fn an_add_of_a_pod_that_has_a_later_sandbox_is_refused() {
    let (mut world, web) = World::with_web(false).await;
    let _answer = world.ask(Command::Add(add("c2", &web, "10.0.0.2"))).await;
    assert_eq!(world.pods().await, [("web".to_owned(), vec!["10.0.0.2".parse().unwrap()])]);
    world.waiter().await.reply.send(()).unwrap();
    let late = Add { waited: 20_000, ..add("c1", &web, "10.0.0.1") };
    let (kind, message) = refusal(world.ask(Command::Add(late)).await.await.unwrap());
    assert_eq!(kind, Reason::Gone);
    assert!(message.contains("another sandbox"), "{message}");
    // Nothing shows that its address is gone.
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    assert_eq!(world.pods().await, [(address.to_string(), vec![address])]);
}

#[tokio::test(start_paused = true)]
async fn a_del_ends_the_add_that_waits_and_each_later_try_of_it() {
    let mut world = World::new(false);
    let web = pod("web", "u1");
    let waiting = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    let deleted = world.ask(Command::Delete { attachment: attachment("c1") }).await;
    assert_eq!(deleted.await.unwrap(), Answer::done());
    assert_eq!(refusal(waiting.await.unwrap()).0, Reason::Gone);
    world.objects(vec![came(&web)]).await;
    world.pods().await;
    let again = world.ask(Command::Add(Add { waited: 3_000, ..add("c1", &web, "10.0.0.1") })).await;
    assert_eq!(refusal(again.await.unwrap()).0, Reason::Gone);
    assert!(world.is_silent());
    // The specification lets a runtime add the same attachment anew.
    let new = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    assert_eq!(world.pods().await, [("web".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(new.await.unwrap(), Answer::done());
}

/// The plugin leaves a note where the agent answers no DEL in time.
#[tokio::test(start_paused = true)]
async fn a_note_of_a_del_ends_the_add_that_waits_and_each_later_try_of_it() {
    let mut world = World::new(false);
    let web = pod("web", "u1");
    let waiting = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    world.leave_note(Command::Delete { attachment: attachment("c1") });
    assert_eq!(refusal(waiting.await.unwrap()).0, Reason::Gone);
    world.objects(vec![came(&web)]).await;
    world.pods().await;
    let again = world.ask(Command::Add(Add { waited: 3_000, ..add("c1", &web, "10.0.0.1") })).await;
    assert_eq!(refusal(again.await.unwrap()).0, Reason::Gone);
    assert!(world.is_silent());
}

/// The specification lets a runtime add the same attachment anew after its DEL.
#[tokio::test(start_paused = true)]
async fn a_note_of_a_del_ends_no_sandbox_whose_add_began_later() {
    let (mut world, web) = World::with_web(false).await;
    world.leave_note(Command::Delete { attachment: attachment("c1") });
    // It comes before the round that reads the note.
    let answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    assert_eq!(world.pods().await, [("web".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
    time::sleep(ROUND * 3).await;
    assert!(note::read_all(&world.socket()).unwrap().is_empty());
    assert!(world.is_silent());
    // One that is left now ends it.
    world.leave_note(Command::Delete { attachment: attachment("c1") });
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    assert_eq!(world.pods().await, [("web".to_owned(), vec![]), (address.to_string(), vec![address])]);
}

/// If the agent ended within an ADD, no process of the pod has run: the flows that its address has
/// are another's.
#[tokio::test(start_paused = true)]
async fn a_sandbox_is_new_until_the_plugin_has_its_answer() {
    let (mut world, web) = World::with_web(false).await;
    let unanswered = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    world.pods().await;
    assert!(world.waiter().await.is_new);
    drop(unanswered);
    let mut next = World::within(false, world.folder);
    next.objects(vec![came(&web)]).await;
    next.pods().await;
    let answer = next.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    let waiter = next.waiter().await;
    assert!(waiter.is_new, "the agent before had it saved, and did not answer");
    waiter.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
    // The next round saves that.
    time::sleep(ROUND * 2).await;
    let mut last = World::within(false, next.folder);
    last.objects(vec![came(&web)]).await;
    last.pods().await;
    let _answer = last.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    assert!(!last.waiter().await.is_new);
}
