//! Which addresses belong to which pod, after any order of reports.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use npc_compiler::engine::Engine;
use npc_compiler::ruleset::layout::RulesetOptions;
use proptest::prelude::*;

use super::world::{NODE, World, add, address, attachment, links, pod};
use super::*;
use crate::cni::endpoints::{UNIDENTIFIED, deny_all};

#[test]
fn a_pod_has_its_address_before_the_api_says_so() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", None);
    world.object(&web);
    assert_eq!(world.owner("10.0.0.1"), None);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1", "fd00::1"], 1));
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/web"));
    assert!(world.is_isolated("10.0.0.1") && world.is_isolated("fd00::1"));
    // The API catches up, and nothing changes.
    world.object(&pod("web", "u1", Some("10.0.0.1")));
    world.state();
    assert!(world.is_isolated("fd00::1"), "the API's list does not shorten CNI's");
}

#[test]
fn all_addresses_of_a_sandbox_are_isolated() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", None);
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"], 1));
    for each in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"] {
        assert!(world.is_isolated(each), "{each}");
        assert_eq!(world.owner(each).as_deref(), Some("shop/web"));
    }
}

/// The first sandbox ended without a DEL, and the network gave its address to the second one. Or the
/// second one never had the address.
#[test]
fn the_end_of_a_sandbox_gives_its_address_back_only_to_one_that_is_known_to_live() {
    let ends: [fn(&mut Sandboxes) -> usize; 3] = [
        |sandboxes| usize::from(sandboxes.delete(&attachment("c2"))),
        |sandboxes| sandboxes.links_gone(&links([2])),
        |sandboxes| sandboxes.collect("net", &[attachment("c1")].into(), Moment::now()),
    ];
    for (end, link) in ends.into_iter().flat_map(|end| [(end, 0), (end, 1)]) {
        let mut world = World::new().synced();
        let (old, new) = (pod("old", "u1", None), pod("new", "u2", None));
        world.object(&old);
        world.object(&new);
        world.sandboxes.add(add("c1", &old, &["10.0.0.1", "10.0.0.9"], link));
        world.sandboxes.add(add("c2", &new, &["10.0.0.1"], 2));
        let expected = if link == 0 { "shop/new" } else { "npc.dev/unidentified/10.0.0.1" };
        assert_eq!(world.owner("10.0.0.1").as_deref(), Some(expected));
        assert_eq!(end(&mut world.sandboxes), 1);
        let mut next = World::after(world.saved());
        next.object(&old);
        // Nor does the agent that follows.
        for mut world in [world, next.synced()] {
            let expected = if link == 0 { "npc.dev/unidentified/10.0.0.1" } else { "shop/old" };
            assert_eq!(world.owner("10.0.0.1").as_deref(), Some(expected));
            assert_eq!(world.is_peer("10.0.0.1"), link != 0);
            assert!(world.is_isolated("10.0.0.1"), "its sandbox may be there");
            assert_eq!(world.owner("10.0.0.9").as_deref(), Some("shop/old"), "its other address");
            // The runtime says that it is there.
            world.sandboxes.add(add("c1", &old, &["10.0.0.1"], link));
            assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/old"));
        }
    }
}

