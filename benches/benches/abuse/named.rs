//! Pods with as many labels as fit an object, all of which a policy of the tenant names. So an agent cannot leave them
//! out. One label of each pod differs, so that no pod shares its labels with another.

use serde_json::{Map, Value, json};

use crate::Result;
use crate::scene::{Scene, policy, unscheduled};

const LABELS: usize = 50_000;

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    let labels = |own: &str| {
        let all = (0..LABELS).map(|number| (format!("k{number}"), json!("v")));
        all.chain([("own".to_owned(), json!(own))]).collect::<Map<String, Value>>()
    };
    let spec = json!({"podSelector": {"matchLabels": labels("none")}, "policyTypes": ["Ingress"]});
    scene.server.put(&policy(Scene::TENANT, "policy", &spec));
    scene.rewrite(300, |number, version| {
        let mut pod = unscheduled(number);
        pod["metadata"]["labels"] = Value::Object(labels(&format!("pod-{number}-{version}")));
        pod
    })
}
