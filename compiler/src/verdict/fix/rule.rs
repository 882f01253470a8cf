//! What the rule needs that misses a flow by little: a change of the very item that fails, a
//! label of the other end, an item more. If the peer and a port fail, one patch changes both.

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::answer::NoFix;
use super::change::{Change, Lacking, ObjectName, add, append, match_labels, remove, replace, value_at};
use super::dead_port::is_meant;
use super::label;
use super::misspelt;
use super::peer::{self, Other};
use super::proposal::{Cause, Proposal, Size};
use super::propose::{Proposer, Shown};
use crate::algebra::selector::{Operator, Requirement, Selector};
use crate::algebra::traffic::Traffic;
use crate::algebra::typo::{asks_for, asks_for_labels_of, is_close, is_slip, may_mean_namespace};
use crate::cluster::PodId;
use crate::object::{DNS_PORT, Labels, NAMESPACE_NAME_LABEL, Pod, Protocol, ServicePort};
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};
use crate::verdict::explain::{Candidate, ItemField, Party, ReasonCode, RuleHalf, Want};
use crate::verdict::flow::End;

/// The path of a rule in its policy, as the tokens of a JSON pointer: `spec`, `ingress`, `0`.
type Base<'a> = [&'a str; 3];

impl Proposer<'_> {
    /// What a rule that misses by little needs. An error says that the fault is at the other end,
    /// and that no change of an object mends it there.
    pub(super) fn of_rule(&self, candidate: &Candidate, shown: Shown, all: &mut Vec<Proposal>) -> Result<(), NoFix> {
        let policy = self.view.cluster.policy(candidate.policy);
        let Some(rule) = policy.rules(self.direction).get(candidate.place) else { return Ok(()) };
        let place = candidate.place.to_string();
        let base = ["spec", self.section, place.as_str()];
        let misses = |half| candidate.conjuncts.iter().any(|of| of.of() == half);
        match (misses(RuleHalf::Peer), misses(RuleHalf::Port)) {
            (false, true) => {
                if shown == Shown::Alone
                    && let Some(fault) = self.port_without_name(candidate)
                {
                    return Err(fault);
                }
                let quoted = |_: &Value| self.number_in_quotes(candidate, &base).unwrap_or_default();
                let proposal = self.of_policy(candidate.policy, Size::Value, quoted);
                all.extend(proposal.map(|proposal| Proposal { cause: Cause::Mistake, ..proposal }));
                let mended = [self.right_protocol(candidate, &base), self.right_name(candidate, &base)];
                for operation in mended.into_iter().flatten() {
                    let proposal = self.of_policy(candidate.policy, Size::Value, |_| vec![operation]);
                    all.extend(proposal.map(|proposal| Proposal { cause: Cause::Mistake, ..proposal }));
                }
                let more = |document: &Value| self.more_ports(document, rule, &base);
                let is_dead = shown != Shown::No && self.misses_by_dead_port(candidate, policy, rule);
                if is_dead && let Some((operation, gives_up)) = self.right_number(candidate, &base) {
                    let proposal = self.of_policy(candidate.policy, Size::Value, |_| vec![operation]);
                    all.extend(proposal.map(|mut proposal| {
                        proposal.change.adds.gives_up = gives_up;
                        Proposal { cause: Cause::Mistake, ..proposal }
                    }));
                }
                let cause = if is_dead { Cause::Mistake } else { Cause::Policy };
                // What such a rule admits is admitted to pods too that are yet to come.
                let is_for_all = !rule.peers.is_narrow();
                let size = if is_for_all { Size::Wide } else { Size::Item };
                let proposal = self.of_policy(candidate.policy, size, more);
                all.extend(proposal.map(|proposal| Proposal { cause, ..proposal }));
                // A name opens less where pods give it to different numbers. For DNS everyone writes the number,
                // and servers give their ports different names, but for the author who wrote names.
                let list = [&base[..], &["ports"]].concat();
                let named = peer::named_port(self.view, self.pairs, self.direction);
                let named =
                    named.filter(|_| if self.is_dns { are_names(&rule.ports) } else { !is_for_all }).into_iter();
                let cause = if self.is_dns { cause } else { Cause::Policy };
                let proposals = named.filter_map(|port| {
                    self.of_policy(candidate.policy, Size::Item, |document| append(document, &list, vec![port]))
                });
                all.extend(proposals.map(|proposal| Proposal { cause, ..proposal }));
            }
            (true, false) => {
                if let Some(proposal) = self.misspelt_label(candidate, shown, rule) {
                    all.push(proposal);
                } else {
                    self.mended_peer(candidate, shown, rule, &base, all);
                }
                self.label_of_the_other_end(candidate, shown, rule, all)?;
                let Ok(items) = peer::items(self.view, &self.other, &policy.namespace) else { return Ok(()) };
                let list = [&base[..], &[self.field]].concat();
                let size = if self.admits_more(rule) { Size::Wide } else { Size::Item };
                all.extend(self.of_policy(candidate.policy, size, |document| {
                    let has = value_at(document, &list).and_then(Value::as_array);
                    // Of the addresses of several nodes it may have some.
                    let is_new = |item: &Value| !has.is_some_and(|has| has.contains(item));
                    let items: Vec<Value> = items.into_iter().filter(is_new).collect();
                    if items.is_empty() { Vec::new() } else { append(document, &list, items) }
                }));
            }
            (true, true) => self.mended_peer(candidate, shown, rule, &base, all),
            (false, false) => {}
        }
        Ok(())
    }

    /// Whether a rule admits other traffic too than what was asked about, on which its peers may come as soon as
    /// the other direction admits it.
    fn admits_more(&self, rule: &PolicyRule) -> bool {
        let dns = [Protocol::Udp, Protocol::Tcp].map(|protocol| Traffic::ports(protocol, DNS_PORT, DNS_PORT));
        let of_dns = Traffic::union_of(dns.iter().filter(|_| self.is_dns));
        let asked = self.pairs.iter().map(|pair| &pair.question(self.direction).traffic).chain([&of_dns]);
        let asked = Traffic::union_of(asked);
        self.pairs.iter().any(|pair| {
            let pod = pair.question(self.direction).to.pod();
            let ports = pod.map_or(&[][..], |pod| self.view.cluster.pod(pod).ports.as_slice());
            !rule.traffic_to(ports).difference(&asked).is_none()
        })
    }

    /// A port's number, or the numbers of a range, in place of those that were written as text, and so mean
    /// a name.
    fn number_in_quotes(&self, candidate: &Candidate, base: &Base<'_>) -> Option<Vec<PatchOperation>> {
        let [port] = self.ports.as_slice() else { return None };
        let number = port.get("port")?;
        let document = self.document(candidate.policy)?;
        let mut unresolved = candidate.conjuncts.iter().filter(|of| of.code == ReasonCode::PortNamedUnresolved);
        unresolved.find_map(|conjunct| {
            let item = conjunct.path.place.to_string();
            let path = [&base[..], &["ports", &item, "port"]].concat();
            let written = value_at(&document, &path)?.as_str()?;
            if let Some((first, last)) = written.split_once('-') {
                let (first, last) = (first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?);
                let end = [&base[..], &["ports", &item, "endPort"]].concat();
                let is_meant = (u64::from(first)..=u64::from(last)).contains(&number.as_u64()?);
                return is_meant.then(|| vec![replace(&path, json!(first)), add(&end, json!(last))]);
            }
            let is_meant = written.trim().parse::<u64>().ok()? == number.as_u64()?;
            is_meant.then(|| vec![replace(&path, number.clone())])
        })
    }

    /// The protocol that was asked for, in place of the one of an item that fails by it alone.
    fn right_protocol(&self, candidate: &Candidate, base: &Base<'_>) -> Option<PatchOperation> {
        let [conjunct] = candidate.conjuncts.as_slice() else { return None };
        if !matches!(conjunct.code, ReasonCode::PortProtocol | ReasonCode::PortNamedOtherProtocol) {
            return None;
        }
        let (protocol, ..) = self.denied.traffic.single()?;
        let item = conjunct.path.place.to_string();
        Some(add(&[&base[..], &["ports", &item, "protocol"]].concat(), json!(protocol.as_str())))
    }

    /// The number that was asked for, in place of the Service's on which nothing listens that the rule means, and
    /// what the rule gives up by that.
    fn right_number(&self, candidate: &Candidate, base: &Base<'_>) -> Option<(PatchOperation, Traffic)> {
        let ([conjunct], [port]) = (candidate.conjuncts.as_slice(), self.ports.as_slice()) else { return None };
        let number = conjunct.number.filter(|_| conjunct.code == ReasonCode::PortIsServicePort)?;
        let protocol_of = |port: &Value| Protocol::parse(port["protocol"].as_str().unwrap_or("TCP"));
        let right = port.get("port").filter(|of| of.is_u64() && port.get("endPort").is_none())?;
        let protocol = protocol_of(port)?;
        let item = conjunct.path.place.to_string();
        let path = [&base[..], &["ports", &item]].concat();
        let document = self.document(candidate.policy)?;
        let written = value_at(&document, &path)?;
        let is_alone = written.get("endPort").is_none_or(Value::is_null);
        let is_it = written["port"].as_u64() == Some(u64::from(number)) && protocol_of(written) == Some(protocol);
        let path = [&path[..], &["port"]].concat();
        (is_alone && is_it).then(|| (replace(&path, right.clone()), Traffic::ports(protocol, number, number)))
    }

    /// The name of the port that was asked for, in place of one that no destination has and that differs
    /// by little.
    fn right_name(&self, candidate: &Candidate, base: &Base<'_>) -> Option<PatchOperation> {
        let [conjunct] = candidate.conjuncts.as_slice() else { return None };
        let Want::PortName(written) = &conjunct.want else { return None };
        let named = peer::named_port(self.view, self.pairs, self.direction)?;
        let item = conjunct.path.place.to_string();
        is_close(written, named["port"].as_str()?)
            .then(|| replace(&[&base[..], &["ports", &item, "port"]].concat(), named["port"].clone()))
    }

    /// The fault, if the rule asks for a port by a name that no pod gives any port, and the destinations
    /// declare the port that was asked for without a name. A name that is a Service's is a mistake of the
    /// rule, and so is a number in quotes.
    fn port_without_name(&self, candidate: &Candidate) -> Option<NoFix> {
        let cluster = self.view.cluster;
        let [conjunct] = candidate.conjuncts.as_slice() else { return None };
        let Want::PortName(name) = &conjunct.want else { return None };
        let (protocol, port, last) = self.denied.traffic.single()?;
        let is_named_so = |pod: &Pod| pod.ports.iter().any(|of| of.name == *name);
        let policy = cluster.policy(candidate.policy);
        let may_mean = |pod: &Pod| match self.direction {
            Direction::Ingress => pod.namespace == policy.namespace && policy.subject.matches(&pod.labels),
            Direction::Egress => true,
        };
        let is_service_port = || {
            let named = |of: &ServicePort| of.name.as_deref() == Some(name.as_str());
            cluster.services().any(|service| service.ports.iter().any(named))
        };
        if port != last
            || name.parse::<u64>().is_ok()
            || cluster.pods().any(|(_, pod)| may_mean(pod) && is_named_so(pod))
            || is_service_port()
        {
            return None;
        }
        let mut of_pairs = self.pairs.iter().map(|pair| match pair.question(self.direction).to {
            Party::End(End::Pod(pod)) => Some(cluster.pod(pod)),
            _ => None,
        });
        let first = of_pairs.next()??;
        let is_without_name = |pod: &Pod| pod.unnamed_ports.contains(&(protocol, port));
        let are_alike =
            |pod: Option<&Pod>| pod.is_some_and(|pod| pod.identity() == first.identity() && is_without_name(pod));
        if !is_without_name(first) || !of_pairs.all(are_alike) {
            return None;
        }
        let (kind, of) = first.identity();
        let object = ObjectName::new(kind, &first.namespace, of);
        Some(NoFix::PortWithoutName { object, name: name.clone(), protocol, port })
    }

    /// The ports that a rule lacks. Of DNS, which is asked by two protocols, it may admit one by a name.
    fn more_ports(&self, document: &Value, rule: &PolicyRule, base: &Base<'_>) -> Vec<PatchOperation> {
        let list = [&base[..], &["ports"]].concat();
        let has = value_at(document, &list).and_then(Value::as_array);
        let is_admitted = |port: &Value| {
            let protocol = Protocol::parse(port["protocol"].as_str().unwrap_or("TCP"));
            let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok());
            let (true, Some(protocol), Some(number)) = (self.is_dns, protocol, number) else { return false };
            let traffic = Traffic::ports(protocol, number, number);
            self.pairs.iter().all(|pair| {
                let pod = pair.question(self.direction).to.pod();
                let ports = pod.map_or(&[][..], |pod| self.view.cluster.pod(pod).ports.as_slice());
                traffic.difference(&rule.traffic_to(ports)).is_none()
            })
        };
        let is_there = |port: &&Value| has.into_iter().flatten().any(|of| is_same_port(of, port)) || is_admitted(port);
        let more: Vec<Value> = self.ports.iter().filter(|port| !is_there(port)).cloned().collect();
        if more.is_empty() { Vec::new() } else { append(document, &list, more) }
    }

    /// A change of the very item that misses and, if a port fails too, of the ports.
    fn mended_peer(
        &self,
        candidate: &Candidate,
        shown: Shown,
        rule: &PolicyRule,
        base: &Base<'_>,
        all: &mut Vec<Proposal>,
    ) {
        let Some((cause, mut operations)) = self.peer_operations(candidate, shown, rule, base) else { return };
        let mut size = Size::Value;
        if candidate.conjuncts.iter().any(|of| of.of() == RuleHalf::Port) {
            let Some(document) = self.document(candidate.policy) else { return };
            let quoted = self.number_in_quotes(candidate, base);
            operations.extend(quoted.unwrap_or_else(|| self.more_ports(&document, rule, base)));
            size = Size::Item;
        }
        let proposal = self.of_policy(candidate.policy, size, |_| operations);
        all.extend(proposal.map(|proposal| Proposal { cause, ..proposal }));
    }

    /// What changes the item that misses so that it means the other end, and what that mends.
    fn peer_operations(
        &self,
        candidate: &Candidate,
        shown: Shown,
        rule: &PolicyRule,
        base: &Base<'_>,
    ) -> Option<(Cause, Vec<PatchOperation>)> {
        let (item, peer) = missed_item(candidate, rule)?;
        let item = item.to_string();
        let path = [&base[..], &[self.field, &item]].concat();
        let mut conjuncts = candidate.conjuncts.iter().filter(|of| of.of() == RuleHalf::Peer);
        match (peer, &self.other) {
            (Peer::Block(written), Other::Blocks(blocks)) => {
                let place = conjuncts.find_map(|of| match of.path.field {
                    ItemField::Except(place) => Some(place),
                    _ => None,
                })?;
                let is_asked = blocks.len() == 1 && written.except.get(place) == blocks.first();
                let place = place.to_string();
                let path = [&path[..], &["ipBlock", "except", &place]].concat();
                is_asked.then(|| (Cause::Policy, vec![remove(&path)]))
            }
            (Peer::Pods(peer), Other::Pods(pods)) => {
                let codes: Vec<ReasonCode> = conjuncts.map(|conjunct| conjunct.code).collect();
                if codes == [ReasonCode::PeerAndNotOr] && shown != Shown::No {
                    // The author's own selector, as an item of its own.
                    let pods = self.document(candidate.policy)?;
                    let pods = pods.pointer(&format!("/{}/podSelector", path.join("/")))?.clone();
                    let list = [&base[..], &[self.field, "-"]].concat();
                    return Some((Cause::Mistake, vec![add(&list, json!({ "podSelector": pods }))]));
                }
                // An item that selects pods of the input would lose them.
                if !self.means_none(peer) {
                    return None;
                }
                if codes == [ReasonCode::PeerNamespaceLabel]
                    && shown != Shown::No
                    && self.means_labels_of_pods(peer, pods)
                {
                    let items = peer::items(self.view, &self.other, &self.namespace).ok()?;
                    let [item] = items.as_slice() else { return None };
                    return Some((Cause::Mistake, vec![replace(&path, item.clone())]));
                }
                let mut all = Vec::new();
                let mut cause = Cause::Policy;
                for code in codes {
                    let (of, operation) = match code {
                        // It selects no pod of its own namespace, so another one was meant.
                        ReasonCode::PeerOtherNamespace if shown == Shown::Alone => {
                            (Cause::Mistake, self.named_namespace(&path, pods))
                        }
                        ReasonCode::PeerOtherNamespace => (Cause::Policy, self.named_namespace(&path, pods)),
                        // A selector of no pod of the input is right where the input lacks its pods. Only
                        // a slip of the pen is replaced, and of rules that are equally near no podSelector is that.
                        ReasonCode::PeerNamespaceLabel if shown != Shown::No => {
                            (Cause::Mistake, self.right_namespace(peer, &path, pods)?)
                        }
                        ReasonCode::PeerLabelValue | ReasonCode::PeerLabelMissing if shown == Shown::Alone => {
                            (Cause::Mistake, self.right_labels(peer, &path, pods)?)
                        }
                        _ => return None,
                    };
                    cause = cause.min(of);
                    all.push(operation);
                }
                Some((cause, all))
            }
            _ => None,
        }
    }

    /// Whether a selector means no pod of the input, for certain: no endpoint, and none that is finished
    /// or was one, such as that of a Job.
    fn means_none(&self, peer: &PodPeer) -> bool {
        let cluster = self.view.cluster;
        let is_meant = |pod: &Pod| is_meant(cluster, peer, pod);
        cluster.selects_none(peer) && !cluster.pods().any(|(_, pod)| !pod.is_endpoint() && is_meant(pod))
    }

    /// Whether a namespaceSelector that selects no namespace asks for labels that the pods have.
    fn means_labels_of_pods(&self, peer: &PodPeer, pods: &[PodId]) -> bool {
        let Namespaces::Selected(selector) = &peer.namespaces else { return false };
        let cluster = self.view.cluster;
        !cluster.has_namespace_with(selector)
            && pods.iter().map(|pod| cluster.pod(*pod)).all(|pod| {
                let of_namespace = cluster.namespace(&pod.namespace);
                of_namespace.is_some_and(|labels| asks_for_labels_of(selector, labels, &pod.labels))
            })
    }

    fn named_namespace(&self, path: &[&str], pods: &[PodId]) -> PatchOperation {
        let own = &self.view.cluster.pod(pods[0]).namespace;
        add(&[path, &["namespaceSelector"]].concat(), peer::namespace_selector(own))
    }

    /// The selector of the other end's namespace, in place of one that selects no namespace and
    /// means this one but for a slip.
    fn right_namespace(&self, peer: &PodPeer, path: &[&str], pods: &[PodId]) -> Option<PatchOperation> {
        let Namespaces::Selected(selector) = &peer.namespaces else { return None };
        let own = &self.view.cluster.pod(pods[0]).namespace;
        let labels = self.view.cluster.namespace(own)?;
        // A list of values means namespaces that the input may lack.
        let is_list = |of: &Requirement| matches!(&of.operator, Operator::In(values) if values.len() > 1);
        let is_it = !self.view.cluster.has_namespace_with(selector)
            && !selector.requirements().any(is_list)
            && may_mean_namespace(selector, own, labels);
        // A label that means this namespace alone, also where the author meant a label of several.
        let means = || slips_corrected(selector, labels).filter(|_| !selects_by_name(selector));
        let selector = means().map_or_else(|| peer::namespace_selector(own), |labels| match_labels(&labels));
        is_it.then(|| replace(&[path, &["namespaceSelector"]].concat(), selector))
    }

    /// The labels of the other end in place of those that no pod has, where each is there with almost
    /// the same value, under another key, or as the workload's name.
    fn right_labels(&self, peer: &PodPeer, path: &[&str], pods: &[PodId]) -> Option<PatchOperation> {
        let narrowest = peer::narrowest(self.view, pods).ok()?;
        let pod = self.view.cluster.pod(pods[0]);
        // Pods that no label names should get the one that the rule asks for.
        let name = narrowest.keys().any(|key| peer::is_name(key)).then_some(pod.identity().1);
        let is_meant = |requirement: &Requirement| {
            let is_elsewhere = || {
                let mut values = pod.labels.values().map(String::as_str).chain(name);
                !pod.labels.contains_key(&requirement.key) && values.any(|value| asks_for(requirement, value))
            };
            is_slip(requirement, &pod.labels) || is_elsewhere()
        };
        let mut failing = peer.pods.requirements().filter(|requirement| !requirement.matches(&pod.labels));
        let labels = failing.all(is_meant).then(|| peer::as_asked_for(self.view, &peer.pods, pods))??;
        Some(replace(&[path, &["podSelector"]].concat(), match_labels(&labels)))
    }

    /// The label of the other end as the rule asks for it, where the pods have it misspelt.
    fn misspelt_label(&self, candidate: &Candidate, shown: Shown, rule: &PolicyRule) -> Option<Proposal> {
        let (Peer::Pods(peer), Other::Pods(pods)) = (missed_item(candidate, rule)?.1, &self.other) else {
            return None;
        };
        let codes: Vec<ReasonCode> = candidate.conjuncts.iter().map(|conjunct| conjunct.code).collect();
        if shown != Shown::Alone
            || !matches!(codes.as_slice(), [ReasonCode::PeerLabelMissing | ReasonCode::PeerLabelValue])
        {
            return None;
        }
        misspelt::of_pods(self.view, self.direction, &peer.pods, candidate.policy, pods, Lacking::Peer)
    }

    /// Labels that the other end lacks: of its namespace, or of the pods.
    fn label_of_the_other_end(
        &self,
        candidate: &Candidate,
        shown: Shown,
        rule: &PolicyRule,
        all: &mut Vec<Proposal>,
    ) -> Result<(), NoFix> {
        let item = missed_item(candidate, rule);
        let (Some((_, Peer::Pods(peer))), Other::Pods(pods)) = (item, &self.other) else { return Ok(()) };
        let codes: Vec<ReasonCode> = candidate.conjuncts.iter().map(|conjunct| conjunct.code).collect();
        if let [ReasonCode::PeerLabelMissing | ReasonCode::PeerLabelValue] = codes.as_slice()
            && shown != Shown::No
            && let Some(reason) = self.newer_template(&peer.pods, pods)
        {
            return Err(reason);
        }
        // Any of several rules that are equally near may be the one that means the other end.
        match codes.as_slice() {
            [ReasonCode::PeerLabelMissing]
                if shown != Shown::No && label::is_on_workload(self.view, &peer.pods, pods) =>
            {
                if let Some((object, labels)) = label::of_unchanging_template(self.view, &peer.pods, pods) {
                    return Err(NoFix::LabelOnWorkload { object, labels });
                }
                let proposal = label::of_pods(self.view, self.direction, &peer.pods, pods, Lacking::Peer, 0);
                all.extend(proposal.map(|proposal| Proposal { cause: Cause::Misplaced, ..proposal }));
            }
            [ReasonCode::PeerNamespaceLabel] if shown == Shown::Alone && !self.means_labels_of_pods(peer, pods) => {
                let own = &self.view.cluster.pod(pods[0]).namespace;
                let Namespaces::Selected(selector) = &peer.namespaces else { return Ok(()) };
                let proposal = |choice| label::of_namespace(self.view, self.direction, selector, own, choice);
                all.extend((0..label::choices(selector)).filter_map(proposal));
            }
            [ReasonCode::PeerLabelMissing] if shown == Shown::Alone => {
                let (view, selector) = (self.view, &peer.pods);
                let proposal = |choice| label::of_pods(view, self.direction, selector, pods, Lacking::Peer, choice);
                let proposals = (0..label::choices(selector)).filter_map(proposal);
                let is_of_others = |change: &Change| {
                    label::names_another(view, pods, change)
                        || label::is_asked_for_elsewhere(view, candidate.policy, change)
                };
                all.extend(proposals.filter(|of| !is_of_others(&of.change)));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The item of `from` or `to` by which a rule misses, and its place.
fn missed_item<'r>(candidate: &Candidate, rule: &'r PolicyRule) -> Option<(usize, &'r Peer)> {
    let place = candidate.conjuncts.iter().find(|of| of.of() == RuleHalf::Peer)?.path.place;
    let Peers::AnyOf(peers) = &rule.peers else { return None };
    Some((place, peers.get(place)?))
}

/// Whether a selector asks for the label that has the namespace's name, or for one that does not
/// exist in its place.
fn selects_by_name(selector: &Selector) -> bool {
    selector.requirements().any(|requirement| matches!(requirement.key.as_str(), NAMESPACE_NAME_LABEL | "name"))
}

/// The labels that a selector asks for, each with the value that there is. None if it asks for
/// something else than values of labels that are there.
fn slips_corrected(selector: &Selector, has: &Labels) -> Option<Labels> {
    let value = |requirement: &Requirement| {
        let is_one = matches!(&requirement.operator, Operator::In(values) if values.len() == 1);
        is_one.then(|| Some((requirement.key.clone(), has.get(&requirement.key)?.clone())))?
    };
    selector.requirements().map(value).collect()
}

/// Whether all items of `ports` are names.
fn are_names(ports: &Ports) -> bool {
    let Ports::AnyOf(items) = ports else { return false };
    items.iter().all(|item| matches!(item, PortMatch::Named(..)))
}

/// Whether two items of `ports` mean the same.
fn is_same_port(one: &Value, other: &Value) -> bool {
    let parts = |port: &Value| {
        let text = |key: &str, default: &str| match port.get(key) {
            None | Some(Value::Null) => default.to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        let is_text = port.get("port").is_some_and(Value::is_string);
        (text("protocol", "TCP"), text("port", ""), text("endPort", ""), is_text)
    };
    parts(one) == parts(other)
}
