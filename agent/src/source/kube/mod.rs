//! The cluster, watched at its API server: Pods, Namespaces, NetworkPolicies
//! and this node's own Node. The only module that names kube.
//!
//! ```text
//! API server ─▶ watch, one per kind ─▶ slim objects ─▶ follow ─▶ Changes
//!                 (lists, backoff)                      └ known: what a list leaves out is gone
//! API server ─▶ nodes ─▶ Changes: the Nodes of pods that list one address, while they do
//! API server ─▶ list ─▶ Objects, once, for commands
//! API server ◀─ tell ◀─ Notices: an Event on a policy, the start-up taint
//! ```
//!
//! **Invariants.** What is told before every kind was listed completely says that
//! it is a part, so nothing comes of it yet; the agent's engine takes it in, which
//! keeps much less of an object than there is of it here. A watch that is lost
//! changes nothing: what was told stays true until a list says otherwise, and only
//! a complete one says that something is gone.

mod hearing;
mod known;
mod list;
mod nodes;
mod slim;
mod tell;
mod watch;

use std::hash::Hash;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::HeaderValue;
use http::header::USER_AGENT;
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::{DeserializeGuard, Status};
use kube::runtime::watcher::{DefaultBackoff, Error as WatchError, Event as Watched};
use kube::{Api, Client, Config, ResourceExt as _};
use npc_compiler::engine::{self, PodKey};
use npc_compiler::object;
use tokio::sync::mpsc;
use tokio::time;
use tracing::{debug, error, info, warn};

use self::known::{Known, SmallKey};
pub use self::list::{Error as ListError, Listed, list};
pub use self::nodes::look_up;
pub use self::tell::{Notice, STARTUP_TAINT, tell};
pub use self::watch::WATCH_SECONDS;
use super::{Change, Changes};
use crate::metrics::{Kind, Watches};

/// How long an answer may take to begin or to go on.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// How npc names itself to the API server. Its audit log shows this, and its
/// `managedFields` show the part before the slash for what npc writes.
const AGENT_NAME: HeaderValue = HeaderValue::from_static(concat!("npc/", env!("CARGO_PKG_VERSION")));

/// How many changes are gathered before the agent is told, if it could be told
/// at once.
const GATHERED: usize = 4096;

/// Why there is no client for a cluster. The text has the cause in it, so no error
/// has it as a source that would be printed again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No kubeconfig, and not in a pod either.
    #[error(
        "found no cluster: neither a kubeconfig (--kubeconfig, KUBECONFIG, ~/.kube/config) nor a service account: {}",
        words(.0)
    )]
    Infer(InferConfigError),
    /// The kubeconfig that was named cannot be used.
    #[error("cannot use the kubeconfig: {}", words(.0))]
    Kubeconfig(KubeconfigError),
    /// The client cannot be made.
    #[error("cannot make a client for the API server: {}", words(.0))]
    Client(kube::Error),
}

/// A client for the cluster that kubectl would talk to, or, in a pod, for its
/// own.
///
/// # Errors
/// If nothing tells of a cluster, or what does cannot be read. The API server
/// is not asked.
pub async fn connect(kubeconfig: Option<&Path>, context: Option<String>) -> Result<Client, Error> {
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let mut config = match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(Error::Kubeconfig)?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(Error::Kubeconfig)?
        }
        None if options.context.is_some() => Config::from_kubeconfig(&options).await.map_err(Error::Kubeconfig)?,
        None => Config::infer().await.map_err(Error::Infer)?,
    };
    config.read_timeout = Some(READ_TIMEOUT);
    config.headers.push((USER_AGENT, AGENT_NAME));
    Client::try_from(config).map_err(Error::Client)
}

/// What a watch has to say.
enum Heard {
    Pod(Watched<slim::Pod>),
    Namespace(Watched<slim::Namespace>),
    Policy(Watched<DeserializeGuard<slim::Policy>>),
    Node(Watched<slim::Node>),
    Failed(Kind, WatchError),
}

