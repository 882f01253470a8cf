//! Lists in pages, of servers that do not stream them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::PodSpec;
use nix::sys::signal::Signal;
use npc_compiler::object::{Labels, Pod};
use npc_compiler::ruleset::layout::RulesetOptions;
use npc_tests::apiserver::{Disturbance, Fault, Resource, Server, Verb};

use super::small::{NODE, Small};

/// More pods than a page of the agent's has, all on another node and all let in
/// by the policy; `web`, too, is on the second page, by the order of names.
fn fill(small: &mut Small) {
    let pod = |number: u16| {
        let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        let name = format!("{FILLER}{number:03}");
        let pod = Pod::from_template("shop".to_owned(), name, labels, PodSpec::default());
        let ipv4 = Some(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 0, 0)) + u32::from(number)));
        Pod { uid: format!("u{number}"), node: Some("elsewhere".to_owned()), ipv4, ..pod }
    };
    let mut objects = small.lab.cluster().objects.clone();
    objects.pods.extend((0..PODS).map(pod));
    small.lab.write_manifests(objects).unwrap();
    small.lab.settle().unwrap();
}

const FILLER: &str = "peer-";
const PODS: u16 = 700;

/// Deletes pods of the first page and of the second, and forgets that they were
/// there: a request for the rest of a list that held them is answered 410.
fn delete_unseen(small: &mut Small) {
    let mut objects = small.lab.cluster().objects.clone();
    objects.pods.retain(|pod| !pod.name.starts_with(FILLER) || !pod.name.ends_with('7'));
    small.lab.write_manifests(objects).unwrap();
    small.server().compact();
}

/// How often a page of pods was asked for, and what came of it.
fn pages(server: &Server) -> Vec<Option<u16>> {
    let asked = server.requests();
    let pages = asked.iter().filter(|asked| asked.resource == Some(Resource::Pods) && asked.verb == Verb::Page);
    pages.map(|asked| asked.code).collect()
}

/// The kernel is right, and a pod on the second page is admitted.
fn is_right(small: &mut Small) {
    small.lab.settle().unwrap();
    small.admits_only("web");
    assert_eq!(small.lab.differences(NODE, &RulesetOptions::default()).unwrap(), Vec::<String>::new());
    let expected = |pod: &&Pod| pod.labels.get("app").is_some_and(|app| app == "web");
    let peers = small.lab.cluster().objects.pods.iter().filter(expected).filter_map(|pod| pod.ipv4);
    let kernel = small.kernel().join(" ");
    let held: BTreeSet<Ipv4Addr> = kernel.split([' ', '/']).filter_map(|word| word.parse().ok()).collect();
    let missing: Vec<Ipv4Addr> = peers.filter(|peer| !held.contains(peer)).collect();
    assert_eq!(missing, Vec::<Ipv4Addr>::new());
    assert!(!held.contains(&Ipv4Addr::new(10, 99, 0, 7)), "it is deleted");
}

#[test]
fn an_agent_that_runs_lists_anew_if_its_second_page_has_expired() {
    let Some(mut small) = Small::start() else { return };
    fill(&mut small);
    small.watches();
    let before = small.kernel();
    small.server().inject(Fault::no_streaming_lists());
    let held = small.server().inject(Fault::held().on(Resource::Pods).verbs(&[Verb::Page]));
    small.server().disturb(Some(Resource::Pods), Disturbance::Expire);
    small.server().wait("the second page is asked for", |_| held.met() == 1).unwrap();
    // Half a list takes nothing away.
    small.admits_only("web");
    assert_eq!(small.kernel(), before);
    delete_unseen(&mut small);
    held.lift();
    is_right(&mut small);
    assert_eq!(pages(small.server()), [Some(410), Some(200)]);
    assert_eq!(small.server().count(Resource::Pods, Verb::List), 2);
    small.admit("other");
}

#[test]
fn an_agent_that_starts_lists_anew_if_its_second_page_has_expired() {
    let Some(mut small) = Small::start() else { return };
    fill(&mut small);
    let (before, passes) = (small.kernel(), small.writes().len());
    small.lab.take_agent(NODE).unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
    small.server().inject(Fault::no_streaming_lists());
    let held = small.server().inject(Fault::held().on(Resource::Pods).verbs(&[Verb::Page]));
    small.lab.start_agent(NODE).unwrap();
    small.server().wait("the second page is asked for", |_| held.met() == 1).unwrap();
    small.admits_only("web");
    assert_eq!((small.kernel(), small.agent().generation()), (before, None));
    delete_unseen(&mut small);
    held.lift();
    small.agent().wait_generation(1).unwrap();
    is_right(&mut small);
    // The whole cluster took effect at once, and never half a list.
    let writes = small.writes_since(passes, "removed");
    assert_eq!(writes.iter().filter(|writes| *writes != "nothing").collect::<Vec<_>>(), ["70 members removed"]);
    assert_eq!(pages(small.server()), [Some(410), Some(200)]);
    assert_eq!(small.server().count(Resource::Pods, Verb::List), 2);
    small.admit("other");
}
