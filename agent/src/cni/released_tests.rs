//! Addresses after their sandboxes, and what the next agent knows of them.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use super::world::{World, add, attachment, links, pod};
use super::*;

#[test]
fn a_sandbox_made_again_without_the_plugin_has_the_address_that_the_api_lists() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", None);
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.state();
    world.sandboxes.delete(&attachment("c1"));
    world.sandboxes.links_gone(&links([1]));
    world.object(&pod("web", "u1", Some("10.0.0.1")));
    assert_eq!(world.owner("10.0.0.1"), None, "the API is behind");
    world.object(&pod("web", "u1", Some("10.0.0.2")));
    assert_eq!(world.owner("10.0.0.2").as_deref(), Some("shop/web"));
    assert!(world.is_isolated("10.0.0.2"));
    // An agent that starts then knows the same.
    let saved = world.saved();
    for (listed, expected) in [("10.0.0.1", None), ("10.0.0.2", Some("shop/web"))] {
        let mut after = World::after(saved.clone());
        after.object(&pod("web", "u1", Some(listed)));
        assert_eq!(after.synced().owner(listed).as_deref(), expected, "{listed}");
    }
}

#[test]
fn a_pod_that_is_started_again_without_the_plugin_may_have_an_address_of_a_failed_sandbox() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", None);
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.sandboxes.delete(&attachment("c1"));
    world.sandboxes.links_gone(&links([1]));
    world.object(&pod("web", "u1", Some("10.0.0.1")));
    for _ in 0..BEHIND {
        world.sandboxes.age();
    }
    assert_eq!(world.owner("10.0.0.1"), None, "the API may be behind for so long");
    world.sandboxes.age();
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/web"));
    // Never while another sandbox has it.
    let db = pod("db", "u2", None);
    world.object(&db);
    world.sandboxes.add(add("c2", &db, &["10.0.0.1"], 2));
    (0..200).for_each(|_| world.sandboxes.age());
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/db"));
}

#[test]
fn a_file_of_an_older_agent_is_read() {
    let link = r#"{"name":"veth1","index":1}"#;
    let text = format!(r#"{{"sandboxes":[],"released":[["10.0.0.1",{link}]],"reported":["u1"]}}"#);
    for (listed, expected) in [("10.0.0.1", "npc.dev/unidentified/10.0.0.1"), ("10.0.0.2", "shop/web")] {
        let mut world = World::after(serde_json::from_str(&text).unwrap());
        world.object(&pod("web", "u1", Some(listed)));
        assert_eq!(world.synced().owner(listed).as_deref(), Some(expected));
    }
}

#[test]
fn a_released_address_is_no_peer_and_stays_isolated_until_its_interface_is_gone() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", Some("10.0.0.1"));
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    assert!(world.is_peer("10.0.0.1"));
    world.sandboxes.delete(&attachment("c1"));
    assert!(!world.is_peer("10.0.0.1") && world.is_isolated("10.0.0.1"));
    world.sandboxes.links_gone(&links([7]));
    assert!(world.is_isolated("10.0.0.1"), "another interface");
    world.sandboxes.links_gone(&links([1]));
    assert!(!world.is_isolated("10.0.0.1"));
    assert_eq!(world.owner("10.0.0.1"), None);
}

#[test]
fn a_released_address_is_its_next_owners_at_once() {
    let mut world = World::new().synced();
    let (old, new) = (pod("old", "u1", Some("10.0.0.1")), pod("new", "u2", None));
    world.object(&old);
    world.object(&new);
    world.sandboxes.add(add("c1", &old, &["10.0.0.1"], 1));
    world.sandboxes.delete(&attachment("c1"));
    world.sandboxes.add(add("c2", &new, &["10.0.0.1"], 2));
    assert_eq!(world.owner("10.0.0.1").as_deref(), Some("shop/new"));
    assert!(world.is_peer("10.0.0.1"));
}

