//! Objects from the bytes of an answer. One that cannot be read is named, if its bytes
//! show a name, and hides no other.

use std::fmt;

use kube::core::Status;
use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use super::read::{Buffer, Piece};

/// What distinguishes an object from others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Identity {
    /// Empty where objects of the kind are in no namespace.
    pub(in super::super) namespace: String,
    pub(in super::super) name: String,
    /// Empty if the object shows none.
    pub(in super::super) uid: String,
    /// `metadata.resourceVersion`; empty if the object shows none.
    pub(in super::super) version: String,
}

impl Identity {
    /// Whether this is an older version of an object than another one. Versions are numbers
    /// that grow; where they are not, nothing is older.
    pub(in super::super) fn is_older_than(&self, other: &Self) -> bool {
        let number = |identity: &Self| identity.version.parse::<u64>().ok();
        matches!((number(self), number(other)), (Some(own), Some(other)) if own < other)
    }
}

/// An object as a list or a watch has it.
#[derive(Debug)]
pub(in super::super) struct Item<T> {
    pub(in super::super) identity: Identity,
    /// The object, or why it cannot be read.
    pub(in super::super) content: Result<T, String>,
    /// What can be made of one that cannot be read as a whole.
    pub(in super::super) rescue: Option<T>,
    /// About how many bytes it takes until it is passed on.
    pub(in super::super) bytes: usize,
    /// Its share of what may wait to be taken in.
    pub(in super::super) room: Option<OwnedSemaphorePermit>,
}

impl<T> Item<T> {
    /// What it holds, as something else; but for what was rescued.
    pub(in super::super) fn map<U>(self, make: impl FnOnce(T) -> U) -> Item<U> {
        let Self { identity, content, rescue: _, bytes, room } = self;
        Item { identity, content: content.map(make), rescue: None, bytes, room }
    }
}

/// A line of a watch.
#[derive(Debug)]
pub(in super::super) enum WatchLine<T> {
    Applied(Item<T>),
    /// In a list: the object is as it was.
    Unchanged(Identity),
    Deleted(Identity),
    /// The version to go on from, and whether all objects that existed were sent.
    Bookmark(String, bool),
    Error(Box<Status>),
    /// An object that shows no name, and why it cannot be read.
    Unnamed(String),
}

/// Reads an object. The error is that of one that shows no name.
pub(in super::super) fn item<T: DeserializeOwned>(buffer: &Buffer, piece: Piece) -> Result<Item<T>, String> {
    object(buffer.bytes(), piece, "")
}

fn object<T: DeserializeOwned>(bytes: &[u8], piece: Piece, path: &str) -> Result<Item<T>, String> {
    let identity = identity(bytes, path);
    let content = match piece {
        Piece::Whole => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
        Piece::Cut => Err(format!("it is longer than {} MiB", super::read::OBJECT_BYTES >> 20)),
    };
    match content {
        Err(error) if identity.name.is_empty() => Err(error),
        Ok(_) if identity.name.is_empty() => Err("it has no name".to_owned()),
        content => Ok(Item { identity, content, rescue: None, bytes: bytes.len(), room: None }),
    }
}

