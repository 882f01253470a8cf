//! Why sets could not be read or written, in words for the operator who has to act on it.

use std::fmt;
use std::io;
use std::time::Duration;

use npc_compiler::ruleset::node::SetName;
use rtnetlink::packet_core::DecodeError;

use crate::words::rounded::rounded;

/// Why sets could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write was refused. Those before it are in the kernel.
    #[error("the kernel refused `{write}`: {refusal}")]
    Refused {
        /// The write, as a command line of ipset(8).
        write: String,
        /// The set, if it has one of npc's names.
        set: Option<SetName>,
        /// What the kernel said.
        refusal: Refusal,
    },
    /// A question was refused.
    #[error("the kernel does not answer questions about sets: {0}")]
    List(Refusal),
    /// There is no ipset in this kernel.
    #[error("this kernel has no ipset (the module ip_set): {0}")]
    Absent(Refusal),
    /// A kernel from another time.
    #[error("this kernel speaks ipset's protocol versions {minimum} to {maximum}, and npc speaks 6 and 7")]
    Versions {
        /// The oldest that it speaks.
        minimum: u8,
        /// The newest.
        maximum: u8,
    },
    /// The socket failed.
    #[error("cannot {what} netfilter's netlink socket")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No answer came.
    #[error("the kernel's ipset has not answered for {}", rounded(*.0))]
    Silent(Duration),
    /// Requests or answers were lost, again and again.
    #[error(
        "the kernel had no room for a request about sets or its answer, or the sets changed while they were listed, \
         {0} times in a row"
    )]
    Interrupted(u32),
    /// An answer that npc cannot read.
    #[error("the kernel's answer about sets makes no sense")]
    Malformed(#[from] DecodeError),
}

/// Why the kernel said no: an error number of the system's, or above 4096 of
/// ipset's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal(pub i32);

impl Refusal {
    pub(super) const NO_SUCH_SET: Self = Self(2);
    pub(super) const INVALID: Self = Self(22);
    pub(super) const BUSY: Self = Self(4100);

    /// ipset's own words for it, and what it means for us where they do not
    /// say so.
    fn words(self) -> Option<(&'static str, &'static str)> {
        let words = match self.0 {
            1 => ("operation not permitted", "npc needs root, or CAP_NET_ADMIN"),
            2 => ("there is no set of that name", "another program removed the set"),
            17 => (
                "a set of that name exists and is not the same",
                "another program made a set of another type with one of npc's names; `npc cleanup` removes it",
            ),
            4097 => ("ipset protocol error", "the kernel does not understand the message"),
            4098 => ("set type not supported", "this kernel lacks the set type"),
            4099 => ("no more sets", "the kernel's limit, the parameter max_sets of ip_set, is reached"),
            4100 => ("the set is in use", "a rule of another program, or of the other backend, names the set"),
            4103 => ("it is there already, or is not there", ""),
            4104 => ("no such prefix length", "a set cannot hold the prefix of length 0"),
            4106 => ("not an address family that the set type takes", ""),
            4107 => ("the set has no timeouts", ""),
            4108 => ("the set is in use by another set", ""),
            4109 => ("an IPv4 address belongs there", ""),
            4110 => ("an IPv6 address belongs there", ""),
            4352 => ("the set is full", "it was made with a smaller limit; `npc cleanup` removes it"),
            4353 => ("an address of zeros cannot be a member", ""),
            4354 => ("no such protocol", ""),
            4355 => ("the protocol is missing", ""),
            4356 => ("this type takes no ranges", ""),
            4357 => ("the range is too large", ""),
            _ => return None,
        };
        Some(words)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            Some((words, "")) => f.write_str(words),
            Some((words, meaning)) => write!(f, "{words} ({meaning})"),
            None if self.0 >= 4096 => write!(f, "ipset's error {}", self.0),
            None => io::Error::from_raw_os_error(self.0).fmt(f),
        }
    }
}
