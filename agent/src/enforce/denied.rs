//! The denied flows in the log: one line each, however many packets they send.
//!
//! A flow is what a policy would have to allow: the ends, the protocol and the
//! destination's port, so that retries from other source ports are the same
//! one. It is logged when its first packet is dropped. Later packets are counted, and their
//! number is logged when a window is over.
//!
//! How many flows are remembered is bounded, and namespaces share that: while one has more
//! than another, a new flow of the smaller one takes the place of the oldest of the larger
//! one. So a tenant whose pods deny very much hides nothing that another tenant's pods deny.
//! Within a namespace its pods share in the same way.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use npc_compiler::engine::Engine;
use npc_compiler::object::Protocol;
use npc_compiler::policy::Direction;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::dataplane::nflog::{Denied, Received};

/// How long a flow that was logged is not logged again.
const WINDOW: Duration = Duration::from_secs(60);

/// How many flows are remembered, and so logged, in one window at most.
const CAPACITY: usize = 4096;

/// Knows which pods have which addresses.
pub(super) trait PodLookup {
    /// `NAMESPACE/NAME` of the endpoint that has an address.
    fn endpoint(&self, address: IpAddr) -> Option<String>;

    /// The policies that isolate an endpoint of this node in a direction, as
    /// `NAMESPACE/NAME`.
    fn isolated_by(&self, address: IpAddr, direction: Direction) -> Vec<String>;
}

/// Before the first pass nothing is known.
impl PodLookup for Option<&Engine> {
    fn endpoint(&self, address: IpAddr) -> Option<String> {
        self.and_then(|engine| engine.owner(address)).map(|[namespace, name, _]| format!("{namespace}/{name}"))
    }

    fn isolated_by(&self, address: IpAddr, direction: Direction) -> Vec<String> {
        let policies = self.iter().flat_map(|engine| engine.policies_of(address, direction));
        policies.map(|(namespace, name)| format!("{namespace}/{name}")).collect()
    }
}

/// The flows that were logged within a window.
#[derive(Debug, Default)]
pub(super) struct DeniedFlows {
    recent: HashMap<Denied, Recent>,
    /// When each one's window ends, in this order. One that another took the place of is
    /// there all the same.
    ends: VecDeque<(Instant, Denied)>,
    /// The flows of each namespace by the address of the pod that denies them, the oldest
    /// first. A flow of no known pod is of the namespace without a name.
    shares: BTreeMap<String, BTreeMap<IpAddr, VecDeque<Denied>>>,
    /// Packets of flows for which there was no room.
    unlogged: u64,
    /// Packets were dropped that the kernel had no room to report.
    lost: bool,
}

/// A flow that was logged.
#[derive(Debug)]
struct Recent {
    /// When its window ends.
    end: Instant,
    /// How many packets followed.
    more: u64,
    /// In whose share it is.
    namespace: String,
}

/// What is to be logged of a flow.
#[derive(Debug, PartialEq, Eq)]
enum LogEntry {
    /// It is denied.
    First(Denied),
    /// This many packets of the same flow followed.
    More(Denied, u64),
}

impl DeniedFlows {
    /// Takes in what a reader received, and logs the flows that are new.
    pub(super) fn take(&mut self, received: Received, now: Instant, names: &impl PodLookup) {
        match received {
            Received::Packets(packets) => {
                for packet in packets {
                    for line in self.count(packet, now, names) {
                        log(&line, names);
                    }
                }
            }
            Received::Lost if !std::mem::replace(&mut self.lost, true) => {
                warn!(target: "npc::denied", "the kernel could not report all denied packets; some flows are missing here");
            }
            Received::Lost => {}
        }
    }

    fn count(&mut self, packet: Denied, now: Instant, names: &impl PodLookup) -> Vec<LogEntry> {
        if let Some(recent) = self.recent.get_mut(&packet) {
            recent.more += 1;
            return Vec::new();
        }
        let denying = denying(&packet);
        let namespace = names.endpoint(denying).and_then(|name| Some(name.split_once('/')?.0.to_owned()));
        let namespace = namespace.unwrap_or_default();
        let mut lines = Vec::new();
        if self.recent.len() >= CAPACITY {
            let Some(least) = self.least_urgent(&namespace, denying) else {
                self.unlogged += 1;
                return Vec::new();
            };
            lines.extend(self.forget(&least));
        }
        let end = now + WINDOW;
        self.shares.entry(namespace.clone()).or_default().entry(denying).or_default().push_back(packet);
        self.recent.insert(packet, Recent { end, more: 0, namespace });
        self.ends.push_back((end, packet));
        lines.push(LogEntry::First(packet));
        lines
    }

