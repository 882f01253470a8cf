//! What an agent has programmed, since when, and what it rejected: the answer to
//! `npc status`.

use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use jiff::Timestamp;
use npc_compiler::API_VERSION;
use npc_compiler::cluster::group::RetainedGroup;
use npc_compiler::object::Protocol;
use npc_compiler::policy::Direction;
use rustix::net::sockopt::socket_peercred;
use serde::{Deserialize, Serialize};

use crate::instance::{self, ABSTRACT_SOCKET};

mod cni;
mod manifests;
mod options;
mod shared;

pub use cni::CniPlugin;
pub use manifests::ManifestError;
pub use options::RuleOptions;
pub use shared::SharedStatus;

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than any status has, in bytes.
const LONGEST: u64 = 64 << 20;

/// Why an agent's status is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No agent listens.
    #[error("no agent answers in this network namespace; is it running, and are you on its node?")]
    NoAgent(#[source] io::Error),
    /// One listens and does not answer.
    #[error("the agent in this network namespace does not answer; see its log")]
    Silent(#[source] io::Error),
    /// Its answer was not understood.
    #[error(
        "this npc ({version}) cannot read the agent's answer; the agent may be of another version, so run npc in its \
         container",
        version = env!("CARGO_PKG_VERSION")
    )]
    Malformed(#[source] serde_json::Error),
}

/// The state of one agent; a contract, as all JSON of npc's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// `npc.dev/v1alpha1`
    pub api_version: String,
    /// `AgentStatus`
    pub kind: String,
    /// The version of the agent.
    pub version: String,
    /// The node that it enforces.
    pub node: String,
    /// What it follows: `cluster`, or the directory of manifests.
    pub source: String,
    /// The packet filter: `nft` or `legacy`; null before it was found.
    pub backend: Option<String>,
    /// When it started (RFC 3339).
    pub started: Timestamp,
    /// The kernel holds what the policies ask for, as far as the agent knows them.
    pub ready: bool,
    /// Why the agent is not ready; null if it is.
    pub reason: Option<String>,
    /// How many changes of the cluster the agent has received.
    pub generation: u64,
    /// The established flows are judged by what is in the kernel too; false while a sweep of
    /// them is due or goes on. Agents up to 0.1.0 do not say it: they cut flows in each change.
    #[serde(default = "yes")]
    pub flows_judged: bool,
    /// When the kernel was last brought up to date; null before the first time.
    pub synced: Option<Timestamp>,
    /// The last change that wrote something; null before the first.
    pub last_change: Option<LastChange>,
    /// NetworkPolicies in the cluster.
    pub policies: usize,
    /// Pods of this node that policies can select.
    pub endpoints: usize,
    /// What the kernel holds of ours, by family.
    pub kernel: Vec<FamilySize>,
    /// Established flows that were cut since the start.
    pub flows_cut: u64,
    /// How many finds of drift are repaired.
    pub drift_repaired: u64,
    /// Parts of policies for which npc enforces something else than their authors meant, sorted.
    pub rejected: Vec<Rejected>,
    /// What of policies is to be corrected and changes nothing that npc enforces, sorted: it was
    /// understood as older API servers did, or it makes no difference.
    #[serde(default)]
    pub deprecated: Vec<Rejected>,
    /// Namespaces whose large changes are being loaded, sorted: what these changed is not in force
    /// yet, though the rest of the cluster is.
    #[serde(default)]
    pub loading: Vec<LoadingNamespace>,
    /// With `--anti-spoof`: the pods of this node whose forged sources are not
    /// dropped, sorted.
    #[serde(default)]
    pub spoofable: Vec<Spoofable>,
    /// Addresses that several pods of the cluster list, sorted.
    #[serde(default)]
    pub contested: Vec<ContestedAddress>,
    /// The table of the bridge family.
    #[serde(default)]
    pub bridge: BridgeStatus,
    /// What the rules depend on besides the cluster; null before the first were written.
    /// Agents up to 0.1.0 do not say it.
    #[serde(default)]
    pub options: Option<RuleOptions>,
    /// Groups that are kept in the kernel for pods that may come back.
    #[serde(rename = "lingering")]
    pub retained: Vec<RetainedGroupStatus>,
    /// Bridges behind which pods of this node reach each other past iptables,
    /// sorted.
    #[serde(default)]
    pub unfiltered_bridges: Vec<UnfilteredBridgeStatus>,
    /// Removals that are held back because the list that implies them is doubtful, by
    /// kind.
    #[serde(default)]
    pub held_removals: Vec<HeldRemovals>,
    /// Objects that cannot be read as the API server sent them, sorted; 100 at most.
    #[serde(default)]
    pub unreadable: Vec<UnreadableObject>,
    /// With `--manifests`: what of the files was not read, sorted; 100 at most.
    #[serde(default)]
    pub manifest_errors: Vec<ManifestError>,
    /// How the CNI plugin is installed; null where no installer reports to this agent.
    #[serde(default)]
    pub cni_plugin: Option<CniPlugin>,
    /// Whether the agent answers the CNI plugin on its socket; null without `--cni-socket`. Older
    /// agents do not say it: most served it.
    #[serde(default = "served")]
    pub cni_served: Option<bool>,
    /// Whether what the CNI plugin reported is saved for the next agent; null without `--cni-socket`, and of older
    /// agents.
    #[serde(default)]
    pub cni_saved: Option<bool>,
}

