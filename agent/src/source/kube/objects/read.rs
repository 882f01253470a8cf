//! Answers of the API server, read piece by piece: a list by its items, a watch by its
//! lines.
//!
//! kube reads a page as a whole, and 500 objects of a megabyte are more than an agent may
//! take. Here one object is in memory at a time, and not more than [`OBJECT_BYTES`] of it.

use std::io;
use std::pin::Pin;

use futures::{AsyncBufRead, AsyncBufReadExt as _};
use serde::Deserialize;

/// How many bytes of one object are read; what is longer is not understood. The API server
/// takes 3 MiB of a request, and etcd takes 1.5 MiB by default. Its JSON writes a byte
/// such as `<` as six, and an empty selector of three or four bytes as up to 25.
pub(in super::super) const OBJECT_BYTES: usize = 24 << 20;

/// How many bytes a list may have beside its items.
const ENVELOPE_BYTES: usize = 64 << 10;

/// The body of an answer.
pub(in super::super) type Body = Pin<Box<dyn AsyncBufRead + Send>>;

/// Whether a piece is all there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Piece {
    /// All of it was kept.
    Whole,
    /// What is beyond [`OBJECT_BYTES`] was passed over.
    Cut,
}

/// Bytes that are kept up to a bound.
#[derive(Debug, Default)]
pub(in super::super) struct Buffer {
    bytes: Vec<u8>,
    is_cut: bool,
    /// A line has begun and not ended.
    is_open: bool,
}

impl Buffer {
    pub(in super::super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets what was read; another answer begins.
    pub(in super::super) fn clear(&mut self) {
        self.bytes.clear();
        (self.is_cut, self.is_open) = (false, false);
        // One large object does not cost its size for ever.
        self.bytes.shrink_to(64 << 10);
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = OBJECT_BYTES.saturating_sub(self.bytes.len());
        self.is_cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn piece(&self) -> Piece {
        if self.is_cut { Piece::Cut } else { Piece::Whole }
    }
}

/// Reads the next line that is not empty; none at the end. A last line without its end
/// was broken off, and is none.
///
/// Safe to cancel: what was read of a line is in the buffer, and the next call goes on.
pub(in super::super) async fn line(body: &mut Body, line: &mut Buffer) -> io::Result<Option<Piece>> {
    if !std::mem::replace(&mut line.is_open, true) {
        line.clear();
        line.is_open = true;
    }
    loop {
        let chunk = body.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(None);
        }
        let end = memchr::memchr(b'\n', chunk);
        line.push(&chunk[..end.unwrap_or(chunk.len())]);
        let taken = end.map_or(chunk.len(), |end| end + 1);
        body.consume_unpin(taken);
        if end.is_some() {
            if line.bytes.iter().all(u8::is_ascii_whitespace) {
                line.clear();
                line.is_open = true;
                continue;
            }
            line.is_open = false;
            return Ok(Some(line.piece()));
        }
    }
}

/// What a list says beside its items.
#[derive(Debug, Default, Deserialize)]
pub(in super::super) struct Envelope {
    #[serde(default)]
    pub(in super::super) metadata: ListMetadata,
}

/// The metadata of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in super::super) struct ListMetadata {
    pub(in super::super) resource_version: Option<String>,
    pub(in super::super) r#continue: Option<String>,
}

/// The items of a list, one by one.
///
/// It follows strings and brackets and understands nothing else of JSON; what stands in an
/// item is read from its bytes.
pub(in super::super) struct Items {
    body: Body,
    scan: Scan,
}

/// Where in the text of a list the reader stands.
#[derive(Debug, Default)]
struct Scan {
    place: ScanState,
    /// How many brackets are open: in an item, of the item.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// The last string of the list itself, up to some bytes.
    string: Vec<u8>,
    /// The value that comes is that of the key `items`.
    is_items: bool,
    /// What is no item.
    envelope: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ScanState {
    #[default]
    Envelope,
    BetweenItems,
    Item,
    End,
}

/// What a byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteClass {
    Envelope,
    Nothing,
    Item,
}

