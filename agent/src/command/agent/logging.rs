//! The agent's log. The configuration file may change its level while the agent
//! runs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::future;
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args as _, CommandFactory as _};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher as _};
use npc_agent::tasks::Tasks;
use npc_agent::words::near;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tracing::level_filters::LevelFilter;
use tracing::{error, info, warn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::config::{is_given, key};
use super::key_value::KeyValue;
use super::{Args, Config, LogFormat};
use crate::command::{Cli, Exit, Stop};

/// The one setting that takes effect without a restart.
const LEVEL: &str = "log_level";

/// The log levels.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The libraries of npc that log and whose names are one word.
const LIBRARIES: [&str; 9] = ["kube", "hyper", "tower", "rustls", "tokio", "h2", "notify", "mio", "axum"];

/// What the targets of npc's own log lines begin with: its crates' names.
const OWN: &str = "npc";

/// The log's level, which can be changed.
#[derive(Debug, Clone)]
pub(in crate::command) struct Level {
    filter: reload::Handle<EnvFilter, Registry>,
    /// How many lines could not be written.
    pub(in crate::command) lost: Counter,
}

/// Writes lines, and counts those that cannot be written.
#[derive(Debug)]
struct CountedLines<W> {
    out: W,
    lost: Counter,
    /// The last line may have been written in part, without its end.
    torn: &'static AtomicBool,
}

impl<W: Write> Write for CountedLines<W> {
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

/// The lines that a log level lets through.
///
/// A level is that of npc's own lines. A library's lines say what happened in the
/// library's words, often as Rust values, and the agent logs the same failures in its
/// own. So a library is silent unless a directive names it, as in `info,kube=debug`.
///
/// # Errors
/// In words, if the text is neither a level nor a list of directives. A word alone is
/// the name of a library, unless it looks like a misspelt level.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let of_own = |level: LevelFilter| format!("{OWN}={level}");
    // The last directive about a target counts.
    let mut directives = vec![of_own(LevelFilter::INFO)];
    for given in text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        if let Ok(level) = given.parse() {
            directives.push(of_own(level));
        } else if let Some(level) = near::nearest(given, LEVELS) {
            return Err(format!("{given} is not a log level; did you mean {level}?"));
        } else if is_no_library(given) {
            return Err(format!(
                "{given} is not a log level; write {}, or of a library of npc LIBRARY=LEVEL, as kube=debug",
                LEVELS.join(", ")
            ));
        } else {
            directives.push(given.to_owned());
        }
    }
    EnvFilter::try_new(directives.join(",")).map_err(|error| format!("{text} is not a log level: {error}"))
}

/// Whether a directive is one word that is the name of no library that logs.
fn is_no_library(directive: &str) -> bool {
    let is_word = directive.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_word && !LIBRARIES.contains(&directive)
}

/// Logs to standard error from now on.
///
/// # Errors
/// If the text is not a log level.
pub(in crate::command) fn to_stderr(level: &str, format: LogFormat) -> anyhow::Result<Level> {
    static TORN: AtomicBool = AtomicBool::new(false);
    let filter = filter(level).map_err(|error| Stop::new(Exit::Input, error))?;
    let (filter, handle) = reload::Layer::new(filter);
    let lost = Counter::default();
    let counted = lost.clone();
    let lines = move || CountedLines { out: io::stderr(), lost: counted.clone(), torn: &TORN };
    // Without this option the layer prints a failed write to the same standard error,
    // and panics if no program reads that any more. The agent has to go on.
    let lines = fmt::layer().with_writer(lines).with_target(false).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines.with_ansi(io::stderr().is_terminal()).fmt_fields(KeyValue)).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    Ok(Level { filter: handle, lost })
}

impl Level {
    /// Follows a configuration file that was read already. A new log level takes
    /// effect at once; of other changed settings the log says that they wait.
    pub(super) fn follow(self, path: PathBuf, known: Config, tasks: &mut Tasks) {
        tasks.spawn("follows the configuration file", async move {
            if let Err(error) = self.watch(&path, known).await {
                warn!(%error, path = %path.display(), "cannot follow the configuration file; the agent reads it again when it restarts");
            }
            future::pending::<()>().await;
        });
    }

