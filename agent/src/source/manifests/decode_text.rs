//! The text of a file, from its bytes.

use std::sync::Arc;

use super::span::{Span, TextPosition};

/// How data begin that gzip wrote (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why the bytes of a file are no text.
pub(super) struct NotText {
    /// The first byte that is wrong.
    pub(super) span: Span,
    pub(super) message: String,
    /// What to do.
    pub(super) remedy: &'static str,
    /// They have the names of the fields by which objects are known, in another encoding.
    pub(super) names_types: bool,
}

/// Reads bytes as UTF-8.
///
/// # Errors
/// If they are something else.
pub(super) fn decode_text(bytes: Vec<u8>) -> Result<Arc<str>, NotText> {
    if bytes.starts_with(&GZIP) {
        let (span, message) = (behind(&[]), "compressed by gzip".to_owned());
        return Err(NotText { span, message, remedy: "gunzip -c FILE | npc … -f -", names_types: true });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let (valid, broken) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let byte = broken.first().copied().unwrap_or_default();
        // As UTF-16, a text has a null beside each of its letters.
        let letters: Vec<u8> = error.as_bytes().iter().copied().filter(|byte| *byte != 0).collect();
        NotText {
            span: behind(valid),
            message: format!("not UTF-8 text: the byte 0x{byte:02x}"),
            remedy: "save the file as UTF-8",
            names_types: ["apiVersion", "kind"]
                .iter()
                .any(|key| memchr::memmem::find(&letters, key.as_bytes()).is_some()),
        }
    })?;
    if let Some(at) = text.find('\0') {
        return Err(NotText {
            span: behind(&text.as_bytes()[..at]),
            message: "not UTF-8 text: a null byte, as UTF-16 has them".to_owned(),
            remedy: "save the file as UTF-8",
            names_types: ["apiVersion", "kind"].iter().any(|key| text.replace('\0', "").contains(key)),
        });
    }
    // Editors and shells that join files leave marks of byte order inside. The first one
    // has no column.
    let text = if text.starts_with('\u{feff}') { text['\u{feff}'.len_utf8()..].to_owned() } else { text };
    let text = if text.contains("\n\u{feff}") { text.replace("\n\u{feff}", "\n") } else { text };
    // This copies the text, so it comes before there are objects beside it.
    Ok(text.into())
}

/// The place just behind a text.
fn behind(text: &[u8]) -> Span {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let line = text.split(|byte| *byte == b'\n').count();
    let last = text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let at = TextPosition { line: number(line), column: number(String::from_utf8_lossy(last).chars().count() + 1) };
    Span { start: at, end: at }
}
