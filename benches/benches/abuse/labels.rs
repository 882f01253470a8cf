//! Pods with as many labels as an object may have. Every agent follows the pods of the
//! whole cluster, and labels are what it keeps of them.

use serde_json::{Value, json};

use crate::Result;
use crate::scene::{Scene, unscheduled};

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    scene.rewrite(300, |number, version| {
        let mut pod = unscheduled(number);
        let labels =
            (0..13_000).map(|key| (format!("key-{key}"), json!(format!("{number:03}-{version:03}-{key:050}"))));
        pod["metadata"]["labels"] = Value::Object(labels.collect());
        pod
    })
}
