//! The chart, rendered as Helm would.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::template::{self, Scope};
use crate::{repository, yaml};

/// Where the kustomize base lives, and so what it is compared in.
pub(crate) const NAMESPACE: &str = "npc-system";

/// `deploy/chart`.
pub(crate) fn folder() -> PathBuf {
    repository("deploy/chart")
}

/// Its own values.
pub(crate) fn values() -> Value {
    yaml::file(&folder().join("values.yaml")).remove(0)
}

/// Its own values under those of a text, as `helm --values` lays them.
pub(crate) fn values_with(over: &str) -> Value {
    let mut values = values();
    for document in yaml::documents(over) {
        lay(&mut values, document);
    }
    values
}

fn lay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                lay(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// The minor version of Kubernetes that the chart is rendered for, unless a test says another.
const KUBERNETES: u32 = 36;

/// The text that each template makes of the values, by the template's name.
pub(crate) fn texts(values: &Value) -> BTreeMap<String, String> {
    texts_for(KUBERNETES, values)
}

/// As [`texts`], for an API server of this minor version.
fn texts_for(kubernetes: u32, values: &Value) -> BTreeMap<String, String> {
    let folder = folder();
    let about = yaml::file(&folder.join("Chart.yaml")).remove(0);
    let app_version = about["appVersion"].as_str().expect("appVersion is a text");
    let scope = Scope { values, namespace: NAMESPACE, app_version, kubernetes, folder: &folder };
    let templates = fs::read_dir(folder.join("templates")).unwrap();
    let mut texts = BTreeMap::new();
    for template in templates {
        let path = template.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // What Helm says to the operator is no object.
        if name == "NOTES.txt" {
            continue;
        }
        texts.insert(name, template::render(&fs::read_to_string(&path).unwrap(), &scope));
    }
    texts
}

/// The objects that the values make.
pub(crate) fn objects(values: &Value) -> yaml::Objects {
    yaml::objects(texts(values).values().flat_map(|text| yaml::documents(text)))
}

/// As [`objects`], for an API server of this minor version.
pub(crate) fn objects_for(kubernetes: u32, values: &Value) -> yaml::Objects {
    yaml::objects(texts_for(kubernetes, values).values().flat_map(|text| yaml::documents(text)))
}

/// Every switch of the chart on.
pub(crate) const EVERYTHING: &str = "
namespace: {create: true}
startupTaint: {enabled: true}
podMonitor: {enabled: true, azure: true}
prometheusRule: {enabled: true}
dashboard: {enabled: true}
cni: {enabled: true}
imagePullSecrets: [{name: registry}]
";
