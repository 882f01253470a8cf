#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::collections::{BTreeMap, BTreeSet};

use npc_cni::configuration::FailurePolicy;
use serde_json::{Value, json};

use super::*;

#[path = "decide_beside_others_tests.rs"]
mod beside_others;
#[path = "decide_random_tests.rs"]
mod random;

const OWN: &str = "05-npc.conflist";
const AZURE: &str = "10-azure.conflist";

/// A folder, an installer, and a clock that stands still unless it is moved.
struct Node {
    files: BTreeMap<String, FileContent>,
    state: Decider,
    now: Duration,
    is_ready: bool,
    off: Option<&'static str>,
    /// The plugins in the runtime's folder, if the test says.
    plugins: Option<BTreeSet<String>>,
    /// The name of our file.
    own: &'static str,
    /// How often our file was written or removed.
    writes: usize,
}

fn list(name: &str, plugins: &[Value]) -> Vec<u8> {
    json!({"cniVersion": "1.0.0", "name": name, "plugins": plugins}).to_string().into_bytes()
}

fn azure() -> Vec<u8> {
    list("azure", &[json!({"type": "azure-vnet", "mode": "transparent"}), json!({"type": "portmap", "snat": true})])
}

fn settings() -> PluginSettings {
    PluginSettings {
        file: OWN.to_owned(),
        path: format!("/etc/cni/net.d/{OWN}"),
        socket: "/run/npc/cni.sock".to_owned(),
        timeout_seconds: 30,
        failure_policy: FailurePolicy::Closed,
        open_namespaces: vec!["kube-system".to_owned()],
    }
}

impl Node {
    fn new() -> Self {
        let (files, state, now) = (BTreeMap::new(), Decider::default(), Duration::ZERO);
        Self { files, state, now, is_ready: true, off: None, plugins: None, own: OWN, writes: 0 }
    }

    fn with_azure() -> Self {
        let mut node = Self::new();
        node.put(AZURE, azure());
        node.settle();
        node
    }

    fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.insert(name.to_owned(), FileContent::Bytes(bytes));
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn decide(&mut self) -> Decision {
        let (files, plugins) = (&self.files, self.plugins.as_ref());
        let view = FolderView { files, off: self.off, plugins, may_appear: self.is_ready, now: self.now };
        let settings =
            PluginSettings { file: self.own.to_owned(), path: format!("/etc/cni/net.d/{}", self.own), ..settings() };
        self.state.decide(&settings, &view)
    }

    /// Acts. Answers whether there was something to do.
    fn act(&mut self, decision: &Decision) -> bool {
        match &decision.action {
            Action::Keep => return false,
            Action::Write { text, like } => {
                assert!(self.files.contains_key(like.as_str()) || !like.is_empty());
                self.put(self.own, text.clone().into_bytes());
            }
            Action::Remove => assert!(self.files.remove(self.own).is_some(), "what is not there is not removed"),
            Action::RemoveFormer { name } => {
                assert!(name != self.own && self.files.remove(name).is_some(), "what is not there is not removed");
            }
        }
        self.writes += 1;
        true
    }

    /// Acts until there is nothing more to do at this time.
    fn settle(&mut self) -> Decision {
        for _ in 0..8 {
            let decision = self.decide();
            if !self.act(&decision) {
                return decision;
            }
        }
        panic!("it does not settle: {:?}", self.decide());
    }

