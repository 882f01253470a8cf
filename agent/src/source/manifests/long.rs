//! A `List` as kubectl prints it, read item by item: of 100,000 pods it is a text of a gigabyte.
//!
//! ```text
//! text ─▶ batches of whole items (one thread) ─▶ items ─▶ objects (a thread for each core)
//! ```
//!
//! Where an item begins and ends is known by its indentation, which kubectl never varies. Only the
//! text of items whose places npc can be asked for is kept. Anything else than such a list, and a
//! list in which anything is broken, is read again as every other text.

use std::io::{self, Read};
use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use memchr::{memchr_iter, memmem};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::kinds::{self, DocumentKind};
use super::parse::DocumentReader;
use super::parsed::{Parsed, ParsedObject};
use super::prune;
use super::span::{Span, TextPosition};
use super::tree::{self, TreeError, Value, YamlNode};

/// How many bytes are read at once.
const READ: usize = 4 << 20;

/// How many bytes of items a thread is given at once.
const BATCH: usize = 1 << 20;

/// How many bytes one item may have.
const LONGEST: usize = 64 << 20;

/// What precedes the items in YAML.
const YAML: &str = "apiVersion: v1\nitems:\n";

/// How many bytes may precede the first item and follow the last one.
const FRAME: usize = 4 << 10;

/// How the text is written, and where its items stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Each item is indented by so many spaces.
    Json(usize),
    /// Each item begins with a dash in the first column.
    Yaml,
}

/// Some whole items.
struct Batch {
    place: usize,
    text: String,
    /// The line in which it begins.
    line: u32,
    items: Vec<Range<usize>>,
}

/// Reads a list; none if the text is anything else, or is to be read as a whole because
/// something in it is broken.
pub(super) fn read(
    file: &Arc<str>,
    from: impl Read,
    default_namespace: &str,
    count: &AtomicUsize,
) -> io::Result<Option<Parsed>> {
    read_by(file, from, default_namespace, count, Sizes { read: READ, batch: BATCH })
}

/// How many bytes are taken at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) read: usize,
    pub(super) batch: usize,
}

/// The same in pieces of these sizes.
pub(super) fn read_by(
    file: &Arc<str>,
    from: impl Read,
    default_namespace: &str,
    count: &AtomicUsize,
    sizes: Sizes,
) -> io::Result<Option<Parsed>> {
    let mut text = TextReader { from, buffer: Vec::new(), is_at_end: false, sizes };
    let Some((form, first)) = text.form()? else { return Ok(None) };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let (send, batches) = sync_channel(cores);
    // If all threads have panicked, the last one takes the receiver with it, and sending fails.
    let (batches, is_broken) = (Arc::new(Mutex::new(batches)), AtomicBool::new(false));
    let work = |batches: Arc<Mutex<Receiver<Batch>>>| {
        let mut done = Vec::new();
        while let Some(batch) = next(&batches) {
            let place = batch.place;
            match read_batch(file, batch, form, default_namespace, count) {
                Some(parsed) => done.push((place, parsed)),
                None => is_broken.store(true, Ordering::Relaxed),
            }
        }
        done
    };
    let (split, mut parsed) = thread::scope(|scope| {
        let work = &work;
        let start = |_| {
            let batches = Arc::clone(&batches);
            scope.spawn(move || work(batches))
        };
        let workers: Vec<_> = (0..cores).map(start).collect();
        drop(batches);
        let split = text.split(form, first, &send, &is_broken);
        drop(send);
        let done = workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (split, done.collect::<Vec<_>>())
    });
    if !split? || is_broken.into_inner() {
        return Ok(None);
    }
    parsed.sort_by_key(|(place, _)| *place);
    let mut whole = Parsed::empty(Arc::clone(file));
    for (_, batch) in parsed {
        whole.append(batch);
    }
    Ok(Some(whole))
}

