//! Create, update, patch and delete.

use serde_json::{Value, json};

use super::defaults;
use super::event;
use super::failure::Failure;
use super::object::Object;
use super::path::ResourcePath;
use super::resource::{Group, Resource};
use super::store::State;

/// How long a pod may take to end, in seconds, by default.
const GRACE: u64 = 30;

/// How a patch is written: the media type of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchKind {
    /// RFC 7386, `application/merge-patch+json`
    Merge,
    /// RFC 6902, `application/json-patch+json`
    Json,
    /// `application/apply-patch+yaml`. Limited: the body must be JSON, it is
    /// merged, and fields have no owners.
    Apply,
}

/// Makes an object; answers it as JSON.
pub(crate) fn create(state: &mut State, place: &ResourcePath, body: &[u8]) -> Result<String, Failure> {
    let mut object = parse(place, body)?;
    let metadata = &mut object["metadata"];
    let generated = metadata["generateName"].as_str().map(|prefix| format!("{prefix}{:05x}", state.revision() + 1));
    let name = metadata["name"].as_str().map(str::to_owned).or(generated).unwrap_or_default();
    if name.is_empty() {
        let cause =
            ("FieldValueRequired", "Required value: name or generateName is required".to_owned(), "metadata.name");
        return Err(Failure::invalid(place.resource.group().name(), place.resource.kind(), "", &[cause]));
    }
    defaults::check_name(place.resource, &name)?;
    metadata["name"] = name.as_str().into();
    if place.resource.is_namespaced() {
        if place.namespace.is_empty() {
            return Err(Failure::method_not_allowed());
        }
        metadata["namespace"] = place.namespace.as_str().into();
        if !state.has_namespace(&place.namespace) {
            return Err(Failure::not_found(Resource::Namespaces, &place.namespace));
        }
    }
    if place.resource == Resource::Events && place.group == Group::Events {
        event::check(&object, &name)?;
    }
    let place = ResourcePath { name, ..place.clone() };
    let key = place.key();
    if state.get(&key).is_some() {
        return Err(Failure::already_exists(place.resource, &place.name));
    }
    let mut object = stored(&place, object);
    defaults::reset_status(place.resource, &mut object);
    let made = state.put(key, |revision| {
        defaults::stamp(place.resource, &mut object, revision);
        Object::new(place.resource, object, revision)
    });
    Ok(made.whole(place.group))
}

/// Replaces an object, or its status; answers it as JSON.
pub(crate) fn update(state: &mut State, place: &ResourcePath, body: &[u8]) -> Result<String, Failure> {
    let object = parse(place, body)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name != place.name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            place.name
        )));
    }
    let object = stored(place, object);
    replace(state, place, |_| Ok(object))
}

/// Changes an object in part; answers it as JSON.
pub(crate) fn patch(state: &mut State, place: &ResourcePath, kind: PatchKind, body: &[u8]) -> Result<String, Failure> {
    let patch: Value =
        serde_json::from_slice(body).map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
    if kind == PatchKind::Apply && state.get(&place.key()).is_none() {
        return create(state, &ResourcePath { name: String::new(), ..place.clone() }, body);
    }
    replace(state, place, |current| {
        let mut object = event::in_group(place.group, current);
        if kind == PatchKind::Json {
            let patch: json_patch::Patch = serde_json::from_value(patch)
                .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
            json_patch::patch(&mut object, &patch)
                .map_err(|error| Failure::invalid("", "", "", &[("FieldValueInvalid", error.to_string(), "patch")]))?;
        } else {
            json_patch::merge(&mut object, &patch);
        }
        Ok(stored(place, object))
    })
}

/// Puts what `make` makes of the current object in its place.
fn replace(
    state: &mut State,
    place: &ResourcePath,
    make: impl FnOnce(Value) -> Result<Value, Failure>,
) -> Result<String, Failure> {
    let key = place.key();
    let current = state.get(&key).ok_or_else(|| Failure::not_found(place.resource, &place.name))?;
    let old = current.value();
    let mut new = make(old.clone())?;
    let asked = new["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !asked.is_empty() && asked != current.version().to_string() {
        return Err(Failure::modified(place.resource, &place.name));
    }
    check_uid(place, &new["metadata"]["uid"], &old)?;
    for field in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion"]
    {
        take_over(&mut new["metadata"], &old["metadata"], field);
    }
    if place.status {
        take_over(&mut new, &old, "spec");
    } else if place.resource.has_status() {
        take_over(&mut new, &old, "status");
    }
    if new == old {
        // Nothing is written, and no watch gets an event.
        return Ok(current.whole(place.group));
    }
    if new["spec"] != old["spec"]
        && let Some(generation) = old["metadata"]["generation"].as_u64()
    {
        new["metadata"]["generation"] = (generation + 1).into();
    }
    let written = state.put(key, |revision| Object::new(place.resource, new, revision));
    Ok(written.whole(place.group))
}

