//! What the registry makes of requests, objects and lists of policies.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use npc_cni::note;
use npc_compiler::engine::PodKey;
use npc_compiler::object::{Family, Pod};

use super::tests_world::{World, add, attachment, came, pod};
use super::*;
use crate::cni::pending::MIRROR;
use crate::cni::start::{BIND_RETRY, CniOptions, start};
use crate::status::{AgentStatus, SharedStatus};
use crate::tasks::Tasks;

const HASH: &str = "5f0b0d1ea9a7f1d9c8f7a6b5c4d3e2f1";

/// As an API server makes them.
const UID: &str = "4be4a5f4-3d8a-4f4c-8cbb-1c9f7b4f8f10";

#[tokio::test(start_paused = true)]
async fn an_add_is_answered_when_the_rules_are_in_the_kernel() {
    let mut world = World::new(false);
    let web = pod("web", "u1");
    world.objects(vec![came(&web)]).await;
    assert_eq!(world.pods().await, [("web".to_owned(), vec![])]);
    let mut answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    assert_eq!(world.pods().await, [("web".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
    let waiter = world.waiter().await;
    assert_eq!(waiter.families, [Family::V4].into());
    assert!(answer.try_recv().is_err(), "nothing is in the kernel yet");
    waiter.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
}

#[tokio::test(start_paused = true)]
async fn an_add_waits_for_the_object_of_its_pod() {
    let mut world = World::new(false);
    let (old, new) = (pod("db-0", "u1"), pod("db-0", "u2"));
    world.objects(vec![came(&old)]).await;
    world.pods().await;
    let mut answer = world.ask(Command::Add(add("c2", &new, "10.0.0.2"))).await;
    world.objects(vec![engine::Event::PodGone(PodKey::of(&old))]).await;
    assert_eq!(world.pods().await, []);
    assert!(answer.try_recv().is_err() && world.is_silent());
    world.objects(vec![came(&new)]).await;
    world.pods().await;
    assert_eq!(world.pods().await, [("db-0".to_owned(), vec!["10.0.0.2".parse().unwrap()])]);
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
}

#[tokio::test(start_paused = true)]
async fn an_add_whose_pod_does_not_come_is_refused_before_the_plugin_gives_up() {
    let world = World::new(false);
    let begun = Instant::now();
    let answer = world.ask(Command::Add(add("c1", &pod("web", UID), "10.0.0.1"))).await.await.unwrap();
    let refusal = answer.error.unwrap();
    assert_eq!(refusal.kind, Reason::Timeout);
    assert!(refusal.message.contains("has not read this pod"), "{}", refusal.message);
    assert!(begun.elapsed() < Duration::from_secs(30));
    // So is one whose rules the kernel refuses.
    let (mut world, web) = World::with_web(false).await;
    let answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    world.pods().await;
    let _unanswered = world.waiter().await;
    assert_eq!(answer.await.unwrap().error.unwrap().kind, Reason::Timeout);
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_request_waited_for_its_turn_counts() {
    let world = World::new(false);
    let begun = Instant::now();
    // Its plugin waits for half a minute.
    let received = Moment::now().before(Duration::from_secs(20));
    let late = add("c1", &pod("web", UID), "10.0.0.1");
    let answer = world.ask_at(Command::Add(late), received).await.await.unwrap();
    assert_eq!(answer.error.unwrap().kind, Reason::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_starts_isolated_after_five_seconds() {
    let mut world = World::new(true);
    world.objects(vec![]).await;
    world.pods().await;
    let begun = Instant::now();
    let answer = world.ask(Command::Add(add("c1", &pod("etcd-n1", HASH), "10.0.0.1"))).await;
    let Event::Changes(changes) = world.next().await else { panic!("no changes") };
    assert!(begun.elapsed() >= MIRROR);
    let has_policy = changes.changes.iter().any(|change| matches!(change.event, engine::Event::Policy(_)));
    assert!(has_policy && changes.is_part);
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
}

/// However short the time is, and however it is spread over tries.
#[tokio::test(start_paused = true)]
async fn a_static_pod_starts_isolated_before_its_plugin_gives_up() {
    for (waited, wait, due) in
        [(0, 3_000, 2_300), (0, 5_000, 4_300), (3_000, 27_000, 2_000), (20_000, 10_000, 0), (4_000, 1_000, 300)]
    {
        let mut world = World::new(false);
        world.objects(vec![]).await;
        world.pods().await;
        let begun = Instant::now();
        let add = Add { waited, wait, ..add("c1", &pod("etcd-n1", HASH), "10.0.0.1") };
        let answer = world.ask(Command::Add(add)).await;
        assert_eq!(world.pods().await.len(), 1, "{waited}, {wait}");
        let took = begun.elapsed();
        assert!(
            took >= Duration::from_millis(due) && took < Duration::from_millis(due + 20),
            "{waited}, {wait}: {took:?}"
        );
        world.waiter().await.reply.send(()).unwrap();
        assert_eq!(answer.await.unwrap(), Answer::done());
    }
}

/// The plugin of a pod of `openNamespaces` waits for 2 s at most, and starts it open then.
#[tokio::test(start_paused = true)]
async fn a_static_pod_of_an_open_namespace_is_left_to_its_plugin() {
    let mut world = World::new(false);
    world.objects(vec![]).await;
    world.pods().await;
    let add = Add { waited: 500, wait: 1_500, ..add("c1", &pod("etcd-n1", HASH), "10.0.0.1") };
    let answer = world.ask(Command::Add(add)).await;
    let refusal = answer.await.unwrap().error.expect("it is not answered in time");
    assert_eq!(refusal.kind, Reason::Timeout);
}

/// Of a sandbox that is reported twice the pod may run.
#[tokio::test(start_paused = true)]
async fn only_the_first_add_of_a_sandbox_is_of_a_new_one() {
    let (mut world, web) = World::with_web(false).await;
    for is_new in [true, false] {
        let answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
        if is_new {
            world.pods().await;
        }
        let waiter = world.waiter().await;
        assert_eq!(waiter.is_new, is_new);
        waiter.reply.send(()).unwrap();
        assert_eq!(answer.await.unwrap(), Answer::done());
    }
}

/// A pass of the loop may take seconds, and it takes few events in before each.
#[tokio::test(start_paused = true)]
async fn adds_that_come_at_once_are_one_change_however_many() {
    let mut world = World::new(false);
    let pods: Vec<Pod> = (0..50).map(|n| pod(&format!("web-{n}"), &format!("u{n}"))).collect();
    world.objects(pods.iter().map(came).collect()).await;
    world.pods().await;
    let mut answers = Vec::new();
    for (n, pod) in pods.iter().enumerate() {
        answers.push(world.ask(Command::Add(add(&format!("c{n}"), pod, &format!("10.0.0.{n}")))).await);
    }
    // The order of requests stays: this one ends a sandbox that an ADD before it made.
    let deleted = world.ask(Command::Delete { attachment: attachment("c0") }).await;
    assert_eq!(world.pods().await.len(), 50);
    let waiters = world.waiters().await;
    assert_eq!(waiters.len(), 50);
    // No interface of the node shows when it is gone, so its address stays isolated for a while.
    let address: IpAddr = "10.0.0.0".parse().unwrap();
    assert_eq!(world.pods().await, [("web-0".to_owned(), vec![]), (address.to_string(), vec![address])]);
    assert_eq!(deleted.await.unwrap(), Answer::done());
    for (waiter, answer) in waiters.into_iter().zip(answers) {
        waiter.reply.send(()).unwrap();
        assert_eq!(answer.await.unwrap(), Answer::done());
    }
}

#[tokio::test(start_paused = true)]
async fn an_add_that_is_taken_back_makes_no_sandbox() {
    let mut world = World::new(false);
    let web = pod("web", "u1");
    let answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    // The plugin was killed.
    drop(answer);
    let done = world.ask(Command::Delete { attachment: attachment("c1") }).await;
    assert_eq!(done.await.unwrap(), Answer::done());
    world.objects(vec![came(&web)]).await;
    assert_eq!(world.pods().await, [("web".to_owned(), vec![])]);
    assert!(world.is_silent());
}

#[tokio::test(start_paused = true)]
async fn a_check_compares_and_then_asks_the_loop() {
    let (mut world, web) = World::with_web(false).await;
    let unknown = world.ask(Command::Check(add("c1", &web, "10.0.0.1"))).await.await.unwrap();
    assert_eq!(unknown.error.unwrap().kind, Reason::Unknown);
    let answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    world.pods().await;
    world.waiter().await.reply.send(()).unwrap();
    answer.await.unwrap();
    let other = world.ask(Command::Check(add("c1", &web, "10.0.0.2"))).await.await.unwrap();
    assert_eq!(other.error.unwrap().kind, Reason::Unknown);
    for (holds, expected) in [(true, None), (false, Some(Reason::NotEnforced))] {
        let answer = world.ask(Command::Check(add("c1", &web, "10.0.0.1"))).await;
        let Event::Check(reply) = world.next().await else { panic!("no check") };
        reply.send(holds).unwrap();
        assert_eq!(answer.await.unwrap().error.map(|error| error.kind), expected);
    }
}

/// A runtime lists an attachment once its ADD is over, and may ask for a GC meanwhile.
#[tokio::test(start_paused = true)]
async fn a_gc_ends_no_sandbox_that_the_runtime_may_not_have_listed_yet() {
    let (mut world, web) = World::with_web(false).await;
    let answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    world.pods().await;
    let gc = || Command::Gc { network: "net".to_owned(), valid: Vec::new() };
    assert_eq!(world.ask(gc()).await.await.unwrap(), Answer::done());
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
    assert_eq!(world.ask(gc()).await.await.unwrap(), Answer::done());
    assert!(world.is_silent());
    // One that began before that is gone.
    let db = pod("db", "u2");
    world.objects(vec![came(&db)]).await;
    world.pods().await;
    let waited = u64::try_from(MAY_BE_UNLISTED.as_millis()).unwrap() * 2;
    let answer = world.ask(Command::Add(Add { waited, ..add("c2", &db, "10.0.0.2") })).await;
    world.pods().await;
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
    assert_eq!(world.ask(gc()).await.await.unwrap(), Answer::done());
    let address: IpAddr = "10.0.0.2".parse().unwrap();
    assert_eq!(world.pods().await, [("db".to_owned(), vec![]), (address.to_string(), vec![address])]);
}

#[tokio::test(start_paused = true)]
async fn notes_of_the_plugin_are_read_once() {
    let (mut world, web) = World::with_web(false).await;
    let socket = world.socket();
    world.leave_note(Command::Add(add("c1", &web, "10.0.0.1")));
    std::fs::write(note::folder(&socket).join("x@eth0.json"), "{").unwrap();
    assert_eq!(world.pods().await, [("web".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
    // The file goes after the event, and before the registry takes the next request.
    let next = world.ask(Command::Delete { attachment: attachment("none") }).await;
    assert_eq!(next.await.unwrap(), Answer::done());
    assert!(note::read_all(&socket).unwrap().is_empty());
    assert!(world.is_silent());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_notes_are_one_change_and_the_rest_waits_for_the_next_round() {
    let mut world = World::new(false);
    let web = pod("web", "u1");
    let socket = world.socket();
    for n in 0..=1_000 {
        let (id, address) = (format!("c{n}"), format!("10.0.{}.{}", n / 250, n % 250 + 1));
        world.leave_note(Command::Add(add(&id, &web, &address)));
    }
    world.objects(vec![]).await;
    let mut isolated = BTreeSet::new();
    let mut changes = 0;
    while isolated.len() <= 1_000 {
        let pods = world.pods().await;
        assert!(pods.len() <= 1_000);
        isolated.extend(pods.into_iter().flat_map(|(_, addresses)| addresses));
        changes += 1;
    }
    // That of the source, and one of each round.
    assert!(changes <= 3, "{changes}");
    let next = world.ask(Command::Delete { attachment: attachment("none") }).await;
    assert_eq!(next.await.unwrap(), Answer::done());
    assert!(note::read_all(&socket).unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_knows_a_sandbox_before_the_plugin_has_its_answer() {
    let (mut world, web) = World::with_web(false).await;
    let _answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    world.pods().await;
    let World { folder, .. } = world;
    let mut next = World::within(false, folder);
    next.objects(vec![came(&web)]).await;
    assert_eq!(next.pods().await, [("web".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
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
    let options = CniOptions { socket: socket.clone(), node: "n1".to_owned(), ask: None, metrics, status: kept };
    let mut tasks = Tasks::default();
    let source = start(options, sender, &mut tasks);
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

/// Without it nothing that the source delivers comes to the agent's loop.
#[tokio::test(start_paused = true)]
async fn the_end_of_the_registry_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, agent) = mpsc::channel(64);
    let status = SharedStatus::new(AgentStatus::new("n1", "cluster"));
    let socket = folder.path().join("cni.sock");
    let options = CniOptions { socket, node: "n1".to_owned(), ask: None, metrics: Cni::default(), status };
    let mut tasks = Tasks::default();
    let source = start(options, sender, &mut tasks);
    assert!(time::timeout(Duration::from_secs(60), tasks.ended()).await.is_err());
    drop(agent);
    source.send(Event::PacketFilterChanged).await.unwrap();
    let ended = time::timeout(Duration::from_secs(60), tasks.ended()).await.unwrap().to_string();
    assert!(ended.contains("keeps what CNI reports") || ended.contains("serves the CNI plugin"), "{ended}");
}