/// Nothing tells which of them has it, and one may be more isolated than the other.
#[test]
fn an_address_that_two_running_pods_have_is_isolated_until_one_ends() {
    type EndOfOne = fn(&mut World, &Pod);
    let (web, free) = (pod("web", "u1", None), pod("free", "u2", None));
    let ends: [(EndOfOne, &str); 6] = [
        (
            |world, _| {
                world.sandboxes.delete(&attachment("c1"));
            },
            "shop/free",
        ),
        (
            |world, _| {
                world.sandboxes.delete(&attachment("c2"));
            },
            "shop/web",
        ),
        (
            |world, _| {
                world.sandboxes.links_gone(&links([1]));
            },
            "shop/free",
        ),
        (|world, web| world.object(&Pod { terminating: true, ..web.clone() }), "shop/free"),
        (|world, web| world.object(&Pod { finished: true, ..web.clone() }), "shop/free"),
        (|world, web| world.gone(web), "shop/free"),
    ];
    for (place, (end, owner)) in ends.into_iter().enumerate() {
        let mut world = World::new().synced();
        world.object(&web);
        world.sandboxes.add(add("c1", &web, &["10.0.0.1", "10.0.0.9"], 1));
        // Its pod is known, or may start before it is.
        let is_open = place % 2 == 0;
        if !is_open {
            world.object(&free);
        }
        world.sandboxes.add(Add { open: is_open, ..add("c2", &free, &["10.0.0.1"], 2) });
        for _ in 0..2 {
            assert_eq!(world.owner("10.0.0.1").as_deref(), Some("npc.dev/unidentified/10.0.0.1"), "{place}");
            assert!(world.is_isolated("10.0.0.1") && !world.is_peer("10.0.0.1"), "{place}");
            assert_eq!(world.sandboxes.contested(), [address("10.0.0.1")].into(), "{place}");
            assert_eq!(world.owner("10.0.0.9").as_deref(), Some("shop/web"), "its other address");
            world.object(&free);
        }
        end(&mut world, &web);
        assert_eq!(world.owner("10.0.0.1").as_deref(), Some(owner), "{place}");
        assert!(world.sandboxes.contested().is_empty(), "{place}");
    }
    // Two sandboxes of one pod say nothing against each other.
    let mut world = World::new().synced();
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.sandboxes.add(add("c2", &web, &["10.0.0.1"], 2));
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/web"));
}

#[test]
fn an_add_again_with_other_addresses_releases_the_former_ones() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", None);
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1", "10.0.0.2"], 1));
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/web"));
    // The container may still have it: its interface is there.
    assert!(world.is_isolated("10.0.0.2") && !world.is_peer("10.0.0.2"));
    world.sandboxes.links_gone(&links([1]));
    assert!(!world.is_isolated("10.0.0.2"));
}

#[test]
fn an_address_is_the_new_pods_though_the_api_lists_it_for_the_old_one() {
    let mut world = World::new().synced();
    let (old, new) = (pod("old", "u1", Some("10.0.0.1")), pod("new", "u2", None));
    world.object(&old);
    world.object(&new);
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/old"), "CNI never reported it");
    world.sandboxes.add(add("c2", &new, &["10.0.0.1"], 2));
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/new"));
    // A claim of the API that comes later changes nothing either.
    world.object(&Pod { started: Some(i64::MAX), ..old });
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/new"));
}

#[test]
fn a_late_del_of_the_old_sandbox_takes_nothing_from_the_new_one() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", None);
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.sandboxes.add(add("c2", &web, &["10.0.0.1"], 2));
    world.sandboxes.removed(&attachment("c1"), Moment::now());
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/web"));
    assert!(!world.sandboxes.delete(&attachment("c1")), "twice");
    assert!(!world.sandboxes.delete(&attachment("never")), "unknown");
    world.sandboxes.links_gone(&links([1]));
    assert!(world.is_isolated("10.0.0.1"));
}

#[test]
fn a_sandbox_made_again_with_another_address_has_that_one_only() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", None);
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.object(&pod("web", "u1", Some("10.0.0.1")));
    world.sandboxes.add(add("c2", &web, &["10.0.0.2"], 2));
    world.sandboxes.delete(&attachment("c1"));
    world.sandboxes.links_gone(&links([1]));
    assert_eq!(world.owner("10.0.0.2").as_deref(), Some("shop/web"));
    assert_eq!(world.owner("10.0.0.1"), None, "though the API still lists it");
}