/// Removes an object, or asks a running pod to end; answers JSON.
pub(crate) fn delete(state: &mut State, place: &ResourcePath, query: &str, body: &[u8]) -> Result<String, Failure> {
    let options: Value = match body {
        [] => Value::Null,
        body => serde_json::from_slice(body)
            .map_err(|error| Failure::bad_request(format!("error decoding delete options: {error}")))?,
    };
    let key = place.key();
    let current = state.get(&key).ok_or_else(|| Failure::not_found(place.resource, &place.name))?;
    let mut object = current.value();
    check_uid(place, &options["preconditions"]["uid"], &object)?;
    let version = options["preconditions"]["resourceVersion"].as_str();
    if version.is_some_and(|version| version != current.version().to_string()) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {}, ResourceVersion in object meta: {}",
            version.unwrap_or_default(),
            current.version()
        );
        return Err(Failure::conflict(place.resource, &place.name, &why));
    }
    let in_query = query.split('&').find_map(|pair| pair.strip_prefix("gracePeriodSeconds=")?.parse().ok());
    let grace = options["gracePeriodSeconds"].as_u64().or(in_query);
    let grace = grace.or_else(|| object["spec"]["terminationGracePeriodSeconds"].as_u64()).unwrap_or(GRACE);
    if place.resource == Resource::Pods {
        let ended = ["Succeeded", "Failed"].contains(&current.field("status.phase"));
        let grace = if current.field("spec.nodeName").is_empty() || ended { 0 } else { grace };
        let granted = object["metadata"]["deletionGracePeriodSeconds"].as_u64();
        // Even where it goes at once, it is asked to end first; and once asked, it can
        // only be given less time.
        let told = if granted.is_none_or(|granted| grace < granted) {
            object["metadata"]["deletionTimestamp"] = defaults::now().into();
            object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            let told = object.clone();
            state.put(key.clone(), |revision| Object::new(place.resource, told, revision)).whole(place.group)
        } else {
            current.whole(place.group)
        };
        if grace > 0 {
            return Ok(told);
        }
    }
    let uid = object["metadata"]["uid"].clone();
    let Some(gone) = state.delete(&key) else { return Err(Failure::not_found(place.resource, &place.name)) };
    if matches!(place.resource, Resource::Pods | Resource::Namespaces | Resource::Services) {
        return Ok(gone.whole(place.group));
    }
    let mut details = json!({"name": place.name, "kind": place.resource.plural(), "uid": uid});
    if place.group != Group::Core {
        details["group"] = place.group.name().into();
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    Ok(status.to_string())
}

fn parse(place: &ResourcePath, body: &[u8]) -> Result<Value, Failure> {
    let object: Value = serde_json::from_slice(body).map_err(|error| {
        Failure::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {error}",
            place.resource.kind()
        ))
    })?;
    let (kind, version) = (place.resource.kind(), place.group.api_version());
    let is = |field: &str, wanted: &str| object[field].as_str().is_none_or(|found| found == wanted);
    if !object["metadata"].is_object() || !is("kind", kind) || !is("apiVersion", version) {
        let (found, of) =
            (object["kind"].as_str().unwrap_or_default(), object["apiVersion"].as_str().unwrap_or_default());
        let message = format!("{found} in version \"{of}\" cannot be handled as a {kind}: converting is not possible");
        return Err(Failure::bad_request(message));
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    if !namespace.is_empty() && namespace != place.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Failure::bad_request(message));
    }
    Ok(object)
}

/// An object of a client as it is stored.
fn stored(place: &ResourcePath, object: Value) -> Value {
    let mut object = event::as_stored(place.group, object);
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    if place.resource.is_namespaced() {
        object["metadata"]["namespace"] = place.namespace.as_str().into();
    }
    defaults::complete(place.resource, &mut object);
    object
}

fn check_uid(place: &ResourcePath, asked: &Value, current: &Value) -> Result<(), Failure> {
    let (asked, uid) = (asked.as_str().unwrap_or_default(), current["metadata"]["uid"].as_str().unwrap_or_default());
    if asked.is_empty() || asked == uid {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}");
    Err(Failure::conflict(place.resource, &place.name, &why))
}

/// Sets a field to what it was, or unsets it.
fn take_over(new: &mut Value, old: &Value, field: &str) {
    let Some(new) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => new.insert(field.to_owned(), value.clone()),
        None => new.remove(field),
    };
}
