//! The file by which an agent knows what CNI reported to the one before it. It is on the
//! node's tmpfs, so it is gone after a reboot, as the sandboxes are.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use npc_cni::check::{check, is_interface, is_of_a_pod};
use npc_cni::file;
use npc_cni::moment::Moment;
use npc_cni::note::{self, LONGEST_SANDBOXES, SANDBOXES};
use npc_cni::protocol::Command;
use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::{Map, Value};
use tracing::warn;

use super::reserve::Reserve;
use super::sandbox::{Saved, SavedSandbox};

/// The version of its content.
const VERSION: u32 = 1;

/// The mode of a file that an agent could not replace: it lacks what CNI reported since then, and may have
/// what has ended. To set it needs no room. Agents of before do not look at it.
const STALE: u32 = 0o400;

/// The lists of [`Saved`] by their names in the file.
const LISTS: [&str; 3] = ["sandboxes", "released", "held"];

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be read or written.
    #[error("cannot read or write {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// It is not what an agent wrote.
    #[error("{} is not what an agent wrote: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The entries of a list that can be read.
fn readable<T: DeserializeOwned>(what: &str, entries: Vec<Value>) -> Vec<T> {
    let read = entries.into_iter().filter_map(|entry| {
        T::deserialize(&entry).inspect_err(|error| warn!(%error, %entry, "{what} cannot be read, and is left out")).ok()
    });
    read.collect()
}

#[derive(Debug, Serialize)]
struct Content<S> {
    version: u32,
    #[serde(flatten)]
    saved: S,
}

/// The file of an agent's sandboxes.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// What was written last.
    written: Option<Vec<u8>>,
    reserve: Reserve,
    /// The last content is in a file of the reserve.
    is_in_reserve: bool,
}

impl StateFile {
    /// That beside this socket.
    pub(super) fn beside(socket: &Path) -> Self {
        // Not beside the socket: agents of before take what they do not know there for another program's.
        let reserve = Reserve::within(&note::folder(socket));
        Self { path: socket.with_file_name(SANDBOXES), written: None, reserve, is_in_reserve: false }
    }

