//! The few actions of Go's templates that our chart is allowed, so that it can
//! be rendered without Helm. Anything else is refused, and Helm must agree
//! about the rest where it is found.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::yaml;

/// What a template can ask for.
pub(crate) struct Scope<'a> {
    /// `.Values`.
    pub values: &'a Value,
    /// `.Release.Namespace`.
    pub namespace: &'a str,
    /// `.Chart.AppVersion`.
    pub app_version: &'a str,
    /// The minor version of the API server, Kubernetes 1.x.
    pub kubernetes: u32,
    /// Where `.Files.Get` reads.
    pub folder: &'a Path,
}

/// An `if` or a `with` that has not ended.
struct Block {
    /// Whether its text is wanted.
    live: bool,
    /// What `.` was outside of it, for a `with`.
    dot: Option<Value>,
}

/// Renders a template.
pub(crate) fn render(template: &str, scope: &Scope) -> String {
    let mut out = String::new();
    let mut blocks: Vec<Block> = Vec::new();
    let mut dot = Value::Null;
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        let live = blocks.iter().all(|block| block.live);
        let end = start + rest[start..].find("}}").expect("every {{ has its }}");
        let (text, action) = (&rest[..start], &rest[start + 2..end]);
        rest = &rest[end + 2..];
        if live {
            out.push_str(text);
        }
        let action = match action.strip_prefix('-') {
            Some(action) => {
                if live {
                    out.truncate(out.trim_end().len());
                }
                action
            }
            None => action,
        };
        assert!(!action.ends_with('-'), "trimming to the right is not for this chart: {action}");
        match action.trim().split_once(' ') {
            Some((word @ ("if" | "with"), condition)) => {
                let value = if live { term(condition, scope, &dot) } else { Value::Null };
                let inside = (word == "with").then(|| std::mem::replace(&mut dot, value.clone()));
                blocks.push(Block { live: holds(&value), dot: inside });
            }
            None if action.trim() == "end" => {
                let block = blocks.pop().expect("every end ends something");
                dot = block.dot.unwrap_or(dot);
            }
            _ if live => out.push_str(&pipeline(action, scope, &dot)),
            _ => {}
        }
    }
    assert!(blocks.is_empty(), "an if or a with does not end");
    out.push_str(rest);
    // A template that is one `if` begins with a newline, and one that is left
    // out is nothing but.
    out.trim_start_matches('\n').to_owned()
}

/// What Go's templates take for true.
fn holds(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn pipeline(action: &str, scope: &Scope, dot: &Value) -> String {
    let mut stages = action.split('|').map(str::trim);
    let first = stages.next().expect("a pipeline has a first stage");
    let mut text = match term(first, scope, dot) {
        Value::String(text) => text,
        value @ (Value::Number(_) | Value::Bool(_)) => value.to_string(),
        other => panic!("{first} is no scalar: {other}"),
    };
    for stage in stages {
        text = match stage.split_once(' ') {
            None if stage == "quote" => json!(text).to_string(),
            Some(("nindent", columns)) => {
                let indent = " ".repeat(columns.parse().expect("nindent takes a number"));
                format!("\n{indent}{}", text.replace('\n', &format!("\n{indent}")))
            }
            _ => panic!("the function {stage} is not for this chart"),
        };
    }
    text
}

fn term(text: &str, scope: &Scope, dot: &Value) -> Value {
    match text.split_once(' ') {
        Some(("toYaml", of)) => Value::String(yaml::text(&term(of, scope, dot))),
        Some(("semverCompare", of)) => {
            let of =
                of.strip_suffix(" .Capabilities.KubeVersion.Version").unwrap_or_else(|| panic!("{of} is no version"));
            let least =
                of.strip_prefix("\">=1.").and_then(|of| of.strip_suffix("-0\"")).unwrap_or_else(|| panic!("{of}"));
            (scope.kubernetes >= least.parse().expect("a minor version is a number")).into()
        }
        // What a release without this value means by it.
        Some(("dig", of)) => {
            let [name, default, map] = of.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("dig {of}") };
            let [name, default] = [name, default].map(|text| serde_json::from_str::<Value>(text).expect("JSON"));
            term(map, scope, dot).get(name.as_str().expect("a name stands in quotes")).cloned().unwrap_or(default)
        }
        Some((".Files.Get", name)) => {
            let name: String = serde_json::from_str(name).expect("a file's name stands in quotes");
            let path = scope.folder.join(name);
            Value::String(fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        }
        Some(_) => panic!("{text} is not for this chart"),
        None if text == "." => dot.clone(),
        None if text == ".Release.Namespace" => scope.namespace.into(),
        None if text == ".Chart.AppVersion" => scope.app_version.into(),
        None => {
            let path = text.strip_prefix(".Values.").unwrap_or_else(|| panic!("{text} is not for this chart"));
            let value = path.split('.').try_fold(scope.values, |value, name| value.get(name));
            value.unwrap_or_else(|| panic!("values.yaml has no {path}")).clone()
        }
    }
}
