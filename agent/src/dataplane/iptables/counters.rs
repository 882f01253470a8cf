//! How many packets the kernel has denied, as it counts them in the chains in
//! which everything ends that is denied.

use npc_compiler::object::Family;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::ChainName;

use super::{Error, Iptables};

/// Why packets were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// The policies of an isolated endpoint deny them in this direction.
    Denied(Direction),
    /// They are TCP segments of no known connection.
    Stray,
    /// They come from a pod's interface with a source that is not the pod's.
    Spoofed,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 4] =
        [Self::Denied(Direction::Ingress), Self::Denied(Direction::Egress), Self::Stray, Self::Spoofed];

    /// The chain that counts them.
    #[must_use]
    pub fn chain(self) -> ChainName {
        match self {
            Self::Denied(direction) => ChainName::deny(direction),
            Self::Stray => ChainName::deny_stray(),
            Self::Spoofed => ChainName::spoof(),
        }
    }
}

/// A reading of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// The family of the packets.
    pub family: Family,
    /// Why they were dropped.
    pub reason: DropReason,
    /// How many, since the chain was written last.
    pub packets: u64,
}

/// Reads the counts of the network namespace of the calling thread. Nothing is
/// written, and the xtables lock is not taken.
#[derive(Debug)]
pub struct Counters {
    tables: Vec<Iptables>,
}

impl Counters {
    /// Will read the chains of these tables.
    pub(in super::super) fn of(tables: &[Iptables]) -> Self {
        Self { tables: tables.to_vec() }
    }

    /// What the kernel has counted. A chain that is not there has no count.
    ///
    /// # Errors
    /// If a table cannot be read.
    pub fn read(&self) -> Result<Vec<Count>, Error> {
        let chains = DropReason::ALL.map(DropReason::chain);
        let mut counts = Vec::new();
        for table in &self.tables {
            let packets = table.packets(&chains)?;
            let of = |reason: DropReason| {
                let packets = *packets.get(&reason.chain())?;
                Some(Count { family: table.family(), reason, packets })
            };
            counts.extend(DropReason::ALL.into_iter().filter_map(of));
        }
        Ok(counts)
    }
}
