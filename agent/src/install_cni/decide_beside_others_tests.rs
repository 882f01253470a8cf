//! Beside other programs, other names of our file, and other plugins.

use super::*;

/// Whether the runtime's next ADD calls our plugin, and that does not take npc for uninstalled.
fn is_called(node: &Node) -> bool {
    let Some((name, FileContent::Bytes(bytes))) = node.files.iter().next() else { return false };
    let path = |name: &str| Path::new("/etc/cni/net.d").join(name);
    let names_itself = |(name, content): (&String, &FileContent)| match content {
        FileContent::Bytes(bytes) => npc_cni::configuration::names_itself(&path(name), bytes),
        _ => false,
    };
    ConfList::parse(name, bytes).is_ok()
        && crate::install_cni::conflist::leads_to(node.own, bytes) == Ok(true)
        && node.files.iter().any(names_itself)
}

/// Settles; after each action the plugin is called.
fn settle_without_an_open_moment(node: &mut Node) -> Decision {
    for _ in 0..8 {
        let decision = node.decide();
        if !node.act(&decision) {
            return decision;
        }
        assert!(is_called(node), "{:?}", node.files.keys());
    }
    panic!("it does not settle")
}

fn names(node: &Node) -> Vec<String> {
    node.files.keys().cloned().collect()
}

/// Another installer comes, with another name.
fn rename(node: &mut Node, own: &'static str) {
    (node.own, node.state) = (own, Decider::default());
}

#[test]
fn a_file_under_a_former_name_goes_once_ours_is_there() {
    for is_ready in [true, false] {
        let mut node = Node::with_azure();
        node.append("istio-cni");
        node.settle();
        node.is_ready = is_ready;
        for own in ["04-npc.conflist", "06-npc.conflist", "03-npc.conflist", OWN] {
            rename(&mut node, own);
            let decision = settle_without_an_open_moment(&mut node);
            assert_eq!(names(&node), [own, AZURE], "the agent is ready: {is_ready}");
            assert!(decision.installed && decision.alerts.is_empty(), "{decision:?}");
            // What others added comes along.
            assert_eq!(node.chain(), types(&["azure-vnet", "portmap", TYPE, "istio-cni"]));
        }
        // One that another program derived from ours stays.
        let copy = node.files[OWN].clone();
        node.files.insert("00-copy.conflist".to_owned(), copy);
        rename(&mut node, "04-npc.conflist");
        settle_without_an_open_moment(&mut node);
        assert_eq!(names(&node), ["00-copy.conflist", "04-npc.conflist", AZURE]);
    }
}

#[test]
fn a_former_file_stays_while_ours_cannot_come_and_goes_with_its_source() {
    let mut node = Node::with_azure();
    // A name that sorts after the source.
    rename(&mut node, "20-npc.conflist");
    let decision = settle_without_an_open_moment(&mut node);
    assert!(decision.installed, "{decision:?}");
    assert_eq!((names(&node), node.alerts()), (types(&[OWN, AZURE]), vec![AlertReason::NoSource]));
    // The same, and another file sorts after that name.
    node.put("30-last.conflist", list("last", &[json!({"type": "bridge"})]));
    rename(&mut node, "20-npc.conflist");
    let decision = settle_without_an_open_moment(&mut node);
    assert!(decision.installed, "{decision:?}");
    assert_eq!((names(&node)[..2].to_vec(), node.alerts()), (types(&[OWN, AZURE]), vec![AlertReason::Preempted]));
    node.files.retain(|name, _| name.as_str() < "20");
    // A source that cannot be read, and one that is gone for a moment.
    rename(&mut node, "04-npc.conflist");
    node.put(AZURE, b"{".to_vec());
    let decision = settle_without_an_open_moment(&mut node);
    assert!(decision.installed, "{decision:?}");
    assert_eq!((names(&node), node.alerts()), (types(&[OWN, AZURE]), vec![AlertReason::SourceBroken]));
    node.files.remove(AZURE);
    let decision = settle_without_an_open_moment(&mut node);
    assert_eq!((names(&node), decision.again), (types(&[OWN]), Some(node.now + GRACE)));
    node.wait(5);
    node.settle();
    assert!(node.files.is_empty());
}

#[test]
fn an_operator_turns_it_off_under_a_former_name_as_well() {
    let mut node = Node::with_azure();
    rename(&mut node, "04-npc.conflist");
    node.off = Some("05-npc.conflist.off");
    let decision = node.settle();
    assert_eq!(names(&node), [AZURE]);
    assert!(decision.alerts[0].words.contains("05-npc.conflist.off is there"), "{decision:?}");
}

#[test]
fn a_former_file_that_another_program_makes_again_is_met_with_ever_longer_waits() {
    let mut node = Node::with_azure();
    let former = node.files[OWN].clone();
    rename(&mut node, "04-npc.conflist");
    node.settle();
    let before = node.writes;
    for step in 0..1000 {
        node.files.insert(OWN.to_owned(), former.clone());
        let decision = settle_without_an_open_moment(&mut node);
        if step == 30 {
            assert_eq!(decision.alerts[0].reason, AlertReason::Contested, "{decision:?}");
            assert!(decision.again.is_some() && decision.installed);
        }
        node.wait(1);
    }
    assert!(node.writes - before < 20, "{} removals in 1000 s", node.writes - before);
    node.files.remove(OWN);
    assert_eq!(node.alerts(), []);
}

