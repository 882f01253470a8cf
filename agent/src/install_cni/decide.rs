//! What to do with our conflist, given the files of the runtime's folder and the time. Pure.
//!
//! The runtime uses the first file by name. Ours is derived from the first one that sorts
//! *after* it: a file that sorts before ours is in use already, and some of these are derived
//! from ours (Multus, Istio), so deriving from them would nest one in the other.
//!
//! Other programs add their entries to the first file, which is ours. They stay where they
//! are, each type once. Of two entries of one type, one in the source and one added, the
//! source's stays. An entry that came from an earlier source, and is not in the present one,
//! goes: our own entry records what the source had.

use std::collections::BTreeMap;
use std::time::Duration;

use super::conflist::{ConfList, Plugin, Record, TYPE, leads_to};
use super::entries::{added, entry, is_as_wanted, record};
use super::report::{Alert, Reason};
use npc_cni::configuration::FailurePolicy;

/// How long our file outlives its source. Programs that write a configuration anew delete
/// the old one first.
pub const GRACE: Duration = Duration::from_secs(5);

/// How often an agent is asked whether it is ready, while our file waits for it.
pub const AGENT_POLL: Duration = Duration::from_secs(2);

/// How often another program may undo what we wrote before we wait.
const UNDONE: u32 = 3;

/// The longest wait between two attempts against a program that undoes them.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A file of the runtime's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// What it holds.
    Bytes(Vec<u8>),
    /// Why it cannot be read.
    Unreadable(String),
    /// It is a link, a folder or a device. Its text says which.
    Special(&'static str),
}

/// The settings of our plugin, as its entry has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of our file.
    pub file: String,
    /// Our file's path on the node. The plugin does nothing once it is gone.
    pub path: String,
    /// The agent's socket.
    pub socket: String,
    /// For how many seconds an ADD waits for the agent.
    pub timeout_seconds: u64,
    /// What becomes of a pod if the agent does not answer.
    pub failure_policy: FailurePolicy,
    /// Namespaces whose pods start without the agent.
    pub open_namespaces: Vec<String>,
}

/// What there is.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The files that a runtime reads, by name.
    pub files: &'a BTreeMap<String, Content>,
    /// An operator has moved our file aside: nothing is installed until that one is gone.
    pub is_off: bool,
    /// The plugin is in place and the agent is ready: our file may appear where it is not.
    pub may_appear: bool,
    /// The time since some beginning.
    pub now: Duration,
}

/// What to do with our file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Keep,
    /// Write this text.
    Write {
        /// The text of the whole file.
        text: String,
        /// The file whose mode it gets, if ours is not there.
        like: String,
    },
    /// Remove it.
    Remove,
}

/// What to do, and how things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to do now.
    pub action: Action,
    /// The runtime's next ADD calls our plugin.
    pub installed: bool,
    /// The file from which ours is derived.
    pub source: Option<String>,
    /// The types of entries that other programs added to ours.
    pub insertions: Vec<String>,
    /// What an operator should know.
    pub alerts: Vec<Alert>,
    /// When to decide again though nothing changes.
    pub again: Option<Duration>,
}

/// What is known beside the files.
#[derive(Debug, Default)]
pub struct State {
    record: Option<Record>,
    source_missing_since: Option<Duration>,
    /// What we wrote last, of which source text, and when.
    written: Option<(String, Vec<u8>, Duration)>,
    /// How often another program undid what we wrote.
    undone: u32,
}

/// What a file is to us.
enum Class {
    /// A configuration that does not lead to our plugin.
    Plain(ConfList),
    /// It leads to our plugin.
    Ours,
    /// It cannot be used. Why.
    Broken(String),
}