fn next(batches: &Mutex<Receiver<Batch>>) -> Option<Batch> {
    batches.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// A text that is being read.
struct TextReader<R> {
    from: R,
    buffer: Vec<u8>,
    is_at_end: bool,
    sizes: Sizes,
}

impl<R: Read> TextReader<R> {
    fn more(&mut self) -> io::Result<()> {
        let limit = u64::try_from(self.sizes.read).unwrap_or(u64::MAX);
        let read = self.from.by_ref().take(limit).read_to_end(&mut self.buffer)?;
        self.is_at_end = read < self.sizes.read;
        Ok(())
    }

    /// The form of the list, and where its first item begins.
    fn form(&mut self) -> io::Result<Option<(Form, usize)>> {
        while self.buffer.len() < FRAME && !self.is_at_end {
            self.more()?;
        }
        let head = String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(FRAME)]);
        if let Some(rest) = head.strip_prefix(YAML) {
            return Ok(rest.starts_with("- ").then_some((Form::Yaml, YAML.len())));
        }
        let Some((frame, rest)) = head.split_once("[\n") else { return Ok(None) };
        let bare: String = frame.split_whitespace().collect();
        let indent = rest.len() - rest.trim_start_matches(' ').len();
        let is_list = bare == r#"{"apiVersion":"v1","items":"# && rest[indent..].starts_with("{\n");
        Ok(is_list.then(|| (Form::Json(indent), frame.len() + "[\n".len())))
    }

    /// Sends all items on. Returns whether the text is a list to its end.
    fn split(
        &mut self,
        form: Form,
        first: usize,
        send: &SyncSender<Batch>,
        is_broken: &AtomicBool,
    ) -> io::Result<bool> {
        let frame = self.buffer[..first].to_vec();
        let end = match form {
            Form::Json(indent) => format!("\n{}}}", " ".repeat(indent)),
            Form::Yaml => "\n- ".to_owned(),
        };
        let end = memmem::Finder::new(end.as_bytes());
        let mut line = lines(&frame) + 1;
        let (mut start, mut at, mut place) = (first, first, 0);
        let mut items = Vec::new();
        loop {
            if is_broken.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let found = end.find(&self.buffer[at..]).map(|found| at + found);
            let item = match (form, found) {
                // The comma behind the item has to be there too.
                (Form::Json(_), Some(found)) if found + end.needle().len() + 2 <= self.buffer.len() => {
                    let end = found + end.needle().len();
                    match &self.buffer[end..end + 2] {
                        b",\n" => Some((at..end, end + 2)),
                        [b'\n', _] => Some((at..end, end + 1)),
                        _ => return Ok(false),
                    }
                }
                (Form::Yaml, Some(found)) => Some((at..found + 1, found + 1)),
                _ => None,
            };
            let Some((item, next)) = item else {
                if self.buffer.len() - at > LONGEST {
                    return Ok(false);
                }
                // Text that is no whole item yet is scanned again with more text behind it.
                if !items.is_empty() {
                    line = self.send(&mut items, start..at, line, &mut place, send);
                }
                self.buffer.drain(..at);
                (start, at) = (0, 0);
                if self.is_at_end {
                    return Ok(self.last(form, &frame, line, &mut place, send));
                }
                self.more()?;
                continue;
            };
            items.push(item.start - start..item.end - start);
            at = next;
            let is_last = form != Form::Yaml && self.buffer[next - 2] != b',';
            if is_last || at - start >= self.sizes.batch {
                line = self.send(&mut items, start..at, line, &mut place, send);
                start = at;
            }
            if is_last {
                self.buffer.drain(..at);
                while !self.is_at_end {
                    self.more()?;
                }
                return Ok(is_rest_of_list(form, &frame, &self.buffer));
            }
        }
    }

    /// Sends items on; the line behind them.
    fn send(
        &self,
        items: &mut Vec<Range<usize>>,
        bytes: Range<usize>,
        line: u32,
        place: &mut usize,
        send: &SyncSender<Batch>,
    ) -> u32 {
        let bytes = &self.buffer[bytes];
        // What is no text is no item, and then all is read as a whole, which says so.
        let text = String::from_utf8(bytes.to_vec()).unwrap_or_default();
        // It fails only if the threads have panicked, which is passed on when they are joined.
        let _ = send.send(Batch { place: *place, text, line, items: std::mem::take(items) });
        *place += 1;
        line + lines(bytes)
    }

    /// Sends the last item of YAML on, which ends where the list does.
    fn last(&self, form: Form, frame: &[u8], line: u32, place: &mut usize, send: &SyncSender<Batch>) -> bool {
        let Some(end) = outdented(&self.buffer).filter(|_| form == Form::Yaml) else { return false };
        self.send(&mut std::iter::once(0..end).collect(), 0..end, line, place, send);
        is_rest_of_list(form, frame, &self.buffer[end..])
    }
}

/// Where an item of YAML ends: at the first line that is not indented, but for its own first one.
fn outdented(item: &[u8]) -> Option<usize> {
    let mut lines = memchr_iter(b'\n', item).map(|end| end + 1);
    lines.find(|at| item.get(*at).is_some_and(|byte| !matches!(byte, b' ' | b'\n')))
}

/// Whether nothing but the end of a list follows its items.
fn is_rest_of_list(form: Form, frame: &[u8], rest: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "these fields have to be there, and may be anything")]
    struct List {
        #[serde(rename = "apiVersion")]
        api_version: String,
        items: [IgnoredAny; 0],
        kind: String,
        #[serde(default)]
        metadata: Option<IgnoredAny>,
    }
    if rest.len() > FRAME {
        return false;
    }
    match form {
        Form::Json(_) => {
            let text = [frame, rest].concat();
            serde_json::from_slice::<List>(&text).is_ok_and(|list| list.kind == "List")
        }
        Form::Yaml => {
            let Ok(rest) = str::from_utf8(rest) else { return false };
            let mut documents = Vec::new();
            tree::documents(rest, TextPosition::FIRST, |_| {}, &mut |document| documents.push(document));
            let [Ok(node)] = documents.as_slice() else { return false };
            let Value::Map(entries) = &node.value else { return false };
            entries.iter().all(|entry| matches!(&*entry.key, "kind" | "metadata"))
                && node.get("kind").and_then(YamlNode::text) == Some("List")
        }
    }
}

