//! Writes a change as help: what to add, to remove, or to put in place of what.

use std::io::{self, Write};

use json_patch::{Patch, PatchOperation};
use npc_compiler::policy::Direction;
use npc_compiler::policy::finding::{Finding, FindingCode};
use npc_compiler::verdict::fix::{Change, Edit, Lacking, ObjectName};
use serde_json::Value;

use super::path::{field_path, is_end, path_of, tokens};
use super::words::{object_name, then};
use super::{INDENT, yaml};
use crate::command::input::{Input, Source};

/// Writes a change; of one that opens nothing else, how many flows it is for beside the first.
pub(super) fn write_change(
    input: &Input,
    change: &Change,
    only: Option<usize>,
    out: &mut impl Write,
) -> io::Result<()> {
    let name = object_name(&change.object);
    match &change.edit {
        Edit::NewPolicy(document) => {
            let alone = match only {
                None => String::new(),
                Some(0) => ", which admits this flow alone".to_owned(),
                Some(more) => format!(", which admits these {} flows alone", more + 1),
            };
            writeln!(out, "   = help: add this policy{alone}:")?;
            write_lines(&yaml::block(document), out)
        }
        Edit::MovedPolicy(document, old) => {
            writeln!(
                out,
                "   = help: {} selects no pod of its namespace; put it into that of the pods it means:",
                object_name(old)
            )?;
            write_lines(&[yaml::pair("metadata", &document["metadata"])], out)?;
            write_lines(&then(change).into_iter().collect::<Vec<_>>(), out)
        }
        Edit::Labels(labels, Patch(operations), lacking) => {
            let tokens = operations.last().map(|operation| tokens(operation, is_map(operation))).unwrap_or_default();
            let label = if labels.len() == 1 { "the label" } else { "the labels" };
            let end = if change.direction == Direction::Egress { "destination" } else { "source" };
            let (name, by) = match lacking {
                Lacking::Peer if change.object.kind == "Namespace" => {
                    (format!("{name}, that of the {end},"), "the rule asks")
                }
                Lacking::Peer => (format!("the {end}, {name},"), "the rule asks"),
                Lacking::Subject => (name, "the podSelector of a policy asks"),
            };
            // A label that is misspelt has another value.
            let is_replaced = |of: &PatchOperation| matches!(of, PatchOperation::Replace(_));
            let path = field_path(&tokens);
            if operations.iter().any(is_replaced) {
                writeln!(out, "   = help: {name} has {label} that {by} for misspelt; write this in its {path}:")?;
            } else {
                writeln!(out, "   = help: {name} lacks {label} that {by} for; add this to its {path}:")?;
            }
            // A template without metadata gets it, and the labels in it.
            let has_parent = tokens.last().is_some_and(|last| last == "metadata");
            let lines: Vec<String> = if has_parent {
                vec![yaml::pair("labels", &serde_json::json!(labels))]
            } else {
                labels.iter().map(|(key, value)| yaml::pair(key, &Value::from(value.as_str()))).collect()
            };
            write_lines(&lines, out)?;
            write_lines(&then(change).into_iter().collect::<Vec<_>>(), out)
        }
        Edit::Policy(Patch(operations)) => {
            // Several items for one list are written together.
            let is_item =
                |of: &PatchOperation| matches!(of, PatchOperation::Add(_)) && is_end(of.path().last().as_ref());
            let together = operations.chunk_by(|one, next| is_item(one) && is_item(next) && one.path() == next.path());
            together.into_iter().try_for_each(|operations| write_operations(input, operations, change, out))
        }
    }
}

