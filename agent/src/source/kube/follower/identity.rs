//! Whether the API server is still that of the cluster that was listed first.

use crate::source::kube::objects::watched::ObjectEvent;

/// The namespace whose UID distinguishes clusters. It is never deleted, so
/// another UID means another cluster, or a store that was made anew.
const SYSTEM: &str = "kube-system";

/// The identity of the cluster, as far as it is known.
#[derive(Debug, Default)]
pub(in super::super) struct ClusterIdentity {
    /// The UID of kube-system when it was seen first.
    first: Option<String>,
    /// Its UID by now; none if it is gone.
    now: Option<String>,
    /// The list that is coming in has held it.
    is_listed: bool,
}

impl ClusterIdentity {
    /// Whether what the API server says is about the cluster that was seen first.
    pub(in super::super) fn is_first(&self) -> bool {
        self.first == self.now
    }

    /// Takes in what happens to namespaces. Returns whether it shows that the cluster is another
    /// one.
    pub(in super::super) fn take_in<T>(&mut self, event: &ObjectEvent<T>) -> bool {
        let was_first = self.is_first();
        match event {
            ObjectEvent::ListBegins => self.is_listed = false,
            ObjectEvent::Listed(item) | ObjectEvent::Applied(item) if item.identity.name == SYSTEM => {
                self.is_listed = true;
                let uid = Some(item.identity.uid.clone()).filter(|uid| !uid.is_empty());
                // One that cannot be read may not show it.
                if item.content.is_ok() || uid.is_some() {
                    self.now = uid;
                }
                if self.first.is_none() {
                    self.first.clone_from(&self.now);
                }
            }
            // It may be kube-system.
            ObjectEvent::Unnamed(_) => self.is_listed = true,
            ObjectEvent::Deleted(identity) if identity.name == SYSTEM => self.now = None,
            ObjectEvent::ListEnds if !self.is_listed => self.now = None,
            _ => {}
        }
        was_first && !self.is_first()
    }
}