/// Removals of one kind that are held back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldRemovals {
    /// `Pod`, `Namespace`, `NetworkPolicy` or `Node`.
    pub kind: String,
    /// How many objects.
    pub objects: usize,
    /// Since when (RFC 3339).
    pub since: Timestamp,
}

/// A namespace whose large change is being loaded, and what waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadingNamespace {
    /// Its name.
    pub namespace: String,
    /// Since when the oldest event that waits is the oldest (RFC 3339); it may have waited behind
    /// another one before.
    pub since: Timestamp,
    /// The objects whose last versions are not in force (`KIND NAME`), sorted; 10 at most.
    pub objects: Vec<String>,
    /// How many rules are to be loaded; 0 until the agent has made them.
    pub rules: usize,
    /// How many of them are.
    pub rules_loaded: usize,
}

/// An object that cannot be read as the API server sent it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnreadableObject {
    /// `Pod`, `Namespace`, `NetworkPolicy` or `Node`.
    pub kind: String,
    /// Empty where objects of the kind are in no namespace.
    pub namespace: String,
    /// Empty if the object shows none.
    pub name: String,
    /// Why it cannot be read.
    pub error: String,
    /// What happens now.
    pub effect: String,
}

/// A bridge where iptables filters no frame that goes from one port to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnfilteredBridgeStatus {
    /// Its name.
    pub bridge: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// How many ports it has, at most two of them counted.
    pub ports: u8,
    /// How many isolated pods of this node are behind it.
    pub isolated: usize,
}

/// An address that several pods list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContestedAddress {
    /// The address.
    pub address: IpAddr,
    /// The pods that list it (`NS/NAME`), sorted.
    pub pods: Vec<String>,
    /// The pods that have it in the view of this node: one, or several if nothing shows which of
    /// them has it.
    pub held_by: Vec<String>,
}

/// What the table of the bridge family holds. All is zero if it is not needed: if nothing is
/// isolated and `--anti-spoof` is off, or if no pod is behind a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeStatus {
    /// Ports of pods from which nothing but plain IPv4, IPv6 and ARP comes.
    pub ports: usize,
    /// How many ports pass frames only with their pods' own source addresses.
    pub held: usize,
    /// How many ports get only frames for their pods' own addresses.
    pub guarded: usize,
    /// Why the table is not in the kernel, though it is needed; null if it is.
    pub lack: Option<String>,
}

/// A pod that can send by another's source address, as far as it is up to this
/// node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spoofable {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its address.
    pub address: IpAddr,
    /// Why what comes from there is not held to this address.
    pub reason: String,
}

/// A group of endpoints that has none at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetainedGroupStatus {
    /// `Ingress` or `Egress`.
    pub direction: Direction,
    /// The namespace of its policies.
    pub namespace: String,
    /// Their names, sorted.
    pub policies: Vec<String>,
    /// How its endpoints resolved the named ports of their rules.
    pub named_ports: Vec<NamedPort>,
}

/// A named port and the numbers that it has on a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Protocol,
    /// The port's name.
    pub name: String,
    /// Its numbers; none where the pods have no port of that name.
    pub numbers: Vec<u16>,
}

impl From<RetainedGroup> for RetainedGroupStatus {
    fn from(group: RetainedGroup) -> Self {
        let RetainedGroup { direction, namespace, policies, resolution } = group;
        let port = |((protocol, name), numbers)| NamedPort { protocol, name, numbers: Vec::from_iter(numbers) };
        Self { direction, namespace, policies, named_ports: resolution.into_iter().map(port).collect() }
    }
}

impl From<RetainedGroupStatus> for RetainedGroup {
    fn from(group: RetainedGroupStatus) -> Self {
        let RetainedGroupStatus { direction, namespace, policies, named_ports } = group;
        let port = |port: NamedPort| ((port.protocol, port.name), port.numbers.into_iter().collect());
        Self { direction, namespace, policies, resolution: named_ports.into_iter().map(port).collect() }
    }
}

