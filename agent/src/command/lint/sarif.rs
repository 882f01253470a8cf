//! Findings as SARIF 2.1.0
//! (<https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/sarif-v2.1.0-os.html>).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use npc_agent::finding::{Finding, Place};
use serde_json::{Value, json};

use crate::command::reason;

/// Where the schema of the format is.
const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// One run of npc with all findings.
pub(super) fn log(findings: &[Finding]) -> Value {
    let codes: Vec<&str> = findings.iter().map(|finding| finding.code).collect::<BTreeSet<_>>().into_iter().collect();
    let rules: Vec<Value> = codes.iter().map(|code| rule(code)).collect();
    let result = |finding: &Finding| {
        let index = codes.iter().position(|code| *code == finding.code);
        let mut result = json!({
            "ruleId": finding.code,
            "ruleIndex": index,
            "level": finding.severity.as_str(),
            "message": {"text": finding.to_string()},
            "locations": [location(finding)],
        });
        if let Some(place) = &finding.related {
            result["relatedLocations"] = json!([{"physicalLocation": physical_location(place)}]);
        }
        result
    };
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "npc", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "columnKind": "unicodeCodePoints",
            "results": findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

fn rule(code: &str) -> Value {
    match reason::page(code) {
        Some((summary, text)) => json!({
            "id": code,
            "shortDescription": {"text": summary},
            "help": {"text": text, "markdown": text},
        }),
        None => json!({"id": code}),
    }
}

fn location(finding: &Finding) -> Value {
    let mut location = json!({});
    if let Some(place) = &finding.location {
        location["physicalLocation"] = physical_location(place);
    }
    if let Some(object) = &finding.object {
        let path = if finding.path.is_empty() { String::new() } else { format!(" {}", finding.path) };
        location["logicalLocations"] = json!([{
            "name": object.name,
            "fullyQualifiedName": format!("{object}{path}"),
            "kind": "object",
        }]);
    }
    location
}

fn physical_location(place: &Place) -> Value {
    let file = if place.file == "-" { "stdin" } else { &place.file };
    let mut physical = json!({"artifactLocation": {"uri": uri(file)}});
    if let Some(line) = place.line {
        physical["region"] = json!({"startLine": line, "startColumn": place.column.unwrap_or(1)});
    }
    physical
}

/// A path as a reference to it: relative as it was given, or a `file` URI (RFC 3986, RFC 8089).
fn uri(path: &str) -> String {
    let mut text = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(byte)),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_reference() {
        for (path, wanted) in [
            ("a/b.yaml", "a/b.yaml"),
            ("/tmp/x.yaml", "file:///tmp/x.yaml"),
            ("a b:c%.yaml", "a%20b%3Ac%25.yaml"),
            ("ä", "%C3%A4"),
        ] {
            assert_eq!(uri(path), wanted);
        }
    }
}
