//! The flows that the kernel knows, and cutting them on a thread of its own, beside writes to rules and
//! sets.
//!
//! ```text
//! passage ─▶ packets that met the old rules are through
//! flow_index ─▶ which addresses have flows ──┐
//! conntrack  ─▶ lists and deletes entries ───┴─▶ Flows, which deletes what policies deny
//! conntrack_table  how full the table is
//! ```

pub mod conntrack;
pub mod conntrack_table;
pub mod flow_index;
pub(super) mod passage;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use npc_compiler::object::Family;
use npc_compiler::plan::conntrack::{FlowKey, FlowScope};
use tracing::{debug, warn};

use self::conntrack::{Judge, Swept, cut_all_of, each_end, sweep_in, sweep_whole, takes_whole_list};
use self::flow_index::{Index, IndexLookup, Renewal, RenewalRequest};
use self::passage::packets_passed;
use super::Error;
use super::network::neighbours::drop_waiting;
use crate::words::rounded::rounded;

/// If the table has at most this many entries, one whole list takes less time than the two walks of
/// the kernel through its table that the flows of one address take.
const FEW_ENTRIES: usize = 4_096;

/// Pairs of entries and addresses. If the table has at most that many entries, the kernel deletes all flows of at most
/// that many new addresses by itself. Each address takes two walks, which take longer the more entries there are, and
/// one whole list has the flows of many addresses. In a larger table such walks take as long as lists.
const FEW_NEW: [(usize, usize); 2] = [(FEW_ENTRIES, 8), (65_536, 3)];

/// How many entries the table of this thread's network namespace has.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// What a sweep through the flows is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutRequest {
    /// Which flows are judged.
    pub scope: FlowScope,
    /// Addresses of new pods: none of their flows is the pods' own. So all flows of those in the scope may be deleted
    /// without a verdict. Flows that the kernel deletes in this form are not counted. The kernel also drops the packets
    /// that wait for the link-layer addresses of these.
    pub new: BTreeSet<IpAddr>,
    /// If the last renewal of all of the index was of this epoch, the index says which addresses of
    /// the scope have no flow. Their flows are not listed.
    pub index_epoch: Option<u64>,
    /// What is renewed of the index of addresses that have flows. If that fails, the flows are cut
    /// all the same.
    pub renewal: Option<RenewalRequest>,
}

/// What came of a [`CutRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CutResult {
    /// What became of the flows that were listed.
    pub flows: Swept,
    /// What came of the index of addresses that have flows.
    pub index: IndexLookup,
}

/// The flows that a kernel knows.
pub trait Flows: Send + 'static {
    /// Judges the flows in a scope and deletes those that are forbidden, with all that
    /// passed before the last write among them. Their next packet meets the rules.
    ///
    /// # Errors
    /// If the flows cannot be listed or deleted.
    fn cut(&mut self, cut: &CutRequest, judge: &mut Judge<'_>) -> Result<CutResult, Error>;
}

/// What was found about the kernel's table.
#[derive(Debug, Default)]
pub(super) struct CutSupport {
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
    pub(super) facts: Arc<CutSupport>,
    pub(super) index: Arc<Index>,
}

impl Flows for LinuxFlows {
    fn cut(&mut self, cut: &CutRequest, judge: &mut Judge<'_>) -> Result<CutResult, Error> {
        let begun = Instant::now();
        let renewal = cut.renewal.as_ref().and_then(|request| self.index.renew(request, &self.families));
        // The kernel lists a flow once its first packet has passed the last hook; one that
        // met the rules of before may still be on its way there.
        packets_passed();
        // Some of those packets may wait for the link-layer address of a new pod.
        if !cut.new.is_empty() && drop_waiting(&cut.new)? {
            packets_passed();
        }
        let mut index = match (&cut.scope, cut.index_epoch) {
            (FlowScope::Of(addresses), Some(epoch)) => self.index.ask(addresses, epoch),
            _ => IndexLookup::default(),
        };
        let mut scope = cut.scope.clone();
        scope.remove(&index.without_flows);
        let flows = match renewal {
            Some(renewal) => {
                let (flows, is_renewed) = self.cut_and_renew(scope, &cut.new, renewal, judge)?;
                index.is_renewed = is_renewed;
                flows
            }
            None if scope.is_empty() => Swept::default(),
            None => self.cut_in(scope, &cut.new, judge)?.0,
        };
        // A renewal may have found that out.
        index.is_unsupported |= cut.renewal.is_some() && self.index.is_unsupported();
        let (without_flows, took) = (index.without_flows.len(), rounded(begun.elapsed()));
        debug!(without_flows, judged = flows.judged, cut = flows.cut, stuck = flows.stuck, ?took, "judged the flows");
        Ok(CutResult { flows, index })
    }
}