/// Of a macvlan no interface of the node shows that it is gone.
#[test]
fn an_address_without_an_interface_of_the_node_stays_isolated_for_a_while_after_its_del() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", None);
    world.object(&web);
    for container in ["c1", "c2"] {
        world.sandboxes.add(add(container, &web, &["10.0.0.1"], 0));
        assert!(world.is_peer("10.0.0.1"));
        world.sandboxes.delete(&attachment(container));
        assert!(world.is_isolated("10.0.0.1") && !world.is_peer("10.0.0.1"));
        world.sandboxes.age();
    }
    // The next agent goes on with that.
    let saved = world.saved();
    let mut next = World::after(saved).synced();
    next.object(&web);
    for (world, rounds) in [(&mut world, HELD - 1), (&mut next, HELD)] {
        for _ in 1..rounds {
            world.sandboxes.age();
        }
        assert!(world.is_isolated("10.0.0.1"));
        world.sandboxes.age();
        assert!(!world.is_isolated("10.0.0.1"));
    }
    // Another sandbox has it at once.
    next.sandboxes.add(add("c3", &web, &["10.0.0.1"], 0));
    next.sandboxes.delete(&attachment("c3"));
    let other = pod("other", "u2", None);
    next.object(&other);
    next.sandboxes.add(add("c4", &other, &["10.0.0.1"], 0));
    assert_eq!(next.owner("10.0.0.1").as_deref(), Some("shop/other"));
}

#[test]
fn a_sandbox_goes_with_its_network_namespace_where_the_node_has_no_end_of_its_interface() {
    let mut world = World::new().synced();
    let pods = ["c1", "c2", "c3"].map(|name| pod(name, name, None));
    for pod in &pods {
        world.object(pod);
    }
    let in_netns = |container: &str, address: &str, link| Add {
        netns: format!("/run/netns/{container}"),
        ..add(container, &pod(container, container, None), &[address], link)
    };
    world.sandboxes.add(in_netns("c1", "10.0.0.1", 0));
    world.sandboxes.add(in_netns("c2", "10.0.0.2", 0));
    // Its interface says when it is gone.
    world.sandboxes.add(in_netns("c3", "10.0.0.3", 3));
    let all: BTreeSet<String> = ["c1", "c2"].map(|name| format!("/run/netns/{name}")).into();
    let there = SeenLinks::from([(3, Some("veth3"))]);
    assert_eq!(world.sandboxes.netns_without_link(&there), all);
    let gone: BTreeSet<String> = ["c1", "c3"].map(|name| format!("/run/netns/{name}")).into();
    assert_eq!(world.sandboxes.netns_gone(&gone, &there), 1);
    assert_eq!(world.sandboxes.len(), 2);
    assert!(world.is_isolated("10.0.0.1") && !world.is_peer("10.0.0.1"));
    assert!(world.is_peer("10.0.0.2") && world.is_peer("10.0.0.3"));
    // Another interface has that index now, or its own has another name: the file decides.
    let other = SeenLinks::from([(3, Some("tap0"))]);
    assert!(world.sandboxes.netns_without_link(&other).contains("/run/netns/c3"));
    assert_eq!(world.sandboxes.netns_gone(&gone, &other), 1);
    assert!(!world.is_peer("10.0.0.3"));
}

/// An interface that comes from another network namespace keeps its index, if that is free.
#[test]
fn an_address_is_released_though_another_interface_has_the_index_of_its_own() {
    let mut world = World::new().synced();
    let web = pod("web", "u1", None);
    world.object(&web);
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.sandboxes.add(add("c2", &web, &["10.0.0.2"], 2));
    world.sandboxes.delete(&attachment("c1"));
    let same = SeenLinks::from([(1, Some("veth1")), (2, Some("veth2"))]);
    assert_eq!(world.sandboxes.links_gone(&same), 0);
    assert!(world.is_isolated("10.0.0.1"));
    let others = SeenLinks::from([(1, Some("tap1")), (2, Some("tap2"))]);
    assert_eq!(world.sandboxes.links_gone(&others), 0);
    assert!(!world.is_isolated("10.0.0.1"));
    // A program may have given the interface of the one that lives another name.
    assert!(world.is_peer("10.0.0.2"));
}

#[test]
fn an_agent_after_this_one_knows_the_same() {
    let mut world = World::new().synced();
    let (web, old) = (pod("web", "u1", Some("10.0.0.9")), pod("old", "u2", Some("10.0.0.2")));
    world.object(&web);
    world.object(&old);
    world.sandboxes.add(add("c2", &old, &["10.0.0.2"], 2));
    world.sandboxes.add(add("c1", &web, &["10.0.0.1"], 1));
    world.sandboxes.delete(&attachment("c2"));
    let before = world.state().clone();
    let saved = world.saved();
    let mut after = World::after(saved);
    after.object(&old);
    after.object(&web);
    let mut after = after.synced();
    assert_eq!(after.state(), &before);
    assert_eq!(after.owner("10.0.0.2").as_deref(), Some("npc.dev/unidentified/10.0.0.2"));
    // What became of it while no agent ran: the interfaces are gone.
    assert_eq!(after.sandboxes.links_gone(&links([1, 2])), 1);
    assert_eq!(after.owner("10.0.0.1"), None);
}
