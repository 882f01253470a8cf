//! Fixes that give a pod a label: at its workload, in place of a wider policy.

use crate::Files;
use crate::fixes::{helps, patched_by_kubectl};
use crate::manifests::{CLIENTS, CLIENTS_EGRESS, WANTS_TIER, policy, running, service, workload};

#[test]
fn a_label_on_the_workload_alone_goes_to_its_template() {
    let deployment = |name: &str, own: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, labels: {own}}}\nspec:\n  \
             template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec: {{containers: [{{name: c}}]}}\n---\n"
        )
    };
    let policy = policy("name: api", "ingress: [{from: [{podSelector: {matchLabels: {tier: back}}}]}]");
    let yaml = [deployment("cart", "{app: cart, tier: back}"), deployment("api", "{}"), policy].concat();
    let answer = Files::of(&yaml).npc("explain", &["cart", "api:8080"]);
    let expected = "the source, default/deploy/cart, lacks the label that the rule asks for; add this to its \
                    spec.template.metadata.labels:\n           tier: back\n";
    assert!(answer.out.contains(expected), "{}", answer.out);
    // Also where the workload does not have it: the rule means what it says.
    let without = Files::of(&yaml.replace(", tier: back}", "}")).npc("explain", &["cart", "api:8080"]);
    assert!(without.out.contains(expected) && !without.out.contains("write in its place"), "{}", without.out);
    patched_by_kubectl(&yaml, "cart", "api:8080");
}

#[test]
fn the_next_change_is_tried_where_a_label_in_its_place_denies_the_flow() {
    let answer = Files::of(&[CLIENTS, CLIENTS_EGRESS].concat()).npc("explain", &["deploy/nightly", "api:8080"]);
    let expected = [
        "= help: add this to spec.ingress[0].from of networkpolicy default/api:",
        "- podSelector: {matchLabels: {job: nightly}}",
        "checked: turns this flow to ALLOWED and opens no other",
    ];
    assert_eq!(helps(&answer), expected, "{}", answer.out);
    patched_by_kubectl(&[CLIENTS, CLIENTS_EGRESS].concat(), "deploy/nightly", "api:8080");
}

#[test]
fn a_label_of_a_job_or_cron_job_is_said_in_place_of_a_wider_policy() {
    let files = Files::of(CLIENTS);
    let once = files.npc("explain", &["job/once", "api:8080"]);
    let expected = "= help: no fix in a policy: default/job/once has role=client itself, and its template, which cannot \
                    change, has not; create the Job anew, with the label in spec.template.metadata.labels too";
    assert_eq!(helps(&once), [expected], "{}", once.out);
    let cron = files.npc("explain", &["cj/cron", "api:8080"]);
    let first = [
        "= help: the source, default/cj/cron, lacks the label that the rule asks for; add this to its \
         spec.jobTemplate.spec.template.metadata.labels:",
        "role: client",
    ];
    assert_eq!(helps(&cron)[..2], first, "{}", cron.out);
    // Another value is no misplaced label.
    let other = Files::of(&CLIENTS.replace("name: once, labels: {role: client}", "name: once, labels: {role: x}"));
    let other = other.npc("explain", &["job/once", "api:8080"]);
    assert!(helps(&other)[0].starts_with("= help: add this to spec.ingress"), "{}", other.out);
}

#[test]
fn the_services_that_get_backends_by_a_label_are_named() {
    let files = Files::of(&[CLIENTS, &service("clients", "{role: client}", "port: 80")].concat());
    let answer = files.npc("explain", &["deploy/nightly", "api:8080"]);
    let last = "(with this label the pods become backends of default/svc/clients)";
    assert_eq!(helps(&answer).last().map(String::as_str), Some(last), "{}", answer.out);
    let json = files.npc("explain", &["deploy/nightly", "api:8080", "-o", "json"]).json();
    assert_eq!(json["fixes"][0]["backendOf"], serde_json::json!(["default/clients"]), "{json}");
}

#[test]
fn no_label_is_recommended_for_a_rule_that_is_not_shown() {
    let ends = [workload("Deployment", "frontent", "replicas: 1"), workload("Deployment", "api", "replicas: 1")];
    let rule =
        |labels: &str| format!("{{from: [{{podSelector: {{matchLabels: {{{labels}}}}}}}], ports: [{{port: 8080}}]}}");
    let ask = |first: &str, second: &str| {
        let rules = format!("ingress: [{}, {}]", rule(first), rule(second));
        Files::of(&[ends.concat(), policy("name: api", &rules)].concat()).npc("explain", &["frontent", "api:8080"])
    };
    // A slip of the pen is nearer than a label that is absent, wherever it stands.
    for (place, (first, second)) in [("app: frontend", "role: dba"), ("role: dba", "app: frontend")].iter().enumerate()
    {
        let answer = ask(first, second);
        assert!(!answer.out.contains("that the rule asks for; add this"), "{first}, {second}: {}", answer.out);
        let expected = format!(
            "= help: spec.ingress[{place}].from[0].podSelector of networkpolicy default/api selects no pod of the input; \
             write in its place:"
        );
        assert_eq!(helps(&answer)[..1], [expected.as_str()], "{}", answer.out);
    }
    for (first, second) in [("tier: a", "role: dba"), ("role: dba", "tier: a")] {
        let answer = ask(first, second);
        assert!(answer.out.contains("2 rules are equally near"), "{}", answer.out);
        assert!(!answer.out.contains("that the rule asks for; add this"), "{first}, {second}: {}", answer.out);
        let expected = ["= help: add this to spec.ingress[0].from of networkpolicy default/api:"];
        assert_eq!(helps(&answer)[..1], expected, "{}", answer.out);
    }
    let alone = format!("ingress: [{}]", rule("role: dba"));
    let answer = Files::of(&[ends.concat(), policy("name: api", &alone)].concat());
    let answer = answer.npc("explain", &["frontent", "api:8080"]);
    assert!(answer.out.contains(" that the rule asks for; add this"), "{}", answer.out);
}

