//! What commands ask an API server for besides the objects that they judge: workloads that have no pods,
//! and policies of other kinds.

use serde_json::{Value, json};

use crate::Files;
use crate::rights::{Reply, explain, items, refused, server};

#[allow(clippy::unnecessary_wraps, reason = "a reply, as all are")]
fn found(object: Value) -> Reply {
    Some((200, object))
}

fn template(name: &str) -> Value {
    json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}})
}

fn pod(name: &str, labels: &Value, owner: (&str, &str), phase: &str) -> Value {
    let owner = json!({"apiVersion": "v1", "kind": owner.0, "name": owner.1, "uid": "u", "controller": true});
    json!({"metadata": {
               "namespace": "shop", "name": name, "uid": name, "labels": labels,
               "ownerReferences": [owner]},
           "spec": {"nodeName": "n", "containers": []},
           "status": {"phase": phase, "podIPs": [{"ip": format!("10.0.0.{}", name.len())}]}})
}

/// A cluster with workloads that have no pods, or finished ones.
fn cluster(path: &str) -> Reply {
    let workload = |kind: &str, api: &str, name: &str, spec: Value| {
        found(json!({"apiVersion": api, "kind": kind, "metadata": {"namespace": "shop", "name": name}, "spec": spec}))
    };
    match path {
        "/api/v1/namespaces" => items(json!([{"metadata": {"name": "shop"}}])),
        "/api/v1/pods" => items(json!([
            pod("bare", &json!({"app": "bare"}), ("Node", "n"), "Running"),
            pod(
                "web-5d4f8-aaaa",
                &json!({"app": "web", "pod-template-hash": "5d4f8"}),
                ("ReplicaSet", "web-5d4f8"),
                "Running"
            ),
            pod(
                "gone-77-aaaaaa",
                &json!({"app": "gone", "pod-template-hash": "77"}),
                ("ReplicaSet", "gone-77"),
                "Failed"
            ),
            pod("backup-1-aa", &json!({"app": "backup"}), ("Job", "backup-1"), "Running"),
        ])),
        "/apis/networking.k8s.io/v1/networkpolicies" => items(json!([{
            "metadata": {"namespace": "shop", "name": "api"},
            "spec": {"podSelector": {"matchLabels": {"app": "api"}}, "ingress": []},
        }])),
        "/apis/apps/v1/namespaces/shop/deployments/api" => {
            workload("Deployment", "apps/v1", "api", json!({"replicas": 2, "template": template("api")}))
        }
        "/apis/apps/v1/namespaces/shop/deployments/web.v2" => {
            workload("Deployment", "apps/v1", "web.v2", json!({"template": template("v2")}))
        }
        "/apis/apps/v1/namespaces/shop/deployments/gone" => {
            workload("Deployment", "apps/v1", "gone", json!({"template": template("gone")}))
        }
        "/apis/apps/v1/namespaces/shop/deployments/idle" => {
            workload("Deployment", "apps/v1", "idle", json!({"replicas": 0, "template": template("idle")}))
        }
        "/apis/batch/v1/namespaces/shop/jobs/mig" => {
            workload("Job", "batch/v1", "mig", json!({"template": template("mig")}))
        }
        "/apis/batch/v1/namespaces/shop/cronjobs/backup" => {
            let spec = json!({"jobTemplate": {"spec": {"template": template("backup")}}});
            found(json!({
                "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"namespace": "shop", "name": "backup"},
                "spec": spec, "status": {"active": [{"kind": "Job", "name": "backup-1"}]},
            }))
        }
        "/apis" => found(json!({"groups": []})),
        "/apis/apps/v1/namespaces/shop/statefulsets/secret" => refused(403, "Forbidden"),
        path if path.matches('/').count() > 5 => refused(404, "NotFound"),
        _ => items(json!([])),
    }
}

