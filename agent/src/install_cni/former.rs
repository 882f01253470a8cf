//! Files that an installer of ours wrote under another name: the name in the settings has
//! changed since, or an older release had another one.
//!
//! Such a file names itself as the installed conflist, so its pods would wait for an agent
//! even after an uninstallation, and no installer would keep it up to date.

use std::collections::BTreeMap;
use std::path::Path;

use npc_cni::configuration::names_itself;

use super::conflist::ConfList;
use super::decision::FileContent;

/// One of them.
#[derive(Debug)]
pub(super) struct Former {
    pub(super) name: String,
    pub(super) list: ConfList,
}

/// Those of a folder, by name. `own` is the path of our file there.
pub(super) fn formers(own: &Path, files: &BTreeMap<String, FileContent>) -> Vec<Former> {
    let former = |(name, content): (&String, &FileContent)| {
        let path = own.with_file_name(name);
        match content {
            FileContent::Bytes(bytes) if path != own && names_itself(&path, bytes) => {
                Some(Former { name: name.clone(), list: ConfList::parse(name, bytes).ok()? })
            }
            _ => None,
        }
    };
    files.iter().filter_map(former).collect()
}