/// No DEL came: the runtime forgot the sandbox. Nor does a GC end one that had just begun.
#[test]
fn a_sandbox_made_again_ends_the_one_before_and_its_claim_to_an_address() {
    for is_late in [false, true] {
        let mut world = World::new().synced();
        let (web, free) = (pod("web", "u1", None), pod("free", "u2", None));
        world.object(&web);
        world.object(&free);
        let began = Moment::now();
        let before = add("c1", &web, &["10.0.0.1"], 1);
        world.sandboxes.admit(before.clone(), began, true);
        while Moment::now() == began {}
        world.sandboxes.add(add("c2", &free, &["10.0.0.1"], 2));
        assert_eq!(world.owner("10.0.0.1").as_deref(), Some("npc.dev/unidentified/10.0.0.1"));
        // Another interface of the same pod says nothing against it.
        let mut second = add("c1", &web, &["10.0.0.8"], 1);
        second.attachment.interface = "net1".to_owned();
        world.sandboxes.add(second);
        assert_eq!(world.owner("10.0.0.1").as_deref(), Some("npc.dev/unidentified/10.0.0.1"));
        world.sandboxes.add(add("c3", &web, &["10.0.0.2"], 3));
        if is_late {
            // A plugin that outlived its runtime.
            world.sandboxes.admit(before, began, true);
        }
        assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/free"));
        assert_eq!(world.owner("10.0.0.2").as_deref(), Some("shop/web"));
        assert!(world.sandboxes.contested().is_empty() && world.sandboxes.sandbox(&attachment("c1")).is_none());
    }
    // Until another pod has the address, the agent isolates it as after a DEL.
    let mut world = World::new().synced();
    let web = pod("web", "u1", None);
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.sandboxes.add(add("c2", &web, &["10.0.0.2"], 2));
    assert!(world.is_isolated("10.0.0.1") && !world.is_peer("10.0.0.1") && world.is_peer("10.0.0.2"));
    world.sandboxes.links_gone(&links([1]));
    assert_eq!(world.owner("10.0.0.1"), None);
}

/// The agent before could not save that one of them ended, and that its address was given to another pod.
#[test]
fn of_a_file_that_is_out_of_date_only_sandboxes_that_are_there_count() {
    let mut world = World::new().synced();
    let (web, old) = (pod("web", "u1", None), pod("old", "u2", None));
    world.object(&web);
    world.object(&old);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.sandboxes.add(add("c2", &old, &["10.0.0.2"], 0));
    world.state();
    let saved = Saved { is_stale: true, ..world.saved() };
    let is_there = |add: &Add| add.host_interface.is_some();
    let mut next = World::after(saved.without_doubtful(is_there)).synced();
    next.object(&web);
    next.object(&old);
    assert_eq!(next.owner("10.0.0.1").as_deref(), Some("shop/web"));
    assert_eq!(next.owner("10.0.0.2").as_deref(), Some("npc.dev/unidentified/10.0.0.2"));
    assert!(next.is_isolated("10.0.0.2") && !next.is_peer("10.0.0.2"));
    // The API says whose it is: that of another pod, or again of this one.
    next.object(&pod("new", "u3", Some("10.0.0.2")));
    assert_eq!(next.owner("10.0.0.2").as_deref(), Some("shop/new"));
    next.gone(&pod("new", "u3", None));
    next.object(&pod("old", "u2", Some("10.0.0.2")));
    assert_eq!(next.owner("10.0.0.2").as_deref(), Some("shop/old"));
    // A file of which nothing is known against it counts as it is.
    assert_eq!(world.saved().without_doubtful(|_| false), world.saved());
}

#[test]
fn a_pod_made_again_under_its_name_waits_for_its_own_object() {
    let mut world = World::new().synced();
    world.object(&pod("db-0", "u1", Some("10.0.0.1")));
    let again = add("c2", &pod("db-0", "u2", None), &["10.0.0.2"], 2);
    assert!(world.sandboxes.arrived(&again).is_none());
    world.object(&pod("db-0", "u2", None));
    assert!(world.sandboxes.arrived(&again).is_some());
    // A runtime that gives no UID means the one that stays.
    let nameless = Add { uid: None, ..again };
    assert!(world.sandboxes.arrived(&nameless).is_some());
}

#[test]
fn a_static_pod_is_isolated_until_its_mirror_is_read() {
    let mut world = World::new().synced();
    let hash = "5f0b0d1ea9a7f1d9c8f7a6b5c4d3e2f1";
    let etcd = add("c1", &pod("etcd-node-1", hash, None), &["10.0.0.1"], 1);
    assert!(world.sandboxes.arrived(&etcd).is_none());
    world.sandboxes.add(etcd);
    assert!(world.is_isolated("10.0.0.1") && !world.is_peer("10.0.0.1"));
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("npc.dev/unidentified/10.0.0.1"));
    // The mirror of an older manifest is another pod.
    let stale = Pod { config_hash: Some("0".repeat(32)), ..pod("etcd-node-1", "m0", None) };
    world.object(&stale);
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("npc.dev/unidentified/10.0.0.1"));
    world.gone(&stale);
    world.object(&Pod { config_hash: Some(hash.to_owned()), ..pod("etcd-node-1", "m1", None) });
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/etcd-node-1"));
    assert!(world.is_peer("10.0.0.1"));
}

