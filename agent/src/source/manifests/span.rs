//! A place and a stretch of a text.

/// A place in a text: line and column, both from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct TextPosition {
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

impl TextPosition {
    /// The beginning of a text.
    pub(super) const FIRST: Self = Self { line: 1, column: 1 };

    /// The place behind a character that stands here.
    pub(super) const fn behind(self, char: char) -> Self {
        if char == '\n' {
            Self { line: self.line.saturating_add(1), column: 1 }
        } else {
            Self { line: self.line, column: self.column.saturating_add(1) }
        }
    }

    /// This place of a text that itself begins at a place of another one.
    pub(super) const fn from(self, begin: Self) -> Self {
        let line = self.line.saturating_add(begin.line - 1);
        let column = if self.line == 1 { self.column.saturating_add(begin.column - 1) } else { self.column };
        Self { line, column }
    }
}

/// A stretch of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Span {
    /// Where it begins.
    pub start: TextPosition,
    /// Just behind its last character.
    pub end: TextPosition,
}
