//! Fixes of denied flows: which change each kind of denial gets, and in random clusters that
//! each fix does what it says. A fix is applied by another library to the object's JSON, read
//! again by the reader of manifests, and judged anew; what it opens is compared with the
//! difference of two whole matrices.

mod narrow;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_agent::source::manifests::{Options, parse_text};
use npc_compiler::algebra::cidr::{self, Cidr};
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::Groups;
use npc_compiler::object::{Family, NetworkPolicy, Objects, Pod, Protocol};
use npc_compiler::verdict::explain::{FlowExplanation, Port, Target, Verdict, explain};
use npc_compiler::verdict::fix::{Change, Edit, Fix, FlowFix, fixes};
use npc_compiler::verdict::matrix::{self, By, Matrix};
use npc_tests::random;
use proptest::test_runner::{TestCaseError, TestError};
use serde_json::{Value, json};

use narrow::is_narrow;

/// Addresses that the fixes of random clusters are compared for, beside those of nodes.
const OUTSIDE: [&str; 5] = ["203.0.113.9", "10.0.0.65", "198.51.100.7", "2001:db8:1::9", "fd00::77"];

fn target(cluster: &Cluster, text: &str) -> Option<Target<'static>> {
    if let Some(cidr) = Cidr::parse(text).ok().filter(|_| text.contains('/')) {
        return Some(Target::Blocks(vec![cidr]));
    }
    match text.parse::<IpAddr>() {
        Ok(address) => Some(Target::Address(address)),
        Err(_) => {
            let is_named = |pod: &Pod| format!("{}/{}", pod.namespace, pod.name) == text;
            cluster.named().find(|(_, pod)| is_named(pod)).map(|(id, _)| Target::Pod(id))
        }
    }
}

fn explained(cluster: &Cluster, from: &str, to: &str, port: &Port) -> Option<FlowExplanation> {
    let groups = Groups::of_cluster(cluster);
    explain(cluster, &groups, &target(cluster, from)?, &target(cluster, to)?, Some(port)).ok()
}

/// The changes of the only fix and what it opens, a line each.
fn fixed(yaml: &str, from: &str, to: &str, port: &Port) -> String {
    let objects = parse_text("in.yaml", yaml, &Options::default()).unwrap().objects;
    let cluster = Cluster::new(&objects);
    let explanation = explained(&cluster, from, to, port).unwrap();
    let found = fixes(&objects, &cluster, &Groups::of_cluster(&cluster), &explanation, &|_, _, _| false, 4);
    let [FlowFix { fix, .. }] = found.as_slice() else { panic!("{found:?}") };
    let fix = match fix {
        Err(reason) => return format!("{reason:?}"),
        Ok(fix) => fix,
    };
    check(&objects, &cluster, &explanation, &found[0], fix, (from, to, port)).unwrap();
    let change = |change: &Change| {
        let object = format!("{} {}", change.object.kind, change.object.name);
        match &change.edit {
            Edit::NewPolicy(document) => format!("new {object} {}", document["spec"]),
            _ => format!("{object} {}", serde_json::to_string(&change.patch()).unwrap()),
        }
    };
    let opened = fix.opens.iter().map(|of| format!("opens {} {} {}", of.from.id, of.to.id, of.traffic));
    fix.changes.iter().map(change).chain(opened).collect::<Vec<_>>().join("\n")
}

/// The document of an object as its author may write it: with no field that it does not need.
fn written(objects: &Objects, change: &Change) -> Value {
    let name = &change.object.name;
    let namespace = change.object.namespace.clone().unwrap_or_default();
    let metadata = |labels: &BTreeMap<String, String>| {
        let mut metadata = json!({ "name": name });
        if !namespace.is_empty() {
            metadata["namespace"] = json!(namespace);
        }
        let own: BTreeMap<_, _> = labels.iter().filter(|(key, _)| *key != "kubernetes.io/metadata.name").collect();
        if !own.is_empty() {
            metadata["labels"] = json!(own);
        }
        metadata
    };
    match change.object.kind.as_str() {
        "NetworkPolicy" => {
            let policy = objects.policies.iter().rfind(|p| p.namespace() == namespace && p.name() == name).unwrap();
            serde_json::to_value(&policy.object).unwrap()
        }
        "Namespace" => {
            let found = objects.namespaces.iter().find(|of| of.name == *name).unwrap();
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata(&found.labels)})
        }
        "Pod" => {
            let found = objects.pods.iter().find(|of| of.name == *name && of.namespace == namespace).unwrap();
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata(&found.labels), "spec": {"containers": []}})
        }
        kind => {
            let is_meant = |pod: &&Pod| pod.workload.as_ref().is_some_and(|of| of.kind == kind && of.name == *name);
            let found = objects.pods.iter().find(is_meant).unwrap();
            json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
                "spec": {"template": {"metadata": {"labels": found.labels}, "spec": {"containers": []}}}})
        }
    }
}

