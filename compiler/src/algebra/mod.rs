//! Exact algebra: prefixes and ranges, what passes by protocol and port, and label
//! selectors. It knows no policy.

pub mod block_text;
pub mod cidr;
pub mod meant_block;
pub mod ranges;
pub mod selector;
pub mod short_text;
pub mod syntax;
pub mod traffic;
pub mod tunnel;
pub mod typo;
pub mod unforwarded;