impl LinuxFlows {
    /// Cuts flows, and ends a renewal of the index by what is left of them. Answers also whether it was
    /// renewed.
    fn cut_and_renew(
        &self,
        scope: FlowScope,
        new: &BTreeSet<IpAddr>,
        mut renewal: Renewal<'_>,
        judge: &mut Judge<'_>,
    ) -> Result<(Swept, bool), Error> {
        let covers_all = scope == FlowScope::All;
        let mut noting = |flows: Vec<FlowKey>| {
            let ends: Vec<[IpAddr; 2]> = flows.iter().map(|flow| [flow.source, flow.destination]).collect();
            let verdicts = judge(flows)?;
            let left = ends.into_iter().zip(&verdicts).filter(|(_, forbidden)| !**forbidden);
            left.flat_map(|(ends, _)| ends).for_each(|end| renewal.note(end));
            Some(verdicts)
        };
        let swept = self.cut_in(scope, new, &mut noting);
        let mut all_listed = matches!(&swept, Ok((swept, true)) if swept.stuck == 0 && swept.unread == 0);
        // Flows of other addresses were not listed, or one stays that was to go.
        let is_short = !covers_all || !all_listed;
        if renewal.is_whole() && is_short && swept.is_ok() {
            let listed = each_end(|end| renewal.note(end));
            all_listed = listed.is_ok();
            if let Err(error) = listed {
                debug!(%error, "cannot list the flows for the flow index");
            }
        }
        let is_renewed = renewal.end(all_listed);
        swept.map(|(swept, _)| (swept, is_renewed))
    }

    /// Cuts flows. Answers also whether all that are in the scope could be listed.
    fn cut_in(
        &self,
        mut scope: FlowScope,
        new: &BTreeSet<IpAddr>,
        judge: &mut Judge<'_>,
    ) -> Result<(Swept, bool), Error> {
        let mut all = Swept::default();
        let entries = fs::read_to_string(COUNT).ok().and_then(|count| count.trim().parse::<usize>().ok());
        // Walking through an empty table takes milliseconds, because it has room for many.
        if entries == Some(0) {
            return Ok((all, true));
        }
        let has_few = entries.is_some_and(|entries| entries <= FEW_ENTRIES);
        let few = FEW_NEW.into_iter().find(|(most, _)| entries.is_some_and(|entries| entries <= *most));
        scope.remove(&self.cut_new(&scope, new, few.map_or(0, |(_, addresses)| addresses), cut_all_of));
        let filters = !has_few && !self.facts.is_unfiltered.load(Ordering::Relaxed);
        let (mut failed, mut is_supported) = (None, true);
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
                    is_supported = false;
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
        failed.map_or(Ok((all, is_supported)), |error| Err(error.into()))
    }

    /// Has the kernel delete all flows of new addresses in a scope, if there are at most `few`.
    /// Answers for which addresses it did.
    fn cut_new(
        &self,
        scope: &FlowScope,
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
        if !is_few || matches!(scope, FlowScope::All) || self.facts.lists_only.load(Ordering::Relaxed) {
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
        let scope = FlowScope::Of(new.clone());
        let says = |answer: Result<bool, conntrack::Error>| move |_: &BTreeSet<Ipv4Addr>| answer;
        let flows = LinuxFlows { families: Family::ALL.to_vec(), facts: Arc::default(), index: Arc::default() };
        assert_eq!(flows.cut_new(&scope, &new, 2, says(Ok(true))), v4);
        // Too many of them, or all flows are listed in any case.
        let never = |_: &BTreeSet<Ipv4Addr>| -> Result<bool, conntrack::Error> { panic!("the kernel is asked") };
        assert_eq!(flows.cut_new(&scope, &new, 1, never), BTreeSet::new());
        assert_eq!(flows.cut_new(&FlowScope::All, &new, 9, never), BTreeSet::new());
        assert_eq!(flows.cut_new(&scope, &BTreeSet::new(), 9, never), BTreeSet::new());
        // A failure says nothing about the next time.
        assert_eq!(flows.cut_new(&scope, &new, 2, says(Err(conntrack::Error::Lost(1)))), BTreeSet::new());
        assert_eq!(flows.cut_new(&scope, &new, 2, says(Ok(true))), v4);
        // A kernel that cannot is not asked again.
        assert_eq!(flows.cut_new(&scope, &new, 2, says(Ok(false))), BTreeSet::new());
        assert_eq!(flows.cut_new(&scope, &new, 2, never), BTreeSet::new());
    }
}
