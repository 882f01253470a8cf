//! Network configurations as a container runtime reads them: a list of plugins
//! (`.conflist`), or a single plugin (`.conf`, `.json`).
//!
//! All that we do not need is kept as its author wrote it, byte for byte and in order: other
//! keys of the list, and each plugin's entry.

use std::collections::BTreeMap;
use std::fmt;

pub use npc_cni::configuration::TYPE;
use npc_cni::configuration::{LONGEST_FILE, VERSIONS};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize as Derive, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The ends of the names that a runtime reads.
const SUFFIXES: [&str; 3] = [".conf", ".conflist", ".json"];

/// Whether a runtime reads a file of this name.
#[must_use]
pub fn is_read(name: &str) -> bool {
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// Why a file is no configuration that we can derive ours from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableConflist {
    /// It is no JSON, or not of the shape that runtimes read.
    #[error("it is not the JSON that a runtime reads: {0}")]
    Malformed(String),
    /// It has more bytes than [`LONGEST_FILE`].
    #[error("it has more than {LONGEST_FILE} bytes")]
    TooLong,
    /// A runtime would refuse it.
    #[error("{0}")]
    Incomplete(&'static str),
    /// Our plugin would refuse it, and no pod would start.
    #[error("its cniVersion {0} is not one that npc-cni speaks ({known})", known = VERSIONS.join(", "))]
    Version(String),
}

/// The entry of one plugin.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// Its `type`.
    pub kind: String,
    /// As its author wrote it.
    pub text: Box<RawValue>,
}

impl Plugin {
    fn parse(text: Box<RawValue>) -> Result<Self, UnusableConflist> {
        let Fields(fields) = read(text.get().as_bytes())?;
        let kind = value(&fields, "type").and_then(|kind| serde_json::from_str(kind.get()).ok());
        match kind.filter(|kind: &String| !kind.is_empty()) {
            Some(kind) => Ok(Self { kind, text }),
            None => Err(UnusableConflist::Incomplete("an entry of its plugins has no type")),
        }
    }

    /// Whether two entries say the same, however they are written.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.text.get() == other.text.get() || parsed(&self.text).is_some_and(|own| Some(own) == parsed(&other.text))
    }
}

fn parsed(text: &RawValue) -> Option<Value> {
    serde_json::from_str(text.get()).ok()
}

/// From what our file was derived. Our plugin's entry has it, so that the next installer and
/// an operator know it.
#[derive(Debug, Clone, PartialEq, Eq, Derive, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The name of the file.
    pub file: String,
    /// The types of its plugins.
    #[serde(default)]
    pub plugins: Vec<String>,
}

/// A list of plugins that is called as one network.
#[derive(Debug, Clone)]
pub struct ConfList {
    /// The keys besides `plugins`, in order. If a key stands there twice, its last value counts, as
    /// in a runtime.
    keys: Vec<(String, Box<RawValue>)>,
    /// How many keys stand before `plugins`.
    before: usize,
    plugins: Vec<Plugin>,
}

impl ConfList {
    /// Reads a file. One that is no `.conflist` is a single plugin, and read as a list of it.
    ///
    /// # Errors
    /// If a runtime would refuse it.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, UnusableConflist> {
        if bytes.len() as u64 > LONGEST_FILE {
            return Err(UnusableConflist::TooLong);
        }
        // What nests too deep for us is refused here.
        let _: Value = read(bytes)?;
        let Fields(mut fields) = read(bytes)?;
        let text = |key| value(&fields, key).and_then(|name| serde_json::from_str::<String>(name.get()).ok());
        if text("name").is_none_or(|name| name.is_empty()) {
            return Err(UnusableConflist::Incomplete("it has no name"));
        }
        if !name.ends_with(".conflist") {
            if text("type").is_none_or(|kind| kind.is_empty()) {
                return Err(UnusableConflist::Incomplete(
                    "it has no type (is it a list? Then its name ends in .conflist)",
                ));
            }
            let whole = Plugin::parse(read::<Box<RawValue>>(bytes)?)?;
            fields.retain(|(key, _)| key == "name" || key == "cniVersion");
            return Ok(Self { before: fields.len(), keys: fields, plugins: vec![whole] });
        }
        let Some(plugins) = value(&fields, "plugins") else {
            return Err(UnusableConflist::Incomplete("it has no plugins"));
        };
        let plugins: Vec<Box<RawValue>> = read(plugins.get().as_bytes())?;
        let plugins = plugins.into_iter().map(Plugin::parse).collect::<Result<Vec<_>, _>>()?;
        if plugins.is_empty() {
            return Err(UnusableConflist::Incomplete("its plugins are empty"));
        }
        let before = fields.iter().take_while(|(key, _)| key != "plugins").count();
        fields.retain(|(key, _)| key != "plugins");
        Ok(Self { keys: fields, before, plugins })
    }

    /// The plugins, in the order of ADD.
    #[must_use]
    pub fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// Whether our plugin works in it: each version that the runtime may choose is one that
    /// the plugin speaks.
    ///
    /// # Errors
    /// With the version that it does not speak.
    pub fn check_versions(&self) -> Result<(), UnusableConflist> {
        let text = |value: &RawValue| serde_json::from_str::<String>(value.get());
        let check = |version: String| {
            if VERSIONS.contains(&version.as_str()) { Ok(()) } else { Err(UnusableConflist::Version(version)) }
        };
        match value(&self.keys, "cniVersion") {
            Some(version) => check(text(version).unwrap_or_else(|_| version.get().to_owned()))?,
            None => check("0.1.0 (none is given)".to_owned())?,
        }
        if let Some(list) = value(&self.keys, "cniVersions") {
            let list: Vec<String> = serde_json::from_str(list.get())
                .map_err(|_| UnusableConflist::Incomplete("its cniVersions are no list of versions"))?;
            list.into_iter().try_for_each(check)?;
        }
        Ok(())
    }

    /// What our own entry says about the file from which this one was derived.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        #[derive(Derive)]
        #[serde(rename_all = "camelCase")]
        struct Entry {
            derived_from: Option<Record>,
        }
        let own = self.plugins.iter().find(|plugin| plugin.kind == TYPE)?;
        serde_json::from_str::<Entry>(own.text.get()).ok()?.derived_from
    }

    /// Whether two lists are equal but for their plugins.
    #[must_use]
    pub fn has_same_keys(&self, other: &Self) -> bool {
        let map = |list: &Self| -> BTreeMap<String, Option<Value>> {
            list.keys.iter().map(|(key, value)| (key.clone(), parsed(value))).collect()
        };
        map(self) == map(other)
    }

    /// This list with other plugins, as the text of a file.
    #[must_use]
    pub fn text_with<'a>(&self, plugins: impl IntoIterator<Item = &'a Plugin>) -> String {
        let plugins: Vec<&str> = plugins.into_iter().map(|plugin| plugin.text.get()).collect();
        let plugins = format!("  \"plugins\": [\n    {}\n  ]", plugins.join(",\n    "));
        let pair = |(key, value): &(String, Box<RawValue>)| format!("  {}: {}", Value::from(key.as_str()), value.get());
        let mut pairs: Vec<String> = self.keys.iter().map(pair).collect();
        pairs.insert(self.before, plugins);
        format!("{{\n{}\n}}\n", pairs.join(",\n"))
    }
}

