//! The name by which npc was called, in hints: as `kubectl-npc` on the PATH it is `kubectl npc`, and a
//! reader who copies a command from an answer may have no `npc`.

use std::borrow::Cow;
use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::sync::LazyLock;

/// What people type before a command.
pub(super) fn program() -> &'static str {
    static PROGRAM: LazyLock<&str> = LazyLock::new(|| {
        let program = env::args_os().next().unwrap_or_default();
        let program = Path::new(&program).file_stem().unwrap_or_default();
        if program == "kubectl-npc" || program == "kubectl_npc" { "kubectl npc" } else { "npc" }
    });
    *PROGRAM
}

/// The commands that texts name.
const COMMANDS: [&str; 11] =
    ["agent", "cleanup", "compile", "explain", "lint", "matrix", "migrate", "reason", "schema", "status", "why"];

/// A text whose commands have the name by which npc was called.
pub(super) fn as_called(text: &str) -> Cow<'_, str> {
    named(text, program())
}

fn named<'t>(text: &'t str, program: &str) -> Cow<'t, str> {
    if program == "npc" {
        return Cow::Borrowed(text);
    }
    let mut pieces = text.split("npc ").peekable();
    let mut whole = String::with_capacity(text.len());
    while let Some(piece) = pieces.next() {
        whole.push_str(piece);
        let Some(next) = pieces.peek() else { break };
        let is_word = !whole.ends_with(|before: char| before.is_alphanumeric() || "-_./".contains(before));
        let command = next.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
        // Where npc is read from a pipe, no command follows.
        let is_command = COMMANDS.contains(&command) || next.starts_with('…');
        let is_named = whole.ends_with("kubectl ");
        whole.push_str(if is_word && is_command && !is_named { program } else { "npc" });
        whole.push(' ');
    }
    Cow::Owned(whole)
}

/// Writes text for people, line by line, with the name by which npc was called.
pub(super) struct AsCalled<W: Write> {
    out: W,
    /// The begin of a line that is not complete.
    line: Vec<u8>,
}

impl<W: Write> AsCalled<W> {
    pub(super) const fn new(out: W) -> Self {
        Self { out, line: Vec::new() }
    }

    /// Writes this many of the kept bytes.
    fn write_kept(&mut self, length: usize) -> io::Result<()> {
        let rest = self.line.split_off(length);
        let text = String::from_utf8_lossy(&self.line);
        let done = self.out.write_all(as_called(&text).as_bytes());
        self.line = rest;
        done
    }
}

impl<W: Write> Write for AsCalled<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if program() == "npc" {
            return self.out.write(bytes);
        }
        self.line.extend_from_slice(bytes);
        if let Some(end) = self.line.iter().rposition(|byte| *byte == b'\n') {
            self.write_kept(end + 1)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_kept(self.line.len())?;
        self.out.flush()
    }
}

impl<W: Write> Drop for AsCalled<W> {
    fn drop(&mut self) {
        // As a buffer does: who wants to know of errors flushes before.
        drop(self.write_kept(self.line.len()));
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{COMMANDS, named};
    use crate::command::Cli;

    #[test]
    fn each_command_that_a_text_can_name_is_known() {
        // What follows `npc` in a sentence may be one of these words too, and no text names these commands.
        const WORDS: [&str; 5] = ["completion", "help", "install-cni", "man", "version"];
        let npc = Cli::command();
        let mut names: Vec<&str> = npc.get_subcommands().map(clap::Command::get_name).collect();
        names.retain(|name| !WORDS.contains(name));
        names.sort_unstable();
        assert_eq!(names, COMMANDS);
    }

    #[test]
    fn commands_in_texts_have_the_name_by_which_npc_was_called() {
        for (text, expected) in [
            ("npc explain SRC DST shows how", "kubectl npc explain SRC DST shows how"),
            ("ask npc why 10.0.0.1, or `npc lint`", "ask kubectl npc why 10.0.0.1, or `kubectl npc lint`"),
            ("helm template . | npc … -f -", "helm template . | kubectl npc … -f -"),
            ("npc judges NetworkPolicies only", "npc judges NetworkPolicies only"),
            ("kubectl npc explain a b", "kubectl npc explain a b"),
            ("the folder /etc/npc explain", "the folder /etc/npc explain"),
            ("npc: there is no pod", "npc: there is no pod"),
        ] {
            assert_eq!(named(text, "kubectl npc"), expected);
            assert_eq!(named(text, "npc"), text);
        }
    }
}