/// Applies a change as kubectl would, and reads the result as a file.
fn applied(objects: &mut Objects, change: &Change) -> Result<(), String> {
    let document = match &change.edit {
        Edit::NewPolicy(document) => document.clone(),
        _ => {
            let mut document = written(objects, change);
            // The patch as it is printed.
            let printed = serde_json::to_string(change.patch().unwrap()).unwrap();
            let patch: json_patch::Patch = serde_json::from_str(&printed).unwrap();
            json_patch::patch(&mut document, &patch).map_err(|error| format!("{printed}: {error}"))?;
            document
        }
    };
    let options = Options { allow_errors: true, declare_namespaces: false, ..Options::default() };
    let read = parse_text("fixed.json", &document.to_string(), &options).map_err(|error| error.to_string())?.objects;
    for mut policy in read.policies {
        let same = |old: &&mut NetworkPolicy| old.name() == policy.name() && old.namespace() == policy.namespace();
        match objects.policies.iter_mut().rfind(same) {
            Some(old) => {
                // A file would have them; the object of the API has no place for them.
                policy.unknown_fields.clone_from(&old.unknown_fields);
                *old = policy;
            }
            None => objects.policies.push(policy),
        }
    }
    for namespace in read.namespaces {
        objects.namespaces.iter_mut().filter(|old| old.name == namespace.name).for_each(|old| *old = namespace.clone());
    }
    for pod in read.pods {
        let is_meant = |old: &&mut Pod| match &pod.workload {
            Some(_) => old.namespace == pod.namespace && old.workload == pod.workload,
            None => old.namespace == pod.namespace && old.name == pod.name,
        };
        objects.pods.iter_mut().filter(is_meant).for_each(|old| old.labels.clone_from(&pod.labels));
    }
    objects.forget_computed_slices();
    Ok(())
}

/// What is allowed and what may be, by the ids of two ends and the family.
type Cells = BTreeMap<(String, String, Option<Family>), (Traffic, Traffic)>;

fn cells(cluster: &Cluster) -> Cells {
    let nodes = cluster.nodes().values().flatten().copied();
    let addresses = OUTSIDE.iter().map(|text| text.parse().unwrap()).chain(nodes).collect();
    let matrix = Matrix::new(cluster, &matrix::Options { by: By::Pod, addresses });
    let id = |row: usize| matrix.endpoints()[row].id.to_string();
    let cell = |cell: matrix::Cell| {
        let most = cell.traffic.union(&cell.unknown);
        ((id(cell.from), id(cell.to), cell.family), ((*cell.traffic).clone(), most))
    };
    matrix.cells().map(cell).collect()
}

/// Whether an end of what is opened means an id. Nodes' addresses, and those that were asked
/// about, are said by themselves.
fn means(end: &str, id: &str, alone: &[IpAddr]) -> bool {
    let Ok(address) = id.parse::<IpAddr>() else { return end == id };
    if alone.contains(&address) {
        return end == id;
    }
    let number = cidr::number(address);
    if let Some((first, last)) = end.split_once('-')
        && let (Ok(first), Ok(last)) = (first.parse::<IpAddr>(), last.parse::<IpAddr>())
    {
        return Family::of(&first) == Family::of(&address)
            && (cidr::number(first)..=cidr::number(last)).contains(&number);
    }
    Cidr::parse(end).is_ok_and(|cidr| cidr.family == Family::of(&address) && cidr.addresses().contains(number))
}

