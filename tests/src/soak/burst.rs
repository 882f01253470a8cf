//! Bursts: first packets as fast as they can be made, while something changes.
//!
//! What goes wrong between two writes goes wrong for microseconds, so it takes
//! many packets to meet it, and each has to be judged: every one is a flow of
//! its own, which only raw sockets make cheaply.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;

use npc_compiler::object::Family;
use socket2::Socket;

use super::record::Record;
use super::shots::Shots;
use super::sockets::Sockets;
use crate::lab::{Result, raw_ip_socket, whole_datagram};

/// The ports that a burst is sent from, and nothing else.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A burst that is being sent.
#[derive(Default)]
pub(super) struct Burst {
    /// A socket for whole packets, by place and family.
    sockets: BTreeMap<(usize, Family), Socket>,
    flows: Vec<usize>,
    /// How many packets there are still to come.
    left: usize,
    sent: usize,
}

impl Burst {
    /// Sends on these flows from now on, until so many packets are sent.
    pub(super) fn begin(&mut self, flows: Vec<usize>, packets: usize) {
        self.left = if flows.is_empty() { 0 } else { packets };
        self.flows = flows;
    }

    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Sends one packet of every flow.
    pub(super) fn fall(&mut self, sockets: &Sockets, shots: &mut Shots, record: &mut Record) -> Result<()> {
        for flow in &self.flows {
            let (from, source, destination) = {
                let flow = record.flow(*flow);
                (flow.from, flow.source, flow.destination)
            };
            let family = Family::of(&source);
            let socket = match self.sockets.entry((from, family)) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(free) => {
                    sockets.enter(from)?;
                    free.insert(raw_ip_socket(family)?)
                }
            };
            let port = PORTS.start + u16::try_from(self.sent % PORTS.len()).unwrap_or_default();
            self.sent += 1;
            shots.burst(*flow, record, |message| {
                let packet = whole_datagram(SocketAddr::new(source, port), destination, message);
                let to = SocketAddr::new(destination.ip(), 0);
                socket.send_to(&packet.unwrap_or_default(), &to.into()).map(drop)
            });
        }
        self.left = self.left.saturating_sub(self.flows.len());
        Ok(())
    }
}
