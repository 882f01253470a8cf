//! A cluster as it is now, for commands that judge it once, as far as the reader's rights
//! reach.
//!
//! A developer often has rights in a few namespaces only. Each kind is asked for in all
//! namespaces first. Where that is forbidden, it is asked for in the namespaces of the
//! question, and what is missing is [`Unread`]: a verdict that it may decide is unknown.
//!
//! Commands ask two more things: `other_policies`, whether other kinds of policies decide too, and
//! `workload`, whether one workload exists.

mod error;
pub(super) mod other_policies;
pub(super) mod workload;

use std::collections::{BTreeSet, HashMap};
use std::iter;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::Request;
use kube::{Api, Client, Resource};
use npc_compiler::cluster::unread::{Extent, Unread, WhyUnread};
use npc_compiler::object::{NAMESPACE_POLICY_BYTES, NetworkPolicy, Objects, PolicyBudget};
use serde::de::DeserializeOwned;
use tokio::time;

pub use self::error::Error;
use super::connection::failure::Failure;
use super::objects::decode::{self, Item};
use super::objects::read::{Buffer, Items};
use super::objects::slim;
use super::objects::watched::Watched as _;
use super::words;
use crate::source::{AskError, PolicyList};

/// How many objects a page has.
const PAGE: u32 = 500;

/// How a cluster is listed.
#[derive(Debug, Clone)]
pub struct ListSettings {
    /// The namespace of objects without one; it is listed in where listing in all of them is
    /// forbidden.
    pub namespace: String,
    /// Others to list in then.
    pub others: BTreeSet<String>,
    /// How long one answer of the API server may take; without one, as long as the
    /// client waits.
    pub request_timeout: Option<Duration>,
}

impl ListSettings {
    /// The namespaces to list in where listing in all of them is forbidden, each once.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        let others = self.others.iter().filter(|other| **other != self.namespace);
        iter::once(&self.namespace).chain(others).map(String::as_str)
    }
}

/// The objects, and what cannot be read of them, in words.
#[derive(Debug, Default)]
pub struct ListedObjects {
    /// Pods, namespaces, network policies, nodes, services and endpoint slices.
    pub objects: Objects,
    /// What was left out, because npc does not understand what the API server sent.
    pub problems: Vec<String>,
    /// What was left out, for any reason.
    pub unread: Vec<Unread>,
}

/// Lists everything that decides about connectivity, as far as the API server allows it.
///
/// The lists are of slightly different moments, as everything is that asks an
/// API server for several kinds.
///
/// # Errors
/// If the API server does not answer, rejects the credentials, or lets neither the pods
/// nor the policies of any namespace be listed.
pub async fn list(client: &Client, settings: &ListSettings) -> Result<ListedObjects, Error> {
    let mut reader = Reader { client, settings, problems: Vec::new(), unread: Vec::new() };
    let mut objects = Objects {
        namespaces: reader.namespaces().await?,
        nodes: reader.nodes().await?,
        pods: reader.needed::<slim::Pod, _>(object).await?,
        services: reader.wanted::<Service, _>(object).await?,
        endpoint_slices: reader.wanted::<EndpointSlice, _>(object).await?,
        policies: reader.needed::<slim::Policy, _>(policy).await?,
        ..Objects::default()
    };
    objects.bound_policies();
    let Reader { problems, unread, .. } = reader;
    if unread.iter().any(|unread| unread.kind.as_deref() == Some("Namespace")) {
        // The others exist, and of their labels the one with the name is known.
        objects.declare_namespaces();
    }
    Ok(ListedObjects { objects, problems, unread })
}

/// What an item of a list came to: the object, and what is wrong with it.
struct ReadItem<T> {
    object: Option<T>,
    fault: Option<UnreadableItem>,
}

/// Why an object cannot be read as it is.
struct UnreadableItem {
    /// Empty where it is not known.
    namespace: String,
    problem: String,
}

/// An item as the API server sent it; its error is that of one that shows no name.
type Sent<K> = Result<Item<K>, String>;

