//! What the registry makes of requests, objects and lists of policies.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use npc_cni::note;
use npc_compiler::engine::PodKey;
use npc_compiler::object::{Family, Pod};

use super::tests_world::{World, add, attachment, came, pod, policy};
use super::*;
use crate::cni::asking::{FRESH, PATIENCE};
use crate::cni::pending::MIRROR;
use crate::source::AskError;

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

#[tokio::test(start_paused = true)]
async fn the_policies_of_the_namespace_are_asked_for_once_in_a_burst() {
    let mut world = World::new(true);
    let pods: Vec<Pod> = (0..20).map(|n| pod(&format!("web-{n}"), &format!("u{n}"))).collect();
    world.objects(pods.iter().map(came).collect()).await;
    world.pods().await;
    let mut answers = Vec::new();
    for (n, pod) in pods.iter().enumerate() {
        answers.push(world.ask(Command::Add(add(&format!("c{n}"), pod, &format!("10.0.0.{n}")))).await);
        tokio::task::yield_now().await;
    }
    // One more comes after the list was asked for, so that does not do for it.
    let late = pod("late", "late");
    world.objects(vec![came(&late)]).await;
    assert_eq!(world.pods().await, [("late".to_owned(), vec![])]);
    let late_add = world.ask(Command::Add(add("late", &late, "10.0.1.1"))).await;
    let (namespace, list) = world.list(1).await;
    assert!(world.is_silent(), "nothing before the list");
    assert_eq!(namespace, "shop");
    list.send(Ok(vec![policy("deny", 7)])).unwrap();
    let Event::Changes(changes) = world.next().await else { panic!("no changes") };
    assert!(matches!(changes.changes[0].event, engine::Event::Policy(_)), "the policy goes with the pod or before it");
    assert!(matches!(changes.changes[1].event, engine::Event::Pod(_)));
    for (waiter, answer) in world.waiters().await.into_iter().zip(answers) {
        waiter.reply.send(()).unwrap();
        assert_eq!(answer.await.unwrap(), Answer::done());
    }
    let (_, list) = world.list(1).await;
    list.send(Ok(vec![])).unwrap();
    assert_eq!(world.pods().await.len(), 1);
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(late_add.await.unwrap(), Answer::done());
    assert_eq!(world.lists.lock().unwrap().len(), 0);
}

