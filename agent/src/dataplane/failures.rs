//! What did not work, by family. The families are independent of each other: a
//! table that cannot be read or written in one does not keep the other from
//! being enforced.

use std::collections::BTreeMap;
use std::fmt;

use npc_compiler::object::Family;

use super::Error;

/// The families in which something failed, and what failed first in each.
/// Nothing more is written to a family once it is here.
#[derive(Debug, Default)]
pub struct Failures(BTreeMap<Family, Error>);

impl Failures {
    /// Whether every family is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something failed in a family.
    #[must_use]
    pub fn contains(&self, family: Family) -> bool {
        self.0.contains_key(&family)
    }

    /// Notes a failure. Only the first of a family counts: what follows is most
    /// often its consequence.
    pub fn add(&mut self, family: Family, error: Error) {
        self.0.entry(family).or_insert(error);
    }

    /// What an answer holds, if it is one; otherwise its error is noted.
    pub fn take<T>(&mut self, family: Family, answer: Result<T, impl Into<Error>>) -> Option<T> {
        answer.map_err(|error| self.add(family, error.into())).ok()
    }

    /// Whether something failed in both.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        Family::ALL.into_iter().all(|family| self.contains(family))
    }

    /// The families in which something failed.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.0.keys().copied()
    }

    /// The failures themselves.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &Error)> {
        self.0.iter().map(|(family, error)| (*family, error))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Error> {
        self.0.values_mut()
    }

    /// The first of them, where it makes no difference in which family.
    ///
    /// # Errors
    /// If there is one.
    pub(crate) fn into_first(self) -> Result<(), Error> {
        self.0.into_values().next().map_or(Ok(()), Err)
    }

    /// All of them as one error.
    ///
    /// # Errors
    /// If there is one.
    pub fn into_result(self) -> Result<(), Error> {
        if self.is_empty() { Ok(()) } else { Err(Error::Families(self)) }
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (family, error)) in self.iter().enumerate() {
            let words = crate::words::causes::with_causes(error);
            write!(f, "{}{family}: {words}", if n > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dataplane::ipset;

    fn silent(seconds: u64) -> Error {
        ipset::Error::Silent(Duration::from_secs(seconds)).into()
    }

    #[test]
    fn the_first_failure_of_a_family_counts_and_names_the_family() {
        let mut failed = Failures::default();
        assert_eq!(failed.take(Family::V4, Err::<(), _>(silent(1))), None);
        assert_eq!(failed.take(Family::V4, Err::<(), _>(silent(2))), None);
        assert_eq!(failed.take(Family::V6, Ok::<_, Error>(7)), Some(7));
        assert!(failed.contains(Family::V4) && !failed.contains(Family::V6));
        let words = failed.into_result().expect_err("one failed").to_string();
        assert!(words.starts_with("IPv4: ") && words.contains("for 1 s") && !words.contains("IPv6"), "{words}");
        assert!(Failures::default().into_result().is_ok());
    }
}
