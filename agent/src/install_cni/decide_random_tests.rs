//! Random sequences of all that may happen to a folder.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// What happens to a folder.
#[derive(Debug, Clone)]
enum Event {
    Source(usize, &'static str),
    Gone(&'static str),
    Append(&'static str),
    Unappend(&'static str),
    Insert(usize),
    DeleteOwn,
    DamageOwn,
    StripOwn,
    Multus(bool),
    Restart,
    Wait(u64),
    Ready(bool),
    Off(bool),
    LinkOwn,
    Rename(&'static str),
    Plugins(bool),
}

/// The names that our file has had.
const NAMES: [&str; 3] = [OWN, "04-npc.conflist", "06-npc.conflist"];

const SOURCES: [&str; 3] = [AZURE, "20-other.conf", "30-last.conflist"];

fn source(variant: usize, name: &str) -> Vec<u8> {
    let single = !name.ends_with(".conflist");
    match variant {
        0 if single => br#"{"cniVersion":"0.4.0","name":"one","type":"ptp"}"#.to_vec(),
        0 => azure(),
        1 if single => br#"{"cniVersion":"1.1.0","name":"two","type":"bridge","x":{"y":[1]}}"#.to_vec(),
        1 => list("azure", &[json!({"type": "azure-vnet"})]),
        2 => list("azure", &[json!({"type": "azure-vnet"}), json!({"type": "istio-cni"})]),
        3 => b"{\"half".to_vec(),
        4 => list("by-hand", &[json!({"type": "ptp"}), json!({"type": TYPE})]),
        _ => br#"{"cniVersion":"0.2.0","name":"old","plugins":[{"type":"a"}],"type":"a"}"#.to_vec(),
    }
}

fn event() -> impl Strategy<Value = Event> {
    let name = prop::sample::select(&SOURCES[..]);
    let kind = prop::sample::select(&["istio-cni", "linkerd-cni", "portmap"][..]);
    prop_oneof![
        4 => (0..6usize, name.clone()).prop_map(|(variant, name)| Event::Source(variant, name)),
        2 => name.prop_map(Event::Gone),
        3 => kind.clone().prop_map(Event::Append),
        1 => kind.prop_map(Event::Unappend),
        1 => (0..3usize).prop_map(Event::Insert),
        1 => Just(Event::DeleteOwn),
        1 => Just(Event::DamageOwn),
        1 => Just(Event::StripOwn),
        1 => any::<bool>().prop_map(Event::Multus),
        2 => Just(Event::Restart),
        3 => prop::sample::select(&[1u64, 4, 6, 70, 1000][..]).prop_map(Event::Wait),
        1 => any::<bool>().prop_map(Event::Ready),
        1 => any::<bool>().prop_map(Event::Off),
        1 => Just(Event::LinkOwn),
        2 => prop::sample::select(&NAMES[..]).prop_map(Event::Rename),
        1 => any::<bool>().prop_map(Event::Plugins),
    ]
}

fn happen(node: &mut Node, event: &Event) {
    match *event {
        Event::Source(variant, name) => node.put(name, source(variant, name)),
        Event::Gone(name) => drop(node.files.remove(name)),
        Event::Append(kind) => node.append(kind),
        Event::Unappend(kind) => node.edit(node.own, |plugins| plugins.retain(|plugin| plugin["type"] != kind)),
        Event::Insert(at) => node.edit(node.own, |plugins| {
            plugins.retain(|plugin| plugin["type"] != "squeezed");
            plugins.insert(at.min(plugins.len()), json!({"type": "squeezed"}));
        }),
        Event::DeleteOwn => drop(node.files.remove(node.own)),
        Event::DamageOwn => node.put(node.own, b"{\"plugins\": [".to_vec()),
        Event::StripOwn => node.edit(node.own, |plugins| plugins.retain(|plugin| plugin["type"] != TYPE)),
        Event::Multus(true) => {
            let next = node.files.iter().find(|(name, _)| name.as_str() > "00-multus.conf");
            let Some((_, FileContent::Bytes(bytes))) = next else { return };
            let Ok(delegate) = serde_json::from_slice::<Value>(bytes) else { return };
            let multus = json!({"cniVersion": "1.0.0", "name": "m", "type": "multus", "delegates": [delegate]});
            node.put("00-multus.conf", multus.to_string().into_bytes());
        }
        Event::Multus(false) => drop(node.files.remove("00-multus.conf")),
        Event::Restart => node.state = Decider::default(),
        Event::Wait(seconds) => node.wait(seconds),
        Event::Ready(is_ready) => node.is_ready = is_ready,
        Event::Off(is_off) => node.off = is_off.then_some("05-npc.conflist.off"),
        Event::LinkOwn => drop(node.files.insert(node.own.to_owned(), FileContent::Special("a link"))),
        // Another installer, which the settings give another name.
        Event::Rename(own) => (node.own, node.state) = (own, Decider::default()),
        Event::Plugins(has_all) => node.plugins = (!has_all).then(BTreeSet::new),
    }
}

proptest! {
    /// After every sequence of events it settles. It writes only what a runtime reads, and never
    /// from a file that leads to npc. Once the node is well again, so is the installation.
    #[test]
    fn every_sequence_settles_and_is_well_in_the_end(events in prop::collection::vec(event(), 1..40)) {
        let mut node = Node::with_azure();
        for event in events {
            happen(&mut node, &event);
            let link = node.files.get(node.own) == Some(&FileContent::Special("a link"));
            let decision = node.settle();
            prop_assert_eq!(node.files.get(node.own) == Some(&FileContent::Special("a link")), link);
            if link {
                continue;
            }
            if let Some(FileContent::Bytes(bytes)) = node.files.get(node.own) {
                // A runtime never stops at our file.
                let own = ConfList::parse(node.own, bytes).unwrap();
                let is_first = node.files.keys().next().is_some_and(|name| name == node.own);
                if !is_first || !decision.installed {
                    continue;
                }
                prop_assert_eq!(own.check_versions(), Ok(()));
                let ours = own.plugins().iter().filter(|plugin| plugin.kind == TYPE).count();
                prop_assert_eq!(ours, 1);
                let record = own.record().unwrap();
                prop_assert!(record.file.as_str() > node.own, "{:?}", record);
                prop_assert!(!record.plugins.iter().any(|kind| kind == TYPE || kind == "multus"), "{:?}", record);
            }
        }
        // Well again.
        for name in SOURCES.iter().copied().chain(["00-multus.conf"]) {
            node.files.remove(name);
        }
        // A link, and what no installer of ours wrote under a former name, are not ours to remove.
        let own = node.own;
        node.files.retain(|name, content| match content {
            FileContent::Bytes(bytes) => {
                let is_former = npc_cni::configuration::names_itself(&Path::new("/etc/cni/net.d").join(name), bytes);
                !NAMES.contains(&name.as_str()) || name == own || is_former
            }
            _ => false,
        });
        node.put(AZURE, azure());
        (node.is_ready, node.off, node.plugins) = (true, None, None);
        for _ in 0..4 {
            node.wait(1000);
            node.settle();
        }
        let decision = node.settle();
        prop_assert!(decision.installed && decision.alerts.is_empty(), "{:?}", decision);
        let chain = node.chain();
        let is_of_source = |kind: &&String| ["azure-vnet", "portmap", TYPE].contains(&kind.as_str());
        prop_assert_eq!(chain.iter().filter(is_of_source).cloned().collect::<Vec<_>>(), types(&["azure-vnet", "portmap", TYPE]));
        let mut once = chain.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), chain.len(), "{:?}", chain);
        // And it goes with its source.
        node.files.remove(AZURE);
        node.settle();
        node.wait(5);
        node.settle();
        prop_assert!(node.files.is_empty());
    }
}