fn object<K: Resource<DynamicType = ()>, T: From<K>>(item: Sent<K>, _: &[u8]) -> ReadItem<T> {
    match item {
        Ok(Item { content: Ok(object), .. }) => ReadItem { object: Some(object.into()), fault: None },
        Ok(Item { identity, content: Err(error), .. }) => ReadItem::left_out::<K>(identity, &error),
        Err(error) => ReadItem::left_out::<K>(decode::Identity::default(), &error),
    }
}

fn policy(item: Sent<slim::Policy>, bytes: &[u8]) -> ReadItem<NetworkPolicy> {
    let (identity, error) = match item {
        Ok(Item { identity, content: Err(error), .. }) => (identity, error),
        item => return object(item, bytes),
    };
    // As an agent takes it that has no earlier version of it. Which rules it has is not known.
    match slim::Policy::rescue(bytes, &identity, &error) {
        Some(rescued) => {
            let problem = problem::<slim::Policy>(&identity, &error, "counts without its rules");
            ReadItem { object: Some(rescued), fault: Some(UnreadableItem { namespace: identity.namespace, problem }) }
        }
        None => ReadItem::left_out::<slim::Policy>(identity, &error),
    }
}

impl<T> ReadItem<T> {
    fn left_out<K: Resource<DynamicType = ()>>(identity: decode::Identity, error: &str) -> Self {
        let problem = problem::<K>(&identity, error, "is left out");
        Self { object: None, fault: Some(UnreadableItem { namespace: identity.namespace, problem }) }
    }
}

/// Says that an object cannot be read.
fn problem<K: Resource<DynamicType = ()>>(identity: &decode::Identity, error: &str, effect: &str) -> String {
    let kind = K::kind(&()).to_lowercase();
    let decode::Identity { namespace, name, .. } = identity;
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!("{kind} {namespace}{slash}{name}: cannot be read as the API server sent it, and {effect}: {error}")
}

/// Lists one kind after the other.
struct Reader<'a> {
    client: &'a Client,
    settings: &'a ListSettings,
    problems: Vec<String>,
    unread: Vec<Unread>,
}

