//! The registry between a source and an agent's loop, which the tests play.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use npc_cni::moment::Moment;
use npc_cni::note;
use npc_cni::protocol::{Add, Answer, Command, Request};
use npc_compiler::engine;
use npc_compiler::object::{Labels, NetworkPolicy, Pod};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time;

use super::{REQUESTS, Registry};
use crate::cni::files::Files;
use crate::cni::netns::SeenNetns;
use crate::cni::policy_lists::{AskPolicies, PolicyLists};
pub(super) use crate::cni::sandboxes::world::attachment;
use crate::cni::sandboxes::{self, Sandboxes};
use crate::cni::server::PendingRequest;
use crate::enforce::{Event, Waiter};
use crate::metrics::Cni;
use crate::source::{AskError, Change, Changes, PolicyList};
use crate::status::{AgentStatus, SharedStatus};

/// A list of policies that was asked for: the namespace, and where its answer goes.
pub(super) type List = (String, oneshot::Sender<Result<Vec<NetworkPolicy>, AskError>>);

/// A registry between a source and an agent's loop, which the test plays, and without a
/// socket.
pub(super) struct World {
    source: mpsc::Sender<Event>,
    plugin: mpsc::Sender<PendingRequest>,
    pub(super) agent: mpsc::Receiver<Event>,
    /// Lists of policies that were asked for and are not answered yet.
    pub(super) lists: Arc<Mutex<Vec<List>>>,
    /// Notified of each list that is asked for.
    asked: Arc<Notify>,
    pub(super) status: SharedStatus,
    pub(super) folder: tempfile::TempDir,
}

impl World {
    pub(super) fn new(has_api_server: bool) -> Self {
        Self::within(has_api_server, tempfile::tempdir().unwrap())
    }

    /// One that knows the pod web, which has no address yet.
    pub(super) async fn with_web(has_api_server: bool) -> (Self, Pod) {
        let (mut world, web) = (Self::new(has_api_server), pod("web", "u1"));
        world.objects(vec![came(&web)]).await;
        world.pods().await;
        (world, web)
    }

    pub(super) fn within(has_api_server: bool, folder: tempfile::TempDir) -> Self {
        let socket = folder.path().join("cni.sock");
        let (source, events) = mpsc::channel(1);
        let (plugin, requests) = mpsc::channel(REQUESTS);
        let (sender, agent) = mpsc::channel(64);
        let lists: Arc<Mutex<Vec<_>>> = Arc::default();
        let (asked, waiting) = (Arc::<Notify>::default(), Arc::clone(&lists));
        let asks = Arc::clone(&asked);
        let ask = AskPolicies::new(move |namespace| {
            let (reply, answer) = oneshot::channel::<Result<Vec<NetworkPolicy>, AskError>>();
            waiting.lock().unwrap().push((namespace, reply));
            asks.notify_one();
            // A test that drops the sender has a list that panics.
            Box::pin(async move { answer.await.unwrap().map(PolicyList::from) })
        });
        let status = SharedStatus::new(AgentStatus::new("n1", "cluster"));
        let files = Files::beside(socket, Cni::default(), status.clone());
        let (answers, answered) = mpsc::unbounded_channel();
        let mut saved = files.saved().unwrap();
        let netns = SeenNetns::of(std::mem::take(&mut saved.seen_netns));
        let sandboxes = Sandboxes::new("n1", saved);
        let policy_lists = PolicyLists::new(has_api_server.then_some(ask));
        let registry = Registry::new(sandboxes, netns, policy_lists, files, sender, answers, Cni::default());
        tokio::spawn(registry.run(events, requests, answered));
        Self { source, plugin, agent, lists, asked, status, folder }
    }

    pub(super) async fn objects(&self, events: Vec<engine::Event>) {
        let changes = events.into_iter().map(Change::now).collect();
        self.source.send(Event::Changes(Changes { changes, ..Changes::default() })).await.unwrap();
    }

    pub(super) async fn ask(&self, command: Command) -> oneshot::Receiver<Answer> {
        self.ask_at(command, Moment::now()).await
    }

