//! What documents become.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use npc_compiler::object::{ContainerPort, Protocol};

use super::*;

/// A workload with a pod template, in namespace `n`.
fn workload(api_version: &str, kind: &str, name: &str, extra: &str) -> String {
    format!(
        "---\napiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: n{extra}}}\n\
         spec: {{template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{containers: [{{name: c, ports: [{{name: http, containerPort: 80}}]}}]}}}}}}\n"
    )
}

fn pod(name: &str, extra: &str) -> String {
    format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: n{extra}}}\n")
}

fn owned_by(kind: &str, name: &str) -> String {
    format!(", ownerReferences: [{{apiVersion: x/v1, kind: {kind}, name: {name}, uid: u, controller: true}}]")
}

#[test]
fn each_kind_is_read() {
    let text = "
apiVersion: v1
kind: Namespace
metadata: {name: n, namespace: ignored, labels: {team: t}}
---
apiVersion: v1
kind: Node
metadata: {name: w}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: Hostname, address: w}]}
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: n}
spec: {clusterIP: 10.96.0.1, selector: {app: x}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata:
  {name: a, namespace: n, uid: u1, deletionTimestamp: '2026-01-01T00:00:00Z',
   annotations: {kubernetes.io/config.hash: c0ffee, other: [1]}}
spec:
  nodeName: w
  containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]
status: {phase: Running, podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}], hostIP: 10.0.0.1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: n}
spec: {podSelector: {}}
";
    let loaded = read(text);
    assert_eq!(names(&loaded), ["ns n", "node w", "pod n/a", "svc n/s", "policy n/p"]);
    assert_eq!(loaded.objects.namespaces[0].labels["team"], "t");
    assert_eq!(loaded.objects.nodes[0].addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    let pod = &loaded.objects.pods[0];
    assert_eq!((pod.uid.as_str(), pod.node.as_deref(), pod.terminating), ("u1", Some("w"), true));
    assert_eq!(pod.config_hash.as_deref(), Some("c0ffee"), "CNI names a static pod by it");
    assert_eq!(pod.addresses().map(|a| a.to_string()).collect::<Vec<_>>(), ["10.1.0.1", "fd00::1"]);
    assert_eq!(pod.ports, [ContainerPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }]);
    assert!(loaded.problems.is_empty() && loaded.skipped.is_empty());
}

