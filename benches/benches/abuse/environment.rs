//! Pods with as much as an object may have of what an agent does not keep.

use serde_json::{Value, json};

use crate::Result;
use crate::scene::{Scene, unscheduled};

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    scene.rewrite(400, |number, version| {
        let mut pod = unscheduled(number);
        let variables = (0..10_000)
            .map(|name| json!({"name": format!("VARIABLE_{name}"), "value": format!("{version:03}-{name:060}")}));
        pod["spec"]["containers"][0]["env"] = Value::Array(variables.collect());
        pod
    })
}
