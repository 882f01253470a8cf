//! Groups that have no pods for a while.

use std::ffi::OsStr;

use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::RulesetOptions;
use npc_tests::lab::Enforcer;
use serde_json::json;

use super::small::{NODE, Small};

#[test]
fn a_pod_that_leaves_a_group_and_comes_back_writes_set_members_only() {
    let Some(mut small) = Small::start() else { return };
    // Some pod stays isolated: the last one that is takes rules along.
    let mut objects = small.lab.cluster().objects.clone();
    let mut policy = objects.policies[0].clone();
    policy.object.metadata.name = Some("other".to_owned());
    let selector = json!({"matchLabels": {"app": "other"}});
    policy.object.spec.as_mut().unwrap().pod_selector = Some(serde_json::from_value(selector).unwrap());
    objects.policies.push(policy);
    small.lab.write_manifests(objects).unwrap();
    small.agent().wait_log("policies=2").unwrap();
    let whole = small.kernel();
    let passes = small.writes().len();
    let label = |small: &mut Small, app: &str| {
        let mut objects = small.lab.cluster().objects.clone();
        let api = objects.pods.iter_mut().find(|pod| pod.name == "api").unwrap();
        api.labels.insert("app".to_owned(), app.to_owned());
        small.lab.write_manifests(objects).unwrap();
        small.lab.settle().unwrap();
    };
    label(&mut small, "none");
    let retained = small.lab.retained(NODE).unwrap();
    assert!(retained.len() == 1 && retained[0].direction == Direction::Ingress, "{retained:?}");
    assert_eq!(small.lab.differences(NODE, &RulesetOptions::default()).unwrap(), Vec::<String>::new());
    // npc verify and the status know of it.
    let Some(Enforcer::Agent(npc)) = Enforcer::for_test() else { return };
    let kubeconfig = small.lab.folder().join("kubeconfig");
    let words = ["migrate", "-A", "--node", NODE, "--exit-zero", "--kubeconfig"].map(OsStr::new);
    let words = [&[npc.as_os_str()], &words[..], &[kubeconfig.as_os_str()]].concat();
    let told = small.lab.node(NODE).unwrap().exec(words, "").unwrap();
    assert!(told.contains("npc's rules hold in this kernel"), "{told}");
    label(&mut small, "api");
    small.admits_only("web");
    assert_eq!(small.lab.retained(NODE).unwrap(), []);
    assert_eq!(small.kernel(), whole);
    let writes = small.writes_since(passes, "members removed");
    assert!(writes.iter().all(|writes| !writes.contains("rules") && !writes.contains("sets")), "{writes:?}");
}
