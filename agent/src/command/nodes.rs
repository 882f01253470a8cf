//! The node that a command is given by name.

use npc_agent::words::near;
use npc_compiler::cluster::Cluster;

use super::{Exit, Stop};

/// Refuses a node name that the input does not have: no Node has it, and no pod is on a node of
/// that name. An answer about such a node would mean nothing.
pub(super) fn is_known(cluster: &Cluster, node: &str) -> Result<(), Stop> {
    if cluster.nodes().contains_key(node) {
        return Ok(());
    }
    let names = || cluster.nodes().keys().map(String::as_str);
    let known = if cluster.nodes().is_empty() { "no node at all".to_owned() } else { near::listed(names()) };
    let meant = near::nearest(node, names()).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    Err(Stop::new(Exit::NotFound, format!("the input has no node {node:?}; it knows {known}{meant}")))
}
