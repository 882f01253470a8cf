//! What to do with our conflist, given the files of the runtime's folder and the time. Pure.
//!
//! The runtime uses the first file by name. Ours is derived from the first one that sorts
//! *after* it: a file that sorts before ours is in use already, and some of these are derived
//! from ours (Multus, Istio), so deriving from them would nest one in the other.
//!
//! Other programs add their entries to the first file, which is ours. They stay where they are,
//! each type once. If the source has an entry of a type and a program added another of that type,
//! the source's stays. An entry that came from an earlier source, and is not in the present one,
//! goes: our own entry records what the source had.
//!
//! A file that an installer of ours wrote under another name goes once ours is there. Until then
//! it does the same, so the node is never without one.

use std::path::Path;
use std::time::Duration;

use super::conflist::{ConfList, Record, TYPE};
use super::contest::{OwnWrite, Removals, UNDONE, settled_after, wait_after};
use super::decision::{Action, Decision, FileContent, FolderView, PluginSettings};
use super::entries::{added, entry, is_as_wanted, record};
use super::former::{Former, formers};
use super::judge::{Class, classify};
use super::report::AlertReason;

/// How long our file outlives its source. Programs that write a configuration anew delete
/// the old one first.
pub const GRACE: Duration = Duration::from_secs(5);

/// How often an agent is asked whether it is ready, while our file waits for it.
pub const AGENT_POLL: Duration = Duration::from_secs(2);

/// What is known beside the files.
#[derive(Debug, Default)]
pub struct Decider {
    record: Option<Record>,
    source_missing_since: Option<Duration>,
    /// What we wrote last.
    written: Option<OwnWrite>,
    /// How often another program undid what we wrote.
    undone: u32,
    /// Files under other names that we removed.
    removals: Removals,
}

/// The state of our file.
enum Current {
    Absent,
    /// A link or a folder: writing would replace what another program or an operator made.
    Special(&'static str),
    /// It is there, and a runtime refuses it.
    Broken,
    Valid(ConfList),
}

impl Current {
    /// What it holds, if a runtime can use it.
    fn list(&self) -> Option<&ConfList> {
        match self {
            Self::Valid(list) => Some(list),
            _ => None,
        }
    }

    fn has_entry(&self) -> bool {
        self.list().is_some_and(|list| list.plugins().iter().any(|plugin| plugin.kind == TYPE))
    }
}

impl Decider {
    /// Decides what the installer does now, from its settings and the folder's content.
    pub fn decide(&mut self, settings: &PluginSettings, view: &FolderView) -> Decision {
        let own = settings.file.as_str();
        let current = match view.files.get(own) {
            None => Current::Absent,
            Some(FileContent::Special(what)) => Current::Special(what),
            Some(FileContent::Unreadable(_)) => Current::Broken,
            Some(FileContent::Bytes(bytes)) => ConfList::parse(own, bytes).map_or(Current::Broken, Current::Valid),
        };
        let mut decision = Decision {
            action: Action::Keep,
            installed: false,
            source: None,
            insertions: Vec::new(),
            alerts: Vec::new(),
            again: None,
        };
        if let Current::Special(what) = current {
            decision.alert(AlertReason::NotAFile, own, format!("it is {what} and was left alone; remove it"));
            return decision;
        }
        let formers = formers(Path::new(&settings.path), view.files);
        if let Some(off) = view.off {
            decision.action = match (&current, formers.first()) {
                (Current::Absent, None) => Action::Keep,
                (Current::Absent, Some(former)) => Action::RemoveFormer { name: former.name.clone() },
                _ => Action::Remove,
            };
            self.forget();
            decision.alert(
                AlertReason::Off,
                own,
                format!("{off} is there, so the plugin is not installed; remove that file to install it"),
            );
            return decision;
        }
        let is_called = decision.judge_first(own, view, current.has_entry());
        match self.source(own, view, &current, &formers) {
            SourceFile::Found(name, list) => {
                decision.source = Some(name.clone());
                // Until ours is there, one under another name is what we go by.
                let there = match &current {
                    Current::Valid(list) => Some(list),
                    Current::Absent => formers.first().map(|former| &former.list),
                    Current::Broken | Current::Special(_) => None,
                };
                self.keep_derived(settings, view, &current, there, &name, &list, &mut decision);
            }
            SourceFile::Awaited(until) => {
                decision.source = self.record.as_ref().map(|record| record.file.clone());
                decision.again = Some(until);
                self.restore(view, &current, &mut decision);
            }
            SourceFile::Broken(name, why) => {
                decision.alert(
                    AlertReason::SourceBroken,
                    &name,
                    format!("{why}; the file was left alone, and {own} stays as it is"),
                );
                decision.source = Some(name);
                self.restore(view, &current, &mut decision);
            }
            SourceFile::Missing => {
                // One whose source is there stays: with a name that sorts too late, ours never comes.
                let is_stale =
                    |former: &&Former| former.list.record().is_none_or(|record| !view.files.contains_key(&record.file));
                if !matches!(current, Current::Absent) {
                    decision.action = Action::Remove;
                } else if let Some(former) = formers.iter().find(is_stale) {
                    decision.action = Action::RemoveFormer { name: former.name.clone() };
                }
                self.forget();
                decision.alert(
                    AlertReason::NoSource,
                    own,
                    "no configuration that sorts after it is there to derive it from".to_owned(),
                );
            }
        }
        if decision.action == Action::Keep && current.has_entry() && !formers.is_empty() {
            self.remove_former(own, &formers, view, &mut decision);
        }
        // A copy of our entry in another program's file does nothing once our file is gone.
        let is_live = current.has_entry() || !formers.is_empty();
        decision.installed =
            is_called && is_live && matches!(decision.action, Action::Keep | Action::RemoveFormer { .. });
        decision
    }

