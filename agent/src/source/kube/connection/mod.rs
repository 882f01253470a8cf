//! Requests to the API server: which cluster to ask (`kubeconfig`), clients (`client`), by which proxy (`proxy`), how many
//! requests these may send (`limits`), when a watch may begin again (`pace`), and why a list or a watch ended (`failure`).

pub(super) mod client;
pub(super) mod failure;
pub(super) mod kubeconfig;
mod limits;
pub(super) mod pace;
mod proxy;
