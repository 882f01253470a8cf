//! What a command passes over, and what may stand in it.

use super::*;

/// What may be missing of a text, `kind extent` each.
fn unread(text: &str) -> Vec<String> {
    let options = ReadOptions { pass_over: true, ..ReadOptions::default() };
    let loaded = parse_text("f.yaml", text, &options).unwrap_or_else(|errors| panic!("{errors}\nin:\n{text}"));
    let shown = |unread: &Unread| {
        let kind = unread.kind.as_deref().unwrap_or("any");
        match &unread.namespace {
            Extent::In(namespace) => format!("{kind} in {namespace}"),
            Extent::AllBut(namespaces) => format!("{kind} outside {namespaces:?}"),
            Extent::Everywhere => format!("{kind} everywhere"),
        }
    };
    loaded.unread.iter().map(shown).collect()
}

fn object(api_version: &str, kind: &str, metadata: &str, spec: &str) -> String {
    format!("{{apiVersion: {api_version}, kind: {kind}, metadata: {{{metadata}}}, spec: {{{spec}}}}}")
}

const POLICIES: &str = "networking.k8s.io/v1";

const POD: &str = "template: {metadata: {labels: {app: '${APP}'}}, spec: {containers: [{name: c}]}}";

/// `helm -n shop` gives a namespace to what names none.
#[test]
fn an_unfinished_object_without_a_namespace_may_be_of_any() {
    let selects = "podSelector: {matchLabels: {app: '${APP}'}}";
    let of = |metadata: &str| unread(&object(POLICIES, "NetworkPolicy", metadata, selects));
    assert_eq!(of("name: p, namespace: shop"), ["NetworkPolicy in shop"]);
    for metadata in ["name: p", "name: p, namespace: ''", "name: p, namespace: null", "name: p, namespace: '${NS}'"] {
        assert_eq!(of(metadata), ["NetworkPolicy everywhere"], "{metadata}");
    }
}

#[test]
fn the_other_items_of_a_list_are_not_missing() {
    let policy = object(POLICIES, "NetworkPolicy", "name: p, namespace: shop", "podSelector: {}");
    let service = object("v1", "Service", "name: s, namespace: '${NS}'", "ports: [{port: 80}]");
    let broken =
        object("apps/v1", "Deployment", "name: '${NAME}', namespace: shop", &format!("replicas: '${{N}}', {POD}"));
    let encrypted = object("v1", "Pod", "name: p, labels: {app: 'ENC[AES256_GCM,data:x]'}", "");
    for (unfinished, expected) in
        [(service, "Service everywhere"), (broken, "Deployment everywhere"), (encrypted, "Pod everywhere")]
    {
        let list = format!("{{apiVersion: v1, kind: List, items: [{policy}, {unfinished}]}}");
        assert_eq!(unread(&list), [expected], "{list}");
    }
}

/// If it were of no kind, policies could be missing too.
#[test]
fn an_unfinished_workload_of_another_project_is_one_all_the_same() {
    let rollout = object("argoproj.io/v1alpha1", "Rollout", "name: r, namespace: shop", POD);
    assert_eq!(unread(&rollout), ["Deployment in shop"]);
}

#[test]
fn a_template_of_openshift_may_make_what_its_objects_are() {
    let template = |api_version: &str, objects: &[&str]| {
        format!(
            "{{apiVersion: {api_version}, kind: Template, metadata: {{name: t}}, objects: [{}]}}",
            objects.join(", ")
        )
    };
    let config = object("apps.openshift.io/v1", "DeploymentConfig", "name: d", POD);
    let service = object("v1", "Service", "name: s", "ports: [{port: 80}]");
    let route = object("route.openshift.io/v1", "Route", "name: r", "host: a");
    for api_version in ["v1", "template.openshift.io/v1"] {
        let whole = template(api_version, &[&config, &service, &route]);
        assert_eq!(unread(&whole), ["Deployment everywhere", "Service everywhere"], "{whole}");
    }
    for (objects, expected) in [
        (&["{apiVersion: v1, kind: '${KIND}'}"][..], &["any everywhere"][..]),
        (&["{apiVersion: v1, kind: List, items: []}"], &["any everywhere"]),
        (&[&route], &[]),
        (&[], &[]),
    ] {
        assert_eq!(unread(&template("template.openshift.io/v1", objects)), expected, "{objects:?}");
    }
    let policy = object(POLICIES, "NetworkPolicy", "name: p, namespace: shop", "podSelector: {}");
    let beside = template("v1", &[&service]);
    let list = format!("{{apiVersion: v1, kind: List, items: [{policy}, {beside}]}}");
    assert_eq!(unread(&list), ["Service everywhere"], "the policy beside the Template was read");
}