/// `kubectl delete pod` of a mirror leaves the static pod as it is; kubelet makes another mirror.
#[test]
fn a_static_pod_keeps_its_policies_when_its_mirror_is_deleted() {
    let hash = "5f0b0d1ea9a7f1d9c8f7a6b5c4d3e2f1";
    let mirror = |uid: &str| Pod { config_hash: Some(hash.to_owned()), ..pod("etcd-node-1", uid, None) };
    let mut world = World::new().synced();
    world.object(&mirror("m1"));
    world.sandboxes.add(add("c1", &pod("etcd-node-1", hash, None), &["10.0.0.1"], 1));
    for (gone, next) in [("m1", "m2"), ("m2", "m2")] {
        world.gone(&mirror(gone));
        assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/etcd-node-1"));
        assert!(world.is_peer("10.0.0.1"));
        world.object(&mirror(next));
        assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/etcd-node-1"));
        assert_eq!(world.sandboxes.pods.len(), 1, "one mirror is enough");
    }
    // One of another manifest is another pod's.
    world.gone(&mirror("m2"));
    let other = Pod { config_hash: Some("0".repeat(32)), ..pod("etcd-node-1", "m3", None) };
    world.object(&other);
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/etcd-node-1"));
    world.gone(&other);
    assert_eq!(world.sandboxes.pods.len(), 1, "it has no sandbox");
    // With the sandbox the mirror goes.
    world.sandboxes.delete(&attachment("c1"));
    world.sandboxes.links_gone(&links([1]));
    assert_eq!(world.owner("10.0.0.1"), None);
    assert!(world.sandboxes.pods.is_empty() && world.sandboxes.deleted_mirrors.is_empty());
}

/// `openNamespaces`: a node may need this pod before the agent can know its object.
#[test]
fn a_pod_that_may_start_without_its_rules_is_not_isolated_while_its_object_is_unknown() {
    let web = pod("web", "u1", None);
    let mut world = World::new().synced();
    world.sandboxes.admit(Add { open: true, ..add("c1", &web, &["10.0.0.1"], 1) }, Moment::now(), true);
    for _ in 0..2 {
        assert!(!world.is_isolated("10.0.0.1"));
        // So for the agent that follows.
        world = World::after(world.saved()).synced();
    }
    world.object(&web);
    assert!(world.is_isolated("10.0.0.1"));
    // From then on it is a pod as any other.
    world.gone(&web);
    assert!(world.is_isolated("10.0.0.1"));
    let mut after = World::after(world.saved()).synced();
    assert!(after.is_isolated("10.0.0.1"));
}

#[test]
fn a_pod_whose_object_went_first_stays_isolated_while_its_sandbox_lives() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", Some("10.0.0.1"));
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.gone(&web);
    assert!(world.is_isolated("10.0.0.1") && !world.is_peer("10.0.0.1"));
    // So does one that is finished in the API.
    world.object(&Pod { finished: true, ..web });
    assert!(world.is_isolated("10.0.0.1"));
    world.sandboxes.delete(&attachment("c1"));
    world.sandboxes.links_gone(&links([1]));
    assert!(!world.is_isolated("10.0.0.1"));
}

#[test]
fn a_sandbox_that_was_known_before_its_object_counts_as_any_other() {
    let mut world = World::new();
    let web = pod("web", "u1", Some("10.0.0.1"));
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.object(&web);
    let mut world = world.synced();
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/web"));
    world.sandboxes.delete(&attachment("c1"));
    world.sandboxes.links_gone(&links([1]));
    assert_eq!(world.owner("10.0.0.1"), None, "the API lists it in vain");
}

#[test]
fn pods_from_files_without_uids_are_known_by_their_names() {
    let mut world = World::new().synced();
    let (one, other) = (pod("one", "", None), pod("other", "", Some("10.0.0.2")));
    world.object(&one);
    world.object(&other);
    world.sandboxes.add(Add { uid: Some("u1".to_owned()), ..add("c1", &one, &["10.0.0.1"], 1) });
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/one"));
    world.state();
    assert_eq!(world.owner("10.0.0.2").as_deref(), Some("shop/other"), "CNI never reported it");
}

