//! A lab under traffic that never ends, while policies change and agents come
//! and go: flows that are allowed throughout lose no packet, and flows that are
//! denied throughout get none through.
//!
//! [`Traffic`] sends all the time: datagrams and connections that each begin a flow, streams of
//! datagrams, and TCP streams on which both ends talk. The [`Timeline`] knows which states of the
//! cluster each node may be in at what time. A packet breaks the promise only if all of these agree
//! about it, from when it was sent until it was seen.
//!
//! Agents have the objects from manifests, or, where the [`Builder`] was given an
//! API server, from that: it can be gone for a while ([`SoakLab::write_without_answer`]).

mod api;
mod burst;
mod edits;
mod flow;
mod message;
mod progress;
mod record;
mod shots;
mod sockets;
mod streams;
mod timeline;
mod traffic;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use npc_agent::dataplane::conntrack;
use npc_compiler::object::{Family, Objects, Protocol};
use npc_compiler::plan::KernelState;
use npc_compiler::plan::conntrack::FlowKey;

use crate::lab::{Builder, Doing as _, Kind, Lab, MachineUse, Result, Share};

pub use edits::{ADMITTED, Edit, Editor, PORTS};
pub use flow::{Flow, Flows, UNNAMED_PORT, Verdicts};
pub use record::{Count, TrafficReport};
pub use timeline::{Sure, Timeline};
pub use traffic::{Load, Traffic};

use progress::Progress;

/// A lab under traffic.
#[derive(Debug)]
pub struct SoakLab {
    lab: Lab,
    flows: Arc<Flows>,
    timeline: Arc<Mutex<Timeline>>,
    traffic: Traffic,
    progress: Progress,
    /// Where there is an API server: what is stored beside the objects.
    marks: Option<api::Marks>,
    /// The states that no agent has seen yet, behind the last one that
    /// they have.
    undelivered: Vec<Objects>,
    /// How long an agent may take to follow.
    patience: Duration,
}

impl SoakLab {
    /// Builds a lab, starts its agents and, once they are ready, the traffic.
    ///
    /// # Errors
    /// When the lab cannot be built.
    pub fn start(builder: Builder, load: Load, seed: u64) -> Result<Self> {
        let has_server = builder.has_api_server();
        let builder = if has_server { builder } else { builder.change(|objects| progress::marked(objects, 0)) };
        // The traffic never ends, and what comes late counts as lost. The lab keeps this.
        let _share = Share::wait(MachineUse::Busy);
        let lab = builder.start()?;
        lab.forget_flows_soon()?;
        let flows = Arc::new(Flows::between(lab.places(), &PORTS));
        let verdicts = flows.verdicts(&lab.cluster().objects, lab.places());
        let timeline = Arc::new(Mutex::new(Timeline::new(lab.places().len(), verdicts)));
        let progress = Progress::follow(&lab)?;
        let traffic = Traffic::start(lab.places(), &flows, &timeline, load, seed)?;
        let marks = has_server.then(api::Marks::default);
        let patience = Duration::from_secs(60);
        Ok(Self { lab, flows, timeline, traffic, progress, marks, undelivered: Vec::new(), patience })
    }

    /// How long an agent may take to follow; a minute by default.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks the agents how far they are, because they cannot write their logs.
    #[must_use]
    pub fn asking(mut self) -> Self {
        self.progress.ask();
        self
    }

    /// The lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The objects as they are by now, whether agents can read them or not.
    #[must_use]
    pub fn objects(&self) -> Objects {
        let objects = self.lab.cluster().objects.clone();
        if self.marks.is_some() { api::without_marks(objects) } else { progress::unmarked(objects) }
    }

    /// Writes the next state of the cluster, and does not wait for the agents. What
    /// led to it is for people.
    ///
    /// # Errors
    /// When the manifests cannot be written.
    pub fn write(&mut self, objects: Objects, what: &str) -> Result<()> {
        let way = [self.objects(), objects];
        self.goes(&way, what);
        let [_, objects] = way;
        let objects = match &mut self.marks {
            Some(marks) => marks.turn(objects),
            None => progress::marked(objects, self.timeline().last()),
        };
        self.lab.write_manifests(objects)
    }

