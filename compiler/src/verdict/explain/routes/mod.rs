//! Flows that do not go straight to their destinations, and those for which it matters by which node they
//! come. Each adds to a [`Walk`](super::walk::Walk) the flows of its kind.

mod daemon_set;
mod entry;
mod load_balancer;
mod node_address;
mod nodes;
mod other_nodes;
mod service;
