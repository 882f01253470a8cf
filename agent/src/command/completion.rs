//! `npc completion`: what a shell has to know to complete npc's words.
//!
//! The script asks npc itself for each word, so that flags and their values are those of
//! the installed version, and endpoints those of the input that the line names.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;

use clap::Parser;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::Shells;

use super::{Exit, endpoint, input, output};

/// Print the script by which a shell completes npc's commands, flags and endpoints.
///
/// bash: source <(npc completion bash). zsh: source <(npc completion zsh).
/// fish: npc completion fish | source.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The variable by which the script asks npc for words. Its name is npc's own, so that
/// another program's variable never keeps an agent from starting.
pub(super) const VARIABLE: &str = "NPC_COMPLETE";

/// Prints the script.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let name = match args.shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let shells = Shells::builtins();
    let Some(shell) = shells.completer(name) else { anyhow::bail!("there is no script for {name}") };
    let mut out = output::raw();
    shell.write_registration(VARIABLE, "npc", "npc", "npc", &mut out)?;
    out.flush()?;
    Ok(Exit::Fine)
}

/// The flags that say where the objects come from; each has a value.
const INPUT_FLAGS: [&str; 8] =
    ["-f", "--filename", "-k", "--kustomize", "-n", "--namespace", "--context", "--kubeconfig"];

/// How long a cluster may take to answer while a shell waits for a word.
const PATIENCE: &str = "2s";

#[derive(Debug, Parser)]
struct OnlyInput {
    #[command(flatten)]
    input: input::Args,
}

/// The endpoints that a word may become, in the input that the line names so far.
pub(super) fn endpoints(word: &OsStr) -> Vec<CompletionCandidate> {
    let Some(word) = word.to_str() else { return Vec::new() };
    let line = env::args_os().skip_while(|arg| arg != "--").skip(2);
    let flags = input_flags(line);
    let Ok(OnlyInput { input }) = OnlyInput::try_parse_from(flags) else { return Vec::new() };
    let Ok(input) = input.read_quietly() else { return Vec::new() };
    let names = endpoint::names(&input).into_iter().chain(["any".to_owned(), "outside".to_owned()]);
    names.filter(|name| name.starts_with(word)).map(CompletionCandidate::new).collect()
}

/// The words of a line that say where the objects come from.
fn input_flags(line: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut flags: Vec<OsString> = vec!["npc".into(), "--request-timeout".into(), PATIENCE.into()];
    let mut line = line.peekable();
    while let Some(word) = line.next() {
        let text = word.to_string_lossy();
        let joined = INPUT_FLAGS.iter().any(|flag| {
            let rest = text.strip_prefix(flag).unwrap_or_default();
            if flag.starts_with("--") { rest.starts_with('=') } else { !rest.is_empty() }
        });
        if joined {
            flags.push(word);
        } else if INPUT_FLAGS.contains(&&*text)
            && let Some(value) = line.next()
        {
            flags.extend([word, value]);
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_is_that_of_the_line() {
        let line =
            "explain -f a.yaml --context=x web -n shop -kprod --exit-zero --namespace".split(' ').map(OsString::from);
        let expected = "npc --request-timeout 2s -f a.yaml --context=x -n shop -kprod".split(' ').map(OsString::from);
        assert_eq!(input_flags(line), expected.collect::<Vec<_>>());
    }
}
