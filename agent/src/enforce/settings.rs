//! What an agent is given at its start and while it runs, and why it ends.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinError;

use super::azure_npm::AzureNpm;
use super::obstacle::IPVS;
use super::waiters::Waiter;
use crate::dataplane;
use crate::dataplane::network::Network;
use crate::dataplane::nflog::Received;
use crate::metrics::Metrics;
use crate::serve::Liveness;
use crate::service::ServiceManager;
use crate::source::Changes;
use crate::source::notice::Notice;
use crate::status::{AgentStatus, SharedStatus};

/// What can happen to an agent.
#[derive(Debug)]
pub enum Event {
    /// This changed in the cluster; the first time, this is all there is.
    Changes(Changes),
    /// The network of this node is now this.
    Network(Network),
    /// A program wrote to the packet filter, perhaps this agent.
    PacketFilterChanged,
    /// The rules denied something.
    Denied(Received),
    /// Answer these when the events before this one are in the kernel.
    Waiters(Vec<Waiter>),
    /// Answer whether the kernel holds what it should, once everything was read anew.
    Check(oneshot::Sender<bool>),
    /// End, and leave everything in the kernel as it is.
    Shutdown,
}

/// What an agent is given at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of its node.
    pub node: String,
    /// Write the state once and end.
    pub once: bool,
    /// The file that exists while the agent is ready.
    pub ready_file: Option<PathBuf>,
    /// What to do about what Azure NPM left.
    pub azure_npm: AzureNpm,
    /// Where it counts.
    pub metrics: Metrics,
    /// Where it keeps its status.
    pub status: SharedStatus,
    /// Where it shows that its loop is alive.
    pub liveness: Liveness,
    /// What it reports to systemd.
    pub service: ServiceManager,
    /// Where it sends what is to be written to the cluster, if there is one.
    pub notices: Option<mpsc::UnboundedSender<Notice>>,
    /// The Nodes that the agent needs from the source, if that does not have all: pods
    /// on them list an address that other pods list too.
    pub wanted_nodes: watch::Sender<BTreeSet<String>>,
}

impl Settings {
    /// The settings of the agent of a node that follows a source, with everything optional off.
    #[must_use]
    pub fn new(node: &str, source: &str) -> Self {
        Self {
            node: node.to_owned(),
            once: false,
            ready_file: None,
            azure_npm: AzureNpm::default(),
            metrics: Metrics::default(),
            status: SharedStatus::new(AgentStatus::new(node, source)),
            liveness: Liveness::default(),
            service: ServiceManager::default(),
            notices: None,
            wanted_nodes: watch::Sender::default(),
        }
    }
}

/// Why an agent ended, other than because it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ready file cannot be there.
    #[error("cannot write the ready file")]
    Ready(#[source] io::Error),
    /// The kernel refused the state, and there is to be one try only.
    #[error("the policies are not in the kernel")]
    Kernel(#[from] dataplane::Error),
    /// IPVS is in use, and there is to be one try only.
    #[error("{IPVS}")]
    Ipvs,
    /// No object has the node's name, and there is to be one try only.
    #[error("{0}")]
    Misnamed(String),
    /// Every source of events ended.
    #[error("no source is left, so the agent would miss every change")]
    NoEvents,
    /// A pass panicked.
    #[error("a pass ended early")]
    Broken(#[from] JoinError),
}
