//! A cluster, and a sequence of random edits to it that follows from a seed.
//!
//! Few names and labels, so that every edit matters to many. In two of the
//! three namespaces, policies admit one port ([`ADMITTED`]) to and from
//! all pods in every state, in forms that change: there pods are always
//! isolated, move between groups all the time, and flows to that port must
//! never notice. In the third, pods are isolated now and then.

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use npc_compiler::object::{ContainerPort, Labels, Namespace, NetworkPolicy, Objects, Pod, Protocol};
use proptest::prelude::RngExt as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::{Value, json};

/// The port that is always admitted.
pub const ADMITTED: u16 = 7000;
/// The ports at which pods listen.
pub const PORTS: [u16; 3] = [ADMITTED, 8080, 9090];

const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
/// The namespaces where [`ADMITTED`] is always admitted by policies.
const ANCHORED: [&str; 2] = ["red", "green"];
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const APPS: [&str; 3] = ["a", "b", "c"];
const TIERS: [&str; 2] = ["x", "y"];
const TEAMS: [&str; 2] = ["one", "two"];
/// This many policies come and go in each namespace.
const SLOTS: usize = 4;
/// In so many forms [`ADMITTED`] is admitted.
const FORMS: usize = 4;

/// What happens next.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The cluster after it.
    pub objects: Objects,
    /// What it was, for people.
    pub what: String,
}

/// Makes edits.
#[derive(Debug)]
pub struct Editor {
    random: TestRng,
}

