#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::source::manifests::{ReadOptions, parse_text};

const BASE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: n, labels: {team: a}}
---
apiVersion: v1
kind: Node
metadata: {name: w}
---
apiVersion: v1
kind: Pod
metadata: {name: lone, namespace: n, labels: {v: '1'}}
---
apiVersion: v1
kind: Pod
metadata:
  name: d-7-x
  namespace: n
  uid: u
  labels: {v: '1', gone: soon, pod-template-hash: '7'}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: d-7, uid: r, controller: true}]
spec: {nodeName: w}
status: {podIP: 10.1.0.1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: t, namespace: n}
spec: {template: {metadata: {labels: {v: '1'}}}}
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: n}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: n}
spec: {podSelector: {}}
";

fn read(name: &str, text: &str) -> Loaded {
    parse_text(name, text, &ReadOptions::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// What the objects are, in one line each.
fn summary(objects: &Objects) -> Vec<String> {
    let labels = |labels: &Labels| {
        let own = labels.iter().filter(|(key, _)| key.as_str() != npc_compiler::object::NAMESPACE_NAME_LABEL);
        own.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    };
    (objects.namespaces.iter().map(|n| format!("ns {} {}", n.name, labels(&n.labels))))
        .chain(objects.nodes.iter().map(|n| format!("node {} {:?}", n.name, n.addresses)))
        .chain(
            objects.pods.iter().map(|p| format!("pod {}/{} {} {:?}", p.namespace, p.name, labels(&p.labels), p.ipv4)),
        )
        .chain(objects.services.iter().map(|s| format!("svc {}/{} {}", s.namespace, s.name, s.ports.len())))
        .chain(
            objects
                .policies
                .iter()
                .map(|p| format!("policy {}/{} {}", p.namespace(), p.name(), p.object.spec.is_some())),
        )
        .collect()
}

/// The lines that an overlay removes and adds.
fn overlaid(overlay: &str) -> (Vec<String>, Vec<String>) {
    let mut base = read("base.yaml", BASE);
    let before = summary(&base.objects);
    apply_overlay(&mut base, read("overlay.yaml", overlay));
    changes(&before, &summary(&base.objects))
}

fn changes(before: &[String], after: &[String]) -> (Vec<String>, Vec<String>) {
    let only = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect();
    (only(before, after), only(after, before))
}

fn check(overlay: &str, removed: &[&str], added: &[&str]) {
    let (gone, new) = overlaid(overlay);
    assert_eq!(gone, removed, "removed by {overlay}");
    assert_eq!(new, added, "added by {overlay}");
}

#[test]
fn an_overlay_replaces_by_name_and_adds_the_rest() {
    check(
        "{apiVersion: v1, kind: Pod, metadata: {name: lone, namespace: n, labels: {v: '2'}}}",
        &["pod n/lone v=1 None"],
        &["pod n/lone v=2 None"],
    );
    check("{apiVersion: v1, kind: Pod, metadata: {name: lone, namespace: m}}", &[], &["ns m ", "pod m/lone  None"]);
    check(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: n}}",
        &["policy n/p true"],
        &["policy n/p false"],
    );
    check(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: q, namespace: n}}",
        &[],
        &["policy n/q false"],
    );
    check(
        "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: n}, spec: {ports: [{port: 80}]}}",
        &["svc n/s 0"],
        &["svc n/s 1"],
    );
    check(
        "{apiVersion: v1, kind: Node, metadata: {name: w}, status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}",
        &["node w []"],
        &["node w [10.0.0.1]"],
    );
    check(
        "{apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {team: b}}}",
        &["ns n team=a"],
        &["ns n team=b"],
    );
}

#[test]
fn a_namespace_that_the_overlay_only_implies_changes_nothing() {
    check("{apiVersion: v1, kind: Service, metadata: {name: other, namespace: n}}", &[], &["svc n/other 0"]);
}

