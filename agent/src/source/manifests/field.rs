//! Where a field stands in the tree of a document.

use super::span::Span;
use super::tree::{Value, YamlNode};

/// Follows a path as far as it leads; the span of what it led to, and whether
/// that was all of it.
pub(super) fn span_of(root: &YamlNode, path: &str) -> (Span, bool) {
    let found = find(root, path);
    (found.span, found.exact)
}

/// Where the text stands that a field shares with other places of its document, if it does: the value
/// of a YAML anchor, which aliases or merge keys (`<<`) use too. A change of that text would change all
/// of them.
pub(super) fn shared_text_of(root: &YamlNode, path: &str) -> Option<Span> {
    find(root, path).shared
}

/// What a path led to.
struct FieldAt {
    span: Span,
    exact: bool,
    shared: Option<Span>,
}

fn find(root: &YamlNode, path: &str) -> FieldAt {
    let (mut node, mut span, mut rest, mut shared) = (root, root.span, path, None);
    loop {
        if let Value::Shared(_) = node.value {
            shared = shared.or(Some(node.resolved().span));
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return FieldAt { span, exact: true, shared };
        }
        let whole = node.resolved().span;
        let step = match &node.resolved().value {
            Value::Map(entries) => (entries.iter())
                .filter_map(|entry| Some((entry, after_key(rest, &entry.key)?)))
                // Keys may hold dots (`app.kubernetes.io/name`): the longest that fits.
                .max_by_key(|(entry, _)| entry.key.len())
                .map(|(entry, rest)| {
                    // A merge key takes over what stands elsewhere.
                    let is_merged = entry.at.start < whole.start || whole.end < entry.at.end;
                    shared = shared.or(is_merged.then_some(entry.at));
                    (&entry.node, Span { start: entry.at.start, end: entry.node.span.end.max(entry.at.end) }, rest)
                }),
            Value::List(items) => index(rest).and_then(|(at, rest)| items.get(at).map(|item| (item, item.span, rest))),
            Value::Scalar { .. } | Value::Shared(_) => None,
        };
        match step {
            Some((next, at, left)) => (node, span, rest) = (next, at, left),
            None => return FieldAt { span, exact: false, shared },
        }
    }
}

/// What follows a key in a path, if the path begins with that whole key.
fn after_key<'a>(path: &'a str, key: &str) -> Option<&'a str> {
    path.strip_prefix(key).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Splits `[3].rest` into 3 and `.rest`.
fn index(path: &str) -> Option<(usize, &str)> {
    let (digits, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((digits.parse().ok()?, rest))
}
