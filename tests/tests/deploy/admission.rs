//! The ValidatingAdmissionPolicy that holds each agent to its own Node and to the start-up taint.
//! Its expressions are evaluated over requests, as the API server would.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cel::{Context, Env, Value as CelValue};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use npc_agent::source::kube::{Notice, STARTUP_TAINT, connect, write_notices};
use npc_tests::apiserver::{Resource, Server};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::{chart, kustomize, repository, tools, yaml};

const TAINT: &str = "startupTaint: {enabled: true}";
const ACCOUNT: &str = "system:serviceaccount:npc-system:npc";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

fn of_kind<K: DeserializeOwned>(objects: &crate::yaml::Objects, kind: &str) -> Option<K> {
    let object = objects.values().find(|object| object["kind"] == kind)?;
    Some(serde_json::from_value(object.clone()).unwrap())
}

fn policy() -> ValidatingAdmissionPolicy {
    of_kind(&chart::objects(&chart::values_with(TAINT)), "ValidatingAdmissionPolicy").unwrap()
}

/// A request that changes, makes or deletes a Node.
#[derive(Clone)]
struct Request {
    user: &'static str,
    /// What the token of a pod says of it.
    extra: Option<Value>,
    operation: &'static str,
    subresource: &'static str,
    old: Value,
    new: Value,
}

/// Node n1 as it comes, with a taint of another program's beside ours.
fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": "n1", "uid": "4be4a5f4", "resourceVersion": "7", "labels": {"pool": "main", "old": "1"},
            "annotations": {"a": "b"}, "managedFields": [{"manager": "kubelet"}],
        },
        "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"], "providerID": "azure:///n1", "taints": [
            {"key": "other", "effect": "NoExecute", "timeAdded": "2026-11-29T00:00:00Z"},
            {"key": STARTUP_TAINT, "value": "true", "effect": "NoSchedule"},
        ]},
        "status": {"nodeInfo": {"architecture": "amd64"}},
    })
}

/// What the agent of n1 asks for by a merge patch of its own Node.
fn patched(patch: &Value) -> Request {
    let (old, mut new) = (node(), node());
    json_patch::merge(&mut new, patch);
    // The API server notes at each change by whom it was.
    new["metadata"]["managedFields"] = json!([{"manager": "kubelet"}, {"manager": "npc"}]);
    let extra = Some(json!({
        NODE_NAME: ["n1"], "authentication.kubernetes.io/node-uid": ["4be4a5f4"],
        "authentication.kubernetes.io/pod-name": ["npc-x"],
    }));
    Request { user: ACCOUNT, extra, operation: "UPDATE", subresource: "", old, new }
}

