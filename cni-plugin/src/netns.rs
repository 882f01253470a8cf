//! The network namespace of a container, and whether it is still there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

/// A network namespace as it was when the plugin began.
///
/// A plugin may outlive the runtime that started it. The runtime that follows removes the sandbox,
/// and the network gives its address to the next pod. What this plugin then reports is no longer so.
#[derive(Debug)]
pub(crate) struct Netns<'a> {
    path: &'a str,
    /// Which file is there; none if the plugin could not see it.
    file: Option<(u64, u64)>,
}

impl<'a> Netns<'a> {
    /// The one at this path, as it is now.
    pub(crate) fn at(path: &'a str) -> Self {
        Self { path, file: fs::metadata(path).ok().as_ref().map(identity) }
    }

    /// Whether it was there and is not there any more. The path may lead to another file: a
    /// runtime mounts the namespace there, and what is below shows when it is unmounted.
    pub(crate) fn is_gone(&self) -> bool {
        let Some(file) = self.file else { return false };
        match fs::metadata(self.path) {
            Ok(metadata) => identity(&metadata) != file,
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_there_is_gone_with_its_file_and_one_that_was_never_seen_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["pod", "other"].map(|name| folder.path().join(name));
        let text = path.to_str().unwrap();
        assert!(!Netns::at(text).is_gone(), "it was never there");
        fs::write(&path, "").unwrap();
        let netns = Netns::at(text);
        assert!(!netns.is_gone());
        fs::write(&other, "").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(netns.is_gone(), "another file");
        fs::remove_file(&path).unwrap();
        assert!(netns.is_gone());
        assert!(!Netns::at("/proc/self/ns/net").is_gone());
    }
}