/// The kubelet calls the plugin long after the pod was bound to the node.
#[tokio::test(start_paused = true)]
async fn an_add_waits_for_no_list_if_one_has_come_since_its_pod_was_bound() {
    let (mut world, web) = World::with_web(true).await;
    world.list_later().await.1.send(Ok(vec![policy("deny", 7)])).unwrap();
    let Event::Changes(changes) = world.next().await else { panic!("no changes") };
    assert!(matches!(changes.changes[..], [Change { event: engine::Event::Policy(_), .. }]));
    world.objects(vec![engine::Event::Policy(Box::new(policy("deny", 7)))]).await;
    world.next().await;
    for address in ["10.0.0.1", "10.0.0.2"] {
        let answer = world.ask(Command::Add(add("c1", &web, address))).await;
        world.pods().await;
        world.waiter().await.reply.send(()).unwrap();
        assert_eq!(answer.await.unwrap(), Answer::done());
    }
    assert_eq!(world.lists.lock().unwrap().len(), 0);
    // Its sandbox is made again, long after that.
    time::advance(FRESH).await;
    let _answer = world.ask(Command::Add(add("c2", &web, "10.0.0.3"))).await;
    world.list_later().await;
    assert!(world.is_silent(), "nothing before the list");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_failed_or_began_before_its_pod_was_bound_does_for_no_add() {
    let (mut world, web) = World::with_web(true).await;
    world.list_later().await.1.send(Err(AskError::Refused("forbidden".to_owned()))).unwrap();
    // Under the paused clock this ends when all tasks wait: the failed list is over.
    time::sleep(Duration::from_millis(1)).await;
    let answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    world.list_later().await.1.send(Ok(vec![])).unwrap();
    world.pods().await;
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
    let late = pod("late", "u2");
    world.objects(vec![came(&late)]).await;
    world.pods().await;
    let _answer = world.ask(Command::Add(add("c2", &late, "10.0.0.2"))).await;
    let (_, list) = world.list(1).await;
    assert!(world.is_silent(), "nothing before the list");
    list.send(Ok(vec![])).unwrap();
    world.pods().await;
    // One that has started before the agent is asked about has no ADD to come.
    let running = Pod { ipv4: Some([10, 0, 0, 9].into()), ..pod("running", "u3") };
    world.waiter().await.reply.send(()).unwrap();
    world.objects(vec![came(&running)]).await;
    world.pods().await;
    assert_eq!(world.lists.lock().unwrap().len(), 0);
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
async fn an_api_server_that_hangs_delays_an_add_by_two_seconds() {
    let (mut world, web) = World::with_web(true).await;
    let begun = Instant::now();
    let answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    world.pods().await;
    assert!((PATIENCE..PATIENCE * 2).contains(&begun.elapsed()));
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
}

#[tokio::test(start_paused = true)]
async fn a_pod_does_not_miss_its_time_for_a_list() {
    let (mut world, web) = World::with_web(true).await;
    let begun = Instant::now();
    // As a pod of openNamespaces: the API server may take as long as that.
    let answer = world.ask(Command::Add(Add { wait: 2_000, ..add("c1", &web, "10.0.0.1") })).await;
    assert_eq!(world.pods().await, [("web".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
    assert!((Duration::from_secs(1)..Duration::from_millis(1_500)).contains(&begun.elapsed()));
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_panics_is_one_that_failed() {
    let (mut world, web) = World::with_web(true).await;
    let begun = Instant::now();
    let answer = world.ask(Command::Add(add("c1", &web, "10.0.0.1"))).await;
    drop(world.list_later().await);
    assert_eq!(world.pods().await.len(), 1);
    assert!(begun.elapsed() < PATIENCE);
    world.waiter().await.reply.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), Answer::done());
    // The next pod of the namespace has a list again.
    let _answer = world.ask(Command::Add(add("c2", &web, "10.0.0.2"))).await;
    world.list_later().await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_the_watch_never_delivers_goes_when_a_list_lacks_it() {
    let mut world = World::new(true);
    world.started(&pod("web", "u1"), vec![policy("deny", 7), policy("late", 8)]).await;
    let begun = Instant::now();
    world.objects(vec![engine::Event::Policy(Box::new(policy("late", 8)))]).await;
    assert!(matches!(world.next().await, Event::Changes(_)));
    // Both are still there, and then one is deleted. The watch begins anew after that, so
    // it delivers nothing about it.
    let (namespace, list) = world.list_later().await;
    assert!(namespace == "shop" && begun.elapsed() >= Duration::from_secs(10));
    list.send(Ok(vec![policy("deny", 7), policy("late", 8)])).unwrap();
    world.list_later().await.1.send(Err(AskError::Refused("forbidden".to_owned()))).unwrap();
    assert!(world.is_silent());
    // However it was answered, the API server is asked every 10 s only.
    assert!(begun.elapsed() >= Duration::from_secs(20));
    world.list_later().await.1.send(Ok(vec![])).unwrap();
    let Event::Changes(changes) = world.next().await else { panic!("no changes") };
    let events: Vec<_> = changes.changes.into_iter().map(|change| change.event).collect();
    assert_eq!(events, [engine::Event::PolicyGone("shop".to_owned(), "deny".to_owned())]);
    assert!(changes.is_part);
    // Nothing is left to ask for.
    assert!(time::timeout(Duration::from_secs(60), world.agent.recv()).await.is_err());
    assert!(world.lists.lock().unwrap().is_empty());
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
