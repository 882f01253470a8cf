//! Where Services lead, by `npc explain`.

use serde_json::{Value, json};

use crate::Files;
use crate::explain::{LIVE, asked};
use crate::manifests::{deny, node, policy, policy_for, service, workload};

/// A pod behind the Service `api`, being deleted or not.
fn behind_api(name: &str, address: &str, terminating: bool) -> String {
    let deletion = if terminating { ", deletionTimestamp: 2026-11-01T00:00:00Z" } else { "" };
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, uid: {name}, labels: {{app: api}}{deletion}}}
spec: {{nodeName: n1, containers: [{{name: c, ports: [{{name: http, containerPort: 9000}}]}}, {{name: d, ports: [{{name: http, containerPort: 8000}}]}}]}}
status: {{phase: Running, podIP: {address}}}
"
    )
}

const API_SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: api}
spec: {type: LoadBalancer, selector: {app: api}, clusterIP: 10.96.0.9, ports: [{port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api}
spec: {podSelector: {matchLabels: {app: api}}}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: n2, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.9}
";

#[test]
fn a_service_leads_where_kube_proxy_sends_its_traffic_and_all_commands_agree() {
    let (going, here) = (behind_api("going", "10.0.0.1", true), behind_api("here", "10.0.0.2", false));
    for (pods, backend) in [(format!("{going}{here}"), "here"), (going, "going")] {
        let files = Files::of(&format!("{API_SERVICE}{pods}"));
        let flows = files.npc("explain", &["client", "svc/api", "-o", "json"]).json()["flows"].clone();
        let ends: Vec<_> = flows.as_array().unwrap().iter().map(|flow| (&flow["to"]["name"], &flow["ports"])).collect();
        assert_eq!(ends, [(&json!(backend), &json!([[9000, 9000]]))], "the first container's port, on {backend}");
        // With its jump behind kube-proxy's, Azure NPM sees no packet that comes by a node's port.
        let report = files.npc("migrate", &["-o", "json", "--exit-zero"]).json();
        let by_service: Vec<&Value> =
            report["differences"].as_array().unwrap().iter().filter(|of| of["code"] == "node-port").collect();
        let [difference] = by_service.as_slice() else { panic!("{report:#}") };
        let flow = &difference["flows"][0];
        assert_eq!(flow["to"]["workloads"][0]["id"], json!(format!("default/Pod/{backend}")));
        assert_eq!(flow["traffic"], json!([{"protocol": "TCP", "ports": [[9000, 9000]]}]));
    }
}

/// The API server's Service has no selector; a policy lets the pod send to the API server
/// alone.
const API_SERVER: &str = "
apiVersion: v1
kind: Service
metadata: {name: kubernetes}
spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443, targetPort: 6443}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.9}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 6443}]}]
---
";

/// An EndpointSlice of a Service.
fn slice(service: &str, port: &str, endpoints: &str) -> String {
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{port}]
endpoints: {endpoints}
---
"
    )
}

#[test]
fn where_a_service_without_a_selector_leads_is_unknown_without_its_endpoint_slices() {
    let files = Files::of(API_SERVER);
    for destination in ["svc/kubernetes:443", "svc/kubernetes", "10.96.0.1:443"] {
        let answer = files.npc("explain", &["client", destination, "-o", "json"]);
        assert_eq!(answer.code, 4, "{destination}");
        let json = answer.json();
        assert_eq!((&json["verdict"], &json["flows"][0]["verdict"]), (&json!("Unknown"), &json!("Unknown")));
        let unknown = json["unknowns"][0].as_str().unwrap();
        assert!(unknown.starts_with("where default/svc/kubernetes leads: no EndpointSlice"), "{unknown}");
    }
    let text = files.npc("explain", &["client", "svc/kubernetes:443"]).out;
    assert!(text.starts_with("UNKNOWN  default/pod/client -> default/svc/kubernetes:443  TCP 443\n"), "{text}");
    // A port that the Service has not is no matter of endpoints.
    assert_eq!(asked(&files, "client", "svc/kubernetes:80"), (1, vec!["- Denied - service-port-unknown".to_owned()]));
}

