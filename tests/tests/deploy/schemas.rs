//! Every object fits the schema of its kind, and a mistake in one does not.

use std::collections::BTreeMap;
use std::fs;

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::yaml::{self, Objects};
use crate::{chart, kustomize, read, repository};

/// A validator per `apiVersion kind`.
struct Schemas(BTreeMap<String, Validator>);

impl Schemas {
    fn new() -> Self {
        let mut validators = BTreeMap::new();
        for file in ["deploy/schemas/kubernetes.json", "deploy/schemas/monitoring.json"] {
            let schemas: Value = serde_json::from_str(&read(file)).unwrap();
            for (kind, schema) in schemas["kinds"].as_object().unwrap() {
                let whole = json!({"allOf": [schema], "$defs": schemas["$defs"]});
                validators.insert(kind.clone(), jsonschema::validator_for(&whole).unwrap());
            }
        }
        Self(validators)
    }

    /// What is wrong with an object, with its place.
    fn errors(&self, object: &Value) -> Vec<String> {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let kind = format!("{} {}", text("apiVersion"), text("kind"));
        match self.0.get(&kind) {
            Some(validator) => validator
                .iter_errors(object)
                .map(|error| format!("{}: {}: {error}", yaml::key(object), error.instance_path()))
                .collect(),
            None => vec![format!("{}: there is no schema of {kind}", yaml::key(object))],
        }
    }
}

fn daemon_set() -> Value {
    chart::objects(&chart::values()).into_iter().find(|(key, _)| key.contains("DaemonSet")).unwrap().1
}

#[test]
fn every_manifest_fits_the_schemas() {
    let schemas = Schemas::new();
    let mut all: Vec<Objects> = ["generic", "aks", "kubenet"]
        .map(|overlay| kustomize::build(&repository("deploy/kustomize/overlays").join(overlay)))
        .into();
    all.push(chart::objects(&chart::values_with(chart::EVERYTHING)));
    for folder in ["deploy/examples/shop", "deploy/image/check"] {
        let mut files: Vec<_> = fs::read_dir(repository(folder)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        all.push(yaml::objects(files.iter().flat_map(|file| yaml::file(file))));
    }
    let errors: Vec<_> = all.iter().flat_map(BTreeMap::values).flat_map(|object| schemas.errors(object)).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(all.iter().map(BTreeMap::len).sum::<usize>() > 50, "few objects were found");
}

/// The object with the value at a JSON pointer replaced or, for none, removed.
fn changed(mut object: Value, pointer: &str, value: Option<Value>) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {pointer}"));
    let parent = parent.as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(field.to_owned(), value),
        None => parent.remove(field),
    };
    object
}

#[test]
fn a_misspelt_field_a_wrong_type_and_a_missing_field_are_found() {
    let schemas = Schemas::new();
    let spec = "/spec/template/spec";
    let container = "/spec/template/spec/containers/0";
    assert_eq!(schemas.errors(&daemon_set()), Vec::<String>::new());
    let mistakes: [(&str, String, Option<Value>); 9] = [
        ("hostNetWork", format!("{spec}/hostNetWork"), Some(json!(true))),
        ("readOnlyRootFileSystem", format!("{container}/securityContext/readOnlyRootFileSystem"), Some(json!(true))),
        ("hostNetwork", format!("{spec}/hostNetwork"), Some(json!("yes"))),
        ("runAsUser", format!("{container}/securityContext/runAsUser"), Some(json!("root"))),
        ("drop", format!("{container}/securityContext/capabilities/drop"), Some(json!("ALL"))),
        ("limits", format!("{container}/resources/limits"), Some(json!({"memory": "512 MB"}))),
        ("name", format!("{container}/name"), None),
        ("selector", "/spec/selector".to_owned(), None),
        ("metadata", "/metadata".to_owned(), None),
    ];
    for (word, pointer, value) in mistakes {
        let errors = schemas.errors(&changed(daemon_set(), &pointer, value)).join("\n");
        assert!(errors.contains(word), "{pointer}: {errors:?}");
    }
}

#[test]
fn a_kind_that_azure_would_drop_is_found() {
    let schemas = Schemas::new();
    let objects = chart::objects(&chart::values_with(chart::EVERYTHING));
    let (_, monitor) = objects.iter().find(|(key, _)| key.starts_with("azmonitoring")).unwrap();
    let errors = schemas.errors(&changed(monitor.clone(), "/spec/labelLimit", None));
    assert!(errors.join("\n").contains("labelLimit"), "{errors:?}");
}

#[test]
fn the_schemas_are_of_the_version_that_we_compile_against() {
    let word = |file: &str, is: &dyn Fn(&str) -> bool| {
        let text = read(file);
        let line = text.lines().find(|line| line.starts_with("k8s-openapi = ")).unwrap().to_owned();
        line.split('"').find(|word| is(word)).unwrap().to_owned()
    };
    let version = |file| word(file, &|word| word.starts_with("0."));
    let feature = |file| word(file, &|word| word.starts_with("v1_"));
    // The version of the crate is the workspace's, that of Kubernetes the agent's choice.
    let workspace = (version("Cargo.toml"), feature("agent/Cargo.toml"));
    let generator = (version("deploy/schemas/Cargo.toml"), feature("deploy/schemas/Cargo.toml"));
    assert_eq!(workspace, generator, "run `make schemas` after you change deploy/schemas/Cargo.toml");
    let written: Value = serde_json::from_str(&read("deploy/schemas/kubernetes.json")).unwrap();
    let feature = format!("v{}", written["kubernetes"].as_str().unwrap().replace('.', "_"));
    assert_eq!(feature, workspace.1, "run `make schemas`");
}

fn values_schema() -> Validator {
    let schema: Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

#[test]
fn the_values_fit_their_schema_and_mistakes_do_not() {
    let schema = values_schema();
    let good = [read("deploy/chart/examples/aks.yaml"), read("deploy/chart/examples/kubenet.yaml"), String::new()];
    for over in good.iter().map(String::as_str).chain([chart::EVERYTHING]) {
        let values = chart::values_with(over);
        let errors: Vec<_> = schema.iter_errors(&values).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{over}: {}", errors.join("\n"));
    }
    for bad in [
        "imagePullSecret: []",
        "image: {repo: npc}",
        "config: {backend: iptables}",
        "config: {keepEstablishd: true}",
        "config: {allowTunnels: 'yes'}",
        // The DaemonSet says these itself.
        "config: {metricsAddress: '0.0.0.0:1'}",
        "metrics: {port: 0}",
        "nodeSelector: {kubernetes.io/os: windows}",
        "startupTaint: true",
        "image: null",
    ] {
        assert!(!schema.is_valid(&chart::values_with(bad)), "{bad}");
    }
}

#[test]
fn the_schema_knows_every_value_and_the_chart_uses_it() {
    let schema: Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap();
    let mut known: Vec<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    known.retain(|name| name != "global");
    let values = chart::values();
    let mut there: Vec<_> = values.as_object().unwrap().keys().cloned().collect();
    known.sort();
    there.sort();
    assert_eq!(known, there);
    let mut templates = String::new();
    for template in fs::read_dir(chart::folder().join("templates")).unwrap() {
        templates.push_str(&fs::read_to_string(template.unwrap().path()).unwrap());
    }
    for name in there {
        assert!(templates.contains(&format!(".Values.{name}")), "no template uses {name}");
    }
}
