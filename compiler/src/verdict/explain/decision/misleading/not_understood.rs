//! Parts of policies that were not understood and may be why something is denied.

use super::{Discrepancy, MisleadingPolicy, OtherPart};
use crate::algebra::cidr::Cidr;
use crate::algebra::selector::{Operator, Requirement};
use crate::algebra::syntax::wrong_label_value;
use crate::algebra::traffic::Traffic;
use crate::algebra::typo::is_slip;
use crate::cluster::group::{Admitted, Group, atoms};
use crate::cluster::{Class, Cluster, PolicyId};
use crate::object::Labels;
use crate::policy::finding::{Effect, Finding, FindingCode, is_below};
use crate::policy::{Direction, Namespaces, Peer, Peers, Policy, PolicyRule, PortMatch, Ports, spelling};
use crate::verdict::explain::decision::near_miss::Candidate;
use crate::verdict::explain::question::Question;

/// A decision names at most this many parts of a group's policies.
const NAMED: usize = 3;

/// How likely a part is why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Likely {
    /// All else of its rule admits what was asked.
    Certainly,
    /// It may mean the other end.
    Perhaps,
    /// It most likely means other addresses, and there is no other peer to name.
    Elsewhere,
    /// So may it, and another part of its rule was not understood either.
    WithAnother,
    /// The rule's ports do not admit what was asked either.
    BesideItsPorts,
    /// The rule's peers do not mean the other end either.
    BesideItsPeers,
}

impl Likely {
    /// What of the rule fails besides.
    const fn besides(self) -> Option<OtherPart> {
        match self {
            Self::Certainly | Self::Perhaps | Self::Elsewhere | Self::WithAnother => None,
            Self::BesideItsPorts => Some(OtherPart::Ports),
            Self::BesideItsPeers => Some(OtherPart::Peers),
        }
    }
}

impl Question {
    /// The parts of a group's policies that were not understood, if no other part keeps the denied traffic out. These
    /// are rules whose peers are not understood and whose ports match, or the other way round. They are also policies
    /// that allow nothing because their podSelector or their policyTypes are not understood. The likeliest comes first.
    /// If no rule is a near miss because none was understood whole, the answer also names a part of a rule that misses
    /// for another reason too.
    pub(in crate::verdict::explain) fn not_understood(
        &self,
        cluster: &Cluster,
        group: &Group,
        denied: &Traffic,
        candidates: &[Candidate],
    ) -> Vec<MisleadingPolicy> {
        let direction = group.key.direction;
        let policies = group.key.policies.iter();
        let findings = policies.flat_map(|id| cluster.findings_of(*id).map(move |finding| (*id, finding)));
        let perhaps = |is_it: bool| is_it.then_some(Likely::Perhaps);
        let likely = |id: PolicyId, finding: &Finding| match finding.effect {
            Effect::MatchesNothing => {
                let rules = cluster.policy(id).rules(direction);
                // A rule of this direction may stand among those of the other one.
                if rules.is_empty() && is_of_this_direction(&finding.path, direction) {
                    return Some(Likely::Perhaps);
                }
                let rule = rules.iter().find(|rule| is_below(&finding.path, &rule.path))?;
                self.is_why(cluster, group, (cluster.policy(id), rule), finding, denied)
            }
            Effect::AllowsNothing => Some(Likely::Perhaps),
            Effect::RulesLeftOut => self.is_left_out(cluster, id, direction, denied),
            Effect::IsolatesBoth => perhaps(cluster.policy(id).rules(direction).is_empty()),
            // A field of the spec, unless it is the misspelt section of the other direction.
            Effect::FieldDropped => perhaps(
                cluster.policy(id).rules(direction).is_empty()
                    && spelling::meant(&finding.path) != Some(direction.opposite().section()),
            ),
            Effect::Works | Effect::Ignored => None,
        };
        let mut found: Vec<(Likely, PolicyId, &Finding)> =
            findings.filter_map(|(id, finding)| Some((likely(id, finding)?, id, finding))).collect();
        found.retain(|(likely, ..)| likely.besides().is_none() || candidates.is_empty());
        found.sort_by_key(|(likely, ..)| *likely);
        let misleading = found.into_iter().map(|(likely, policy, finding)| MisleadingPolicy {
            policy,
            path: finding.path.clone(),
            discrepancy: Discrepancy::NotUnderstood {
                code: finding.code,
                problem: finding.problem.clone(),
                effect: finding.effect,
                besides: likely.besides(),
            },
            may_be_why: true,
        });
        misleading.take(NAMED).collect()
    }