fn lines(bytes: &[u8]) -> u32 {
    u32::try_from(memchr_iter(b'\n', bytes).count()).unwrap_or(u32::MAX)
}

/// Reads the items of a batch; none where anything is broken.
fn read_batch(
    file: &Arc<str>,
    batch: Batch,
    form: Form,
    default_namespace: &str,
    count: &AtomicUsize,
) -> Option<Parsed> {
    let mut reader = DocumentReader::new(file, default_namespace, count);
    let (mut line, mut at) = (batch.line, 0);
    for item in batch.items {
        line += lines(&batch.text.as_bytes()[at..item.start]);
        at = item.start;
        let text = batch.text.get(item)?;
        if form == Form::Yaml && outdented(text.as_bytes()).is_some() {
            return None;
        }
        let (items, problems) = (reader.parsed.items.len(), reader.parsed.problems.len());
        let is_read = pruned(text, line, form).is_some_and(|node| {
            reader.item(node);
            reader.parsed.problems.len() == problems && reader.parsed.items.len() == items + 1
        });
        if !is_read {
            // It is of another kind, or something is said of it, and that needs places.
            reader.parsed.items.truncate(items);
            reader.parsed.problems.truncate(problems);
            reader.faults.clear();
            let mut is_broken = false;
            document(text, line, &mut |document| match document {
                Ok(node) => reader.item(node),
                Err(_) => is_broken = true,
            });
            if is_broken {
                return None;
            }
            if reader.parsed.items.len() > items || reader.parsed.problems.len() > problems {
                reader.parsed.parts.insert(line, text.into());
            }
        }
        if !reader.faults.is_empty() {
            return None;
        }
        for item in &mut reader.parsed.items[items..] {
            if item.unfinished.is_some() {
                return None;
            }
            forget_fields(item);
        }
    }
    Some(reader.parsed)
}

/// Forgets where the fields of a policy stand. Its text is kept, which takes a tenth of the memory.
fn forget_fields(item: &mut ParsedObject) {
    if item.object.kind == "NetworkPolicy" {
        item.node = Arc::new(YamlNode { span: item.node.span, value: Value::Map(Vec::new()) });
        item.is_in_parts = true;
    }
}

/// What is kept of an item whose kind has many, and whose fields have no places.
fn pruned(text: &str, line: u32, form: Form) -> Option<YamlNode> {
    let begin = TextPosition { line, column: 1 };
    let mut lines = text.lines();
    let (api_version, kind) = match form {
        Form::Json(_) => {
            lines.next()?;
            let mut field = |key: &str| {
                let value = lines.next()?.trim().strip_prefix(key)?.strip_suffix("\",")?;
                (!value.contains(['"', '\\'])).then_some(value)
            };
            (field("\"apiVersion\": \"")?, field("\"kind\": \"")?)
        }
        Form::Yaml => (lines.next()?.strip_prefix("- apiVersion: ")?, lines.next()?.strip_prefix("  kind: ")?),
    };
    let kind = DocumentKind::of(api_version, kind);
    if !matches!(kind, DocumentKind::Pod | DocumentKind::Namespace | DocumentKind::Node) {
        return None;
    }
    match form {
        Form::Json(indent) => {
            let start = TextPosition { line, column: column(indent) };
            let end = TextPosition { line: line + self::lines(text.as_bytes()), column: start.column + 1 };
            prune::json(text, Span { start, end }, kind.keep())
        }
        Form::Yaml => {
            let kept = prune::yaml(&format!("  {}", &text[2..]), 2, kind.keep())?;
            let mut found = Vec::new();
            tree::documents(&kept, begin, kinds::trim_early, &mut |document| found.push(document));
            let [found] = <[_; 1]>::try_from(found).ok()?;
            let mut node = found.ok()?;
            node.span.end = TextPosition { line: line + self::lines(text.as_bytes()), column: 1 };
            Some(node)
        }
    }
}

fn column(indent: usize) -> u32 {
    u32::try_from(indent + 1).unwrap_or(u32::MAX)
}

/// Reads an item whose text begins in this line of its file.
pub(super) fn document(item: &str, line: u32, each: &mut dyn FnMut(Result<YamlNode, TreeError>)) {
    if let Some(rest) = item.strip_prefix("- ") {
        // So its columns are those of the file.
        tree::documents(&format!("  {rest}"), TextPosition { line, column: 1 }, kinds::trim_early, each);
    } else {
        let text = item.trim_start_matches(' ');
        let begin = TextPosition { line, column: column(item.len() - text.len()) };
        tree::documents(text, begin, kinds::trim_early, each);
    }
}
