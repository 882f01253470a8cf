//! Lists as kubectl prints them, item by item and as a whole.

use std::fmt::Write as _;

use serde_json::{Value, json};

use npc_compiler::object::Pod;

use super::super::long::{Sizes, read_by};
use super::*;

/// Objects of all kinds that are read, with what is hard to cut out of a text.
fn items() -> Vec<Value> {
    let text = "first: line\n\n  name: no name\n- nor an item\n    spec:\n";
    let pod = |name: &str, more: Value| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"annotations": {"note": text, "a/b": "\"name\": \"x\"\n        },\n"}, "labels": {"app": name, "version": "1.0"},
                "managedFields": [{"fieldsV1": {"f:metadata": {"f:name": {}}}}], "name": name, "namespace": "shop",
                "ownerReferences": [{"apiVersion": "apps/v1", "controller": true, "kind": "ReplicaSet", "name": "web", "uid": "u"}]},
            "spec": {"containers": [
                {"args": ["-c", text], "env": [{"name": "A", "value": "ä: [{"}], "image": "i", "name": "c",
                    "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}]},
                {"image": "j", "name": "d"}],
                "initContainers": [{"command": [], "name": "i", "restartPolicy": "Always", "ports": [{"containerPort": 90}]}],
                "nodeName": "n1", "tolerations": [{"key": "k", "tolerationSeconds": 300}]},
            "status": {"conditions": [{"lastProbeTime": null, "status": "True", "type": "Ready"}], "hostIP": "192.0.2.1",
                "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}});
        let Value::Object(more) = more else { panic!("an object") };
        for (key, value) in more {
            match (pod.get_mut(&key).and_then(Value::as_object_mut), value) {
                (Some(into), Value::Object(value)) => into.extend(value),
                (_, value) => pod[key] = value,
            }
        }
        pod
    };
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"labels": {"team": "a"}, "name": "shop"}, "spec": {"finalizers": ["kubernetes"]}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDR": "10.0.0.0/24"},
            "status": {"addresses": [{"address": "192.0.2.1", "type": "InternalIP"}], "images": [{"names": ["a"]}]}}),
        pod("web-1", json!({})),
        pod("web-2", json!({"spec": {"hostNetwork": true}})),
        pod("web-3", json!({"metadata": {"deletionTimestamp": "2026-11-01T10:00:00Z"}})),
        pod("web-4", json!({"metadata": {"labels": {"app": "no value"}}})),
        pod("web-5", json!({"status": null})),
        pod("web-1", json!({"status": {"podIP": "10.0.0.9", "podIPs": null}})),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"labels": {"team": "b"}, "name": "api", "namespace": "shop"},
            "spec": {"template": {"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [{"name": "c"}]}}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"ports": [{"port": 80, "targetPort": "http"}], "selector": {"app": "api"}}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "shop"}, "data": {"a": "Yg=="}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"annotations": {"a b": "c"}, "name": "web", "namespace": "shop"},
            "spec": {"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "ä"}}}, {"ipBlok": {"cidr": "10.0.0.0/8"}}],
                "ports": [{"port": "8080"}, {"port": 90}]}], "podSelector": {}, "policyTypes": ["Ingress"]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny", "namespace": "shop"},
            "spec": {"podSelector": {}}}),
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"}}}),
        json!({"apiVersion": "template.openshift.io/v1", "kind": "Template", "metadata": {"name": "t", "namespace": "shop"},
            "objects": [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "${NAME}"}}]}),
        json!({"apiVersion": "machinelearning.seldon.io/v1", "kind": "SeldonDeployment",
            "metadata": {"name": "j", "namespace": "shop"},
            "spec": {"predictors": [{"componentSpecs": [{"spec": {"containers": [{"name": "c"}]}}]}]}}),
    ]
}

/// As `kubectl get -o json`.
fn as_json(items: &[Value]) -> String {
    let mut out = "{\n    \"apiVersion\": \"v1\",\n    \"items\": [\n".to_owned();
    for (place, item) in items.iter().enumerate() {
        let mut text = Vec::new();
        let style = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        serde::Serialize::serialize(item, &mut serde_json::Serializer::with_formatter(&mut text, style)).unwrap();
        let text = String::from_utf8(text).unwrap().replace('\n', "\n        ");
        let comma = if place + 1 < items.len() { "," } else { "" };
        writeln!(out, "        {text}{comma}").unwrap();
    }
    out + "    ],\n    \"kind\": \"List\",\n    \"metadata\": {\n        \"resourceVersion\": \"\"\n    }\n}\n"
}

/// As `kubectl get -o yaml`.
fn as_yaml(items: &[Value]) -> String {
    let mut out = "apiVersion: v1\nitems:\n".to_owned();
    yaml(&Value::Array(items.to_vec()), 0, &mut out);
    out + "kind: List\nmetadata:\n  resourceVersion: \"\"\n"
}

fn is_plain(text: &str) -> bool {
    // kubectl quotes what would be no text.
    !["True", "False"].contains(&text)
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/.-".contains(&byte))
}

/// The lines of a mapping or list; those of its first key stand behind the dash.
fn yaml(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::Object(of) if !of.is_empty() => {
                        writeln!(out, "{pad}{key}:").unwrap();
                        yaml(value, indent + 2, out);
                    }
                    Value::Array(of) if !of.is_empty() => {
                        writeln!(out, "{pad}{key}:").unwrap();
                        yaml(value, indent, out);
                    }
                    Value::String(text) if text.contains('\n') && !text.contains('"') => {
                        writeln!(out, "{pad}{key}: |").unwrap();
                        for line in text.lines() {
                            let line = format!("{pad}  {line}");
                            writeln!(out, "{}", line.trim_end()).unwrap();
                        }
                    }
                    Value::String(text) if is_plain(text) => writeln!(out, "{pad}{key}: {text}").unwrap(),
                    value => writeln!(out, "{pad}{key}: {value}").unwrap(),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut text = String::new();
                match item {
                    Value::Object(_) => yaml(item, indent + 2, &mut text),
                    item => writeln!(text, "{pad}  {item}").unwrap(),
                }
                write!(out, "{pad}- {}", &text[indent + 2..]).unwrap();
            }
        }
        _ => {}
    }
}

