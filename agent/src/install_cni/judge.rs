//! What an operator should know about the files of the runtime's folder.

use std::collections::BTreeSet;

use super::conflist::{ConfList, Plugin, leads_to};
use super::decision::{Decision, FileContent, FolderView, PluginSettings};
use super::report::{Alert, AlertReason};

/// What a file is to us.
pub(super) enum Class {
    /// A configuration that does not lead to our plugin.
    Plain(ConfList),
    /// It leads to our plugin.
    Ours,
    /// It cannot be used. Why.
    Broken(String),
}

pub(super) fn classify(own: &str, name: &str, content: &FileContent) -> Class {
    let bytes = match content {
        FileContent::Bytes(bytes) => bytes,
        FileContent::Unreadable(why) => return Class::Broken(why.clone()),
        FileContent::Special(what) => return Class::Broken(format!("it is {what}")),
    };
    match (ConfList::parse(name, bytes), leads_to(own, bytes)) {
        (Ok(_), Ok(true)) => Class::Ours,
        (Ok(list), Ok(false)) => Class::Plain(list),
        (Err(problem), _) | (_, Err(problem)) => Class::Broken(problem.to_string()),
    }
}

impl Decision {
    pub(super) fn alert(&mut self, reason: AlertReason, file: &str, words: String) {
        self.alerts.push(Alert { reason, file: file.to_owned(), words });
    }

    /// Judges the first file by name. Answers whether it leads to our plugin.
    pub(super) fn judge_first(&mut self, own: &str, view: &FolderView, own_has_entry: bool) -> bool {
        let Some((name, content)) = view.files.iter().next() else { return false };
        if name == own {
            return own_has_entry;
        }
        let class = classify(own, name, content);
        if name.as_str() > own {
            return matches!(class, Class::Ours);
        }
        match class {
            Class::Ours => return true,
            Class::Plain(_) => self.alert(
                AlertReason::Preempted,
                name,
                format!(
                    "it sorts before {own} and does not lead to npc-cni, so pods start without waiting for the agent"
                ),
            ),
            Class::Broken(why) => {
                self.alert(AlertReason::Preempted, name, format!("it sorts before {own} and cannot be read: {why}"));
            }
        }
        false
    }

    /// Reports plugins that a runtime would not find. Without one of them no pod starts, and a
    /// file of ours that is new would be blamed for it. Answers whether all are there.
    pub(super) fn check_plugins<'a>(
        &mut self,
        settings: &PluginSettings,
        view: &FolderView,
        is_new: bool,
        source: &str,
        plugins: impl Iterator<Item = &'a Plugin>,
    ) -> bool {
        let Some(known) = view.plugins else { return true };
        let missing: BTreeSet<&str> =
            plugins.map(|plugin| plugin.kind.as_str()).filter(|kind| !known.contains(*kind)).collect();
        if missing.is_empty() {
            return true;
        }
        let (file, then) = if is_new {
            (source, format!("so {} stays absent", settings.file))
        } else {
            (settings.file.as_str(), "so pods cannot start; it stays as it is".to_owned())
        };
        let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
        self.alert(
            AlertReason::PluginMissing,
            file,
            format!(
                "it names {missing}, which is in no folder of plugins that this installer reads, {then}. Check \
                 --cni-bin-dir (cni.binDir of the chart); if the runtime has another folder, name it in \
                 --cni-plugin-dirs (cni.otherBinDir)"
            ),
        );
        false
    }
}
