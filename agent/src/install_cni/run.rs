//! Reads, writes and waits, as [`decide`](super::decide) says.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{self, Instant};
use tracing::{info, warn};

use super::conflist::{TYPE, leads_to};
use super::decide::Decider;
use super::decision::{Action, Decision, FileContent, FolderView, PluginSettings};
use super::folder::{Folder, Lock, NotAFile, install_plugin, is_removed, plugins, remove_plugin};
use super::former::formers;
use super::owner::{OwnerAnswer, Wish, wish};
use super::references::first_reference;
use super::report::{self, Alert, AlertReason, InstallReport};
use crate::words::rounded::rounded;

/// How often everything is read, though the kernel reports no change.
const POLL: Duration = Duration::from_secs(10);

/// How long to wait after a change for what belongs to it.
const SETTLE: Duration = Duration::from_millis(20);

/// How long to wait after a failed write: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// How often to try whether another installer has ended.
const CLAIM_AGAIN: Duration = Duration::from_millis(100);

/// How long to wait between two questions to the API server at the end.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is installed where.
#[derive(Debug, Clone)]
pub struct InstallOptions {
    /// The runtime's folder of configurations.
    pub conf_dir: PathBuf,
    /// The runtime's folder of plugins.
    pub bin_dir: PathBuf,
    /// Other folders in which the runtime finds plugins. They are only read.
    pub plugin_dirs: Vec<PathBuf>,
    /// Where runtimes and plugins keep the configurations of sandboxes.
    pub cache_dirs: Vec<PathBuf>,
    /// The plugin to install.
    pub plugin: PathBuf,
    /// The settings of our entry.
    pub settings: PluginSettings,
    /// Where to report.
    pub report: Option<PathBuf>,
    /// For how long the API server is asked at the end.
    pub grace: Duration,
    /// The name of the installer's container in its DaemonSet.
    pub container: String,
    /// The name of this node.
    pub node: String,
}

/// Asks the API server for our DaemonSet.
pub type Ask = Box<dyn Fn() -> BoxFuture<'static, OwnerAnswer> + Send + Sync>;