    fn own(&self) -> Option<Value> {
        match self.files.get(self.own)? {
            FileContent::Bytes(bytes) => Some(serde_json::from_slice(bytes).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// The types of the plugins of our file.
    fn chain(&self) -> Vec<String> {
        let own = self.own().unwrap_or(json!({"plugins": []}));
        own["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    /// What another program makes of the plugins of a file.
    fn edit(&mut self, name: &str, edit: impl FnOnce(&mut Vec<Value>)) {
        let Some(FileContent::Bytes(bytes)) = self.files.get(name) else { return };
        let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return };
        let Some(plugins) = value.get_mut("plugins").and_then(Value::as_array_mut) else { return };
        edit(plugins);
        self.put(name, value.to_string().into_bytes());
    }

    /// As istio-cni and linkerd-cni: an entry of its own at the end of the first list.
    fn append(&mut self, kind: &str) {
        let Some(first) = self.files.keys().next().cloned() else { return };
        self.edit(&first, |plugins| {
            plugins.retain(|plugin| plugin["type"] != kind);
            plugins.push(json!({"type": kind, "log_level": "info"}));
        });
    }

    fn alerts(&mut self) -> Vec<AlertReason> {
        self.decide().alerts.iter().map(|alert| alert.reason).collect()
    }
}

fn types(list: &[&str]) -> Vec<String> {
    list.iter().map(|kind| (*kind).to_owned()).collect()
}

#[test]
fn our_list_is_the_source_with_our_plugin_last() {
    let mut node = Node::with_azure();
    let own = node.own().unwrap();
    assert_eq!((&own["name"], &own["cniVersion"]), (&json!("azure"), &json!("1.0.0")));
    assert_eq!(node.chain(), types(&["azure-vnet", "portmap", TYPE]));
    let expected = json!({
        "type": "npc-cni", "socket": "/run/npc/cni.sock", "timeoutSeconds": 30, "failurePolicy": "closed",
        "openNamespaces": ["kube-system"], "conflist": "/etc/cni/net.d/05-npc.conflist",
        "derivedFrom": {"file": AZURE, "plugins": ["azure-vnet", "portmap"]},
    });
    assert_eq!(own["plugins"][2], expected);
    let decision = node.settle();
    assert!(decision.installed && decision.alerts.is_empty(), "{decision:?}");
    assert_eq!((decision.source.as_deref(), node.writes), (Some(AZURE), 1));
}

#[test]
fn it_follows_its_source_at_once() {
    let mut node = Node::with_azure();
    node.put(AZURE, list("azure", &[json!({"type": "azure-vnet", "mode": "bridge"})]));
    node.settle();
    assert_eq!(node.chain(), types(&["azure-vnet", TYPE]));
    assert_eq!(node.own().unwrap()["plugins"][0]["mode"], "bridge");
    // A file that sorts before the source is what the runtime would use.
    node.put("07-first.conf", br#"{"cniVersion":"0.4.0","name":"first","type":"ptp"}"#.to_vec());
    node.settle();
    assert_eq!(node.chain(), types(&["ptp", TYPE]));
    assert_eq!(node.own().unwrap()["name"], "first");
}

#[test]
fn a_source_that_is_deleted_and_made_again_within_five_seconds_changes_nothing() {
    let mut node = Node::with_azure();
    node.put("99-loopback.conf", br#"{"cniVersion":"0.4.0","name":"lo","type":"loopback"}"#.to_vec());
    for restarts in [false, true] {
        let before = node.files.remove(AZURE).unwrap();
        if restarts {
            node.state = Decider::default();
        }
        let decision = node.settle();
        assert_eq!(decision.again, Some(node.now + GRACE));
        node.wait(4);
        node.settle();
        assert_eq!(node.chain(), types(&["azure-vnet", "portmap", TYPE]));
        node.files.insert(AZURE.to_owned(), before);
        node.settle();
        node.wait(100);
        node.settle();
    }
    assert_eq!(node.writes, 1);
}

#[test]
fn a_source_that_stays_away_takes_ours_with_it() {
    let mut node = Node::with_azure();
    node.files.remove(AZURE);
    node.settle();
    node.wait(5);
    let decision = node.settle();
    assert!(node.files.is_empty() && !decision.installed);
    assert_eq!(node.alerts(), [AlertReason::NoSource]);
    node.put(AZURE, azure());
    node.settle();
    assert_eq!(node.chain(), types(&["azure-vnet", "portmap", TYPE]));
    // Another one is there to follow.
    node.put("99-loopback.conf", br#"{"cniVersion":"0.4.0","name":"lo","type":"loopback"}"#.to_vec());
    node.files.remove(AZURE);
    node.settle();
    node.wait(5);
    node.settle();
    assert_eq!(node.chain(), types(&["loopback", TYPE]));
}

#[test]
fn a_broken_source_is_reported_and_the_last_good_state_stays() {
    for bad in [&b"{\"cniVersion\":"[..], b"", b"[]", br#"{"cniVersion":"0.2.0","name":"n","plugins":[{"type":"a"}]}"#]
    {
        let mut node = Node::with_azure();
        node.put(AZURE, bad.to_vec());
        node.put("99-loopback.conf", br#"{"cniVersion":"0.4.0","name":"lo","type":"loopback"}"#.to_vec());
        let decision = node.settle();
        assert!(decision.installed, "{decision:?}");
        assert_eq!(node.alerts(), [AlertReason::SourceBroken]);
        node.wait(1000);
        node.settle();
        assert_eq!((node.chain(), node.writes), (types(&["azure-vnet", "portmap", TYPE]), 1));
        // Ours is damaged as well: what was written last comes back.
        node.put(OWN, b"{".to_vec());
        node.settle();
        assert_eq!(node.chain(), types(&["azure-vnet", "portmap", TYPE]));
        // An installer that never wrote one takes a damaged file away, so that the runtime goes on.
        node.put(OWN, b"{".to_vec());
        node.state = Decider::default();
        node.settle();
        assert!(!node.files.contains_key(OWN));
        // Without ours, nothing is derived from what comes after the broken one.
        assert_eq!(node.settle().action, Action::Keep);
        assert!(!node.files.contains_key(OWN));
    }
}

#[test]
fn what_another_program_appends_stays_after_us_once() {
    let mut node = Node::with_azure();
    node.append("istio-cni");
    let decision = node.settle();
    assert_eq!((decision.insertions, node.writes), (types(&["istio-cni"]), 1));
    assert_eq!(node.chain(), types(&["azure-vnet", "portmap", TYPE, "istio-cni"]));
    // It stays through changes of the source and restarts.
    node.state = Decider::default();
    node.put(AZURE, list("azure", &[json!({"type": "azure-vnet"})]));
    node.settle();
    assert_eq!(node.chain(), types(&["azure-vnet", TYPE, "istio-cni"]));
    node.append("linkerd-cni");
    node.append("istio-cni");
    node.settle();
    assert_eq!(node.chain(), types(&["azure-vnet", TYPE, "linkerd-cni", "istio-cni"]));
    // Twice is once, and the one that was added last counts.
    node.edit(OWN, |plugins| plugins.push(json!({"type": "linkerd-cni", "new": true})));
    node.settle();
    assert_eq!(node.chain(), types(&["azure-vnet", TYPE, "istio-cni", "linkerd-cni"]));
    assert_eq!(node.own().unwrap()["plugins"][3], json!({"type": "linkerd-cni", "new": true}));
    // In the source too: the source's stays.
    node.put(AZURE, list("azure", &[json!({"type": "azure-vnet"}), json!({"type": "istio-cni", "of": "source"})]));
    node.settle();
    assert_eq!(node.chain(), types(&["azure-vnet", "istio-cni", TYPE, "linkerd-cni"]));
    // What leaves the source leaves ours, and what its owner takes out is out.
    node.put(AZURE, list("azure", &[json!({"type": "azure-vnet"})]));
    node.state = Decider::default();
    node.settle();
    assert_eq!(node.chain(), types(&["azure-vnet", TYPE, "linkerd-cni"]));
    node.edit(OWN, |plugins| plugins.retain(|plugin| plugin["type"] != "linkerd-cni"));
    let decision = node.settle();
    assert_eq!((node.chain(), decision.insertions), (types(&["azure-vnet", TYPE]), vec![]));
}

#[test]
fn an_entry_that_another_program_puts_before_us_is_left_there() {
    let mut node = Node::with_azure();
    node.edit(OWN, |plugins| plugins.insert(1, json!({"type": "first"})));
    let decision = node.settle();
    assert_eq!((node.writes, decision.insertions), (1, types(&["first"])));
    assert!(decision.installed);
    node.put(AZURE, list("azure", &[json!({"type": "azure-vnet"})]));
    node.settle();
    assert_eq!(node.chain(), types(&["azure-vnet", TYPE, "first"]));
}

#[test]
fn what_leads_to_us_is_no_source_and_installs_us() {
    let mut node = Node::with_azure();
    // Multus keeps a copy of the first file as its delegate.
    let own = node.own().unwrap();
    let multus = json!({"cniVersion": "1.0.0", "name": "multus", "type": "multus", "delegates": [own]}).to_string();
    node.put("00-multus.conf", multus.clone().into_bytes());
    let decision = node.settle();
    assert!(decision.installed && decision.alerts.is_empty(), "{decision:?}");
    assert_eq!((decision.source.as_deref(), node.writes), (Some(AZURE), 1));
    // After ours as well, and where the source is gone.
    node.put("07-copy.conf", multus.into_bytes());
    node.settle();
    node.files.remove(AZURE);
    node.settle();
    node.wait(5);
    let decision = node.settle();
    assert!(!node.files.contains_key(OWN));
    assert_eq!(decision.source, None);
}

#[test]
fn a_file_before_ours_that_lacks_us_is_an_alert_and_no_race() {
    let mut node = Node::with_azure();
    node.put("00-other.conflist", list("other", &[json!({"type": "bridge"})]));
    for _ in 0..10 {
        let decision = node.settle();
        assert!(!decision.installed);
        assert_eq!(
            (decision.alerts[0].reason, decision.alerts[0].file.as_str()),
            (AlertReason::Preempted, "00-other.conflist")
        );
        node.wait(100);
    }
    // Ours is there for a program that derives its own from the next file.
    assert_eq!((node.writes, node.chain()), (1, types(&["azure-vnet", "portmap", TYPE])));
    node.put("00-other.conflist", b"{".to_vec());
    assert_eq!(node.alerts(), [AlertReason::Preempted]);
}

/// Istio since 1.27 writes a file of its own that sorts first, derived from the next one.
#[test]
fn a_first_sorting_copy_that_is_derived_from_ours_settles() {
    let mut node = Node::with_azure();
    let derive = |node: &mut Node| {
        let next = node.files.iter().find(|(name, _)| name.as_str() > "02-istio-cni.conflist").unwrap();
        let FileContent::Bytes(bytes) = next.1 else { panic!() };
        let mut value: Value = serde_json::from_slice(bytes).unwrap();
        value["plugins"].as_array_mut().unwrap().push(json!({"type": "istio-cni"}));
        let bytes = value.to_string().into_bytes();
        let is_new = node.files.get("02-istio-cni.conflist") != Some(&FileContent::Bytes(bytes.clone()));
        node.put("02-istio-cni.conflist", bytes);
        is_new
    };
    // It was there before us.
    node.files.remove(OWN);
    node.state = Decider::default();
    derive(&mut node);
    node.settle();
    assert!(derive(&mut node));
    let decision = node.settle();
    assert!(decision.installed && decision.alerts.is_empty(), "{decision:?}");
    assert!(!derive(&mut node));
    assert_eq!(node.chain(), types(&["azure-vnet", "portmap", TYPE]));
}

#[test]
fn a_program_that_undoes_ours_is_met_with_ever_longer_waits_and_reported() {
    let mut node = Node::with_azure();
    for step in 0..4000 {
        // As a CNI that wants to be alone: other files go.
        node.files.remove(OWN);
        let decision = node.settle();
        if step == 30 {
            assert!(decision.alerts.iter().any(|alert| alert.reason == AlertReason::Contested), "{decision:?}");
            assert!(decision.again.is_some() || decision.installed);
        }
        node.wait(1);
    }
    assert!(node.writes < 40, "{} writes in 4000 s", node.writes);
    // It has gone: we are back, and some time later that is forgotten.
    node.wait(301);
    node.settle();
    assert_eq!(node.chain(), types(&["azure-vnet", "portmap", TYPE]));
    node.wait(2000);
    node.settle();
    assert_eq!(node.alerts(), []);
    node.files.remove(OWN);
    node.settle();
    assert_eq!(node.chain(), types(&["azure-vnet", "portmap", TYPE]));
}

#[test]
fn it_appears_only_with_a_ready_agent_and_stays_without() {
    let mut node = Node::new();
    node.is_ready = false;
    node.put(AZURE, azure());
    let decision = node.settle();
    assert_eq!(decision.again, Some(node.now + AGENT_POLL));
    assert_eq!(node.alerts(), [AlertReason::AgentNotReady]);
    assert!(!node.files.contains_key(OWN));
    node.is_ready = true;
    node.settle();
    node.is_ready = false;
    assert!(node.settle().installed);
    node.put(AZURE, list("azure", &[json!({"type": "azure-vnet"})]));
    node.settle();
    assert_eq!(node.chain(), types(&["azure-vnet", TYPE]));
    // An operator removes it because no agent is ready: it stays away.
    node.files.remove(OWN);
    node.wait(1000);
    node.settle();
    assert!(!node.files.contains_key(OWN));
}

#[test]
fn an_operator_turns_it_off_by_moving_it_aside() {
    let mut node = Node::with_azure();
    node.files.remove(OWN);
    node.off = Some("05-npc.conflist.off");
    assert_eq!(node.settle().alerts[0].reason, AlertReason::Off);
    assert!(!node.files.contains_key(OWN));
    node.put(OWN, azure());
    node.settle();
    assert!(!node.files.contains_key(OWN));
    node.off = None;
    let decision = node.settle();
    assert!(decision.installed && decision.alerts.is_empty(), "{decision:?}");
}

#[test]
fn a_link_in_place_of_ours_is_left_alone() {
    let mut node = Node::with_azure();
    node.files.insert(OWN.to_owned(), FileContent::Special("a link"));
    let decision = node.settle();
    assert_eq!((decision.alerts[0].reason, decision.installed), (AlertReason::NotAFile, false));
    node.off = Some("05-npc.conflist.off");
    assert_eq!(node.settle().action, Action::Keep);
}

#[test]
fn changed_settings_are_written_without_a_contest() {
    let mut node = Node::with_azure();
    for timeout_seconds in 1..20 {
        let settings = PluginSettings { timeout_seconds, ..settings() };
        let view = FolderView { files: &node.files, off: None, plugins: None, may_appear: true, now: node.now };
        let decision = node.state.decide(&settings, &view);
        let Action::Write { text, .. } = decision.action else { panic!("{decision:?}") };
        node.put(OWN, text.into_bytes());
    }
}
