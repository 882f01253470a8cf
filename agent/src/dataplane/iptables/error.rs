//! Why the filter table could not be read or written, in words.

use std::time::Duration;

use npc_compiler::object::Family;
use npc_compiler::ruleset::text::{rules, target};

use super::lock::Holder;
use super::native::ForeignForward;
use crate::dataplane::nftables;
use crate::dataplane::programs::{backend, process};
use crate::words::rounded::rounded;

/// The exit code with which iptables says that it gave up waiting, and the
/// words that go with it; nft uses the same code for what the kernel refuses.
pub(super) const RESOURCE_PROBLEM: i32 = 4;
pub(super) const LOCK_WORDS: &str = "holding the xtables lock";

/// Why the filter table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A restore was refused; nothing of it is in the kernel.
    #[error("{command} refused {}: {message}{}", .place, explained(.message))]
    Restore {
        /// The command.
        command: &'static str,
        /// Which line of its input.
        place: RefusedLine,
        /// What it said.
        message: String,
    },
    /// Another program kept the xtables lock.
    #[error("waited {} for the xtables lock, which {} holds", rounded(*.waited), words(.holder.as_ref()))]
    Locked {
        /// For how long.
        waited: Duration,
        /// The process that keeps it, if that is known.
        holder: Option<Holder>,
    },
    /// A single command failed.
    #[error("{command} {arguments} failed: {message}{}", explained(.message))]
    Command {
        /// The command.
        command: &'static str,
        /// Its arguments.
        arguments: String,
        /// What it said.
        message: String,
    },
    /// A table was not printed to its end, because of a rule of another program.
    #[error(
        "{command} stopped at a rule of another program in {family}'s table filter: {message}{}; is there a rule in it \
         that needs an extension which is not installed beside the agent?",
        explained(.message)
    )]
    Unreadable {
        /// The command.
        command: &'static str,
        /// The family.
        family: Family,
        /// What it said.
        message: String,
        /// What it had printed before.
        printed: String,
    },
    /// No packet that is forwarded would meet our rules where they belong.
    #[error(
        "{family} cannot be enforced: {found}. What npc has written of {family} stays as it is, and the other family is \
         enforced. Remove what that program made (`nft list table {} filter` shows it), or have it use a table of its own",
        nft_name(*.family)
    )]
    ForeignForward {
        /// The family.
        family: Family,
        /// What is there instead.
        found: ForeignForward,
    },
    /// nf_tables could not be asked, or refused a write.
    #[error("nf_tables of {family}: {source}")]
    Kernel {
        /// The family.
        family: Family,
        /// What failed.
        source: nftables::Error,
    },
    /// A command could not be run.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The commands are not there.
    #[error(transparent)]
    Backend(#[from] backend::Error),
}

/// The line of a restore that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedLine {
    /// Its number, from 1, where the command printed it.
    pub number: Option<usize>,
    /// Its text, where it could be found.
    pub line: Option<String>,
}

impl std::fmt::Display for RefusedLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.number, &self.line) {
            (Some(number), Some(line)) => write!(f, "line {number} (`{line}`)"),
            (Some(number), None) => write!(f, "line {number}"),
            (None, _) => f.write_str("its input"),
        }
    }
}

/// The process that holds the lock, in words. Without the host's process ids they are
/// nowhere to be seen.
fn words(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "another program".to_owned(), ToString::to_string)
}

/// Whether a message says that there is no such chain.
pub(super) fn is_no_chain(message: &str) -> bool {
    message.contains("No chain/target/match by that name")
}

/// Whether a message says that there is no such rule.
pub(super) fn is_no_rule(message: &str) -> bool {
    // What `-C` says; of a chain or target that is not there it says the same.
    message.contains("Bad rule") || is_no_chain(message)
}

/// Whether iptables cannot print a chain, because it does not know what a rule in it does. Some
/// versions say the same about a chain that is not there (1.8.7, 1.8.9).
pub(super) fn is_unreadable(message: &str) -> bool {
    ["is incompatible, use 'nft' tool", "Parsing nftables rule failed", "Can't find library for"]
        .iter()
        .any(|words| message.contains(words))
}