/// Why the installer ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime's folder is not there.
    #[error("cannot read {}; it is the folder in which the container runtime has its network configurations", .0.display())]
    NoFolder(PathBuf, #[source] io::Error),
    /// The folder was removed while this process had it.
    #[error("{} was removed; start again to see the one that is there now", .0.display())]
    FolderRemoved(PathBuf),
    /// Something could not be removed.
    #[error("cannot remove {}", .0.display())]
    Remove(PathBuf, #[source] io::Error),
}

/// One installer.
pub struct Run {
    options: InstallOptions,
    folder: Folder,
    decider: Decider,
    /// Whether this node's agent is ready.
    agent: Arc<dyn Fn() -> bool + Send + Sync>,
    begun: Instant,
    /// The plugin, here and installed, when both were last seen to be equal.
    plugin: Option<[Stamp; 2]>,
    /// Failed writes in a row, and when to try again.
    failures: u32,
    not_before: Option<Instant>,
    reported: Option<(InstallReport, Instant)>,
}

/// What was removed.
#[derive(Debug, Default)]
pub struct RemovedFiles {
    /// The conflists that were there: ours, and those that an installer of ours wrote under
    /// another name.
    pub conflists: Vec<PathBuf>,
    /// The plugin was there and is not any more.
    pub plugin: bool,
    /// The plugin stays because of this file.
    pub kept_for: Option<PathBuf>,
}

impl Run {
    /// An installer that asks `agent` whether this node's agent is ready.
    #[must_use]
    pub fn new(options: InstallOptions, agent: Arc<dyn Fn() -> bool + Send + Sync>) -> Self {
        let folder = Folder::new(&options.conf_dir, &options.settings.file);
        Self {
            options,
            folder,
            decider: Decider::default(),
            agent,
            begun: Instant::now(),
            plugin: None,
            failures: 0,
            not_before: None,
            reported: None,
        }
    }

    /// Installs, and keeps that so until `stop`. Then asks whether the plugin stays, and removes
    /// it if not. Without `ask` it stays.
    ///
    /// # Errors
    /// If there is no folder, or something cannot be removed.
    pub async fn until(mut self, stop: impl Future<Output = ()>, ask: Option<Ask>) -> Result<(), Error> {
        tokio::pin!(stop);
        let claimed = tokio::select! {
            lock = self.claim() => Some(lock?),
            () = &mut stop => None,
        };
        if claimed.is_some() {
            tokio::select! {
                ended = self.keep() => return ended,
                () = &mut stop => {}
            }
        }
        let Some(ask) = ask else { return Ok(()) };
        let why = match self.wish_at_end(&ask).await {
            Wish::Remove(why) => why,
            Wish::Keep => {
                info!("the installer ends; conflist and plugin stay for the next one");
                return Ok(());
            }
            Wish::AskAgain { why, .. } => {
                warn!(
                    why,
                    "the API server did not say whether npc is being uninstalled; conflist and plugin stay. If it is, \
                     remove them on this node: npc cleanup --cni"
                );
                return Ok(());
            }
        };
        // The installer that has the folder may have asked before that was so.
        let _lock = match claimed {
            Some(lock) => {
                // A successor on this node tries again and again. If it takes the folder now, npc
                // is not being uninstalled: only this pod was deleted.
                drop(lock);
                time::sleep(3 * CLAIM_AGAIN).await;
                match self.folder.claim() {
                    Ok(Some(lock)) => Some(lock),
                    Ok(None) => {
                        info!(why, "another installer has the folder; conflist and plugin stay");
                        return Ok(());
                    }
                    Err(error) => return Err(Error::NoFolder(self.options.conf_dir.clone(), error)),
                }
            }
            None => time::timeout(self.options.grace, self.claim()).await.ok().transpose()?,
        };
        let removed = remove(&self.options, false)?;
        match &removed.kept_for {
            Some(file) => info!(
                why, conflist = !removed.conflists.is_empty(), named_by = %file.display(),
                "removed the conflist; the plugin stays for the DEL of pods that were started with it"
            ),
            None => info!(
                why,
                conflist = !removed.conflists.is_empty(),
                plugin = removed.plugin,
                "removed conflist and plugin"
            ),
        }
        Ok(())
    }

    async fn claim(&self) -> Result<Lock, Error> {
        let mut has_said = false;
        loop {
            match self.folder.claim() {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) => {}
                Err(error) => return Err(Error::NoFolder(self.options.conf_dir.clone(), error)),
            }
            if !has_said {
                info!("another installer has this folder; waiting until it ends");
                has_said = true;
            }
            time::sleep(CLAIM_AGAIN).await;
        }
    }

    /// Never ends but by an error.
    async fn keep(&mut self) -> Result<(), Error> {
        let (sender, mut changes) = mpsc::unbounded_channel();
        let _watcher = self.watch(sender);
        loop {
            for folder in [&self.options.conf_dir, &self.options.bin_dir] {
                if is_removed(folder) {
                    return Err(Error::FolderRemoved(folder.clone()));
                }
            }
            let again = self.pass().await;
            let until = Instant::now() + POLL;
            let until = again.map_or(until, |again| again.min(until));
            tokio::select! {
                change = changes.recv() => {
                    // Without a watcher there is the poll.
                    if change.is_none() {
                        time::sleep_until(until).await;
                    }
                    time::sleep(SETTLE).await;
                    while changes.try_recv().is_ok() {}
                }
                () = time::sleep_until(until) => {}
            }
        }
    }

    /// Has the kernel report changes of both folders. If it cannot, all is read every
    /// [`POLL`]. `notify` is enough here: any event, also an overflow of the kernel's queue and
    /// an error, has everything read again, and so does [`POLL`].
    fn watch(&self, sender: mpsc::UnboundedSender<()>) -> Option<RecommendedWatcher> {
        let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading makes events of its own.
            let is_reading = event.as_ref().is_ok_and(|event| {
                event.kind.is_access() && event.kind != EventKind::Access(AccessKind::Close(AccessMode::Write))
            });
            if !is_reading {
                // Without a receiver the installer is ending.
                let _ = sender.send(());
            }
        });
        let watched = made.and_then(|mut watcher| {
            for folder in [&self.options.conf_dir, &self.options.bin_dir] {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        watched
            .inspect_err(|error| warn!(%error, poll = ?rounded(POLL), "the kernel reports no changes of the folders; reading them again and again"))
            .ok()
    }

    /// Reads, decides and acts until there is nothing more to do now. Answers when to do so
    /// again though nothing changes.
    async fn pass(&mut self) -> Option<Instant> {
        if let Some(not_before) = self.not_before.filter(|at| *at > Instant::now()) {
            return Some(not_before);
        }
        loop {
            let plugin = self.install_plugin();
            if let Ok(true) = plugin {
                info!(folder = %self.options.bin_dir.display(), "wrote the plugin npc-cni");
            }
            let has_plugin = plugin.is_ok() || self.options.bin_dir.join(TYPE).is_file();
            let mut failure = plugin.err().map(|error| (self.options.bin_dir.join(TYPE), error));
            let files = match self.folder.read() {
                Ok(files) => files,
                Err(error) => {
                    self.failed(None, &self.options.conf_dir.clone(), &error);
                    return self.not_before;
                }
            };
            let may_appear =
                has_plugin && (files.contains_key(&self.options.settings.file) || self.is_agent_ready().await);
            let decision = self.decide(&files, may_appear);
            let done = match &decision.action {
                Action::Keep => Ok(()),
                Action::Write { text, like } => self.folder.write(text, like),
                Action::Remove => self.folder.remove().map(drop),
                Action::RemoveFormer { name } => self.folder.remove_former(name).map(drop),
            };
            if let Err(error) = done {
                self.decider.failed();
                let file = match &decision.action {
                    Action::RemoveFormer { name } => name,
                    _ => &self.options.settings.file,
                };
                failure = Some((self.options.conf_dir.join(file), error));
            }
            if let Some((path, error)) = failure {
                self.failed(Some(decision), &path, &error);
                return self.not_before;
            }
            (self.failures, self.not_before) = (0, None);
            match decision.action {
                Action::Keep => {
                    let again = decision.again.map(|again| self.begun + again);
                    self.report(decision);
                    return again;
                }
                Action::Write { like, .. } => {
                    info!(file = self.options.settings.file, source = like, "wrote the conflist");
                }
                Action::Remove => info!(file = self.options.settings.file, "removed the conflist"),
                Action::RemoveFormer { name } => {
                    info!(file = name, "removed the conflist that an installer wrote under another name");
                }
            }
        }
    }

    /// Reads the plugin only if a file has changed: it is large.
    fn install_plugin(&mut self) -> io::Result<bool> {
        let InstallOptions { plugin, bin_dir, .. } = &self.options;
        let stamps = || Some([stamp(plugin)?, stamp(&bin_dir.join(TYPE))?]);
        if self.plugin.is_some() && self.plugin == stamps() {
            return Ok(false);
        }
        let written = install_plugin(plugin, bin_dir)?;
        self.plugin = stamps();
        Ok(written)
    }

    fn decide(&mut self, files: &BTreeMap<String, FileContent>, may_appear: bool) -> Decision {
        let InstallOptions { bin_dir, plugin_dirs, settings, .. } = &self.options;
        let folders: Vec<&Path> = [bin_dir].into_iter().chain(plugin_dirs).map(PathBuf::as_path).collect();
        let (off, plugins) = (self.folder.off(), plugins(&folders));
        let now = self.begun.elapsed();
        let view = FolderView { files, off: off.as_deref(), plugins: plugins.as_ref(), may_appear, now };
        self.decider.decide(settings, &view)
    }

    async fn is_agent_ready(&self) -> bool {
        let agent = Arc::clone(&self.agent);
        tokio::task::spawn_blocking(move || agent()).await.unwrap_or(false)
    }

    fn failed(&mut self, decision: Option<Decision>, path: &Path, error: &io::Error) {
        let wait = RETRY[0].saturating_mul(1 << self.failures.min(6)).min(RETRY[1]);
        self.failures += 1;
        self.not_before = Some(Instant::now() + wait);
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "; the folder has to be root's on the node, because this container has no capabilities"
            }
            _ => "",
        };
        let next = RETRY[1].as_secs();
        let words = format!("{error}{hint}; what was there stays, and the next attempt is at most {next} s away");
        // It stays so until an operator removes it, however often this is tried.
        let is_no_file = error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<NotAFile>);
        let reason = if is_no_file { AlertReason::NotAFile } else { AlertReason::CannotWrite };
        let alert = Alert { reason, file: path.display().to_string(), words };
        let mut report = self.reported.as_ref().map(|(report, _)| report.clone()).unwrap_or_default();
        match decision {
            Some(decision) => {
                // What was to be done to our file was not done.
                if matches!(decision.action, Action::Keep | Action::RemoveFormer { .. }) {
                    (report.installed, report.insertions) = (decision.installed, decision.insertions);
                }
                report.source = decision.source;
                report.alerts = decision.alerts;
            }
            None => report.alerts.clear(),
        }
        report.alerts.push(alert);
        // Without its plugin the conflist lets no pod start.
        report.installed &= self.options.bin_dir.join(TYPE).is_file();
        self.write_report(report);
    }

    fn report(&mut self, decision: Decision) {
        let Decision { installed, source, insertions, alerts, .. } = decision;
        self.write_report(InstallReport { at: 0, installed, source, insertions, alerts });
    }

    /// Logs and writes what changed, and writes it anew now and then.
    fn write_report(&mut self, report: InstallReport) {
        let report = InstallReport { at: 0, ..report };
        let last = self.reported.as_ref();
        let is_new = last.is_none_or(|(last, _)| *last != report);
        if is_new {
            let known = last.map(|(last, _)| last.alerts.clone()).unwrap_or_default();
            for alert in report.alerts.iter().filter(|alert| !known.contains(alert)) {
                warn!(reason = alert.reason.name(), file = alert.file, "{}", alert.words);
            }
            info!(
                installed = report.installed,
                source = report.source,
                insertions = report.insertions.join(","),
                alerts = report.alerts.len(),
                "the state of the CNI plugin on this node"
            );
        }
        if !is_new && last.is_some_and(|(_, at)| at.elapsed() < report::PERIOD) {
            return;
        }
        if let Some(path) = &self.options.report {
            let written = InstallReport { at: report::now(), ..report.clone() }.write(path);
            if let Err(error) = written {
                warn!(%error, path = %path.display(), "cannot write the report for the agent");
            }
        }
        self.reported = Some((report, Instant::now()));
    }

    async fn wish_at_end(&self, ask: &Ask) -> Wish {
        let end = Instant::now() + self.options.grace;
        let mut last = Wish::AskAgain { remove_at_end: false, why: "it did not answer in time".to_owned() };
        loop {
            let Ok(answer) = time::timeout_at(end, ask()).await else { break };
            last = wish(&answer, &self.options.container, &self.options.node).after(last);
            if !matches!(last, Wish::AskAgain { .. }) || Instant::now() + ASK_AGAIN >= end {
                break;
            }
            time::sleep(ASK_AGAIN).await;
        }
        match last {
            Wish::AskAgain { remove_at_end: true, why } => Wish::Remove(why),
            other => other,
        }
    }
}