#[test]
fn what_is_no_address_of_a_pod_is_left_out() {
    let status = "status: {podIPs: [{ip: 0.0.0.0}, {ip: '::'}, {ip: ''}, {ip: x}, {ip: 10.1.0.1}]}\n";
    let addresses: Vec<_> = read(&(pod("a", "") + status)).objects.pods[0].addresses().collect();
    assert_eq!(addresses, ["10.1.0.1".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn kinds_go_by_their_group() {
    let doc =
        |api_version: &str, kind: &str| format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: x}}\n");
    let check = |api_version: &str, kind: &str, skipped: &str| {
        let loaded = read(&doc(api_version, kind));
        assert_eq!(loaded.skipped, BTreeMap::from([(skipped.to_owned(), 1)]));
        assert_eq!(loaded.objects, Objects::default());
    };
    check("v1", "ConfigMap", "ConfigMap");
    check("serving.knative.dev/v1", "Service", "Service.serving.knative.dev");
    check("crd.projectcalico.org/v1", "NetworkPolicy", "NetworkPolicy.crd.projectcalico.org");
    let gone = doc("extensions/v1beta1", "NetworkPolicy");
    let loaded = parse_text("f.yaml", &gone, &ReadOptions { allow_errors: true, ..ReadOptions::default() }).unwrap();
    assert_eq!(loaded.skipped, BTreeMap::from([("NetworkPolicy.extensions".to_owned(), 1)]));
    assert_eq!(loaded.unread.iter().filter_map(|unread| unread.kind.as_deref()).collect::<Vec<_>>(), ["NetworkPolicy"]);
    assert!(
        problem(&doc("extensions/v1beta1", "NetworkPolicy"))
            .starts_with("f.yaml:1:1: error: networkpolicy default/x: apiVersion: no Kubernetes since 1.16 serves")
    );
    assert!(problems(&doc("crd.projectcalico.org/v1", "NetworkPolicy")).is_empty());
    assert!(
        problem(&doc("networking/v1", "NetworkPolicy")).starts_with(
            "f.yaml:1:1: error: apiVersion: apiVersion networking/v1 never had a NetworkPolicy; write apiVersion: networking.k8s.io/v1"
        ),
        "{}",
        problem(&doc("networking/v1", "NetworkPolicy"))
    );
    for (api_version, kind) in [("networking.k8s.io/v1", "NetworkPolicyy"), ("v1", "Deployment")] {
        assert!(problem(&doc(api_version, kind)).contains(": error: "), "{api_version} {kind}");
    }
    let two = doc("v1", "ConfigMap") + "---\n" + &doc("v1", "ConfigMap");
    assert_eq!(read(&two).skipped["ConfigMap"], 2);
}

#[test]
fn a_workload_stands_for_one_pod_of_its_name() {
    for (api_version, kind) in [
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1beta2", "DaemonSet"),
        ("extensions/v1beta1", "Deployment"),
        ("apps/v1", "ReplicaSet"),
        ("v1", "ReplicationController"),
        ("batch/v1", "Job"),
    ] {
        let loaded = read(&workload(api_version, kind, "w", ""));
        assert_eq!(names(&loaded), ["ns n".to_owned(), format!("pod n/w of {kind}/w")]);
        assert_eq!(loaded.objects.pods[0].labels["app"], "w");
        assert_eq!(loaded.objects.pods[0].ports[0].port, 80);
        assert_eq!(loaded.objects.pods[0].labels.contains_key("job-name"), kind == "Job");
    }
    let cron = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: c}\n\
                spec: {jobTemplate: {spec: {template: {metadata: {labels: {a: b}}}}}}\n";
    assert_eq!(names(&read(cron)), ["ns default", "pod default/c of CronJob/c"]);
    assert_eq!(read(cron).objects.pods[0].labels["a"], "b");
    assert_eq!(
        problem("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 1}\n"),
        "f.yaml:1:1: error: deployment default/d: spec.template: the workload has no pod template; \
         it makes no pods without one; add it, or leave the object out"
    );
    assert_eq!(
        problem(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {hostNetwork: 3}}}\n"
        ),
        "f.yaml:4:39: error: deployment default/d: spec.template.spec.hostNetwork: expected true or false, found a number (3)"
    );
}

#[test]
fn a_workload_whose_pods_are_there_adds_none() {
    let check = |text: String, wanted: &[&str]| {
        let found = names(&read(&text));
        assert_eq!(found.iter().filter(|n| n.starts_with("pod")).collect::<Vec<_>>(), wanted, "{text}");
    };
    let deployment = workload("apps/v1", "Deployment", "d", "");
    let replicas = |name: &str| workload("apps/v1", "ReplicaSet", name, &owned_by("Deployment", "d"));
    let hashed = pod("d-7-x", &format!(", labels: {{pod-template-hash: '7'}}{}", owned_by("ReplicaSet", "d-7")));
    check(deployment.clone() + &hashed, &["pod n/d-7-x of Deployment/d"]);
    check(hashed.clone() + &replicas("d-7") + &deployment, &["pod n/d-7-x of Deployment/d"]);
    // The old ReplicaSets of a Deployment have no pods, and will have none.
    check(replicas("d-6") + &replicas("d-7") + &hashed, &["pod n/d-7-x of Deployment/d"]);
    check(replicas("d-7") + &deployment, &["pod n/d of Deployment/d"]);
    // Without the label, the ReplicaSet in the input leads to the Deployment.
    let plain = pod("d-7-x", &owned_by("ReplicaSet", "d-7"));
    check(deployment.clone() + &replicas("d-7") + &plain, &["pod n/d-7-x of ReplicaSet/d-7"]);
    let cron = "---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {name: c, namespace: n}\nspec: {jobTemplate: {spec: {template: {}}}}\n";
    let job = workload("batch/v1", "Job", "c-1", &owned_by("CronJob", "c"));
    check(cron.to_owned() + &job, &["pod n/c of CronJob/c"]);
    check(cron.to_owned() + &job + &pod("c-1-x", &owned_by("Job", "c-1")), &["pod n/c-1-x of Job/c-1"]);
    // Another namespace's, another kind's, another name's.
    check(
        deployment.clone() + &pod("x", &owned_by("StatefulSet", "d")),
        &["pod n/d of Deployment/d", "pod n/x of StatefulSet/d"],
    );
    check(
        deployment.clone() + &hashed.replace("namespace: n", "namespace: m"),
        &["pod n/d of Deployment/d", "pod m/d-7-x of Deployment/d"],
    );
    check(
        deployment + &pod("y", &owned_by("Deployment", "e")),
        &["pod n/d of Deployment/d", "pod n/y of Deployment/e"],
    );
}