    /// Ours is there, so a former one goes, if the runtime then calls our plugin still.
    fn remove_former(&mut self, own: &str, formers: &[Former], view: &FolderView, decision: &mut Decision) {
        let Some(name) = formers.first().map(|former| former.name.as_str()) else { return };
        let mut others = view.files.iter().filter(|(name, _)| formers.iter().all(|former| former.name != **name));
        if let Some((next, content)) = others.next().filter(|(next, _)| next.as_str() < own)
            && !matches!(classify(own, next, content), Class::Ours)
        {
            let words = format!(
                "it sorts before {own} and does not lead to npc-cni. An npc install-cni wrote {name}, which stays so that \
                 pods still wait for the agent; give npc's conflist a name that sorts first"
            );
            decision.alert(AlertReason::Preempted, next, words);
            return;
        }
        match self.removals.again(view.now) {
            Ok(()) => decision.action = Action::RemoveFormer { name: name.to_owned() },
            Err(next) => {
                decision.again = Some(decision.again.map_or(next, |again| again.min(next)));
                decision.alert(
                    AlertReason::Contested,
                    name,
                    "an npc install-cni wrote it under this name, and another program makes it anew each time that it \
                     is removed"
                        .to_owned(),
                );
            }
        }
    }

    /// What was decided could not be done, so what another program does is no answer to it.
    pub fn failed(&mut self) {
        (self.written, self.undone) = (None, 0);
    }

    /// Our file goes because we remove it: that it is absent then is no program's doing.
    fn forget(&mut self) {
        *self = Self::default();
    }

    /// The file to derive from.
    fn source(&mut self, own: &str, view: &FolderView, current: &Current, formers: &[Former]) -> SourceFile {
        if self.record.is_none() {
            // What an earlier installer wrote.
            let of_own = current.list().and_then(ConfList::record);
            self.record = of_own.or_else(|| formers.iter().find_map(|former| former.list.record()));
        }
        let mut found = SourceFile::Missing;
        for (name, content) in view.files.iter().filter(|(name, _)| name.as_str() > own) {
            match classify(own, name, content) {
                Class::Ours => {}
                Class::Plain(list) => {
                    found = match list.check_versions() {
                        Ok(()) => SourceFile::Found(name.clone(), list),
                        Err(problem) => SourceFile::Broken(name.clone(), problem.to_string()),
                    };
                    break;
                }
                Class::Broken(why) => {
                    found = SourceFile::Broken(name.clone(), why);
                    break;
                }
            }
        }
        let gone =
            self.record.as_ref().map(|record| record.file.as_str()).filter(|file| !view.files.contains_key(*file));
        let is_later = |gone: &str| match &found {
            SourceFile::Found(name, _) | SourceFile::Broken(name, _) => name.as_str() > gone,
            SourceFile::Missing | SourceFile::Awaited(_) => true,
        };
        if gone.is_some_and(is_later) {
            let until = *self.source_missing_since.get_or_insert(view.now) + GRACE;
            if view.now < until {
                return SourceFile::Awaited(until);
            }
        } else {
            self.source_missing_since = None;
        }
        found
    }

