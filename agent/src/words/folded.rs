//! Lines that say the same of several things: the first few are written out, the others counted.

use indexmap::IndexMap;

/// At most this many lines that say the same are written out.
const ALIKE: usize = 3;

/// Lines by what they say.
#[derive(Debug, Default)]
pub struct Folded(IndexMap<String, Vec<String>>);

impl Folded {
    /// Adds a line, and what it has in common with others.
    pub fn add(&mut self, what: &str, line: String) {
        self.0.entry(what.to_owned()).or_default().push(line);
    }

    /// The lines, those that say the same one after the other.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|(what, lines)| {
            // A line that counts one more could as well be that one.
            let listed = if lines.len() == ALIKE + 1 { lines.len() } else { ALIKE };
            let more = lines.len().checked_sub(listed).filter(|more| *more > 0);
            let more = more.map(|more| format!("npc: {more} more of: {what}"));
            lines.iter().take(listed).cloned().chain(more)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_say_the_same_are_folded_and_others_stay() {
        let mut folded = Folded::default();
        for number in 0..5 {
            folded.add("a", format!("a {number}"));
        }
        for number in 0..4 {
            folded.add("b", format!("b {number}"));
        }
        let lines: Vec<String> = folded.lines().collect();
        assert_eq!(lines, ["a 0", "a 1", "a 2", "npc: 2 more of: a", "b 0", "b 1", "b 2", "b 3"]);
    }
}
