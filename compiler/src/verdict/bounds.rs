//! What passes at least and at most, where the input does not say everything that decides.

use smallvec::SmallVec;

use crate::algebra::traffic::Traffic;
use crate::cluster::group::{GroupId, Groups};
use crate::cluster::{Cluster, PodId};
use crate::object::Family;
use crate::policy::Direction;
use crate::verdict::flow::End;

/// What is said of some traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Verdict {
    /// All of it passes.
    Allowed,
    /// None of it does.
    Denied,
    /// Some of it.
    Partial,
    /// The input lacks a fact.
    Unknown,
}

/// What is allowed at least, and at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// What is allowed for certain.
    pub least: Traffic,
    /// What is not in here is denied for certain.
    pub most: Traffic,
}

impl Bounds {
    /// The bounds by which everything is allowed.
    #[must_use]
    pub fn everything() -> Self {
        Self { least: Traffic::all(), most: Traffic::all() }
    }

    /// What both allow.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self { least: self.least.intersection(&other.least), most: self.most.intersection(&other.most) }
    }

    /// What is said of some traffic. Where some is allowed and some denied for
    /// certain, that some is unknown changes nothing.
    #[must_use]
    pub fn verdict(&self, traffic: &Traffic) -> Verdict {
        let allowed = !traffic.intersection(&self.least).is_none();
        let denied = !traffic.difference(&self.most).is_none();
        let unknown = !traffic.intersection(&self.most.difference(&self.least)).is_none();
        match (allowed, denied, unknown) {
            (true, true, _) => Verdict::Partial,
            (_, _, true) => Verdict::Unknown,
            (true, false, false) => Verdict::Allowed,
            // Nothing was asked about.
            (false, _, false) => Verdict::Denied,
        }
    }
}

/// The groups that decide about an end in a direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Deciding {
    /// What all of these admit passes for certain; without any, everything does.
    pub least: SmallVec<[GroupId; 1]>,
    /// Whether nothing passes for certain, because a policy that was not read may isolate the end.
    pub is_nothing_certain: bool,
    /// What these do not all admit is denied for certain.
    pub most: SmallVec<[GroupId; 1]>,
}

impl Deciding {
    /// Whether the two are the same.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        !self.is_nothing_certain && self.least == self.most
    }

    /// Whether no policy isolates the end, for certain.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.is_certain() && self.least.is_empty()
    }

    fn add(&mut self, groups: &Groups, pod: PodId, direction: Direction) {
        match groups.open(pod, direction) {
            Some(open) => {
                self.least.extend(open.least.iter().copied());
                self.is_nothing_certain |= open.is_nothing_certain;
                self.most.extend(open.most.iter().copied());
            }
            None => {
                let group = groups.of(pod, direction);
                self.least.extend(group);
                self.most.extend(group);
            }
        }
    }
}

impl End {
    /// The groups that decide about it in a direction, as [`End::groups`], where the input
    /// does not say all too.
    #[must_use]
    pub fn deciding(
        self,
        cluster: &Cluster,
        groups: &Groups,
        direction: Direction,
        family: Option<Family>,
    ) -> Deciding {
        let mut deciding = Deciding::default();
        for pod in self.judged_as(cluster, family) {
            deciding.add(groups, pod, direction);
        }
        deciding.is_nothing_certain |= matches!(self, Self::Unread(_)) && cluster.may_isolate_unread(direction);
        for groups in [&mut deciding.least, &mut deciding.most] {
            groups.sort_unstable();
            groups.dedup();
        }
        deciding
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};

    use super::*;
    use crate::cluster::unread::{Extent, Unread, WhyUnread};
    use crate::object::{Objects, Pod};
    use crate::sample::{objects, pod, policy};
    use crate::verdict::explain::{Party, Question};
    use crate::verdict::matrix::{By, Matrix, MatrixOptions};

