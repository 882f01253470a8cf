//! Items of a rule that admit each for itself (OR), where one item that asks for both (AND) may
//! have been meant.

use super::{Discrepancy, MisleadingPolicy, SeparateItems};
use crate::cluster::{Cluster, PolicyId};
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer};
use crate::verdict::explain::question::Question;

/// At most this many rules of an answer are looked at.
const RULES: usize = 1000;

/// At most this many items of a rule are looked at.
const ITEMS: usize = 100;

impl Question {
    /// The first of these rules that admits the other end by an item with a namespaceSelector alone
    /// or one with a podSelector alone, and has the other kind of item too.
    pub(in crate::verdict::explain) fn or_not_and(
        &self,
        cluster: &Cluster,
        direction: Direction,
        rules: &[(PolicyId, String)],
    ) -> Option<MisleadingPolicy> {
        let (subject, other) = self.ends(direction);
        let seen = other.seen(cluster, subject, self.family);
        let selects = |peer: &PodPeer| seen.classes.iter().any(|class| cluster.selects(peer, *class));
        rules.iter().take(RULES).find_map(|(id, path)| {
            let rule = cluster.policy(*id).rules(direction).iter().find(|rule| rule.path == *path)?;
            let Peers::AnyOf(peers) = &rule.peers else { return None };
            let (place, (of_namespace, of_pod)) = nearest_pair(peers, &selects)?;
            let both = PodPeer { namespaces: of_namespace.namespaces.clone(), pods: of_pod.pods.clone() };
            // No author means an item that admits no pod. Where namespaces or pods were not read, or labels are not known, what
            // both would admit is not known either.
            let is_known =
                |peer: &PodPeer| cluster.possibly_selected(peer).is_empty() && !cluster.may_select_unread(peer);
            if ![of_namespace, of_pod, &both].into_iter().all(is_known) || cluster.selected(&both).is_empty() {
                return None;
            }
            let count =
                |peer: &PodPeer| cluster.selected(peer).iter().map(|of| cluster.class(*of).endpoints.len()).sum();
            let items = SeparateItems {
                namespace_selector: (place.0, count(of_namespace)),
                pod_selector: (place.1, count(of_pod)),
                both: count(&both),
            };
            let discrepancy = Discrepancy::SeparateItems { direction, items };
            Some(MisleadingPolicy { policy: *id, path: path.clone(), discrepancy, may_be_why: false })
        })
    }
}

/// The place of an item, the item, and whether it selects the other end.
type Item<'p> = (usize, &'p PodPeer, bool);

/// Two items of a rule, and their places.
type Pair<'p> = ((usize, usize), (&'p PodPeer, &'p PodPeer));

/// An item with a namespaceSelector alone and one with a podSelector alone, if one of the two
/// selects the other end. Of several such pairs, a pair comes first whose two selectors in one item
/// would select the other end too. Then the pair comes first whose items stand closest to each
/// other.
fn nearest_pair<'p>(peers: &'p [Peer], selects: &impl Fn(&PodPeer) -> bool) -> Option<Pair<'p>> {
    let items = |is_meant: fn(&PodPeer) -> bool| -> Vec<Item<'p>> {
        let pods = peers.iter().take(ITEMS).enumerate();
        let pods = pods.filter_map(|(i, peer)| if let Peer::Pods(peer) = peer { Some((i, peer)) } else { None });
        pods.filter(|(_, peer)| is_meant(peer)).map(|(i, peer)| (i, peer, selects(peer))).collect()
    };
    let of_namespaces = items(|peer| peer.pods.is_empty() && matches!(peer.namespaces, Namespaces::Selected(_)));
    let of_pods = items(|peer| matches!(peer.namespaces, Namespaces::Own(_)) && !peer.pods.is_empty());
    let pairs = of_namespaces.iter().flat_map(|namespace| of_pods.iter().map(move |pod| (namespace, pod)));
    let pairs = pairs.filter(|((.., one), (.., other))| *one || *other);
    let is_of_both = |of_namespace: &PodPeer, of_pod: &PodPeer| {
        selects(&PodPeer { namespaces: of_namespace.namespaces.clone(), pods: of_pod.pods.clone() })
    };
    let rank = |(one, other): &(&Item<'_>, &Item<'_>)| (!is_of_both(one.1, other.1), one.0.abs_diff(other.0));
    let nearest = pairs.min_by_key(rank)?;
    let ((one, of_namespace, _), (other, of_pod, _)) = nearest;
    Some(((*one, *other), (*of_namespace, *of_pod)))
}
