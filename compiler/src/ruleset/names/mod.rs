//! The names of chains and sets, and the hashes and the secret that they are made from. A name of
//! ours is made from what it stands for and carries that as data, so nothing has to take its text
//! apart again. One that is read from a kernel gets its role once, where it is read.

/// A name is its text: what else it carries follows from that.
macro_rules! as_its_text {
    ($name:ty) => {
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.text == other.text
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.text.cmp(&other.text)
            }
        }

        impl std::hash::Hash for $name {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.text.hash(state);
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

mod chain;
pub mod hash;
pub mod seed;
mod set;

pub use chain::{CHAIN_PREFIX, ChainName, ChainRole, FORWARD_CHAIN};
pub use set::{SET_PREFIX_V4, SET_PREFIX_V6, SetName, SetRole};