    fn question(from: PodId, to: PodId, family: Option<Family>) -> Question {
        let end = |pod| Party::End(End::Pod(pod));
        Question { replicas: from == to, ..Question::between(end(from), end(to), family, Traffic::all()) }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// One truth: what the matrix says of a pair is what an explanation of it says.
        #[test]
        fn the_matrix_knows_and_does_not_know_what_explanations_do(objects in objects(), is_unread: bool) {
            let why = WhyUnread::DidNotParse("a policy".to_owned());
            let unread = Unread { kind: Some("NetworkPolicy".to_owned()), namespace: Extent::In("b".to_owned()), subject: None, why };
            let cluster = Cluster::new(&objects).with_unread(Vec::from_iter(Some(unread).filter(|_| is_unread)));
            let groups = Groups::of_cluster(&cluster);
            let matrix = Matrix::of_groups(&cluster, &groups, &MatrixOptions { by: By::Pod, addresses: Vec::new() });
            let rows: Vec<PodId> = (0..matrix.endpoints().len())
                .filter_map(|row| matrix.ends(row).find_map(|end| if let End::Pod(pod) = end { Some(pod) } else { None }))
                .collect();
            for (from, a) in rows.iter().enumerate() {
                for (to, b) in rows.iter().enumerate().filter(|(to, _)| *to != from) {
                    let has = |pod: PodId, family| cluster.address(pod, family).is_some();
                    let is_bare = |pod| cluster.is_bare(pod);
                    let mut slots = [None, None, None];
                    for family in Family::ALL {
                        let is_given = cluster.assigns_family(family) || !is_bare(*a) || !is_bare(*b);
                        if is_given && (has(*a, family) || is_bare(*a)) && (has(*b, family) || is_bare(*b)) {
                            let slot = if is_bare(*a) || is_bare(*b) { 0 } else { 1 + family as usize };
                            let bounds = question(*a, *b, Some(family)).passes(&cluster, &groups);
                            let sum = slots[slot].get_or_insert_with(|| (Traffic::none(), Traffic::none()));
                            *sum = (sum.0.union(&bounds.least), sum.1.union(&bounds.most));
                        }
                    }
                    let mut found = [None, None, None];
                    for cell in matrix.between(from, to) {
                        let slot = cell.family.map_or(0, |family| 1 + family as usize);
                        found[slot] = Some(((*cell.traffic).clone(), cell.traffic.union(&cell.unknown)));
                    }
                    let some = |of: Option<(Traffic, Traffic)>| of.filter(|(_, most)| !most.is_none());
                    let (slots, found) = (slots.map(some), found.map(some));
                    prop_assert_eq!(found, slots, "{:?} -> {:?}", cluster.pod(*a), cluster.pod(*b));
                }
            }
        }

        /// The address of a pod that was not read exchanges no less than what is certain and no
        /// more than what is possible, and the matrix says the same of it.
        #[test]
        fn the_address_of_a_pod_that_was_not_read_lies_within_its_bounds(objects in objects(), is_service: bool) {
            let full = Cluster::new(&objects);
            let all = Groups::of_cluster(&full);
            for (pod, object) in full.endpoints() {
                let Some(address) = full.address(pod, Family::V4).filter(|of| full.contest(*of).is_none()) else {
                    continue;
                };
                let is_left = |of: &&Pod| (&of.namespace, &of.name, &of.uid) != (&object.namespace, &object.name, &object.uid);
                let rest = Objects { pods: objects.pods.iter().filter(is_left).cloned().collect(), ..objects.clone() };
                let unread = |kind: &str, namespace| {
                    Unread { kind: Some(kind.to_owned()), namespace, subject: None, why: WhyUnread::DidNotParse(String::new()) }
                };
                let mut left_out = vec![unread("Pod", Extent::In(object.namespace.clone()))];
                left_out.extend(Some(unread("Service", Extent::Everywhere)).filter(|_| is_service));
                let cluster = Cluster::new(&rest).with_unread(left_out);
                let groups = Groups::of_cluster(&cluster);
                let end = End::of_asked_address(&cluster, address);
                if cluster.contest(address).is_some() || cluster.is_node(address) {
                    continue;
                }
                prop_assert_eq!(end, End::Unread(address));
                let options = MatrixOptions { by: By::Pod, addresses: vec![address] };
                let matrix = Matrix::of_groups(&cluster, &groups, &options);
                let row_of = |asked: End| (0..matrix.endpoints().len()).find(|row| matrix.ends(*row).any(|end| end == asked));
                for (other, peer) in cluster.endpoints() {
                    let Some(own) = cluster.address(other, Family::V4).filter(|of| full.contest(*of).is_none()) else {
                        continue;
                    };
                    let [known] = full.holders(own, None) else { continue };
                    for is_source in [true, false] {
                        let asked = |one: End, two: End| {
                            let (from, to) = if is_source { (one, two) } else { (two, one) };
                            Question::between(Party::End(from), Party::End(to), Some(Family::V4), Traffic::all())
                        };
                        let bounds = asked(end, End::Pod(other)).passes(&cluster, &groups);
                        let live = asked(End::Pod(pod), End::Pod(*known)).passes(&full, &all);
                        let text = format!("{} and {}, {is_source}", object.name, peer.name);
                        prop_assert!(bounds.least.difference(&live.least).is_none(), "{}: {:?} > {:?}", text, bounds.least, live.least);
                        prop_assert!(live.most.difference(&bounds.most).is_none(), "{}: {:?} < {:?}", text, bounds.most, live.most);
                        let (Some(of_end), Some(of_other)) = (row_of(end), row_of(End::Pod(other))) else { continue };
                        let (from, to) = if is_source { (of_end, of_other) } else { (of_other, of_end) };
                        let mut cells = matrix.between(from, to).filter(|cell| cell.family == Some(Family::V4));
                        let cell = cells.next().map(|cell| ((*cell.traffic).clone(), cell.traffic.union(&cell.unknown)));
                        let cell = cell.unwrap_or((Traffic::none(), Traffic::none()));
                        prop_assert_eq!(cell, (bounds.least, bounds.most), "{}", text);
                    }
                }
            }
        }

        /// A controller may make any pods that fit its template. They get no less than what is
        /// certain and no more than what is possible.
        #[test]
        fn every_pod_that_a_template_may_become_lies_within_its_bounds(
            policies in proptest::collection::vec((selector(), select(vec!["Ingress", "Egress"]), selector(), port()), 1..5),
            is_source: bool,
        ) {
            let policies: Vec<_> = (policies.into_iter().enumerate())
                .map(|(i, (subject, direction, peer, port))| {
                    let (rules, field) = if direction == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
                    policy(&format!(
                        r#"ns/p{i} {{"podSelector": {subject}, "policyTypes": ["{direction}"],
                            "{rules}": [{{"{field}": [{{"podSelector": {peer}}}], "ports": [{{"port": {port}}}]}}]}}"#
                    ))
                })
                .collect();
            let bounds = |store: &str| {
                let pods = vec![pod(store), pod("ns/web app=web 10.0.0.2")];
                let mut objects = Objects { pods, policies: policies.clone(), ..Objects::default() };
                objects.declare_namespaces();
                let cluster = Cluster::new(&objects);
                let groups = Groups::of_cluster(&cluster);
                let of = |name: &str| cluster.pods().find(|(_, pod)| pod.name.starts_with(name)).map(|(id, _)| id);
                let (Some(store), Some(web)) = (of("store"), of("web")) else { panic!("two pods") };
                let (from, to) = if is_source { (store, web) } else { (web, store) };
                question(from, to, Some(Family::V4)).passes(&cluster, &groups)
            };
            let template = bounds("ns/store StatefulSet/store app=store");
            for ordinal in 0..3 {
                let key = "statefulset.kubernetes.io/pod-name";
                let live = bounds(&format!("ns/store-{ordinal} StatefulSet/store app=store {key}=store-{ordinal} 10.0.0.1"));
                prop_assert_eq!(&live.least, &live.most);
                prop_assert!(template.least.difference(&live.least).is_none(), "{:?} > {:?}", template.least, live.least);
                prop_assert!(live.least.difference(&template.most).is_none(), "{:?} > {:?}", live.least, template.most);
            }
        }
    }

    fn port() -> impl Strategy<Value = u16> {
        select(vec![80, 443, 5432])
    }

    fn selector() -> impl Strategy<Value = String> {
        let key = "statefulset.kubernetes.io/pod-name";
        let requirements = vec![
            r#"{"key": "app", "operator": "Exists"}"#.to_owned(),
            r#"{"key": "app", "operator": "In", "values": ["store"]}"#.to_owned(),
            r#"{"key": "app", "operator": "In", "values": ["web"]}"#.to_owned(),
            format!(r#"{{"key": "{key}", "operator": "In", "values": ["store-0", "store-2"]}}"#),
            format!(r#"{{"key": "{key}", "operator": "In", "values": ["other-0"]}}"#),
            format!(r#"{{"key": "{key}", "operator": "NotIn", "values": ["store-1"]}}"#),
            format!(r#"{{"key": "{key}", "operator": "Exists"}}"#),
            format!(r#"{{"key": "{key}", "operator": "DoesNotExist"}}"#),
        ];
        subsequence(requirements, 0..=2).prop_map(|of| format!(r#"{{"matchExpressions": [{}]}}"#, of.join(", ")))
    }
}