    async fn watch(&self, path: &Path, mut known: Config) -> notify::Result<()> {
        let (sender, mut changes) = mpsc::unbounded_channel();
        // The kubelet replaces the files of a ConfigMap by turning this one link.
        let concerned = [path.file_name().map(ToOwned::to_owned), Some("..data".into())];
        // `notify` is enough here: any event that concerns the file, also an overflow of the
        // kernel's queue and an error, has the whole file read again.
        let mut watcher = notify::recommended_watcher(move |change: notify::Result<notify::Event>| {
            if may_concern(&change, &concerned) {
                // Without a receiver the agent is ending.
                let _ = sender.send(());
            }
        })?;
        // The directory, because editors and the kubelet replace the file itself.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        let command = Args::augment_args(clap::Command::new("agent"));
        let given = given();
        // Reads first: the file may have changed before the watch began.
        loop {
            match Config::read(path, &command) {
                Ok(config) => {
                    self.changed(&command, [&known, &config], &given);
                    known = config;
                }
                Err(error) => error!("{:#}; the agent keeps the last good configuration", anyhow::Error::new(error)),
            }
            if changes.recv().await.is_none() {
                return Ok(());
            }
            while changes.try_recv().is_ok() {}
        }
    }

    fn changed(&self, command: &clap::Command, [old, new]: [&Config; 2], given: &BTreeSet<String>) {
        for id in old.differences(new) {
            // As the file spells it.
            let setting = key(command, id);
            if given.contains(id) {
                info!(
                    setting,
                    "setting changed in the configuration file, but a flag or an environment variable overrides it"
                );
            } else if id != LEVEL {
                warn!(setting, "setting changed in the configuration file; it takes effect when the agent restarts");
            } else {
                let level = new.get(LEVEL).unwrap_or("info");
                match filter(level).map(|filter| self.filter.reload(filter)) {
                    Ok(_) => info!(level, "the configuration file changed the log level"),
                    Err(error) => error!("{error}; the agent keeps the last log level"),
                }
            }
        }
    }
}

/// Whether a file of one of these names may have changed. What reports an error or an overflow
/// names no file, and any may have changed before it.
///
/// A program that writes a file in place empties it first, and what it has written of it until
/// then is no configuration. So a write counts when the program closes the file.
fn may_concern(change: &notify::Result<notify::Event>, names: &[Option<OsString>]) -> bool {
    let Ok(change) = change else { return true };
    let concerns = |path: &PathBuf| names.iter().any(|name| name.as_deref() == path.file_name());
    let is_change = match change.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(kind) => matches!(kind, ModifyKind::Name(_)),
        // A file that a program makes is empty until it is closed. A link is never closed.
        EventKind::Create(_) => change.paths.iter().filter(|path| concerns(path)).any(|path| is_link(path)),
        EventKind::Any | EventKind::Remove(_) | EventKind::Other => true,
    };
    change.need_rescan() || (is_change && change.paths.iter().any(concerns))
}

/// Whether this is a symbolic link, or a hard link to a file that has another name.
fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_symlink() || found.nlink() > 1)
}

