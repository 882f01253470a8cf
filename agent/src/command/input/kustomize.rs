//! Kustomizations, as kubectl builds them.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use npc_agent::source::manifests::Text;

use crate::command::{Exit, Stop};

/// What `kubectl kustomize` makes of a directory.
pub(super) fn render(folder: &Path) -> Result<Text, Stop> {
    let command = format!("kubectl kustomize {}", folder.display());
    let words = [OsStr::new("kustomize"), folder.as_os_str()];
    let output = Command::new("kubectl").args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| {
        let message = match error.kind() {
            io::ErrorKind::NotFound => {
                format!("-k needs kubectl, which is not on the PATH; where it is, run: {command} | npc … -f -")
            }
            _ => format!("cannot run {command}: {error}"),
        };
        Stop::new(Exit::Input, message)
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Stop::new(Exit::Input, format!("{command} failed, so nothing was judged: {}", said.trim())));
    }
    Ok(Text { name: command, bytes: output.stdout })
}
