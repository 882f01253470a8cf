//! The Nodes of pods that list one address: does each still exist, and is the
//! address in its prefixes?
//!
//! Agents do not watch all Nodes. Kubelets write to theirs every few minutes,
//! and an API server of a large cluster would send each of these writes to every
//! agent. So the agent looks up the few that matter: those of pods that contest
//! an address about which its rules ask, for as long as they do. Before it has
//! an answer about all of them it knows of none, and then what several pods list
//! is a peer only where all of them are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::{Api, Client};
use npc_compiler::engine::Event;
use npc_compiler::object::Node;
use tokio::sync::{mpsc, watch};
use tokio::time;
use tracing::{debug, warn};

use super::objects::slim;
use super::{backoff, words};
use crate::source::{Change, Changes};
use crate::words::rounded::rounded;

/// How long two pods list an address before it is worth a question: most are a
/// pod that ends and its successor, which the objects themselves distinguish.
const SETTLED: Duration = Duration::from_secs(2);

/// How often to look again while an address is contested.
const AGAIN: Duration = Duration::from_secs(20);

/// Looks up the Nodes that the agent wants to know, until it wants none any
/// more.
pub async fn look_up<T>(
    client: Client,
    mut wanted: watch::Receiver<BTreeSet<String>>,
    sender: mpsc::Sender<T>,
    report: fn(Changes) -> T,
) {
    let nodes = Api::all(client);
    let mut reported = BTreeMap::<String, Node>::new();
    let mut waits = backoff();
    let mut is_failing = false;
    loop {
        let names = wanted.borrow_and_update().clone();
        let wait = match ask(&nodes, &names).await {
            Ok(found) => {
                waits = backoff();
                is_failing = false;
                let events = differ(&reported, &found);
                if !events.is_empty() {
                    debug!(nodes = ?names, "looked up the Nodes of pods that list one address");
                    let changes = events.into_iter().map(Change::now).collect();
                    // The agent wants a Node only once it knows the whole cluster, so this
                    // is no first part of it.
                    if sender.send(report(Changes { changes, ..Changes::default() })).await.is_err() {
                        return;
                    }
                }
                reported = found;
                AGAIN
            }
            Err(error) => {
                let wait = waits.next().unwrap_or(AGAIN);
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(
                        error = words(&error), nodes = names.iter().cloned().collect::<Vec<_>>().join(", "), retry = ?rounded(wait),
                        "cannot look up the Nodes of pods that list one address; until then rules admit this address \
                         only if they admit every pod that lists it"
                    );
                }
                wait
            }
        };
        let has_something_to_ask = !names.is_empty();
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => time::sleep(SETTLED).await,
                Err(_) => return,
            },
            () = time::sleep(wait), if has_something_to_ask => {}
        }
    }
}

/// Those of the Nodes that exist.
async fn ask(nodes: &Api<slim::Node>, names: &BTreeSet<String>) -> kube::Result<BTreeMap<String, Node>> {
    let mut found = BTreeMap::new();
    for name in names {
        if let Some(node) = nodes.get_opt(name).await? {
            found.insert(name.clone(), node.into());
        }
    }
    Ok(found)
}

/// The events that lead from the reported Nodes to those that were found.
fn differ(reported: &BTreeMap<String, Node>, found: &BTreeMap<String, Node>) -> Vec<Event> {
    let gone = reported.keys().filter(|name| !found.contains_key(*name)).cloned().map(Event::NodeGone);
    let came = found.iter().filter(|(name, node)| reported.get(*name) != Some(*node));
    gone.chain(came.map(|(_, node)| Event::Node(node.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_reported() {
        let node = |name: &str, cidr: &str| {
            let pod_cidrs = vec![cidr.parse().expect("a prefix")];
            (name.to_owned(), Node { name: name.to_owned(), addresses: Vec::new(), pod_cidrs })
        };
        let old = BTreeMap::from([node("a", "10.1.0.0/24"), node("b", "10.2.0.0/24"), node("c", "10.3.0.0/24")]);
        let new = BTreeMap::from([node("b", "10.2.0.0/24"), node("c", "10.4.0.0/24")]);
        let events = [Event::NodeGone("a".to_owned()), Event::Node(new["c"].clone())];
        assert_eq!(differ(&old, &new), events);
        assert_eq!(differ(&new, &new), []);
    }
}
