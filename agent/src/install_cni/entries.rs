//! The plugins of our list: those of the source, ours, and those that other programs added.

use std::collections::BTreeSet;

use npc_cni::configuration::FailurePolicy;
use serde::Serialize;
use serde_json::value::RawValue;

use super::conflist::{ConfList, Plugin, Record, TYPE};
use super::decision::PluginSettings;

/// What a file is derived from.
pub(super) fn record(name: &str, source: &ConfList) -> Record {
    Record { file: name.to_owned(), plugins: source.plugins().iter().map(|plugin| plugin.kind.clone()).collect() }
}

/// The entry of our plugin.
pub(super) fn entry(settings: &PluginSettings, name: &str, source: &ConfList) -> Plugin {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry<'a> {
        r#type: &'a str,
        socket: &'a str,
        timeout_seconds: u64,
        failure_policy: &'a str,
        open_namespaces: &'a [String],
        conflist: &'a str,
        derived_from: Record,
    }
    let PluginSettings { socket, timeout_seconds, failure_policy, open_namespaces, path, .. } = settings;
    let failure_policy = match failure_policy {
        FailurePolicy::Closed => "closed",
        FailurePolicy::Open => "open",
    };
    let derived_from = record(name, source);
    let entry = Entry {
        r#type: TYPE,
        socket,
        timeout_seconds: *timeout_seconds,
        failure_policy,
        open_namespaces,
        conflist: path,
        derived_from,
    };
    let text = serde_json::to_string(&entry).and_then(RawValue::from_string);
    Plugin { kind: TYPE.to_owned(), text: text.unwrap_or_else(|_| unreachable!("texts and numbers are JSON")) }
}

/// The entries that other programs added, each type once: the one that was added last.
///
/// A program that wrote a configuration of its own over ours added nothing. Its first entry, the
/// one that makes the network, is then neither the source's nor that of what we wrote before.
pub(super) fn added<'a>(there: &'a [Plugin], source: &ConfList, known: Option<&Record>) -> Vec<&'a Plugin> {
    let own = there.iter().position(|plugin| plugin.kind == TYPE);
    let is_in_source = |kind: &str| source.plugins().iter().any(|plugin| plugin.kind == kind);
    let first = |kind: &String| {
        source.plugins().first().is_some_and(|first| first.kind == *kind)
            || known.is_some_and(|known| known.plugins.first() == Some(kind))
    };
    let is_overwritten = !there.first().is_some_and(|plugin| plugin.kind == TYPE || first(&plugin.kind));
    // What stands before ours came from the source, as far as is known.
    let is_old = |at: usize, kind: &String| match (known, own) {
        _ if is_overwritten && own.is_none_or(|own| at < own) => true,
        (Some(known), Some(own)) => at < own && known.plugins.contains(kind),
        (Some(known), None) => known.plugins.contains(kind),
        (None, own) => own.is_some_and(|own| at < own),
    };
    let mut seen = BTreeSet::new();
    let mut added: Vec<&Plugin> = there
        .iter()
        .enumerate()
        .rev()
        .filter(|(at, plugin)| {
            plugin.kind != TYPE
                && !is_in_source(&plugin.kind)
                && !is_old(*at, &plugin.kind)
                && seen.insert(&plugin.kind)
        })
        .map(|(_, plugin)| plugin)
        .collect();
    added.reverse();
    added
}

/// Whether our file has what the source has, then our entry once, and beside these only what
/// other programs added, wherever they put it.
pub(super) fn is_as_wanted(list: &ConfList, source: &ConfList, own: &Plugin, others: &[&Plugin]) -> bool {
    let is_other = |plugin: &Plugin| others.iter().any(|other| other.kind == plugin.kind);
    let mut wanted = source.plugins().iter().chain([own]);
    let mut rest = list.plugins().iter().filter(|plugin| !is_other(plugin));
    let count = list.plugins().iter().filter(|plugin| is_other(plugin)).count();
    let is_same = loop {
        match (wanted.next(), rest.next()) {
            (None, None) => break true,
            (Some(wanted), Some(there)) if wanted.is_same(there) => {}
            _ => break false,
        }
    };
    is_same && count == others.len() && list.has_same_keys(source)
}
