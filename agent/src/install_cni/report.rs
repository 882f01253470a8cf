//! What the installer reports: a file that the agent reads, for its metrics and its log.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// How often the installer writes its report, though nothing changes.
pub const PERIOD: Duration = Duration::from_secs(30);

/// After how long a report says nothing any more.
const STALE: Duration = Duration::from_secs(120);

/// More than a report has, in bytes.
const LONGEST: u64 = 1 << 20;

/// Why an operator should check a node. The names are values of a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertReason {
    /// Our file is absent until the agent is ready.
    AgentNotReady,
    /// Another program undoes what we write.
    Contested,
    /// The folder or the plugin cannot be written or read.
    CannotWrite,
    /// No file is there to derive ours from.
    NoSource,
    /// In place of our file is a link or a folder.
    NotAFile,
    /// An operator moved our file aside.
    Off,
    /// A plugin that the configuration names is in none of the folders of plugins.
    PluginMissing,
    /// A file that sorts before ours lacks our plugin.
    Preempted,
    /// The file to derive from cannot be used.
    SourceBroken,
    /// The installer has not reported for [`STALE`]. The agent says this.
    Silent,
}

impl AlertReason {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::AgentNotReady,
        Self::Contested,
        Self::CannotWrite,
        Self::NoSource,
        Self::NotAFile,
        Self::Off,
        Self::PluginMissing,
        Self::Preempted,
        Self::SourceBroken,
        Self::Silent,
    ];

    /// Its name in JSON and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentNotReady => "agent_not_ready",
            Self::Contested => "contested",
            Self::CannotWrite => "cannot_write",
            Self::NoSource => "no_source",
            Self::NotAFile => "not_a_file",
            Self::Off => "off",
            Self::PluginMissing => "plugin_missing",
            Self::Preempted => "preempted",
            Self::SourceBroken => "source_broken",
            Self::Silent => "silent",
        }
    }
}

/// One thing that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The kind of the alert.
    pub reason: AlertReason,
    /// The file that it is about.
    pub file: String,
    /// The text for people.
    pub words: String,
}

/// How the plugin is installed on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallReport {
    /// When it was written, in seconds since 1970.
    pub at: u64,
    /// The runtime's next ADD calls our plugin.
    pub installed: bool,
    /// The file from which our conflist is derived.
    pub source: Option<String>,
    /// The types of entries that other programs added to our conflist.
    pub insertions: Vec<String>,
    /// What an operator should know.
    pub alerts: Vec<Alert>,
}

/// Now, in seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl InstallReport {
    /// Writes the report, so that a reader gets the old one or the whole new one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(new, path)
    }

    /// Reads it. `None` if no installer has written one.
    ///
    /// # Errors
    /// If it cannot be read, or is not what an installer writes.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut text = Vec::new();
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
            Ok(file) => file.take(LONGEST).read_to_end(&mut text)?,
        };
        Ok(Some(serde_json::from_slice(&text)?))
    }

    /// Whether it is too old to say anything.
    #[must_use]
    pub fn is_stale(&self, now: u64) -> bool {
        now.saturating_sub(self.at) > STALE.as_secs()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written_and_half_of_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.json");
        assert_eq!(InstallReport::read(&path).unwrap(), None);
        let alerts =
            AlertReason::ALL.map(|reason| Alert { reason, file: "f".to_owned(), words: "w".to_owned() }).to_vec();
        let report =
            InstallReport { at: 7, source: Some("10-azure.conflist".to_owned()), alerts, ..InstallReport::default() };
        report.write(&path).unwrap();
        assert_eq!(InstallReport::read(&path).unwrap(), Some(report.clone()));
        let text = fs::read_to_string(&path).unwrap();
        for reason in AlertReason::ALL {
            assert!(text.contains(&format!("\"{}\"", reason.name())), "{reason:?} is not in {text}");
        }
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(InstallReport::read(&path).is_err());
        assert!(!report.is_stale(127) && report.is_stale(128) && !report.is_stale(0));
    }
}
