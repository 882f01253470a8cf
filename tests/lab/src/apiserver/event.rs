//! Events have two forms over one store: `v1`, in which they are stored, and
//! `events.k8s.io/v1`, which agents write.

use serde_json::Value;

use super::failure::Failure;
use super::resource::Group;

/// What a field is called in `v1` and in `events.k8s.io/v1`, where that
/// differs; `pkg/apis/core` calls them as `v1` does.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// A stored event in the words of a group.
pub(crate) fn in_group(group: Group, mut event: Value) -> Value {
    if group == Group::Events {
        rename(&mut event, |(old, new)| (old, new));
    }
    event
}

/// An event in the words of a group as it is stored.
pub(crate) fn as_stored(group: Group, mut event: Value) -> Value {
    if group == Group::Events {
        rename(&mut event, |(old, new)| (new, old));
    }
    event
}

fn rename(event: &mut Value, direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Some(event) = event.as_object_mut() else { return };
    for (from, to) in RENAMED.map(direction) {
        if let Some(value) = event.remove(from) {
            event.insert(to.to_owned(), value);
        }
    }
}

/// What the API demands of an event that is made through `events.k8s.io/v1`
/// (`pkg/apis/core/validation/events.go`).
pub(crate) fn check(event: &Value, name: &str) -> Result<(), Failure> {
    let mut causes = Vec::new();
    let text = |field: &str| event[field].as_str().unwrap_or_default();
    if event["eventTime"].is_null() {
        causes.push(("FieldValueRequired", "Required value".to_owned(), "eventTime"));
    }
    for (field, limit) in [("reportingController", 253), ("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        if text(field).is_empty() {
            causes.push(("FieldValueRequired", "Required value".to_owned(), field));
        } else if text(field).len() > limit {
            causes.push((
                "FieldValueInvalid",
                format!("Invalid value: \"\": can have at most {limit} characters"),
                field,
            ));
        }
    }
    if text("note").len() > 1024 {
        causes.push(("FieldValueInvalid", "Invalid value: \"\": can have at most 1024 characters".to_owned(), "note"));
    }
    if !["Normal", "Warning"].contains(&text("type")) {
        causes.push(("FieldValueInvalid", format!("Invalid value: \"{}\": has invalid value", text("type")), "type"));
    }
    let namespace = event["metadata"]["namespace"].as_str().unwrap_or_default();
    let of = event["regarding"]["namespace"].as_str().unwrap_or_default();
    if of.is_empty() && !["default", "kube-system"].contains(&namespace) {
        let message = "Invalid value: \"\": does not match event.namespace".to_owned();
        causes.push(("FieldValueInvalid", message, "involvedObject.namespace"));
    }
    if causes.is_empty() { Ok(()) } else { Err(Failure::invalid("", "Event", name, &causes)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_comes_back_as_it_went_in() {
        let event = json!({"metadata": {"name": "a"}, "note": "n", "regarding": {"kind": "Pod"}, "reason": "r"});
        let stored = as_stored(Group::Events, event.clone());
        assert_eq!(stored["message"], "n");
        assert_eq!(in_group(Group::Core, stored.clone()), stored);
        assert_eq!(in_group(Group::Events, stored), event);
    }
}