/// Watches a cluster for a node and tells of its changes, until nobody listens.
/// Each watch is renewed after so many seconds, of [`WATCH_SECONDS`].
pub async fn follow<T>(
    client: Client,
    node: String,
    watch_seconds: u32,
    sender: mpsc::Sender<T>,
    tell: fn(Changes) -> T,
    watches: Watches,
) {
    let client = hearing::noted(&client, watches.clone());
    let streaming = streams_lists(&client).await;
    let mut heard = stream::select_all(streams(&client, &node, watch_seconds, streaming));
    let mut follower = Follower::new(node, watches);
    loop {
        let may_tell = follower.has_something_to_tell();
        tokio::select! {
            biased;
            // Whatever is there already is one change; but the agent does not
            // wait for a cluster that never rests, and what there is at first
            // is not gathered here: an object takes several times what the agent
            // makes of it.
            next = heard.next(), if follower.pending.changes.len() < GATHERED || !may_tell => match next {
                Some(next) => follower.hear(next),
                None => unreachable!("watches never end"),
            },
            permit = sender.reserve(), if may_tell => match permit {
                Ok(permit) => permit.send(tell(follower.take())),
                Err(_) => return,
            },
        }
    }
}

/// How long to wait before each further try of what the API server did not do:
/// from about a second to about a minute, longer and longer, and by chance, so
/// that the agents of all nodes do not come back at the same moment. Never ends.
fn backoff() -> DefaultBackoff {
    DefaultBackoff::default()
}

/// Asks the API server for its version until it answers.
async fn streams_lists(client: &Client) -> bool {
    let mut waits = backoff();
    loop {
        match client.apiserver_version().await {
            Ok(version) => {
                let streaming = watch::streams_lists(&version.major, &version.minor);
                info!(version = version.git_version, streaming, "the API server answers");
                return streaming;
            }
            // It answers, though not this question; pages work with all.
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => {
                debug!(%status, "the API server does not tell its version");
                return false;
            }
            Err(error) => {
                let wait = waits.next().unwrap_or_default();
                warn!(
                    error = words(&error), retry = ?wait,
                    "the API server does not answer; what is in the kernel stays as it is"
                );
                time::sleep(wait).await;
            }
        }
    }
}

fn streams(client: &Client, node: &str, watch_seconds: u32, streaming: bool) -> [BoxStream<'static, Heard>; 4] {
    fn of<K: 'static>(
        kind: Kind,
        events: impl futures::Stream<Item = Result<Watched<K>, WatchError>> + Send + 'static,
        heard: fn(Watched<K>) -> Heard,
    ) -> BoxStream<'static, Heard> {
        events.map(move |event| event.map_or_else(|error| Heard::Failed(kind, error), heard)).boxed()
    }
    let own = format!("metadata.name={node}");
    [
        of(Kind::Node, watch::watch(Api::all(client.clone()), Some(own), watch_seconds, streaming), Heard::Node),
        of(Kind::Namespace, watch::watch(Api::all(client.clone()), None, watch_seconds, streaming), Heard::Namespace),
        of(Kind::NetworkPolicy, watch::watch(Api::all(client.clone()), None, watch_seconds, streaming), Heard::Policy),
        of(Kind::Pod, watch::watch(Api::all(client.clone()), None, watch_seconds, streaming), Heard::Pod),
    ]
}

/// What is known to be there.
#[derive(Default)]
struct Cluster {
    pods: Known<SmallKey>,
    namespaces: Known<String>,
    policies: Known<(String, String)>,
    nodes: Known<String>,
}

/// What is known of the cluster, and what is to be told of it.
struct Follower {
    node: String,
    known: Cluster,
    /// Which kinds were listed completely.
    listed: [bool; Kind::ALL.len()],
    /// Which watches fail, so that it is said once.
    failing: [bool; Kind::ALL.len()],
    pending: Changes,
    /// All there is was told.
    told: bool,
    watches: Watches,
}

/// What comes of an event.
enum Tracked<K> {
    Nothing,
    Happened(engine::Event),
    Gone(K),
    Listed(engine::Event),
    /// A list did not hold these.
    Missing(Vec<K>),
}

impl Follower {
    fn new(node: String, watches: Watches) -> Self {
        Self {
            node,
            known: Cluster::default(),
            listed: [false; Kind::ALL.len()],
            failing: [false; Kind::ALL.len()],
            pending: Changes::default(),
            told: false,
            watches,
        }
    }

    fn is_in_sync(&self) -> bool {
        self.listed.iter().all(|listed| *listed)
    }

    fn has_something_to_tell(&self) -> bool {
        !self.pending.is_empty() || self.is_in_sync() && !self.told
    }