    /// Whether a policy whose rules are left out would admit the denied traffic with them. The input
    /// does not have the rules of a policy that takes too much memory.
    fn is_left_out(&self, cluster: &Cluster, id: PolicyId, direction: Direction, denied: &Traffic) -> Option<Likely> {
        if !cluster.is_over(id) {
            return Some(Likely::Perhaps);
        }
        let written = cluster.policy(cluster.as_written(id));
        self.would_admit(cluster, written, direction, denied).then_some(Likely::Certainly)
    }

    /// Whether a part of a rule that was not understood may be why the rule does not admit the
    /// denied traffic.
    fn is_why(
        &self,
        cluster: &Cluster,
        group: &Group,
        (policy, rule): (&Policy, &PolicyRule),
        finding: &Finding,
        denied: &Traffic,
    ) -> Option<Likely> {
        let direction: Direction = group.key.direction;
        let (subject, other) = self.ends(direction);
        let seen = other.seen(cluster, subject, self.family);
        let (open_peers, open_ports) = (rule.has_unread_peers(), rule.has_unread_ports());
        let understood_peers = atoms(&rule.peers).iter().any(|atom| atom.holds(cluster, seen));
        let admitted = Admitted::of_ports(&rule.ports, direction, &group.key.resolution);
        let understood_ports = denied.difference(&admitted.traffic_to(seen.ports)).is_none();
        let part = finding.path.strip_prefix(&rule.path).unwrap_or_default().trim_start_matches('.');
        let place = || part.split(['[', ']']).nth(1).and_then(|place| place.parse::<usize>().ok());
        if part.starts_with("ports[") {
            // A number in quotes is a name, which was understood as one.
            let item = match &rule.ports {
                Ports::Everything => None,
                Ports::AnyOf(ports) => ports.get(place()?),
            };
            if item != Some(&PortMatch::Nothing) {
                return None;
            }
            // Corrected, the item would admit this; nothing tells that of every item.
            let means = finding.path.rsplit_once('.').and_then(|(item, _)| policy.half_read_port(item)).map(|meant| {
                let meant = Admitted::of_ports(&Ports::AnyOf(vec![meant.clone()]), direction, &group.key.resolution);
                denied.difference(&meant.traffic_to(seen.ports)).is_none()
            });
            return match (understood_ports, understood_peers, open_peers) {
                (true, ..) => None,
                (false, false, false) => Some(Likely::BesideItsPeers),
                (false, ..) if means == Some(false) => Some(Likely::BesideItsPorts),
                (false, true, _) if means == Some(true) => Some(Likely::Certainly),
                (false, true, _) => Some(Likely::Perhaps),
                (false, false, true) => Some(Likely::WithAnother),
            };
        }
        if understood_peers || !open_peers {
            return None;
        }
        let is_peer = part.starts_with(&format!("{}[", direction.peers_field()));
        let means = match is_peer.then(|| self.rest_misses(cluster, direction, (policy, rule), finding)) {
            // Corrected, the item would miss the other end as well.
            Some(true) => return Some(Likely::BesideItsPeers),
            Some(false) => self.may_mean(cluster, group, (policy, rule), finding)?,
            None => Likely::Perhaps,
        };
        match (understood_ports, open_ports) {
            _ if means == Likely::BesideItsPeers => Some(means),
            (true, _) => Some(means),
            (false, true) => Some(Likely::WithAnother),
            (false, false) => Some(Likely::BesideItsPorts),
        }
    }

    /// Whether the understood part of an item misses the other end. The rest of the item cannot change that.
    fn rest_misses(
        &self,
        cluster: &Cluster,
        direction: Direction,
        (policy, rule): (&Policy, &PolicyRule),
        finding: &Finding,
    ) -> bool {
        let item = item_of(finding, rule);
        let (subject, other) = self.ends(direction);
        if let Some(block) = policy.half_read_block(item).or_else(|| written_block(rule, direction, item)) {
            let address = self.family.and_then(|family| other.address(cluster, family));
            return address.is_some_and(|address| !block.holds(address));
        }
        let Some(rest) = policy.half_read(item) else { return false };
        let seen = other.seen(cluster, subject, self.family);
        !seen.classes.iter().any(|class| cluster.selects(rest, *class))
    }