#[test]
fn a_workload_changes_the_pods_it_has() {
    let deployment = |name: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}, namespace: n}}, spec: {{template: {{metadata: {{labels: {{v: '2'}}}}}}}}}}"
        )
    };
    check(
        &deployment("d"),
        &["pod n/d-7-x gone=soon,pod-template-hash=7,v=1 Some(10.1.0.1)"],
        &["pod n/d-7-x pod-template-hash=7,v=2 Some(10.1.0.1)"],
    );
    check(&deployment("t"), &["pod n/t v=1 None"], &["pod n/t v=2 None"]);
    check(&deployment("lone"), &[], &["pod n/lone v=2 None"]);
}

#[test]
fn places_in_the_overlay_are_found() {
    let mut base = read("base.yaml", BASE);
    let overlay = "\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: n}}";
    apply_overlay(&mut base, read("overlay.yaml", overlay));
    let place = |kind: &str, name: &str| base.positions.locate(kind, "n", name, "").unwrap().to_string();
    assert_eq!(place("NetworkPolicy", "p"), "overlay.yaml:2:1");
    assert_eq!(place("Service", "s"), "base.yaml:30:1");
}

#[test]
fn removing_is_as_deleting() {
    let check = |removal: &str, wanted: &[&str]| {
        let mut objects = read("base.yaml", BASE).objects;
        let before = summary(&objects);
        removal.parse::<Removal>().unwrap().apply(&mut objects).unwrap();
        let (gone, new) = changes(&before, &summary(&objects));
        assert_eq!(
            (gone.as_slice(), new.len()),
            (wanted.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>().as_slice(), 0),
            "{removal}"
        );
    };
    check("netpol/n/p", &["policy n/p true"]);
    check("NetworkPolicies/n/p", &["policy n/p true"]);
    check("pod/n/lone", &["pod n/lone v=1 None"]);
    check("deploy/n/d", &["pod n/d-7-x gone=soon,pod-template-hash=7,v=1 Some(10.1.0.1)"]);
    check("deployment/n/t", &["pod n/t v=1 None"]);
    check("svc/n/s", &["svc n/s 0"]);
    check("node/w", &["node w []"]);
    check(
        "ns/n",
        &[
            "ns n team=a",
            "pod n/lone v=1 None",
            "pod n/d-7-x gone=soon,pod-template-hash=7,v=1 Some(10.1.0.1)",
            "pod n/t v=1 None",
            "svc n/s 0",
            "policy n/p true",
        ],
    );
}

#[test]
fn what_cannot_be_removed_is_said() {
    let check = |removal: &str, wanted: &str| {
        let mut objects = read("base.yaml", BASE).objects;
        let before = objects.clone();
        let result = removal.parse::<Removal>().and_then(|removal| removal.apply(&mut objects));
        assert_eq!(result.unwrap_err().to_string(), wanted);
        assert_eq!(objects, before);
    };
    let syntax = "names no object; write KIND/NAMESPACE/NAME, as in netpol/shop/api, or ns/NAME, node/NAME";
    check("netpol/n/q", "there is no networkpolicy n/q in the input");
    check("netpol/m/p", "there is no networkpolicy m/p in the input");
    check("pod/n/t", "there is no pod n/t in the input");
    check("deploy/n/lone", "there is no deployment n/lone in the input");
    check("ns/m", "there is no namespace m in the input");
    check("configmap/n/c", "\"configmap\" is no kind that decides about connectivity");
    check("netpol/p", &format!("\"netpol/p\" {syntax}"));
    check("ns/n/n", &format!("\"ns/n/n\" {syntax}"));
    check("netpol//p", &format!("\"netpol//p\" {syntax}"));
    check("", &format!("\"\" {syntax}"));
}

#[test]
fn a_removal_is_shown_as_it_is_written() {
    for text in ["netpol/n/p", "ns/n"] {
        assert_eq!(text.parse::<Removal>().unwrap().to_string(), text);
    }
}
