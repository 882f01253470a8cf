//! Addresses that the API lists for a pod and CNI did not report, beside those that it did.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use super::world::{World, add, attachment, links, pod};
use super::*;

/// The pod started before the plugin was in place, and got a second interface afterwards.
#[test]
fn a_second_interface_leaves_the_first_ones_address_isolated() {
    let web = pod("web", "u1", Some("10.0.0.5"));
    let mut second = add("c1", &web, &["10.9.0.5"], 1);
    second.attachment.interface = "net1".to_owned();
    let mut world = World::new().synced();
    world.object(&web);
    assert!(world.is_isolated("10.0.0.5"));
    world.sandboxes.add(second.clone());
    let mut next = World::after(world.saved());
    next.object(&web);
    for mut world in [world, next.synced()] {
        for text in ["10.0.0.5", "10.9.0.5"] {
            assert!(world.is_isolated(text), "{text}");
            assert_eq!(world.owner(text).as_deref(), Some("shop/web"), "{text}");
        }
        // With the interface its address goes, and no other.
        world.sandboxes.delete(&second.attachment);
        world.sandboxes.links_gone(&links([1]));
        assert!(world.is_isolated("10.0.0.5") && !world.is_isolated("10.9.0.5"));
    }
}

#[test]
fn an_address_of_the_family_that_cni_did_not_report_is_isolated() {
    let mut world = World::new().synced();
    let web = Pod { ipv6: Some("fd00::5".parse().unwrap()), ..pod("web", "u1", Some("10.0.0.5")) };
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.5"], 1));
    assert!(world.is_isolated("10.0.0.5") && world.is_isolated("fd00::5"));
    assert_eq!(world.owner("fd00::5").as_deref(), Some("shop/web"));
}

#[test]
fn an_address_that_cni_did_not_report_is_its_next_sandboxs_at_once() {
    let mut world = World::new().synced();
    let (web, db) = (pod("web", "u1", Some("10.0.0.5")), pod("db", "u2", None));
    world.object(&web);
    world.object(&db);
    world.sandboxes.add(add("c1", &web, &["10.0.0.6"], 1));
    assert_eq!(world.owner("10.0.0.5").as_deref(), Some("shop/web"));
    world.sandboxes.add(add("c2", &db, &["10.0.0.5"], 2));
    assert_eq!(world.owner("10.0.0.5").as_deref(), Some("shop/db"));
    // Its DEL does not give the address back while its interface is there.
    world.sandboxes.delete(&attachment("c2"));
    assert!(world.is_isolated("10.0.0.5") && !world.is_peer("10.0.0.5"));
}

/// The API server is away, and lists what the sandbox before had.
#[test]
fn an_address_that_cni_reported_before_is_past_for_as_long_as_its_pod_has_a_sandbox() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", Some("10.0.0.1"));
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.sandboxes.delete(&attachment("c1"));
    world.sandboxes.links_gone(&links([1]));
    world.sandboxes.add(add("c2", &web, &["10.0.0.2"], 2));
    (0..2 * BEHIND).for_each(|_| world.sandboxes.age());
    assert_eq!(world.owner("10.0.0.1"), None);
    // Without one it is the pod's after a while: it may have been started again without the plugin.
    world.sandboxes.delete(&attachment("c2"));
    (0..BEHIND).for_each(|_| world.sandboxes.age());
    assert_eq!(world.owner("10.0.0.1"), None);
    world.sandboxes.age();
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/web"));
}