/// One operation on a policy, or several that add items to one list.
fn write_operations(
    input: &Input,
    operations: &[PatchOperation],
    change: &Change,
    out: &mut impl Write,
) -> io::Result<()> {
    let object = &change.object;
    let Some((operation, more)) = operations.split_first() else { return Ok(()) };
    let unknown = unknown_fields(input, object);
    let policy = &object_name(object);
    let last = operation.path().last().map(|token| token.decoded().into_owned()).unwrap_or_default();
    match operation {
        PatchOperation::Add(add) if last == "-" || add.value.is_array() => {
            let items = match &add.value {
                Value::Array(items) => items.clone(),
                item => vec![item.clone()],
            };
            writeln!(out, "   = help: add this to {} of {policy}:", path_of(operation, last != "-"))?;
            let more =
                more.iter().filter_map(|of| if let PatchOperation::Add(add) = of { Some(&add.value) } else { None });
            items.iter().chain(more).try_for_each(|item| write_lines(&yaml::item(item), out))?;
            let meant = format!("(did you mean {last}?)");
            let is_written = |of: &&&Finding| is_of_spec(&of.path) && of.problem.contains(&meant);
            match unknown.iter().find(is_written) {
                Some(of) => write_lines(&[format!("(in place of {}, which the API does not have)", of.path)], out),
                None => Ok(()),
            }
        }
        PatchOperation::Add(add) => {
            if last == "protocol" {
                writeln!(out, "   = help: put this in {} of {policy}:", path_of(operation, false))?;
            } else {
                writeln!(out, "   = help: put this in the same list item (a new \"-\" would mean OR):")?;
            }
            write_lines(&[yaml::pair(&last, &add.value)], out)
        }
        PatchOperation::Replace(replace) => {
            let path = path_of(operation, true);
            // An item of a list has no name.
            let is_item = last.parse::<usize>().is_ok();
            // Files may not have all that a cluster has.
            let of_input = if input.source == Source::Files { " of the input" } else { "" };
            let is_unknown = unknown.iter().any(|of| of.path.starts_with(&format!("{path}.")));
            let what = match last.as_str() {
                _ if is_unknown && !is_item => "has a field that the API does not have".to_owned(),
                "port" if replace.value.is_string() => "is no port of the destination".to_owned(),
                "port" if !change.adds.gives_up.is_none() => {
                    "is the Service's, and nothing that the rule means listens on it".to_owned()
                }
                "port" => "means a name".to_owned(),
                "protocol" => "is no protocol".to_owned(),
                "operator" => "is no operator".to_owned(),
                "cidr" => "is no prefix".to_owned(),
                _ if is_item => "matches nothing as it is written".to_owned(),
                "namespaceSelector" => format!("selects no namespace{of_input}"),
                _ => format!("selects no pod{of_input}"),
            };
            writeln!(out, "   = help: {path} of {policy} {what}; write in its place:")?;
            let lines = if is_item { yaml::item(&replace.value) } else { vec![yaml::pair(&last, &replace.value)] };
            write_lines(&lines, out)
        }
        PatchOperation::Remove(_) => {
            writeln!(out, "   = help: remove {} of {policy}", path_of(operation, true))
        }
        _ => Ok(()),
    }
}

/// The fields of a policy that the API does not have.
fn unknown_fields<'a>(input: &'a Input, object: &ObjectName) -> Vec<&'a Finding> {
    let cluster = &input.cluster;
    let mut policies = cluster.policies_in(object.namespace.as_deref().unwrap_or_default());
    let found = policies.find(|(_, policy)| policy.name == object.name);
    let findings = found.into_iter().flat_map(|(id, _)| cluster.findings_of(id));
    findings.filter(|finding| finding.code == FindingCode::FieldUnknown).collect()
}

/// Whether a path is that of a field directly below `spec`.
fn is_of_spec(path: &str) -> bool {
    path.strip_prefix("spec.").is_some_and(|field| !field.contains(['.', '[']))
}

fn write_lines(lines: &[String], out: &mut impl Write) -> io::Result<()> {
    lines.iter().try_for_each(|line| writeln!(out, "{INDENT}{line}"))
}

fn is_map(operation: &PatchOperation) -> bool {
    matches!(operation, PatchOperation::Add(add) if add.value.is_object())
}