#[test]
fn a_label_of_a_template_says_what_brings_it_to_the_pods() {
    let deletes = |kind: &str, why: &str| {
        format!("the pods that run keep their labels; then delete them, because the {kind} does not replace them{why}")
    };
    for (kind, spec, expected) in [
        ("Deployment", "replicas: 1", Some(None)),
        ("Deployment", "paused: false", Some(None)),
        (
            "Deployment",
            "paused: true",
            Some(Some(
                "the Deployment is paused; then resume it, so that it replaces its pods (kubectl -n default rollout resume \
                 deploy/cart)"
                    .to_owned(),
            )),
        ),
        ("ReplicaSet", "replicas: 1", Some(Some(deletes("ReplicaSet", "")))),
        ("ReplicationController", "replicas: 1", Some(Some(deletes("ReplicationController", "")))),
        ("StatefulSet", "replicas: 1", Some(None)),
        (
            "StatefulSet",
            "updateStrategy: {type: OnDelete}",
            Some(Some(deletes("StatefulSet", " (updateStrategy OnDelete)"))),
        ),
        // Pods below the partition keep the old template.
        ("StatefulSet", "updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 2}}", None),
        ("DaemonSet", "updateStrategy: {type: RollingUpdate}", Some(None)),
        (
            "DaemonSet",
            "updateStrategy: {type: OnDelete}",
            Some(Some(deletes("DaemonSet", " (updateStrategy OnDelete)"))),
        ),
    ] {
        let ends = [workload("Deployment", "api", "replicas: 1"), workload(kind, "cart", spec)].concat();
        for pod in [String::new(), running("cart-x7", kind, "{app: cart}", "10.0.0.9")] {
            let files = Files::of(&[ends.as_str(), &pod, &policy("name: api", WANTS_TIER)].concat());
            let ask = [&format!("{}/cart", kind.to_lowercase()), "deploy/api:8080"];
            let answer = files.npc("explain", &ask);
            let label = "lacks the label that the rule asks for; add this to its spec.template.metadata.labels:";
            assert_eq!(answer.out.contains(label), expected.is_some(), "{kind} {spec}: {}", answer.out);
            assert!(answer.out.contains("checked: turns this flow to ALLOWED"), "{kind} {spec}: {}", answer.out);
            let json = files.npc("explain", &[ask[0], ask[1], "-o", "json"]).json();
            let Some(then) = expected.clone() else { continue };
            // Of pods that run it is said that they are replaced.
            let then = &then.or_else(|| (!pod.is_empty()).then(|| format!("the {kind} then replaces its pods")));
            assert_eq!(json["fixes"][0]["then"].as_str(), then.as_deref(), "{kind} {spec}: {json}");
            let lines = helps(&answer);
            assert_eq!(lines.get(2), then.as_ref().or(lines.last()), "{kind} {spec}: {}", answer.out);
        }
    }
    // The input has the pods, and not what made them.
    let hash = running("cart-5d-x7", "ReplicaSet", "{app: cart, pod-template-hash: 5d}", "10.0.0.9");
    let hash = hash.replace("name: cart, uid", "name: cart-5d, uid");
    for (pod, then) in [
        (hash, "the Deployment then replaces its pods, unless it is paused"),
        (
            running("cart-0", "StatefulSet", "{app: cart}", "10.0.0.9"),
            "the StatefulSet then replaces its pods, unless its updateStrategy is OnDelete (delete the pods then) or \
             has a partition",
        ),
    ] {
        let yaml = [workload("Deployment", "api", "replicas: 1"), pod, policy("name: api", WANTS_TIER)].concat();
        let answer = Files::of(&yaml).npc("explain", &["cart", "deploy/api:8080"]);
        assert_eq!(helps(&answer).get(2).map(String::as_str), Some(then), "{}", answer.out);
    }
    // A Job's template cannot change.
    let job = workload("Job", "cart", "parallelism: 1").replace("apps/v1", "batch/v1");
    let yaml = [workload("Deployment", "api", "replicas: 1"), job, policy("name: api", WANTS_TIER)].concat();
    let answer = Files::of(&yaml).npc("explain", &["cart", "deploy/api:8080"]);
    assert!(!answer.out.contains("that the rule asks for; add this"), "{}", answer.out);
    assert!(answer.out.contains("checked: turns this flow to ALLOWED"), "{}", answer.out);
    let next = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: cart}\nspec:\n  jobTemplate:\n    spec:\n      \
                template:\n        metadata: {labels: {app: cart}}\n        spec: {containers: [{name: c}]}\n---\n";
    let yaml =
        [workload("Deployment", "api", "replicas: 1"), next.to_owned(), policy("name: api", WANTS_TIER)].concat();
    let answer = Files::of(&yaml).npc("explain", &["cart", "deploy/api:8080"]);
    let then = "the pods of its next Job have it; those of a Job that runs do not";
    assert_eq!(helps(&answer).get(2).map(String::as_str), Some(then), "{}", answer.out);
}
