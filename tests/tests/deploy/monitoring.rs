//! The dashboard and the alert rules speak of metrics that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use npc_agent::metrics::Metrics;
use serde_json::{Value, json};

use crate::{chart, read, repository, tools, yaml};

/// The metrics of the table in docs/operate.md, with their labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let mut metrics = BTreeMap::new();
    for line in read("docs/operate.md").lines() {
        let Some(cell) = line.strip_prefix("| `npc_") else { continue };
        let name = format!("npc_{}", cell.split('`').next().unwrap());
        let (name, labels) = match name.split_once('{') {
            Some((name, labels)) => (name.to_owned(), labels.trim_end_matches('}').split(", ").collect()),
            None => (name.clone(), Vec::new()),
        };
        let labels = labels.into_iter().map(str::to_owned).collect();
        assert!(metrics.insert(name.clone(), labels).is_none(), "{name} is there twice");
    }
    assert!(metrics.len() > 15, "the table of metrics was not found: {metrics:?}");
    metrics
}

/// Some Prometheus operators read only what has their label.
#[test]
fn labels_for_a_prometheus_can_be_set() {
    let labelled = "{enabled: true, labels: {release: stack}}";
    let values = chart::values_with(&format!("podMonitor: {labelled}\nprometheusRule: {labelled}\n"));
    let objects = chart::objects(&values);
    let of = |kind: &str| objects.values().find(|object| object["kind"] == kind).unwrap();
    for kind in ["PodMonitor", "PrometheusRule"] {
        assert_eq!(of(kind)["metadata"]["labels"], json!({"app.kubernetes.io/name": "npc", "release": "stack"}));
    }
}

/// The words of an expression, as PromQL separates them.
fn words(expression: &str) -> impl Iterator<Item = &str> {
    expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

fn metric(word: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word)
}

fn alerts() -> Vec<Value> {
    let groups = yaml::documents(&read("deploy/chart/files/alerts.yaml")).remove(0);
    groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// Every expression of the dashboard, and the legend that goes with it.
fn dashboard() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("deploy/chart/files/dashboard.json")).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = |field: &str| target[field].as_str().unwrap().to_owned();
            found.push((text("expr"), text("legendFormat")));
        }
    }
    assert!(found.len() > 15);
    found
}

#[test]
fn what_the_agent_serves_is_documented() {
    let documented = documented();
    let text = Metrics::text(&Metrics::default().registry()).unwrap();
    let served: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    // Those with labels are there once they were counted.
    assert!(served.len() > 5, "{text}");
    for line in served {
        let (name, kind) = line.split_once(' ').unwrap();
        // A counter and an info bear their type's suffix in the samples only.
        let name = match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        };
        assert!(documented.contains_key(&name), "docs/operate.md has no {name} ({kind})");
    }
}

#[test]
fn the_dashboard_and_the_alerts_speak_of_documented_metrics() {
    let documented = documented();
    let mut shown = BTreeSet::new();
    let alerts: Vec<_> = alerts().iter().map(|alert| alert["expr"].as_str().unwrap().to_owned()).collect();
    let expressions: Vec<_> = dashboard().into_iter().map(|(expression, _)| expression).collect();
    for expression in alerts.iter().chain(&expressions) {
        for word in words(expression).filter(|word| word.starts_with("npc_")) {
            let name = metric(word);
            let labels =
                documented.get(name).unwrap_or_else(|| panic!("{name} is not in docs/operate.md: {expression}"));
            if word != name {
                assert!(name.ends_with("_seconds"), "{name} is no histogram: {expression}");
                assert!(word.ends_with("_bucket"), "{expression}");
            }
            // What is grouped by must be there to group by.
            for by in expression.split(" by (").skip(1).flat_map(|rest| words(rest.split(')').next().unwrap())) {
                let of_any = ["node", "le"].contains(&by);
                assert!(of_any || labels.contains(by), "{name} has no label {by}: {expression}");
            }
            // As must what is asked for: `name{label="value"}`.
            for asked in expression.split(&format!("{word}{{")).skip(1) {
                for matcher in asked.split('}').next().unwrap().split(',') {
                    let label = words(matcher).next().unwrap();
                    assert!(label == "node" || labels.contains(label), "{name} has no label {label}: {expression}");
                }
            }
            shown.insert(name.to_owned());
        }
    }
    let all: BTreeSet<_> = documented.into_keys().collect();
    assert_eq!(shown, all, "a metric that neither the dashboard nor an alert shows");
}

#[test]
fn legends_and_annotations_name_labels_that_the_expression_has() {
    let kept = |expression: &str, label: &str| match expression.find(" by (") {
        // The first `by` is the outermost, which decides.
        Some(at) => words(expression[at + 5..].split(')').next().unwrap()).any(|word| word == label),
        None => true,
    };
    for (expression, legend) in dashboard() {
        for label in legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap()) {
            assert!(kept(&expression, label), "{legend}: {expression}");
        }
    }
    for alert in alerts() {
        let expression = alert["expr"].as_str().unwrap();
        for text in alert["annotations"].as_object().unwrap().values() {
            for label in text.as_str().unwrap().split("$labels.").skip(1) {
                let label = words(label).next().unwrap();
                assert!(kept(expression, label), "{}: {label}", alert["alert"]);
            }
        }
    }
}

#[test]
fn every_alert_leads_to_a_section_that_is_there() {
    for alert in alerts() {
        let runbook = alert["annotations"]["runbook"].as_str().unwrap();
        let (file, anchor) = runbook.split_once('#').unwrap();
        let there = read(file).lines().filter_map(|line| line.strip_prefix('#')).any(|heading| {
            let title = heading.trim_start_matches('#').trim().to_lowercase();
            title.replace(|c: char| !(c.is_alphanumeric() || c == ' '), "").replace(' ', "-") == anchor
        });
        assert!(there, "{}: no section {runbook}", alert["alert"]);
    }
}

/// What the dashboard asks, as rules, with its variables in place.
fn dashboard_as_rules() -> String {
    let rule = |(number, (expression, _)): (usize, (String, String))| {
        let expression = expression.replace("$__rate_interval", "5m").replace("$node", "a");
        assert!(!expression.contains('$'), "a variable that was not replaced: {expression}");
        json!({"record": format!("panel_{number}"), "expr": expression})
    };
    let rules: Vec<Value> = dashboard().into_iter().enumerate().map(rule).collect();
    yaml::text(&json!({"groups": [{"name": "dashboard", "rules": rules}]}))
}

#[test]
fn promtool_takes_the_queries_and_the_alerts_fire_when_they_should() {
    let Some(promtool) = tools::find("promtool") else { return };
    let folder = tempfile::tempdir().unwrap();
    let queries = folder.path().join("dashboard.yaml");
    fs::write(&queries, dashboard_as_rules()).unwrap();
    for rules in [&repository("deploy/chart/files/alerts.yaml"), &queries] {
        tools::run(&promtool, [Path::new("check"), Path::new("rules"), rules], &[]);
    }
    tools::run(
        &promtool,
        [Path::new("test"), Path::new("rules"), &repository("tests/tests/deploy/alerts.test.yaml")],
        &[],
    );
}

#[test]
fn every_alert_is_tried() {
    let tried = read("tests/tests/deploy/alerts.test.yaml");
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(tried.contains(&format!("alertname: {name}}}")), "{name} is not tried where all is well");
        assert!(tried.contains(&format!("alertname: {name}\n    exp_alerts:")), "{name} is not seen to fire");
    }
}