/// Whether a configuration leads to our plugin: it has an entry of that type at any depth, as
/// in a delegate of Multus, or names our file as the one to delegate to.
///
/// # Errors
/// If it is no JSON.
pub fn leads_to(own_file: &str, bytes: &[u8]) -> Result<bool, UnusableConflist> {
    let Leads(found) = read(bytes)?;
    Ok(found.iter().any(|found| match found {
        RuntimeReference::Type => true,
        RuntimeReference::Network(path) => path.rsplit('/').next() == Some(own_file),
    }))
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, UnusableConflist> {
    serde_json::from_slice(bytes).map_err(|error| UnusableConflist::Malformed(error.to_string()))
}

fn value<'a>(fields: &'a [(String, Box<RawValue>)], key: &str) -> Option<&'a RawValue> {
    fields.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
}

/// The fields of an object in order, each once.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields: indexmap::IndexMap<String, Box<RawValue>> = indexmap::IndexMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    fields.insert(key, value);
                }
                Ok(Fields(fields.into_iter().collect()))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// What leads to a plugin or to a file, from all of a JSON text: also from keys that stand
/// there twice, where a map would keep one.
struct Leads(Vec<RuntimeReference>);

enum RuntimeReference {
    /// An entry of our type.
    Type,
    /// Multus's `clusterNetwork`.
    Network(String),
}

/// A value, and itself if it is a text.
struct JsonPart {
    text: Option<String>,
    inside: Vec<RuntimeReference>,
}

impl<'de> Deserialize<'de> for Leads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        JsonPart::deserialize(deserializer).map(|part| Self(part.inside))
    }
}

impl<'de> Deserialize<'de> for JsonPart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyPart)
    }
}

struct AnyPart;

impl<'de> Visitor<'de> for AnyPart {
    type Value = JsonPart;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<JsonPart, E> {
        Ok(JsonPart { text: None, inside: Vec::new() })
    }

    fn visit_i64<E>(self, _: i64) -> Result<JsonPart, E> {
        Ok(JsonPart { text: None, inside: Vec::new() })
    }

    fn visit_u64<E>(self, _: u64) -> Result<JsonPart, E> {
        Ok(JsonPart { text: None, inside: Vec::new() })
    }

    fn visit_f64<E>(self, _: f64) -> Result<JsonPart, E> {
        Ok(JsonPart { text: None, inside: Vec::new() })
    }

    fn visit_unit<E>(self) -> Result<JsonPart, E> {
        Ok(JsonPart { text: None, inside: Vec::new() })
    }

    fn visit_str<E>(self, text: &str) -> Result<JsonPart, E> {
        Ok(JsonPart { text: Some(text.to_owned()), inside: Vec::new() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<JsonPart, A::Error> {
        let mut inside = Vec::new();
        while let Some(part) = list.next_element::<JsonPart>()? {
            inside.extend(part.inside);
        }
        Ok(JsonPart { text: None, inside })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonPart, A::Error> {
        let mut inside = Vec::new();
        while let Some((key, part)) = map.next_entry::<String, JsonPart>()? {
            inside.extend(part.inside);
            // A plugin's keys are read without regard to case.
            match part.text {
                Some(text) if key.eq_ignore_ascii_case("type") && text == TYPE => inside.push(RuntimeReference::Type),
                Some(text) if key.eq_ignore_ascii_case("clusterNetwork") => {
                    inside.push(RuntimeReference::Network(text));
                }
                _ => {}
            }
        }
        Ok(JsonPart { text: None, inside })
    }
}

#[cfg(test)]
#[path = "conflist_tests.rs"]
mod tests;
