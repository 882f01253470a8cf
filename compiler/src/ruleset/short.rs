//! Short text without an allocation. A state holds hundreds of thousands of
//! names, and a plan one for each write.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// Text of at most so many bytes, none of them zero; so zeros behind it
/// change no order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short<const MAX: usize> {
    bytes: [u8; MAX],
    len: u8,
}

impl<const MAX: usize> Short<MAX> {
    /// These texts after one another, if they fit.
    pub(crate) fn of(parts: &[&str]) -> Option<Self> {
        let mut bytes = [0; MAX];
        let mut len = 0;
        for part in parts {
            bytes.get_mut(len..len + part.len())?.copy_from_slice(part.as_bytes());
            len += part.len();
        }
        let is_whole = !bytes[..len].contains(&0);
        Some(Self { bytes, len: u8::try_from(len).ok()? }).filter(|_| is_whole)
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl<const MAX: usize> PartialOrd for Short<MAX> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<const MAX: usize> Ord for Short<MAX> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

/// As the text, because a chain is looked up by it.
impl<const MAX: usize> Hash for Short<MAX> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl<const MAX: usize> fmt::Debug for Short<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_text() {
        let texts = ["", "a", "a-", "a0", "ab", "b"];
        let short = |text: &str| Short::<2>::of(&[text]).expect("it fits");
        assert!(texts.windows(2).all(|pair| short(pair[0]) < short(pair[1])));
        assert!(texts.iter().all(|text| short(text).as_str() == *text));
    }

    #[test]
    fn what_does_not_fit_is_nothing() {
        assert_eq!(Short::<3>::of(&["ab", "cd"]), None);
        assert_eq!(Short::<3>::of(&["a\0"]), None);
        assert_eq!(Short::<3>::of(&["ab", "c"]).as_ref().map(Short::as_str), Some("abc"));
    }
}
