//! The chart and the kustomize folders say the same.

use std::path::Path;
use std::{env, fs};

use serde_json::Value;

use crate::yaml::Objects;
use crate::{chart, kustomize, read, repository, tools};

/// Where the texts that the chart renders are checked in.
const RENDERED: [(&str, &str); 11] = [
    ("namespace.yaml", "base"),
    ("serviceaccount.yaml", "base"),
    ("rbac.yaml", "base"),
    ("configmap.yaml", "base"),
    ("daemonset.yaml", "base"),
    ("install-cni.yaml", "components/cni"),
    ("startup-taint.yaml", "components/startup-taint"),
    ("startup-taint-policy.yaml", "components/startup-taint-policy"),
    ("podmonitor.yaml", "components/prometheus"),
    ("prometheusrule.yaml", "components/prometheus"),
    ("podmonitor-azure.yaml", "components/azure-monitor"),
];

/// Each overlay, the values that say the same, and components to add to it.
const OVERLAYS: [(&str, &str, &[&str]); 8] = [
    ("generic", "", &[]),
    ("aks", "deploy/chart/examples/aks.yaml", &[]),
    ("kubenet", "deploy/chart/examples/kubenet.yaml", &[]),
    ("generic", "cni: {enabled: true}", &["cni"]),
    ("generic", "startupTaint: {enabled: true, admissionPolicy: false}", &["startup-taint"]),
    ("generic", "startupTaint: {enabled: true}", &["startup-taint", "startup-taint-policy"]),
    ("generic", "{podMonitor: {enabled: true}, prometheusRule: {enabled: true}}", &["prometheus"]),
    ("generic", "podMonitor: {azure: true}", &["azure-monitor"]),
];

fn values(over: &str) -> Value {
    let over = if over.starts_with("deploy/") { read(over) } else { over.to_owned() };
    chart::values_with(&format!("{over}\n---\nnamespace: {{create: true}}\n"))
}

fn assert_same(left: &Objects, right: &Objects, what: &str) {
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>(), "{what}: not the same objects");
    for (key, object) in left {
        if let Some(difference) = difference(object, &right[key]) {
            panic!("{what}: {key} differs: {difference}");
        }
    }
}

/// Where two values differ first, and how: a whole object is too long to read.
fn difference(left: &Value, right: &Value) -> Option<String> {
    let inner: Vec<(String, &Value, &Value)> = match (left, right) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().map(|(name, value)| (name.clone(), value, &b[name])).collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().map(|(index, (a, b))| (index.to_string(), a, b)).collect()
        }
        _ => return (left != right).then(|| format!("\n  {left}\n  {right}")),
    };
    inner.into_iter().find_map(|(name, a, b)| Some(format!("/{name}{}", difference(a, b)?)))
}

#[test]
fn the_kustomize_folders_hold_what_the_chart_renders() {
    let base = chart::texts(&values(""));
    let mut everything = chart::texts(&chart::values_with(chart::EVERYTHING));
    for (template, folder) in RENDERED {
        let rendered = if folder == "base" { &base[template] } else { &everything[template] };
        let path = repository("deploy/kustomize").join(folder).join(template);
        if env::var_os("NPC_WRITE").is_some() {
            fs::write(&path, rendered).unwrap();
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(&there, rendered, "{} is not what the chart renders; `make manifests` writes it", path.display());
        everything.remove(template);
    }
    // The dashboard is imported as a file, or by the chart.
    assert_eq!(everything.keys().collect::<Vec<_>>(), ["dashboard.yaml"], "a template without a place");
}

#[test]
fn each_overlay_is_the_chart_with_its_values() {
    for (overlay, over, components) in OVERLAYS {
        let mut built = kustomize::build(&repository("deploy/kustomize/overlays").join(overlay));
        for component in components {
            kustomize::apply(&repository("deploy/kustomize/components").join(component), &mut built);
        }
        let mut rendered = chart::objects(&values(over));
        // Helm knows the namespace, kustomize does not: a test evaluates both expressions.
        for (key, object) in &mut rendered {
            if let Some(condition) = object.pointer_mut("/spec/matchConditions/0/expression") {
                let component = built[key]["spec"]["matchConditions"][0]["expression"].clone();
                assert_ne!(*condition, component, "{key}");
                *condition = component;
            }
        }
        assert_same(&built, &rendered, &format!("{overlay} {components:?}"));
    }
}

#[test]
fn helm_renders_what_we_render() {
    let Some(helm) = tools::find("helm") else { return };
    let folder = tempfile::tempdir().unwrap();
    let overs = OVERLAYS.iter().map(|(_, over, _)| values(over)).chain([chart::values_with(chart::EVERYTHING)]);
    for values in overs {
        let file = folder.path().join("values.yaml");
        fs::write(&file, values.to_string()).unwrap();
        let chart_folder = chart::folder();
        let arguments = [Path::new("template"), Path::new("npc"), &chart_folder, Path::new("--values"), &file];
        let text = tools::run(&helm, arguments, &["--namespace", chart::NAMESPACE]);
        let rendered = crate::yaml::objects(crate::yaml::documents(&text));
        assert_same(&rendered, &chart::objects(&values), "helm template");
    }
}

#[test]
fn kubectl_builds_the_overlays_as_we_do() {
    let Some(kubectl) = tools::find("kubectl") else { return };
    for overlay in ["generic", "aks", "kubenet"] {
        let folder = repository("deploy/kustomize/overlays").join(overlay);
        let text = tools::run(&kubectl, [Path::new("kustomize"), &folder], &[]);
        let built = crate::yaml::objects(crate::yaml::documents(&text));
        assert_same(&built, &kustomize::build(&folder), overlay);
    }
    // Components, by a kustomization as an operator would write it. It lies in
    // the tree, because kustomize takes no absolute paths.
    let folder = tempfile::tempdir_in(repository("deploy/kustomize/overlays")).unwrap();
    let components = ["startup-taint", "startup-taint-policy", "prometheus", "azure-monitor"]
        .map(|name| format!("../../components/{name}"));
    let kustomization = serde_json::json!({"resources": ["../aks"], "components": components});
    fs::write(folder.path().join("kustomization.yaml"), kustomization.to_string()).unwrap();
    let text = tools::run(&kubectl, [Path::new("kustomize"), folder.path()], &[]);
    let built = crate::yaml::objects(crate::yaml::documents(&text));
    assert_same(&built, &kustomize::build(folder.path()), "aks with every component");
}

#[test]
fn the_version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let about = crate::yaml::documents(&read("deploy/chart/Chart.yaml")).remove(0);
    assert_eq!((about["version"].as_str(), about["appVersion"].as_str()), (Some(version), Some(version)));
    assert_eq!(chart::values()["image"]["tag"].as_str(), Some(version));
}
