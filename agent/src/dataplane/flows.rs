//! Cutting flows on a thread of its own, beside whatever is written to rules and sets.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use npc_compiler::object::Family;
use npc_compiler::plan::conntrack::Scope;
use tracing::{debug, warn};

use super::Error;
use super::conntrack::{self, Judge, Swept, cut_all_of, sweep_in, sweep_whole, takes_whole_list};
use super::passage::packets_passed;
use crate::rounded::rounded;

/// In a table of so many entries one whole list takes less time than the two walks of the kernel
/// through its table that the flows of one address take.
const FEW_ENTRIES: usize = 4_096;

/// In a table of so many entries at most, the kernel deletes all flows of so many new addresses by
/// itself. Each address takes two walks, which take longer the more entries there are, and one whole
/// list has the flows of many addresses. In a larger table such walks take as long as lists.
const FEW_NEW: [(usize, usize); 2] = [(FEW_ENTRIES, 8), (65_536, 3)];

/// How many entries the table of this thread's network namespace has.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// The flows that a kernel knows.
pub trait Flows: Send + 'static {
    /// Judges the flows in a scope and deletes those that are forbidden, with all that
    /// passed before the last write among them. Their next packet meets the rules.
    ///
    /// No flow of a `new` address is its pod's own, so all flows of the `new` addresses in the
    /// scope may be deleted without a verdict. Those that the kernel deletes so are not counted.
    ///
    /// # Errors
    /// If the flows cannot be listed or deleted.
    fn cut(&mut self, scope: &Scope, new: &BTreeSet<IpAddr>, judge: &mut Judge<'_>) -> Result<Swept, Error>;
}

/// What was found about the kernel's table.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// That flows cannot be cut was logged.
    is_unsupported: AtomicBool,
    /// The kernel lists more than it is asked for.
    is_unfiltered: AtomicBool,
    /// The kernel lists flows by address, and does not delete them so.
    lists_only: AtomicBool,
}

/// The flows of the network namespace of the thread that cuts them.
#[derive(Debug)]
pub(super) struct LinuxFlows {
    pub(super) families: Vec<Family>,
    pub(super) facts: Arc<Facts>,
}

impl Flows for LinuxFlows {
    fn cut(&mut self, scope: &Scope, new: &BTreeSet<IpAddr>, judge: &mut Judge<'_>) -> Result<Swept, Error> {
        let begun = Instant::now();
        // The kernel lists a flow once its first packet has passed the last hook; one that
        // met the rules of before may still be on its way there.
        packets_passed();
        let mut all = Swept::default();
        let entries = fs::read_to_string(COUNT).ok().and_then(|count| count.trim().parse::<usize>().ok());
        // Walking through an empty table takes milliseconds, because it has room for many.
        if entries == Some(0) {
            return Ok(all);
        }
        let has_few = entries.is_some_and(|entries| entries <= FEW_ENTRIES);
        let mut scope = scope.clone();
        let few = FEW_NEW.into_iter().find(|(most, _)| entries.is_some_and(|entries| entries <= *most));
        scope.remove(&self.cut_new(&scope, new, few.map_or(0, |(_, addresses)| addresses), cut_all_of));
        let filters = !has_few && !self.facts.is_unfiltered.load(Ordering::Relaxed);
        let mut failed = None;
        let touched: Vec<Family> = self.families.iter().copied().filter(|family| scope.touches(*family)).collect();
        let is_whole = |family: &Family| !filters || takes_whole_list(*family, &scope);
        let lists = match touched.as_slice() {
            [_, _, ..] if touched.iter().all(is_whole) => vec![None],
            each => each.iter().copied().map(Some).collect(),
        };
        for list in lists {
            let swept = match list {
                Some(family) => sweep_in(family, &scope, filters, judge),
                None => sweep_whole(&scope, judge),
            };
            match swept {
                Ok(swept) => all += swept,
                Err(error @ conntrack::Error::Unsupported(_)) => {
                    if !self.facts.is_unsupported.swap(true, Ordering::Relaxed) {
                        warn!("{error}");
                    }
                }
                // The flows of another list are cut all the same.
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        if all.unfiltered && !self.facts.is_unfiltered.swap(true, Ordering::Relaxed) {
            debug!("this kernel does not filter its connections by address; each sweep reads all of them");
        }
        debug!(judged = all.judged, cut = all.cut, stuck = all.stuck, took = ?rounded(begun.elapsed()), "judged the flows");
        failed.map_or(Ok(all), |error| Err(error.into()))
    }
}

impl LinuxFlows {
    /// Has the kernel delete all flows of new addresses in a scope, if they are so few. Answers
    /// of which addresses it did.
    fn cut_new(
        &self,
        scope: &Scope,
        new: &BTreeSet<IpAddr>,
        few: usize,
        cut_all_of: impl FnOnce(&BTreeSet<Ipv4Addr>) -> Result<bool, conntrack::Error>,
    ) -> BTreeSet<IpAddr> {
        let is_v4 = |address: &IpAddr| match address {
            IpAddr::V4(v4) if scope.covers(*address) => Some(*v4),
            _ => None,
        };
        let addresses: BTreeSet<Ipv4Addr> = new.iter().filter_map(is_v4).collect();
        // One by one they would be more walks than a list, which the others need anyway.
        let is_few = !addresses.is_empty() && addresses.len() <= few;
        if !is_few || matches!(scope, Scope::All) || self.facts.lists_only.load(Ordering::Relaxed) {
            return BTreeSet::new();
        }
        match cut_all_of(&addresses) {
            Ok(true) => return addresses.into_iter().map(IpAddr::V4).collect(),
            Ok(false) => self.facts.lists_only.store(true, Ordering::Relaxed),
            // The sweep that follows reads these flows, and says what fails for good.
            Err(error) => debug!(%error, "the kernel did not delete the flows of new addresses; listing them"),
        }
        BTreeSet::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_delete_by_address_is_left_to_the_list() {
        let new: BTreeSet<IpAddr> =
            ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|text| text.parse().expect("an address")).into();
        let v4: BTreeSet<IpAddr> = new.iter().copied().filter(IpAddr::is_ipv4).collect();
        let scope = Scope::Of(new.clone());
        let says = |answer: Result<bool, conntrack::Error>| move |_: &BTreeSet<Ipv4Addr>| answer;
        let flows = LinuxFlows { families: Family::ALL.to_vec(), facts: Arc::default() };
        assert_eq!(flows.cut_new(&scope, &new, 2, says(Ok(true))), v4);
        // Too many of them, or all flows are listed in any case.
        let never = |_: &BTreeSet<Ipv4Addr>| -> Result<bool, conntrack::Error> { panic!("the kernel is asked") };
        assert_eq!(flows.cut_new(&scope, &new, 1, never), BTreeSet::new());
        assert_eq!(flows.cut_new(&Scope::All, &new, 9, never), BTreeSet::new());
        assert_eq!(flows.cut_new(&scope, &BTreeSet::new(), 9, never), BTreeSet::new());
        // A failure says nothing about the next time.
        assert_eq!(flows.cut_new(&scope, &new, 2, says(Err(conntrack::Error::Lost(1)))), BTreeSet::new());
        assert_eq!(flows.cut_new(&scope, &new, 2, says(Ok(true))), v4);
        // A kernel that cannot is not asked again.
        assert_eq!(flows.cut_new(&scope, &new, 2, says(Ok(false))), BTreeSet::new());
        assert_eq!(flows.cut_new(&scope, &new, 2, never), BTreeSet::new());
    }
}
