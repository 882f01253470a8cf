//! The denied flows, told to people: one line each, however many packets they
//! send.
//!
//! A flow is what a policy would have to allow: the ends, the protocol and the
//! destination's port, so that retries from other source ports are the same
//! one. It is told when its first packet is dropped. What it sends after that is
//! counted and, once a window is over, told as a number.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use npc_compiler::engine::Engine;
use npc_compiler::object::Protocol;
use npc_compiler::policy::Direction;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::dataplane::nflog::{Denied, Heard};

/// How long a flow that was told of is not told of again.
const WINDOW: Duration = Duration::from_secs(60);

/// How many flows are remembered, and so told of, in one window at most.
const CAPACITY: usize = 4096;

/// Knows what addresses are.
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

/// The flows that were told of not long ago.
#[derive(Debug, Default)]
pub(super) struct DeniedFlows {
    /// With how many packets followed.
    recent: HashMap<Denied, u64>,
    /// When each one's window ends, in this order.
    ends: VecDeque<(Instant, Denied)>,
    /// Packets of flows for which there was no room.
    untold: u64,
    /// Packets were dropped that the kernel could not tell of.
    lost: bool,
}

/// What there is to say of a flow.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// It is denied.
    First(Denied),
    /// So many packets followed.
    More(Denied, u64),
}

impl DeniedFlows {
    /// Takes in what a reader heard, and tells what is new.
    pub(super) fn hear(&mut self, heard: Heard, now: Instant, names: &impl Names) {
        match heard {
            Heard::Packets(packets) => {
                for packet in packets {
                    if let Some(word) = self.count(packet, now) {
                        say(&word, names);
                    }
                }
            }
            Heard::Lost if !std::mem::replace(&mut self.lost, true) => {
                warn!(target: "npc::denied", "more packets are denied than can be told of; some flows are missing here");
            }
            Heard::Lost => {}
        }
    }

    fn count(&mut self, packet: Denied, now: Instant) -> Option<Word> {
        if let Some(more) = self.recent.get_mut(&packet) {
            *more += 1;
            return None;
        }
        if self.recent.len() >= CAPACITY {
            self.untold += 1;
            return None;
        }
        self.recent.insert(packet, 0);
        self.ends.push_back((now + WINDOW, packet));
        Some(Word::First(packet))
    }

    /// When the first window ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }

    /// Tells the numbers of the windows that have ended by now, or of all where
    /// there is no time any more.
    pub(super) fn end(&mut self, now: Option<Instant>, names: &impl Names) {
        for word in self.ended(now) {
            say(&word, names);
        }
        let untold = std::mem::take(&mut self.untold);
        if untold > 0 {
            warn!(target: "npc::denied", packets = untold, "more flows are denied than are told of; these are of others");
        }
        self.lost = false;
    }

    fn ended(&mut self, now: Option<Instant>) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some((end, _)) = self.ends.front()
            && now.is_none_or(|now| *end <= now)
            && let Some((_, flow)) = self.ends.pop_front()
        {
            let more = self.recent.remove(&flow).unwrap_or_default();
            if more > 0 {
                words.push(Word::More(flow, more));
            }
        }
        words
    }
}

/// Writes the line. An end that is no endpoint has no name.
fn say(word: &Word, names: &impl Names) {
    let (Word::First(flow) | Word::More(flow, _)) = word;
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
    let more = match word {
        Word::First(_) => None,
        Word::More(_, more) => Some(*more),
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
    use npc_compiler::plan::conntrack::Tuple;

    use super::*;

    fn packet(n: u32) -> Denied {
        let [source, destination] = [n, u32::MAX].map(|bits| IpAddr::V4(bits.into()));
        Denied {
            direction: Direction::Ingress,
            tuple: Tuple { source, destination, protocol: 6, port: 80, mid_stream: false },
        }
    }

    #[test]
    fn a_flow_is_told_once_in_a_window_and_then_its_number() {
        let mut flows = DeniedFlows::default();
        let begin = Instant::now();
        assert_eq!(flows.count(packet(1), begin), Some(Word::First(packet(1))));
        for second in 1..10 {
            assert_eq!(flows.count(packet(1), begin + Duration::from_secs(second)), None);
        }
        let other = Denied { direction: Direction::Egress, ..packet(1) };
        assert_eq!(flows.count(other, begin + Duration::from_secs(5)), Some(Word::First(other)));
        assert_eq!(flows.next_end(), Some(begin + WINDOW));
        assert_eq!(flows.ended(Some(begin + WINDOW)), [Word::More(packet(1), 9)]);
        // Nothing is said of one that did not come again.
        assert_eq!(flows.ended(Some(begin + WINDOW * 2)), []);
        assert_eq!(flows.next_end(), None);
        let later = begin + WINDOW * 3;
        assert_eq!(flows.count(packet(1), later), Some(Word::First(packet(1))));
        assert_eq!(flows.count(packet(1), later), None);
        assert_eq!(flows.ended(None), [Word::More(packet(1), 1)], "at the end of all time");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut flows = DeniedFlows::default();
        let now = Instant::now();
        let told = (0..10_000).filter(|n| flows.count(packet(*n), now).is_some()).count();
        assert_eq!((told, flows.recent.len(), flows.ends.len()), (CAPACITY, CAPACITY, CAPACITY));
        assert_eq!(flows.untold, 10_000 - CAPACITY as u64);
        flows.end(Some(now + WINDOW), &None);
        assert_eq!((flows.recent.len(), flows.untold), (0, 0));
        assert!(flows.count(packet(9_999), now + WINDOW).is_some());
    }
}
