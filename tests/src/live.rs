//! A lab under traffic that never ends, while policies change and agents come
//! and go: flows that are allowed throughout lose no packet, and flows that are
//! denied throughout get none through.
//!
//! [`Traffic`] sends all the time: datagrams and connections each of which is
//! the first packet of a flow, streams of datagrams, and TCP streams on which
//! both ends talk. The [`Timeline`] knows which states of the cluster each node
//! may be in at what time. A packet breaks the promise only if all of these
//! agree about it, from when it was sent until it was seen.

mod edits;
mod flow;
mod hail;
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
use npc_compiler::object::{Objects, Protocol};
use npc_compiler::plan::KernelState;

use crate::lab::{Builder, Kind, Lab, Result};

pub use edits::{ADMITTED, Edit, Editor, PORTS};
pub use flow::{Flow, Flows, UNNAMED_PORT, Verdicts};
pub use record::{Count, Report};
pub use timeline::{Sure, Timeline};
pub use traffic::{Load, Traffic};

use progress::Progress;

/// A lab under traffic.
#[derive(Debug)]
pub struct Live {
    lab: Lab,
    flows: Arc<Flows>,
    timeline: Arc<Mutex<Timeline>>,
    traffic: Traffic,
    progress: Progress,
    /// How long an agent may take to follow.
    patience: Duration,
}

impl Live {
    /// Builds a lab, starts its agents and, once they are ready, the traffic.
    ///
    /// # Errors
    /// When the lab cannot be built.
    pub fn start(builder: Builder, load: Load, seed: u64) -> Result<Self> {
        let lab = builder.change(|objects| progress::marked(objects, 0)).start()?;
        lab.forget_flows_soon()?;
        let flows = Arc::new(Flows::between(lab.places(), &PORTS));
        let verdicts = flows.verdicts(&lab.cluster().objects, lab.places());
        let timeline = Arc::new(Mutex::new(Timeline::new(lab.places().len(), verdicts)));
        let progress = Progress::follow(&lab)?;
        let traffic = Traffic::start(lab.places(), &flows, &timeline, load, seed)?;
        Ok(Self { lab, flows, timeline, traffic, progress, patience: Duration::from_secs(60) })
    }

    /// How long an agent may take to follow; a minute by default.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The objects that the agents are to read by now.
    #[must_use]
    pub fn objects(&self) -> Objects {
        progress::unmarked(self.lab.cluster().objects.clone())
    }

    /// Writes the next state of the cluster down, and waits for nobody. What
    /// led to it is for people.
    ///
    /// # Errors
    /// When the manifests cannot be written.
    pub fn write(&mut self, objects: Objects, what: &str) -> Result<()> {
        let verdicts = self.flows.verdicts(&objects, self.lab.places());
        let number = self.timeline().last() + 1;
        let touched = self.touched(&self.objects(), &objects);
        let steady = self.steady(&touched, &verdicts);
        self.traffic.focus(touched, steady);
        self.timeline().begin(verdicts, what.to_owned());
        self.lab.write_manifests(progress::marked(objects, number))
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
        self.progress.settle(&mut self.lab, &self.timeline, self.patience)
    }

    /// Waits so long, and takes in what the agents say meanwhile.
    ///
    /// # Errors
    /// When their logs cannot be read.
    pub fn wait(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while !end.saturating_duration_since(Instant::now()).is_zero() {
            self.progress.take_in(&self.timeline)?;
            self.progress.wait(end.saturating_duration_since(Instant::now()))?;
        }
        self.progress.take_in(&self.timeline)
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

    /// Somebody changes what a node's kernel holds of ours: this is there when he
    /// has done it, and until the agent has followed the next state that is
    /// written down. Nothing can be promised of the moment in which he does it.
    ///
    /// # Errors
    /// What he fails with.
    pub fn meddle(
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
        let mut timeline = self.timeline();
        timeline.begin(verdicts, what.to_owned());
        timeline.excuse_no_more();
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
    pub fn finish(self) -> Result<(Lab, Report)> {
        Ok((self.lab, self.traffic.finish()?))
    }
}
