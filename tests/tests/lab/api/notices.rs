//! What agents tell: the cluster by Events and by the start-up taint, and the
//! operator of a node by `npc status`.

use std::process::Output;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use nix::sys::signal::Signal;
use npc_agent::source::kube::STARTUP_TAINT;
use npc_agent::status::{AgentStatus, Rejected};
use npc_compiler::object::{Labels, NetworkPolicy, Objects, Pod};
use npc_tests::apiserver::{Failure, Fault, Resource, Server, Verb};
use npc_tests::lab::{Backend, Enforcer, Lab};
use serde_json::{Value, json};

use super::small::{self, NODE, Small, WATCHED, is_synced_without};

const FIELD: &str = "spec.ingress[0].from[0].ipBlock.cidr";

/// A policy with one block that cannot be read.
fn odd(name: &str) -> NetworkPolicy {
    let policy = json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "podSelector": {"matchLabels": {"app": "none"}},
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}, {"ipBlock": {"cidr": "10.0.0.0/24"}}]}],
        },
    });
    let policy: networking::NetworkPolicy = serde_json::from_value(policy).unwrap();
    policy.into()
}

/// Objects with the odd policy beside the others.
fn with_odd(objects: &Objects) -> Objects {
    let mut objects = objects.clone();
    objects.policies.push(odd("odd"));
    objects
}

/// The answers to requests that write Events, in order.
fn event_writes(server: &Server) -> Vec<u16> {
    let asked = server.requests();
    let writes = asked.iter().filter(|asked| asked.resource == Some(Resource::Events) && asked.verb == Verb::Create);
    let mut codes: Vec<u16> = writes.filter_map(|asked| asked.code).collect();
    codes.sort_unstable();
    codes
}

fn wait_reported(lab: &Lab, codes: &[u16]) {
    lab.api_server()
        .unwrap()
        .wait(&format!("writes of Events answered {codes:?}"), |server| event_writes(server) == codes)
        .unwrap();
}

fn restart(lab: &mut Lab, node: &str) {
    lab.take_agent(node).unwrap().unwrap().stop(Signal::SIGTERM).unwrap();
    lab.start_agents().unwrap();
}

#[test]
fn a_policy_that_is_partly_understood_gets_one_event_of_all_agents() {
    let Some(agents) = Enforcer::for_test() else { return };
    let mut objects = small::objects("web");
    for (number, pod) in (1..).zip(&mut objects.pods) {
        pod.node = Some(format!("node-{number}"));
    }
    let labels = Labels::new();
    let far = Pod::from_template("shop".to_owned(), "far".to_owned(), labels, PodSpec::default());
    objects.pods.push(Pod { node: Some("node-1".to_owned()), ..far });
    let lab = Lab::builder(objects).backend(Backend::Nft).enforcer(agents);
    let mut lab = lab.api_server(Server::in_process()).start().unwrap();
    let events = |lab: &Lab| lab.api_server().unwrap().objects(Resource::Events);
    assert_eq!(events(&lab), Vec::<Value>::new());

    let odd = with_odd(&lab.cluster().objects);
    lab.apply(odd).unwrap();
    wait_reported(&lab, &[201, 409, 409]);
    let [event] = &events(&lab)[..] else { panic!("{:#?}", events(&lab)) };
    let policies = lab.api_server().unwrap().objects(Resource::NetworkPolicies);
    let policy = policies.iter().find(|policy| policy["metadata"]["name"] == "odd").unwrap();
    let regarding = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "namespace": "shop", "name": "odd",
        "uid": policy["metadata"]["uid"], "fieldPath": FIELD,
    });
    assert!(policy["metadata"]["uid"].is_string());
    assert_eq!((&event["regarding"], &event["type"]), (&regarding, &json!("Warning")));
    assert_eq!((&event["reason"], &event["metadata"]["namespace"]), (&json!("PartlyUnderstood"), &json!("shop")));
    let note = event["note"].as_str().unwrap();
    assert!(note.starts_with(FIELD) && note.contains("10.0.0.0/33"), "{note}");

    // An agent that starts says nothing new, and once the Event has expired
    // gives it the same name.
    restart(&mut lab, "node-2");
    wait_reported(&lab, &[201, 409, 409, 409]);
    assert_eq!(events(&lab).len(), 1);
    let name = event["metadata"]["name"].as_str().unwrap();
    assert!(lab.api_server().unwrap().delete(Resource::Events, "shop", name));
    restart(&mut lab, "node-3");
    wait_reported(&lab, &[201, 201, 409, 409, 409]);
    let again: Vec<Value> = events(&lab).iter().map(|event| event["metadata"]["name"].clone()).collect();
    assert_eq!(again, [name]);

    // They are not configured to remove the taint.
    let server = lab.api_server().unwrap();
    assert_eq!([Verb::Get, Verb::Patch].map(|verb| server.count(Resource::Nodes, verb)), [0, 0]);
}

