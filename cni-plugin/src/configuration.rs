//! The network configuration that the runtime gives on standard input: the plugin's
//! entry of the conflist, with what the plugins before it answered.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::protocol::Attachment;
use crate::{Code, Error};

/// The versions of the specification that the plugin speaks, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// How many bytes a configuration may have. A GC lists every attachment of the node.
pub const LONGEST: u64 = 4 << 20;

/// The name of the plugin, as the `type` of its entry.
pub const TYPE: &str = "npc-cni";

/// How many bytes a file of the runtime's folder may have. A configuration has some thousand.
pub const LONGEST_FILE: u64 = 1 << 20;

/// How many files of a folder are read. A runtime's folder has a few.
pub const MOST_FILES: usize = 1000;

/// Where the agent's socket is, if nothing else is configured.
pub const SOCKET: &str = "/run/npc/cni.sock";

/// For how long the plugin waits for the agent: usually, and at most. The kubelet gives
/// a sandbox 4 minutes in all.
const TIMEOUT: u64 = 30;
const LONGEST_TIMEOUT: u64 = 100;

/// What to do with a pod where the agent does not answer in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailurePolicy {
    /// The pod does not start; kubelet tries again.
    #[default]
    Closed,
    /// The pod starts, and the agent gets a note about it.
    Open,
}

/// What the runtime sent as JSON: its values by their keys.
///
/// As for runtimes and plugins in Go, `null` is as if the key were missing, and of a key that is there twice the last
/// counts. A value of a wrong type is an error where it is used. A DEL uses few, and has to succeed.
#[derive(Debug)]
pub struct Input(BTreeMap<String, Box<RawValue>>);

/// The settings of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the agent's socket is.
    pub socket: PathBuf,
    /// For how long to wait for the agent.
    pub timeout: Duration,
    /// What to do if it does not answer.
    pub failure_policy: FailurePolicy,
    /// The namespaces whose pods start without it.
    pub open_namespaces: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: SOCKET.into(),
            timeout: Duration::from_secs(TIMEOUT),
            failure_policy: FailurePolicy::default(),
            open_namespaces: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether this is a namespace whose pods wait for the agent for a short time only.
    #[must_use]
    pub fn is_open(&self, namespace: &str) -> bool {
        self.open_namespaces.iter().any(|open| open == namespace)
    }

    /// Whether a pod of this namespace starts, if the plugin cannot have its policies enforced.
    #[must_use]
    pub fn starts_unenforced(&self, namespace: &str) -> bool {
        self.failure_policy == FailurePolicy::Open || self.is_open(namespace)
    }
}

impl Input {
    /// Reads the JSON. Keys that the plugin does not know are of no account: runtimes
    /// add some.
    ///
    /// # Errors
    /// If it is no JSON object of this shape, or too long.
    pub fn parse(input: &[u8]) -> Result<Self, Error> {
        if input.len() as u64 > LONGEST {
            return Err(Error::new(
                Code::Decode,
                format!("npc-cni: the network configuration has more than {LONGEST} bytes"),
            ));
        }
        let wrong = |what: &str| {
            Error::new(Code::Decode, format!("npc-cni: the network configuration is not the expected JSON: {what}"))
        };
        // serde would take an array for an object.
        if input.trim_ascii_start().first() != Some(&b'{') {
            return Err(wrong("an object is expected"));
        }
        serde_json::from_slice(input).map(Self).map_err(|error| wrong(&error.to_string()))
    }

    /// The value of a key as it was written, unless that is `null`.
    fn raw(&self, key: &str) -> Option<&RawValue> {
        self.0.get(key).map(|value| &**value).filter(|value| value.get() != "null")
    }

    /// The value of a key, unless that is `null`. One that nests too deep has no type that any key wants.
    fn value(&self, key: &str) -> Option<Value> {
        self.raw(key)
            .map(|value| serde_json::from_str(value.get()).unwrap_or_else(|_| Value::Object(serde_json::Map::new())))
    }