impl Editor {
    /// The edits of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self { random: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes) }
    }

    /// A number below another.
    pub fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    /// Whether something happens that happens so often in a hundred times.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// The cluster to begin with, of so many pods in each of three namespaces.
    pub fn cluster(&mut self, pods: usize) -> Objects {
        let mut objects = Objects::default();
        for namespace in NAMESPACES {
            let team = (*self.pick(&TEAMS)).to_owned();
            objects.namespaces.push(Namespace::new(namespace, Labels::from([("team".to_owned(), team)])));
            for number in 0..pods {
                let mut pod =
                    Pod::from_template(namespace.to_owned(), format!("p{number}"), self.labels(), PodSpec::default());
                pod.node = Some(NODES[objects.pods.len() % NODES.len()].to_owned());
                // The same name is another number on another pod.
                let port = PORTS[1 + number % 2];
                pod.ports = [Protocol::Tcp, Protocol::Udp]
                    .map(|protocol| ContainerPort { name: format!("{}-web", protocol.lower()), protocol, port })
                    .to_vec();
                objects.pods.push(pod);
            }
        }
        for namespace in ANCHORED {
            let form = self.below(FORMS);
            objects.policies.extend(anchors(namespace, form));
        }
        for _ in 0..NAMESPACES.len() * SLOTS / 2 {
            self.put(&mut objects);
        }
        objects
    }

    /// The next state of a cluster: one edit, or a few at once.
    pub fn edit(&mut self, objects: &Objects) -> Edit {
        let mut edited = objects.clone();
        let count = if self.chance(30) { 2 + self.below(3) } else { 1 };
        let what: Vec<String> = (0..count).map(|_| self.one(&mut edited)).collect();
        Edit { objects: edited, what: what.join("; ") }
    }

    fn one(&mut self, objects: &mut Objects) -> String {
        match self.below(100) {
            0..35 => self.put(objects),
            35..50 => self.take_away(objects),
            50..58 => self.swap(objects),
            58..76 => self.relabel_pod(objects),
            76..86 => self.relabel_namespace(objects),
            _ => {
                let namespace = *self.pick(&ANCHORED);
                let form = self.below(FORMS);
                objects
                    .policies
                    .retain(|policy| policy.namespace() != namespace || !policy.name().starts_with("anchor"));
                objects.policies.extend(anchors(namespace, form));
                format!("{namespace} admits the port in form {form}")
            }
        }
    }

    /// A random policy in one of the slots, in place of the one that was there.
    fn put(&mut self, objects: &mut Objects) -> String {
        let namespace = *self.pick(&NAMESPACES);
        let name = format!("np{}", self.below(SLOTS));
        let spec = self.spec();
        let had = objects.policies.len();
        objects.policies.retain(|policy| (policy.namespace(), policy.name()) != (namespace, &name));
        let verb = if objects.policies.len() < had { "replaced" } else { "created" };
        objects.policies.push(policy(namespace, &name, &spec));
        format!("{verb} {namespace}/{name}")
    }

    fn take_away(&mut self, objects: &mut Objects) -> String {
        let slots: Vec<usize> =
            (0..objects.policies.len()).filter(|index| objects.policies[*index].name().starts_with("np")).collect();
        if slots.is_empty() {
            return self.put(objects);
        }
        let gone = objects.policies.remove(*self.pick(&slots));
        format!("deleted {}/{}", gone.namespace(), gone.name())
    }

    /// Two policies of a namespace change their specs, and all that they admit
    /// together stays.
    fn swap(&mut self, objects: &mut Objects) -> String {
        let namespace = *self.pick(&NAMESPACES);
        let of: Vec<usize> =
            (0..objects.policies.len()).filter(|index| objects.policies[*index].namespace() == namespace).collect();
        let [one, other] = of[..] else {
            if of.len() < 2 {
                return self.put(objects);
            }
            let (one, other) = (of[0], of[1 + self.below(of.len() - 1)]);
            return swap(objects, one, other);
        };
        swap(objects, one, other)
    }

    fn relabel_pod(&mut self, objects: &mut Objects) -> String {
        let index = self.below(objects.pods.len());
        objects.pods[index].labels = self.labels();
        let Pod { namespace, name, labels, .. } = &objects.pods[index];
        format!("relabelled pod {namespace}/{name} {labels:?}")
    }

    fn relabel_namespace(&mut self, objects: &mut Objects) -> String {
        let team = (*self.pick(&TEAMS)).to_owned();
        let namespace = *self.pick(&NAMESPACES);
        let Some(found) = objects.namespaces.iter_mut().find(|found| found.name == namespace) else {
            return "nothing".to_owned();
        };
        if self.random.random_bool(0.2) {
            found.labels.remove("team");
        } else {
            found.labels.insert("team".to_owned(), team);
        }
        format!("relabelled namespace {namespace}")
    }

    fn labels(&mut self) -> Labels {
        let mut labels = Labels::new();
        labels.insert("app".to_owned(), (*self.pick(&APPS)).to_owned());
        if self.chance(80) {
            labels.insert("tier".to_owned(), (*self.pick(&TIERS)).to_owned());
        }
        labels
    }

    /// A random policy of one of the namespaces.
    pub fn policy(&mut self, name: &str) -> NetworkPolicy {
        let (namespace, spec) = (*self.pick(&NAMESPACES), self.spec());
        policy(namespace, name, &spec)
    }

    fn spec(&mut self) -> Value {
        let types = *self.pick(&[["Ingress", "Ingress"], ["Egress", "Egress"], ["Ingress", "Egress"]]);
        let mut spec = json!({"podSelector": self.selector(), "policyTypes": types});
        // Twice the same is as good as once, but only once is legal.
        if types[0] == types[1] {
            spec["policyTypes"] = json!([types[0]]);
        }
        for (kind, rules, peers) in [("Ingress", "ingress", "from"), ("Egress", "egress", "to")] {
            if types.contains(&kind) {
                let count = self.below(4);
                spec[rules] = (0..count).map(|_| self.rule(peers)).collect();
            }
        }
        spec
    }

    fn rule(&mut self, peers: &str) -> Value {
        let mut rule = json!({});
        if self.chance(80) {
            rule[peers] = (0..=self.below(3)).map(|_| self.peer()).collect();
        }
        if self.chance(80) {
            rule["ports"] = (0..=self.below(2)).map(|_| self.port()).collect();
        }
        rule
    }

    fn peer(&mut self) -> Value {
        match self.below(10) {
            0..3 => json!({"podSelector": self.selector()}),
            3..6 => json!({"namespaceSelector": self.namespaces(), "podSelector": self.selector()}),
            6..8 => json!({"namespaceSelector": self.namespaces()}),
            _ => {
                let node = self.below(NODES.len());
                let (v4, v6) = (format!("10.244.{node}"), format!("fd00:244:0:{node}:"));
                let blocks = [
                    json!({"cidr": format!("{v4}.0/24")}),
                    json!({"cidr": format!("{v6}:/64")}),
                    json!({"cidr": "10.244.0.0/16", "except": [format!("{v4}.0/29")]}),
                    json!({"cidr": "::/0", "except": [format!("{v6}:/64")]}),
                    json!({"cidr": "0.0.0.0/0"}),
                    json!({"cidr": "192.0.2.0/24"}),
                ];
                json!({"ipBlock": self.pick(&blocks)})
            }
        }
    }

    fn selector(&mut self) -> Value {
        match self.below(10) {
            0..3 => json!({}),
            3..6 => json!({"matchLabels": {"app": self.pick(&APPS)}}),
            6..8 => json!({"matchLabels": {"tier": self.pick(&TIERS)}}),
            8 => json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": [self.pick(&TIERS)]}]}),
            _ => json!({"matchExpressions": [{"key": "app", "operator": "In", "values": [
                self.pick(&APPS), self.pick(&APPS)]}]}),
        }
    }

    fn namespaces(&mut self) -> Value {
        match self.below(4) {
            0 => json!({}),
            1 => json!({"matchLabels": {"kubernetes.io/metadata.name": self.pick(&NAMESPACES)}}),
            2 => json!({"matchLabels": {"team": self.pick(&TEAMS)}}),
            _ => json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": [self.pick(&TEAMS)]}]}),
        }
    }

    fn port(&mut self) -> Value {
        let protocol = *self.pick(&["TCP", "UDP"]);
        match self.below(6) {
            0..3 => json!({"protocol": protocol, "port": self.pick(&PORTS[1..])}),
            3 => json!({"protocol": protocol, "port": 8000, "endPort": 9000}),
            4 => json!({"protocol": protocol, "port": format!("{}-web", protocol.to_lowercase())}),
            _ => json!({"protocol": protocol}),
        }
    }
}

