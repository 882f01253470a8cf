//! The shop of `deploy/examples` in a lab, and what its agents have to follow.

use std::path::Path;

use npc_agent::source::manifests;
use npc_compiler::object::Objects;
use npc_tests::lab::{Lab, report};

pub(crate) fn shop() -> Objects {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/shop");
    let loaded = manifests::load(&[folder], &manifests::ReadOptions::default()).unwrap();
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    loaded.objects
}

/// Each packet passes where the oracle says so, and no other. Says how many were sent.
pub(crate) fn all_agree(lab: &mut Lab) -> usize {
    let judgement = lab.judge().unwrap();
    let table = report::table(lab, &judgement);
    assert_eq!(judgement.mismatches().count(), 0, "{table}");
    judgement.judged.len()
}

/// The agents follow the shop through changes of policies and labels, and back.
pub(crate) fn edits_are_followed(lab: &mut Lab) {
    all_agree(lab);
    let shop = lab.cluster().objects.clone();
    let mut without = shop.clone();
    without.policies.retain(|policy| policy.name() != "api");
    let mut relabelled = shop.clone();
    for pod in relabelled.pods.iter_mut().filter(|pod| pod.name.starts_with("web")) {
        pod.labels.insert("app".to_owned(), "worker".to_owned());
    }
    for objects in [without, relabelled, Objects { policies: Vec::new(), ..shop.clone() }, shop] {
        lab.apply(objects).unwrap();
        all_agree(lab);
    }
}