#[test]
fn a_workload_without_pods_is_judged_by_its_template() {
    let files = server(cluster);
    for (to, code, says) in [
        ("deploy/api:80", 1, "DENIED  shop/pod/bare -> shop/deploy/api"),
        ("api:80", 1, "DENIED  shop/pod/bare -> shop/deploy/api"),
        ("api.shop:80", 1, "DENIED  shop/pod/bare -> shop/deploy/api"),
        ("deploy/api.shop:80", 1, "DENIED  shop/pod/bare -> shop/deploy/api"),
        ("web.v2:80", 0, "ALLOWED  shop/pod/bare -> shop/deploy/web.v2"),
        ("job/mig:80", 0, "ALLOWED  shop/pod/bare -> shop/job/mig"),
        ("deploy/gone:80", 0, "ALLOWED  shop/pod/bare -> shop/deploy/gone"),
    ] {
        let answer = explain(&files, &["bare", to]);
        assert_eq!(answer.code, code, "{to}: {}{}", answer.out, answer.err);
        assert!(answer.out.starts_with(says), "{to}: {}", answer.out);
        assert!(answer.out.contains("has no pods now; its template stands for"), "{to}: {}", answer.out);
    }
    // What has pods is not asked for.
    for (to, says) in
        [("deploy/web", "shop/deploy/web"), ("rs/web-5d4f8", "shop/deploy/web"), ("cj/backup", "shop/job/backup-1")]
    {
        let answer = explain(&files, &["bare", to]);
        assert_eq!(answer.code, 0, "{to}: {}{}", answer.out, answer.err);
        assert!(answer.out.contains(says) && !answer.out.contains("no pods now"), "{to}: {}", answer.out);
    }
    let answer = explain(&files, &["cj/backup"]);
    assert_eq!(answer.code, 0, "the running pod: {}{}", answer.out, answer.err);
}

#[test]
fn a_workload_that_is_not_found_is_said_to_be_missing_only_if_it_is() {
    let files = server(cluster);
    let answer = explain(&files, &["bare", "deploy/nothing:80"]);
    assert_eq!(answer.code, 3);
    assert!(answer.err.contains("there is no deployment \"nothing\" in namespace shop"), "{}", answer.err);
    let answer = explain(&files, &["bare", "deploy/idle:80"]);
    assert_eq!(answer.code, 3);
    assert!(answer.err.contains("its replicas is 0"), "{}", answer.err);
    for to in ["sts/secret:80", "secret:80", "secret.shop:80", "sts/secret.shop:80"] {
        let answer = explain(&files, &["bare", to]);
        assert_eq!(answer.code, 4);
        assert!(answer.out.contains("no right to get statefulsets"), "{}", answer.out);
        assert!(!answer.out.contains("there is no"), "{}", answer.out);
    }
}

/// The same cluster with policies of other kinds.
fn with_other_policies(path: &str) -> Reply {
    let resources = |name: &str, kind: &str| {
        found(json!({"resources": [{"name": name, "kind": kind, "namespaced": true, "verbs": ["list"]}]}))
    };
    match path {
        "/apis" => {
            let group = |name: &str| json!({"name": name, "preferredVersion": {"groupVersion": format!("{name}/v1")}});
            let groups = ["policy.networking.k8s.io", "cilium.io", "crd.antrea.io"].map(group);
            found(json!({"groups": groups}))
        }
        "/apis/policy.networking.k8s.io/v1" => resources("adminnetworkpolicies", "AdminNetworkPolicy"),
        "/apis/policy.networking.k8s.io/v1/adminnetworkpolicies" => {
            found(json!({"metadata": {"remainingItemCount": 2}, "items": [{}]}))
        }
        "/apis/cilium.io/v1" => resources("ciliumnetworkpolicies", "CiliumNetworkPolicy"),
        path if path.ends_with("/ciliumnetworkpolicies") => refused(403, "Forbidden"),
        "/apis/crd.antrea.io/v1" => refused(503, "ServiceUnavailable"),
        path => cluster(path),
    }
}