    /// From now on agents may go through these states of the cluster, one after another. They have
    /// the first one already.
    fn goes(&mut self, way: &[Objects], what: &str) {
        let (Some(before), Some(after)) = (way.first(), way.last()) else { return };
        let verdicts = self.flows.verdicts(after, self.lab.places());
        let touched = self.touched(before, after);
        let steady = self.steady(&touched, &verdicts);
        let between = if self.marks.is_some() { api::between(way) } else { Vec::new() };
        let of = |objects: &Objects| self.flows.verdicts(objects, self.lab.places());
        let between: Vec<Verdicts> = between.iter().map(of).collect();
        self.traffic.focus(touched, steady);
        if self.marks.is_some() {
            // The states before may have had as many policies, and so may one on the
            // way, whose flows have not all been judged.
            self.progress.only_confirms(usize::MAX);
        }
        let mut timeline = self.timeline();
        for verdicts in between {
            timeline.begin(verdicts, format!("on the way: {what}"));
        }
        timeline.begin(verdicts, what.to_owned());
    }

    /// Stores the next state of the cluster at an API server that no agent
    /// reaches. For them nothing changes before [`SoakLab::receive`].
    ///
    /// # Errors
    /// When there is no API server.
    pub fn write_without_answer(&mut self, objects: Objects) -> Result<()> {
        self.lab.api_server()?;
        if self.undelivered.is_empty() {
            self.undelivered.push(self.objects());
        }
        self.undelivered.push(objects.clone());
        let Some(marks) = &mut self.marks else { return Ok(()) };
        let objects = marks.turn(objects);
        self.lab.write_manifests(objects)
    }

    /// Lets agents reach the API server again. If it has forgotten its history,
    /// they learn how things are, and not how they came to be so.
    ///
    /// # Errors
    /// When the server cannot start again.
    pub fn receive(&mut self, forgotten: bool) -> Result<()> {
        let mut way = std::mem::take(&mut self.undelivered);
        if forgotten && way.len() > 2 {
            way.drain(1..way.len() - 1);
        }
        self.goes(&way, "the API server is back");
        let server = self.lab.api_server()?;
        if forgotten {
            server.compact();
        }
        server.restart().doing(|| "start the API server again".to_owned())
    }

    /// The flows of pods that something happens to: they or their namespaces
    /// are relabelled, or policies of their namespaces change.
    fn touched(&self, before: &Objects, after: &Objects) -> Vec<usize> {
        let mut namespaces = BTreeSet::new();
        for (one, other) in [(before, after), (after, before)] {
            let changed = one.policies.iter().filter(|policy| !other.policies.contains(policy));
            namespaces.extend(changed.map(npc_compiler::object::NetworkPolicy::namespace));
            let relabelled = one.namespaces.iter().filter(|namespace| !other.namespaces.contains(namespace));
            namespaces.extend(relabelled.map(|namespace| namespace.name.as_str()));
        }
        let is_touched = |place: usize| match self.lab.places()[place].kind {
            Kind::Pod { index, .. } => {
                let (before, after) = (&before.pods[index], &after.pods[index]);
                before != after || namespaces.contains(after.namespace.as_str())
            }
            Kind::Node | Kind::Outside => false,
        };
        let flows = self.flows.all.iter().enumerate();
        flows.filter(|(_, flow)| is_touched(flow.from) || is_touched(flow.to)).map(|(number, _)| number).collect()
    }

    /// Of these flows some that the next state judges as the last one does,
    /// half of them allowed, by UDP.
    fn steady(&self, touched: &[usize], next: &Verdicts) -> Vec<usize> {
        const EACH: usize = 6;
        let timeline = self.timeline();
        let last = timeline.verdicts();
        let of = |allowed: bool| {
            let is_steady = |flow: &usize| {
                let is_datagram = self.flows.all[*flow].protocol == Protocol::Udp;
                is_datagram && [last.allow(*flow), next.allow(*flow)] == [allowed, allowed]
            };
            let flows: Vec<usize> = touched.iter().copied().filter(is_steady).collect();
            let step = (flows.len() / EACH).max(1);
            flows.into_iter().skip(timeline.last() % step).step_by(step).take(EACH).collect::<Vec<_>>()
        };
        [of(true), of(false)].concat()
    }

