//! The programs that speak to the packet filters: which there are (`backend`), and how one is started
//! and ended (`process`, the only place that starts any).

pub mod backend;
pub(super) mod process;