    /// The flow that a new one of this namespace and pod takes the place of; none if no
    /// larger share gives way.
    fn least_urgent(&self, namespace: &str, denying: IpAddr) -> Option<Denied> {
        let size = |pods: &BTreeMap<IpAddr, VecDeque<Denied>>| pods.values().map(VecDeque::len).sum::<usize>();
        let own = self.shares.get(namespace);
        let largest = self.shares.values().max_by_key(|pods| size(pods))?;
        let oldest = |pods: &BTreeMap<IpAddr, VecDeque<Denied>>| {
            pods.values().max_by_key(|flows| flows.len()).and_then(|flows| flows.front().copied())
        };
        // It is larger also after the exchange, so no two shares take turns.
        if own.map_or(0, size) + 1 < size(largest) {
            return oldest(largest);
        }
        let pods = own?;
        let most = pods.values().map(VecDeque::len).max()?;
        if pods.get(&denying).map_or(0, VecDeque::len) + 1 < most { oldest(pods) } else { None }
    }

    /// Forgets a flow; the line about what followed its first packet.
    fn forget(&mut self, flow: &Denied) -> Option<LogEntry> {
        let Recent { more, namespace, .. } = self.recent.remove(flow)?;
        if let Some(pods) = self.shares.get_mut(&namespace) {
            if let Some(flows) = pods.get_mut(&denying(flow)) {
                // The oldest one, unless windows of one moment ended in another order.
                if let Some(place) = flows.iter().position(|one| one == flow) {
                    flows.remove(place);
                }
            }
            pods.retain(|_, flows| !flows.is_empty());
            if pods.is_empty() {
                self.shares.remove(&namespace);
            }
        }
        (more > 0).then_some(LogEntry::More(*flow, more))
    }

    /// When the first window ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }

    /// Logs the numbers of the windows that have ended by now; of all, without a time.
    pub(super) fn end(&mut self, now: Option<Instant>, names: &impl PodLookup) {
        for line in self.ended(now) {
            log(&line, names);
        }
        let unlogged = std::mem::take(&mut self.unlogged);
        if unlogged > 0 {
            warn!(target: "npc::denied", packets = unlogged, "more flows are denied than are logged; these packets are of those");
        }
        self.lost = false;
    }

    fn ended(&mut self, now: Option<Instant>) -> Vec<LogEntry> {
        let mut lines = Vec::new();
        while let Some((end, _)) = self.ends.front()
            && now.is_none_or(|now| *end <= now)
            && let Some((end, flow)) = self.ends.pop_front()
        {
            // Another flow may have taken its place, and it may have come again since.
            if self.recent.get(&flow).is_some_and(|recent| recent.end == end) {
                lines.extend(self.forget(&flow));
            }
        }
        lines
    }
}

/// The address of the pod whose policies deny a flow.
fn denying(flow: &Denied) -> IpAddr {
    match flow.direction {
        Direction::Egress => flow.tuple.source,
        Direction::Ingress => flow.tuple.destination,
    }
}

/// Logs a line. An end that is no endpoint has no name.
fn log(line: &LogEntry, names: &impl PodLookup) {
    let (LogEntry::First(flow) | LogEntry::More(flow, _)) = line;
    let (tuple, direction) = (&flow.tuple, flow.direction);
    let denying = denying(flow);
    let known = Protocol::ALL.into_iter().find(|protocol| protocol.number() == tuple.protocol);
    let protocol = match (known, tuple.protocol) {
        (Some(protocol), _) => protocol.as_str().to_owned(),
        (None, 1) => "ICMP".to_owned(),
        (None, 58) => "ICMPv6".to_owned(),
        (None, number) => number.to_string(),
    };
    let (from, to) = (names.endpoint(tuple.source), names.endpoint(tuple.destination));
    let policies = names.isolated_by(denying, direction).join(" ");
    let more = match line {
        LogEntry::First(_) => None,
        LogEntry::More(_, more) => Some(*more),
    };
    info!(
        target: "npc::denied",
        direction = direction.as_str(),
        source = %tuple.source,
        source_pod = from,
        destination = %tuple.destination,
        destination_pod = to,
        protocol,
        port = known.map(|_| tuple.port),
        policies,
        more,
        "{}",
        if more.is_some() { "denied again" } else { "denied" }
    );
}

#[cfg(test)]
mod tests {
    use npc_compiler::plan::conntrack::FlowKey;

    use super::*;

    fn packet(n: u32) -> Denied {
        let [source, destination] = [n, u32::MAX].map(|bits| IpAddr::V4(bits.into()));
        Denied {
            direction: Direction::Ingress,
            tuple: FlowKey { source, destination, protocol: 6, port: 80, mid_stream: false },
        }
    }

    /// Pods by their addresses: 10.1.0.0/16 is of the namespace `loud`, the rest of 10.0.0.0/8
    /// of `quiet`.
    struct Pods;

    impl PodLookup for Pods {
        fn endpoint(&self, address: IpAddr) -> Option<String> {
            match address {
                IpAddr::V4(address) if address.octets()[..2] == [10, 1] => Some(format!("loud/{address}")),
                IpAddr::V4(address) if address.octets()[0] == 10 => Some(format!("quiet/{address}")),
                _ => None,
            }
        }

        fn isolated_by(&self, _: IpAddr, _: Direction) -> Vec<String> {
            Vec::new()
        }
    }

