//! Netlink messages: how every module that speaks netlink reads and writes them.
//!
//! ```text
//! datagram ─▶ messages ─▶ attribute    a length, a kind and a value each
//!                  └────▶ nflog        headers of denied packets, as the kernel reports them
//! fuzz_input  any bytes as messages
//! ```
//!
//! Imports nothing of the dataplane.

pub(super) mod attribute;
pub(super) mod datagram;
pub(super) mod fuzz_input;
pub mod nflog;