#[test]
fn namespaces_are_filled_in_and_declared() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: ''}\n---\n\
                apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n---\n\
                apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: other}\nspec: {template: {}}\n";
    let options = ReadOptions { default_namespace: "mine".to_owned(), ..ReadOptions::default() };
    let wanted = ["pod mine/a", "pod other/d of Deployment/d", "svc mine/s", "policy mine/p"];
    let loaded = parse_text("f.yaml", text, &options).unwrap();
    assert_eq!(names(&loaded), [["ns mine", "ns other"].as_slice(), wanted.as_slice()].concat());
    let options = ReadOptions { declare_namespaces: false, ..options };
    assert_eq!(names(&parse_text("f.yaml", text, &options).unwrap()), wanted);
}

#[test]
fn of_two_objects_with_one_name_the_later_counts() {
    let text = pod("a", ", labels: {v: '1'}") + &pod("b", "") + &pod("a", ", labels: {v: '2'}");
    let loaded = read(&text);
    assert_eq!(names(&loaded), ["ns n", "pod n/a", "pod n/b"]);
    assert_eq!(loaded.objects.pods[0].labels["v"], "2");
    assert_eq!(
        problem(&text),
        "f.yaml:10:1: warning: pod n/a: counts instead of the one at f.yaml:2:1; remove one of them, or give it another name"
    );
    assert_eq!(loaded.positions.locate("Pod", "n", "a", "").unwrap().line(), 10);
    // One name, two lives: a pod and its successor.
    let text = pod("a", ", uid: u1") + &pod("a", ", uid: u2") + &pod("a", ", uid: u2");
    assert_eq!(names(&read(&text)), ["ns n", "pod n/a", "pod n/a"]);
    // Other namespace, other kind: other object.
    let text = pod("a", "")
        + &pod("a", "").replace("namespace: n", "namespace: m")
        + &workload("apps/v1", "Deployment", "a", "");
    assert_eq!(read(&text).objects.pods.len(), 3);
    assert!(problems(&text).is_empty());
}

#[test]
fn ports_keep_the_difference_between_numbers_and_names() {
    let check = |port: &str, wanted: IntOrString| {
        let loaded = read(&policy(&format!("  podSelector: {{}}\n  ingress: [{{ports: [{{port: {port}}}]}}]\n")));
        let spec = loaded.objects.policies[0].object.spec.clone().unwrap();
        assert_eq!(spec.ingress.unwrap()[0].ports.as_ref().unwrap()[0].port, Some(wanted), "{port}");
    };
    check("80", IntOrString::Int(80));
    check("\"80\"", IntOrString::String("80".to_owned()));
    check("'http'", IntOrString::String("http".to_owned()));
    check("http", IntOrString::String("http".to_owned()));
    check("80.0", IntOrString::Int(80));
    check("0x50", IntOrString::Int(80));
    check("!!str 80", IntOrString::String("80".to_owned()));
    check("!!int \"80\"", IntOrString::Int(80));
    check("-1", IntOrString::Int(-1));
    check("70000", IntOrString::Int(70000));
    let error = |port: &str| problem(&policy(&format!("  ingress: [{{ports: [{{port: {port}}}]}}]\n")));
    for port in ["80.5", "true", "[80]", "{a: b}"] {
        let wanted = "spec.ingress[0].ports[0].port: expected a whole number or a name, found ";
        assert!(error(port).contains(wanted), "{}", error(port));
    }
    assert!(error("4294967296").contains("spec.ingress[0].ports[0].port: invalid value"), "{}", error("4294967296"));
}

#[test]
fn cidr_text_is_passed_on_as_it_is() {
    for cidr in ["010.0.0.0/8", "192.168.1.5/24", "::/0", "::ffff:1.2.3.0/120", "10.0.0.1"] {
        let loaded = read(&policy(
            &format!("  ingress:\n  - from:\n    - ipBlock: {{cidr: {cidr}}}\n")
                .replace(": ::", ": '::")
                .replace("::/0}", "::/0'}")
                .replace("/120}", "/120'}"),
        ));
        let spec = loaded.objects.policies[0].object.spec.clone().unwrap();
        let peer = &spec.ingress.unwrap()[0].from.clone().unwrap()[0];
        assert_eq!(peer.ip_block.as_ref().unwrap().cidr, cidr);
        assert!(loaded.problems.is_empty());
    }
}

