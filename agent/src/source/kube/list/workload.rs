//! One workload of a cluster, read because it was named and no pod says that it is there.

use std::time::Duration;

use kube::Client;
use npc_compiler::object::Workload;

use super::in_time;
use super::other_policies::short_timeout;
use crate::source::kube::connection::failure::Failure;
use crate::source::kube::words;

/// Where the API has the workloads of a kind.
const RESOURCES: [(&str, &str, &str); 7] = [
    ("Deployment", "apps/v1", "deployments"),
    ("StatefulSet", "apps/v1", "statefulsets"),
    ("DaemonSet", "apps/v1", "daemonsets"),
    ("ReplicaSet", "apps/v1", "replicasets"),
    ("Job", "batch/v1", "jobs"),
    ("CronJob", "batch/v1", "cronjobs"),
    ("ReplicationController", "v1", "replicationcontrollers"),
];

/// What the API server says of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkloadAnswer {
    /// The object, as JSON.
    Found(String),
    /// There is none.
    Absent,
    /// The reader has no right to get this resource.
    Refused(&'static str),
    /// It is not known whether there is one: why, in words.
    Unknown(String),
}

/// The kinds of workloads of Kubernetes' own API; those that people ask about most come first.
pub fn workload_kinds() -> impl Iterator<Item = &'static str> {
    RESOURCES.iter().map(|(kind, ..)| *kind)
}

/// Asks for one workload. An answer may take `timeout`, and no longer than one about other policies, because the lists
/// are complete when this is asked.
pub async fn workload(
    client: &Client,
    namespace: &str,
    workload: &Workload,
    timeout: Option<Duration>,
) -> WorkloadAnswer {
    let Some((_, version, plural)) = RESOURCES.iter().find(|(kind, ..)| *kind == workload.kind) else {
        return WorkloadAnswer::Absent;
    };
    let root = if version.contains('/') { "apis" } else { "api" };
    let path = format!("/{root}/{version}/namespaces/{namespace}/{plural}/{}", workload.name);
    let asked = async {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        Ok(client.request_text(request).await?)
    };
    match in_time(Some(short_timeout(timeout)), asked).await {
        Ok(text) => WorkloadAnswer::Found(text),
        Err(failure) if failure.code() == Some(404) => WorkloadAnswer::Absent,
        Err(failure) if failure.code() == Some(403) => WorkloadAnswer::Refused(plural),
        Err(failure) => WorkloadAnswer::Unknown(failure_text(&failure, plural)),
    }
}

fn failure_text(failure: &Failure, plural: &str) -> String {
    format!("the API server, asked for {plural}, answered: {}", words(failure))
}
