//! A pod whose labels change all the time, so that other policies select it each time: each
//! is a group that was not there before.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::scene::{Scene, local, policy};

/// How many policies there are. Each half of them is another group.
const POLICIES: u32 = 12;

/// The time from one change to the next.
const PERIOD: Duration = Duration::from_millis(100);

/// After so many changes, a minute, groups that are never removed would be 600.
const CHANGES: u32 = 600;

pub(crate) fn abuse(scene: &Scene) {
    for bit in 0..POLICIES {
        let selector = json!({"matchLabels": {format!("bit-{bit}"): "1"}});
        let spec = json!({"podSelector": selector, "policyTypes": ["Ingress", "Egress"]});
        scene.server.put(&policy(Scene::TENANT, &format!("policy-{bit}"), &spec));
    }
    let begun = Instant::now();
    for change in 1.. {
        let mut pod = local(0);
        // An odd factor makes all numbers of so many bits before one comes again.
        let number = change * 1_237 % (1 << POLICIES);
        for bit in 0..POLICIES {
            pod["metadata"]["labels"][format!("bit-{bit}")] = json!((number >> bit & 1).to_string());
        }
        scene.server.put(&pod);
        if change == CHANGES {
            scene.round();
        }
        if scene.is_over() {
            scene.note(format!("{change} changes in {:.0} s", begun.elapsed().as_secs_f64()));
            return;
        }
        thread::sleep((PERIOD * change).saturating_sub(begun.elapsed()));
    }
}
