//! An API server for tests: small, in this process, and with faults on demand.
//!
//! It stores pods, namespaces, nodes, services, network policies and events, and serves them as
//! kube-apiserver does: versions and conflicts, pages that expire, selectors, watches with
//! bookmarks, streaming lists, the status subresource, and `Status` objects for all errors.
//! `tests/tests/apiserver` holds it, and a real kube-apiserver where there is one, to the same
//! contract.
//!
//! The real one that it was compared with is 1.20.2, which Debian has. What came later is from the
//! documentation and the source of Kubernetes, and was never seen beside a real server: streaming
//! lists (on by default since 1.32) above all. The real one showed only how a server without
//! streaming lists refuses them.
//!
//! What it does not do: it keeps fields that the real server would not know,
//! and validates only names and events, so that tests can store what older
//! servers let in. Fields have no owners (`managedFields`); a namespace is deleted
//! alone and at once; a strategic merge patch is refused with 415.
//!
//! ```
//! use npc_lab::apiserver::{Disturbance, Fault, Resource, Server, Verb};
//! use serde_json::json;
//!
//! # fn main() -> std::io::Result<()> {
//! let server = Server::start()?;
//! server.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
//! let folder = tempfile::tempdir()?;
//! let kubeconfig = server.write_kubeconfig(folder.path())?; // for KUBECONFIG
//!
//! // Requests that are to come:
//! let fault = server.inject(Fault::internal_error().on(Resource::Pods).verbs(&[Verb::List]).times(3));
//! // Watches that are open:
//! server.disturb(Some(Resource::Pods), Disturbance::Hang);
//! // The server as a whole:
//! server.stop();
//! server.compact();
//! server.restart()?;
//! fault.lift();
//! assert_eq!(server.count(Resource::Pods, Verb::List), 0);
//! # drop(kubeconfig); Ok(()) }
//! ```
//!
//! Reading order: [`resource`] names what there is, [`object`] and [`store`]
//! keep it, [`path`], [`read`], [`mod@write`] and [`watch`] are the API, [`fault`]
//! and [`failure`] what goes wrong, [`answer`] joins them.

mod answer;
mod defaults;
mod discovery;
mod event;
mod failure;
mod fault;
mod listener;
mod object;
mod objects;
mod path;
mod read;

mod resource;
mod selector;
mod shared;
mod store;
mod watch;
mod write;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use serde_json::json;

pub use failure::Failure;
pub use fault::{Disturbance, Fault};
pub use resource::{Group, Resource, Verb};
pub use shared::Request;

use listener::Listening;
use shared::Shared;
use store::Message;

/// How long [`Server::wait`] waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// An API server. Dropping it ends it.
///
/// Its store outlives its restarts. All methods may be called from several
/// threads at once, and from tasks.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listening: Mutex<Listening>,
}

