//! Whether something on the node may still call the plugin.
//!
//! A runtime may call DEL with the configuration that it kept at ADD: libcni keeps it under
//! `/var/lib/cni`, as base64 inside JSON, and so does Multus. While a file there names the
//! plugin, the plugin stays, because a DEL that does not find it fails for ever.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::conflist::TYPE;

/// How many files are read. A node has some for each sandbox.
const MOST_FILES: usize = 100_000;

/// How deep folders are read.
const DEEPEST: usize = 6;

/// How long a file may be that is read, in bytes.
const LONGEST: u64 = 4 << 20;

/// What keeps the plugin in place: a file that names it, or that cannot be read. `None` if
/// nothing does.
#[must_use]
pub fn first_reference(folders: &[PathBuf]) -> Option<PathBuf> {
    let needles = needles();
    let mut left = MOST_FILES;
    folders.iter().find_map(|folder| in_folder(folder, &needles, DEEPEST, &mut left))
}

/// The plugin's name as it is, and as base64 has it behind any number of bytes.
fn needles() -> Vec<Vec<u8>> {
    let encoded = (0..3).map(|before| {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(TYPE.as_bytes());
        let text = STANDARD_NO_PAD.encode(&bytes);
        // Without the characters that other bytes have a part in.
        let (first, last) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        text.as_bytes()[first..last].to_vec()
    });
    encoded.chain([TYPE.as_bytes().to_vec()]).collect()
}

fn in_folder(folder: &Path, needles: &[Vec<u8>], depth: usize, left: &mut usize) -> Option<PathBuf> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        // What cannot be read may name it.
        Err(_) => return Some(folder.to_owned()),
    };
    for entry in entries {
        let Ok(entry) = entry else { return Some(folder.to_owned()) };
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() {
            if depth == 0 {
                return Some(path);
            }
            if let Some(found) = in_folder(&path, needles, depth - 1, left) {
                return Some(found);
            }
        } else if kind.is_file() {
            let Some(fewer) = left.checked_sub(1) else { return Some(path) };
            *left = fewer;
            if names_it(&path, needles) {
                return Some(path);
            }
        }
    }
    None
}

fn names_it(path: &Path, needles: &[Vec<u8>]) -> bool {
    // OpenShift has its plugins below this folder.
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > LONGEST || path.ends_with(TYPE) => return false,
        Ok(_) => {}
        Err(error) => return error.kind() != std::io::ErrorKind::NotFound,
    }
    match fs::read(path) {
        Ok(bytes) => needles.iter().any(|needle| bytes.windows(needle.len()).any(|part| part == needle)),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn a_cached_configuration_is_found_however_it_is_written() {
        let temp = tempfile::tempdir().unwrap();
        let folders = [temp.path().to_owned(), temp.path().join("missing")];
        let results = temp.path().join("results");
        fs::create_dir(&results).unwrap();
        fs::write(results.join("host-local"), "10.0.0.2").unwrap();
        let without = STANDARD.encode(r#"{"plugins":[{"type":"npc-cn"},{"type":"pc-cni"}]}"#);
        fs::write(results.join("other"), format!(r#"{{"config":"{without}"}}"#)).unwrap();
        assert_eq!(first_reference(&folders), None);
        for before in 0..7 {
            for after in 0..4 {
                let (before, after) = ("x".repeat(before), "y".repeat(after));
                let config = STANDARD.encode(format!(r#"{{"{before}":[{{"type":"npc-cni"}}]{after}"#));
                let file = results.join("azure-4f3-eth0");
                fs::write(&file, format!(r#"{{"kind":"cniCacheV1","config":"{config}"}}"#)).unwrap();
                assert_eq!(first_reference(&folders), Some(file.clone()), "{config}");
                fs::remove_file(file).unwrap();
            }
        }
        let multus = temp.path().join("multus");
        fs::create_dir(&multus).unwrap();
        fs::write(multus.join("4f3"), r#"[{"Conf":{"type":"npc-cni"}}]"#).unwrap();
        assert_eq!(first_reference(&folders), Some(multus.join("4f3")));
    }
}