/// Checks all that a fix says.
fn check(
    objects: &Objects,
    before: &Cluster,
    explanation: &FlowExplanation,
    found: &FlowFix,
    fix: &Fix,
    (from, to, port): (&str, &str, &Port),
) -> Result<(), String> {
    let mut changed = objects.clone();
    for change in &fix.changes {
        if !is_narrow(change, [from, to]) {
            return Err(format!("{change:?} names not all that it admits"));
        }
        applied(&mut changed, change)?;
    }
    let after = Cluster::new(&changed);
    let again = explained(&after, from, to, port).ok_or("no answer after the fix")?;
    for place in &found.flows {
        let asked = &explanation.flows[*place];
        let is_it = |family: Option<Family>| asked.family.is_none() || family.is_none() || family == asked.family;
        let mut flows = again.flows.iter().filter(|flow| is_it(flow.family)).peekable();
        if flows.peek().is_none() || flows.any(|flow| flow.verdict != Verdict::Allowed) {
            return Err(format!("{:?} is not allowed after {:?}", asked.family, fix.changes));
        }
    }
    let (old, new) = (cells(before), cells(&after));
    let none = (Traffic::none(), Traffic::none());
    let asked_about = [from, to].into_iter().filter_map(|text| text.parse().ok());
    let alone: Vec<IpAddr> = before.nodes().values().flatten().copied().chain(asked_about).collect();
    let asked = |key: &(String, String, Option<Family>)| {
        let flows = found.flows.iter().map(|place| &explanation.flows[*place]);
        let is_meant = |family: Option<Family>| family.is_none() || key.2.is_none() || family == key.2;
        let ends = means_asked(before, from, &key.0) && means_asked(before, to, &key.1);
        let traffic = flows.filter(|flow| ends && is_meant(flow.family)).map(|flow| flow.traffic.clone());
        traffic.fold(Traffic::none(), |all, traffic| all.union(&traffic))
    };
    for key in old.keys().chain(new.keys()) {
        let ((least, most), (new_least, new_most)) = (old.get(key).unwrap_or(&none), new.get(key).unwrap_or(&none));
        if !least.difference(new_least).is_none() {
            return Err(format!("{key:?} is closed by {:?}", fix.changes));
        }
        let opened = new_least.difference(least).union(&new_most.difference(most)).difference(&asked(key));
        let is_it = |of: &&npc_compiler::verdict::fix::Opened| {
            means(&of.from.id, &key.0, &alone) && means(&of.to.id, &key.1, &alone) && of.family == key.2
        };
        let said = fix.opens.iter().filter(is_it).fold(Traffic::none(), |all, of| all.union(&of.traffic));
        if said != opened {
            return Err(format!("{key:?}: opens {opened}, said {said}; {:?}", fix.changes));
        }
    }
    let pods: BTreeSet<&str> = new.keys().flat_map(|(from, to, _)| [from.as_str(), to.as_str()]).collect();
    let is_known = |id: &str| {
        let is_outside = |text: &str| text.parse::<IpAddr>().is_ok() || Cidr::parse(text).is_ok();
        let is_range = || id.split_once('-').is_some_and(|(first, last)| is_outside(first) && is_outside(last));
        pods.contains(id) || is_outside(id) || is_range()
    };
    if fix.opens.iter().any(|of| !is_known(&of.from.id) || !is_known(&of.to.id)) {
        return Err(format!("{:?} names an unknown end", fix.opens));
    }
    Ok(())
}

/// Whether an end that was asked about is the row of this id.
fn means_asked(cluster: &Cluster, asked: &str, id: &str) -> bool {
    if asked == id {
        return true;
    }
    let is_in = |address: IpAddr| {
        let of = Cidr::parse(asked).ok().filter(|of| of.family == Family::of(&address));
        of.is_some_and(|of| of.addresses().contains(cidr::number(address)))
    };
    if id.parse().is_ok_and(is_in) {
        return true;
    }
    // A pod in its node's network is its node's address.
    let host = cluster.named().find(|(_, pod)| format!("{}/{}", pod.namespace, pod.name) == asked && pod.host_network);
    host.is_some_and(|(_, pod)| pod.addresses().any(|address| address.to_string() == id))
}

