//! Real agents that watch a real HTTP API enforce policies on real packets, also while
//! the API server fails.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod burst;
mod contested;
mod credentials;
mod linger;
mod notices;
mod outages;
mod pages;
mod silence;
mod small;

use std::path::Path;

use npc_agent::source::manifests;
use npc_compiler::object::Objects;
use npc_tests::apiserver::{Resource, Server, Verb};
use npc_tests::lab::{Backend, Enforcer, Lab, Mode, report};

fn all_agree(lab: &mut Lab) {
    let judgement = lab.judge().unwrap();
    let table = report::table(lab, &judgement);
    assert_eq!(judgement.mismatches().count(), 0, "{table}");
}

/// The shop, as it is and through changes of policies and labels.
fn agents_follow_an_api_server(mode: Mode, backend: Backend) {
    let Some(agents) = Enforcer::for_test() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/shop");
    let shop = manifests::load(&[folder], &manifests::Options::default()).unwrap().objects;
    let lab = Lab::builder(shop).mode(mode).backend(backend).enforcer(agents);
    let mut lab = lab.api_server(Server::in_process()).start().unwrap();
    all_agree(&mut lab);
    let shop = lab.cluster().objects.clone();
    let mut without = shop.clone();
    without.policies.retain(|policy| policy.name() != "api");
    lab.apply(without).unwrap();
    all_agree(&mut lab);
    let mut relabelled = shop.clone();
    for pod in relabelled.pods.iter_mut().filter(|pod| pod.name.starts_with("web")) {
        pod.labels.insert("app".to_owned(), "worker".to_owned());
    }
    lab.apply(relabelled).unwrap();
    all_agree(&mut lab);
    lab.apply(Objects { policies: Vec::new(), ..shop.clone() }).unwrap();
    lab.apply(shop).unwrap();
    all_agree(&mut lab);
    let server = lab.api_server().unwrap();
    for resource in [Resource::Pods, Resource::Namespaces, Resource::NetworkPolicies, Resource::Nodes] {
        let nodes = lab.cluster().objects.nodes.len();
        assert_eq!(server.count(resource, Verb::StreamingList), nodes, "each agent reads everything once");
        assert_eq!((server.count(resource, Verb::List), server.watches(resource)), (0, nodes));
    }
    let asked = server.requests();
    let outside =
        asked.iter().find(|request| request.resource == Some(Resource::Services) || request.code != Some(200));
    assert_eq!(outside, None, "an agent asks for what it may have and nothing else");
}

#[test]
fn agents_at_an_api_server_keep_the_shop_routed_by_nft() {
    agents_follow_an_api_server(Mode::Routed, Backend::Nft);
}

#[test]
fn agents_at_an_api_server_keep_the_shop_bridged_by_legacy() {
    agents_follow_an_api_server(Mode::Bridge, Backend::Legacy);
}