    /// The version that the runtime speaks, if the plugin speaks it too.
    ///
    /// # Errors
    /// If it is missing or another one.
    pub fn version(&self) -> Result<&'static str, Error> {
        let given = match self.value("cniVersion") {
            None => "0.1.0".to_owned(),
            Some(Value::String(version)) => version,
            Some(other) => {
                let what =
                    format!("npc-cni: cniVersion in the network configuration is {other}, and a text is expected");
                return Err(Error::new(Code::Decode, what));
            }
        };
        VERSIONS.into_iter().find(|version| *version == given).ok_or_else(|| {
            Error::new(
                Code::IncompatibleVersion,
                format!(
                    "npc-cni: cniVersion {given} is not supported; set one of {} in the network configuration",
                    VERSIONS.join(", ")
                ),
            )
        })
    }

    /// The name of the network; empty if there is none.
    #[must_use]
    pub fn network(&self) -> String {
        self.value("name").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// What the plugins before this one answered, as they wrote it.
    #[must_use]
    pub fn previous(&self) -> Option<&RawValue> {
        self.raw("prevResult")
    }

    /// The attachments that a GC is to keep.
    ///
    /// # Errors
    /// If there is no such list.
    pub fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        #[derive(Deserialize)]
        struct Listed {
            #[serde(rename = "containerID")]
            container_id: String,
            ifname: String,
        }
        // The second is the name of an earlier draft, which libcni sends too.
        let list = self.value("cni.dev/valid-attachments").or_else(|| self.value("cni.dev/attachments"));
        let list = list.ok_or_else(|| wrong("cni.dev/valid-attachments", "a list is expected"))?;
        let list: Vec<Listed> =
            serde_json::from_value(list).map_err(|error| wrong("cni.dev/valid-attachments", &error.to_string()))?;
        let attachment = |one: Listed| Attachment { container_id: one.container_id, interface: one.ifname };
        Ok(list.into_iter().map(attachment).collect())
    }

    /// The plugin's settings.
    ///
    /// # Errors
    /// If one of them has a value that it does not take.
    pub fn settings(&self) -> Result<Settings, Error> {
        let mut settings = Settings::default();
        for (key, what) in [("name", "the name of a network is expected"), ("conflist", "a path is expected")] {
            if self.value(key).is_some_and(|text| !text.is_string()) {
                return Err(wrong(key, what));
            }
        }
        if let Some(socket) = self.value("socket") {
            settings.socket = absolute(&socket).ok_or_else(|| wrong("socket", "an absolute path is expected"))?;
        }
        if let Some(value) = self.value("timeoutSeconds") {
            let seconds = value.as_u64().filter(|seconds| (1..=LONGEST_TIMEOUT).contains(seconds));
            let seconds = seconds.ok_or_else(|| wrong("timeoutSeconds", "a number from 1 to 100 is expected"))?;
            settings.timeout = Duration::from_secs(seconds);
        }
        if let Some(value) = self.value("failurePolicy") {
            settings.failure_policy = serde_json::from_value(value)
                .map_err(|_| wrong("failurePolicy", "\"closed\" or \"open\" is expected"))?;
        }
        if let Some(value) = self.value("openNamespaces") {
            settings.open_namespaces =
                serde_json::from_value(value).map_err(|_| wrong("openNamespaces", "a list of names is expected"))?;
        }
        Ok(settings)
    }

    /// Whether npc was taken off this node: the conflist that the installer wrote is gone, and
    /// no other one of its is in the same folder. Programs that derive a configuration from it
    /// keep a copy of our entry (Istio, Multus), and that copy must not keep pods from starting.
    ///
    /// An operator or an upgrade may change the name of the conflist. The installer then writes
    /// the new file before it removes the old one. A runtime may still call the plugin by what it
    /// read from the old one.
    #[must_use]
    pub fn is_uninstalled(&self) -> bool {
        let Some(conflist) = self.value("conflist").as_ref().and_then(absolute) else { return false };
        // Where the folder is missing too, the plugin runs where it cannot see the node's files.
        let is_gone = || fs::symlink_metadata(&conflist).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        conflist.parent().is_some_and(|folder| folder.is_dir() && is_gone() && !has_installed(folder))
    }

    /// The socket alone, where it can be used: a DEL or a GC does not fail because of a wrong
    /// setting.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.value("socket").as_ref().and_then(absolute).unwrap_or_else(|| SOCKET.into())
    }
}

/// Whether a configuration is one that our installer wrote at this path: our plugin's entry in
/// its list names that path as the installed conflist. A copy elsewhere names the original.
#[must_use]
pub fn names_itself(path: &Path, bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct List {
        plugins: Vec<serde_json::Map<String, Value>>,
    }
    let Ok(List { plugins }) = serde_json::from_slice(bytes) else { return false };
    let text =
        |entry: &serde_json::Map<_, serde_json::Value>, key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    let is_own = |entry| text(entry, "type").is_some_and(|kind| kind == TYPE);
    let names = |entry| text(entry, "conflist").is_some_and(|conflist| Path::new(&conflist) == path);
    plugins.iter().any(|entry| is_own(entry) && names(entry))
}

