//! The documents of a text, which lines of three dashes separate.

/// Where the documents of a text begin. They are found once, because a text may have a fault in each of its items.
pub(super) struct Documents<'t> {
    text: &'t str,
    /// The line and the byte with which each begins, in this order.
    starts: Vec<(u32, usize)>,
}

impl<'t> Documents<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        let (mut starts, mut at) = (vec![(1, 0)], 0);
        for (number, line) in (1_u32..).zip(text.split_inclusive('\n')) {
            if line.starts_with("---") {
                starts.push((number, at));
            }
            at += line.len();
        }
        Self { text, starts }
    }

    /// The index of the document that a line is in.
    pub(super) fn index(&self, line: u32) -> usize {
        self.starts.partition_point(|(first, _)| *first <= line).saturating_sub(1)
    }

    /// The text of the document with this index.
    pub(super) fn text(&self, index: usize) -> &'t str {
        let at = |index: usize| self.starts.get(index).map_or(self.text.len(), |(_, at)| *at);
        &self.text[at(index)..at(index + 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_of_a_line_is_found() {
        let text = "a: 1\n---\nb: 2\nc: 3\n---\nd: 4\n";
        let documents = Documents::of(text);
        for (line, document) in
            [(1, "a: 1\n"), (3, "---\nb: 2\nc: 3\n"), (4, "---\nb: 2\nc: 3\n"), (6, "---\nd: 4\n"), (9, "---\nd: 4\n")]
        {
            assert_eq!(documents.text(documents.index(line)), document, "{line}");
        }
        let from_the_first_line = Documents::of("---\na: 1\n");
        assert_eq!(from_the_first_line.text(from_the_first_line.index(1)), "---\na: 1\n");
    }
}