fn by_item(text: &str, sizes: Sizes) -> Option<Parsed> {
    read_by(&"f.yaml".into(), text.as_bytes(), "default", &AtomicUsize::new(0), sizes).unwrap()
}

const SIZES: [Sizes; 4] = [
    Sizes { read: 4 << 20, batch: 1 << 20 },
    Sizes { read: 1, batch: 1 },
    Sizes { read: 97, batch: 1 },
    Sizes { read: 1_000, batch: 5_000 },
];

#[test]
fn a_list_is_the_same_item_by_item_and_as_a_whole() {
    let options = ReadOptions { allow_errors: true, pass_over: true, ..ReadOptions::default() };
    let paths = [
        "",
        "spec.ingress[0].from[0].podSelector.matchLabels.app",
        "spec.ingress[0].ports[1].port",
        "spec.podSelector",
    ];
    for text in [as_json(&items()), as_yaml(&items())] {
        let whole = parse_text("f.yaml", &text, &options).unwrap();
        assert_eq!(names(&whole).len(), 11, "{:?}", names(&whole));
        let is_scaled = |pod: &Pod| pod.is_template() && !pod.is_single;
        assert!(whole.objects.pods.iter().any(is_scaled), "an autoscaler scales the Deployment");
        assert_eq!(whole.passed_over.unread.len(), 1, "a Service of the Template");
        for sizes in SIZES {
            let parsed = by_item(&text, sizes).unwrap_or_else(|| panic!("{sizes:?}: not read item by item\n{text}"));
            let loaded = finish(vec![parsed], &BTreeSet::new(), &options).unwrap();
            assert_eq!(loaded.objects, whole.objects, "{sizes:?}");
            assert_eq!(loaded.skipped, whole.skipped);
            let places = |of: &Loaded| format!("{:?}", of.skipped_objects);
            assert_eq!(places(&loaded), places(&whole), "{sizes:?}");
            assert_eq!((&loaded.pod_makers, &loaded.pod_making), (&whole.pod_makers, &whole.pod_making));
            assert_eq!(loaded.passed_over, whole.passed_over, "{sizes:?}");
            let shown = |loaded: &Loaded| loaded.problems.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(shown(&loaded), shown(&whole), "{sizes:?}");
            for (kind, name) in [("NetworkPolicy", "web"), ("NetworkPolicy", "deny"), ("Deployment", "api")] {
                for path in paths {
                    let place = |loaded: &Loaded| loaded.positions.locate(kind, "shop", name, path);
                    let (one, other) = (place(&loaded).unwrap(), place(&whole).unwrap());
                    assert_eq!(
                        (one.to_string(), one.span.start),
                        (other.to_string(), other.span.start),
                        "{name} {path}"
                    );
                    let line = |loaded: &Loaded| loaded.positions.line("f.yaml", one.line()).map(str::to_owned);
                    assert_eq!(line(&loaded), line(&whole), "{name} {path}");
                }
            }
            let pod = |loaded: &Loaded| loaded.positions.locate("Pod", "shop", "web-2", "").unwrap().to_string();
            assert_eq!(pod(&loaded), pod(&whole));
        }
    }
}

#[test]
fn of_a_long_list_only_the_text_of_objects_with_places_is_kept() {
    let parsed = by_item(&as_yaml(&items()), SIZES[0]).unwrap();
    let kept: String = parsed.parts.values().map(|part| &**part).collect();
    assert!(parsed.text.is_empty());
    assert!(
        kept.contains("kind: NetworkPolicy") && kept.contains("kind: Deployment") && !kept.contains("web-1"),
        "{kept}"
    );
    assert!(kept.contains("name: web-4"), "a warning has a place: {kept}");
}

#[test]
fn anything_else_is_read_as_a_whole() {
    let (json, yaml) = (as_json(&items()), as_yaml(&items()));
    let replaced = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let texts = [
        replaced(&json, "\"kind\": \"List\"", "\"kind\": \"PodList\""),
        replaced(&yaml, "kind: List", "kind: PodList"),
        format!("{yaml}---\nkind: Pod\n"),
        format!("{json}{json}"),
        format!("# a comment\n{yaml}"),
        json[..json.len() - 3].to_owned(),
        json[..json.len() / 2].to_owned(),
        replaced(&yaml, "kind: List\n", ""),
        replaced(&json, "\"name\": \"web-2\"", "\"name\": \"web-2\", \"name\": \"web-2\""),
        replaced(&json, "\"name\": \"web-2\"", "\"name\": 2"),
        replaced(&yaml, "name: web-2", "name: [2"),
        replaced(&yaml, "name: web-2", "name: \"{{ x }}\""),
        replaced(&yaml, "- apiVersion: v1\n  kind: Node", "# a comment\n- apiVersion: v1\n  kind: Node"),
        json.replace('\n', "\r\n"),
        String::new(),
        "apiVersion: v1\nitems:\n- ".to_owned(),
        "{\n    \"apiVersion\": \"v1\",\n    \"items\": [\n        {\n".to_owned(),
    ];
    for text in texts {
        for sizes in SIZES {
            assert!(by_item(&text, sizes).is_none(), "{sizes:?}: {text}");
        }
    }
}