/// What differs once a file has changed: its inode, and when that changed last.
type Stamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

/// Removes the conflist, those that an installer of ours wrote under another name, and then the
/// plugin, unless something may still call it. With `purge` the plugin goes also if only pods that
/// were started with it may call it.
///
/// # Errors
/// If one of them cannot be removed. The plugin stays if the conflist does.
pub fn remove(options: &InstallOptions, purge: bool) -> Result<RemovedFiles, Error> {
    let own = &options.settings.file;
    let folder = Folder::new(&options.conf_dir, own);
    let failed = |path: PathBuf| move |error| Error::Remove(path, error);
    let mut conflists = Vec::new();
    if folder.remove().map_err(failed(options.conf_dir.join(own)))? {
        conflists.push(options.conf_dir.join(own));
    }
    let mut files = folder.read().map_err(failed(options.conf_dir.clone()))?;
    for former in formers(Path::new(&options.settings.path), &files) {
        let path = options.conf_dir.join(&former.name);
        folder.remove_former(&former.name).map_err(failed(path.clone()))?;
        files.remove(&former.name);
        conflists.push(path);
    }
    folder.remove_leftovers().map_err(failed(options.conf_dir.join(own)))?;
    // A file that another program derived from ours would call it at the next ADD.
    let names_it = |content: &FileContent| match content {
        FileContent::Bytes(bytes) => leads_to(own, bytes) == Ok(true),
        _ => false,
    };
    let derived = files.iter().find(|(_, content)| names_it(content)).map(|(name, _)| options.conf_dir.join(name));
    // Without the plugin such a file would let no pod start, so the plugin stays, with `purge` too.
    let kept_for = derived.or_else(|| if purge { None } else { first_reference(&options.cache_dirs) });
    let plugin = match kept_for {
        Some(_) => false,
        None => remove_plugin(&options.bin_dir).map_err(failed(options.bin_dir.join(TYPE)))?,
    };
    Ok(RemovedFiles { conflists, plugin, kept_for })
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