/// Whether a folder has a conflist that our installer wrote there.
fn has_installed(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().take(MOST_FILES).any(|entry| {
        let path = entry.path();
        // The installer writes regular files only. Reading a pipe would not end.
        let is_candidate =
            path.extension().is_some_and(|end| end == "conflist") && entry.file_type().is_ok_and(|kind| kind.is_file());
        let mut bytes = Vec::new();
        is_candidate
            && File::open(&path).is_ok_and(|file| file.take(LONGEST_FILE).read_to_end(&mut bytes).is_ok())
            && names_itself(&path, &bytes)
    })
}

fn absolute(value: &Value) -> Option<PathBuf> {
    value.as_str().map(PathBuf::from).filter(|path| path.is_absolute())
}

fn wrong(key: &str, what: &str) -> Error {
    Error::new(
        Code::InvalidConfiguration,
        format!("npc-cni: {key} in the network configuration has a wrong value: {what}"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, Error> {
        Input::parse(text.as_bytes())?.settings()
    }

    #[test]
    fn settings_have_defaults_and_limits() {
        assert_eq!(settings("{}"), Ok(Settings::default()));
        let all = settings(
            r#"{"socket":"/s","timeoutSeconds":100,"failurePolicy":"open","openNamespaces":["a"],"capabilities":{}}"#,
        )
        .unwrap();
        assert_eq!((all.timeout.as_secs(), all.failure_policy), (100, FailurePolicy::Open));
        assert_eq!((all.socket.to_str(), &*all.open_namespaces), (Some("/s"), &["a".to_owned()][..]));
        for text in [
            r#"{"timeoutSeconds":0}"#,
            r#"{"timeoutSeconds":101}"#,
            r#"{"timeoutSeconds":"5"}"#,
            r#"{"timeoutSeconds":-1}"#,
            r#"{"failurePolicy":"ajar"}"#,
            r#"{"openNamespaces":"kube-system"}"#,
            r#"{"socket":"relative"}"#,
            r#"{"socket":7}"#,
            r#"{"conflist":["/x"]}"#,
            r#"{"name":1}"#,
        ] {
            assert_eq!(settings(text).unwrap_err().code, Code::InvalidConfiguration, "{text}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_an_error() {
        for text in ["", "{", "null", "[]", "[\"1.0.0\",\"n\"]", "\u{0}", "{}{}"] {
            assert_eq!(Input::parse(text.as_bytes()).unwrap_err().code, Code::Decode, "{text}");
        }
        assert_eq!(Input::parse(&vec![b' '; 5 << 20]).unwrap_err().code, Code::Decode);
        let deep = "[".repeat(100_000);
        assert_eq!(Input::parse(format!("{{\"x\":{deep}").as_bytes()).unwrap_err().code, Code::Decode);
    }

    #[test]
    fn five_versions_are_spoken() {
        let version = |text: &str| Input::parse(text.as_bytes()).unwrap().version().map_err(|error| error.code);
        for known in VERSIONS {
            assert_eq!(version(&format!(r#"{{"cniVersion":"{known}"}}"#)), Ok(known));
        }
        for text in [r#"{"cniVersion":"0.2.0"}"#, r#"{"cniVersion":"2.0.0"}"#, "{}", r#"{"cniVersion":null}"#] {
            assert_eq!(version(text), Err(Code::IncompatibleVersion), "{text}");
        }
        assert_eq!(version(r#"{"cniVersion":1}"#), Err(Code::Decode));
    }

    /// Go's decoder, which runtimes and the plugins before ours have, takes both.
    #[test]
    fn null_is_as_if_missing_and_of_two_values_the_last_counts() {
        let nulls = r#"{"name":null,"socket":null,"timeoutSeconds":null,"failurePolicy":null,"openNamespaces":null,"conflist":null,"prevResult":null}"#;
        assert_eq!(settings(nulls), Ok(Settings::default()));
        assert!(Input::parse(nulls.as_bytes()).unwrap().previous().is_none());
        let twice = r#"{"timeoutSeconds":"x","timeoutSeconds":7,"socket":"/a","socket":"/b"}"#;
        let settings = settings(twice).unwrap();
        assert_eq!((settings.timeout.as_secs(), settings.socket.to_str()), (7, Some("/b")));
        let deep = format!(r#"{{"openNamespaces":{}{}}}"#, "[".repeat(1_000), "]".repeat(1_000));
        assert!(Input::parse(deep.as_bytes()).unwrap().settings().is_err());
    }
}
