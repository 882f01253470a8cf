//! Sandboxes, and an engine that is given their pods.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use k8s_openapi::api::networking::v1 as networking;
use npc_compiler::engine::Engine;
use npc_compiler::object::{Family, Labels, Namespace};
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::layout::RulesetOptions;
use npc_compiler::ruleset::node::{Member, SetName};

use super::*;
use crate::cni::endpoints::{deny_all, unidentified_pod, with_addresses};

pub(super) const NODE: &str = "node-1";

/// Sandboxes and the engine that is given their pods.
pub(super) struct World {
    pub(super) sandboxes: Sandboxes,
    pub(super) engine: Engine,
    /// The pods that the events lead to.
    pub(super) given: BTreeMap<PodKey, Pod>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::after(Saved::default())
    }

    /// An agent that starts with what one before it saved.
    pub(super) fn after(saved: Saved) -> Self {
        let (sandboxes, engine) = (Sandboxes::new(NODE, saved), Engine::new(NODE, RulesetOptions::default()));
        let mut world = Self { sandboxes, engine, given: BTreeMap::new() };
        world.engine.apply(Event::Namespace(Namespace::new("shop", Labels::new())));
        let mut all = deny_all();
        all.object.metadata.namespace = Some("shop".to_owned());
        all.object.metadata.name = Some("all".to_owned());
        if let Some(spec) = &mut all.object.spec {
            // Pods with this label are peers of all pods of the namespace.
            let labels = [("peer".to_owned(), "yes".to_owned())].into();
            let selector = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
                match_labels: Some(labels),
                ..Default::default()
            };
            let peer = networking::NetworkPolicyPeer {
                pod_selector: Some(selector),
                ..networking::NetworkPolicyPeer::default()
            };
            let rule = networking::NetworkPolicyIngressRule { from: Some(vec![peer]), ports: None };
            spec.ingress = Some(vec![rule]);
        }
        world.engine.apply(Event::Policy(Box::new(all)));
        world
    }

    /// What an agent after it reads.
    pub(super) fn saved(&self) -> Saved {
        serde_json::from_slice(&serde_json::to_vec(&self.sandboxes.saved()).unwrap()).unwrap()
    }

    pub(super) fn synced(mut self) -> Self {
        self.sandboxes.synced();
        self
    }

    pub(super) fn object(&mut self, pod: &Pod) {
        if let Some(event) = self.sandboxes.object(Event::Pod(Box::new(pod.clone()))) {
            self.engine.apply(event);
        }
    }

    pub(super) fn gone(&mut self, pod: &Pod) {
        if let Some(event) = self.sandboxes.object(Event::PodGone(PodKey::of(pod))) {
            self.engine.apply(event);
        }
    }

    /// What the engine makes of it.
    pub(super) fn state(&mut self) -> &KernelState {
        for event in self.sandboxes.update() {
            match &event {
                Event::Pod(pod) => drop(self.given.insert(PodKey::of(pod), (**pod).clone())),
                Event::PodGone(key) => assert!(self.given.remove(key).is_some(), "{key:?} was never given"),
                _ => {}
            }
            self.engine.apply(event);
        }
        self.engine.commit();
        self.engine.state()
    }

    /// The pods that the engine has to know, all made anew.
    pub(super) fn wanted(&self) -> BTreeMap<PodKey, Pod> {
        let CurrentAddresses { of_objects, unidentified } = self.sandboxes.addresses();
        let pods = of_objects.iter().flat_map(|(key, addresses)| with_addresses(&self.sandboxes.pods[key], addresses));
        let pods = pods.chain(unidentified.into_iter().map(|address| unidentified_pod(NODE, address)));
        pods.map(|pod| (PodKey::of(&pod), pod)).collect()
    }

    pub(super) fn owner(&mut self, text: &str) -> Option<String> {
        self.state();
        let [namespace, name, _] = self.engine.owner(address(text))?;
        Some(format!("{namespace}/{name}"))
    }

    pub(super) fn is_isolated(&mut self, text: &str) -> bool {
        let address = address(text);
        let family = Family::of(&address);
        let sets = &self.state().family(family).sets;
        let holds =
            |name: SetName| sets.get(&name).is_some_and(|(_, members)| members.contains(&Member::Address(address)));
        let names = ["npc4-ingress", "npc4-egress", "npc6-ingress", "npc6-egress"];
        let mut isolated = names.into_iter().filter_map(SetName::ours).filter(|name| name.family() == family);
        isolated.all(holds)
    }

    /// Whether the address is in a set of peers.
    pub(super) fn is_peer(&mut self, text: &str) -> bool {
        let address = Member::Address(address(text));
        let sets = &self.state().v4.sets;
        sets.iter().any(|(name, (_, members))| name.as_str().starts_with("npc4-p") && members.contains(&address))
    }
}

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn pod(name: &str, uid: &str, listed: Option<&str>) -> Pod {
    let labels = [("peer".to_owned(), "yes".to_owned())].into();
    let spec = k8s_openapi::api::core::v1::PodSpec::default();
    let pod = Pod::from_template("shop".to_owned(), name.to_owned(), labels, spec);
    let ipv4 = listed.map(|text| text.parse().unwrap());
    Pod { uid: uid.to_owned(), node: Some(NODE.to_owned()), ipv4, ..pod }
}

/// An ADD, with the interface of this index unless that is 0.
pub(in crate::cni) fn add(container: &str, pod: &Pod, addresses: &[&str], link: u32) -> Add {
    Add {
        attachment: attachment(container),
        network: "net".to_owned(),
        netns: String::new(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: Some(pod.uid.clone()),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        host_interface: (link > 0).then(|| HostInterface { name: format!("veth{link}"), index: link }),
        wait: 0,
        waited: 0,
        open: false,
    }
}

impl Sandboxes {
    /// An ADD that begins now.
    pub(super) fn add(&mut self, add: Add) {
        self.admit(add, Moment::now(), false);
    }
}

pub(in crate::cni) fn attachment(container: &str) -> Attachment {
    Attachment { container_id: container.to_owned(), interface: "eth0".to_owned() }
}

/// These interfaces are gone.
pub(super) fn links<const N: usize>(links: [u32; N]) -> SeenLinks {
    links.map(|index| (index, None::<&str>)).into()
}