impl Items {
    pub(in super::super) fn new(body: Body) -> Self {
        Self { body, scan: Scan::default() }
    }

    /// Reads the next item; none after the last.
    ///
    /// # Errors
    /// If the answer breaks off, or is no list.
    pub(in super::super) async fn next(&mut self, item: &mut Buffer) -> io::Result<Option<Piece>> {
        item.clear();
        while self.scan.place != ScanState::End {
            let chunk = self.body.fill_buf().await?;
            if chunk.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (taken, is_item) = self.scan.take(chunk, item)?;
            self.body.consume_unpin(taken);
            if is_item {
                return Ok(Some(item.piece()));
            }
        }
        Ok(None)
    }

    /// What the list says beside its items, once there is no next one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(in super::super) fn envelope(&self) -> serde_json::Result<Envelope> {
        serde_json::from_slice(&self.scan.envelope)
    }
}

fn no_list(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

impl Scan {
    /// Takes bytes up to the end of an item at most. Returns how many, and whether an item is
    /// complete.
    fn take(&mut self, chunk: &[u8], item: &mut Buffer) -> io::Result<(usize, bool)> {
        let mut at = 0;
        while at < chunk.len() && self.place != ScanState::End {
            let begin = at;
            let was = self.place;
            let part = self.step(chunk[at])?;
            at += 1;
            if self.in_string && !self.is_escaped && part == ByteClass::Item {
                // Most bytes are in strings.
                let rest = &chunk[at..];
                at += rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(rest.len());
            }
            let bytes = &chunk[begin..at];
            match part {
                ByteClass::Item => item.push(bytes),
                ByteClass::Nothing => {}
                ByteClass::Envelope if self.envelope.len() + bytes.len() > ENVELOPE_BYTES => {
                    return Err(no_list("the list has too much beside its items"));
                }
                ByteClass::Envelope => self.envelope.extend_from_slice(bytes),
            }
            if was == ScanState::Item && self.place == ScanState::BetweenItems {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// Takes one byte.
    fn step(&mut self, byte: u8) -> io::Result<ByteClass> {
        let part = if self.place == ScanState::Item { ByteClass::Item } else { ByteClass::Envelope };
        if self.in_string {
            let was_escaped = self.is_escaped;
            self.is_escaped = byte == b'\\' && !was_escaped;
            self.in_string = byte != b'"' || was_escaped;
            if self.in_string && part == ByteClass::Envelope && self.string.len() < 16 {
                self.string.push(byte);
            }
            return Ok(part);
        }
        if self.place == ScanState::BetweenItems {
            match byte {
                b'{' => (self.place, self.depth) = (ScanState::Item, 1),
                b']' => self.place = ScanState::Envelope,
                b',' => return Ok(ByteClass::Nothing),
                _ if byte.is_ascii_whitespace() => return Ok(ByteClass::Nothing),
                _ => return Err(no_list("an item of the list is no object")),
            }
            if self.place == ScanState::Envelope {
                self.depth = 1;
                return Ok(ByteClass::Envelope);
            }
            return Ok(ByteClass::Item);
        }
        let is_list = part == ByteClass::Envelope;
        if self.depth == 0 && byte != b'{' && !byte.is_ascii_whitespace() {
            return Err(no_list("the answer is no JSON object"));
        }
        match byte {
            b'"' => {
                self.in_string = true;
                self.string.clear();
            }
            b'[' if is_list && self.depth == 1 && self.is_items => self.place = ScanState::BetweenItems,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.checked_sub(1).ok_or_else(|| no_list("the answer is no JSON"))?;
                if self.depth == 0 {
                    self.place = if is_list { ScanState::End } else { ScanState::BetweenItems };
                }
            }
            b':' if is_list && self.depth == 1 => self.is_items = self.string == b"items",
            b',' if is_list && self.depth == 1 => self.is_items = false,
            _ => {}
        }
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// A body that comes in pieces of so many bytes.
    fn body(text: &[u8], piece: usize) -> Body {
        let pieces: Vec<io::Result<Vec<u8>>> = text.chunks(piece).map(|chunk| Ok(chunk.to_vec())).collect();
        Box::pin(futures::TryStreamExt::into_async_read(futures::stream::iter(pieces)))
    }

    async fn items(text: &[u8], piece: usize) -> io::Result<(Vec<Value>, Envelope)> {
        let mut items = Items::new(body(text, piece));
        let (mut item, mut found) = (Buffer::default(), Vec::new());
        while items.next(&mut item).await?.is_some() {
            found.push(serde_json::from_slice(item.bytes()).expect("an item is JSON"));
        }
        Ok((found, items.envelope()?))
    }

    proptest! {
        #[test]
        fn items_are_those_that_a_json_reader_finds(
            texts in prop::collection::vec(r#"[a-z"\\{}\[\]:,é\n]{0,12}"#, 0..6),
            piece in 1_usize..40,
            metadata_first: bool,
            is_pretty: bool,
        ) {
            let wanted: Vec<Value> = texts.iter().map(|text| json!({text: [text, {"items": [text]}], "n": null})).collect();
            let metadata = json!({"resourceVersion": "7", "continue": "items", "odd": texts});
            let (a, b) = (format!("\"metadata\":{metadata}"), format!("\"items\":{}", Value::from(wanted.clone())));
            let text = if metadata_first { format!("{{{a},{b}}}") } else { format!("{{{b},{a}}}") };
            let text = if is_pretty {
                let value: Value = serde_json::from_str(&text).expect("JSON");
                serde_json::to_string_pretty(&value).expect("JSON")
            } else {
                text
            };
            let (found, envelope) = futures::executor::block_on(items(text.as_bytes(), piece)).expect("a list");
            prop_assert_eq!(found, wanted);
            prop_assert_eq!(envelope.metadata.resource_version.as_deref(), Some("7"));
            prop_assert_eq!(envelope.metadata.r#continue.as_deref(), Some("items"));
            // However it breaks off, it is no list.
            for end in 0..text.len().saturating_sub(1) {
                prop_assert!(futures::executor::block_on(items(&text.as_bytes()[..end], piece)).is_err());
            }
        }
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        for text in ["", "<html></html>", "[]", "{", "{\"items\":[7]}", "{\"items\":[{}}", "}"] {
            assert!(futures::executor::block_on(items(text.as_bytes(), 3)).is_err(), "{text}");
        }
        let many = format!("{{\"odd\":\"{}\"}}", "x".repeat(ENVELOPE_BYTES));
        assert!(futures::executor::block_on(items(many.as_bytes(), 4096)).is_err());
        for empty in ["{\"items\":null}", "{\"metadata\":{}}", "{\"items\":[ ]}"] {
            assert_eq!(futures::executor::block_on(items(empty.as_bytes(), 3)).expect("a list").0.len(), 0, "{empty}");
        }
    }

    #[test]
    fn of_a_long_object_only_the_beginning_is_kept() {
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(OBJECT_BYTES));
        let text = format!("{{\"items\":[{long},{{}}]}}");
        let mut items = Items::new(body(text.as_bytes(), 1 << 16));
        let mut item = Buffer::default();
        let mut next = || {
            futures::executor::block_on(async { items.next(&mut item).await.map(|piece| (piece, item.bytes().len())) })
        };
        assert_eq!(next().expect("an item"), (Some(Piece::Cut), OBJECT_BYTES));
        assert_eq!(next().expect("an item"), (Some(Piece::Whole), 2));
        let text = format!("{long}\n\nshort\nbroken");
        let mut from = body(text.as_bytes(), 1 << 16);
        let mut next = || {
            futures::executor::block_on(async {
                line(&mut from, &mut item).await.map(|piece| (piece, item.bytes().len()))
            })
        };
        assert_eq!(next().expect("a line"), (Some(Piece::Cut), OBJECT_BYTES));
        assert_eq!(next().expect("a line"), (Some(Piece::Whole), 5));
        assert_eq!(next().expect("the end").0, None);
    }
}
