//! Flows that do not go straight to their destinations, and those for which it matters by which node they
//! come. Each adds to a [`Walk`](super::walk::Walk) the flows of its kind.

mod address;
mod daemon_set;
mod entry;
mod host_port;
mod load_balancer;
mod many_leads;
mod node_address;
mod nodes;
mod open_port;
mod other_nodes;
mod prefix;
mod service;
