//! The commands that apply the changes of an answer to a cluster.

use std::io::{self, Write};

use json_patch::{Patch, PatchOperation};
use npc_compiler::verdict::fix::{Change, Edit, Fix};
use serde_json::{Value, json};

/// Writes the commands in the order in which they are to be run. There are none if a change closes something, because
/// an operator should review it first, and none if a name is not one that a cluster has.
pub(super) fn write<'f>(fixes: impl Iterator<Item = &'f Fix>, out: &mut impl Write) -> io::Result<()> {
    let mut lines = Vec::new();
    for fix in fixes {
        if !fix.is_safe() {
            return Ok(());
        }
        for change in &fix.changes {
            let Some(line) = command(change) else { return Ok(()) };
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

/// The kubectl command of a change; none if a name is none that a cluster has.
pub(super) fn command(change: &Change) -> Option<String> {
    match &change.edit {
        Edit::NewPolicy(document) | Edit::MovedPolicy(document, _) => {
            safe(change.object.namespace.as_deref()?)?;
            safe(&change.object.name)?;
            let text = quoted(document);
            // Some shells' echo reads escapes.
            let write = if text.contains('\\') { "printf '%s\\n'" } else { "echo" };
            Some(format!("{write} '{text}' | kubectl apply -f -"))
        }
        Edit::Policy(_) | Edit::Labels(..) => patch_of(change),
    }
}

/// The command of a change of an object that is there. The object of
/// the cluster may have labels that the file does not state, so no command puts a map of labels in place of another.
fn patch_of(change: &Change) -> Option<String> {
    let Patch(operations) = change.patch()?;
    let namespace = change.object.namespace.as_deref();
    let flag = namespace_flag(namespace)?;
    let (kind, name) = (safe(&change.object.kind)?.to_lowercase(), safe(&change.object.name)?);
    match &change.edit {
        Edit::Labels(labels, ..) if matches!(kind.as_str(), "namespace" | "pod") => {
            let labels: Option<Vec<String>> = labels.iter().map(|(key, value)| label(key, value)).collect();
            // kubectl changes no value unless it is told to.
            let is_replaced = operations.iter().any(|of| matches!(of, PatchOperation::Replace(_)));
            let overwrite = if is_replaced { " --overwrite" } else { "" };
            Some(format!("kubectl {flag}label {kind} {name} {}{overwrite}", labels?.join(" ")))
        }
        Edit::Labels(..)
            if let [PatchOperation::Add(add)] = operations.as_slice()
                && add.value.is_object() =>
        {
            let mut tokens: Vec<String> = add.path.tokens().map(|token| token.decoded().into_owned()).collect();
            tokens.reverse();
            let merged = tokens.into_iter().fold(add.value.clone(), |value, token| json!({ token: value }));
            Some(format!("kubectl {flag}patch {kind} {name} --type=merge -p '{}'", quoted(&merged)))
        }
        _ => patch_command(&kind, namespace, name, change.patch()?),
    }
}

/// The `kubectl patch` of an object.
pub(super) fn patch_command(kind: &str, namespace: Option<&str>, name: &str, patch: &Patch) -> Option<String> {
    let flag = namespace_flag(namespace)?;
    let patch = serde_json::to_value(patch).ok()?;
    Some(format!("kubectl {flag}patch {kind} {} --type=json -p '{}'", safe(name)?, quoted(&patch)))
}

/// The flag of kubectl for a namespace; none if it is no name that a cluster has.
fn namespace_flag(namespace: Option<&str>) -> Option<String> {
    namespace.map_or_else(|| Some(String::new()), |namespace| Some(format!("-n {} ", safe(namespace)?)))
}

/// A value as text between quotes, which ends at the next one.
fn quoted(value: &Value) -> String {
    value.to_string().replace('\'', "'\\''")
}

/// A label as a word of a command line; none if no label is like that.
fn label(key: &str, value: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let is_word = |text: &str| text.chars().all(is_plain);
    let begins = key.starts_with(|c: char| c.is_ascii_alphanumeric());
    (begins && is_word(key) && is_word(value)).then(|| format!("{key}={value}"))
}

/// A word that no shell takes for something else.
fn safe(word: &str) -> Option<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let begins = word.starts_with(|c: char| c.is_ascii_alphanumeric());
    (begins && word.chars().all(is_plain)).then_some(word)
}