#[test]
fn absent_empty_and_null_stay_apart_as_in_the_api() {
    let spec = |text: &str| read(&policy(text)).objects.policies[0].object.spec.clone();
    assert_eq!(spec("").map(|s| s.ingress), None, "spec: null");
    assert_eq!(spec("  podSelector: {}\n").unwrap().ingress, None);
    assert_eq!(spec("  ingress:\n").unwrap().ingress, None);
    assert_eq!(spec("  ingress: []\n").unwrap().ingress, Some(vec![]));
    assert_eq!(spec("  ingress: [{}]\n").unwrap().ingress.unwrap().len(), 1);
    assert_eq!(spec("  ingress: [{from: []}]\n").unwrap().ingress.unwrap()[0].from, Some(vec![]));
    let text = policy("  ingress:\n  -\n");
    assert_eq!(
        problem(&text),
        "f.yaml:6:4: warning: networkpolicy n/p: spec.ingress[0]: an empty list item, which the API reads as {}; write {}, or remove it"
    );
    assert_eq!(spec("  ingress:\n  -\n").unwrap().ingress.unwrap().len(), 1);
}

#[test]
fn a_workload_has_as_many_pods_at_once_as_the_api_says_by_default() {
    let is_single = |api: &str, kind: &str, spec: &str, scaler: &str| {
        let text = format!(
            "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: w, namespace: n}}\nspec: {{{spec}}}\n---\n{scaler}\n"
        );
        let loaded = read(&text);
        assert_eq!(loaded.objects.pods.len(), 1, "{text}");
        loaded.objects.pods[0].is_single
    };
    for kind in ["Deployment", "StatefulSet", "ReplicaSet"] {
        assert!(is_single("apps/v1", kind, "template: {}", ""), "{kind}");
        assert!(is_single("apps/v1", kind, "replicas: 1, template: {}", ""), "{kind}");
        assert!(!is_single("apps/v1", kind, "replicas: 2, template: {}", ""), "{kind}");
    }
    assert!(is_single("v1", "ReplicationController", "template: {}", ""));
    assert!(!is_single("apps/v1", "DaemonSet", "template: {}", ""), "one on each node");
    assert!(
        !is_single("example.com/v1", "Thing", "template: {spec: {containers: []}}", ""),
        "nothing says its default"
    );
    for (spec, expected) in [
        ("", true),
        ("parallelism: 1, ", true),
        ("parallelism: 3, ", false),
        ("parallelism: 3, completions: 1, ", true),
        ("completions: 5, ", true),
    ] {
        assert_eq!(is_single("batch/v1", "Job", &format!("{spec}template: {{}}"), ""), expected, "{spec}");
        let job = format!("jobTemplate: {{spec: {{{spec}template: {{}}}}}}");
        assert_eq!(is_single("batch/v1", "CronJob", &format!("concurrencyPolicy: Forbid, {job}"), ""), expected);
        assert!(!is_single("batch/v1", "CronJob", &job, ""), "its Jobs may overlap");
    }
    let scaler = |most: u8| {
        format!(
            "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: h, namespace: n}}\n\
             spec: {{maxReplicas: {most}, scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: w}}}}"
        )
    };
    assert!(!is_single("apps/v1", "Deployment", "template: {}", &scaler(5)), "an autoscaler sets its number");
    assert!(is_single("apps/v1", "Deployment", "template: {}", &scaler(1)));
    assert!(is_single("apps/v1", "StatefulSet", "template: {}", &scaler(5)), "of another kind");
}