    /// Whether a peer of selectors means the other end as its author most likely meant it; none where nothing tells
    /// that.
    fn is_meant(&self, cluster: &Cluster, direction: Direction, policy: &Policy, item: &str) -> Option<bool> {
        let meant = policy.meant_peer(item)?;
        let (subject, other) = self.ends(direction);
        let seen = other.seen(cluster, subject, self.family);
        let has_namespace = |class: &Class| match &meant.namespaces {
            Namespaces::Own(own) => *own == class.namespace,
            Namespaces::Selected(selector) => {
                cluster.namespace(&class.namespace).is_some_and(|labels| selector.matches(labels))
            }
        };
        // No label has a value that is none, so one that is absent may be any.
        let may_be_any = |of: &Requirement, labels: &Labels| {
            let is_none = |value: &String| wrong_label_value(value).is_some();
            !labels.contains_key(&of.key) && matches!(&of.operator, Operator::In(values) if values.iter().any(is_none))
        };
        let is_it = |class: &Class| {
            let labels = &class.labels;
            let is_right = |of: &&Requirement| of.matches(labels) || is_slip(of, labels);
            let mut wrong = meant.pods.requirements().filter(|of| !is_right(of)).peekable();
            match (has_namespace(class), wrong.peek()) {
                (false, _) => Some(false),
                (true, None) => Some(true),
                (true, Some(_)) => (!wrong.all(|of| may_be_any(of, labels))).then_some(false),
            }
        };
        let found: Vec<Option<bool>> = seen.classes.iter().map(|class| is_it(cluster.class(*class))).collect();
        if found.contains(&Some(true)) {
            return Some(true);
        }
        (!found.contains(&None)).then_some(false)
    }

    /// Whether a peer that was not understood may mean the other end, as its author most likely meant it. A host name
    /// means no address that npc could know. If the policies
    /// have no peer that was understood, they are named all the same: there is nothing else to name.
    fn may_mean(
        &self,
        cluster: &Cluster,
        group: &Group,
        (policy, rule): (&Policy, &PolicyRule),
        finding: &Finding,
    ) -> Option<Likely> {
        let direction = group.key.direction;
        let item = item_of(finding, rule);
        if finding.code == FindingCode::ExceptCoversCidr {
            return Some(Likely::Certainly);
        }
        if finding.code != FindingCode::CidrInvalid || finding.path.rsplit('.').next() != Some("cidr") {
            return Some(match self.is_meant(cluster, direction, policy, item) {
                Some(true) => Likely::Certainly,
                // Its block may be what its author means.
                Some(false) if finding.code != FindingCode::PeerCombined => Likely::BesideItsPeers,
                Some(false) | None => Likely::Perhaps,
            });
        }
        let (_, other) = self.ends(direction);
        let address = self.family.and_then(|family| other.address(cluster, family));
        let meant = policy.meant_blocks(item);
        match address {
            Some(address) if meant.iter().any(|block| block.holds(address)) => return Some(Likely::Certainly),
            // Authors name pods by selectors.
            None if !meant.is_empty() => return Some(Likely::Elsewhere),
            Some(_) | None => {}
        }
        let is_alone = |rule: &PolicyRule| match &rule.peers {
            Peers::Everyone => false,
            Peers::AnyOf(peers) => peers.iter().all(|peer| *peer == Peer::Nothing),
        };
        let mut rules = group.key.policies.iter().flat_map(|id| cluster.policy(*id).rules(direction));
        let likely = if meant.is_empty() { Likely::Perhaps } else { Likely::Elsewhere };
        rules.all(is_alone).then_some(likely)
    }
}

/// Whether a field is the peers of a direction in a rule of the other one: `from` of egress.
fn is_of_this_direction(path: &str, direction: Direction) -> bool {
    let rest = path.strip_prefix("spec.").and_then(|path| path.strip_prefix(direction.opposite().section()));
    let field = rest.and_then(|rest| rest.strip_prefix('[')).and_then(|rest| rest.split_once("]."));
    field.is_some_and(|(_, field)| field == direction.peers_field())
}

/// The path of the item of a rule that a finding is about.
fn item_of<'f>(finding: &'f Finding, rule: &PolicyRule) -> &'f str {
    let item = finding.path.get(rule.path.len()..).and_then(|rest| rest.find(']')).unwrap_or_default();
    finding.path.get(..=rule.path.len() + item).unwrap_or_default()
}

/// The prefix of an item of a rule that was understood, and of which its exceptions leave nothing.
fn written_block<'r>(rule: &'r PolicyRule, direction: Direction, item: &str) -> Option<&'r Cidr> {
    let place = item.strip_prefix(&rule.path)?.strip_prefix('.')?.strip_prefix(direction.peers_field())?;
    let place: usize = place.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    let Peers::AnyOf(peers) = &rule.peers else { return None };
    match peers.get(place)? {
        Peer::Block(block) => Some(&block.cidr),
        Peer::Pods(_) | Peer::Nothing => None,
    }
}
