//! Objects that are read again, one by one and never by a whole list: a large one when a
//! policy names a new label or port, and a policy that is within its namespace's bound
//! again.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use kube::api::ListParams;
use tokio::sync::Notify;
use tokio::time::{self, Instant};
use tracing::debug;

use super::Common;
use crate::source::kube::WatchReport;
use crate::source::kube::connection::failure::Failure;
use crate::source::kube::connection::pace::{AttemptEnd, Backoff};
use crate::source::kube::objects::decode::{self, Item};
use crate::source::kube::objects::named::PolicyNames;
use crate::source::kube::objects::read::{Buffer, Items};
use crate::source::kube::objects::slim;
use crate::source::kube::objects::watched::{Watched, keep};

/// About how long it is from one object to the next. The agents of all nodes read the
/// same objects, because one policy named a new label.
const INTERVAL: Duration = Duration::from_millis(200);

/// An object to be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum ObjectKey {
    /// Of this namespace and name.
    Policy(String, String),
    /// Of this name.
    Namespace(String),
    /// Of this namespace and name.
    Pod(String, String),
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(namespace, name) => write!(f, "NetworkPolicy {namespace}/{name}"),
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Pod(namespace, name) => write!(f, "Pod {namespace}/{name}"),
        }
    }
}

/// The objects that are to be read.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Wanted(Arc<RereadState>);

#[derive(Debug, Default)]
struct RereadState {
    targets: Mutex<WantedObjects>,
    news: Notify,
}

#[derive(Debug, Default)]
struct WantedObjects {
    wanted: BTreeSet<ObjectKey>,
    /// The last one that was taken.
    last: Option<ObjectKey>,
}

impl WantedObjects {
    /// Takes the next one in turn: a namespace whose objects are wanted again all the time keeps
    /// none of another namespace waiting for long.
    fn take(&mut self) -> Option<ObjectKey> {
        let behind = self
            .last
            .as_ref()
            .and_then(|last| self.wanted.range((Bound::Excluded(last), Bound::Unbounded)).next().cloned());
        let next = behind.or_else(|| self.wanted.first().cloned())?;
        self.wanted.remove(&next);
        self.last = Some(next.clone());
        Some(next)
    }
}

impl Wanted {
    /// These are to be read.
    pub(in super::super) fn add(&self, targets: impl IntoIterator<Item = ObjectKey>) {
        self.0.targets.lock().unwrap_or_else(PoisonError::into_inner).wanted.extend(targets);
        self.0.news.notify_one();
    }

    /// The next one.
    async fn next(&self) -> ObjectKey {
        loop {
            if let Some(target) = self.0.targets.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return target;
            }
            self.0.news.notified().await;
        }
    }
}

/// Reads what is wanted, until nothing takes it any more.
pub(in super::super) async fn read_again(common: Common, wanted: Wanted) {
    let mut pace = Backoff::default();
    let mut client = None;
    loop {
        let target = wanted.next().await;
        pace.starts(Instant::now());
        let read = async {
            let client = match &client {
                Some(client) => client,
                None => client.insert(common.connector.client()?),
            };
            read(client, &target, &common.named).await
        };
        let ended = match read.await {
            Ok(report) => {
                if let Some(report) = report
                    && common.sender.send(report).await.is_err()
                {
                    return;
                }
                AttemptEnd::InOrder
            }
            Err(failure) => {
                debug!(object = %target, error = crate::source::kube::words(&failure), "cannot read this object again");
                client = None;
                wanted.add([target]);
                AttemptEnd::Failed
            }
        };
        let now = Instant::now();
        let next = pace.ended(ended, now, fastrand::f64());
        time::sleep_until(next.max(now + INTERVAL.mul_f64(0.5 + fastrand::f64()))).await;
    }
}

async fn read(client: &Client, target: &ObjectKey, named: &PolicyNames) -> Result<Option<WatchReport>, Failure> {
    Ok(match target {
        ObjectKey::Policy(namespace, name) => {
            one::<slim::Policy>(client, Some(namespace), name, named).await?.map(WatchReport::PolicyAgain)
        }
        ObjectKey::Namespace(name) => {
            one::<slim::Namespace>(client, None, name, named).await?.map(WatchReport::NamespaceAgain)
        }
        ObjectKey::Pod(namespace, name) => {
            one::<slim::Pod>(client, Some(namespace), name, named).await?.map(WatchReport::PodAgain)
        }
    })
}

/// Reads one object; none if it does not exist, or cannot be read.
async fn one<K: Watched>(
    client: &Client,
    namespace: Option<&str>,
    name: &str,
    named: &PolicyNames,
) -> Result<Option<Item<K::Object>>, Failure> {
    // By a list of one, which needs no other right than the watches do.
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    let request = kube::core::Request::new(K::url_path(&(), namespace)).list(&params);
    let request = request.map_err(kube::Error::BuildRequest)?;
    let mut items = Items::new(Box::pin(client.request_stream(request).await?));
    let mut buffer = Buffer::default();
    let Some(piece) = items.next(&mut buffer).await.map_err(Failure::of_list)? else { return Ok(None) };
    let item = decode::item::<K>(&buffer, piece).ok();
    Ok(item.filter(|item| item.content.is_ok()).map(|item| keep(item, named)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_that_are_wanted_all_the_time_keep_no_others_waiting() {
        let wanted = Wanted::default();
        let pod = |namespace: &str, name: &str| ObjectKey::Pod(namespace.to_owned(), name.to_owned());
        wanted.add([pod("a", "1"), pod("a", "2"), pod("b", "1")]);
        let mut taken = Vec::new();
        for _ in 0..4 {
            let next = wanted.next().await;
            wanted.add([pod("a", "1"), pod("a", "2")]);
            taken.push(next);
        }
        assert_eq!(taken, [pod("a", "1"), pod("a", "2"), pod("b", "1"), pod("a", "1")]);
    }
}
