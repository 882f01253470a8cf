//! As much of kustomize as our overlays use; a field beyond that is refused.

use std::path::Path;

use serde_json::Value;

use crate::yaml::{self, Objects};

const FIELDS: [&str; 5] = ["apiVersion", "kind", "resources", "components", "patches"];

fn paths(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array).into_iter().flatten().map(|path| path.as_str().expect("a path is a text"))
}

/// The objects of a kustomization's folder.
pub(crate) fn build(folder: &Path) -> Objects {
    let mut objects = Objects::new();
    apply(folder, &mut objects);
    objects
}

/// Adds what a kustomization has to objects, and changes those that it patches.
pub(crate) fn apply(folder: &Path, objects: &mut Objects) {
    let kustomization = yaml::file(&folder.join("kustomization.yaml")).remove(0);
    let fields = kustomization.as_object().expect("a kustomization is a map");
    if let Some(name) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        panic!("{}: {name} is not for our overlays", folder.display());
    }
    // For any order in the file, the order here is: resources, components, patches.
    for path in paths(fields.get("resources")) {
        resource(&folder.join(path), objects);
    }
    for path in paths(fields.get("components")) {
        apply(&folder.join(path), objects);
    }
    for patch in fields.get("patches").and_then(Value::as_array).into_iter().flatten() {
        let path = folder.join(patch["path"].as_str().expect("a patch has a path"));
        for change in yaml::file(&path) {
            let key = yaml::key(&change);
            merge(objects.get_mut(&key).unwrap_or_else(|| panic!("{}: there is no {key}", path.display())), change);
        }
    }
}

fn resource(path: &Path, objects: &mut Objects) {
    let more = if path.is_dir() { build(path) } else { yaml::objects(yaml::file(path)) };
    for (key, object) in more {
        assert!(objects.insert(key.clone(), object).is_none(), "{}: {key} is there already", path.display());
    }
}

/// A strategic merge: maps by field, lists of named things by name, other lists
/// are replaced. What a patch names in a list stands first, as kustomize has it.
fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                merge(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(under), Value::Array(over)) if over.iter().all(|item| item.get("name").is_some()) => {
            let mut rest = std::mem::take(under);
            for item in over {
                match rest.iter().position(|known| known["name"] == item["name"]) {
                    Some(at) => {
                        let mut known = rest.remove(at);
                        merge(&mut known, item);
                        under.push(known);
                    }
                    None => under.push(item),
                }
            }
            under.append(&mut rest);
        }
        (under, over) => *under = over,
    }
}