fn swap(objects: &mut Objects, one: usize, other: usize) -> String {
    let specs = [one, other].map(|index| objects.policies[index].object.spec.clone());
    let [of_one, of_other] = specs;
    objects.policies[one].object.spec = of_other;
    objects.policies[other].object.spec = of_one;
    let [one, other] = [one, other].map(|index| &objects.policies[index]);
    format!("swapped {}/{} with {}", one.namespace(), one.name(), other.name())
}

fn policy(namespace: &str, name: &str, spec: &Value) -> NetworkPolicy {
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    // Every spec made here is one.
    let object: networking::NetworkPolicy = serde_json::from_value(object).unwrap_or_default();
    object.into()
}

/// The policies of a namespace that admit [`ADMITTED`] to and from all pods,
/// in one of several forms; and one that admits a port from all pods by two
/// rules, so that a pod which is relabelled moves from peers to other peers.
fn anchors(namespace: &str, form: usize) -> Vec<NetworkPolicy> {
    let from = |operator: &str, protocol: &str, port: u16| {
        let tier = json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": ["x"]}]});
        json!({"from": [{"namespaceSelector": {}, "podSelector": tier}],
            "ports": [{"protocol": "UDP", "port": PORTS[1]}, {"protocol": protocol, "port": port}]})
    };
    let ingress = json!([from("In", "UDP", PORTS[2]), from("NotIn", "TCP", PORTS[1])]);
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress});
    let mut anchors = vec![policy(namespace, "anchor-movers", &spec)];
    anchors.extend(admitting(namespace, form));
    anchors
}

fn admitting(namespace: &str, form: usize) -> Vec<NetworkPolicy> {
    let ports = json!([{"protocol": "TCP", "port": ADMITTED}, {"protocol": "UDP", "port": ADMITTED}]);
    let all = json!([{"namespaceSelector": {}}, {"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}]);
    let ingress = json!([{"ports": ports}]);
    let egress = json!([{"ports": ports}]);
    let both = json!(["Ingress", "Egress"]);
    let of = |name: &str, spec: Value| policy(namespace, &format!("anchor-{name}"), &spec);
    match form {
        0 => vec![of("all", json!({"podSelector": {}, "policyTypes": both, "ingress": ingress, "egress": egress}))],
        1 => vec![
            of("in", json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress})),
            of("out", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress})),
        ],
        2 => ["In", "NotIn"]
            .map(|operator| {
                let selector = json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": ["x"]}]});
                let spec = json!({"podSelector": selector, "policyTypes": both, "ingress": ingress, "egress": egress});
                of(&operator.to_lowercase(), spec)
            })
            .to_vec(),
        _ => {
            let (from, to) = (json!([{"from": all, "ports": ports}]), json!([{"to": all, "ports": ports}]));
            vec![of("peers", json!({"podSelector": {}, "policyTypes": both, "ingress": from, "egress": to}))]
        }
    }
}
