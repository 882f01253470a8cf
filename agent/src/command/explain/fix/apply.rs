//! The commands that apply the changes of an answer to a cluster.

use std::io::{self, Write};

use npc_compiler::verdict::fix::{Change, Edit, Fix};
use serde_json::Value;

/// Writes the commands in the order in which they are to be run. There are none where a change closes
/// something, because nobody should apply it unseen, and where a name is none that a cluster has.
pub(super) fn write<'f>(fixes: impl Iterator<Item = &'f Fix>, out: &mut impl Write) -> io::Result<()> {
    let mut lines = Vec::new();
    for fix in fixes {
        if !fix.closes.is_empty() {
            return Ok(());
        }
        for change in &fix.changes {
            let Some(line) = line(change) else { return Ok(()) };
            lines.push(line);
        }
    }
    match lines.as_slice() {
        [] => Ok(()),
        [one] => writeln!(out, "\nto apply the change: {one}"),
        more => {
            writeln!(out, "\nto apply the changes, in this order:")?;
            more.iter().try_for_each(|line| writeln!(out, "  {line}"))
        }
    }
}

/// The command of one change; what to do with a new object.
fn line(change: &Change) -> Option<String> {
    match &change.edit {
        Edit::NewPolicy(_) => {
            Some(format!("save policy {} above to a file, and kubectl apply -f FILE", safe(&change.object.name)?))
        }
        Edit::MovedPolicy(..) => {
            let namespace = safe(change.object.namespace.as_deref()?)?;
            Some(format!(
                "save policy {} with namespace {namespace}, and kubectl apply -f FILE",
                safe(&change.object.name)?
            ))
        }
        Edit::Policy(_) | Edit::Labels(..) => command(change),
    }
}

/// The `kubectl patch` of a change; none of a new object, or if a name is none that a cluster has.
pub(super) fn command(change: &Change) -> Option<String> {
    let patch: Value = serde_json::to_value(change.patch()?).ok()?;
    let namespace = match &change.object.namespace {
        Some(namespace) => format!("-n {} ", safe(namespace)?),
        None => String::new(),
    };
    let (kind, name) = (safe(&change.object.kind)?.to_lowercase(), safe(&change.object.name)?);
    // Text in quotes ends at the next one.
    let patch = patch.to_string().replace('\'', "'\\''");
    Some(format!("kubectl {namespace}patch {kind} {name} --type=json -p '{patch}'"))
}

/// A word that no shell takes for something else.
fn safe(word: &str) -> Option<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let begins = word.starts_with(|c: char| c.is_ascii_alphanumeric());
    (begins && word.chars().all(is_plain)).then_some(word)
}