    /// Makes our file what its source and other programs' entries ask for. `there` is our file,
    /// or the one that stands for it.
    #[allow(clippy::too_many_arguments, reason = "each is another thing")]
    fn keep_derived(
        &mut self,
        settings: &PluginSettings,
        view: &FolderView,
        current: &Current,
        there: Option<&ConfList>,
        name: &str,
        source: &ConfList,
        decision: &mut Decision,
    ) {
        let own_entry = entry(settings, name, source);
        let known = there.and_then(ConfList::record).or_else(|| self.record.clone());
        let others = added(there.map_or(&[][..], ConfList::plugins), source, known.as_ref());
        decision.insertions = others.iter().map(|plugin| plugin.kind.clone()).collect();
        let is_new = matches!(current, Current::Absent) && there.is_none();
        let has_all =
            decision.check_plugins(settings, view, is_new, name, source.plugins().iter().chain(others.iter().copied()));
        if let Current::Valid(list) = current
            && is_as_wanted(list, source, &own_entry, &others)
        {
            self.record = list.record();
            if self.undone > 0
                && let Some(written) = &self.written
                && view.now > written.at + settled_after(self.undone)
            {
                // It has settled.
                self.undone = 0;
            }
            return;
        }
        if is_new && !has_all {
            decision.again = Some(view.now + AGENT_POLL);
            return;
        }
        if is_new && !view.may_appear {
            decision.again = Some(view.now + AGENT_POLL);
            decision.alert(
                AlertReason::AgentNotReady,
                &settings.file,
                "absent until the agent of this node is ready and serves the plugin (npc status), and the plugin is in place".to_owned(),
            );
            return;
        }
        let text = source.text_with(source.plugins().iter().chain([&own_entry]).chain(others));
        if let Some(written) = self.written.as_ref().filter(|written| written.is_undone(current.list())) {
            let next = written.at + wait_after(self.undone);
            if self.undone >= UNDONE {
                decision.alert(
                    AlertReason::Contested,
                    &settings.file,
                    format!(
                        "another program has changed or removed it {} times against what was derived from {name}; the next \
                         attempt waits up to {} s",
                        self.undone,
                        wait_after(self.undone).as_secs()
                    ),
                );
            }
            if view.now < next {
                decision.again = Some(next);
                if matches!(current, Current::Broken) {
                    // A runtime would stop at it. Without it, the node starts pods.
                    decision.action = Action::Remove;
                }
                return;
            }
            self.undone = self.undone.saturating_add(1);
        }
        self.record = Some(record(name, source));
        self.written = Some(OwnWrite::new(text.clone(), view.now, name, source, own_entry));
        decision.action = Action::Write { text, like: name.to_owned() };
    }

    /// Where the source cannot be read: our file stays if a runtime can read it. Otherwise
    /// what we wrote last is put back, or the file goes, because a runtime would stop at it.
    fn restore(&mut self, view: &FolderView, current: &Current, decision: &mut Decision) {
        if !matches!(current, Current::Broken) {
            return;
        }
        decision.action = match &mut self.written {
            Some(written) if view.now >= written.at + wait_after(self.undone) => {
                written.at = view.now;
                self.undone = self.undone.saturating_add(1);
                Action::Write { text: written.text.clone(), like: decision.source.clone().unwrap_or_default() }
            }
            Some(written) => {
                decision.again = Some(written.at + wait_after(self.undone));
                Action::Remove
            }
            None => Action::Remove,
        };
    }
}

/// The file from which ours is derived.
enum SourceFile {
    Found(String, ConfList),
    /// The one that ours was derived from is gone, and may come back until then.
    Awaited(Duration),
    Broken(String, String),
    Missing,
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