/// The settings that a flag or an environment variable gives: the file cannot change them.
fn given() -> BTreeSet<String> {
    let Ok(matches) = Cli::command().try_get_matches() else { return BTreeSet::new() };
    let Some((_, matches)) = matches.subcommand() else { return BTreeSet::new() };
    matches.ids().map(clap::Id::as_str).filter(|id| is_given(matches, id)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_once_it_is_written_and_after_an_overflow_or_an_error() {
        use notify::event::{CreateKind, DataChange, Flag, RenameMode};
        use notify::{Error, Event};

        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("config.yaml"), "").expect("it is written");
        std::os::unix::fs::symlink("..1", path("..data")).expect("it is linked");
        let names = [Some("config.yaml".into()), Some("..data".into())];
        let of = |kind, name: &str| Ok(Event::new(kind).add_path(path(name)));
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        for (change, is_concerned) in [
            (of(EventKind::Create(CreateKind::File), "config.yaml"), false),
            (of(EventKind::Modify(ModifyKind::Data(DataChange::Any)), "config.yaml"), false),
            (of(EventKind::Access(AccessKind::Close(AccessMode::Write)), "config.yaml"), true),
            (of(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "config.yaml"), true),
            (of(EventKind::Create(CreateKind::File), "..data"), true),
            (of(EventKind::Access(AccessKind::Close(AccessMode::Write)), "other.yaml"), false),
            (of(EventKind::Access(AccessKind::Read), "config.yaml"), false),
            (Ok(overflow), true),
            (Err(Error::generic("the queue cannot be read")), true),
        ] {
            assert_eq!(may_concern(&change, &names), is_concerned, "{change:?}");
        }
    }

    /// What was written to a disk, and how many bytes it has room for.
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

    /// What is logged at this level when npc and libraries log at all levels.
    fn logged(level: &str) -> Vec<&'static str> {
        use std::sync::{Arc, Mutex};

        struct Seen(Arc<Mutex<Vec<&'static str>>>);

        impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Seen {
            fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
                let metadata = event.metadata();
                self.0.lock().expect("no test panicked").push(metadata.name());
            }
        }

        let seen = Arc::new(Mutex::new(Vec::new()));
        let registry =
            tracing_subscriber::registry().with(filter(level).expect("a level")).with(Seen(Arc::clone(&seen)));
        tracing::subscriber::with_default(registry, || {
            error!(name: "own error", "a");
            info!(name: "own info", "a");
            tracing::debug!(name: "own debug", "a");
            info!(name: "compiler info", target: "npc_compiler::engine", "a");
            error!(name: "kube error", target: "kube_client::client::builder", "a");
            tracing::debug!(name: "kube debug", target: "kube_client::client::builder", "a");
            warn!(name: "hyper warning", target: "hyper_util::client", "a");
        });
        Arc::into_inner(seen).expect("the subscriber has gone").into_inner().expect("no test panicked")
    }

    #[test]
    fn a_level_is_npcs_own_and_a_library_logs_only_what_a_directive_asks() {
        for (level, lines) in [
            ("info", &["own error", "own info", "compiler info"][..]),
            ("ERROR", &["own error"]),
            ("debug", &["own error", "own info", "own debug", "compiler info"]),
            ("warn,kube=error", &["own error", "kube error"]),
            ("kube=debug", &["own error", "own info", "compiler info", "kube error", "kube debug"]),
            ("off, hyper_util=warn", &["hyper warning"]),
            ("hyper_util", &["own error", "own info", "compiler info", "hyper warning"]),
            ("npc_compiler=off", &["own error", "own info"]),
        ] {
            assert_eq!(logged(level), lines, "{level}");
        }
        for (level, says) in [
            ("npc=loud", "npc=loud is not a log level: "),
            ("inf", "inf is not a log level; did you mean info?"),
            ("info,debgu", "debgu is not a log level; did you mean debug?"),
            ("loud", "loud is not a log level; write off, error, warn, info, debug, trace, or of a library"),
            ("quiet", "quiet is not a log level; write off"),
            ("info,verbose", "verbose is not a log level; write off"),
        ] {
            let error = filter(level).expect_err("no level");
            assert!(error.starts_with(says), "{error}");
        }
    }

    #[test]
    fn lines_that_are_lost_are_counted_and_a_torn_one_is_ended() {
        static TORN: AtomicBool = AtomicBool::new(false);
        let (lost, mut disk) = (Counter::default(), Disk(Vec::new(), 8));
        let write = |disk: &mut Disk, line: &str| {
            CountedLines { out: disk, lost: lost.clone(), torn: &TORN }.write_all(line.as_bytes()).is_ok()
        };
        assert!(write(&mut disk, "one\n"));
        assert!(!write(&mut disk, "two, long\n") && !write(&mut disk, "three\n"));
        disk.1 = 100;
        assert!(write(&mut disk, "four\n") && write(&mut disk, "five\n"));
        assert_eq!(lost.get(), 2);
        assert_eq!(String::from_utf8_lossy(&disk.0), "one\ntwo,\nfour\nfive\n");
    }
}
