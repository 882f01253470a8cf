//! How the CNI plugin is installed on this node.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::install_cni::report::{Alert, InstallReport};

/// What the installer of the CNI plugin reported last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniPlugin {
    /// When it reported; null if it has not reported yet.
    pub reported: Option<Timestamp>,
    /// Whether its report is too old to count, or is missing although it had time for one.
    pub silent: bool,
    /// The runtime's next ADD calls the plugin.
    pub installed: bool,
    /// The file from which npc's conflist is derived.
    pub source: Option<String>,
    /// The types of entries that other programs added to npc's conflist.
    pub insertions: Vec<String>,
    /// What an operator should check.
    pub alerts: Vec<Alert>,
}

impl CniPlugin {
    /// The last report at a time in seconds since 1970. Without a report, `since` is the time
    /// from which on one was due.
    #[must_use]
    pub fn of(report: Option<&InstallReport>, since: u64, now: u64) -> Self {
        let none = InstallReport { at: since, ..InstallReport::default() };
        let InstallReport { at, installed, source, insertions, alerts } = report.unwrap_or(&none).clone();
        let reported = report.and_then(|_| Timestamp::from_second(i64::try_from(at).ok()?).ok());
        let silent = report.unwrap_or(&none).is_stale(now);
        Self { reported, silent, installed, source, insertions, alerts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install_cni::report::AlertReason;

    #[test]
    fn a_report_counts_for_two_minutes_and_none_is_silent_after_two() {
        let alert =
            Alert { reason: AlertReason::Preempted, file: "00-x.conf".to_owned(), words: "it sorts first".to_owned() };
        let report = InstallReport {
            at: 1_000,
            source: Some("10-a.conf".to_owned()),
            alerts: vec![alert],
            ..InstallReport::default()
        };
        let fresh = CniPlugin::of(Some(&report), 0, 1_100);
        assert!(!fresh.silent && !fresh.installed, "{fresh:?}");
        assert_eq!(fresh.reported.map(Timestamp::as_second), Some(1_000));
        assert_eq!(fresh.alerts, report.alerts);
        let old = CniPlugin::of(Some(&report), 0, 1_200);
        assert!(old.silent && old.reported == fresh.reported, "{old:?}");
        let [none, late] = [1_100, 1_200].map(|now| CniPlugin::of(None, 1_000, now));
        assert!(!none.silent && late.silent && late.reported.is_none(), "{none:?} {late:?}");
    }
}