/// The agent's own patch: without its taint.
fn removal() -> Request {
    let other = node()["spec"]["taints"][0].clone();
    patched(&json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": [other]}}))
}

/// The same without the name of the node, as the token of an API server before 1.30.
fn nameless(request: Request) -> Request {
    Request { extra: Some(json!({"authentication.kubernetes.io/pod-name": ["npc-x"]})), ..request }
}

fn on_another_node(mut request: Request) -> Request {
    for object in [&mut request.old, &mut request.new] {
        if object["metadata"]["name"] == "n1" {
            object["metadata"]["name"] = "n2".into();
        }
    }
    request
}

fn evaluate(expression: &str, names: &[(&str, &Value)]) -> Result<CelValue, String> {
    let env = Arc::new(Env::stdlib());
    let program = env.compile(expression).map_err(|error| format!("{expression}: {error}"))?;
    let mut context = Context::with_env(env);
    for (name, value) in names {
        context.add_variable(*name, value).map_err(|error| format!("{name}: {error}"))?;
    }
    program.execute(&context).map_err(|error| format!("{expression}: {error}"))
}

/// The messages with which the API server refuses a request. An expression that fails refuses
/// too, because that is the policy's failurePolicy.
fn refusals(policy: &ValidatingAdmissionPolicy, asked: &Request) -> Vec<String> {
    let spec = policy.spec.as_ref().unwrap();
    // Absent fields are absent, as in the API server.
    let mut request = json!({"operation": asked.operation, "userInfo": {"groups": ["system:authenticated"]}});
    for (place, name, value) in [("/userInfo", "username", asked.user), ("", "subResource", asked.subresource)] {
        if !value.is_empty() {
            request.pointer_mut(place).unwrap()[name] = value.into();
        }
    }
    if let Some(extra) = &asked.extra {
        request["userInfo"]["extra"] = extra.clone();
    }
    let mut variables = Value::Object(Map::new());
    let evaluate = |expression: &str, variables: &Value| {
        let names =
            [("request", &request), ("object", &asked.new), ("oldObject", &asked.old), ("variables", variables)];
        evaluate(expression, &names)
    };
    let conditions = spec.match_conditions.iter().flatten();
    let mut holds = conditions.map(|condition| evaluate(&condition.expression, &json!({})));
    if holds.any(|holds| holds == Ok(CelValue::Bool(false))) {
        return Vec::new();
    }
    for variable in spec.variables.iter().flatten() {
        let value = match evaluate(&variable.expression, &variables) {
            Ok(value) => value.json().unwrap(),
            Err(error) => return vec![error],
        };
        variables[&variable.name] = value;
    }
    let validations = spec.validations.iter().flatten();
    let refused = validations.filter_map(|validation| match evaluate(&validation.expression, &variables) {
        Ok(CelValue::Bool(true)) => None,
        Ok(_) => Some(validation.message.clone().unwrap()),
        Err(error) => Some(error),
    });
    refused.collect()
}

#[test]
fn an_agent_removes_the_start_up_taint_of_its_own_node() {
    let policy = policy();
    let mut twice = removal();
    twice.old["spec"]["taints"].as_array_mut().unwrap().push(json!({"key": STARTUP_TAINT, "effect": "NoExecute"}));
    let mut last = removal();
    last.old["spec"]["taints"].as_array_mut().unwrap().remove(0);
    // The API server leaves an empty list out.
    last.new["spec"].as_object_mut().unwrap().remove("taints");
    let mut bare = last.clone();
    bare.old["spec"] = json!({"taints": [{"key": STARTUP_TAINT, "effect": "NoSchedule"}]});
    bare.new.as_object_mut().unwrap().remove("spec");
    let mut empty = removal();
    empty.extra = Some(json!({NODE_NAME: []}));
    for (name, request) in [
        ("its patch", removal()),
        ("a patch that changes nothing", patched(&json!({}))),
        ("a patch with an old version, which then conflicts", patched(&json!({"metadata": {"resourceVersion": "6"}}))),
        ("the taint with two effects", twice),
        ("the only taint", last),
        ("the only field", bare),
        ("a token without the node's name", nameless(removal())),
        ("the same on another node, which no API server can tell", nameless(on_another_node(removal()))),
        ("a token that says nothing of its pod", Request { extra: None, ..removal() }),
        ("a token that names no node", empty),
    ] {
        assert_eq!(refusals(&policy, &request), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn an_agent_that_an_attacker_has_changes_nothing_else() {
    const SELF: &str = "changes the metadata";
    const SPEC: &str = "changes the spec";
    const OTHER: &str = "and change no other";
    const WHOLE: &str = "writes no part of one";
    const NODE: &str = "only on which it runs";
    let policy = policy();
    let taints = |taints: &Value| patched(&json!({"spec": {"taints": taints}}));
    let [other, ours] = [0, 1].map(|index| node()["spec"]["taints"][index].clone());
    let with = |taint: &Value, field: &str, value: &str| {
        let mut taint = taint.clone();
        taint[field] = value.into();
        taint
    };
    let added = json!({"key": "added", "effect": "NoExecute"});
    let two = Request { extra: Some(json!({NODE_NAME: ["n1", "n2"]})), ..removal() };
    let mut without_spec = removal();
    without_spec.new.as_object_mut().unwrap().remove("spec");
    for (name, request, message) in [
        ("another's Node", on_another_node(removal()), NODE),
        ("a token of two nodes", two, NODE),
        ("another's Node as it is", on_another_node(patched(&json!({}))), NODE),
        ("all taints", taints(&json!([])), OTHER),
        ("all taints by null", taints(&Value::Null), OTHER),
        ("another taint", taints(&json!([ours])), OTHER),
        ("another taint beside ours", taints(&json!([other, ours, added])), OTHER),
        ("another taint in place of ours", taints(&json!([other, added])), OTHER),
        ("ours, which evicts pods", taints(&json!([other, with(&ours, "effect", "NoExecute")])), OTHER),
        ("ours with another value", taints(&json!([other, with(&ours, "value", "false")])), OTHER),
        ("another's effect", taints(&json!([with(&other, "effect", "NoSchedule")])), OTHER),
        ("another's time", taints(&json!([with(&other, "timeAdded", "2027-01-01T00:00:00Z")])), OTHER),
        ("a label", patched(&json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}})), SELF),
        ("a label's value", patched(&json!({"metadata": {"labels": {"pool": "gpu"}}})), SELF),
        ("a label that goes", patched(&json!({"metadata": {"labels": {"old": null}}})), SELF),
        ("all labels", patched(&json!({"metadata": {"labels": null}})), SELF),
        ("an annotation", patched(&json!({"metadata": {"annotations": {"a": "c"}}})), SELF),
        ("a finalizer", patched(&json!({"metadata": {"finalizers": ["npc.dev/keep"]}})), SELF),
        ("an owner", patched(&json!({"metadata": {"ownerReferences": [{"kind": "Pod"}]}})), SELF),
        ("its name", patched(&json!({"metadata": {"name": "n3"}})), SELF),
        ("cordoned", patched(&json!({"spec": {"unschedulable": true}})), SPEC),
        ("its range", patched(&json!({"spec": {"podCIDR": "10.0.1.0/24"}})), SPEC),
        ("a range that goes", patched(&json!({"spec": {"podCIDRs": null}})), SPEC),
        ("a field of later versions", patched(&json!({"spec": {"later": {}}})), SPEC),
        ("the whole of spec", without_spec, SPEC),
        ("its status", Request { subresource: "status", ..patched(&json!({"status": {"phase": "x"}})) }, WHOLE),
        ("a proxy", Request { subresource: "proxy", ..patched(&json!({})) }, WHOLE),
        ("a Node made", Request { operation: "CREATE", old: Value::Null, ..removal() }, WHOLE),
        ("its Node deleted", Request { operation: "DELETE", new: Value::Null, ..removal() }, WHOLE),
    ] {
        let refusals = refusals(&policy, &request);
        assert!(refusals.iter().any(|refusal| refusal.contains(message)), "{name}: {refusals:?}");
        assert!(refusals.iter().all(|refusal| refusal.starts_with("npc's agent ")), "{name} fails: {refusals:?}");
        // A token without the node's name opens nothing but the removal of the taint.
        if message != NODE {
            assert!(!self::refusals(&policy, &nameless(on_another_node(request))).is_empty(), "{name}");
        }
    }
}

#[test]
fn all_other_accounts_are_left_alone() {
    let policy = policy();
    let change = patched(&json!({"metadata": {"labels": {"a": "b"}}, "spec": {"unschedulable": true, "taints": []}}));
    for user in [
        "system:node:n1",
        "kubernetes-admin",
        "system:serviceaccount:npc-system:default",
        "system:serviceaccount:other:npc",
        "",
    ] {
        for (operation, subresource) in [("UPDATE", ""), ("UPDATE", "status"), ("CREATE", ""), ("DELETE", "")] {
            let request = Request { user, extra: None, operation, subresource, ..change.clone() };
            assert_eq!(refusals(&policy, &request), Vec::<String>::new(), "{user} {operation}");
        }
    }
    assert!(!refusals(&policy, &change).is_empty());
}

/// The namespace of the account to which a binding gives the right to patch nodes.
fn bound_namespace(objects: &yaml::Objects) -> String {
    let is_binding =
        |object: &&Value| object["kind"] == "ClusterRoleBinding" && object["metadata"]["name"] == "npc-startup-taint";
    let binding = objects.values().find(is_binding).unwrap();
    binding["subjects"][0]["namespace"].as_str().unwrap().to_owned()
}

/// The policy holds the account in each of these namespaces, and no other account there.
fn assert_holds(policy: &ValidatingAdmissionPolicy, namespaces: &[&str]) {
    let cordon = patched(&json!({"spec": {"unschedulable": true}}));
    for namespace in namespaces {
        let of = |account: &str| -> &'static str { format!("system:serviceaccount:{namespace}:{account}").leak() };
        let refused = refusals(policy, &Request { user: of("npc"), ..cordon.clone() });
        assert!(refused.iter().any(|refusal| refusal.contains("changes the spec")), "{namespace}: {refused:?}");
        assert_eq!(refusals(policy, &Request { user: of("npc"), ..removal() }), Vec::<String>::new(), "{namespace}");
        for account in ["default", "not-npc", "npc-other"] {
            let request = Request { user: of(account), ..cordon.clone() };
            assert_eq!(refusals(policy, &request), Vec::<String>::new(), "{namespace}:{account}");
        }
    }
    for user in ["npc", "system:node:npc", "kubernetes-admin", "oidc:npc", ""] {
        assert_eq!(refusals(policy, &Request { user, ..cordon.clone() }), Vec::<String>::new(), "{user}");
    }
}

#[test]
fn the_component_holds_the_agent_also_in_another_namespace() {
    let mut objects = kustomize::build(&repository("deploy/kustomize/overlays/generic"));
    for component in ["startup-taint", "startup-taint-policy"] {
        kustomize::apply(&repository("deploy/kustomize/components").join(component), &mut objects);
    }
    let policy = of_kind(&objects, "ValidatingAdmissionPolicy").unwrap();
    assert_holds(&policy, &[&bound_namespace(&objects), "security"]);
    // As an operator writes it, built by kustomize itself.
    let Some(kubectl) = tools::find("kubectl") else { return };
    let folder = tempfile::tempdir_in(repository("deploy/kustomize/overlays")).unwrap();
    let kustomization = json!({
        "namespace": "security", "resources": ["../generic"],
        "components": ["../../components/startup-taint", "../../components/startup-taint-policy"],
    });
    fs::write(folder.path().join("kustomization.yaml"), kustomization.to_string()).unwrap();
    let text = tools::run(&kubectl, [Path::new("kustomize"), folder.path()], &[]);
    let objects = yaml::objects(yaml::documents(&text));
    assert_eq!(bound_namespace(&objects), "security");
    assert_holds(&of_kind(&objects, "ValidatingAdmissionPolicy").unwrap(), &["security"]);
}

/// `helm upgrade --reuse-values` takes the values of the earlier chart in place of the chart's own.
#[test]
fn a_release_of_before_the_policy_gets_it_with_its_reused_values() {
    let mut values = chart::values_with(TAINT);
    values["startupTaint"].as_object_mut().unwrap().remove("admissionPolicy").unwrap();
    assert!(of_kind::<ValidatingAdmissionPolicy>(&chart::objects(&values), "ValidatingAdmissionPolicy").is_some());
    let Some(helm) = tools::find("helm") else { return };
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("npc");
    let copied = std::process::Command::new("cp").arg("-r").arg(chart::folder()).arg(&copy).status().unwrap();
    assert!(copied.success());
    fs::write(copy.join("values.yaml"), values.to_string()).unwrap();
    for (more, is_there) in [("", true), ("true", true), ("false", false)] {
        let set = format!("startupTaint.admissionPolicy={more}");
        let mut arguments = vec!["--namespace", chart::NAMESPACE, "--kube-version", "v1.36.2"];
        if !more.is_empty() {
            arguments.extend(["--set", &set]);
        }
        let text = tools::run(&helm, ["template".as_ref(), "npc".as_ref(), copy.as_path()], &arguments);
        assert_eq!(text.contains("kind: ValidatingAdmissionPolicy\n"), is_there, "{more}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_really_writes_is_admitted() {
    let server = Server::start().unwrap();
    server.put(&node());
    let old = server.objects(Resource::Nodes).remove(0);
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = server.write_kubeconfig(folder.path()).unwrap();
    let client = connect(Some(&kubeconfig), None).unwrap().client().unwrap();
    let (sender, notices) = mpsc::unbounded_channel();
    sender.send(Notice::Ready).unwrap();
    drop(sender);
    write_notices(client, "n1".to_owned(), notices, true).await;
    let taints = |server: &Server| server.objects(Resource::Nodes)[0]["spec"]["taints"].as_array().map(Vec::len);
    server.wait("the taint goes", |server| taints(server) == Some(1)).unwrap();
    let new = server.objects(Resource::Nodes).remove(0);
    assert_ne!(old, new);
    assert_eq!(refusals(&policy(), &Request { old, new, ..removal() }), Vec::<String>::new());
}

#[test]
fn the_policy_and_its_binding_match_nodes_and_refuse() {
    let policy = policy();
    let spec = policy.spec.as_ref().unwrap();
    assert_eq!(spec.failure_policy.as_deref(), Some("Fail"));
    assert_eq!((spec.param_kind.as_ref(), spec.match_conditions.as_ref().unwrap().len()), (None, 1));
    let rules = spec.match_constraints.as_ref().unwrap().resource_rules.as_ref().unwrap();
    let [rule] = rules.as_slice() else { panic!("one rule") };
    let texts = |list: &Option<Vec<String>>| list.clone().unwrap();
    assert_eq!(texts(&rule.resources), ["nodes", "nodes/*"]);
    assert_eq!(texts(&rule.operations), ["CREATE", "UPDATE", "DELETE"]);
    assert_eq!((texts(&rule.api_groups), texts(&rule.api_versions)), (vec![String::new()], vec!["*".to_owned()]));
    assert!(rule.resource_names.is_none());
    let objects = chart::objects(&chart::values_with(TAINT));
    let binding: ValidatingAdmissionPolicyBinding = of_kind(&objects, "ValidatingAdmissionPolicyBinding").unwrap();
    let bound = binding.spec;
    assert_eq!(Some(&bound.policy_name), policy.metadata.name.as_ref());
    assert_eq!(bound.validation_actions, ["Deny"]);
    // If these selected less, an attacker would use the rest.
    assert!(bound.match_resources.is_none() && bound.param_ref.is_none());
}

#[test]
fn an_older_api_server_gets_the_taint_without_the_policy() {
    let kinds = |kubernetes, over: &str| {
        let objects = chart::objects_for(kubernetes, &chart::values_with(over));
        let named = objects.values().filter(|object| object["metadata"]["name"] == "npc-startup-taint");
        named.map(|object| object["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let roles = ["ClusterRole", "ClusterRoleBinding"];
    assert_eq!(kinds(29, TAINT), roles);
    assert_eq!(kinds(36, "startupTaint: {enabled: true, admissionPolicy: false}"), roles);
    assert_eq!(kinds(36, "startupTaint: {admissionPolicy: true}"), Vec::<String>::new(), "opt-in with the taint");
    for kubernetes in [30, 36] {
        let policies = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
        assert_eq!(kinds(kubernetes, TAINT), [policies, roles].concat());
    }
    let Some(helm) = tools::find("helm") else { return };
    let chart_folder = chart::folder();
    for (version, is_there) in [("v1.29.9", false), ("1.25.0", false), ("v1.30.0-gke.12", true), ("v1.36.2", true)] {
        let more = ["--namespace", chart::NAMESPACE, "--kube-version", version, "--set", "startupTaint.enabled=true"];
        let text = tools::run(&helm, ["template".as_ref(), "npc".as_ref(), chart_folder.as_path()], &more);
        assert_eq!(text.contains("kind: ValidatingAdmissionPolicy\n"), is_there, "{version}");
    }
}
