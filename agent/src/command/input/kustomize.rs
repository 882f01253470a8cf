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
        return Err(Stop::new(Exit::Input, format!("{command} failed, so nothing was judged: {}", without_log(&said))));
    }
    Ok(Text { name: command, bytes: output.stdout })
}

/// What kubectl says in the lines of its log: there the error is the field `err`, and what stands before it
/// names a place in kubectl's own source.
fn without_log(said: &str) -> String {
    let of_line = |line: &str| {
        let (head, rest) = line.split_once("] ")?;
        let is_log = head.starts_with(['E', 'F', 'W']) && head.get(1..5)?.bytes().all(|byte| byte.is_ascii_digit());
        let (_, error) = rest.split_once("err=").filter(|_| is_log)?;
        Some(serde_json::from_str(error).unwrap_or_else(|_| error.trim_matches('"').to_owned()))
    };
    let lines = said.trim().lines().map(|line| of_line(line).unwrap_or_else(|| line.to_owned()));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_log_of_kubectl_the_error_is_shown() {
        let log =
            r#"E1130 03:45:02.031762   11615 run.go:72] "command failed" err="accumulating \"base\": no such file""#;
        assert_eq!(without_log(log), r#"accumulating "base": no such file"#);
        assert_eq!(without_log("error: no kustomization\n"), "error: no kustomization");
        assert_eq!(without_log("Error [x] err=no"), "Error [x] err=no");
    }
}