impl Reader<'_> {
    fn leave_out<K: Resource<DynamicType = ()>>(&mut self, namespace: Extent, why: WhyUnread) {
        self.unread.push(Unread { kind: Some(K::kind(&()).into_owned()), namespace, subject: None, why });
    }

    fn error<K: Resource<DynamicType = ()>>(&self, failure: &Failure) -> Error {
        Error::of::<K>(failure, self.settings)
    }

    /// The namespaces; where they cannot be listed, those of the question that can be read.
    async fn namespaces<T: From<slim::Namespace>>(&mut self) -> Result<Vec<T>, Error> {
        let failure = match self.all::<slim::Namespace, _>(None, &object).await {
            Err(failure) if failure.code() == Some(403) => failure,
            listed => return listed.map_err(|failure| self.error::<slim::Namespace>(&failure)),
        };
        let settings = self.settings;
        // A role in a namespace mostly has the right to read the Namespace itself.
        let api = Api::<slim::Namespace>::all(self.client.clone());
        let (mut read, mut names) = (Vec::new(), Vec::new());
        for name in settings.namespaces() {
            match self.in_time(api.get_opt(name).map(|read| read.map_err(Failure::from))).await {
                Ok(Some(namespace)) => {
                    read.push(namespace.into());
                    names.push(name.to_owned());
                }
                Err(silent @ Failure::NoAnswer(_)) => return Err(self.error::<slim::Namespace>(&silent)),
                Ok(None) | Err(_) => {}
            }
        }
        self.leave_out::<slim::Namespace>(Extent::all_but(names), no_right::<slim::Namespace>(&failure));
        Ok(read)
    }

    async fn nodes<T: From<slim::Node>>(&mut self) -> Result<Vec<T>, Error> {
        match self.all::<slim::Node, _>(None, &object).await {
            Err(failure) if failure.code() == Some(403) => {
                self.leave_out::<slim::Node>(Extent::Everywhere, no_right::<slim::Node>(&failure));
                Ok(Vec::new())
            }
            listed => listed.map_err(|failure| self.error::<slim::Node>(&failure)),
        }
    }

    /// The objects of a kind without which nothing can be said.
    async fn needed<K, T>(&mut self, make: impl Fn(Sent<K>, &[u8]) -> ReadItem<T>) -> Result<Vec<T>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    {
        let listed = self.reachable(make).await;
        listed.map_err(|failure| self.error::<K>(&failure))
    }

    /// The objects of a kind without which most can be said.
    async fn wanted<K, T>(&mut self, make: impl Fn(Sent<K>, &[u8]) -> ReadItem<T>) -> Result<Vec<T>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    {
        match self.reachable(make).await {
            // An old server does not have the kind.
            Err(failure) if matches!(failure.code(), Some(403 | 404)) => {
                self.leave_out::<K>(Extent::Everywhere, no_right::<K>(&failure));
                Ok(Vec::new())
            }
            listed => listed.map_err(|failure| self.error::<K>(&failure)),
        }
    }

    /// The objects of all namespaces, else those of the namespaces of the question that may be listed.
    async fn reachable<K, T>(&mut self, make: impl Fn(Sent<K>, &[u8]) -> ReadItem<T>) -> Result<Vec<T>, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    {
        let failure = match self.all(None, &make).await {
            Err(failure) if failure.code() == Some(403) => failure,
            listed => return listed,
        };
        let settings = self.settings;
        let (mut listed, mut names, mut refused) = (Vec::new(), Vec::new(), None);
        for name in settings.namespaces() {
            match self.all(Some(name), &make).await {
                Ok(objects) => {
                    listed.extend(objects);
                    names.push(name.to_owned());
                }
                Err(failure) if failure.code() == Some(403) => refused = refused.or(Some(failure)),
                Err(failure) => return Err(failure),
            }
        }
        // Where not one of them may be listed, the server's own words say why.
        if let Some(refused) = refused.filter(|_| names.is_empty()) {
            return Err(refused);
        }
        self.leave_out::<K>(Extent::all_but(names), no_right::<K>(&failure));
        Ok(listed)
    }

    /// All objects of a kind that can be read, of a namespace or of all.
    async fn all<K, T>(
        &mut self,
        namespace: Option<&str>,
        make: &impl Fn(Sent<K>, &[u8]) -> ReadItem<T>,
    ) -> Result<Vec<T>, Failure>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let path = K::url_path(&(), namespace);
        let take = |all: &mut Vec<ReadItem<T>>, item: Sent<K>, bytes: &[u8]| all.push(make(item, bytes));
        let read = read(self.client, &path, self.settings.request_timeout, take).await?;
        let mut all = Vec::with_capacity(read.len());
        for ReadItem { object, fault } in read {
            all.extend(object);
            if let Some(UnreadableItem { namespace, problem }) = fault {
                let extent = if namespace.is_empty() { Extent::Everywhere } else { Extent::In(namespace) };
                self.leave_out::<K>(extent, WhyUnread::DidNotParse(problem.clone()));
                self.problems.push(problem);
            }
        }
        Ok(all)
    }

    /// An answer, if it comes within the time that is set.
    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        in_time(self.settings.request_timeout, asked).await
    }
}

/// An answer, if it comes within this time.
pub(super) async fn in_time<T>(
    timeout: Option<Duration>,
    asked: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match timeout {
        None => asked.await,
        Some(timeout) => time::timeout(timeout, asked).await.map_err(|_| Failure::NoAnswer(timeout))?,
    }
}

/// Why a kind was left out.
fn no_right<K: Resource<DynamicType = ()>>(failure: &Failure) -> WhyUnread {
    match failure.code() {
        Some(404) => WhyUnread::NotServed(K::plural(&())),
        _ => WhyUnread::NoRight(K::plural(&())),
    }
}

