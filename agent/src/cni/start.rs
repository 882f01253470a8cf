//! How an agent begins to serve the CNI plugin.

use std::path::PathBuf;
use std::time::Duration;

use npc_cni::protocol::Add;
use tokio::sync::mpsc;
use tokio::time;
use tracing::{error, info, warn};

use super::ended::links_of;
use super::files::Files;
use super::netns::{self, SeenNetns};
use super::policy_lists::{AskPolicies, PolicyLists};
use super::registry::{REQUESTS, Registry};
use super::sandbox::Saved;
use super::sandboxes::Sandboxes;
use super::server::{self, PendingRequest};
use crate::enforce::Event;
use crate::metrics::Cni;
use crate::status::SharedStatus;
use crate::tasks::Tasks;
use crate::words::causes::with_causes;
use crate::words::rounded::rounded;

/// How long to wait before the socket is tried again that could not be made.
pub(super) const BIND_RETRY: Duration = Duration::from_secs(10);

/// How an agent serves the CNI plugin.
#[derive(Debug)]
pub struct CniOptions {
    /// Where the socket is to be.
    pub socket: PathBuf,
    /// The name of the node.
    pub node: String,
    /// How to ask for the policies of a namespace, where there is an API server.
    pub ask: Option<AskPolicies>,
    /// Where it counts.
    pub metrics: Cni,
    /// Where it says whether it serves.
    pub status: SharedStatus,
}

/// Serves the plugin, as soon as the socket can be made. Answers where the source of objects and
/// the network are to send their events; they come to `agent` with what CNI reports. `tasks` finds
/// that one of its parts has ended.
#[must_use]
pub fn start(options: CniOptions, agent: mpsc::Sender<Event>, tasks: &mut Tasks) -> mpsc::Sender<Event> {
    let files = Files::beside(options.socket.clone(), options.metrics.clone(), options.status.clone());
    let mut saved = files.saved().unwrap_or_else(|error| {
        error!(
            error = with_causes(&error),
            "what CNI reported before this agent started is not known, so pods have the addresses that the API reports"
        );
        Saved::default()
    });
    if saved.is_stale {
        warn!(
            "what an earlier agent saved is out of date, because it could not be saved later; only those of its sandboxes \
             count that are shown to be there"
        );
        let seen = links_of(saved.sandboxes.iter().map(|saved| &saved.add));
        let has_link = |add: &Add| add.host_interface.as_ref().is_some_and(|link| seen.shows(link));
        saved = saved.without_doubtful(|add| has_link(add) || netns::is_there(&add.netns));
    }
    let (sender, events) = mpsc::channel(1);
    let (asks, requests) = mpsc::channel(REQUESTS);
    let count = saved.sandboxes.len();
    let serve = serve(options.socket, asks, count, options.metrics.clone(), options.status);
    tasks.spawn("serves the CNI plugin", serve);
    let (answers, answered) = mpsc::unbounded_channel();
    let netns = SeenNetns::of(std::mem::take(&mut saved.seen_netns));
    let sandboxes = Sandboxes::new(&options.node, saved);
    let lists = PolicyLists::new(options.ask);
    let registry = Registry::new(sandboxes, netns, lists, files, agent, answers, options.metrics);
    tasks.spawn("keeps what CNI reports", registry.run(events, requests, answered));
    sender
}

/// Makes the socket and serves it. Until that is possible, what an earlier agent saved and what
/// the plugin leaves in notes counts all the same.
async fn serve(
    socket: PathBuf,
    requests: mpsc::Sender<PendingRequest>,
    sandboxes: usize,
    metrics: Cni,
    status: SharedStatus,
) {
    let serves = |is_served: bool| {
        metrics.serves(is_served);
        status.update(|status| status.cni_served = Some(is_served));
    };
    while !requests.is_closed() {
        match server::bind(&socket) {
            Ok(listener) => {
                info!(socket = %socket.display(), sandboxes, "serving the CNI plugin");
                serves(true);
                return server::serve(listener, requests).await;
            }
            Err(error) => {
                serves(false);
                error!(
                    %error, socket = %socket.display(), retry = ?rounded(BIND_RETRY),
                    "cannot serve the CNI plugin; new pods wait, or start before their policies are enforced; trying again"
                );
                time::sleep(BIND_RETRY).await;
            }
        }
    }
}