    /// The same of a request that came at this moment, and waited for its turn since then.
    pub(super) async fn ask_at(&self, command: Command, received: Moment) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        self.plugin.send(PendingRequest { command, answer, received }).await.unwrap();
        answered
    }

    /// The next event for the agent's loop.
    pub(super) async fn next(&mut self) -> Event {
        time::timeout(Duration::from_secs(60), self.agent.recv()).await.expect("an event").unwrap()
    }

    /// The source delivers an event.
    pub(super) async fn event(&self, event: Event) {
        self.source.send(event).await.unwrap();
    }

    /// The addresses of pods in the next changes, by name.
    pub(super) async fn pods(&mut self) -> Vec<(String, Vec<IpAddr>)> {
        let Event::Changes(changes) = self.next().await else { panic!("no changes") };
        Self::pods_of(changes)
    }

    /// The addresses of pods in changes, by name.
    pub(super) fn pods_of(changes: Changes) -> Vec<(String, Vec<IpAddr>)> {
        let pods = changes.changes.into_iter().filter_map(|change| match change.event {
            engine::Event::Pod(pod) => Some((pod.name.clone(), pod.addresses().collect())),
            _ => None,
        });
        pods.collect()
    }

    pub(super) async fn waiters(&mut self) -> Vec<Waiter> {
        match self.next().await {
            Event::Waiters(waiters) => waiters,
            other => panic!("{other:?}"),
        }
    }

    /// The only one.
    pub(super) async fn waiter(&mut self) -> Waiter {
        let [waiter] = <[Waiter; 1]>::try_from(self.waiters().await).unwrap();
        waiter
    }

    /// Waits until so many lists are asked for, and takes the first.
    pub(super) async fn list(&self, count: usize) -> (String, oneshot::Sender<Result<Vec<NetworkPolicy>, AskError>>) {
        while self.lists.lock().unwrap().len() < count {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.lists.lock().unwrap().len(), count);
        self.lists.lock().unwrap().remove(0)
    }

    /// Waits until a list is asked for, however long that takes, and takes it.
    pub(super) async fn list_later(&self) -> (String, oneshot::Sender<Result<Vec<NetworkPolicy>, AskError>>) {
        let asked = async {
            loop {
                if let Some(list) = self.lists.lock().unwrap().pop() {
                    return list;
                }
                self.asked.notified().await;
            }
        };
        time::timeout(Duration::from_secs(60), asked).await.expect("a list")
    }

    /// Answers all lists that are asked for with this error. Never ends.
    pub(super) fn fail_all(&self, error: AskError) -> impl Future<Output = ()> + use<> {
        let (lists, asked) = (Arc::clone(&self.lists), Arc::clone(&self.asked));
        async move {
            loop {
                while let Some((_, list)) = { lists.lock().unwrap().pop() } {
                    let _ = list.send(Err(error.clone()));
                }
                asked.notified().await;
            }
        }
    }

    /// The first ADD of a pod, with a list of these policies.
    pub(super) async fn started(&mut self, pod: &Pod, policies: Vec<NetworkPolicy>) {
        self.objects(vec![came(pod)]).await;
        self.pods().await;
        let answer = self.ask(Command::Add(add("c0", pod, "10.0.0.9"))).await;
        self.list_later().await.1.send(Ok(policies)).unwrap();
        self.next().await;
        self.waiter().await.reply.send(()).unwrap();
        assert_eq!(answer.await.unwrap(), Answer::done());
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("cni.sock")
    }

    /// As the plugin does where no agent answers.
    pub(super) fn leave_note(&self, command: Command) {
        let attachment = match &command {
            Command::Add(add) => add.attachment.clone(),
            Command::Delete { attachment } => attachment.clone(),
            other => panic!("the plugin leaves no note of {other:?}"),
        };
        note::leave(&self.socket(), &attachment, &Request::new(command)).unwrap();
    }

    pub(super) fn is_silent(&mut self) -> bool {
        self.agent.try_recv().is_err()
    }
}

pub(super) fn pod(name: &str, uid: &str) -> Pod {
    let spec = k8s_openapi::api::core::v1::PodSpec::default();
    let pod = Pod::from_template("shop".to_owned(), name.to_owned(), Labels::new(), spec);
    Pod { uid: uid.to_owned(), node: Some("n1".to_owned()), ..pod }
}

pub(super) fn came(pod: &Pod) -> engine::Event {
    engine::Event::Pod(Box::new(pod.clone()))
}

/// An ADD without an interface that the node has, whose plugin waits for half a minute.
pub(super) fn add(container: &str, pod: &Pod, address: &str) -> Add {
    Add { wait: 30_000, ..sandboxes::world::add(container, pod, &[address], 0) }
}

pub(super) fn policy(name: &str, version: u64) -> NetworkPolicy {
    let mut policy = NetworkPolicy::default();
    policy.object.metadata.namespace = Some("shop".to_owned());
    policy.object.metadata.name = Some(name.to_owned());
    policy.object.metadata.resource_version = Some(version.to_string());
    policy
}