/// A family as nft names it.
const fn nft_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// What a message of iptables means for us, where it does not say so itself.
fn explained(message: &str) -> &'static str {
    let meanings = [
        ("Couldn't load match", " (this kernel or iptables lacks the match)"),
        ("Couldn't load target", " (a chain that the rule leads to is not there)"),
        ("doesn't exist.", " (another program removed the set)"),
        ("Too many links", " (chains lead to chains more deeply than nft takes)"),
        ("Device or resource busy", " (a rule of another program still leads to the chain)"),
        ("RULE_APPEND failed (No such file", " (the kernel lacks what the rule asks for)"),
        ("is incompatible, use 'nft' tool", " (another program wrote a rule with nft that iptables cannot read)"),
        ("Permission denied", " (npc needs root, or CAP_NET_ADMIN and CAP_NET_RAW)"),
        ("Can't open socket", " (npc needs root, or CAP_NET_ADMIN and CAP_NET_RAW)"),
    ];
    meanings.iter().find(|(words, _)| message.contains(words)).map_or("", |(_, meaning)| meaning)
}

/// The line of a restore's input that a failed restore complains about.
///
/// Parsing errors say `Error occurred at line: 3`, legacy's commit says `line 3
/// failed` and nft's `line 3: CHAIN_DEL failed`. What is found out only at the
/// end is blamed on the COMMIT line, and the message names the chain.
pub(super) fn place(text: &str, stderr: &str) -> RefusedLine {
    let number = stderr.match_indices("line").find_map(|(at, word)| {
        let rest = stderr[at + word.len()..].trim_start_matches([':', ' ']);
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse::<usize>().ok()
    });
    let line = |number: usize| text.lines().nth(number.checked_sub(1)?).map(str::to_owned);
    match number.and_then(line) {
        Some(line) if line == "COMMIT" => {
            let named = stderr.split(['\'', '`']).nth(1);
            let leads_to = |line: &str, name| rules(line).any(|(_, rule)| target(rule).as_deref() == Some(name));
            let culprit = named.and_then(|name| text.lines().enumerate().find(|(_, line)| leads_to(line, name)));
            match culprit {
                Some((index, line)) => RefusedLine { number: Some(index + 1), line: Some(line.to_owned()) },
                None => RefusedLine { number, line: Some(line) },
            }
        }
        line => RefusedLine { number, line },
    }
}

/// What a command said, in one line, without its name and its advice.
pub(super) fn message(stderr: &str) -> String {
    let said = stderr.lines().map(str::trim).filter(|line| {
        !(line.is_empty()
            || line.starts_with("Try `")
            || line.starts_with("Error occurred at")
            || line.starts_with('#'))
    });
    let words: Vec<&str> = said
        .map(|line| match line.split_once("): ") {
            Some((tool, rest)) if tool.starts_with("ip") => rest,
            _ => line,
        })
        // nft puts its name on a line of its own.
        .filter(|line| !(line.starts_with("ip") && line.ends_with("):")))
        .collect();
    if words.is_empty() { "no reason given".to_owned() } else { words.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "*filter\n:NPC-Y - [0:0]\n-A NPC-Y -j NPC-NOSUCH\nCOMMIT\n";

    fn placed(stderr: &str) -> (Option<usize>, Option<String>) {
        let place = place(TEXT, stderr);
        (place.number, place.line)
    }

    #[test]
    fn the_refused_line_is_found_in_every_form_of_complaint() {
        let third = (Some(3), Some("-A NPC-Y -j NPC-NOSUCH".to_owned()));
        let parsed = "iptables-nft-restore v1.8.9 (nf_tables): Couldn't load match `x':No such file\n\n\
                      Error occurred at line: 3\nTry `iptables-nft-restore -h' for more information.\n";
        assert_eq!(placed(parsed), third);
        assert_eq!(placed("iptables-restore: line 3 failed\n"), third);
        assert_eq!(
            placed("iptables-nft-restore v1.8.9 (nf_tables): \nline 3: CHAIN_DEL failed (Busy): chain X"),
            third
        );
        let at_commit = "iptables-nft-restore v1.8.9 (nf_tables): Chain 'NPC-NOSUCH' does not exist\n\
                         Error occurred at line: 4\n";
        assert_eq!(placed(at_commit), third);
        assert_eq!(placed("no number"), (None, None));
        assert_eq!(placed("line 99 failed"), (Some(99), None));
    }

    #[test]
    fn a_message_is_one_line_without_the_tools_name_and_advice() {
        let stderr = "iptables-restore v1.8.9 (legacy): Set x doesn't exist.\n\nError occurred at line: 8\nTry `x'.\n";
        assert_eq!(message(stderr), "Set x doesn't exist.");
        let stderr = "iptables-nft-restore v1.8.9 (nf_tables): \nline 2: CHAIN_DEL failed (Device or resource busy)\n";
        assert_eq!(message(stderr), "line 2: CHAIN_DEL failed (Device or resource busy)");
        assert_eq!(message(""), "no reason given");
    }
}
