//! The agent's log, whose level its configuration file may change while it
//! runs.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args as _, CommandFactory as _};
use notify::{RecursiveMode, Watcher as _};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::config::is_given;
use super::{Args, Config, LogFormat};
use crate::command::{Cli, Exit, Stop};

/// The one setting that takes effect without a restart.
const LEVEL: &str = "log_level";

/// What is logged, to be changed.
#[derive(Debug, Clone)]
pub(super) struct Level {
    filter: reload::Handle<EnvFilter, Registry>,
    /// How many lines could not be written.
    pub(super) lost: Counter,
}

/// Writes lines, and counts those that cannot be written.
#[derive(Debug)]
struct Lines<W> {
    out: W,
    lost: Counter,
    /// A part of a line may have been written, and nothing behind it.
    torn: &'static AtomicBool,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let was_torn = self.torn.load(Ordering::Relaxed);
        let written = if was_torn { self.out.write_all(b"\n") } else { Ok(()) };
        let written = written.and_then(|()| self.out.write_all(line));
        self.torn.store(written.is_err(), Ordering::Relaxed);
        if written.is_err() {
            self.lost.inc();
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Logs to standard error from now on.
///
/// # Errors
/// If the level is none.
pub(super) fn to_stderr(level: &str, format: LogFormat) -> anyhow::Result<Level> {
    static TORN: AtomicBool = AtomicBool::new(false);
    let filter = EnvFilter::try_new(level)
        .map_err(|error| Stop::new(Exit::Input, format!("{level} is not a log level: {error}")))?;
    let (filter, handle) = reload::Layer::new(filter);
    let lost = Counter::default();
    let counted = lost.clone();
    let lines = move || Lines { out: io::stderr(), lost: counted.clone(), torn: &TORN };
    // An error to write is told on the same standard error, and a panic if
    // nobody reads that any more; policies are enforced all the same.
    let lines = fmt::layer().with_writer(lines).with_target(false).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines.with_ansi(io::stderr().is_terminal())).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    Ok(Level { filter: handle, lost })
}

impl Level {
    /// Follows a configuration file that was read already: its log level takes
    /// effect, what else it changes is told to wait for a restart.
    pub(super) fn follow(self, path: PathBuf, known: Config) {
        tokio::spawn(async move {
            if let Err(error) = self.watch(&path, known).await {
                warn!(%error, path = %path.display(), "cannot follow the configuration file; a restart reads it again");
            }
        });
    }

    async fn watch(&self, path: &Path, mut known: Config) -> notify::Result<()> {
        let (sender, mut changes) = mpsc::unbounded_channel();
        // What a ConfigMap's files lead through is turned as one link.
        let concerned = [path.file_name().map(ToOwned::to_owned), Some("..data".into())];
        let mut watcher = notify::recommended_watcher(move |change: notify::Result<notify::Event>| {
            let concerns = |path: &PathBuf| concerned.iter().any(|name| name.as_deref() == path.file_name());
            // Reading it is no change.
            if change.is_ok_and(|change| !change.kind.is_access() && change.paths.iter().any(concerns)) {
                // Who does not listen any more has ended.
                let _ = sender.send(());
            }
        })?;
        // Its directory: a ConfigMap's files are links that are turned.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        let command = Args::augment_args(clap::Command::new("agent"));
        let given = given();
        // It may have changed before anybody watched it.
        loop {
            match Config::read(path, &command) {
                Ok(config) => {
                    self.changed(&known, &config, &given);
                    known = config;
                }
                Err(error) => error!("{:#}; the last good configuration goes on", anyhow::Error::new(error)),
            }
            if changes.recv().await.is_none() {
                return Ok(());
            }
            while changes.try_recv().is_ok() {}
        }
    }

    fn changed(&self, old: &Config, new: &Config, given: &BTreeSet<String>) {
        for id in old.differences(new) {
            if given.contains(id) {
                info!(
                    setting = id,
                    "the configuration file changed, and a flag or the environment goes before what it says of this setting"
                );
            } else if id != LEVEL {
                warn!(
                    setting = id,
                    "the configuration file changed; this setting takes effect when the agent restarts"
                );
            } else {
                let level = new.get(LEVEL).unwrap_or("info");
                match EnvFilter::try_new(level).map(|filter| self.filter.reload(filter)) {
                    Ok(_) => info!(level, "the configuration file changed what is logged"),
                    Err(error) => error!(level, %error, "this is not a log level; the last one goes on"),
                }
            }
        }
    }
}

/// What flags or the environment set, which the file then cannot change.
fn given() -> BTreeSet<String> {
    let Ok(matches) = Cli::command().try_get_matches() else { return BTreeSet::new() };
    let Some((_, matches)) = matches.subcommand() else { return BTreeSet::new() };
    matches.ids().map(clap::Id::as_str).filter(|id| is_given(matches, id)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Disk(Vec<u8>, usize);

    impl Write for &mut Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.1.saturating_sub(self.0.len()).min(bytes.len());
            self.0.extend_from_slice(&bytes[..room]);
            if room == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(room) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_are_lost_are_counted_and_a_torn_one_is_ended() {
        static TORN: AtomicBool = AtomicBool::new(false);
        let (lost, mut disk) = (Counter::default(), Disk(Vec::new(), 8));
        let write = |disk: &mut Disk, line: &str| {
            Lines { out: disk, lost: lost.clone(), torn: &TORN }.write_all(line.as_bytes()).is_ok()
        };
        assert!(write(&mut disk, "one\n"));
        assert!(!write(&mut disk, "two, long\n") && !write(&mut disk, "three\n"));
        disk.1 = 100;
        assert!(write(&mut disk, "four\n") && write(&mut disk, "five\n"));
        assert_eq!(lost.get(), 2);
        assert_eq!(String::from_utf8_lossy(&disk.0), "one\ntwo,\nfour\nfive\n");
    }
}