fn classify(own: &str, name: &str, content: &Content) -> Class {
    let bytes = match content {
        Content::Bytes(bytes) => bytes,
        Content::Unreadable(why) => return Class::Broken(why.clone()),
        Content::Special(what) => return Class::Broken(format!("it is {what}")),
    };
    match (ConfList::parse(name, bytes), leads_to(own, bytes)) {
        (Ok(_), Ok(true)) => Class::Ours,
        (Ok(list), Ok(false)) => Class::Plain(list),
        (Err(problem), _) | (_, Err(problem)) => Class::Broken(problem.to_string()),
    }
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

impl State {
    /// Decides.
    pub fn decide(&mut self, settings: &Settings, view: &View) -> Decision {
        let own = settings.file.as_str();
        let current = match view.files.get(own) {
            None => Current::Absent,
            Some(Content::Special(what)) => Current::Special(what),
            Some(Content::Unreadable(_)) => Current::Broken,
            Some(Content::Bytes(bytes)) => ConfList::parse(own, bytes).map_or(Current::Broken, Current::Valid),
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
            decision.alert(Reason::NotAFile, own, format!("it is {what} and was left alone; remove it"));
            return decision;
        }
        if view.is_off {
            decision.action = if matches!(current, Current::Absent) { Action::Keep } else { Action::Remove };
            self.forget();
            decision.alert(
                Reason::Off,
                own,
                format!("{own}.off is there, so the plugin is not installed; remove that file to install it"),
            );
            return decision;
        }
        let is_active = decision.judge_first(own, view);
        match self.source(own, view) {
            Source::Found(name, list) => {
                decision.source = Some(name.clone());
                self.keep_derived(settings, view, &current, &name, &list, &mut decision);
            }
            Source::Awaited(until) => {
                decision.source = self.record.as_ref().map(|record| record.file.clone());
                decision.again = Some(until);
                self.mend(view, &current, &mut decision);
            }
            Source::Broken(name, why) => {
                decision.alert(
                    Reason::SourceBroken,
                    &name,
                    format!("{why}; the file was left alone, and {own} stays as it is"),
                );
                decision.source = Some(name);
                self.mend(view, &current, &mut decision);
            }
            Source::Missing => {
                if !matches!(current, Current::Absent) {
                    decision.action = Action::Remove;
                }
                self.forget();
                if !decision.installed {
                    decision.alert(
                        Reason::NoSource,
                        own,
                        "no configuration that sorts after it is there to derive it from".to_owned(),
                    );
                }
            }
        }
        if let (true, Current::Valid(list), Action::Keep) = (is_active, &current, &decision.action) {
            decision.installed = list.plugins().iter().any(|plugin| plugin.kind == TYPE);
        }
        decision
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
    fn source(&mut self, own: &str, view: &View) -> Source {
        if self.record.is_none()
            && let Some(Content::Bytes(bytes)) = view.files.get(own)
        {
            // What an earlier installer wrote.
            self.record = ConfList::parse(own, bytes).ok().and_then(|list| list.record());
        }
        let mut found = Source::Missing;
        for (name, content) in view.files.iter().filter(|(name, _)| name.as_str() > own) {
            match classify(own, name, content) {
                Class::Ours => {}
                Class::Plain(list) => {
                    found = match list.check_versions() {
                        Ok(()) => Source::Found(name.clone(), list),
                        Err(problem) => Source::Broken(name.clone(), problem.to_string()),
                    };
                    break;
                }
                Class::Broken(why) => {
                    found = Source::Broken(name.clone(), why);
                    break;
                }
            }
        }
        let gone =
            self.record.as_ref().map(|record| record.file.as_str()).filter(|file| !view.files.contains_key(*file));
        let is_later = |gone: &str| match &found {
            Source::Found(name, _) | Source::Broken(name, _) => name.as_str() > gone,
            Source::Missing | Source::Awaited(_) => true,
        };
        if gone.is_some_and(is_later) {
            let until = *self.source_missing_since.get_or_insert(view.now) + GRACE;
            if view.now < until {
                return Source::Awaited(until);
            }
        } else {
            self.source_missing_since = None;
        }
        found
    }

    /// Makes our file what its source and other programs' entries ask for.
    fn keep_derived(
        &mut self,
        settings: &Settings,
        view: &View,
        current: &Current,
        name: &str,
        source: &ConfList,
        decision: &mut Decision,
    ) {
        let own_entry = entry(settings, name, source);
        let there = match current {
            Current::Valid(list) => list.plugins(),
            _ => &[],
        };
        let known = match current {
            Current::Valid(list) => list.record().or_else(|| self.record.clone()),
            _ => self.record.clone(),
        };
        let others = added(there, source, known.as_ref());
        decision.insertions = others.iter().map(|plugin| plugin.kind.clone()).collect();
        let source_bytes = || match view.files.get(name) {
            Some(Content::Bytes(bytes)) => bytes.clone(),
            _ => Vec::new(),
        };
        if let Current::Valid(list) = current
            && is_as_wanted(list, source, &own_entry, &others)
        {
            self.record = list.record();
            if self.undone > 0
                && let Some((_, _, at)) = &self.written
                && view.now > *at + 2 * wait_after(self.undone) + Duration::from_secs(60)
            {
                // It has settled.
                self.undone = 0;
            }
            return;
        }
        if matches!(current, Current::Absent) && !view.may_appear {
            decision.again = Some(view.now + AGENT_POLL);
            decision.alert(
                Reason::AgentNotReady,
                &settings.file,
                "it waits until the agent of this node is ready (npc status) and the plugin is in place".to_owned(),
            );
            return;
        }
        let text = source.text_with(source.plugins().iter().chain([&own_entry]).chain(others));
        let is_undone =
            self.written.as_ref().is_some_and(|(last, of, _)| *of == source_bytes() && last_entry_is(last, &own_entry));
        if is_undone {
            let at = self.written.as_ref().map_or(view.now, |(_, _, at)| *at);
            let next = at + wait_after(self.undone);
            if self.undone >= UNDONE {
                decision.alert(
                    Reason::Contested,
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
        self.written = Some((text.clone(), source_bytes(), view.now));
        decision.action = Action::Write { text, like: name.to_owned() };
    }

    /// Where the source cannot be read: our file stays if a runtime can read it. Otherwise
    /// what we wrote last is put back, or the file goes, because a runtime would stop at it.
    fn mend(&mut self, view: &View, current: &Current, decision: &mut Decision) {
        if !matches!(current, Current::Broken) {
            return;
        }
        decision.action = match &mut self.written {
            Some((text, _, at)) if view.now >= *at + wait_after(self.undone) => {
                *at = view.now;
                self.undone = self.undone.saturating_add(1);
                Action::Write { text: text.clone(), like: decision.source.clone().unwrap_or_default() }
            }
            Some((_, _, at)) => {
                decision.again = Some(*at + wait_after(self.undone));
                Action::Remove
            }
            None => Action::Remove,
        };
    }
}

enum Source {
    Found(String, ConfList),
    /// The one that ours was derived from is gone, and may come back until then.
    Awaited(Duration),
    Broken(String, String),
    Missing,
}

impl Decision {
    fn alert(&mut self, reason: Reason, file: &str, words: String) {
        self.alerts.push(Alert { reason, file: file.to_owned(), words });
    }

    /// Judges the first file by name if it is not ours. Answers whether ours would be first.
    fn judge_first(&mut self, own: &str, view: &View) -> bool {
        let Some((name, content)) = view.files.iter().next().filter(|(name, _)| name.as_str() < own) else {
            return true;
        };
        match classify(own, name, content) {
            Class::Ours => self.installed = true,
            Class::Plain(_) => self.alert(
                Reason::Preempted,
                name,
                format!(
                    "it sorts before {own} and does not lead to npc-cni, so pods start without waiting for the agent"
                ),
            ),
            Class::Broken(why) => {
                self.alert(Reason::Preempted, name, format!("it sorts before {own} and cannot be read: {why}"));
            }
        }
        false
    }
}

/// How long to wait after another program undid what we wrote so many times.
fn wait_after(undone: u32) -> Duration {
    match undone.checked_sub(UNDONE) {
        None => Duration::ZERO,
        Some(more) => Duration::from_secs(1 << more.min(16)).min(LONGEST_WAIT),
    }
}

/// Whether a text that we wrote has this entry of ours.
fn last_entry_is(text: &str, entry: &Plugin) -> bool {
    ConfList::parse(".conflist", text.as_bytes())
        .is_ok_and(|list| list.plugins().iter().any(|plugin| plugin.is_same(entry)))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
