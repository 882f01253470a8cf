//! Cutting flows on a thread of its own, beside whatever is written to rules and sets.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use npc_compiler::object::Family;
use npc_compiler::plan::conntrack::Scope;
use tracing::{debug, warn};

use super::conntrack::{self, Judge, Swept};
use super::passage::packets_passed;
use super::{Error, conntrack::sweep_in};

/// How many entries the table of this thread's network namespace has.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// The flows that a kernel knows.
pub trait Flows: Send + 'static {
    /// Judges the flows in a scope and deletes those that are forbidden, with all that
    /// passed before the last write among them. Their next packet meets the rules.
    ///
    /// # Errors
    /// If the flows cannot be listed or deleted.
    fn cut(&mut self, scope: &Scope, judge: &mut Judge<'_>) -> Result<Swept, Error>;
}

/// What was found about the kernel's table.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// That flows cannot be cut was logged.
    is_unsupported: AtomicBool,
    /// The kernel lists more than it is asked for.
    is_unfiltered: AtomicBool,
}

/// The flows of the network namespace of the thread that cuts them.
#[derive(Debug)]
pub(super) struct LinuxFlows {
    pub(super) families: Vec<Family>,
    pub(super) facts: Arc<Facts>,
}

impl Flows for LinuxFlows {
    fn cut(&mut self, scope: &Scope, judge: &mut Judge<'_>) -> Result<Swept, Error> {
        let begun = Instant::now();
        // The kernel lists a flow once its first packet has passed the last hook; one that
        // met the rules of before may still be on its way there.
        packets_passed();
        let mut all = Swept::default();
        // Walking through an empty table takes milliseconds, because it has room for many.
        if fs::read_to_string(COUNT).is_ok_and(|count| count.trim() == "0") {
            return Ok(all);
        }
        let mut failed = None;
        for family in self.families.iter().copied().filter(|family| scope.touches(*family)) {
            match sweep_in(family, scope, !self.facts.is_unfiltered.load(Ordering::Relaxed), judge) {
                Ok(swept) => all += swept,
                Err(error @ conntrack::Error::Unsupported(_)) => {
                    if !self.facts.is_unsupported.swap(true, Ordering::Relaxed) {
                        warn!("{error}");
                    }
                }
                // The other family's flows are cut all the same.
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        if all.unfiltered && !self.facts.is_unfiltered.swap(true, Ordering::Relaxed) {
            debug!("this kernel does not filter its connections by address; each sweep reads all of them");
        }
        debug!(judged = all.judged, cut = all.cut, stuck = all.stuck, took = ?begun.elapsed(), "judged the flows");
        failed.map_or(Ok(all), |error| Err(error.into()))
    }
}
