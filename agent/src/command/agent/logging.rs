//! The agent's log, whose level its configuration file may change while it
//! runs.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Args as _, CommandFactory as _};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::{Args, Config, LogFormat};
use crate::command::{Cli, Exit, Stop};

/// The one setting that takes effect without a restart.
const LEVEL: &str = "log_level";

/// What is logged, to be changed.
#[derive(Debug, Clone)]
pub(super) struct Level(reload::Handle<EnvFilter, Registry>);

/// Logs to standard error from now on.
///
/// # Errors
/// If the level is none.
pub(super) fn to_stderr(level: &str, format: LogFormat) -> anyhow::Result<Level> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| Stop::new(Exit::Input, format!("{level} is not a log level: {error}")))?;
    let (filter, handle) = reload::Layer::new(filter);
    // An error to write is told on the same standard error, and a panic if
    // nobody reads that any more; policies are enforced all the same.
    let lines = fmt::layer().with_writer(io::stderr).with_target(false).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines.with_ansi(io::stderr().is_terminal())).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    Ok(Level(handle))
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
                match EnvFilter::try_new(level).map(|filter| self.0.reload(filter)) {
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
    let is_given =
        |id: &&str| matches!(matches.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable));
    matches.ids().map(clap::Id::as_str).filter(is_given).map(str::to_owned).collect()
}