#[test]
fn a_workload_that_is_to_have_no_pods_stands_for_none() {
    let check = |api: &str, kind: &str, spec: &str, idle: bool| {
        let template = "template: {metadata: {labels: {a: b}}}";
        let text = format!(
            "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: w, namespace: n}}\nspec: {{{spec}, {template}}}\n"
        );
        let loaded = read(&text);
        assert_eq!(loaded.objects.pods.is_empty(), idle, "{text}");
        assert_eq!(loaded.idle.contains_key(&ObjectRef::new(kind, "n", "w")), idle, "{text}");
    };
    for kind in ["Deployment", "StatefulSet", "ReplicaSet"] {
        check("apps/v1", kind, "replicas: 0", true);
        check("apps/v1", kind, "replicas: 1", false);
        check("apps/v1", kind, "replicas:", false);
    }
    check("v1", "ReplicationController", "replicas: 0", true);
    check("apps/v1", "DaemonSet", "replicas: 0", false);
    check("batch/v1", "Job", "parallelism: 0", true);
    check("batch/v1", "Job", "replicas: 0, suspend: true", false);
    let cron = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: c}\nspec: {suspend: true, jobTemplate: {spec: {parallelism: 1, template: {}}}}\n";
    assert_eq!(read(cron).objects.pods.len(), 1);
    let wrong = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: none, template: {}}\n";
    assert_eq!(
        problem(wrong),
        "f.yaml:4:18: error: deployment default/d: spec.replicas: expected a number, found text (none)"
    );
    // Its ReplicaSets are its own, and its pods that are still there are pods.
    let scaled = workload("apps/v1", "Deployment", "d", "").replace("spec: {", "spec: {replicas: 0, ");
    let of_it = workload("apps/v1", "ReplicaSet", "d-7", &owned_by("Deployment", "d"));
    assert_eq!(names(&read(&(scaled.clone() + &of_it))).iter().filter(|n| n.starts_with("pod")).count(), 0);
    let left = pod("d-x", &owned_by("Deployment", "d"));
    assert_eq!(names(&read(&(scaled + &left))).iter().filter(|n| n.starts_with("pod")).count(), 1);
}

#[test]
fn unknown_fields_of_a_policy_are_found_with_their_path() {
    let check = |spec: &str, wanted: &[&str]| {
        assert_eq!(read(&policy(spec)).objects.policies[0].unknown_fields, wanted, "{spec}");
    };
    check(
        "  ingress:\n  - from:\n    - podSelector: {}\n    - ipBlok: {cidr: 10.0.0.0/8}\n",
        &["spec.ingress[0].from[1].ipBlok"],
    );
    check(
        "  podSelektor: {a: {b: c}}\n  egress: [{to: [{ipBlock: {cidr: 1.2.3.4/32, exept: []}}]}]\n",
        &["spec.podSelektor", "spec.egress[0].to[0].ipBlock.exept"],
    );
    check(
        "  ingress: [{ports: [{prot: 1, endport: 3}]}]\nspeck: {}\nstatus: {conditions: []}\n",
        &["spec.ingress[0].ports[0].prot", "spec.ingress[0].ports[0].endport", "speck"],
    );
    check(
        "  podSelector: {matchLabels: {anything: goes}, matchExpressions: [{key: k, operator: In, values: [v]}]}\n",
        &[],
    );
    check(
        "  x: &x {cidr: 10.0.0.0/8, oops: 1}\n  ingress: [{from: [{ipBlock: *x}]}]\n",
        &["spec.x", "spec.ingress[0].from[0].ipBlock.oops"],
    );
    // What follows from them is the compiler's to say.
    assert!(read(&policy("  ingress:\n  - from:\n    - ipBlok:\n        cidr: 10.0.0.0/8\n")).problems.is_empty());
    let metadata = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, nonsense: {a: 1}, managedFields: [], annotations: {}}\n";
    assert_eq!(read(metadata).objects.policies[0].unknown_fields, ["metadata.nonsense"]);
}

#[test]
fn a_policy_of_the_wrong_shape_is_reported_with_its_path() {
    let check = |spec: &str, wanted: &str| assert_eq!(problem(&policy(spec)), format!("f.yaml:{wanted}"));
    check(
        "  ingress:\n    from:\n    - podSelector: {}\n",
        "6:5: error: networkpolicy n/p: spec.ingress: expected a list, found a mapping; begin the item with \"- \"",
    );
    check(
        "  ingress:\n  - from:\n    - ipBlock: 10.0.0.0/8\n",
        "7:16: error: networkpolicy n/p: spec.ingress[0].from[0].ipBlock: expected a mapping, found text (10.0.0.0/8)",
    );
    check(
        "  policyTypes: Ingress\n",
        "5:16: error: networkpolicy n/p: spec.policyTypes: expected a list, found text (Ingress)",
    );
    check(
        "  podSelector: {matchLabels: {app: 5}}\n",
        "5:36: error: networkpolicy n/p: spec.podSelector.matchLabels.app: expected text, found a number (5); put it in quotes",
    );
}