    /// What is to be told.
    fn take(&mut self) -> Changes {
        self.told = self.is_in_sync();
        Changes { is_part: !self.told, ..std::mem::take(&mut self.pending) }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Pod(event) => {
                let event = self.track(
                    Kind::Pod,
                    |known| &mut known.pods,
                    event,
                    |pod| {
                        let pod = object::Pod::from(pod);
                        (PodKey::of(&pod).into(), Some(engine::Event::Pod(Box::new(pod))))
                    },
                );
                self.tell(event, |key| engine::Event::PodGone(key.into()));
            }
            Heard::Namespace(event) => {
                let event = self.track(
                    Kind::Namespace,
                    |known| &mut known.namespaces,
                    event,
                    |namespace| (namespace.name_any(), Some(engine::Event::Namespace(namespace.into()))),
                );
                self.tell(event, engine::Event::NamespaceGone);
            }
            Heard::Policy(event) => {
                let event = self.track(Kind::NetworkPolicy, |known| &mut known.policies, event, understood);
                self.tell(event, |(namespace, name)| engine::Event::PolicyGone(namespace, name));
            }
            Heard::Node(event) => {
                self.track(Kind::Node, |known| &mut known.nodes, event, |node| (node.name_any(), None));
                if self.listed[Kind::Node as usize] {
                    self.pending.is_node = Some(!self.known.nodes.is_empty());
                }
            }
            Heard::Failed(kind, error) => self.failed(kind, &error),
        }
    }

    /// Keeps the books about one kind; what comes of an event.
    fn track<K: Eq + Hash + Clone, T>(
        &mut self,
        kind: Kind,
        known: fn(&mut Cluster) -> &mut Known<K>,
        event: Watched<T>,
        read: impl Fn(T) -> (K, Option<engine::Event>),
    ) -> Tracked<K> {
        self.works(kind, matches!(event, Watched::Init));
        let known = known(&mut self.known);
        match event {
            Watched::Init => {
                known.list_begins();
                Tracked::Nothing
            }
            Watched::InitApply(object) => {
                let (key, event) = read(object);
                known.came(key);
                event.map_or(Tracked::Nothing, Tracked::Listed)
            }
            Watched::Apply(object) => {
                let (key, event) = read(object);
                known.came(key);
                event.map_or(Tracked::Nothing, Tracked::Happened)
            }
            Watched::Delete(object) => {
                let (key, _) = read(object);
                known.went(&key);
                Tracked::Gone(key)
            }
            Watched::InitDone => {
                let gone = known.list_ends();
                let count = known.len();
                self.is_listed(kind, count);
                Tracked::Missing(gone)
            }
        }
    }

    fn tell<K>(&mut self, tracked: Tracked<K>, gone: fn(K) -> engine::Event) {
        let changes = &mut self.pending.changes;
        match tracked {
            Tracked::Nothing => {}
            Tracked::Happened(event) => changes.push(Change::now(event)),
            Tracked::Gone(key) => changes.push(Change::now(gone(key))),
            // Who knows how long ago.
            Tracked::Listed(event) => changes.push(Change { event, heard: None }),
            Tracked::Missing(keys) => {
                changes.extend(keys.into_iter().map(|key| Change { event: gone(key), heard: None }));
            }
        }
    }

    fn is_listed(&mut self, kind: Kind, count: usize) {
        if !std::mem::replace(&mut self.listed[kind as usize], true) {
            info!(kind = kind.as_str(), count, node = self.node, "listed");
        }
    }

    /// A watch has something to say, so it works.
    fn works(&mut self, kind: Kind, lists: bool) {
        self.watches.told(kind);
        if lists {
            self.watches.lists(kind);
        } else if std::mem::take(&mut self.failing[kind as usize]) {
            info!(kind = kind.as_str(), "watching again");
        }
    }

    fn failed(&mut self, kind: Kind, error: &WatchError) {
        self.watches.failed(kind);
        let words = words(error);
        if std::mem::replace(&mut self.failing[kind as usize], true) {
            debug!(kind = kind.as_str(), error = words, "still cannot watch");
        } else if is_refusal(error) {
            error!(
                kind = kind.as_str(),
                error = words,
                "the API server does not let the agent watch, so it learns of no change; what is in the kernel stays \
                 as it is. Are its ClusterRole and ClusterRoleBinding there?"
            );
        } else {
            warn!(
                kind = kind.as_str(),
                error = words,
                "lost the watch; what is in the kernel stays as it is, and the agent tries again"
            );
        }
    }
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.is_node.is_none() && self.positions.is_none()
    }
}

