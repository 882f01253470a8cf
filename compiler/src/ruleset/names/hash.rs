//! Hashes of all that defines a set, a chain or a group, with every field's length before it, so
//! that names of different things cannot collide.

use sha2::{Digest, Sha256};

/// Hashes the fields of a definition.
#[derive(Debug, Default)]
pub struct FieldHasher(Sha256);

impl FieldHasher {
    /// A hasher whose first field is the kind of the object that is hashed.
    #[must_use]
    pub fn of(kind: &str) -> Self {
        let mut fields = Self::default();
        fields.add(kind);
        fields
    }

    /// Adds a field. Its length goes before it, so that two fields never run
    /// together into what other fields would make.
    pub fn add(&mut self, field: impl AsRef<[u8]>) {
        let field = field.as_ref();
        self.0.update((field.len() as u64).to_le_bytes());
        self.0.update(field);
    }

    /// Adds the number of fields that follow.
    pub fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_le_bytes());
    }

    /// The hash.
    #[must_use]
    pub fn finish(self) -> Hash {
        Hash(self.0.finalize().into())
    }
}

/// The hash of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Its first 80 bits as 16 lower-case letters and digits (the alphabet of
    /// RFC 4648 base 32): short enough for the kernel, long enough that no
    /// attacker finds two objects with one name.
    #[must_use]
    pub fn short(&self) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut bits = 0_u128;
        for byte in &self.0[..10] {
            bits = bits << 8 | u128::from(*byte);
        }
        (0..16).rev().map(|i| char::from(ALPHABET[(bits >> (5 * i) & 31) as usize])).collect()
    }

    /// All of it, as a field of another.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bit at a place, the most significant one first.
    #[must_use]
    pub fn bit(&self, place: usize) -> bool {
        self.0[place / 8] >> (7 - place % 8) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(fields: &[&str]) -> String {
        let mut all = FieldHasher::of("test");
        for field in fields {
            all.add(field);
        }
        all.finish().short()
    }

    #[test]
    fn fields_do_not_run_together() {
        assert_ne!(name(&["team", "ab"]), name(&["teama", "b"]));
        assert_ne!(name(&["a", ""]), name(&["", "a"]));
        assert_eq!(name(&["team", "ab"]).len(), 16);
    }
}