#[test]
fn endpoint_slices_and_endpoints_say_where_a_service_leads() {
    let port = "{name: https, port: 6443}";
    let slice = |endpoints| slice("kubernetes", port, endpoints);
    let endpoints = |address| {
        format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: kubernetes}}\nsubsets: [{{addresses: [{{ip: {address}}}], ports: \
             [{port}]}}]\n"
        )
    };
    for (slices, code, flow) in [
        (slice("[{addresses: [192.0.2.1]}]"), 0, "IPv4 Allowed rule default-allow"),
        (slice("[{addresses: [203.0.113.1]}]"), 1, "IPv4 Denied ipblock-outside default-allow"),
        (
            slice("[{addresses: [203.0.113.1], conditions: {ready: false}}, {addresses: [192.0.2.1]}]"),
            0,
            "IPv4 Allowed rule default-allow",
        ),
        (slice("[{addresses: [192.0.2.1], conditions: {ready: false}}]"), 1, "- Denied - service-no-backends"),
        (endpoints("192.0.2.1"), 0, "IPv4 Allowed rule default-allow"),
        (endpoints("203.0.113.1"), 1, "IPv4 Denied ipblock-outside default-allow"),
    ] {
        let files = Files::of(&format!("{API_SERVER}{slices}"));
        assert_eq!(asked(&files, "client", "svc/kubernetes:443"), (code, vec![flow.to_owned()]), "{slices}");
    }
}

#[test]
fn a_what_if_makes_the_slices_of_a_selector_anew() {
    let (here, more) = (behind_api("here", "10.0.0.2", false), behind_api("more", "10.0.0.3", false));
    let slice = slice("api", "{port: 9000}", "[{addresses: [10.0.0.2]}]");
    let files = Files::of(&format!("{API_SERVICE}{here}---{slice}"));
    files.add("more.yaml", &more);
    let names = |arguments: &[&str]| -> Vec<String> {
        let flows = files.npc("explain", arguments).json()["flows"].clone();
        flows.as_array().unwrap().iter().map(|flow| flow["to"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&["client", "svc/api", "-o", "json"]), ["here"]);
    assert_eq!(names(&["client", "svc/api", "-o", "json", "--overlay", "more.yaml"]), ["here", "more"]);
}

#[test]
fn a_service_as_source_that_leads_to_no_pod_is_said_to_be_one() {
    let warnings = Files::of(LIVE).npc("explain", &["svc/none", "a:80", "-o", "json"]).json()["warnings"].clone();
    assert_eq!(warnings, json!(["the source is a Service that leads to no pod of the input"]));
}

/// A pod `web` and a pod `api` with addresses of both families, and a policy for `api`.
fn dual(policy: &str) -> String {
    let pod = |name: &str, number: u8| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec: {{nodeName: n1, \
             containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIPs: [{{ip: 10.0.0.{number}}}, {{ip: 'fd00::{number}'}}]}}\n---\n"
        )
    };
    [&pod("web", 1), &pod("api", 2), policy].concat()
}