#[test]
fn pods_from_files_without_uids_have_all_their_addresses() {
    let mut world = World::new().synced();
    let (one, other) = (pod("one", "", None), pod("other", "", None));
    world.object(&one);
    world.object(&other);
    for (container, pod, addresses) in
        [("c1", &one, ["10.0.0.1", "10.0.0.2"]), ("c2", &other, ["10.0.0.3", "10.0.0.4"])]
    {
        world.sandboxes.add(Add { uid: Some(container.to_owned()), ..add(container, pod, &addresses, 1) });
    }
    for (address, owner) in [("10.0.0.1", "one"), ("10.0.0.2", "one"), ("10.0.0.3", "other"), ("10.0.0.4", "other")] {
        assert_eq!(world.owner(address), Some(format!("shop/{owner}")), "{address}");
        assert!(world.is_isolated(address), "{address}");
    }
}

#[test]
fn before_the_source_is_complete_no_pod_is_unidentified() {
    let mut world = World::new();
    world.sandboxes.add(add("c1", &pod("web", "u1", None), &["10.0.0.1"], 1));
    assert_eq!(world.sandboxes.update(), []);
    let mut world = world.synced();
    assert!(world.is_isolated("10.0.0.1"));
}

#[test]
fn a_gc_ends_what_it_does_not_list_of_its_network() {
    let mut world = World::new().synced();
    let pods = ["u1", "u2", "u3"].map(|uid| pod(uid, uid, None));
    for pod in &pods {
        world.object(pod);
    }
    world.sandboxes.add(add("c1", &pods[0], &["10.0.0.1"], 1));
    world.sandboxes.add(add("c2", &pods[1], &["10.0.0.2"], 2));
    world.sandboxes.add(Add { network: "other".to_owned(), ..add("c3", &pods[2], &["10.0.0.3"], 3) });
    assert_eq!(world.sandboxes.collect("net", &[attachment("c2")].into(), Moment::now()), 1);
    assert_eq!(world.sandboxes.len(), 2);
    assert!(world.sandboxes.sandbox(&attachment("c1")).is_none());
    // The runtime may have listed what it had before the ADD of this one was over.
    let before = Moment::now().before(std::time::Duration::from_secs(1));
    assert_eq!(world.sandboxes.collect("net", &BTreeSet::new(), before), 0);
}

#[test]
fn pods_of_other_nodes_and_other_objects_pass_as_they_are() {
    let mut sandboxes = Sandboxes::new(NODE, Saved::default());
    let elsewhere = Event::Pod(Box::new(Pod { node: Some("node-2".to_owned()), ..pod("web", "u1", Some("10.1.0.1")) }));
    assert_eq!(sandboxes.object(elsewhere.clone()), Some(elsewhere));
    let gone = Event::PodGone(PodKey::Name("a".into(), "b".into()));
    assert_eq!(sandboxes.object(gone.clone()), Some(gone));
    let namespace = Event::NamespaceGone("a".to_owned());
    assert_eq!(sandboxes.object(namespace.clone()), Some(namespace));
}

/// The cluster's users can correct nothing of it.
#[test]
fn the_policy_of_endpoints_without_an_object_is_no_finding() {
    let mut engine = Engine::new(NODE, RulesetOptions::default());
    engine.apply(Event::Policy(Box::new(deny_all())));
    engine.commit();
    assert_eq!(engine.findings().next(), None);
}

/// What can happen, about three pods, three containers, two addresses and links. A third address CNI never
/// reports.
#[derive(Debug, Clone)]
enum Happening {
    Object(usize, Option<usize>, bool),
    Gone(usize),
    Add(usize, usize, usize, bool),
    Delete(usize),
    Link(usize),
    Restart,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        (0..3_usize, proptest::option::of(0..3_usize), any::<bool>()).prop_map(|(p, a, f)| Happening::Object(p, a, f)),
        (0..3_usize).prop_map(Happening::Gone),
        (0..3_usize, 0..3_usize, 0..2_usize, any::<bool>()).prop_map(|(c, p, a, both)| Happening::Add(c, p, a, both)),
        (0..3_usize).prop_map(Happening::Delete),
        (0..3_usize).prop_map(Happening::Link),
        Just(Happening::Restart),
    ];
    proptest::collection::vec(one, 0..24)
}

