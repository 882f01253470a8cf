//! How full the kernel's connection tracking is.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::dataplane::conntrack_table::ConntrackTable;

/// This many readings without a loss are needed until the table counts as full no more.
const CALM: u32 = 6;

/// The state of the table. Cheap to clone; all clones of the metrics are one.
#[derive(Debug, Clone, Default)]
pub struct Conntrack {
    entries: Gauge,
    limit: Gauge,
    dropped: Counter,
    early_dropped: Counter,
}

/// What became of the table between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableChange {
    /// It is full, and was not. The kernel drops first packets.
    Full,
    /// It has room again.
    HasRoom,
}

/// The state after the last reading.
#[derive(Debug, Default)]
pub struct Last {
    table: Option<ConntrackTable>,
    is_full: bool,
    calm: u32,
}

impl Conntrack {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "conntrack_table_entries",
            "Connections that the kernel tracks in the node's network namespace",
            self.entries.clone(),
        );
        registry.register(
            "conntrack_table_limit",
            "How many connections the kernel can track (nf_conntrack_max)",
            self.limit.clone(),
        );
        registry.register(
            "conntrack_dropped_packets",
            "Packets that the kernel dropped because it could not track them, as with a full table",
            self.dropped.clone(),
        );
        registry.register(
            "conntrack_early_drops",
            "Tracked connections that gave way to new ones because the table was full",
            self.early_dropped.clone(),
        );
    }

    /// The table is like this now. Answers what an operator should know.
    pub fn is(&self, now: ConntrackTable, last: &mut Last) -> Option<TableChange> {
        self.entries.set(now.entries.into());
        self.limit.set(now.limit.unwrap_or_default().into());
        // What was lost before the agent started is not its to report. The kernel's counts of
        // 32 bits begin anew.
        let before = last.table.replace(now).unwrap_or(now);
        let dropped = now.dropped.saturating_sub(before.dropped);
        let early_dropped = now.early_dropped.saturating_sub(before.early_dropped);
        self.dropped.inc_by(dropped);
        self.early_dropped.inc_by(early_dropped);
        let loses = dropped > 0 || early_dropped > 0 || now.limit.is_some_and(|limit| now.entries >= limit);
        last.calm = if loses { 0 } else { last.calm.saturating_add(1) };
        match (last.is_full, loses) {
            (false, true) => {
                last.is_full = true;
                Some(TableChange::Full)
            }
            (true, false) if last.calm >= CALM => {
                last.is_full = false;
                Some(TableChange::HasRoom)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_full_table_is_reported_once_and_what_it_loses_is_counted() {
        let metrics = Metrics::default();
        let table = |entries, dropped| ConntrackTable { entries, limit: Some(100), dropped, early_dropped: 0 };
        let mut last = Last::default();
        let mut is = |entries, dropped| metrics.conntrack().is(table(entries, dropped), &mut last);
        // Losses before the agent started are no news.
        assert_eq!(is(50, 7), None);
        assert_eq!(is(100, 7), Some(TableChange::Full));
        assert_eq!(is(99, 10), None);
        for _ in 1..CALM {
            assert_eq!(is(50, 10), None);
        }
        assert_eq!(is(50, 10), Some(TableChange::HasRoom));
        assert_eq!(is(50, 12), Some(TableChange::Full), "the kernel dropped between two readings");
        let text = Metrics::text(&metrics.registry()).expect("a String takes it");
        for line in
            ["npc_conntrack_table_entries 50", "npc_conntrack_table_limit 100", "npc_conntrack_dropped_packets_total 5"]
        {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