/// A DaemonSet has a pod on each node: policies say nothing of a node and its own pod, and judge it at the others.
#[test]
fn of_a_node_and_a_daemon_set_it_is_said_what_holds_on_one_node_and_between_two() {
    let nodes = [node("n1", "192.168.0.1"), node("n2", "192.168.0.2")].concat();
    let agent = workload("DaemonSet", "agent", "selector: {matchLabels: {app: agent}}");
    let files = |policy: &str| Files::of(&[&*nodes, &*agent, policy].concat());
    for (ends, deny) in [(["node/n1", "ds/agent:8080"], deny("Ingress")), (["ds/agent", "node/n1"], deny("Egress"))] {
        let answer = files(&deny).npc("explain", &ends);
        let line = |words: &[&str]| answer.out.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(line(&["ALLOWED", "on one node"]), "{ends:?}: {}{}", answer.out, answer.err);
        assert!(line(&["DENIED", "between different nodes"]), "{ends:?}: {}", answer.out);
        assert!(!answer.out.contains("UNKNOWN"), "{}", answer.out);
    }
    // The fix names this node only, and its patch admits the flow.
    let answer = files(&deny("Ingress")).npc("explain", &["node/n1", "ds/agent:8080"]);
    assert!(answer.out.contains("192.168.0.1/32") && !answer.out.contains("192.168.0.2/32"), "{}", answer.out);
    let admits = "ingress: [{from: [{ipBlock: {cidr: 192.168.0.1/32}}]}]";
    let block = policy_for("{app: agent}", "name: agent", admits);
    let answer = files(&block).npc("explain", &["node/n1", "ds/agent:8080"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    assert!(!answer.out.contains("different nodes"), "both say the same: {}", answer.out);
    // A deployment has a pod on some node only.
    let files = Files::of(
        &[&nodes, &workload("Deployment", "agent", "replicas: 2"), &deny("Ingress")].map(String::as_str).concat(),
    );
    assert!(files.npc("explain", &["node/n1", "deploy/agent:8080"]).out.contains("UNKNOWN"));
}

/// The matrix has both: what is allowed of some replicas only.
#[test]
fn a_matrix_with_a_node_says_of_a_daemon_set_that_replicas_differ() {
    let agent = workload("DaemonSet", "agent", "selector: {matchLabels: {app: agent}}");
    let files = Files::of(&[&*node("n1", "192.168.0.1"), &*agent, &*deny("Ingress")].concat());
    let json = files.npc("matrix", &["--address", "192.168.0.1", "-o", "json"]).json();
    let ends = |rows: &Value| -> Vec<(Value, Value)> {
        rows.as_array().unwrap().iter().map(|row| (row["from"].clone(), row["to"].clone())).collect()
    };
    let pair = (json!("192.168.0.1"), json!("default/DaemonSet/agent"));
    assert!(ends(&json["differs"]).contains(&pair), "{json:#}");
    assert!(!ends(&json["unknowns"]).contains(&pair), "{json:#}");
}

/// `NAME.NS` is what DNS calls a Service; its pods may be of a workload with the same name.
#[test]
fn a_dns_name_with_a_port_of_a_service_means_the_service() {
    let pods = [workload("Deployment", "api", "replicas: 2"), workload("Deployment", "web", "replicas: 2")].concat();
    let service = service("api", "{app: api}", "port: 80, targetPort: 8080");
    let policy = policy("name: api", "ingress: [{ports: [{port: 8080}, {port: 80, protocol: UDP}]}]");
    let files = Files::of(&[pods, service, policy].concat());
    for (to, code) in [
        ("api.default:80", 0),
        ("api.default:8080", 0),
        ("api.default:9090", 1),
        ("deploy/api:80", 1),
        // The Service has port 80 of TCP only.
        ("api.default:80/udp", 0),
    ] {
        let answer = files.npc("explain", &["web", to]);
        assert_eq!(answer.code, code, "{to}: {}{}", answer.out, answer.err);
    }
}

/// kube-proxy has no rule for the addresses of a family that a Service has not.
#[test]
fn a_node_port_of_one_family_is_none_of_the_nodes_other_address() {
    let n1 = node("n1", "192.168.0.1").replace("}]}", "}, {type: InternalIP, address: 'fd01::1'}]}");
    let service = service("api", "{app: api}", "port: 80, targetPort: 8080, nodePort: 30080")
        .replace("spec: {", "spec: {type: NodePort, ipFamilies: [IPv4], clusterIP: 10.96.0.1, ");
    let files = Files::of(&[dual(&deny("Ingress")), n1, service].concat());
    assert_eq!(files.npc("explain", &["203.0.113.5", "192.168.0.1:30080"]).code, 1);
    let answer = files.npc("explain", &["2001:db9::1", "[fd01::1]:30080"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
}

/// A policy may admit one family only, and a question about one end has to say so.
#[test]
fn a_question_about_one_end_says_that_families_differ() {
    let in_v4 = policy("name: api", "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]");
    let of = |policy: &str| Files::of(&dual(policy)).npc("explain", &["api"]).out;
    assert!(of(&in_v4).contains("IPv4 and IPv6"), "{}", of(&in_v4));
    let by_label = policy("name: api", "ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]");
    assert!(!of(&by_label).contains("IPv4 and IPv6"), "{}", of(&by_label));
}

/// Every IPv4 address that a replica may get is in the block, so of another replica that is certain.
#[test]
fn another_replica_without_an_address_is_in_a_block_of_all_addresses() {
    let everyone = policy("name: api", "ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]");
    let files = Files::of(&[&*workload("Deployment", "api", "replicas: 2"), &*everyone].concat());
    let answer = files.npc("explain", &["deploy/api", "deploy/api:8080", "-o", "json"]).json();
    let flows = answer["flows"].as_array().unwrap();
    let of_v4 = |flow: &&Value| flow["family"] == "IPv4" && flow["verdict"] == "Allowed";
    assert!(flows.iter().any(|flow| of_v4(&flow)), "{answer:#}");
    assert!(flows.iter().all(|flow| flow["verdict"] != "Unknown"), "{answer:#}");
}