proptest! {
    /// Changes given one by one and all at once lead to the same state. Regardless of what the API lists, a live
    /// sandbox's address is isolated. It is its pod's if the object is known and no other running pod may have it. An
    /// address that only the API knows is isolated too, and belongs to a pod that lists it, with any sandboxes of that
    /// pod.
    #[test]
    fn a_live_sandboxs_address_is_never_open(steps in happenings()) {
        let texts = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
        let mut world = World::new().synced();
        let mut objects: BTreeMap<usize, Pod> = BTreeMap::new();
        // The container to which the network gave each address last, unless that has ended.
        let mut latest: [Option<usize>; 2] = [None; 2];
        // The pod of each container.
        let mut pods: BTreeMap<usize, usize> = BTreeMap::new();
        for step in steps {
            let of = |p: usize, a: Option<usize>| pod(&format!("p{p}"), &format!("u{p}"), a.map(|a| texts[a]));
            match step {
                Happening::Object(p, a, finished) => {
                    let pod = Pod { finished, ..of(p, a) };
                    world.object(&pod);
                    objects.insert(p, pod);
                }
                Happening::Gone(p) => {
                    world.gone(&of(p, None));
                    objects.remove(&p);
                }
                Happening::Add(c, p, a, both) => {
                    // The last one has no interface on the node.
                    let link = (u32::try_from(c).unwrap() + 1) % 3;
                    let addresses = if both { vec![texts[a], texts[1 - a]] } else { vec![texts[a]] };
                    world.sandboxes.add(add(&format!("c{c}"), &of(p, None), &addresses, link));
                    // A sandbox of the same pod before it has ended.
                    pods.retain(|other, of| *other == c || *of != p);
                    pods.insert(c, p);
                    latest = latest.map(|latest| latest.filter(|last| pods.contains_key(last)));
                    for (text, latest) in texts.iter().zip(&mut latest) {
                        *latest = if addresses.contains(text) { Some(c) } else { latest.filter(|last| *last != c) };
                    }
                }
                Happening::Delete(c) => {
                    world.sandboxes.delete(&attachment(&format!("c{c}")));
                    latest = latest.map(|latest| latest.filter(|last| *last != c));
                }
                Happening::Link(c) => {
                    world.sandboxes.links_gone(&links([u32::try_from(c).unwrap() + 1]));
                    latest = latest.map(|latest| latest.filter(|last| *last != c || c == 2));
                }
                Happening::Restart => {
                    world = World::after(world.saved());
                    for pod in objects.values() { world.object(pod); }
                    world = world.synced();
                }
            }
            world.state();
            let live: Vec<Add> = world.saved().sandboxes.into_iter().map(|saved| saved.add).collect();
            for (text, latest) in texts.into_iter().zip(latest) {
                let mut latest_first = live.iter().rev().filter(|add| add.addresses.contains(&address(text)));
                let Some(add) = latest_first.next() else { continue };
                let runs = |uid: Option<&String>| objects.values().any(|pod| Some(&pod.uid) == uid && !pod.finished);
                let is_contested = latest_first.any(|earlier| {
                    earlier.host_interface.is_some() && earlier.uid != add.uid && runs(earlier.uid.as_ref())
                });
                prop_assert!(world.is_isolated(text), "{text}");
                let is_latest = latest.is_some_and(|c| add.attachment.container_id == format!("c{c}"));
                let may_be_nobodys = add.host_interface.is_none() && !is_latest;
                let known = !may_be_nobodys && !is_contested && runs(add.uid.as_ref());
                let owner = world.owner(text);
                let expected = if known { format!("shop/{}", add.name) } else { format!("{UNIDENTIFIED}/{text}") };
                prop_assert_eq!(owner, Some(expected));
            }
            let lists = |pod: &&Pod| !pod.finished && pod.addresses().any(|listed| listed == address(texts[2]));
            let listing: Vec<String> = objects.values().filter(lists).map(|pod| format!("shop/{}", pod.name)).collect();
            if !listing.is_empty() {
                prop_assert!(world.is_isolated(texts[2]));
                prop_assert!(world.owner(texts[2]).is_some_and(|owner| listing.contains(&owner)));
            }
            prop_assert_eq!(world.wanted(), world.given.clone());
        }
    }
}

#[test]
fn an_address_that_is_reported_twice_is_one_endpoint() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", None);
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1", "fd00::1", "10.0.0.1"], 1));
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/web"));
    assert_eq!(world.given.len(), 1);
}