/// The policies of a namespace as they are now, within the bound of the namespace.
#[must_use]
pub fn policies_of(client: &Client, namespace: &str) -> BoxFuture<'static, Result<PolicyList, AskError>> {
    let (client, path) = (client.clone(), slim::Policy::url_path(&(), Some(namespace)));
    async move {
        type Taken = (Bounded, Bounded, BTreeSet<String>);
        let take = |(policies, rescued, unreadable): &mut Taken, item: Sent<slim::Policy>, bytes: &[u8]| match item {
            Ok(Item { content: Ok(policy), .. }) => policies.push(policy.into()),
            Ok(Item { identity, content: Err(error), .. }) => {
                if let Some(policy) = slim::Policy::rescue(bytes, &identity, &error) {
                    rescued.push(policy);
                }
                unreadable.insert(identity.name);
            }
            Err(_) => {}
        };
        let taken: Taken = read(&client, &path, None, take).await.map_err(|failure| {
            let error = words(&failure);
            if failure.is_passing() { AskError::Passing(error) } else { AskError::Refused(error) }
        })?;
        let (Bounded { policies, .. }, Bounded { policies: rescued, .. }, unreadable) = taken;
        Ok(PolicyList { policies, unreadable, rescued })
    }
    .boxed()
}

/// Policies as they come, within the bounds of their namespaces: so there is never more in
/// memory than these and one policy. Which ones lose their rules is what an agent decides
/// by all of them together.
#[derive(Debug, Default)]
struct Bounded {
    policies: Vec<NetworkPolicy>,
    namespaces: HashMap<String, (PolicyBudget, HashMap<String, usize>)>,
}

impl Bounded {
    fn push(&mut self, policy: NetworkPolicy) {
        let (budget, places) = self
            .namespaces
            .entry(policy.namespace().to_owned())
            .or_insert_with(|| (PolicyBudget::new(NAMESPACE_POLICY_BYTES), HashMap::new()));
        let name = policy.name().to_owned();
        let moved = budget.put(&name, policy.retained_bytes());
        let is_over = budget.is_over(&name);
        places.insert(name, self.policies.len());
        self.policies.push(if is_over { policy.over_budget(NAMESPACE_POLICY_BYTES) } else { policy });
        for place in moved.over.iter().filter_map(|name| places.get(name)) {
            let policy = &mut self.policies[*place];
            *policy = policy.over_budget(NAMESPACE_POLICY_BYTES);
        }
    }
}

/// A command asks a busy API server so often again. An agent has a pace of its own, and no bound for an answer.
const BUSY_TRIES: usize = 3;

/// Reads a list in pages. Each may take so long. `take` is given what it made so far,
/// each object, or why it cannot be read where it shows no name either, and its bytes.
async fn read<K: DeserializeOwned, A: Default>(
    client: &Client,
    path: &str,
    timeout: Option<Duration>,
    take: impl Fn(&mut A, Sent<K>, &[u8]),
) -> Result<A, Failure> {
    let mut params = ListParams::default().limit(PAGE);
    let (mut buffer, mut all) = (Buffer::default(), A::default());
    let mut tries = if timeout.is_some() { BUSY_TRIES } else { 0 };
    loop {
        let request = Request::new(path).list(&params).map_err(kube::Error::BuildRequest)?;
        let page = async {
            let body = client.request_stream(request).await?;
            let mut items = Items::new(Box::pin(body));
            while let Some(piece) = items.next(&mut buffer).await.map_err(Failure::of_list)? {
                take(&mut all, decode::item::<K>(&buffer, piece), buffer.bytes());
            }
            let metadata = items.envelope().map_err(kube::Error::SerdeError)?.metadata;
            Ok(metadata.r#continue.filter(|token| !token.is_empty()))
        };
        match in_time(timeout, page).await {
            Ok(Some(token)) if params.continue_token.as_ref() == Some(&token) => return Err(Failure::Endless),
            Ok(Some(token)) => params.continue_token = Some(token),
            Ok(None) => return Ok(all),
            // It took too long over the pages; then all at once.
            Err(failure) if failure.code() == Some(410) && params.continue_token.is_some() => {
                all = A::default();
                params = ListParams::default();
            }
            // The server is busy. The next request waits for as long as it asked for.
            Err(failure) if failure.code() == Some(429) && tries > 0 => {
                tries -= 1;
                // What was read of this page comes again.
                all = A::default();
                params.continue_token = None;
            }
            Err(failure) => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests;
