//! An API server that fails.

use std::time::Duration;

use nix::sys::signal::Signal;
use npc_tests::apiserver::{Disturbance, Fault, Resource, Server, Verb};
use npc_tests::lab::Builder;

use super::small::{NODE, Small, WATCHED, is_synced_without};

#[test]
fn nothing_is_written_before_all_watches_are_in_sync() {
    let Some(mut small) = Small::start() else { return };
    let before = small.kernel();
    for held in WATCHED {
        small.lab.take_agent(NODE).unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
        // If it wrote what it knows, another pod would be admitted.
        small.store("other");
        let fault = small.server().inject(Fault::held().on(held));
        small.lab.start_agent(NODE).unwrap();
        let synced = |server: &Server| fault.met() > 0 && is_synced_without(server, held);
        small.server().wait("all but one are in sync", synced).unwrap();
        small.admits_only("web");
        assert_eq!((small.kernel(), small.agent().generation()), (before.clone(), None), "{held:?}");
        fault.lift();
        small.follows("other");
        small.admit("web");
    }
}

#[test]
fn a_lost_server_changes_nothing_and_the_next_sync_writes_only_the_difference() {
    let Some(mut small) = Small::start() else { return };
    small.watches();
    let before = small.kernel();
    small.server().stop();
    // The store goes on without us, and its history is gone when it is back.
    let mut objects = small.lab.cluster().objects.clone();
    objects.pods[1].labels.insert("app".to_owned(), "web".to_owned());
    small.lab.write_manifests(objects.clone()).unwrap();
    small.server().compact();
    for round in 0..2 {
        small.admits_only("web");
        assert_eq!(small.kernel(), before, "round {round}");
        // Nor does an agent that starts meanwhile know better.
        small.lab.take_agent(NODE).unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
        small.lab.start_agent(NODE).unwrap();
        small.agent().wait_log("does not answer").unwrap();
        assert_eq!(small.agent().generation(), None);
    }
    let passes = small.writes().len();
    small.server().restart().unwrap();
    small.lab.settle().unwrap();
    small.agent().wait_generation(1).unwrap();
    // `other` is labelled as `web` now: two addresses in the set of peers.
    assert_eq!(small.writes_since(passes, "added").concat(), "2 members added");
}

#[test]
fn an_agent_that_lost_its_server_follows_again_when_it_is_back() {
    let Some(mut small) = Small::start() else { return };
    small.watches();
    // As it was: every watch goes on from its version.
    for admitted in ["other", "web", "other"] {
        small.server().stop();
        small.store(admitted);
        small.server().restart().unwrap();
        small.follows(admitted);
    }
    let reads = |small: &Small| WATCHED.map(|resource| small.server().full_reads(resource));
    assert_eq!(reads(&small), [1; 4]);
    // With its history compacted: everything is read anew, and only what is
    // different is written.
    small.watches();
    small.server().stop();
    let passes = small.writes().len();
    small.store("web");
    small.server().skip_versions(1_000_000);
    small.server().compact();
    small.server().restart().unwrap();
    small.follows("web");
    small.watches();
    assert_eq!(reads(&small), [2; 4]);
    let wrote = small.writes_since(passes, "chains written").join("; ");
    assert!(!wrote.contains("nothing, "), "{wrote}");
}

#[test]
fn what_is_deleted_unseen_is_gone_after_the_next_list() {
    let Some(mut small) = Small::start() else { return };
    small.watches();
    small.server().stop();
    let mut objects = small.lab.cluster().objects.clone();
    objects.pods.retain(|pod| pod.name != "web");
    small.lab.write_manifests(objects).unwrap();
    small.server().compact();
    small.server().restart().unwrap();
    small.lab.settle().unwrap();
    // The namespace of the pod still sends, but no pod is admitted.
    small.admits_only("nobody");
}

#[test]
fn an_expired_watch_is_read_anew_and_nothing_else_is() {
    let Some(mut small) = Small::start() else { return };
    small.watches();
    assert_eq!(small.server().disturb(Some(Resource::NetworkPolicies), Disturbance::Expire), 1);
    small.admit("other");
    let reads = WATCHED.map(|resource| small.server().full_reads(resource));
    assert_eq!(reads, [1, 1, 2, 1]);
    // Now by lists. The first two are of a version that has expired.
    let lists = small.server().inject(Fault::no_streaming_lists());
    small.server().inject(Fault::expired().verbs(&[Verb::Watch, Verb::List]).on(Resource::Pods).times(2));
    small.server().disturb(None, Disturbance::Expire);
    small.admit("web");
    assert!(lists.met() > 0);
    assert!(small.server().count(Resource::NetworkPolicies, Verb::List) > 0);
}