/// Reads a line of a watch.
///
/// # Errors
/// If it is no event at all.
pub(in super::super) fn line<T: DeserializeOwned>(buffer: &Buffer, piece: Piece) -> serde_json::Result<WatchLine<T>> {
    #[derive(Deserialize)]
    struct Event<'a> {
        r#type: String,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Bookmark {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        #[serde(default)]
        resource_version: String,
        #[serde(default)]
        annotations: Option<std::collections::BTreeMap<String, String>>,
    }
    let of_object = |item: Result<Item<T>, String>| item.map_or_else(WatchLine::Unnamed, WatchLine::Applied);
    if piece == Piece::Cut {
        // An error or a bookmark is never so long. The API server writes the type first.
        if buffer.bytes().starts_with(br#"{"type":"DELETED""#) {
            return Ok(deletion(buffer.bytes(), "object"));
        }
        return Ok(of_object(object(buffer.bytes(), piece, "object")));
    }
    // To find the object's end is to read all of it once more. What can be read as an object is one.
    if let Some(bytes) = object_of_line(buffer.bytes())
        && let Ok(item @ Item { content: Ok(_), .. }) = object(bytes, piece, "")
    {
        return Ok(WatchLine::Applied(item));
    }
    let Event { r#type, object: text } = serde_json::from_slice(buffer.bytes())?;
    let bytes = text.get().as_bytes();
    Ok(match r#type.as_str() {
        "ADDED" | "MODIFIED" => of_object(object(bytes, piece, "")),
        "DELETED" => deletion(bytes, ""),
        "BOOKMARK" => {
            let Bookmark { metadata } = serde_json::from_slice(bytes)?;
            let is_end = metadata.annotations.is_some_and(|all| all.contains_key("k8s.io/initial-events-end"));
            WatchLine::Bookmark(metadata.resource_version, is_end)
        }
        "ERROR" => WatchLine::Error(serde_json::from_slice(bytes)?),
        other => return Err(serde::de::Error::custom(format!("\"{other}\" is no type of an event"))),
    })
}

