//! The cluster, watched at its API server: Pods, Namespaces, NetworkPolicies
//! and this node's own Node. The only module that names the crate kube.
//!
//! ```text
//! connection ─▶ watch, one per kind ─▶ objects ─▶ follower ─▶ Changes
//!                  (lists, pace)                      └ known: what a list leaves out is gone
//! API server ─▶ watch::reread ─▶ follower: large objects, when policies name more of them
//! API server ─▶ nodes ─▶ Changes: the Nodes of pods that list one address, while they do
//! API server ─▶ list ─▶ Objects, once, for commands, and what else these ask for
//! API server ◀─ notices ◀─ Notices: an Event on a policy, the start-up taint
//! ```
//!
//! **Invariants.** What is reported before every kind was listed completely says that it is a part,
//! so nothing comes of it yet; the agent's engine takes it in, which keeps much less of an object
//! than there is of it here. A watch that is lost changes nothing: what was reported stays true
//! until a list says otherwise, and only a complete one says that something is gone. For all
//! answers of the API server, the agent sends it few requests (`connection`). Of objects of any
//! size it keeps little (`objects`, `follower::policies`), and it reads them once
//! (`objects::unchanged`).

mod connection;
mod follower;
mod list;
mod nodes;
mod notices;
mod objects;
mod owner;
mod unreachable;
mod watch;

use std::panic;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
pub use kube::Client;
use kube::core::Status;
use kube::runtime::watcher::DefaultBackoff;
use npc_compiler::object;
use tokio::sync::watch::channel as watch_channel;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tracing::{debug, info, warn};

pub use self::connection::client::{Connector, connect};
use self::connection::failure::Failure;
pub use self::connection::kubeconfig::{Error, context_namespace};
use self::connection::pace::{AttemptEnd, Backoff, Reach};
use self::follower::Follower;
pub use self::list::other_policies::{OtherPolicies, other_policies};
pub use self::list::workload::{WorkloadAnswer, workload, workload_kinds};
pub use self::list::{Error as ListError, ListSettings, ListedObjects, list, policies_of};
pub use self::nodes::look_up;
pub use self::notices::{Notice, STARTUP_TAINT, write_notices};
use self::objects::decode::Item;
use self::objects::named::PolicyNames;
use self::objects::slim::{Namespace, Node, Pod, Policy};
use self::objects::watched::{ObjectEvent, Trimmed};
pub use self::owner::daemon_set;
pub use self::watch::WATCH_SECONDS;
use self::watch::reread::{Wanted, read_again};
use self::watch::{Common, Lister};
use super::Changes;
use super::held::Times;
use crate::source::ObjectKind;
use crate::source::watch_metrics::Watches;
use crate::status::SharedStatus;
use crate::words::rounded::rounded;

/// How many changes are gathered before they are passed on, if they could be passed on at
/// once.
const GATHERED: usize = 4096;

/// And how many bytes they may take.
const GATHERED_BYTES: usize = 4 << 20;

/// How many events of all watches may wait.
const EVENTS: usize = 64;

/// How a cluster is followed.
#[derive(Debug, Clone)]
pub struct FollowSettings {
    /// The name of this node.
    pub node: String,
    /// After so many seconds, of [`WATCH_SECONDS`], each watch is renewed.
    pub watch_seconds: u32,
    /// When the history that a watch was to go on from has expired, the lists of all
    /// nodes are spread over this time.
    pub relist_spread: Duration,
    /// When removals are applied that a doubtful list implies.
    pub hold: Times,
    /// The kernel isolates pods since an earlier agent.
    pub kernel_isolates: bool,
    /// Where the agent publishes its status.
    pub status: Option<SharedStatus>,
}

impl FollowSettings {
    /// The default settings of the agent of a node.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            watch_seconds: *WATCH_SECONDS.end(),
            relist_spread: Duration::from_secs(30),
            hold: Times::default(),
            kernel_isolates: false,
            status: None,
        }
    }
}

/// What a watch reports, or what was read again.
enum WatchReport {
    Pod(ObjectEvent<Trimmed<object::Pod>>),
    Namespace(ObjectEvent<Trimmed<object::Namespace>>),
    Policy(ObjectEvent<object::NetworkPolicy>),
    Node(ObjectEvent<Vec<IpNetwork>>),
    Failed(ObjectKind, Failure),
    PodAgain(Item<Trimmed<object::Pod>>),
    NamespaceAgain(Item<Trimmed<object::Namespace>>),
    PolicyAgain(Item<object::NetworkPolicy>),
}

