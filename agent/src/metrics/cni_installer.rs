//! How the CNI plugin is installed on this node, as its installer reports it. Without an
//! installer there are no such values.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::count;
use crate::install_cni::report::{AlertReason, InstallReport};

/// A value that is there once it was set.
type NoLabels = Vec<(String, String)>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFile {
    file: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

/// The installer's report as metrics. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct CniInstaller {
    installed: Family<NoLabels, Gauge>,
    source: Family<OfFile, Gauge>,
    insertions: Family<NoLabels, Gauge>,
    alerts: Family<OfReason, Gauge>,
}

impl CniInstaller {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "cni_installed",
            "1 while the container runtime of this node calls npc's CNI plugin",
            self.installed.clone(),
        );
        registry.register("cni_source", "1 for the file from which npc's conflist is derived", self.source.clone());
        registry.register(
            "cni_insertions",
            "Entries that other programs added to npc's conflist",
            self.insertions.clone(),
        );
        registry.register("cni_alert", "1 for each reason to check the CNI configuration", self.alerts.clone());
    }

    /// Takes a report in, at a time in seconds since 1970. With one that is too old, `silent` is 1,
    /// and all else is as the installer reported it last: what it put in place is still there.
    pub fn set(&self, report: &InstallReport, now: u64) {
        self.source.clear();
        let is_silent = report.is_stale(now);
        for reason in AlertReason::ALL {
            let holds = match reason {
                AlertReason::Silent => is_silent,
                _ => report.alerts.iter().any(|alert| alert.reason == reason),
            };
            self.alerts.get_or_create(&OfReason { reason: reason.name() }).set(i64::from(holds));
        }
        self.installed.get_or_create(&NoLabels::new()).set(i64::from(report.installed));
        self.insertions.get_or_create(&NoLabels::new()).set(count(report.insertions.len()));
        if let Some(file) = &report.source {
            self.source.get_or_create(&OfFile { file: file.clone() }).set(1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::super::Metrics;
    use super::*;
    use crate::install_cni::report::Alert;

    #[test]
    fn a_report_is_shown_and_without_an_installer_there_is_nothing() {
        let metrics = Metrics::default();
        let registry = metrics.registry();
        let lines = || {
            let text = Metrics::text(&registry).unwrap();
            let own =
                |line: &&str| line.starts_with("npc_cni_") && !line.contains("sandboxes") && !line.contains("add");
            text.lines().filter(own).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(), Vec::<String>::new());
        let contested = Alert { reason: AlertReason::Contested, file: "f".to_owned(), words: "w".to_owned() };
        let mut report = InstallReport {
            at: 1000,
            installed: true,
            source: Some("10-azure.conflist".to_owned()),
            insertions: vec!["istio-cni".to_owned()],
            alerts: vec![contested],
        };
        metrics.cni_installer().set(&report, 1000);
        for line in [
            "npc_cni_installed{} 1",
            "npc_cni_source{file=\"10-azure.conflist\"} 1",
            "npc_cni_insertions{} 1",
            "npc_cni_alert{reason=\"contested\"} 1",
            "npc_cni_alert{reason=\"silent\"} 0",
        ] {
            assert!(lines().iter().any(|found| found == line), "{line}: {:?}", lines());
        }
        report.source = Some("20-other.conf".to_owned());
        metrics.cni_installer().set(&report, 2000);
        assert!(lines().contains(&"npc_cni_alert{reason=\"silent\"} 1".to_owned()), "{:?}", lines());
        assert!(!lines().iter().any(|line| line.contains("10-azure")), "{:?}", lines());
    }
}