    /// Waits until every agent that runs has the last state in the kernel.
    ///
    /// # Errors
    /// When one ends, or takes too long.
    pub fn settle(&mut self) -> Result<()> {
        let Some(marks) = &mut self.marks else {
            return self.progress.settle(&mut self.lab, &self.timeline, self.patience);
        };
        self.lab.settle()?;
        let (objects, policies) = marks.count(self.lab.cluster().objects.clone());
        self.progress.take_in(&self.lab, &self.timeline)?;
        // They hold it; who says so of more policies than there ever were has
        // received all of them, and judged the flows.
        self.progress.only_confirms(policies);
        self.lab.write_manifests(objects)?;
        self.progress.settle(&mut self.lab, &self.timeline, self.patience)
    }

    /// The flows that a node's kernel knows though its policies deny them, so
    /// that their packets pass; none once all has settled.
    ///
    /// # Errors
    /// When a kernel's table cannot be listed.
    pub fn known_but_denied(&self) -> Result<Vec<String>> {
        let mut known = Vec::new();
        for (node, place) in self.lab.places().iter().enumerate().filter(|(_, place)| place.kind == Kind::Node) {
            let mut tuples = BTreeSet::new();
            for family in Family::ALL {
                let mut list = |tuple: &FlowKey| {
                    tuples.insert((tuple.source, tuple.destination, tuple.protocol, tuple.port));
                    false
                };
                let listed = place.netns.within(|| conntrack::sweep(family, &mut list))?;
                listed.map_err(std::io::Error::other).doing(|| format!("list the flows of {}", place.name))?;
            }
            let timeline = self.timeline();
            let denied = self.flows.all.iter().zip(&timeline.verdicts().of).filter(|(flow, verdicts)| {
                let denies = |direction: usize| flow.judges[direction] == Some(node) && !verdicts[direction];
                let (to, protocol) = (flow.destination, flow.protocol.number());
                (denies(0) || denies(1)) && tuples.contains(&(flow.source, to.ip(), protocol, to.port()))
            });
            known.extend(denied.map(|(flow, _)| format!("{}: {}", place.name, flow.name)));
        }
        Ok(known)
    }

    /// Waits so long, and takes in what the agents say meanwhile.
    ///
    /// # Errors
    /// When their logs cannot be read.
    pub fn wait(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while !end.saturating_duration_since(Instant::now()).is_zero() {
            self.progress.take_in(&self.lab, &self.timeline)?;
            self.progress.wait(end.saturating_duration_since(Instant::now()))?;
        }
        self.progress.take_in(&self.lab, &self.timeline)
    }

    /// The names of the nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.lab.cluster().objects.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// Ends the agent of a node, if one runs.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn stop_agent(&mut self, node: &str, signal: Signal) -> Result<()> {
        match self.lab.take_agent(node)? {
            Some(agent) => agent.stop(signal).map(drop),
            None => Ok(()),
        }
    }

    /// Starts the agent of a node that has none, perhaps with other arguments
    /// than before, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&mut self, node: &str) -> Result<()> {
        self.lab.start_agent(node)
    }

    /// Another program changes what a node's kernel holds of ours: this is there when that
    /// program has done it, and until the agent has followed the next state that is
    /// written down. Nothing can be promised of the moment in which it does so.
    ///
    /// # Errors
    /// Those of `does`.
    pub fn interfere(
        &mut self,
        node: &str,
        made: &KernelState,
        what: &str,
        does: impl FnOnce(&Lab) -> Result<()>,
    ) -> Result<()> {
        let place = self.lab.find(&format!("node/{node}"))?;
        let verdicts = self.flows.verdicts_with(self.timeline().verdicts(), place, made);
        self.timeline().excuse();
        does(&self.lab)?;
        self.timeline().interfered(verdicts, what.to_owned());
        Ok(())
    }

    /// The lab, for what nothing else here does.
    pub fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// From now on nothing is held against the agents.
    pub fn excuse(&self) {
        self.timeline().excuse();
    }

    /// From now on everything is again.
    pub fn excuse_no_more(&self) {
        self.timeline().excuse_no_more();
    }

    /// Ends the traffic, and gives the lab back with what was seen.
    ///
    /// # Errors
    /// When the traffic could not go on.
    pub fn finish(self) -> Result<(Lab, TrafficReport)> {
        Ok((self.lab, self.traffic.finish()?))
    }
}