/// Watches a cluster for a node and reports its changes, until nothing takes them any
/// more.
pub async fn follow<T>(
    connector: Connector,
    settings: FollowSettings,
    sender: mpsc::Sender<T>,
    report: fn(Changes) -> T,
    watches: Watches,
) {
    let streams = streams_lists(&connector).await;
    let (events, mut reports) = mpsc::channel(EVENTS);
    let (named, wanted) = (PolicyNames::default(), Wanted::default());
    let (policies, has_policies) = watch_channel(false);
    let common = Common {
        connector,
        watches: watches.clone(),
        sender: events,
        reach: Reach::default(),
        seconds: settings.watch_seconds,
        spread: settings.relist_spread,
        streams,
        named: named.clone(),
        room: Arc::new(Semaphore::new(watch::ROOM as usize)),
        has_policies,
    };
    // They end with this set.
    let mut listers = JoinSet::new();
    let asked: [Arc<Notify>; ObjectKind::ALL.len()] = Default::default();
    let asks = |kind: ObjectKind| Arc::clone(&asked[kind as usize]);
    let node = Lister::<Node>::new(&common, ObjectKind::Node, WatchReport::Node, asks(ObjectKind::Node));
    listers.spawn(node.of_one(&settings.node).run());
    let policy =
        Lister::<Policy>::new(&common, ObjectKind::NetworkPolicy, WatchReport::Policy, asks(ObjectKind::NetworkPolicy));
    listers.spawn(policy.run());
    let namespace =
        Lister::<Namespace>::new(&common, ObjectKind::Namespace, WatchReport::Namespace, asks(ObjectKind::Namespace));
    listers.spawn(namespace.after_policies().run());
    listers.spawn(
        Lister::<Pod>::new(&common, ObjectKind::Pod, WatchReport::Pod, asks(ObjectKind::Pod)).after_policies().run(),
    );
    listers.spawn(read_again(common, wanted.clone()));
    let mut follower = Follower::new(&settings, watches, named, wanted);
    loop {
        let (has_news, due) = (follower.has_news(), follower.due());
        tokio::select! {
            biased;
            // None ends while this runs. A panic goes on; `Tasks` reports any other end.
            Some(ended) = listers.join_next() => {
                if let Some(panic) = ended.err().and_then(|error| error.try_into_panic().ok()) {
                    panic::resume_unwind(panic);
                }
                return;
            }
            // All reports that are there already are one change. But the agent does not wait for a
            // cluster that never rests. The first lists are not gathered here, because an object
            // takes several times the memory of what the agent makes of it.
            next = reports.recv(), if !follower.has_gathered_enough() || !has_news => match next {
                Some(next) => {
                    follower.take_in(next);
                    if follower.has_policies() {
                        policies.send_if_modified(|has| !std::mem::replace(has, true));
                    }
                }
                None => unreachable!("a lister ends only after this"),
            },
            permit = sender.reserve(), if has_news => match permit {
                Ok(permit) => permit.send(report(follower.take())),
                Err(_) => return,
            },
            () = time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                for kind in follower.act() {
                    asked[kind as usize].notify_one();
                }
            }
        }
    }
}

/// The release from which an API server streams lists by default (feature gate
/// WatchList). An older one may ignore what it is asked and never say that the
/// list is complete.
const STREAMS_SINCE: (u32, u32) = (1, 32);

/// Whether an API server of this version is asked to stream its lists.
fn is_streaming(major: &str, minor: &str) -> bool {
    // Some write `33+`.
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    matches!((number(major), number(minor)), (Some(major), Some(minor)) if (major, minor) >= STREAMS_SINCE)
}

/// How long to wait before each further try of what the API server did not do:
/// from about a second to about a minute, longer and longer, and by chance, so
/// that the agents of all nodes do not come back at the same moment. Never ends.
fn backoff() -> DefaultBackoff {
    DefaultBackoff::default()
}

