//! A quiet cluster is not taken for a watch that is dead.

use std::time::{Duration, Instant};

use npc_tests::apiserver::{Disturbance, Fault, Resource, Server};
use npc_tests::lab::Builder;

use super::small::{NODE, Small};

/// When the API server last answered about pods, and about policies, since 1970.
fn received(small: &Small) -> [Duration; 2] {
    let name = |kind| format!("npc_watch_last_heard_timestamp_seconds{{kind=\"{kind}\"}} ");
    let text = small.lab.metrics(NODE).unwrap();
    ["Pod", "NetworkPolicy"].map(|kind| {
        let value = text.lines().find_map(|line| line.strip_prefix(&name(kind)));
        let value = value.unwrap_or_else(|| panic!("no time for {kind}\n{text}"));
        Duration::from_secs_f64(value.parse().unwrap())
    })
}

/// Polls the metrics until this holds, as Prometheus does.
fn wait(small: &Small, is_so: impl Fn([Duration; 2]) -> bool) -> [Duration; 2] {
    let begin = Instant::now();
    loop {
        let now = received(small);
        if is_so(now) {
            return now;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{now:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_quiet_watch_counts_as_alive_and_a_dead_one_does_not() {
    let short = |lab: Builder| lab.agent_argument("--watch-timeout").agent_argument("10");
    let Some(small) = Small::with(Server::in_process(), short) else { return };
    small.watches();
    let told = |small: &Small| small.lab.metric(NODE, "npc_watch_last_event_timestamp_seconds").unwrap().to_string();
    let (first, events) = (received(&small), told(&small));
    // Nothing happens, and bookmarks say so.
    small.server().send_bookmarks();
    let quiet = wait(&small, |[pods, policies]| pods > first[0] && policies > first[1]);
    // The server still has the watches of policies, and says no more to them;
    // nor to the next, which it accepts.
    small.server().disturb(None, Disturbance::End);
    wait(&small, |[pods, policies]| pods > quiet[0] && policies > quiet[1]);
    small.watches();
    let hung = small.server().inject(Fault::hung_watch().on(Resource::NetworkPolicies));
    small.server().disturb(Some(Resource::NetworkPolicies), Disturbance::Hang);
    let [pods, dead] = received(&small);
    small.server().send_bookmarks();
    wait(&small, |[now, _]| now > pods);
    small.server().wait("one more hangs", |_| hung.met() > 0).unwrap();
    let [pods, _] = received(&small);
    small.server().send_bookmarks();
    let now = wait(&small, |[now, _]| now > pods);
    assert_eq!(now[1], dead, "of policies nothing was said");
    hung.lift();
    // It is given up and begun anew; meanwhile the others ended in good order.
    wait(&small, |[_, policies]| {
        small.server().send_bookmarks();
        policies > dead
    });
    assert_eq!(told(&small), events, "no object changed");
}

#[test]
fn a_server_that_is_gone_or_refuses_does_not_count_as_alive() {
    let Some(small) = Small::start() else { return };
    small.watches();
    // Watches that end in good order, as after their time, live.
    let first = received(&small);
    small.server().disturb(None, Disturbance::End);
    let ended = wait(&small, |[pods, policies]| pods > first[0] && policies > first[1]);
    small.watches();
    let refused = small.server().inject(Fault::internal_error().on(Resource::Pods));
    small.server().disturb(Some(Resource::Pods), Disturbance::Break);
    small.server().wait("it is refused twice", |_| refused.met() > 1).unwrap();
    assert_eq!(received(&small), ended);
    refused.lift();
    small.watches();
    small.server().send_bookmarks();
    let again = wait(&small, |[pods, policies]| pods > ended[0] && policies > ended[1]);
    let failures = || small.lab.metric(NODE, "npc_watch_failures_total").unwrap_or_default();
    let before = failures();
    small.server().stop();
    wait(&small, |_| failures() >= before + 4.0);
    assert_eq!(received(&small), again);
}
