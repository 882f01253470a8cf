//! One pass: compile the objects, plan against what the kernel holds, write
//! the difference, cut the established flows that it denies.

use std::fmt;
use std::time::{Duration, Instant};

use npc_compiler::cluster::Cluster;
use npc_compiler::finding::Finding;
use npc_compiler::layout::{self, SelfMatch};
use npc_compiler::object::{Family, Objects};
use npc_compiler::plan::{KernelState, Plan, SetWrite, Step};
use npc_compiler::program::Program;

use super::established::Established;
use crate::dataplane::conntrack::Swept;
use crate::dataplane::iptables::Hook;
use crate::dataplane::{Error, Kernel};

/// Writes programs to a kernel, and remembers what it holds.
#[derive(Debug)]
pub struct Enforcer<K> {
    kernel: K,
    node: String,
    /// What programs depend on besides the objects.
    options: layout::Options,
    /// The kernel was asked what programs may use.
    probed: bool,
    /// What the kernel holds; `None` before it was first read, and after a
    /// failure left it unknown.
    held: Option<KernelState>,
    /// The jump to our chains was seen first in FORWARD after they were loaded.
    hooked: bool,
    established: Established,
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
    /// How long it took to get to the program.
    pub compiled: Duration,
    /// How long it took from there to the kernel.
    pub applied: Duration,
}

impl<K: Kernel> Enforcer<K> {
    /// Will write the programs of this node to this kernel. Nothing is read or
    /// written yet.
    pub fn new(kernel: K, node: impl Into<String>) -> Self {
        let options = layout::Options::default();
        Self {
            kernel,
            node: node.into(),
            options,
            probed: false,
            held: None,
            hooked: false,
            established: Established::new(),
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
        let options = self.options()?;
        let begun = Instant::now();
        let cluster = Cluster::new(objects);
        let program = layout::program(&cluster, &self.node, &options);
        let compiled = begun.elapsed();
        self.established.owned_as(&cluster, &self.node);
        let (writes, rehooked) = self.enforce(&program)?;
        let flows = if options.keep_established {
            None
        } else {
            self.established.cut(&mut self.kernel, &cluster, &self.node, &options)?
        };
        let ours = |pod: &npc_compiler::object::Pod| pod.node.as_deref() == Some(&self.node);
        Ok(Pass {
            policies: cluster.policies().count(),
            endpoints: cluster.endpoints().filter(|(_, pod)| ours(pod)).count(),
            findings: cluster.findings().to_vec(),
            writes,
            flows,
            rehooked,
            compiled,
            applied: begun.elapsed().saturating_sub(compiled),
        })
    }

    /// What programs may use on this kernel. Asked for no sooner than it is
    /// needed, because asking writes, if only what no packet meets.
    fn options(&mut self) -> Result<layout::Options, Error> {
        if !self.probed {
            let bpf = self.kernel.probe()?.bpf;
            self.options.self_match = if bpf { SelfMatch::Bpf } else { SelfMatch::PerEndpoint };
            self.probed = true;
        }
        Ok(self.options.clone())
    }

    /// Makes the kernel equal to a program; only what differs is written. The
    /// jump goes in after the chains that it leads to.
    ///
    /// # Errors
    /// As [`Enforcer::pass`].
    pub fn enforce(&mut self, program: &Program) -> Result<(Writes, Vec<(Family, Hook)>), Error> {
        let held = match self.held.take() {
            Some(held) => held,
            None => {
                self.established.rules_were_lost();
                self.kernel.read()?
            }
        };
        let plan = Plan::new(&held, program);
        self.established.planned(&plan);
        if plan.is_empty() {
            self.held = Some(held);
        } else {
            // A chain that could not be written may be one that somebody took
            // away, the jump with it.
            let was_hooked = std::mem::take(&mut self.hooked);
            self.kernel.apply(&plan)?;
            self.held = Some(KernelState::from(program));
            self.hooked = was_hooked;
        }
        let rehooked = if self.hooked { Vec::new() } else { self.put_hook_first()? };
        Ok((Writes::of(&plan), rehooked))
    }

    fn put_hook_first(&mut self) -> Result<Vec<(Family, Hook)>, Error> {
        self.hooked = false;
        let mut found = self.kernel.put_hook_first()?;
        self.hooked = true;
        found.retain(|(_, hook)| *hook != Hook::First);
        if !found.is_empty() {
            self.established.rules_were_lost();
        }
        Ok(found)
    }

    /// How many established flows were cut since this enforcer began, because
    /// policies denied them by then.
    #[must_use]
    pub fn flows_cut(&self) -> u64 {
        self.established.cut
    }

    /// Puts the jump back in its place if somebody took it away or inserted
    /// rules above it; answers where it was then.
    ///
    /// Who took it away may have taken more, as a flush of the whole table
    /// does; so what the kernel holds is unknown then, as it is after an error,
    /// and another pass is due. So it is where rules were inserted above, which
    /// may have let through what ours deny.
    ///
    /// # Errors
    /// If FORWARD cannot be read or written.
    pub fn check_hook(&mut self) -> Result<Vec<(Family, Hook)>, Error> {
        let found = self.put_hook_first();
        if !found.as_ref().is_ok_and(|found| found.iter().all(|(_, hook)| *hook != Hook::Absent)) {
            self.held = None;
        }
        found
    }
}

/// How much a plan writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Writes {
    /// Sets created.
    pub sets_created: usize,
    /// Sets destroyed.
    pub sets_destroyed: usize,
    /// Members added.
    pub members_added: usize,
    /// Members removed.
    pub members_removed: usize,
    /// Chains written.
    pub chains_written: usize,
    /// Their rules.
    pub rules_written: usize,
    /// Chains deleted.
    pub chains_deleted: usize,
}

impl Writes {
    /// Whether there was nothing to write.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Counts a plan's writes.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let mut counted = Self::default();
        for step in &plan.steps {
            match step {
                Step::Sets(writes) => {
                    for write in writes {
                        *match write {
                            SetWrite::Create(..) => &mut counted.sets_created,
                            SetWrite::Destroy(_) => &mut counted.sets_destroyed,
                            SetWrite::Add(..) => &mut counted.members_added,
                            SetWrite::Delete(..) => &mut counted.members_removed,
                        } += 1;
                    }
                }
                Step::Chains(_, writes) => {
                    counted.chains_written += writes.replace.len();
                    counted.rules_written += writes.replace.values().map(Vec::len).sum::<usize>();
                    counted.chains_deleted += writes.delete.len();
                }
                Step::Grace => {}
            }
        }
        counted
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.chains_written, "chains written"),
            (self.rules_written, "rules in them"),
            (self.chains_deleted, "chains deleted"),
            (self.sets_created, "sets created"),
            (self.sets_destroyed, "sets destroyed"),
            (self.members_added, "members added"),
            (self.members_removed, "members removed"),
        ];
        let mut first = true;
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{}{count} {what}", if first { "" } else { ", " })?;
            first = false;
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}