/// Asks the API server for its version until it answers.
async fn streams_lists(connector: &Connector) -> bool {
    let mut pace = Backoff::default();
    loop {
        pace.starts(Instant::now());
        let asked = async { connector.client()?.apiserver_version().await };
        let Ok(answer) = time::timeout(watch::BEGINS, asked).await else {
            let next = pace.ended(AttemptEnd::Failed, Instant::now(), fastrand::f64());
            warn!(
                server = connector.server(), within = ?rounded(watch::BEGINS),
                retry = ?rounded(next.saturating_duration_since(Instant::now())),
                "the API server does not answer; what is in the kernel stays as it is"
            );
            time::sleep_until(next).await;
            continue;
        };
        match answer {
            Ok(version) => {
                let streaming = is_streaming(&version.major, &version.minor);
                let server = connector.server();
                info!(server, version = version.git_version, streaming, "the API server answers");
                return streaming;
            }
            // It answers, though not this question; pages work with all.
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => {
                debug!(%status, "the API server's version cannot be read");
                return false;
            }
            Err(error) => {
                let next = pace.ended(AttemptEnd::Failed, Instant::now(), fastrand::f64());
                warn!(
                    server = connector.server(), error = words(&error),
                    retry = ?rounded(next.saturating_duration_since(Instant::now())),
                    "the API server does not answer; what is in the kernel stays as it is"
                );
                time::sleep_until(next).await;
            }
        }
    }
}

/// An error with its causes, each said once.
///
/// Some of kube's errors are left out: their text is the name of a Rust type and the
/// text of the cause, or a `Status` as Rust prints it.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(Failure::Request(cause)) = error.downcast_ref() {
        return words(cause);
    }
    let client = error.downcast_ref();
    if let Some(kube::Error::Api(status)) = client {
        return words_of(status);
    }
    let repeats =
        matches!(client, Some(kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::HttpError(_)));
    if let Some(cause) = error.source().filter(|_| repeats) {
        return words(cause);
    }
    if let Some(plain) = unreachable::words(error) {
        return plain;
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

/// The reason that kube gives an error whose body is no Status; the message is the body.
const NO_STATUS: &str = "Failed to parse error data";

/// What the API server answered: its sentence, then the code and the reason.
fn words_of(status: &Status) -> String {
    if status.reason == NO_STATUS {
        let (text, code) = (status.message.lines().next().unwrap_or_default().trim(), status.code);
        if text.is_empty() || text.starts_with('<') {
            return format!("the answer is {code} and no Kubernetes object, so a proxy between may have sent it");
        }
        return format!("{text} ({code})");
    }
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
            (Box::new(kube::Error::Service(Box::new(kube::Error::Api(status())))), forbidden),
            (Box::new(refused()), "Connection refused"),
            (Box::new(kube::Error::Api(Status::failure("", "").with_code(502).boxed())), "502"),
            (
                Box::new(kube::Error::Api(Status::failure("<html>\nBad", NO_STATUS).with_code(502).boxed())),
                "the answer is 502 and no Kubernetes object, so a proxy between may have sent it",
            ),
            (
                Box::new(kube::Error::Api(Status::failure("page not found\n", NO_STATUS).with_code(404).boxed())),
                "page not found (404)",
            ),
        ] {
            assert_eq!(words(error.as_ref()), expected);
        }
    }

    #[test]
    fn lists_are_streamed_from_the_release_that_has_it() {
        for (major, minor, streams) in [
            ("1", "36", true),
            ("1", "32", true),
            ("1", "33+", true),
            ("1", "31", false),
            ("1", "20", false),
            ("2", "0", true),
            ("", "", false),
        ] {
            assert_eq!(is_streaming(major, minor), streams, "{major}.{minor}");
        }
    }

    /// As commands print it: with all causes.
    #[tokio::test]
    async fn an_error_says_each_thing_once() {
        let Err(error) = connect(Some(std::path::Path::new("/nowhere")), None) else { panic!("there is no such file") };
        let printed = format!("{:#}", anyhow::Error::new(error));
        assert_eq!(printed, "cannot use the kubeconfig: there is no /nowhere");
        let refused = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("Connection refused"))
        });
        let (namespace, others) = ("default".to_owned(), std::collections::BTreeSet::new());
        let settings = ListSettings { namespace, others, request_timeout: None };
        let error = list(&kube::Client::new(refused, "default"), &settings).await.expect_err("nothing answers");
        assert_eq!(format!("{:#}", anyhow::Error::new(error)), "cannot list namespaces: Connection refused");
    }
}
