//! Get and list.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::object::Key;
use super::path::{ListOptions, ResourcePath};
use super::selector::Selector;
use super::store::State;

/// One object, as JSON.
pub(crate) fn get(state: &State, place: &ResourcePath) -> Result<String, Failure> {
    let object = state.get(&place.key()).ok_or_else(|| Failure::not_found(place.resource, &place.name))?;
    Ok(object.whole(place.group))
}

/// A list without objects, and if it is asked for, with a page behind it.
pub(crate) fn nothing(place: &ResourcePath, revision: u64, has_more: bool) -> String {
    let mut metadata = serde_json::json!({"resourceVersion": revision.to_string()});
    if has_more {
        metadata["continue"] = "more".into();
    }
    let (kind, api_version) = (place.resource.kind(), place.group.api_version());
    format!(r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{metadata},"items":[]}}"#)
}

/// Where a list goes on.
#[derive(Serialize, Deserialize)]
struct Token {
    /// The revision that all pages show; none if each page shows what is stored when it is asked for.
    revision: Option<u64>,
    namespace: String,
    name: String,
}

impl Token {
    /// Clients must not parse the token; hexadecimal needs no escapes in a query.
    fn write(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        json.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn read(text: &str) -> Option<Self> {
        let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
        serde_json::from_slice(&bytes?).ok()
    }
}

/// What a list shows, and from where on.
struct View {
    revision: u64,
    limit: usize,
    after: Option<Key>,
}

/// A list, or a page of it, as JSON.
pub(crate) fn list(state: &State, place: &ResourcePath, options: &ListOptions) -> Result<String, Failure> {
    let selector = Selector::parse(place.resource, &options.label_selector, &options.field_selector)?;
    let view = view(state, place, options)?;
    let all = state.all_at(place.resource, view.revision).map_err(|_| expired(&view, options))?;
    let first = view.after.as_ref().map_or(0, |after| all.partition_point(|(key, _)| *key <= after));
    let mut rest = (all[first..].iter())
        .filter(|(key, object)| {
            (place.namespace.is_empty() || key.namespace == place.namespace) && selector.matches(object)
        })
        .peekable();

    let api_version = place.group.api_version();
    let mut items = String::new();
    let mut last = None;
    for (key, object) in rest.by_ref().take(view.limit) {
        if last.is_some() {
            items.push(',');
        }
        items.push_str(&object.item(place.group));
        last = Some(*key);
    }
    let mut metadata = serde_json::json!({"resourceVersion": view.revision.to_string()});
    if let (Some(last), true) = (last, rest.peek().is_some()) {
        let token = Token { revision: Some(view.revision), namespace: last.namespace.clone(), name: last.name.clone() };
        metadata["continue"] = token.write().into();
        // With a selector the real server would have to read all of them.
        if selector.is_empty() {
            metadata["remainingItemCount"] = rest.count().into();
        }
    }
    let kind = place.resource.kind();
    Ok(format!(r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{metadata},"items":[{items}]}}"#))
}

/// What the options mean:
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list>.
fn view(state: &State, place: &ResourcePath, options: &ListOptions) -> Result<View, Failure> {
    let limit = match ListOptions::number(&options.limit)? {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let version = ListOptions::number(&options.resource_version)?;
    let current = state.revision();
    if !options.r#continue.is_empty() {
        if version != 0 {
            return Err(Failure::bad_request("specifying resource version is not allowed when using continue"));
        }
        let token = Token::read(&options.r#continue)
            .ok_or_else(|| Failure::bad_request("continue key is not valid: encoded start key is not valid"))?;
        let after = Key { resource: place.resource, namespace: token.namespace, name: token.name };
        return Ok(View { revision: token.revision.unwrap_or(current), limit, after: Some(after) });
    }
    let any = View { revision: current, limit, after: None };
    let exact = match (options.resource_version_match.as_str(), options.resource_version.as_str()) {
        ("", "") => return Ok(any),
        // From the watch cache, which makes no pages.
        ("" | "NotOlderThan", "0") => return Ok(View { limit: usize::MAX, ..any }),
        (_, "") => {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(ListOptions::forbidden("resourceVersionMatch", why));
        }
        ("Exact", "0") => {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            return Err(ListOptions::forbidden("resourceVersionMatch", why));
        }
        ("Exact", _) => true,
        ("NotOlderThan", _) => false,
        // An old rule that is kept: a limit makes it exact.
        ("", _) => limit != usize::MAX,
        (other, _) => {
            let message =
                format!("Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\", \"\"");
            let causes = [("FieldValueNotSupported", message, "resourceVersionMatch")];
            return Err(Failure::invalid("meta.k8s.io", "ListOptions", "", &causes));
        }
    };
    if version > current {
        return Err(Failure::too_large(version, current));
    }
    Ok(if exact { View { revision: version, ..any } } else { any })
}

/// The history that the list would show is compacted.
fn expired(view: &View, options: &ListOptions) -> Failure {
    let Some(after) = view.after.as_ref().filter(|_| !options.r#continue.is_empty()) else {
        return Failure::expired("The resourceVersion for the provided list is too old.");
    };
    let token = Token { revision: None, namespace: after.namespace.clone(), name: after.name.clone() };
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a \
                   new list without the continue parameter, or use the continue token in this response to retrieve \
                   the remainder of the results. Continuing with the provided token results in an inconsistent list - \
                   objects that were created, modified, or deleted between the time the first chunk was returned and \
                   now may show up in the list.";
    Failure { continue_token: Some(token.write()), ..Failure::expired(message) }
}

impl ResourcePath {
    /// The key of its object.
    pub(crate) fn key(&self) -> Key {
        Key { resource: self.resource, namespace: self.namespace.clone(), name: self.name.clone() }
    }
}
