//! A node's secret, which decides where groups stand in the dispatch tree.
//!
//! A packet passes the groups of one list of the tree in order. Where a group stands followed
//! from its name alone once, so policies could be named such that their groups share the list
//! of another tenant's group, and each first packet of that tenant passed them all. With the
//! secret no tenant knows which groups share a list. Names of groups do not depend on it.
//!
//! The secret is kept in the name of an empty set of ours, which no packet meets and only root
//! of the node reads. So an agent that starts finds the layout of the last one, and an older
//! agent removes the set like any that it does not know.

use std::fmt;
use std::str::FromStr;

use crate::ruleset::names::hash::{FieldHasher, Hash};

/// How many letters and digits it has: 80 bits, as many as a name has of a hash.
const LENGTH: usize = 16;

/// How many of its own the names of a tree have, so that trees of two secrets, or of none, are
/// filled and asked beside each other.
const TAG: usize = 4;

/// The secret of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed([u8; LENGTH]);

/// Why a text is no seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a seed has {LENGTH} characters from a to z and 2 to 7")]
pub struct NotASeed;

impl Seed {
    /// The seed that these bytes make, which should be random.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut fields = FieldHasher::of("seed");
        fields.add(bytes);
        let mut seed = [0; LENGTH];
        seed.copy_from_slice(fields.finish().short().as_bytes());
        Self(seed)
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// What a group with this identity has in its place to decide where it stands.
    pub(crate) fn place(&self, identity: &Hash) -> Hash {
        let mut fields = FieldHasher::of("place");
        fields.add(self.0);
        fields.add(identity.bytes());
        fields.finish()
    }

    /// What distinguishes the names of this seed's tree. It is a hash, so it shows nothing of
    /// the seed.
    pub(crate) fn tag(&self) -> String {
        let mut fields = FieldHasher::of("tag");
        fields.add(self.0);
        let mut tag = fields.finish().short();
        tag.truncate(TAG);
        tag.push('-');
        tag
    }
}

impl FromStr for Seed {
    type Err = NotASeed;

    fn from_str(text: &str) -> Result<Self, NotASeed> {
        let seed: [u8; LENGTH] = text.as_bytes().try_into().map_err(|_| NotASeed)?;
        let is_spelt = seed.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
        if is_spelt { Ok(Self(seed)) } else { Err(NotASeed) }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Secret, also in a log.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_read_as_it_is_written_and_nothing_else_is_one() {
        let seed = Seed::from_bytes([7; 32]);
        assert_eq!(seed.as_str().parse(), Ok(seed));
        assert_ne!(seed, Seed::from_bytes([8; 32]));
        for text in
            ["", "abcdefghijklmno", "abcdefghijklmnopq", "abcdefghijklmno1", "ABCDEFGHIJKLMNOP", "abcdefghijklmn\u{e9}"]
        {
            assert_eq!(text.parse::<Seed>(), Err(NotASeed), "{text}");
        }
        assert!(!format!("{seed:?}").contains(seed.as_str()) && !seed.as_str().contains(&seed.tag()[..TAG]));
    }
}
