//! A quiet cluster is told from a watch that is dead.

use std::time::{Duration, Instant};

use npc_tests::apiserver::{Disturbance, Fault, Resource, Server};
use npc_tests::lab::Builder;

use super::small::{NODE, Small};

/// When the agent last heard of pods, and of policies, since 1970.
fn heard(small: &Small) -> [Duration; 2] {
    let name = |kind| format!("npc_watch_last_heard_timestamp_seconds{{kind=\"{kind}\"}} ");
    let text = small.lab.metrics(NODE).unwrap();
    ["Pod", "NetworkPolicy"].map(|kind| {
        let value = text.lines().find_map(|line| line.strip_prefix(&name(kind)));
        let value = value.unwrap_or_else(|| panic!("nothing was heard of {kind}\n{text}"));
        Duration::from_secs_f64(value.parse().unwrap())
    })
}

/// Waits until the agent has heard what is so; Prometheus, too, has to ask.
fn wait(small: &Small, is_so: impl Fn([Duration; 2]) -> bool) -> [Duration; 2] {
    let begin = Instant::now();
    loop {
        let now = heard(small);
        if is_so(now) {
            return now;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{now:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_quiet_watch_is_heard_and_a_dead_one_is_not() {
    let short = |lab: Builder| lab.agent_argument("--watch-timeout").agent_argument("10");
    let Some(small) = Small::with(Server::in_process(), short) else { return };
    small.watches();
    let told = |small: &Small| small.lab.metric(NODE, "npc_watch_last_event_timestamp_seconds").unwrap().to_string();
    let (first, events) = (heard(&small), told(&small));
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
    let [pods, dead] = heard(&small);
    small.server().send_bookmarks();
    wait(&small, |[now, _]| now > pods);
    small.server().wait("one more hangs", |_| hung.met() > 0).unwrap();
    let [pods, _] = heard(&small);
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
fn a_server_that_is_gone_or_refuses_is_not_heard() {
    let Some(small) = Small::start() else { return };
    small.watches();
    // Watches that end in good order, as after their time, live.
    let first = heard(&small);
    small.server().disturb(None, Disturbance::End);
    let ended = wait(&small, |[pods, policies]| pods > first[0] && policies > first[1]);
    small.watches();
    let refused = small.server().inject(Fault::internal_error().on(Resource::Pods));
    small.server().disturb(Some(Resource::Pods), Disturbance::Break);
    small.server().wait("it is refused twice", |_| refused.met() > 1).unwrap();
    assert_eq!(heard(&small), ended);
    refused.lift();
    small.watches();
    small.server().send_bookmarks();
    let again = wait(&small, |[pods, policies]| pods > ended[0] && policies > ended[1]);
    let failures = || small.lab.metric(NODE, "npc_watch_failures_total").unwrap_or_default();
    let before = failures();
    small.server().stop();
    wait(&small, |_| failures() >= before + 4.0);
    assert_eq!(heard(&small), again);
}
