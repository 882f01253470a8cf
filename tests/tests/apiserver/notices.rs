//! What an agent writes to its cluster, and that it writes nothing else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use npc_agent::source::kube::{Notice, STARTUP_TAINT, connect, write_notices};
use npc_compiler::policy::finding::{Effect, Finding, FindingCode};
use npc_tests::apiserver::{Fault, Resource, Server, Verb};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

fn finding(effect: Effect) -> Finding {
    Finding {
        namespace: "shop".to_owned(),
        name: "api".to_owned(),
        path: "spec.ingress[0].from[0].ipBlock.cidr".to_owned(),
        code: FindingCode::PeerEmpty,
        problem: "10.0.0.0/33 is not a prefix".to_owned(),
        effect,
        address: None,
    }
}

/// A server with a policy and a node that has the start-up taint and another.
fn cluster() -> Server {
    let server = Server::start().unwrap();
    server.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    server.put(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "api"}, "spec": {"podSelector": {}},
    }));
    let taint = |key| json!({"key": key, "effect": "NoSchedule"});
    server.put(&json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
        "spec": {"podCIDR": "10.0.0.0/24", "taints": [taint(STARTUP_TAINT), taint("other")]},
    }));
    server
}

/// The task that writes an agent's notices; it ends once all are written.
fn teller(server: &Server, node: &str, remove_taint: bool, notices: &[Notice]) -> JoinHandle<()> {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = server.write_kubeconfig(folder.path()).unwrap();
    let connector = connect(Some(&kubeconfig), None).unwrap();
    let (sender, received) = mpsc::unbounded_channel();
    for notice in notices {
        sender.send(notice.clone()).unwrap();
    }
    let node = node.to_owned();
    tokio::spawn(async move {
        // The token is read from there.
        let _folder = folder;
        write_notices(connector.client().unwrap(), node, received, remove_taint).await;
    })
}

fn taints(server: &Server) -> Vec<String> {
    let node = server.objects(Resource::Nodes).pop().unwrap();
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    taints.iter().map(|taint| taint["key"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_agents_do_not_understand_is_one_event_on_its_policy() {
    let server = cluster();
    server.inject(Fault::internal_error().on(Resource::Events).verbs(&[Verb::Create]).times(1));
    let notices =
        [Notice::Ready, Notice::Finding(finding(Effect::MatchesNothing)), Notice::Finding(finding(Effect::Works))];
    for node in ["node-1", "node-2", "node-3"] {
        teller(&server, node, false, &notices).await.unwrap();
    }
    let events: Vec<Value> = server.objects(Resource::Events);
    assert_eq!(events.len(), 1, "{events:?}");
    let (event, policy) = (&events[0], server.objects(Resource::NetworkPolicies).pop().unwrap());
    assert_eq!(event["regarding"]["uid"], policy["metadata"]["uid"], "kubectl describe looks by it");
    assert_eq!(event["type"], "Warning");
    assert!(event["note"].as_str().unwrap().contains("10.0.0.0/33"), "{event}");
    assert_eq!(taints(&server), [STARTUP_TAINT, "other"], "nobody asked for it");
    let name = concat!("npc/", env!("CARGO_PKG_VERSION"));
    let names: BTreeSet<String> = server.requests().into_iter().map(|request| request.user_agent).collect();
    assert_eq!(names, BTreeSet::from([name.to_owned()]), "each request says which program sent it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_gone_gets_no_event() {
    let server = cluster();
    server.delete(Resource::NetworkPolicies, "shop", "api");
    teller(&server, "node-1", false, &[Notice::Finding(finding(Effect::AllowsNothing))]).await.unwrap();
    assert!(server.objects(Resource::Events).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_up_taint_goes_and_what_others_put_on_the_node_stays() {
    let server = cluster();
    server.inject(Fault::internal_error().on(Resource::Nodes).verbs(&[Verb::Get]).times(1));
    teller(&server, "node-1", true, &[Notice::Ready]).await.unwrap();
    server.wait("the taint goes", |server| taints(server) == ["other"]).unwrap();
    let node = server.objects(Resource::Nodes).pop().unwrap();
    assert_eq!(node["spec"]["podCIDR"], "10.0.0.0/24");
}