/// `npc status` on the node; what it printed, and how it ended.
fn npc_status(lab: &Lab, arguments: &[&str]) -> (String, Option<i32>) {
    let Some(Enforcer::Agent(npc)) = Enforcer::for_test() else { panic!("there was one") };
    let mut command = lab.node(NODE).unwrap().command(npc);
    let Output { status, stdout, stderr } = command.arg("status").args(arguments).output().unwrap();
    let text = [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (text, status.code())
}

fn status_json(lab: &Lab) -> (AgentStatus, Option<i32>) {
    let (text, code) = npc_status(lab, &["-o", "json"]);
    (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")), code)
}

#[test]
fn the_status_of_an_agent_names_what_it_rejected() {
    let Some(mut small) = Small::start() else { return };
    let (status, code) = status_json(&small.lab);
    assert_eq!((status.ready, status.rejected.len(), status.policies, code), (true, 0, 1, Some(0)));
    let (text, code) = npc_status(&small.lab, &[]);
    assert!(text.starts_with("READY  node node-1") && !text.contains("not understood"), "{text}");
    assert_eq!(code, Some(0));

    // It is in force all the same, as far as it is understood.
    let odd = with_odd(&small.lab.cluster().objects);
    small.lab.write_manifests(odd).unwrap();
    small.agent().wait_log("policies=2").unwrap();
    let (status, code) = status_json(&small.lab);
    assert_eq!((status.ready, status.policies, status.endpoints, code), (true, 2, 3, Some(0)));
    let metric = |name: &str| small.lab.metric(NODE, name).unwrap().to_string();
    assert_eq!(["npc_policies", "npc_rejected_policies", "npc_watch_restarts_total"].map(metric), ["2", "1", "4"]);
    assert_eq!(metric("npc_event_to_kernel_seconds_count"), "1", "the policy; what was listed is older");
    assert_eq!((status.api_version.as_str(), status.kind.as_str()), ("npc.dev/v1alpha1", "AgentStatus"));
    assert_eq!(
        (status.node.as_str(), status.source.as_str(), status.backend.as_deref()),
        (NODE, "cluster", Some("nft"))
    );
    let [rejected] = &status.rejected[..] else { panic!("{:#?}", status.rejected) };
    assert_eq!((rejected.namespace.as_str(), rejected.name.as_str(), rejected.path.as_str()), ("shop", "odd", FIELD));
    assert!(rejected.problem.contains("10.0.0.0/33") && rejected.location.is_none(), "{rejected:?}");
    let (text, code) = npc_status(&small.lab, &[]);
    let Rejected { problem, effect, code: reason, .. } = rejected;
    let said = format!("  networkpolicy shop/odd {FIELD}: {problem}; {effect} [{reason}]");
    assert!(text.contains("\nnot understood:\n") && text.lines().any(|line| line == said), "{said:?} in {text}");
    assert_eq!(code, Some(0));

    // An agent that does not know the whole cluster yet is not ready, …
    small.lab.take_agent(NODE).unwrap().unwrap().stop(Signal::SIGTERM).unwrap();
    let (text, code) = npc_status(&small.lab, &["-o", "json"]);
    assert!(text.contains("no agent answers in this network namespace"), "{text}");
    assert_eq!(code, Some(5));
    let held = small.server().inject(Fault::held().on(Resource::Pods));
    small.lab.start_agent(NODE).unwrap();
    small.server().wait("pods are asked for", |_| held.met() > 0).unwrap();
    let (status, code) = status_json(&small.lab);
    assert_eq!((status.ready, status.synced, code), (false, None, Some(1)));
    assert!(status.reason.is_some());
    let (text, code) = npc_status(&small.lab, &[]);
    assert!(text.starts_with("NOT READY  node node-1"), "{text}");
    assert_eq!(code, Some(1));
    // … and then it is.
    held.lift();
    small.agent().wait_generation(1).unwrap();
    let (status, code) = status_json(&small.lab);
    assert_eq!((status.ready, status.rejected.len(), code), (true, 1, Some(0)));
}

/// The keys of the node's taints.
fn taints(server: &Server) -> Vec<String> {
    let nodes = server.objects(Resource::Nodes);
    let node = nodes.iter().find(|node| node["metadata"]["name"] == NODE).unwrap();
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    taints.map(|taint| taint["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_startup_taint_goes_when_the_first_sync_is_in_the_kernel_and_not_before() {
    let with_flag = |lab: npc_tests::lab::Builder| lab.agent_argument("--remove-startup-taint");
    let Some(mut small) = Small::with(Server::in_process(), with_flag) else { return };
    for held in WATCHED {
        small.lab.take_agent(NODE).unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
        small.store("other");
        // A node that joins, with a taint of another program too.
        let nodes = small.server().objects(Resource::Nodes);
        let mut node = nodes.into_iter().find(|node| node["metadata"]["name"] == NODE).unwrap();
        let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
        node["spec"]["taints"] = json!([taint("example.com/other"), taint(STARTUP_TAINT)]);
        small.server().put(&node);
        let (gets, patches) = asked(small.server());

        let fault = small.server().inject(Fault::held().on(held).verbs(&[Verb::StreamingList]));
        small.lab.start_agent(NODE).unwrap();
        let synced = |server: &Server| fault.met() > 0 && is_synced_without(server, held);
        small.server().wait("all but one are in sync", synced).unwrap();
        small.admits_only("web");
        assert_eq!(taints(small.server()), ["example.com/other", STARTUP_TAINT], "{held:?}");
        assert_eq!(asked(small.server()), (gets, patches), "{held:?}");

        // Another client writes to the node at the same time: the agent reads it again.
        let conflict = Failure::modified(Resource::Nodes, NODE);
        small.server().inject(Fault::failure(conflict).on(Resource::Nodes).verbs(&[Verb::Patch]).times(1));
        fault.lift();
        let gone = |server: &Server| taints(server) == ["example.com/other"];
        small.server().wait("the taint is gone", gone).unwrap();
        // When the taint is gone, the kernel holds what is stored.
        small.admits_only("other");
        assert_eq!(asked(small.server()), (gets + 2, patches + 2), "{held:?}");
        small.store("web");
        small.follows("web");
    }
}

/// How often the node was read and changed.
fn asked(server: &Server) -> (usize, usize) {
    (server.count(Resource::Nodes, Verb::Get), server.count(Resource::Nodes, Verb::Patch))
}
