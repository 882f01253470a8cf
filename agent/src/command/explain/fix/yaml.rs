//! Values as YAML, as people write policies: selectors and ports in one line.

use serde_json::{Map, Value};

/// Keys whose values are short enough for one line.
const IN_ONE_LINE: [&str; 6] = ["podSelector", "namespaceSelector", "ipBlock", "metadata", "policyTypes", "ports"];

/// Words that YAML 1.1 takes for something else than text, in any case.
const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];

/// `key: value` in one line.
pub(super) fn pair(key: &str, value: &Value) -> String {
    format!("{}: {}", text(key), flow(value))
}

/// The lines of a list item.
pub(super) fn item(value: &Value) -> Vec<String> {
    let lines = block(value).into_iter().enumerate();
    lines.map(|(i, line)| if i == 0 { format!("- {line}") } else { format!("  {line}") }).collect()
}

/// The lines of a value.
pub(super) fn block(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) if !map.is_empty() => {
            sorted(map).into_iter().flat_map(|(key, value)| member(key, value)).collect()
        }
        Value::Array(items) if !items.is_empty() => items.iter().flat_map(item).collect(),
        other => vec![flow(other)],
    }
}

fn member(key: &str, value: &Value) -> Vec<String> {
    let is_long =
        matches!(value, Value::Object(of) if !of.is_empty()) || matches!(value, Value::Array(of) if !of.is_empty());
    if !is_long || IN_ONE_LINE.contains(&key) {
        return vec![pair(key, value)];
    }
    let indent = if value.is_array() { "" } else { "  " };
    let lines = block(value).into_iter().map(|line| format!("{indent}{line}"));
    [format!("{}:", text(key))].into_iter().chain(lines).collect()
}

/// A value in one line.
fn flow(value: &Value) -> String {
    match value {
        Value::String(of) => text(of),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let members: Vec<String> = sorted(map).into_iter().map(|(key, value)| pair(key, value)).collect();
            format!("{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

/// The members, a rule's ports behind its peers, the end of a range behind its beginning.
fn sorted(map: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let mut members: Vec<(&str, &Value)> = map.iter().map(|(key, value)| (key.as_str(), value)).collect();
    members.sort_by_key(|(key, _)| match *key {
        "podSelector" => 1,
        "policyTypes" => 2,
        "endPort" | "ingress" | "egress" => 3,
        "ports" | "protocol" => 4,
        _ => 0,
    });
    members
}

/// A text, in quotes where YAML would take it for something else.
fn text(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { Value::from(text).to_string() }
}