#[test]
fn policies_that_are_not_judged_are_said_of_a_cluster_too() {
    let files = server(with_other_policies);
    let answer = explain(&files, &["bare", "web", "-o", "json"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    let warnings = answer.json()["warnings"].to_string();
    for says in [
        "not judged, and may decide otherwise: 3 AdminNetworkPolicy.policy.networking.k8s.io",
        "you may not list all of these, so there may be some that decide otherwise: CiliumNetworkPolicy.cilium.io",
        "is not known: crd.antrea.io: ",
    ] {
        assert!(warnings.contains(says), "{says}: {warnings}");
    }
    let matrix = files.run(&["matrix", "--kubeconfig", "kubeconfig"]);
    assert!(matrix.err.contains("3 AdminNetworkPolicy"), "{}", matrix.err);
    let none = explain(&server(cluster), &["bare", "web", "-o", "json"]);
    assert!(!none.json()["warnings"].to_string().contains("decide otherwise"), "{}", none.out);
}

const NO_NAMESPACE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: c}]}
status: {podIP: 10.0.0.1}
";

#[test]
fn files_without_a_namespace_are_in_that_of_the_context() {
    let files = server(|_| None);
    files.add("web.yaml", NO_NAMESPACE);
    let ask = |words: &[&str], kubeconfig: Option<&str>| {
        let mut command = files.command(words);
        let output = command.envs(kubeconfig.map(|file| ("KUBECONFIG", file))).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let question = ["explain", "-f", "web.yaml", "web"];
    let says = |answer: &str, namespace: &str| assert!(answer.contains(&format!("{namespace}/pod/web")), "{answer}");
    says(&ask(&question, Some("kubeconfig")), "shop");
    says(&ask(&[&question[..], &["--kubeconfig", "kubeconfig"]].concat(), None), "shop");
    says(&ask(&[&question[..], &["-n", "ops"]].concat(), Some("kubeconfig")), "ops");
    says(&ask(&question, None), "default");
    // Files need none, so a wrong one is no obstacle, unless the reader names it.
    says(&ask(&question, Some("web.yaml")), "default");
    let answer = ask(&[&question[..], &["--context", "nope"]].concat(), Some("kubeconfig"));
    assert!(answer.contains("it has no context \"nope\""), "{answer}");
}

#[test]
fn completions_know_namespaces_policies_and_names_without_their_namespace() {
    let files = Files::of(
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n\
         {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: shop}, \
          spec: {podSelector: {}}}\n---\n\
         {apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {a: b}}}\n---\n\
         {apiVersion: v1, kind: Pod, metadata: {name: web-1, namespace: shop}, spec: {containers: [{name: c}]}}\n",
    );
    let complete = |line: &str| {
        let words: Vec<&str> = ["--"].into_iter().chain(line.split(' ')).collect();
        let output = files.command(&words).env("NPC_COMPLETE", "fish").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let names = text.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned());
        names.collect::<Vec<String>>()
    };
    assert_eq!(complete("npc explain -f in.yaml -n shop w"), ["web-1"]);
    assert_eq!(
        complete("npc explain -f in.yaml -n shop s"),
        ["shop/pod/web-1", "shop/svc/web", "svc/web", "shop/netpol/deny"]
    );
    assert_eq!(complete("npc explain -f in.yaml shop/netpol/"), ["shop/netpol/deny"]);
    assert_eq!(complete("npc explain -f in.yaml shop/web-1 shop/n"), Vec::<String>::new());
    assert_eq!(complete("npc explain -f in.yaml -n s"), ["shop"]);
    assert_eq!(complete("npc matrix -f in.yaml -n s"), ["shop"]);
    files.add("web.yaml", NO_NAMESPACE);
    assert_eq!(complete("npc explain -f in.yaml -f web.yaml -n s"), ["shop"], "half a word is no namespace");
    assert_eq!(complete("npc reason port-is"), ["port-is-service-port"]);
}
