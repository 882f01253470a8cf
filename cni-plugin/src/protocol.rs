//! The messages of the plugin and the agent over a unix socket.
//!
//! One request and one answer per connection. Each is one JSON object on one line, of
//! at most [`LONGEST_REQUEST`] or [`LONGEST_ANSWER`] bytes with the newline. Both have
//! a `version`. Fields that a side does not know are of no account to it, so a newer
//! version may add some; an agent answers a command that it does not know with an
//! error. So each version of the plugin works with each version of the agent.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// How many bytes a request may have.
pub const LONGEST_REQUEST: usize = 1 << 20;

/// How many bytes an answer may have.
pub const LONGEST_ANSWER: usize = 16 << 10;

/// For how long a pod of `openNamespaces` waits for the agent at most, because the agent may wait for
/// that very pod. Then it starts, and is open until the agent knows it.
pub const OPEN_PATIENCE: Duration = Duration::from_secs(2);

/// What the plugin asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The version of the protocol that the plugin speaks.
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub command: Command,
}

impl Request {
    /// A request in this version.
    #[must_use]
    pub const fn new(command: Command) -> Self {
        Self { version: VERSION, command }
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase")]
pub enum Command {
    /// Answer when the rules of this pod are in the kernel.
    Add(Add),
    /// The container's interface goes.
    Delete {
        /// The container and interface that it is about.
        #[serde(flatten)]
        attachment: Attachment,
    },
    /// Answer whether the rules of this pod are in the kernel.
    Check(Add),
    /// All other attachments of this network are gone.
    Gc {
        /// The name of the network.
        network: String,
        /// The attachments that are there.
        valid: Vec<Attachment>,
    },
}

/// A container's interface: what an ADD makes and a DEL removes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// `CNI_CONTAINERID`; a sandbox that is made again has another one.
    pub container_id: String,
    /// `CNI_IFNAME`
    pub interface: String,
}

/// Which pod got which addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// The container and its interface.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// The name of the network.
    #[serde(default)]
    pub network: String,
    /// The path of the network namespace.
    #[serde(default)]
    pub netns: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID, if the runtime gives it; of a static pod, the hash of its manifest.
    #[serde(default)]
    pub uid: Option<String>,
    /// The addresses, of either family.
    pub addresses: Vec<IpAddr>,
    /// The node's end of the container's interface, where one is found.
    #[serde(default)]
    pub host_interface: Option<HostInterface>,
    /// For how long the plugin waits for the answer, in milliseconds.
    #[serde(default)]
    pub wait: u64,
    /// For how long it has waited already, in milliseconds. So the agent knows which of two ADDs
    /// began first, also if the later one arrives first. Older plugins do not say it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waited: u64,
    /// In a note: the settings (`openNamespaces`) let this pod start without its rules, so it is
    /// not isolated while its object is unknown.
    #[serde(default, skip_serializing_if = "is_false")]
    pub open: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(is_so: &bool) -> bool {
    !is_so
}

/// A network interface of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInterface {
    /// Its name.
    pub name: String,
    /// Its index. The kernel gives a new interface one that none had, but one that comes from another
    /// network namespace keeps its own if that is free. So a later interface may have the same index, as
    /// it may have the same name.
    pub index: u32,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The version of the protocol that the agent speaks.
    pub version: u32,
    /// Why not, if it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
}

/// Why the agent did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of reason.
    pub kind: Reason,
    /// What was wrong, for an operator.
    pub message: String,
}

/// The kinds of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// It was not done in time.
    Timeout,
    /// The agent knows no such container, or it has other addresses.
    Unknown,
    /// The rules of the pod are not in the kernel.
    NotEnforced,
    /// The sandbox has ended: it had its DEL, or its interface is not there any more. Older
    /// plugins take this for the next one.
    Gone,
    /// The request is none that the agent understands.
    #[serde(other)]
    Malformed,
}

impl Answer {
    /// It is done.
    #[must_use]
    pub const fn done() -> Self {
        Self { version: VERSION, error: None }
    }

    /// It is not done, for this reason.
    pub fn refused(kind: Reason, message: impl Into<String>) -> Self {
        Self { version: VERSION, error: Some(Refusal { kind, message: message.into() }) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_add_is_written_as_documented() {
        let text = r#"{"version":1,"command":"add","containerId":"c","interface":"eth0","network":"n","netns":"/run/netns/x","namespace":"shop","name":"web","uid":"u","addresses":["10.0.0.1","fd00::1"],"hostInterface":{"name":"veth1","index":7},"wait":29000}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        assert!(matches!(&request.command, Command::Add(add) if add.addresses.len() == 2));
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        let later = text.replace("29000}", "28000,\"waited\":1000,\"open\":true}");
        let request: Request = serde_json::from_str(&later).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), later);
    }

    #[test]
    fn what_a_newer_version_adds_is_of_no_account() {
        let newer = r#"{"version":9,"command":"delete","containerId":"c","interface":"eth0","cause":{"x":[1]}}"#;
        let request: Request = serde_json::from_str(newer).unwrap();
        assert!(matches!(request.command, Command::Delete { .. }));
        assert!(serde_json::from_str::<Request>(r#"{"version":9,"command":"dance"}"#).is_err());
        let answer = r#"{"version":9,"since":1,"error":{"kind":"tired","message":"m"}}"#;
        let answer: Answer = serde_json::from_str(answer).unwrap();
        assert_eq!(answer.error.map(|error| error.kind), Some(Reason::Malformed));
        // The least that an older plugin sends.
        let least = r#"{"version":1,"command":"add","containerId":"c","interface":"e","namespace":"a","name":"b","addresses":[]}"#;
        assert!(serde_json::from_str::<Request>(least).is_ok());
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "\\PC*") {
            let _ = serde_json::from_str::<Request>(&text);
            let _ = serde_json::from_str::<Answer>(&text);
        }
    }
}