#[test]
fn a_busy_server_is_asked_again() {
    let Some(mut small) = Small::start() else { return };
    small.watches();
    // Of an agent that runs…
    let busy = small.server().inject(Fault::too_many_requests(1).times(8));
    small.server().disturb(None, Disturbance::End);
    small.admit("other");
    // … and of one that starts.
    small.lab.take_agent(NODE).unwrap().unwrap().stop(Signal::SIGTERM).unwrap();
    small.server().inject(Fault::too_many_requests(1).times(8));
    small.store("web");
    small.lab.start_agents().unwrap();
    small.follows("web");
    assert!(busy.met() > 0);
}

#[test]
fn a_server_that_fails_at_random_is_followed_all_the_same() {
    // An agent that is refused several times in a row waits longer each time.
    let patient = |lab: Builder| lab.patience(Duration::from_secs(120));
    let Some(mut small) = Small::with(Server::in_process(), patient) else { return };
    small.server().inject(Fault::internal_error().one_in(3, 20_261_123));
    small.server().inject(Fault::broken_after(1).one_in(3, 1));
    for admitted in ["other", "web", "other"] {
        small.server().disturb(None, Disturbance::Break);
        small.admit(admitted);
    }
    small.lab.take_agent(NODE).unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
    small.lab.start_agent(NODE).unwrap();
    small.agent().wait_generation(1).unwrap();
    small.admits_only("other");
}

#[test]
fn initial_events_that_break_off_take_nothing_away() {
    let Some(mut small) = Small::start() else { return };
    small.watches();
    let (before, passes) = (small.kernel(), small.writes().len());
    // One pod of three arrives, thrice; then all.
    let broken = small.server().inject(Fault::broken_after(1).on(Resource::Pods).times(3));
    small.server().disturb(Some(Resource::Pods), Disturbance::Expire);
    small.server().wait("the list breaks off thrice", |_| broken.met() == 3).unwrap();
    small.watches();
    small.admits_only("web");
    assert_eq!(small.kernel(), before);
    small.admit("other");
    let wrote = small.writes_since(passes, "chains written");
    assert!(wrote.iter().all(|wrote| !wrote.contains("members removed")), "{wrote:?}");
}

#[test]
fn watches_that_break_in_a_line_go_on_where_they_were() {
    let Some(mut small) = Small::start() else { return };
    small.watches();
    for (disturbance, admitted) in [(Disturbance::BreakInLine, "other"), (Disturbance::Break, "web")] {
        small.server().disturb(None, disturbance);
        small.admit(admitted);
    }
    let reads = WATCHED.map(|resource| small.server().full_reads(resource));
    assert_eq!(reads, [1; 4]);
}

#[test]
fn watches_that_hang_are_given_up_and_nothing_that_happened_is_missed() {
    let short = |lab: Builder| lab.agent_argument("--watch-timeout").agent_argument("10");
    let Some(mut small) = Small::with(Server::in_process(), short) else { return };
    small.watches();
    // The server takes their requests and never says anything, to those that
    // are open and to the next one.
    let hung = small.server().inject(Fault::hung_watch().on(Resource::NetworkPolicies).times(1));
    small.server().disturb(None, Disturbance::Hang);
    small.store("other");
    small.admits_only("web");
    small.server().wait("one more has hung", |_| hung.met() > 0).unwrap();
    small.follows("other");
    // Nothing was read anew for that.
    let reads = WATCHED.map(|resource| small.server().full_reads(resource));
    assert_eq!(reads, [1; 4]);
}

#[test]
fn a_kind_that_is_forbidden_keeps_what_it_was_and_the_others_go_on() {
    let Some(mut small) = Small::start() else { return };
    small.watches();
    let fault = small.server().inject(Fault::forbidden().on(Resource::NetworkPolicies));
    small.server().disturb(Some(Resource::NetworkPolicies), Disturbance::End);
    small.server().wait("it is forbidden", |_| fault.met() > 0).unwrap();
    let generation = small.agent().generation().unwrap();
    let mut objects = small.lab.cluster().objects.clone();
    objects.pods[1].labels.insert("app".to_owned(), "web".to_owned());
    small.lab.apply(objects).unwrap();
    assert!(small.agent().generation().unwrap() > generation);
    small.store("nobody");
    small.lab.agent(NODE).unwrap().unwrap().wait_log("403").unwrap();
    fault.lift();
    small.follows("nobody");
}
