//! The names of pods, one behind the other. An allocation for each would cost
//! as much again as most names do.

use rustc_hash::FxHashMap;

/// Where a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NameId(u32);

/// The names. Before each stands its length: one byte, or for a long one 255
/// and then four.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    /// Places that were given back, by the length of the names that they had,
    /// to be used by others of that length.
    free: FxHashMap<usize, Vec<NameId>>,
}

const LONG: u8 = u8::MAX;

impl Names {
    /// Keeps a name, until it is released.
    pub(super) fn keep(&mut self, text: &str) -> NameId {
        if let Some(name) = self.free.get_mut(&text.len()).and_then(Vec::pop) {
            let (start, end) = self.place(name);
            self.bytes[start..end].copy_from_slice(text.as_bytes());
            return name;
        }
        let name = u32::try_from(self.bytes.len()).unwrap_or_else(|_| unreachable!("4 GB of names"));
        match u8::try_from(text.len()) {
            Ok(length) if length != LONG => self.bytes.push(length),
            _ => {
                let length = u32::try_from(text.len()).unwrap_or_else(|_| unreachable!("a name of 4 GB"));
                self.bytes.push(LONG);
                self.bytes.extend(length.to_le_bytes());
            }
        }
        self.bytes.extend(text.as_bytes());
        NameId(name)
    }

    /// Gives a name's place back.
    pub(super) fn release(&mut self, name: NameId) {
        let (start, end) = self.place(name);
        self.free.entry(end - start).or_default().push(name);
    }

    /// The name.
    pub(super) fn text(&self, name: NameId) -> &str {
        let (start, end) = self.place(name);
        std::str::from_utf8(&self.bytes[start..end]).unwrap_or_default()
    }

    /// Where the text of a name begins and ends.
    fn place(&self, name: NameId) -> (usize, usize) {
        let at = name.0 as usize;
        match self.bytes[at] {
            LONG => {
                let mut length = [0; 4];
                length.copy_from_slice(&self.bytes[at + 1..at + 5]);
                (at + 5, at + 5 + u32::from_le_bytes(length) as usize)
            }
            length => (at + 1, at + 1 + usize::from(length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_are_kept_and_their_places_used_again() {
        let mut names = Names::default();
        let texts: Vec<String> = [0, 1, 254, 255, 256, 70_000].iter().map(|length| "x".repeat(*length)).collect();
        let kept: Vec<NameId> = texts.iter().map(|text| names.keep(text)).collect();
        for (name, text) in kept.iter().zip(&texts) {
            assert_eq!(names.text(*name), text);
        }
        let size = names.bytes.len();
        for (name, text) in kept.into_iter().zip(&texts) {
            names.release(name);
            let other = text.replace('x', "y");
            let name = names.keep(&other);
            assert_eq!(names.text(name), other);
        }
        assert_eq!(names.bytes.len(), size);
    }
}
