//! Frames of every kind, sent raw from pods, to pods and between pods that
//! policies isolate: what arrives is on the closed list, or fails.
//!
//! [`world`] is the cluster that they are sent in, [`flows`] what goes on in it
//! meanwhile. [`grammar`] makes a shape of a seed and a number, [`frame`] its
//! bytes, with a mark all over the payload; packet sockets send it, and search
//! for marks in all that comes in anywhere. [`closed`] has the exceptions, as
//! data. What arrives and is none is sent again in simpler shapes, until none of
//! them arrives, and printed.
//!
//! All of it stays in the network namespaces that the lab makes.

mod arrival;
pub mod closed;
mod flows;
mod frame;
mod grammar;
mod packet;
mod report;
pub mod shape;
mod shrink;
mod wire;
pub mod world;

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::lab::{Doing, Lab, Result};
use arrival::{Arrival, Ground};
use flows::FlowSockets;
use grammar::Grammar;
pub use report::{Finding, Report, UNKNOWN};
use shape::Shape;
use wire::Port;
use world::World;

/// How many shapes are sent between two reads of what came in.
const BATCH: u32 = 250;
/// For how many milliseconds nothing comes in until a read is over, and the last one.
const QUIET: [u8; 2] = [4, 250];
/// Marks of shapes that are tried again begin here.
const AGAIN: u32 = 1 << 31;
/// How many of the findings of one kind are made simpler.
const SHRUNK: usize = 2;

/// A lab with sockets at every pod and outside.
#[derive(Debug)]
pub struct Fuzzer {
    world: World,
    flows: FlowSockets,
    /// By station; nodes have none.
    ports: BTreeMap<usize, Port>,
    tried: u32,
    /// Whether findings are made simpler.
    pub is_shrinking: bool,
}

/// What came in with a mark.
struct Received {
    mark: u32,
    at: usize,
    frame: Vec<u8>,
    is_others: bool,
}

impl Fuzzer {
    /// Opens the sockets and begins the flows.
    ///
    /// # Errors
    /// When the lab's namespaces do not let it.
    pub fn new(lab: &Lab, anti_spoof: bool) -> Result<Self> {
        let world = World::of(lab, anti_spoof)?;
        world::pin_neighbours(lab, &world)?;
        let flows = FlowSockets::begin(lab, &world)?;
        let mut ports = BTreeMap::new();
        for (number, place) in lab.places().iter().enumerate() {
            if !world.stations[number].name.starts_with("node-") {
                ports.insert(number, Port::open(place)?);
            }
        }
        Ok(Self { world, flows, ports, tried: AGAIN, is_shrinking: true })
    }

    /// Sends so many shapes of this seed, from this number on.
    ///
    /// # Errors
    /// When what comes in cannot be waited for.
    pub fn run(&mut self, seed: u64, first: u32, count: u32) -> Result<Report> {
        let (world, flows) = (self.world.clone(), self.flows.known.clone());
        let grammar = Grammar::new(&world, &flows, seed);
        let mut ground = Ground::new(&world, &flows);
        let mut report = Report::new(&world, seed);
        report.only = (count == 1).then(|| grammar.shape(first));
        let (mut next, last) = (first, first.saturating_add(count));
        while next < last {
            self.flows.refresh();
            let end = last.min(next.saturating_add(BATCH));
            for index in next..end {
                let shape = grammar.shape(index);
                ground.note(&shape);
                report.sent(self.send(&shape, index));
            }
            next = end;
            for received in self.receive(QUIET[usize::from(next == last)])? {
                // A kernel that writes options can write into a mark.
                if received.mark >= next {
                    continue;
                }
                let shape = grammar.shape(received.mark);
                let arrival = ground.arrival(&shape, received.at, &received.frame, received.is_others);
                if !self.is_of_interest(&arrival) {
                    continue;
                }
                report.arrived(received.mark, (&arrival, &received.frame), closed::explain(&ground, &arrival));
            }
        }
        if self.is_shrinking {
            self.shrink(&mut ground, &mut report)?;
        }
        self.flows.check()?;
        Ok(report)
    }

    /// Whether it came to another place than its sender's, which policies keep
    /// it from.
    fn is_of_interest(&self, arrival: &Arrival<'_>) -> bool {
        let world = &self.world;
        let is_denied = world.denies_egress(arrival.shape.from) || world.denies_ingress(arrival.at);
        arrival.at != arrival.shape.from && is_denied
    }

    /// Sends all frames of a shape; false if one of them is too odd for its own
    /// interface.
    fn send(&self, shape: &Shape, mark: u32) -> bool {
        let Some(port) = self.ports.get(&shape.from) else { return false };
        let sent = shape.frames(mark).iter().all(|frame| port.send(frame));
        // A bridge learns that a station has moved. It moves back.
        let is_others = shape.source_mac != self.world.stations[shape.from].mac;
        let owner = self.world.stations.iter().position(|station| station.mac == shape.source_mac);
        if let Some(owner) = owner.filter(|_| is_others) {
            self.show(owner);
        }
        sent
    }

    /// Has a bridge learn where a station is.
    fn show(&self, station: usize) {
        let (Some(port), at) = (self.ports.get(&station), &self.world.stations[station]) else { return };
        let frame = [at.gateway.0.as_slice(), &at.mac.0, &[0x08, 0x06], &[0; 46]].concat();
        port.send(&frame);
    }

    /// What has come in, once nothing more does.
    fn receive(&self, milliseconds: u8) -> Result<Vec<Received>> {
        let mut received = Vec::new();
        loop {
            for (at, port) in &self.ports {
                port.receive(|frame| {
                    if let Some(mark) = frame::find_mark(frame.bytes) {
                        let (frame, is_others) = (frame.bytes.to_vec(), frame.is_others);
                        received.push(Received { mark, at: *at, frame, is_others });
                    }
                });
            }
            let mut files: Vec<PollFd<'_>> =
                self.ports.values().map(|port| PollFd::new(port.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut files, PollTimeout::from(milliseconds)) {
                Ok(0) => return Ok(received),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error).doing(|| "wait for frames".to_owned()),
            }
        }
    }

    /// Sends findings again in simpler shapes, as long as one arrives that
    /// nothing explains either.
    fn shrink(&mut self, ground: &mut Ground<'_>, report: &mut Report) -> Result<()> {
        for finding in report.first_of_each(SHRUNK) {
            let mut simple = finding.shape.clone();
            let own = self.world.stations[simple.from].mac;
            while let Some(simpler) = self.first_that_arrives(ground, simple.simpler(own), finding.at)? {
                simple = simpler;
            }
            finding.simple = Some(simple);
        }
        Ok(())
    }

    fn first_that_arrives(&mut self, ground: &mut Ground<'_>, all: Vec<Shape>, at: usize) -> Result<Option<Shape>> {
        for shape in all {
            self.tried += 1;
            ground.note(&shape);
            self.send(&shape, self.tried);
            let received = self.receive(QUIET[0])?;
            let is_unexplained = |received: &Received| {
                let arrival = ground.arrival(&shape, at, &received.frame, received.is_others);
                received.mark == self.tried
                    && received.at == at
                    && !matches!(closed::explain(ground, &arrival), Some((_, true)))
            };
            if received.iter().any(is_unexplained) {
                return Ok(Some(shape));
            }
        }
        Ok(None)
    }
}
