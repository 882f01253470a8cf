//! `npc completion`: what a shell has to know to complete npc's words.
//!
//! The script asks npc itself for each word, so that flags and their values are those of
//! the installed version, and endpoints those of the input that the line names.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;

use clap::Parser;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::Shells;

use super::input::Input;
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
    let Some(line) = CommandLine::read(word, |_| {}) else { return Vec::new() };
    line.beginning(line.endpoints())
}

/// What a word may become that is asked about alone: endpoints, and policies.
pub(super) fn endpoints_and_policies(word: &OsStr) -> Vec<CompletionCandidate> {
    let Some(line) = CommandLine::read(word, |_| {}) else { return Vec::new() };
    line.beginning(line.endpoints()).into_iter().chain(line.beginning(line.policies())).collect()
}

/// The namespaces that a word may become.
pub(super) fn namespaces(word: &OsStr) -> Vec<CompletionCandidate> {
    // The line names the namespace by the word that is not whole yet.
    let Some(line) = CommandLine::read(word, input::Args::forget_namespace) else { return Vec::new() };
    line.beginning(line.input.cluster.namespaces().cloned().collect())
}

/// A line with a word that is not whole yet.
struct CommandLine<'w> {
    word: &'w str,
    /// The input that it names so far.
    input: Input,
    /// Whether a name without its namespace is meant: the word has begun, or the line names the namespace.
    is_in_namespace: bool,
}

impl<'w> CommandLine<'w> {
    /// Reads the input of npc's own line, whose flags may be changed before.
    fn read(word: &'w OsStr, change: impl FnOnce(&mut input::Args)) -> Option<Self> {
        let word = word.to_str()?;
        let line = env::args_os().skip_while(|arg| arg != "--").skip(2);
        let OnlyInput { input: mut args } = OnlyInput::try_parse_from(input_flags(line)).ok()?;
        change(&mut args);
        let is_in_namespace = !word.is_empty() || args.only_namespace().is_some();
        Some(Self { word, input: args.read_names().ok()?, is_in_namespace })
    }

    fn endpoints(&self) -> BTreeSet<String> {
        let names = endpoint::names(&self.input);
        let short = names.iter().filter_map(|name| name.strip_prefix(&self.input.namespace)?.strip_prefix('/'));
        let short: Vec<String> = short.filter(|_| self.is_in_namespace).flat_map(in_its_namespace).collect();
        names.into_iter().chain(short).chain(["any".to_owned(), "outside".to_owned()]).collect()
    }

    fn policies(&self) -> BTreeSet<String> {
        let names = self.input.cluster.policies().flat_map(|(_, policy)| {
            let is_short = self.is_in_namespace && policy.namespace == self.input.namespace;
            let short = is_short.then(|| format!("netpol/{}", policy.name));
            short.into_iter().chain([format!("{}/netpol/{}", policy.namespace, policy.name)])
        });
        names.collect()
    }

    /// Those of these names that the word may become.
    fn beginning(&self, names: BTreeSet<String>) -> Vec<CompletionCandidate> {
        names.into_iter().filter(|name| name.starts_with(self.word)).map(CompletionCandidate::new).collect()
    }
}

/// `TYPE/NAME` as one may write it in its own namespace: a Service needs its type.
fn in_its_namespace(name: &str) -> Vec<String> {
    let bare = name.split_once('/').filter(|(kind, _)| *kind != "svc").map(|(_, name)| name.to_owned());
    bare.into_iter().chain([name.to_owned()]).collect()
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
    fn in_its_namespace_only_a_service_needs_its_type() {
        assert_eq!(in_its_namespace("deploy/web"), ["web", "deploy/web"]);
        assert_eq!(in_its_namespace("svc/web"), ["svc/web"]);
    }

    #[test]
    fn the_input_is_that_of_the_line() {
        let line =
            "explain -f a.yaml --context=x web -n shop -kprod --exit-zero --namespace".split(' ').map(OsString::from);
        let expected = "npc --request-timeout 2s -f a.yaml --context=x -n shop -kprod".split(' ').map(OsString::from);
        assert_eq!(input_flags(line), expected.collect::<Vec<_>>());
    }
}
