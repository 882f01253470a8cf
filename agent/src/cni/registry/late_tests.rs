//! ADDs of plugins that outlived their runtime, and what the next agent does with the others.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use npc_cni::note;
use npc_cni::protocol::HostInterface;

use super::tests_world::{World, add, attachment, came, pod};
use super::*;
use crate::cni::asking::PATIENCE;
use crate::cni::start::{BIND_RETRY, Options, start};
use crate::source::AskError;
use crate::status::{AgentStatus, SharedStatus};

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

/// An API server with too much to do refuses some requests (429), and takes the next.
#[tokio::test(start_paused = true)]
async fn policies_are_asked_for_again_while_the_api_server_cannot_answer() {
    let (mut world, web) = World::with_web(true).await;
    let begun = Instant::now();
    let _answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    for _ in 0..3 {
        world.list_later().await.1.send(Err(AskError::Passing("busy".to_owned()))).unwrap();
    }
    let (_, list) = world.list_later().await;
    assert!(world.is_silent(), "nothing before the list");
    assert!((Duration::from_millis(300)..Duration::from_millis(1_500)).contains(&begun.elapsed()));
    list.send(Ok(vec![super::tests_world::policy("deny", 7)])).unwrap();
    let Event::Changes(changes) = world.next().await else { panic!("no changes") };
    let kinds: Vec<_> = changes.changes.iter().map(|change| std::mem::discriminant(&change.event)).collect();
    assert_eq!(kinds.len(), 2, "the policy goes with the pod");
    world.waiter().await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_cannot_answer_delays_an_add_by_two_seconds_and_one_that_refuses_does_not() {
    for (error, least, most) in [
        (AskError::Passing("busy".to_owned()), PATIENCE, PATIENCE * 2),
        (AskError::Refused("forbidden".to_owned()), Duration::ZERO, Duration::from_millis(100)),
    ] {
        let (mut world, web) = World::with_web(true).await;
        let begun = Instant::now();
        let _answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
        let failing = world.fail_all(error.clone());
        let pods = tokio::select! {
            pods = world.pods() => pods,
            () = failing => panic!("it does not end"),
        };
        assert_eq!(pods.len(), 1, "an API server that is away keeps no pod from starting");
        assert!((least..most).contains(&begun.elapsed()), "{error:?}: {:?}", begun.elapsed());
        world.waiter().await;
    }
}

/// A static pod whose manifest gives it a UID has no hash for one.
#[tokio::test(start_paused = true)]
async fn a_static_pod_is_known_by_a_uid_without_dashes() {
    for uid in ["5f0b0d1ea9a7f1d9c8f7a6b5c4d3e2f1", "etcd0", "c0ffee"] {
        let mut world = World::new(false);
        world.objects(vec![]).await;
        world.pods().await;
        let _answer = world.ask(Command::Add(add("c1", &pod("etcd-n1", uid), "10.0.0.1"))).await;
        assert_eq!(world.pods().await.len(), 1, "{uid}: isolated without its object");
        world.waiter().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_cannot_be_made_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.pid");
    std::fs::write(&other, "7").unwrap();
    let socket = folder.path().join("cni.sock");
    let (sender, mut agent) = mpsc::channel(64);
    let status = SharedStatus::new(AgentStatus::new("n1", "cluster"));
    let (metrics, kept) = (Cni::default(), status.clone());
    let options = Options { socket: socket.clone(), node: "n1".to_owned(), ask: None, metrics, status: kept };
    let source = start(options, sender);
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(status.now().cni_served, Some(false));
    assert!(!socket.exists());
    // What the plugin leaves in a note meanwhile counts.
    let web = pod("web", "u1");
    let request = npc_cni::protocol::Request::new(Command::Add(add("c1", &web, "10.0.0.1")));
    note::leave(&socket, &attachment("c1"), &request).unwrap();
    let changes = Changes { changes: vec![Change::now(came(&web))], ..Changes::default() };
    source.send(Event::Changes(changes)).await.unwrap();
    let addresses = async {
        loop {
            let Event::Changes(changes) = agent.recv().await.unwrap() else { continue };
            let pods = changes.changes.into_iter().filter_map(|change| match change.event {
                engine::Event::Pod(pod) => pod.ipv4,
                _ => None,
            });
            if let Some(address) = pods.max() {
                break address;
            }
        }
    };
    assert_eq!(addresses.await, std::net::Ipv4Addr::new(10, 0, 0, 1));
    std::fs::remove_file(&other).unwrap();
    time::sleep(BIND_RETRY).await;
    assert_eq!(status.now().cni_served, Some(true));
    assert!(socket.exists());
}
