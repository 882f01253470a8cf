//! The DaemonSet that runs this process, read once when the process ends.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::time;

use super::words;
use crate::install_cni::owner::{NodeTraits, OwnerAnswer};
use crate::words::rounded::rounded;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks for a DaemonSet by name, and for the labels and taints of a node.
#[must_use]
pub fn daemon_set(client: &Client, namespace: &str, name: &str, node: &str) -> BoxFuture<'static, OwnerAnswer> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let nodes: Api<Node> = Api::all(client.clone());
    let (name, node) = (name.to_owned(), node.to_owned());
    async move {
        let set = match time::timeout(PATIENCE, sets.get(&name)).await {
            Ok(Ok(set)) => set,
            Ok(Err(error)) => return refused(&error),
            Err(_) => return OwnerAnswer::Unknown(format!("the API server did not answer for {}", rounded(PATIENCE))),
        };
        // Without its Node, a node counts as selected.
        let node = time::timeout(PATIENCE, nodes.get(&node)).await;
        let traits = node.ok().and_then(Result::ok).map(|node| NodeTraits {
            labels: node.metadata.labels.unwrap_or_default(),
            taints: node.spec.and_then(|spec| spec.taints).unwrap_or_default(),
        });
        OwnerAnswer::Found(Box::new(set), traits)
    }
    .boxed()
}

/// Only the API server itself says that something is not there. A proxy in front of one that
/// is away may answer with the same code.
fn refused(error: &kube::Error) -> OwnerAnswer {
    match error {
        kube::Error::Api(status)
            if matches!(
                (status.code, status.reason.as_str()),
                (401, "Unauthorized") | (403, "Forbidden") | (404, "NotFound")
            ) =>
        {
            OwnerAnswer::Refused(status.code)
        }
        other => OwnerAnswer::Unknown(words(other)),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn only_the_api_servers_own_refusal_counts() {
        let answer =
            |code, reason: &str| refused(&kube::Error::Api(Status::failure("words", reason).with_code(code).boxed()));
        for (code, reason) in [(401, "Unauthorized"), (403, "Forbidden"), (404, "NotFound")] {
            assert!(matches!(answer(code, reason), OwnerAnswer::Refused(answered) if answered == code), "{code}");
        }
        for (code, reason) in [(404, "Failed to parse error data"), (404, ""), (503, "ServiceUnavailable"), (401, "")] {
            assert!(matches!(answer(code, reason), OwnerAnswer::Unknown(_)), "{code} {reason}");
        }
    }
}
