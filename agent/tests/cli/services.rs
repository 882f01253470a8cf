//! Where Services lead, by `npc explain`.

use serde_json::{Value, json};

use crate::Files;
use crate::explain::{LIVE, asked};

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