    /// Reads it. Where there is none, nothing is known.
    pub(super) fn read(&self) -> Result<Saved, Error> {
        let failed = |error| Error::File(self.path.clone(), error);
        let is_stale =
            fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.permissions().mode() & 0o200 == 0);
        let text = match file::read(&self.path, LONGEST_SANDBOXES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
            Err(error) => return Err(failed(error)),
        };
        let wrong = |what: String| Error::Content { path: self.path.clone(), what };
        let mut content: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let version = content.remove("version").unwrap_or_default();
        if version != VERSION {
            return Err(wrong(format!("its version is {version}, and {VERSION} is expected")));
        }
        // Entries that this agent cannot read must not take the others with them.
        let mut lists = [Vec::new(), Vec::new(), Vec::new()];
        for (key, list) in LISTS.into_iter().zip(&mut lists) {
            match content.remove(key) {
                None => {}
                Some(Value::Array(entries)) => *list = entries,
                Some(_) => return Err(wrong(format!("{key} is no list"))),
            }
        }
        let [sandboxes, released, held] = lists;
        let count = sandboxes.len();
        content.retain(|key, value| {
            let alone = Value::Object([(key.clone(), value.clone())].into_iter().collect());
            Saved::deserialize(&alone)
                .inspect_err(|error| warn!(%error, key, "a part of what was saved cannot be read, and is left out"))
                .is_ok()
        });
        let mut saved: Saved = serde_json::from_value(content.into()).map_err(|error| wrong(error.to_string()))?;
        saved.sandboxes = readable("a saved sandbox", sandboxes);
        saved.released = readable("a saved address without a sandbox", released);
        saved.held = readable("a saved address without a sandbox", held).into_iter().collect();
        // An agent before this one may have been given one. It must hold up no other.
        saved.sandboxes.retain(|SavedSandbox { add, .. }| match check(&Command::Add(add.clone())) {
            Ok(()) => true,
            Err(error) => {
                let (namespace, pod) = (&add.namespace, &add.name);
                warn!(
                    namespace,
                    pod, error, "a saved sandbox cannot be used; the pod has the addresses that the API reports"
                );
                false
            }
        });
        if saved.sandboxes.len() < count {
            // It may have some of these, and what CNI reported counts only while its sandbox is known.
            saved.reported_addresses.clear();
            saved.reported.clear();
        }
        // One that is to come is of an earlier start of the node, where the folder outlived that. A DEL
        // of now would be before it.
        let now = Moment::now();
        for sandbox in &mut saved.sandboxes {
            sandbox.began = sandbox.began.min(now);
        }
        // One that no set takes would hold up all others.
        let is_usable = |address: IpAddr, interface: Option<&str>| {
            let is_usable = is_of_a_pod(address) && interface.is_none_or(is_interface);
            if !is_usable {
                warn!(%address, interface, "a saved address without a sandbox cannot be used; it is forgotten");
            }
            is_usable
        };
        saved.released.retain(|(address, link)| is_usable(*address, Some(&link.name)));
        saved.held.retain(|address| is_usable(*address, None));
        saved.is_stale = is_stale;
        Ok(saved)
    }

    /// Writes it, if it holds something else. It is there whole, or as it was; then it is marked, so that
    /// the next agent does not believe all of it.
    pub(super) fn write(&mut self, saved: impl Serialize) -> Result<(), Error> {
        let content = Content { version: VERSION, saved };
        let failed = |error| Error::File(self.path.clone(), error);
        let text = serde_json::to_vec(&content).map_err(|error| failed(error.into()))?;
        if self.written.as_ref() == Some(&text) {
            return Ok(());
        }
        let half = self.path.with_extension("half");
        let written = match file::replace(&self.path, &half, 0o600, &text) {
            Ok(()) => {
                self.is_in_reserve = false;
                self.reserve.keep(text.len());
                Ok(())
            }
            Err(error) => match self.reserve.replace(&self.path, &text) {
                Ok(()) => {
                    if !std::mem::replace(&mut self.is_in_reserve, true) {
                        warn!(
                            %error, file = %self.path.display(),
                            "cannot write a new file; what CNI reported is saved in room that the agent had kept for it"
                        );
                    }
                    Ok(())
                }
                Err(_) => {
                    self.mark();
                    Err(failed(error))
                }
            },
        };
        self.written = written.is_ok().then_some(text);
        written
    }

    /// What is there is not what CNI reported.
    fn mark(&self) {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(&self.path);
        match file.and_then(|file| file.set_permissions(Permissions::from_mode(STALE))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(%error, file = %self.path.display(), "cannot mark what an earlier agent saved as out of date");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = StateFile::beside(&folder.path().join("cni.sock"));
        assert_eq!(file.read().unwrap(), Saved::default());
        let address = "10.0.0.1".parse().unwrap();
        let saved = Saved { reported_addresses: [("u1".to_owned(), [address].into())].into(), ..Saved::default() };
        file.write(saved.clone()).unwrap();
        assert_eq!(file.read().unwrap(), saved);
        let path = folder.path().join(SANDBOXES);
        for damage in ["", "{", "[]", "{}", r#"{"version":2}"#, r#"{"version":1,"sandboxes":{}}"#] {
            fs::write(&path, damage).unwrap();
            assert!(matches!(file.read(), Err(Error::Content { .. })), "{damage}");
        }
        file.write(Saved::default()).unwrap();
        assert_eq!(file.read().unwrap(), Saved::default());
    }

    #[test]
    fn a_part_of_another_form_is_left_out_and_the_sandboxes_stay() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::beside(&folder.path().join("cni.sock"));
        let sandbox =
            r#"{"containerId":"a","interface":"eth0","namespace":"shop","name":"web","addresses":["10.0.0.1"]}"#;
        for part in [r#""reportedAddresses":{"u1":["x"]}"#, r#""reported":7"#, r#""seenNetns":{}"#, r#""later":[]"#] {
            fs::write(folder.path().join(SANDBOXES), format!(r#"{{"version":1,"sandboxes":[{sandbox}],{part}}}"#))
                .unwrap();
            assert_eq!(file.read().unwrap().sandboxes.len(), 1, "{part}");
        }
    }

    #[test]
    fn a_sandbox_whose_address_no_set_takes_is_left_out_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::beside(&folder.path().join("cni.sock"));
        let sandbox = |id: &str, address: &str| {
            format!(
                r#"{{"containerId":"{id}","interface":"eth0","namespace":"shop","name":"web","addresses":["{address}"]}}"#
            )
        };
        let good = sandbox("a", "10.0.0.1");
        for (bad, is_left_out) in [
            (sandbox("b", "0.0.0.0"), true),
            (sandbox("c/../d", "10.0.0.2"), true),
            ("{}".to_owned(), true),
            ("7".to_owned(), true),
            (sandbox("e", "10.0.0.300"), true),
            (sandbox("f", "10.0.0.2"), false),
        ] {
            let text =
                format!(r#"{{"version":1,"sandboxes":[{bad},{good}],"reportedAddresses":{{"u1":["10.0.0.2"]}}}}"#);
            fs::write(folder.path().join(SANDBOXES), text).unwrap();
            let read = file.read().unwrap();
            let ids: Vec<_> = read.sandboxes.iter().map(|saved| saved.add.attachment.container_id.as_str()).collect();
            assert_eq!(ids == ["a"], is_left_out, "{bad}: {ids:?}");
            // Its pod has the address that the API reports.
            assert_eq!(read.reported_addresses.is_empty(), is_left_out, "{bad}");
        }
    }

    #[test]
    fn an_address_without_a_sandbox_that_no_set_takes_is_left_out_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::beside(&folder.path().join("cni.sock"));
        let released = |address: &str, name: &str| format!(r#"["{address}",{{"name":"{name}","index":7}}]"#);
        let released =
            [("10.0.0.1", "veth1"), ("0.0.0.0", "veth2"), ("::1", "veth3"), ("10.0.0.4", "../x"), ("x", "y")]
                .map(|(address, name)| released(address, name))
                .join(",");
        let text = format!(
            r#"{{"version":1,"sandboxes":[],"released":[{released}],"held":["fd00::5","ff02::1","255.255.255.255","x",7]}}"#
        );
        fs::write(folder.path().join(SANDBOXES), text).unwrap();
        let read = file.read().unwrap();
        let released: Vec<String> = read.released.iter().map(|(address, _)| address.to_string()).collect();
        assert_eq!(released, ["10.0.0.1"]);
        assert_eq!(read.held, ["fd00::5".parse().unwrap()].into());
    }

    /// Names what no new file can replace: as on a file system that is full.
    fn obstruct(folder: &Path) {
        fs::create_dir(folder.join("sandboxes.half")).unwrap();
    }

    fn reported(count: u8) -> Saved {
        let addresses = (0..count).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        Saved { reported_addresses: [("u1".to_owned(), addresses)].into(), ..Saved::default() }
    }

    #[test]
    fn what_cannot_be_written_anew_is_written_into_room_that_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = StateFile::beside(&folder.path().join("cni.sock"));
        file.write(reported(1)).unwrap();
        obstruct(folder.path());
        // Longer, shorter, and by the agent that follows.
        for agent in 0..2 {
            for count in [200, 3, 100, 0] {
                file.write(reported(count)).unwrap();
                assert_eq!(file.read().unwrap(), reported(count), "{agent}");
            }
            file = StateFile::beside(&folder.path().join("cni.sock"));
        }
        fs::remove_dir(folder.path().join("sandboxes.half")).unwrap();
        file.write(reported(7)).unwrap();
        let length = fs::metadata(folder.path().join(SANDBOXES)).unwrap().len();
        assert!(length < 1_000, "{length} bytes: what is kept is no part of a file that can be written anew");
        fs::remove_file(folder.path().join(SANDBOXES)).unwrap();
        obstruct(folder.path());
        file.write(reported(8)).unwrap();
        assert_eq!(file.read().unwrap(), reported(8));
    }

    #[test]
    fn what_cannot_be_written_at_all_leaves_what_was_there_with_a_mark() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = StateFile::beside(&folder.path().join("cni.sock"));
        file.write(reported(1)).unwrap();
        let notes = note::folder(&folder.path().join("cni.sock"));
        fs::remove_dir_all(&notes).unwrap();
        obstruct(folder.path());
        assert!(file.write(reported(2)).is_err());
        assert_eq!(file.read().unwrap(), Saved { is_stale: true, ..reported(1) });
        // The same again is not what is there.
        assert!(file.write(reported(1)).is_err());
        fs::remove_dir(folder.path().join("sandboxes.half")).unwrap();
        file.write(reported(1)).unwrap();
        assert_eq!(file.read().unwrap(), reported(1));
    }
}
