//! The node that a command is given by name.

use npc_agent::words::near;
use npc_compiler::cluster::Cluster;

use super::{Exit, Stop};

/// Refuses a name that nothing in the input bears: no Node has it, and no pod is
/// on one of that name. Whatever is said of such a node says nothing.
pub(super) fn is_known(cluster: &Cluster, node: &str) -> Result<(), Stop> {
    if cluster.nodes().contains_key(node) {
        return Ok(());
    }
    let names = || cluster.nodes().keys().map(String::as_str);
    let known = if cluster.nodes().is_empty() { "no node at all".to_owned() } else { near::listed(names()) };
    let meant = near::nearest(node, names()).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    Err(Stop::new(Exit::NotFound, format!("the input has no node {node:?}; it knows {known}{meant}")))
}
