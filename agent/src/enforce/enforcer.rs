//! One pass: what differs of the objects goes into the engine, what it makes of
//! that into the kernel, and the established flows that are denied by then are
//! cut.

use std::time::{Duration, Instant};

use npc_compiler::cluster::Cluster;
use npc_compiler::engine::Engine;
use npc_compiler::finding::Finding;
use npc_compiler::layout::{self, SelfMatch};
use npc_compiler::object::{Family, Objects};

use super::difference::Known;
use super::writer::{Writer, Writes};
use crate::dataplane::conntrack::Swept;
use crate::dataplane::iptables::Hook;
use crate::dataplane::{Error, Kernel};

/// Keeps a kernel equal to what objects ask for.
#[derive(Debug)]
pub struct Enforcer<K> {
    writer: Writer<K>,
    node: String,
    /// What the state depends on besides the objects.
    options: layout::Options,
    /// Follows the objects; `None` before the kernel was asked what rules may
    /// use.
    engine: Option<Engine>,
    /// The objects that the engine has heard of.
    known: Known,
}

/// What a pass did.
#[derive(Debug, Clone)]
pub struct Pass {
    /// How many policies there are in the cluster.
    pub policies: usize,
    /// How many endpoints are on this node.
    pub endpoints: usize,
    /// What the compiler did not understand.
    pub findings: Vec<Finding>,
    /// What was written.
    pub writes: Writes,
    /// What became of the flows that the kernel knew, if they had to be judged.
    pub flows: Option<Swept>,
    /// Where the jump to our chains was, in the families where it was not in
    /// its place.
    pub rehooked: Vec<(Family, Hook)>,
    /// How long it took to get to the writes.
    pub compiled: Duration,
    /// How long it took from there to the kernel.
    pub applied: Duration,
}

impl<K: Kernel> Enforcer<K> {
    /// Will write the states of this node to this kernel. Nothing is read or
    /// written yet.
    pub fn new(kernel: K, node: impl Into<String>) -> Self {
        Self {
            writer: Writer::new(kernel),
            node: node.into(),
            options: layout::Options::default(),
            engine: None,
            known: Known::default(),
        }
    }

    /// The same, with what whoever runs it has chosen; what the kernel can do
    /// is found out.
    #[must_use]
    pub fn with_options(self, options: layout::Options) -> Self {
        Self { options, ..self }
    }

    /// Makes the kernel equal to what the objects ask for.
    ///
    /// # Errors
    /// If the kernel cannot be read or written. It may then hold a part of the
    /// change, in the order in which a plan is safe; the next pass reads it
    /// again.
    pub fn pass(&mut self, objects: &Objects) -> Result<Pass, Error> {
        let engine = match &mut self.engine {
            Some(engine) => engine,
            None => {
                // No sooner than it is needed, because asking writes, if only
                // what no packet meets.
                let bpf = self.writer.kernel.probe()?.bpf;
                self.options.self_match = if bpf { SelfMatch::Bpf } else { SelfMatch::PerEndpoint };
                self.engine.insert(Engine::new(&self.node, self.options.clone()))
            }
        };
        let begun = Instant::now();
        for event in self.known.differ(objects) {
            engine.apply(event);
        }
        // From here to the writer nothing may fail: it relies on every change.
        let change = engine.commit();
        let compiled = begun.elapsed();
        self.writer.established.owned_as(engine);
        let (writes, rehooked) = self.writer.write(change, engine.state())?;
        let flows = if self.options.keep_established || !self.writer.established.is_due() {
            None
        } else {
            Some(self.writer.cut(&Cluster::new(objects), &self.node, &self.options)?)
        };
        Ok(Pass {
            policies: self.known.policies(),
            endpoints: engine.endpoints_here(),
            findings: engine.findings().cloned().collect(),
            writes,
            flows,
            rehooked,
            compiled,
            applied: begun.elapsed().saturating_sub(compiled),
        })
    }

    /// How many established flows were cut since this enforcer began, because
    /// policies denied them by then.
    #[must_use]
    pub fn flows_cut(&self) -> u64 {
        self.writer.established.cut
    }

    /// As [`Writer::check_hook`].
    ///
    /// # Errors
    /// If FORWARD cannot be read or written.
    pub fn check_hook(&mut self) -> Result<Vec<(Family, Hook)>, Error> {
        self.writer.check_hook()
    }
}