/// A policy's name, and the policy if it can be read. What it was before stays
/// in force otherwise.
fn understood(policy: DeserializeGuard<slim::Policy>) -> ((String, String), Option<engine::Event>) {
    let namespace = policy.namespace().unwrap_or_else(|| "default".to_owned());
    let name = policy.name_any();
    let event = match policy.0 {
        Ok(policy) => Some(engine::Event::Policy(Box::new(policy.into()))),
        Err(invalid) => {
            error!(
                namespace,
                name,
                error = invalid.error,
                "cannot read this NetworkPolicy as the API server sent it; its last readable version stays in force"
            );
            None
        }
    };
    ((namespace, name), event)
}

/// Whether the API server answered, and refused.
fn is_refusal(error: &WatchError) -> bool {
    match error {
        WatchError::InitialListFailed(kube::Error::Api(status))
        | WatchError::WatchStartFailed(kube::Error::Api(status))
        | WatchError::WatchFailed(kube::Error::Api(status)) => matches!(status.code, 401 | 403),
        WatchError::WatchError(status) => matches!(status.code, 401 | 403),
        _ => false,
    }
}

/// An error with its causes, each said once.
///
/// Some of kube's errors are left out: their text is the name of a Rust type and the
/// text of the cause, or a `Status` as Rust prints it.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let client = error.downcast_ref();
    let watch = error.downcast_ref();
    if let (Some(kube::Error::Api(status)), _) | (_, Some(WatchError::WatchError(status))) = (client, watch) {
        return words_of(status);
    }
    let repeats =
        matches!(client, Some(kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::HttpError(_)))
            || watch.is_some();
    if let Some(cause) = error.source().filter(|_| repeats) {
        return words(cause);
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    // kube quotes paths, and prints them as Rust does.
    text.replace("'\"", "'").replace("\"'", "'")
}

/// What the API server answered: its sentence, then the code and the reason.
fn words_of(status: &Status) -> String {
    let code = format!("{} {}", status.code, status.reason);
    match status.message.as_str() {
        "" => code.trim_end().to_owned(),
        message => format!("{message} ({})", code.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_in_words_and_not_as_rust_prints_them() {
        let status = || Status::failure("pods is forbidden", "Forbidden").with_code(403).boxed();
        let refused = || kube::Error::Service(std::io::Error::other("Connection refused").into());
        let forbidden = "pods is forbidden (403 Forbidden)";
        for (error, expected) in [
            (Box::new(kube::Error::Api(status())) as Box<dyn std::error::Error>, forbidden),
            (Box::new(WatchError::WatchError(status())), forbidden),
            (Box::new(WatchError::InitialListFailed(kube::Error::Api(status()))), forbidden),
            (Box::new(kube::Error::Service(Box::new(kube::Error::Api(status())))), forbidden),
            (Box::new(refused()), "Connection refused"),
            (Box::new(WatchError::WatchFailed(refused())), "Connection refused"),
            (Box::new(kube::Error::Api(Status::failure("", "").with_code(502).boxed())), "502"),
            (
                Box::new(WatchError::NoResourceVersion),
                "no metadata.resourceVersion in watch result (does resource support watch?)",
            ),
        ] {
            assert_eq!(words(error.as_ref()), expected);
        }
    }

    /// As commands print it: with all causes.
    #[tokio::test]
    async fn an_error_says_each_thing_once() {
        let Err(error) = connect(Some(Path::new("/nowhere")), None).await else { panic!("there is no such file") };
        let printed = format!("{:#}", anyhow::Error::new(error));
        let expected = "cannot use the kubeconfig: failed to read kubeconfig from '/nowhere': No such file or directory (os error 2)";
        assert_eq!(printed, expected);
        let refused = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("Connection refused"))
        });
        let error = list(&Client::new(refused, "default")).await.expect_err("nothing answers");
        assert_eq!(format!("{:#}", anyhow::Error::new(error)), "cannot list namespaces: Connection refused");
    }
}