impl Server {
    /// A server that listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When it cannot.
    pub fn start() -> io::Result<Self> {
        let server = Self::in_process();
        server.listen(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)))?;
        Ok(server)
    }

    /// A server that listens nowhere, for [`Server::router`] and
    /// [`Server::listen`].
    #[must_use]
    pub fn in_process() -> Self {
        Self { shared: Arc::new(Shared::new()), listening: Mutex::default() }
    }

    /// The server as a service within this process.
    pub fn router(&self) -> Router {
        Router::new().fallback(answer::answer).with_state(Arc::clone(&self.shared))
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens in one more place, from now on and after each restart. `bind` is
    /// given the port, at first 0 if none is in use yet: every place has the
    /// same. A socket that was made in a network namespace stays there.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn listen(&self, bind: impl Fn(u16) -> io::Result<TcpListener> + Send + 'static) -> io::Result<()> {
        let mut listening = self.listening();
        let runs = listening.stop();
        listening.add(Box::new(bind));
        if runs || listening.port() == 0 { listening.start(&self.router()) } else { Ok(()) }
    }

    /// Where it listens, or did before it was stopped.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.listening().port()).into()
    }

    /// Ends the server as a kill does: connections break, and new ones are
    /// refused. The store stays.
    pub fn stop(&self) {
        self.listening().stop();
    }

    /// Starts a server that was stopped, on the same port.
    ///
    /// # Errors
    /// When another process has the port by now.
    pub fn restart(&self) -> io::Result<()> {
        self.listening().start(&self.router())
    }

    /// Writes a kubeconfig for this server into a folder, and beside it the
    /// token, which clients read again from time to time.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_kubeconfig(&self, folder: &Path) -> io::Result<PathBuf> {
        let token = folder.join("token");
        let required = self.shared.settings().token.clone();
        std::fs::write(&token, required.unwrap_or_else(|| "anybody".to_owned()))?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": format!("http://{}", self.address())}}],
            "users": [{"name": "npc", "user": {"tokenFile": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "npc"}}],
            "current-context": "lab",
        });
        let file = folder.join("kubeconfig");
        // JSON is YAML.
        std::fs::write(&file, config.to_string())?;
        Ok(file)
    }

    /// Accepts only requests with this token; others are answered 401. `None` accepts
    /// all.
    pub fn require_token(&self, token: Option<&str>) {
        self.shared.settings().token = token.map(str::to_owned);
    }

    /// Sends bookmarks so often, to watches that begin from now on; once a
    /// minute by default.
    pub fn set_bookmark_period(&self, period: Duration) {
        self.shared.settings().bookmark_period = period;
    }

    /// Sends a bookmark to every watch that takes them.
    pub fn send_bookmarks(&self) {
        let state = self.shared.store.state();
        let revision = state.revision();
        state.broadcast(None, || Message::Bookmark(revision));
    }

    /// Forgets the history: versions and pages from before now have expired.
    pub fn compact(&self) {
        self.shared.store.state().compact();
    }

    /// The version of the last write, as in `metadata.resourceVersion`.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.store.state().revision()
    }

    /// Counts the version on without a visible change, as writes
    /// to other resources do.
    pub fn skip_versions(&self, versions: u64) {
        self.shared.store.state().skip(versions);
    }

    /// Has something go wrong with requests that are to come.
    pub fn inject(&self, fault: Fault) -> Injected {
        Injected { id: self.shared.faults.inject(fault), shared: Arc::clone(&self.shared) }
    }

    /// Ends all faults.
    pub fn lift_all(&self) {
        self.shared.faults.lift(None);
        self.shared.changes.announce();
    }

    /// Does something to the watches that are open, of one resource or of all;
    /// answers how many there were.
    pub fn disturb(&self, resource: Option<Resource>, disturbance: Disturbance) -> usize {
        self.shared.store.state().broadcast(resource, || Message::Disturbed(disturbance))
    }

    /// How many watches are open.
    #[must_use]
    pub fn watches(&self, resource: Resource) -> usize {
        self.shared.store.state().watches(Some(resource))
    }

    /// How many requests of a kind have arrived, answered or not.
    #[must_use]
    pub fn count(&self, resource: Resource, verb: Verb) -> usize {
        let counted = |request: &&Request| request.resource == Some(resource) && request.verb == verb;
        self.shared.requests().iter().filter(counted).count()
    }

    /// How often clients began to read everything of a resource: by a list or by
    /// a streaming list.
    #[must_use]
    pub fn full_reads(&self, resource: Resource) -> usize {
        self.count(resource, Verb::List) + self.count(resource, Verb::StreamingList)
    }

    /// All requests that have arrived.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests().clone()
    }

    /// Waits until something is so; the thread sleeps meanwhile.
    ///
    /// # Errors
    /// When it is not so after 30 seconds; the error lists the latest requests.
    pub fn wait(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> io::Result<()> {
        if self.shared.changes.wait(PATIENCE, || is_so(self)) { Ok(()) } else { Err(self.too_long(what)) }
    }

    /// Waits as [`Server::wait`] does, in a task.
    ///
    /// # Errors
    /// When it is not so after 30 seconds; the error lists the latest requests.
    pub async fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> io::Result<()> {
        let wait = self.shared.changes.until(|| is_so(self));
        tokio::time::timeout(PATIENCE, wait).await.map_err(|_| self.too_long(what))
    }

    fn too_long(&self, what: &str) -> io::Error {
        let requests = self.shared.requests();
        let last: Vec<String> = (requests.iter().rev().take(20).rev())
            .map(|request| format!("\n  {:?} {}?{} {:?}", request.verb, request.path, request.query, request.code))
            .collect();
        let seconds = PATIENCE.as_secs();
        let message = format!("waited {seconds} s in vain until {what}; the latest requests:{}", last.concat());
        io::Error::new(io::ErrorKind::TimedOut, message)
    }
}

/// A fault that was injected. Dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Injected {
    id: u64,
    shared: Arc<Shared>,
}

impl Injected {
    /// Ends it; requests that it holds are answered.
    pub fn lift(&self) {
        self.shared.faults.lift(Some(self.id));
        self.shared.changes.announce();
    }

    /// How many requests have met it.
    #[must_use]
    pub fn met(&self) -> usize {
        self.shared.faults.met(self.id)
    }
}
