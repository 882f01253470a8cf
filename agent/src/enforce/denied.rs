//! The denied flows in the log: one line each, however many packets they send.
//!
//! A flow is what a policy would have to allow: the ends, the protocol and the
//! destination's port, so that retries from other source ports are the same
//! one. It is logged when its first packet is dropped. Later packets are counted, and their
//! number is logged when a window is over.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use npc_compiler::engine::Engine;
use npc_compiler::object::Protocol;
use npc_compiler::policy::Direction;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::dataplane::nflog::{Denied, Heard};

/// How long a flow that was logged is not logged again.
const WINDOW: Duration = Duration::from_secs(60);

/// How many flows are remembered, and so logged, in one window at most.
const CAPACITY: usize = 4096;

/// Knows which pods have which addresses.
pub(super) trait Names {
    /// `NAMESPACE/NAME` of the endpoint that has an address.
    fn endpoint(&self, address: IpAddr) -> Option<String>;

    /// The policies that isolate an endpoint of this node in a direction, as
    /// `NAMESPACE/NAME`.
    fn isolated_by(&self, address: IpAddr, direction: Direction) -> Vec<String>;
}

/// Before the first pass nothing is known.
impl Names for Option<&Engine> {
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
    /// With how many packets followed.
    recent: HashMap<Denied, u64>,
    /// When each one's window ends, in this order.
    ends: VecDeque<(Instant, Denied)>,
    /// Packets of flows for which there was no room.
    unlogged: u64,
    /// Packets were dropped that the kernel had no room to report.
    lost: bool,
}

/// What is to be logged of a flow.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// It is denied.
    First(Denied),
    /// So many packets followed.
    More(Denied, u64),
}

impl DeniedFlows {
    /// Takes in what a reader received, and logs the flows that are new.
    pub(super) fn take(&mut self, received: Heard, now: Instant, names: &impl Names) {
        match received {
            Heard::Packets(packets) => {
                for packet in packets {
                    if let Some(line) = self.count(packet, now) {
                        log(&line, names);
                    }
                }
            }
            Heard::Lost if !std::mem::replace(&mut self.lost, true) => {
                warn!(target: "npc::denied", "the kernel could not report all denied packets; some flows are missing here");
            }
            Heard::Lost => {}
        }
    }

    fn count(&mut self, packet: Denied, now: Instant) -> Option<Line> {
        if let Some(more) = self.recent.get_mut(&packet) {
            *more += 1;
            return None;
        }
        if self.recent.len() >= CAPACITY {
            self.unlogged += 1;
            return None;
        }
        self.recent.insert(packet, 0);
        self.ends.push_back((now + WINDOW, packet));
        Some(Line::First(packet))
    }

    /// When the first window ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }

    /// Logs the numbers of the windows that have ended by now; of all, without a time.
    pub(super) fn end(&mut self, now: Option<Instant>, names: &impl Names) {
        for line in self.ended(now) {
            log(&line, names);
        }
        let unlogged = std::mem::take(&mut self.unlogged);
        if unlogged > 0 {
            warn!(target: "npc::denied", packets = unlogged, "more flows are denied than are logged; these packets are of those");
        }
        self.lost = false;
    }

    fn ended(&mut self, now: Option<Instant>) -> Vec<Line> {
        let mut lines = Vec::new();
        while let Some((end, _)) = self.ends.front()
            && now.is_none_or(|now| *end <= now)
            && let Some((_, flow)) = self.ends.pop_front()
        {
            let more = self.recent.remove(&flow).unwrap_or_default();
            if more > 0 {
                lines.push(Line::More(flow, more));
            }
        }
        lines
    }
}

/// Logs a line. An end that is no endpoint has no name.
fn log(line: &Line, names: &impl Names) {
    let (Line::First(flow) | Line::More(flow, _)) = line;
    let (tuple, direction) = (&flow.tuple, flow.direction);
    let denying = match direction {
        Direction::Egress => tuple.source,
        Direction::Ingress => tuple.destination,
    };
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
        Line::First(_) => None,
        Line::More(_, more) => Some(*more),
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

    #[test]
    fn a_flow_is_logged_once_in_a_window_and_then_its_number() {
        let mut flows = DeniedFlows::default();
        let begin = Instant::now();
        assert_eq!(flows.count(packet(1), begin), Some(Line::First(packet(1))));
        for second in 1..10 {
            assert_eq!(flows.count(packet(1), begin + Duration::from_secs(second)), None);
        }
        let other = Denied { direction: Direction::Egress, ..packet(1) };
        assert_eq!(flows.count(other, begin + Duration::from_secs(5)), Some(Line::First(other)));
        assert_eq!(flows.next_end(), Some(begin + WINDOW));
        assert_eq!(flows.ended(Some(begin + WINDOW)), [Line::More(packet(1), 9)]);
        // A flow that did not come again has no second line.
        assert_eq!(flows.ended(Some(begin + WINDOW * 2)), []);
        assert_eq!(flows.next_end(), None);
        let later = begin + WINDOW * 3;
        assert_eq!(flows.count(packet(1), later), Some(Line::First(packet(1))));
        assert_eq!(flows.count(packet(1), later), None);
        assert_eq!(flows.ended(None), [Line::More(packet(1), 1)], "at the end of all time");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut flows = DeniedFlows::default();
        let now = Instant::now();
        let logged = (0..10_000).filter(|n| flows.count(packet(*n), now).is_some()).count();
        assert_eq!((logged, flows.recent.len(), flows.ends.len()), (CAPACITY, CAPACITY, CAPACITY));
        assert_eq!(flows.unlogged, 10_000 - CAPACITY as u64);
        flows.end(Some(now + WINDOW), &None);
        assert_eq!((flows.recent.len(), flows.unlogged), (0, 0));
        assert!(flows.count(packet(9_999), now + WINDOW).is_some());
    }
}
