//! Pods with as much as an object may have of what an agent does not keep.

use serde_json::{Value, json};

use crate::scene::{Scene, unscheduled};

pub(crate) fn abuse(scene: &Scene) {
    for number in 0..400 {
        let mut pod = unscheduled(number);
        let variables =
            (0..10_000).map(|name| json!({"name": format!("VARIABLE_{name}"), "value": format!("{name:064}")}));
        pod["spec"]["containers"][0]["env"] = Value::Array(variables.collect());
        scene.server.put(&pod);
    }
}