/// A change that wrote something to the kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastChange {
    /// When it was in the kernel.
    pub at: Timestamp,
    /// What was written, in words.
    pub writes: String,
    /// How long it took to get to the writes, in microseconds.
    pub compile_micros: u64,
    /// How long it took from there to the kernel, in microseconds.
    pub apply_micros: u64,
}

/// What one family of the kernel holds of ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilySize {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Rules.
    pub rules: usize,
    /// Sets.
    pub sets: usize,
    /// Members of all sets.
    pub entries: usize,
}

/// A part of a policy that was not understood, or is to be corrected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// The field, with 0-based indexes.
    pub path: String,
    /// What kind of mistake it is, as `npc reason` knows it; empty from older agents.
    #[serde(default)]
    pub code: String,
    /// What is wrong with it.
    pub problem: String,
    /// What happens now.
    pub effect: String,
    /// Where it stands (`FILE:LINE:COLUMN`), if it is from a file.
    pub location: Option<String>,
}

fn yes() -> bool {
    true
}

#[expect(clippy::unnecessary_wraps, reason = "it is the default of an optional field")]
fn served() -> Option<bool> {
    Some(true)
}

impl AgentStatus {
    /// The status of an agent that has just started.
    #[must_use]
    pub fn new(node: &str, source: &str) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "AgentStatus".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: node.to_owned(),
            source: source.to_owned(),
            backend: None,
            started: Timestamp::now(),
            ready: false,
            reason: Some("it does not know the whole cluster yet".to_owned()),
            generation: 0,
            flows_judged: false,
            synced: None,
            last_change: None,
            policies: 0,
            endpoints: 0,
            kernel: Vec::new(),
            flows_cut: 0,
            drift_repaired: 0,
            rejected: Vec::new(),
            deprecated: Vec::new(),
            loading: Vec::new(),
            spoofable: Vec::new(),
            contested: Vec::new(),
            bridge: BridgeStatus::default(),
            options: None,
            retained: Vec::new(),
            unfiltered_bridges: Vec::new(),
            held_removals: Vec::new(),
            unreadable: Vec::new(),
            manifest_errors: Vec::new(),
            cni_plugin: None,
            cni_served: None,
            cni_saved: None,
        }
    }

    /// Whether pods start once the runtime calls the CNI plugin.
    #[must_use]
    pub fn lets_pods_start(&self) -> bool {
        self.ready && self.cni_served == Some(true)
    }

    /// Asks the agent in the calling thread's network namespace for its status.
    ///
    /// # Errors
    /// If none answers, or one of another version.
    pub fn ask() -> Result<Self, Error> {
        let ask = || {
            // No other user can come to this one. Without it the agent had no lock, or is of
            // before it.
            if let Ok(stream) = UnixStream::connect(instance::status_socket()?) {
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(ABSTRACT_SOCKET)?)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let uid = socket_peercred(&stream)?.uid.as_raw();
            // Any user may take the name.
            if uid != 0 {
                return Err(io::Error::other(format!(
                    "user {uid}, which is not root, holds the socket @{ABSTRACT_SOCKET}"
                )));
            }
            Ok(stream)
        };
        Self::read(ask().map_err(Error::NoAgent)?)
    }

    fn read(stream: UnixStream) -> Result<Self, Error> {
        let mut text = Vec::new();
        stream.take(LONGEST).read_to_end(&mut text).map_err(Error::Silent)?;
        serde_json::from_slice(&text).map_err(Error::Malformed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_agent_that_hangs_is_silent_and_one_of_another_version_malformed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let silent = AgentStatus::read(ours);
        assert!(matches!(silent, Err(Error::Silent(_))), "{silent:?}");
        drop(theirs);
        for text in ["", "{}", "[", "null", "\u{0}"] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(text.as_bytes()).unwrap();
            drop(theirs);
            let malformed = AgentStatus::read(ours);
            assert!(matches!(malformed, Err(Error::Malformed(_))), "{text}: {malformed:?}");
        }
    }

    #[test]
    fn pods_start_with_an_agent_that_is_ready_and_serves_the_plugin() {
        let with = |ready, served| AgentStatus { ready, cni_served: served, ..AgentStatus::new("n1", "cluster") };
        assert!(with(true, Some(true)).lets_pods_start());
        for (ready, served) in [(false, Some(true)), (true, Some(false)), (true, None)] {
            let written = serde_json::to_string(&with(ready, served)).unwrap();
            let read: AgentStatus = serde_json::from_str(&written).unwrap();
            assert!(read.cni_served == served && !read.lets_pods_start(), "{written}");
        }
        // An agent of before does not say it.
        let mut older = serde_json::to_value(with(true, None)).unwrap();
        older.as_object_mut().unwrap().remove("cniServed");
        assert!(serde_json::from_value::<AgentStatus>(older).unwrap().lets_pods_start());
    }
}
