//! Texts in, objects and problems out.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod corpora;
mod long;
mod objects;
mod passed_over;
mod places;
mod random;
mod texts;

use super::*;

/// Reads a text that must be good, as `f.yaml`.
fn read(text: &str) -> Loaded {
    parse_text("f.yaml", text, &ReadOptions::default()).unwrap_or_else(|errors| panic!("{errors}\nin:\n{text}"))
}

/// Reads a text and answers the problems as they are shown.
fn problems(text: &str) -> Vec<String> {
    let options = ReadOptions { allow_errors: true, ..ReadOptions::default() };
    let loaded = parse_text("f.yaml", text, &options).unwrap();
    loaded.problems.iter().map(ToString::to_string).collect()
}

/// The one problem of a text.
fn problem(text: &str) -> String {
    let mut all = problems(text);
    assert_eq!(all.len(), 1, "{all:#?}\nin:\n{text}");
    all.remove(0)
}

/// A policy with this spec, whose lines are indented by two.
fn policy(spec: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: n}}\nspec:\n{spec}")
}

/// The names of what was read, `kind namespace/name` each.
fn names(loaded: &Loaded) -> Vec<String> {
    let objects = &loaded.objects;
    (objects.namespaces.iter().map(|n| format!("ns {}", n.name)))
        .chain(objects.nodes.iter().map(|n| format!("node {}", n.name)))
        .chain(objects.pods.iter().map(|p| {
            let of = p.workload.as_ref().map_or(String::new(), |w| format!(" of {}/{}", w.kind, w.name));
            format!("pod {}/{}{of}", p.namespace, p.name)
        }))
        .chain(objects.services.iter().map(|s| format!("svc {}/{}", s.namespace, s.name)))
        .chain(objects.policies.iter().map(|p| format!("policy {}/{}", p.namespace(), p.name())))
        .collect()
}
