//! A cluster of one node, small enough to be made for each test.

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use npc_compiler::object::{Labels, NetworkPolicy, Objects, Pod, Protocol};
use npc_tests::apiserver::{Disturbance, Resource, Server, Verb};
use npc_tests::lab::{Agent, Backend, Builder, Enforcer, Lab, Payload, Probe, Seen};
use serde_json::json;

pub(crate) const NODE: &str = "node-1";

/// What an agent watches.
pub(crate) const WATCHED: [Resource; 4] =
    [Resource::Pods, Resource::Namespaces, Resource::NetworkPolicies, Resource::Nodes];

/// Three pods on one node, `web`, `other` and `api`, labelled with their names;
/// to `api` a policy admits only what is labelled so.
pub(crate) fn objects(admitted: &str) -> Objects {
    let pod = |name: &str| {
        let labels = Labels::from([("app".to_owned(), name.to_owned())]);
        let pod = Pod::from_template("shop".to_owned(), name.to_owned(), labels, PodSpec::default());
        Pod { node: Some(NODE.to_owned()), ..pod }
    };
    let policy = json!({
        "metadata": {"namespace": "shop", "name": "api"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "api"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": admitted}}}]}],
        },
    });
    let policy: networking::NetworkPolicy = serde_json::from_value(policy).unwrap();
    let policies = vec![NetworkPolicy::from(policy)];
    Objects { pods: ["web", "other", "api"].map(pod).to_vec(), policies, ..Objects::default() }
}

/// The lab, and what tests ask of it.
pub(crate) struct Small {
    pub(crate) lab: Lab,
}

impl Small {
    /// `None` where no lab can be built.
    pub(crate) fn start() -> Option<Self> {
        Self::with(Server::in_process(), |lab| lab)
    }

    pub(crate) fn with(server: Server, more: impl FnOnce(Builder) -> Builder) -> Option<Self> {
        let lab = Lab::builder(objects("web")).backend(Backend::Nft).enforcer(Enforcer::for_test()?);
        let lab = more(lab.api_server(server)).start().unwrap();
        let mut small = Self { lab };
        small.admits_only("web");
        Some(small)
    }

    pub(crate) fn server(&self) -> &Server {
        self.lab.api_server().unwrap()
    }

    pub(crate) fn agent(&mut self) -> &mut Agent {
        self.lab.agent(NODE).unwrap().unwrap()
    }

    /// Lets another label in, in the store only.
    pub(crate) fn store(&mut self, admitted: &str) {
        let policies = objects(admitted).policies;
        let objects = Objects { policies, ..self.lab.cluster().objects.clone() };
        self.lab.write_manifests(objects).unwrap();
    }

    /// Lets another label in, and sees it in the kernel and by packets.
    pub(crate) fn admit(&mut self, admitted: &str) {
        self.store(admitted);
        self.follows(admitted);
    }

    /// The agent follows what is stored.
    pub(crate) fn follows(&mut self, admitted: &str) {
        self.lab.settle().unwrap();
        self.admits_only(admitted);
    }

    /// Checks by packets which pods are admitted.
    pub(crate) fn admits_only(&mut self, admitted: &str) {
        let place = |name: &str| self.lab.find(&format!("shop/{name}")).unwrap();
        let api = place("api");
        let address = self.lab.places()[api].addresses[0];
        let senders = ["web", "other"];
        let probe = |from: &str| Probe::new(place(from), api, address, Payload::Port(Protocol::Tcp, 8080));
        let seen = self.lab.probe(&senders.map(probe)).unwrap();
        let wanted = senders.map(|name| if name == admitted { Seen::Arrived } else { Seen::Nothing });
        assert_eq!(seen, wanted, "{admitted} is to be let in");
    }

    /// All rules and sets of the node, without counters.
    pub(crate) fn kernel(&self) -> Vec<String> {
        let node = self.lab.node(NODE).unwrap();
        let dumps = [["iptables-nft-save"].as_slice(), &["ip6tables-nft-save"], &["ipset", "save"]];
        let dump = dumps.map(|command| node.exec(command.iter().copied(), "").unwrap()).concat();
        let lines = dump.lines().filter(|line| !line.starts_with('#'));
        let mut lines: Vec<String> = lines.map(|line| line.split(" [").next().unwrap_or_default().to_owned()).collect();
        lines.sort_unstable();
        lines
    }

    /// What each pass of the agents has written, in words.
    pub(crate) fn writes(&mut self) -> Vec<String> {
        writes(&self.agent().log().unwrap()).map(str::to_owned).collect()
    }

    /// What passes have written since there were so many, once that has this part: a pass is
    /// in the log only after the sweeps that it asked for.
    pub(crate) fn writes_since(&mut self, passes: usize, part: &str) -> Vec<String> {
        let lacks = |log: &str| !writes(log).skip(passes).any(|writes| writes.contains(part));
        let lack = || format!("no pass since the first {passes} wrote {part:?}");
        self.agent().wait_until(|agent| Ok(lacks(&agent.log()?).then(lack))).unwrap();
        self.writes().split_off(passes)
    }

    /// Ends every watch, and waits until the agent has a new one of everything.
    pub(crate) fn end_watches(&self) {
        let begun = |server: &Server| WATCHED.map(|resource| server.count(resource, Verb::Watch));
        let before = begun(self.server());
        self.server().disturb(None, Disturbance::End);
        let again = |server: &Server| begun(server).iter().zip(before).all(|(now, before)| *now > before);
        self.server().wait("every watch begins again", again).unwrap();
        self.watches();
    }

    /// Waits until the agent has a watch open of everything.
    pub(crate) fn watches(&self) {
        let all_open = |server: &Server| WATCHED.iter().all(|resource| server.watches(*resource) == 1);
        self.server().wait("all watches are open", all_open).unwrap();
    }
}

/// What each pass has written, by the log.
fn writes(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter_map(|line| Some(line.split_once("writes=")?.1.split_once(" compiled=")?.0.trim_matches('"')))
}

/// Whether an agent is in sync with all but a kind whose list is held back. Pods and
/// namespaces are listed after the policies, whose names say which labels are kept.
pub(crate) fn is_synced_without(server: &Server, held: Resource) -> bool {
    let waits = |resource| {
        resource == held
            || held == Resource::NetworkPolicies && matches!(resource, Resource::Pods | Resource::Namespaces)
    };
    WATCHED.iter().all(|resource| (server.watches(*resource) == 1) != waits(*resource))
}
