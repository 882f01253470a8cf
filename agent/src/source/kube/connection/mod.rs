//! Requests to the API server: clients (`client`), how many requests these may send (`limits`), when a watch
//! may begin again (`pace`), and why a list or a watch ended (`failure`).

pub(super) mod client;
pub(super) mod failure;
mod limits;
pub(super) mod pace;