/// The bytes of the object in a line that says that it is there, as the API server writes it.
pub(in super::super) fn object_of_line(line: &[u8]) -> Option<&[u8]> {
    const BEGINS: [&[u8]; 2] = [br#"{"type":"ADDED","object":"#, br#"{"type":"MODIFIED","object":"#];
    let object = BEGINS.into_iter().find_map(|begin| line.strip_prefix(begin))?;
    object.trim_ascii_end().strip_suffix(b"}")
}

/// The deletion of the object that these bytes show.
fn deletion<T>(bytes: &[u8], path: &str) -> WatchLine<T> {
    match identity(bytes, path) {
        identity if identity.name.is_empty() => WatchLine::Unnamed("a deletion shows no name".to_owned()),
        identity => WatchLine::Deleted(identity),
    }
}

/// What the bytes of an object show of its identity, even if other parts of them are wrong. The
/// object is the value of the key `within`, if one is named.
fn identity(bytes: &[u8], within: &str) -> Identity {
    let mut found = Identity::default();
    let path: &[&str] = if within.is_empty() { &["metadata"] } else { &[within, "metadata"] };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    // What was found before an error counts. Behind the metadata all ends with one.
    let _ = Find { path, found: &mut found }.deserialize(&mut json);
    found
}

/// Takes an [`Identity`] from the metadata at a path.
struct Find<'a> {
    path: &'a [&'a str],
    found: &'a mut Identity,
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match (self.path, &*key) {
                ([first, rest @ ..], key) if *first == key => {
                    map.next_value_seed(Find { path: rest, found: self.found })?;
                    // A spec of a megabyte follows, and has no part of it.
                    return Err(serde::de::Error::custom("the metadata is complete"));
                }
                ([], "namespace") => text(&mut map, &mut self.found.namespace)?,
                ([], "name") => text(&mut map, &mut self.found.name)?,
                ([], "uid") => text(&mut map, &mut self.found.uid)?,
                ([], "resourceVersion") => text(&mut map, &mut self.found.version)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Takes a text that is no longer than a name of an object may be.
fn text<'de, A: MapAccess<'de>>(map: &mut A, into: &mut String) -> Result<(), A::Error> {
    const LONGEST: usize = 253;
    let value = map.next_value::<&'de RawValue>()?;
    if let Ok(text) = serde_json::from_str::<String>(value.get())
        && text.len() <= LONGEST
    {
        *into = text;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::source::kube::objects::slim;

    fn whole() -> Value {
        json!({"labels": {"a": "b"}, "name": "web", "namespace": "shop", "resourceVersion": "7", "uid": "u-1"})
    }

    fn read(metadata: &Value, spec: &Value) -> Result<Item<slim::Pod>, String> {
        let text = json!({"kind": "Pod", "metadata": metadata, "spec": spec}).to_string();
        object(text.as_bytes(), Piece::Whole, "")
    }

    #[test]
    fn an_object_that_cannot_be_read_shows_its_name_all_the_same() {
        let item = read(&whole(), &json!({})).expect("a name");
        assert!(item.content.is_ok());
        let identity = Identity {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u-1".to_owned(),
            version: "7".to_owned(),
        };
        assert_eq!(item.identity, identity);
        let mut odd = whole();
        odd["labels"] = 5.into();
        for item in [read(&odd, &json!({})), read(&whole(), &json!(7)), read(&whole(), &json!({"containers": {}}))] {
            let item = item.expect("a name");
            assert!(item.content.is_err());
            assert_eq!(item.identity, identity);
        }
        let mut nameless = odd.clone();
        nameless["name"] = 5.into();
        assert!(read(&nameless, &json!({})).is_err());
        assert!(read(&json!([]), &json!({})).is_err());
    }

    #[test]
    fn what_is_cut_off_shows_what_came_before() {
        let text = json!({"type": "ADDED", "object": {"metadata": whole(), "spec": {"a": "b"}}}).to_string();
        let end = text.find("spec").expect("it is there");
        let found = identity(&text.as_bytes()[..end], "object");
        assert_eq!((found.name.as_str(), found.uid.as_str()), ("web", "u-1"));
        assert_eq!(identity(b"<html>", ""), Identity::default());
    }

    /// A line of a watch, as the API server writes it.
    fn event(kind: &str, spec: &str) -> WatchLine<slim::Pod> {
        of_text(format!("{{\"type\":\"{kind}\",\"object\":{{\"metadata\":{},\"spec\":{spec}}}}}", whole()))
    }

    fn of_text(text: String) -> WatchLine<slim::Pod> {
        let mut body: super::super::read::Body = Box::pin(futures::io::Cursor::new((text + "\n").into_bytes()));
        let mut buffer = Buffer::default();
        let piece = futures::executor::block_on(super::super::read::line(&mut body, &mut buffer));
        line(&buffer, piece.expect("it can be read").expect("a line")).expect("an event")
    }

    #[test]
    fn an_event_is_read_however_it_is_written() {
        let metadata = whole();
        let object = format!(r#"{{"metadata":{metadata},"spec":{{"hostname":"h"}}}}"#);
        for text in [
            format!(r#"{{"type":"ADDED","object":{object}}}"#),
            format!(r#"{{"type":"MODIFIED","object":{object} }} "#),
            format!(r#"{{ "type": "ADDED", "object": {object} }}"#),
            format!(r#"{{"object":{object},"type":"ADDED"}}"#),
            format!(r#"{{"type":"ADDED","object":{object},"more":{{}}}}"#),
        ] {
            let WatchLine::Applied(item) = of_text(text.clone()) else { panic!("{text}") };
            assert_eq!((item.identity.uid.as_str(), item.content.is_ok()), ("u-1", true), "{text}");
        }
        let odd = format!(r#"{{"type":"ADDED","object":{{"metadata":{metadata},"spec":7}}}}"#);
        let WatchLine::Applied(item) = of_text(odd) else { panic!("it is named") };
        assert_eq!((item.identity.uid.as_str(), item.content.is_ok()), ("u-1", false));
    }

    fn with_value(value: &str) -> String {
        format!(r#"{{"containers":[{{"name":"c","env":[{{"name":"A","value":"{value}"}}]}}]}}"#)
    }

    #[test]
    fn a_deletion_is_one_though_its_object_is_cut_off() {
        let long = with_value(&"x".repeat(super::super::read::OBJECT_BYTES));
        assert!(matches!(event("DELETED", &long), WatchLine::Deleted(identity) if identity.uid == "u-1"));
        let WatchLine::Applied(item) = event("MODIFIED", &long) else { panic!("it is no deletion") };
        assert!(item.content.is_err());
    }

    #[test]
    fn an_object_of_the_most_bytes_that_an_api_server_takes_is_read_whole() {
        // Each of 3 MiB is written as six.
        let WatchLine::Applied(item) = event("ADDED", &with_value(&r"\u003c".repeat(3 << 20))) else {
            panic!("it is there")
        };
        assert!(item.content.is_ok(), "{:?}", item.content);
    }
}