/// The fixes of some denied flows of a cluster, each checked; how many there were.
fn sound(objects: &Objects, seed: usize) -> Result<usize, String> {
    let cluster = Cluster::new(objects);
    let groups = Groups::of_cluster(&cluster);
    let mut ends: Vec<String> = cluster.named().map(|(_, pod)| format!("{}/{}", pod.namespace, pod.name)).collect();
    ends.extend(OUTSIDE.iter().map(|text| (*text).to_owned()));
    let ports = [(Protocol::Tcp, 80), (Protocol::Udp, 53), (Protocol::Tcp, 8080)];
    let mut count = 0;
    let pairs = ends.iter().flat_map(|from| ends.iter().map(move |to| (from, to)));
    for (place, (from, to)) in pairs.enumerate().skip(seed % 7).step_by(7) {
        let (protocol, number) = ports[(place + seed) % ports.len()];
        let port = Port::Numbers(Some(protocol), number, number);
        let Some(explanation) = explained(&cluster, from, to, &port) else { continue };
        for found in fixes(objects, &cluster, &groups, &explanation, &|_, _, _| false, 2) {
            if let Ok(fix) = &found.fix {
                count += 1;
                check(objects, &cluster, &explanation, &found, fix, (from, to, &port))
                    .map_err(|error| format!("{from} -> {to} {number}: {error}"))?;
            }
        }
    }
    Ok(count)
}

#[test]
fn what_a_fix_says_of_itself_is_true_in_random_clusters() {
    let cases = std::env::var("NPC_CASES").ok().map_or(60, |text| text.parse().unwrap());
    let seed: u64 = std::env::var("NPC_SEED").ok().map_or(1, |text| text.parse().unwrap());
    let count = std::cell::Cell::new(0);
    let check = |objects: Objects| {
        let found = sound(&objects, count.get()).map_err(TestCaseError::fail)?;
        count.set(count.get() + found);
        Ok(())
    };
    match random::runner(seed, cases).run(&random::objects(), check) {
        Ok(()) => assert!(count.get() > cases as usize, "only {} fixes in {cases} clusters", count.get()),
        Err(TestError::Fail(reason, objects)) => panic!("{reason}\n\n{objects:#?}"),
        Err(error @ TestError::Abort(_)) => panic!("{error}"),
    }
}

/// Two namespaces, with pods of each, and policies.
fn cluster(policies: &str) -> String {
    let pod = |namespace: &str, name: &str, labels: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\n\
             spec: {{containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]}}\n\
             status: {{phase: Running, podIP: {address}}}\n---\n"
        )
    };
    let namespace = |name: &str, labels: &str| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}{labels}}}\n---\n")
    };
    [
        namespace("shop", ""),
        namespace("ops", ""),
        namespace("dev", ", labels: {team/of: x}"),
        pod("shop", "web", "{app: web}", "10.0.0.1"),
        pod("shop", "api", "{app: api, tier: back}", "10.0.0.2"),
        pod("shop", "cart", "{app: cart, tier: back}", "10.0.0.3"),
        pod("ops", "prom", "{app: prom}", "10.0.1.1"),
        pod("ops", "grafana", "{app: grafana}", "10.0.1.2"),
        pod("dev", "tool", "{app: tool}", "10.0.2.1"),
        policies.to_owned(),
    ]
    .concat()
}

/// A policy for shop/api.
fn ingress(rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: api, namespace: shop}}\n\
         spec: {{podSelector: {{matchLabels: {{app: api}}}}, policyTypes: [Ingress]{rules}}}\n---\n"
    )
}

