//! Lists of policies that ADDs ask the API server for.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use npc_compiler::object::Pod;

use super::tests_world::{World, add, came, pod, policy};
use super::*;
use crate::cni::policy_lists::{FRESH, PATIENCE};
use crate::source::AskError;

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
    list.send(Ok(vec![policy("deny", 7)])).unwrap();
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