    /// One of many flows to a pod.
    fn to(pod: [u8; 4], n: u32) -> Denied {
        let mut packet = packet(n);
        packet.tuple.destination = pod.into();
        packet
    }

    /// How many flows are remembered by the pod that denies them.
    fn remembered(flows: &DeniedFlows, pod: [u8; 4]) -> usize {
        flows.recent.keys().filter(|flow| flow.tuple.destination == IpAddr::from(pod)).count()
    }

    #[test]
    fn a_flow_is_logged_once_in_a_window_and_then_its_number() {
        let mut flows = DeniedFlows::default();
        let begin = Instant::now();
        assert_eq!(flows.count(packet(1), begin, &Pods), [LogEntry::First(packet(1))]);
        for second in 1..10 {
            assert_eq!(flows.count(packet(1), begin + Duration::from_secs(second), &Pods), []);
        }
        let other = Denied { direction: Direction::Egress, ..packet(1) };
        assert_eq!(flows.count(other, begin + Duration::from_secs(5), &Pods), [LogEntry::First(other)]);
        assert_eq!(flows.next_end(), Some(begin + WINDOW));
        assert_eq!(flows.ended(Some(begin + WINDOW)), [LogEntry::More(packet(1), 9)]);
        // A flow that did not come again has no second line.
        assert_eq!(flows.ended(Some(begin + WINDOW * 2)), []);
        assert_eq!(flows.next_end(), None);
        let later = begin + WINDOW * 3;
        assert_eq!(flows.count(packet(1), later, &Pods), [LogEntry::First(packet(1))]);
        assert_eq!(flows.count(packet(1), later, &Pods), []);
        assert_eq!(flows.ended(None), [LogEntry::More(packet(1), 1)], "at the end of all time");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut flows = DeniedFlows::default();
        let now = Instant::now();
        let logged = (0..10_000).filter(|n| !flows.count(packet(*n), now, &Pods).is_empty()).count();
        assert_eq!((logged, flows.recent.len(), flows.ends.len()), (CAPACITY, CAPACITY, CAPACITY));
        assert_eq!(flows.unlogged, 10_000 - CAPACITY as u64);
        flows.end(Some(now + WINDOW), &None);
        assert_eq!((flows.recent.len(), flows.unlogged), (0, 0));
        assert!(!flows.count(packet(9_999), now + WINDOW, &Pods).is_empty());
    }

    #[test]
    fn a_tenant_that_is_denied_much_hides_no_flow_of_another_ones_pod() {
        let mut flows = DeniedFlows::default();
        let now = Instant::now();
        // Twelve groups of pods, as much as the kernel reports of each.
        for n in 0..1_000 {
            for pod in 0..12 {
                flows.count(to([10, 1, 0, pod], n), now, &Pods);
            }
        }
        assert_eq!(flows.recent.len(), CAPACITY);
        let scan: Vec<Denied> = (0..1_000).map(|n| to([10, 0, 0, 1], n)).collect();
        for flow in &scan {
            assert_eq!(flows.count(*flow, now, &Pods).last(), Some(&LogEntry::First(*flow)));
        }
        assert_eq!((flows.recent.len(), remembered(&flows, [10, 0, 0, 1])), (CAPACITY, 1_000));
        // It has no more than its share, and no two namespaces take turns.
        for n in 1_000..4_000 {
            flows.count(to([10, 0, 0, 1], n), now, &Pods);
        }
        let lines: usize = (4_000..5_000).map(|n| flows.count(to([10, 1, 0, 1], n), now, &Pods).len()).sum();
        assert_eq!((remembered(&flows, [10, 0, 0, 1]), lines), (CAPACITY / 2, 0));
        // Nothing of it is left when the windows are over.
        flows.end(Some(now + WINDOW), &Pods);
        assert!(flows.recent.is_empty() && flows.shares.is_empty() && flows.ends.is_empty());
    }

    #[test]
    fn a_pod_that_denies_much_hides_no_flow_of_another_pod_of_its_namespace() {
        let mut flows = DeniedFlows::default();
        let now = Instant::now();
        for n in 0..10_000 {
            flows.count(to([10, 1, 0, 1], n), now, &Pods);
        }
        flows.count(to([10, 1, 0, 1], 4_095), now, &Pods);
        for n in 0..100 {
            assert_eq!(flows.count(to([10, 1, 0, 2], n), now, &Pods), [LogEntry::First(to([10, 1, 0, 2], n))]);
        }
        assert_eq!(remembered(&flows, [10, 1, 0, 2]), 100);
        // One whose place was taken can come again, and its first window says nothing of that.
        let first = to([10, 1, 0, 1], 0);
        assert_eq!(flows.count(first, now + WINDOW / 2, &Pods), [], "its pod has the largest share");
        assert_eq!(flows.ended(Some(now + WINDOW)), [LogEntry::More(to([10, 1, 0, 1], 4_095), 1)]);
        assert_eq!(flows.count(first, now + WINDOW, &Pods), [LogEntry::First(first)]);
    }
}