#[test]
fn each_kind_of_denial_gets_the_smallest_change() {
    let port = || Port::Numbers(None, 8080, 8080);
    let new_rule = r#"{"from":[{"podSelector":{"matchLabels":{"app":"web"}}}],"ports":[{"port":8080}]}"#;
    let list = |rule: &str| format!(r#"NetworkPolicy api [{{"op":"add","path":"/spec/ingress","value":[{rule}]}}]"#);
    for (name, rules, from, expected) in [
        ("no list", "", "shop/web", list(new_rule)),
        ("an empty list", ", ingress: []", "shop/web", list(new_rule)),
        ("a null list", ", ingress:", "shop/web", list(new_rule)),
        (
            "another rule",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: cart}}}], ports: [{port: 1}]}]",
            "ops/prom",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/-","value":{"from":[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ops"}},"podSelector":{"matchLabels":{"app":"prom"}}}],"ports":[{"port":8080}]}}]"#.to_owned(),
        ),
        (
            "peer-other-namespace",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: prom}}}], ports: [{port: http}]}]",
            "ops/prom",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/0/namespaceSelector","value":{"matchLabels":{"kubernetes.io/metadata.name":"ops"}}}]"#.to_owned(),
        ),
        (
            "peer-label-value",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: cart}}}], ports: [{port: http}]}]",
            "shop/web",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"podSelector":{"matchLabels":{"app":"web"}}}}]"#.to_owned(),
        ),
        (
            "a selector of no pod",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: wep}}}], ports: [{port: http}]}]",
            "shop/web",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"podSelector":{"matchLabels":{"app":"web"}}}}]"#.to_owned(),
        ),
        (
            "peer-label-missing",
            ", ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: In, values: [back]}]}}], ports: [{port: http}]}]",
            "shop/web",
            r#"Pod web [{"op":"add","path":"/metadata/labels/tier","value":"back"}]"#.to_owned(),
        ),
        (
            "peer-namespace-label",
            ", ingress: [{from: [{namespaceSelector: {matchLabels: {team/of: x}}, podSelector: {matchLabels: {app: prom}}}, {namespaceSelector: {matchLabels: {team/of: x}}}], ports: [{port: http}]}]",
            "ops/prom",
            "Namespace ops [{\"op\":\"add\",\"path\":\"/metadata/labels\",\"value\":{\"kubernetes.io/metadata.name\":\"ops\",\"team/of\":\"x\"}}]\nopens ops/grafana shop/api 8080".to_owned(),
        ),
        (
            "port-number",
            ", ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]",
            "shop/web",
            "NetworkPolicy api [{\"op\":\"add\",\"path\":\"/spec/ingress/-\",\"value\":".to_owned() + new_rule + "}]",
        ),
        (
            "ipblock-outside",
            ", ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: http}]}]",
            "198.51.100.7",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"ipBlock":{"cidr":"198.51.100.7/32"}}}]"#.to_owned(),
        ),
        (
            "ipblock-except",
            ", ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.0/30, 198.51.100.7/32]}}], ports: [{port: http}]}]",
            "198.51.100.7",
            r#"NetworkPolicy api [{"op":"remove","path":"/spec/ingress/0/from/0/ipBlock/except/1"}]"#.to_owned(),
        ),
        (
            "a whole prefix",
            ", ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: http}]}]",
            "198.51.100.0/24",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"ipBlock":{"cidr":"198.51.100.0/24"}}}]"#.to_owned(),
        ),
    ] {
        assert_eq!(fixed(&cluster(&ingress(rules)), from, "shop/api", &port()), expected, "{name}");
    }
}

#[test]
fn a_pod_in_its_nodes_network_is_admitted_by_the_nodes_address() {
    let host = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n\
                status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}\n---\n\
                apiVersion: v1\nkind: Pod\nmetadata: {name: host, namespace: shop, labels: {app: host}}\n\
                spec: {nodeName: n1, hostNetwork: true, containers: [{name: c}]}\n\
                status: {phase: Running, podIP: 192.168.0.1}\n---\n";
    let rules = ", ingress: [{from: [{podSelector: {matchLabels: {app: host}}}], ports: [{port: http}]}]";
    let yaml = cluster(&[&ingress(rules), host].concat());
    // A pod of an unknown node may be on this one, and is then admitted without a rule.
    let yaml = yaml.replace("spec: {containers", "spec: {nodeName: n2, containers");
    let expected = r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"ipBlock":{"cidr":"192.168.0.1/32"}}}]"#;
    let port = Port::Numbers(None, 8080, 8080);
    assert_eq!(fixed(&yaml, "shop/host", "shop/api", &port), expected);
    // The fix opens nothing to a pod of the node, which the node reached before, and something
    // to a pod that the same policies judge on another node.
    let replica = |name: &str, node: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: api, tier: back}}}}\n\
             spec: {{nodeName: {node}, containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]}}\n\
             status: {{phase: Running, podIP: {address}}}\n---\n"
        )
    };
    let replicas = [replica("a", "n1", "10.0.0.4"), replica("b", "n2", "10.0.0.5")].concat();
    let expected = format!("{expected}\nopens 192.168.0.1 shop/b 8080");
    assert_eq!(fixed(&[yaml, replicas].concat(), "shop/host", "shop/api", &port), expected);
}