#[test]
fn a_program_that_writes_its_own_configuration_over_ours_added_nothing() {
    let bridge = || list("other", &[json!({"type": "bridge"}), json!({"type": "tuning"})]);
    let own = ["azure-vnet", "portmap", TYPE];
    for restarts in [false, true] {
        let mut node = Node::with_azure();
        node.put(OWN, bridge());
        if restarts {
            node.state = Decider::default();
        }
        let decision = node.settle();
        assert_eq!((node.chain(), decision.insertions), (types(&own), vec![]));
        // The same with our entry kept, and with what another program appended to it.
        node.edit(OWN, |plugins| {
            drop(plugins.splice(..2, [json!({"type": "bridge"}), json!({"type": "tuning"})]));
            plugins.push(json!({"type": "istio-cni"}));
        });
        node.settle();
        assert_eq!(node.chain(), types(&[own.as_slice(), &["istio-cni"]].concat()));
        // Without our entry, but with what was there: what is appended is an addition.
        node.edit(OWN, |plugins| {
            plugins.retain(|plugin| plugin["type"] != TYPE);
            plugins.push(json!({"type": "tuning"}));
        });
        node.settle();
        assert_eq!(node.chain(), types(&[own.as_slice(), &["istio-cni", "tuning"]].concat()));
    }
    // Again and again: it is reported, as each program that undoes ours.
    let mut node = Node::with_azure();
    for _ in 0..10 {
        node.put(OWN, bridge());
        node.settle();
    }
    assert!(node.alerts().contains(&AlertReason::Contested), "{:?}", node.alerts());
}

/// Multus's copy of our entry calls the plugin, which does nothing without our file.
#[test]
fn without_our_file_the_plugin_is_not_installed_even_if_another_file_leads_to_it() {
    let mut node = Node::with_azure();
    let multus = json!({"cniVersion": "1.0.0", "name": "m", "type": "multus", "delegates": [node.own().unwrap()]});
    node.put("00-multus.conf", multus.to_string().into_bytes());
    assert!(node.settle().installed);
    // The agent is away, and an operator removes our file.
    node.is_ready = false;
    node.files.remove(OWN);
    let decision = node.settle();
    assert!(!decision.installed, "{decision:?}");
    assert_eq!(node.alerts(), [AlertReason::AgentNotReady]);
    // Another program removes it, until we wait.
    node.is_ready = true;
    for _ in 0..10 {
        node.files.remove(OWN);
        node.settle();
    }
    node.files.remove(OWN);
    let decision = node.settle();
    assert!(!decision.installed && decision.again.is_some(), "{decision:?}");
    assert_eq!(node.alerts(), [AlertReason::Contested]);
    // The source is gone.
    node.files.remove(AZURE);
    node.state = Decider::default();
    let decision = node.settle();
    assert!(!decision.installed, "{decision:?}");
    assert_eq!(node.alerts(), [AlertReason::NoSource]);
}

#[test]
fn a_program_that_changes_the_source_whenever_it_removes_ours_is_met_with_ever_longer_waits() {
    for edits in [false, true] {
        let mut node = Node::with_azure();
        let mut has_told = false;
        for counter in 0..4000 {
            node.put(AZURE, list("azure", &[json!({"type": "azure-vnet", "counter": counter})]));
            if edits {
                node.edit(OWN, |plugins| plugins.retain(|plugin| plugin["type"] != TYPE));
            } else {
                node.files.remove(OWN);
            }
            has_told |= node.settle().alerts.iter().any(|alert| alert.reason == AlertReason::Contested);
            node.wait(1);
        }
        assert!(has_told && node.writes < 40, "{} writes in 4000 s, told: {has_told}", node.writes);
    }
    // A source that only changes is followed each time.
    let mut node = Node::with_azure();
    for counter in 0..100 {
        node.put(AZURE, list("azure", &[json!({"type": "azure-vnet", "counter": counter})]));
        let decision = node.settle();
        assert!(decision.alerts.is_empty(), "{decision:?}");
        assert_eq!(node.own().unwrap()["plugins"][0]["counter"], counter);
    }
}

#[test]
fn it_appears_only_with_all_plugins_in_place_and_reports_one_that_goes() {
    let plugins = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>());
    let mut node = Node::new();
    node.put(AZURE, azure());
    node.plugins = plugins(&["azure-vnet", TYPE]);
    let decision = node.settle();
    assert!(!decision.installed && decision.alerts[0].words.contains("names portmap,"), "{decision:?}");
    assert_eq!(decision.again, Some(node.now + AGENT_POLL));
    assert_eq!((node.alerts(), names(&node)), (vec![AlertReason::PluginMissing], types(&[AZURE])));
    node.plugins = plugins(&["azure-vnet", "portmap", TYPE]);
    let decision = node.settle();
    assert!(decision.installed && decision.alerts.is_empty(), "{decision:?}");
    // A file that is there is not taken away, and follows its source.
    node.append("istio-cni");
    let decision = node.settle();
    assert!(decision.installed, "{decision:?}");
    assert_eq!((node.alerts(), node.chain().len()), (vec![AlertReason::PluginMissing], 4));
    node.put(AZURE, list("azure", &[json!({"type": "bridge"})]));
    let decision = node.settle();
    assert!(decision.alerts[0].words.contains("names bridge, istio-cni,"), "{decision:?}");
    assert_eq!(node.chain(), types(&["bridge", TYPE, "istio-cni"]));
}