#[test]
fn a_smaller_change_that_closes_something_is_not_taken() {
    // With Ingress among its types, the policy would isolate all pods of the namespace.
    let all = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all, namespace: shop}\n\
               spec: {podSelector: {}, policyTypes: [Egress], egress: [{}], \
               ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]}\n---\n";
    let yaml = cluster(&[&ingress(""), all].concat());
    let text = fixed(&yaml, "shop/web", "shop/api", &Port::Numbers(None, 8080, 8080));
    let rule = r#"{"from":[{"podSelector":{"matchLabels":{"app":"web"}}}],"ports":[{"port":8080}]}"#;
    assert_eq!(text, format!(r#"NetworkPolicy api [{{"op":"add","path":"/spec/ingress","value":[{rule}]}}]"#));
}

#[test]
fn both_directions_are_fixed_together() {
    let deny = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny, namespace: shop}\n\
                spec: {podSelector: {}, policyTypes: [Ingress, Egress]}\n---\n";
    let port = Port::Numbers(None, 8080, 8080);
    let text = fixed(&cluster(deny), "shop/web", "shop/api", &port);
    // A rule in the policy that isolates would open it for all pods of the namespace.
    let expected = "new NetworkPolicy allow-web-to-api {\"egress\":[{\"ports\":[{\"port\":8080}],\"to\":[{\"podSelector\":{\"matchLabels\":{\"app\":\"api\"}}}]}],\"podSelector\":{\"matchLabels\":{\"app\":\"web\"}},\"policyTypes\":[\"Egress\"]}\n\
                    new NetworkPolicy allow-api-from-web {\"ingress\":[{\"from\":[{\"podSelector\":{\"matchLabels\":{\"app\":\"web\"}}}],\"ports\":[{\"port\":8080}]}],\"podSelector\":{\"matchLabels\":{\"app\":\"api\"}},\"policyTypes\":[\"Ingress\"]}";
    assert_eq!(text, expected);
}

#[test]
fn the_name_of_a_new_policy_is_one_that_its_namespace_does_not_have() {
    let policy = |namespace: &str, name: &str, labels: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{podSelector: {labels}, policyTypes: [Ingress]}}\n---\n"
        )
    };
    for (namespace, expected) in [("ops", "allow-api-from-web"), ("shop", "allow-api-from-web-2")] {
        let other = policy(namespace, "allow-api-from-web", "{matchLabels: {app: none}}");
        let yaml = cluster(&[policy("shop", "deny", "{}"), other].concat());
        let text = fixed(&yaml, "shop/web", "shop/api", &Port::Numbers(None, 8080, 8080));
        assert!(text.starts_with(&format!("new NetworkPolicy {expected} ")), "{text}");
    }
}

#[test]
fn a_denial_without_a_small_fix_gets_the_reason() {
    let port = || Port::Numbers(None, 8080, 8080);
    assert_eq!(fixed(&cluster(&ingress("")), "shop/web", "shop/api", &Port::Icmp), "Icmp");
    // No selector selects a pod without labels, so no rule can name it.
    let unlabelled = cluster(&ingress("")).replace("labels: {app: web}", "labels: {}");
    assert_eq!(fixed(&unlabelled, "shop/web", "shop/api", &port()), "NoLabel(\"shop\", \"web\")");
    // A policy whose podSelector is not understood allows nothing, whatever its rules are, and a
    // new policy would need a label of the destination.
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all, namespace: shop}\n\
                  spec: {podSelector: {matchExpressions: [{key: app, operator: Near}]}, policyTypes: [Ingress]}\n---\n";
    let unlabelled = cluster(policy).replace("labels: {app: api, tier: back}", "labels: {}");
    assert_eq!(fixed(&unlabelled, "shop/web", "shop/api", &port()), "NothingFits");
}
