//! The filter table of one backend and family: chains in bulk by one
//! `iptables-restore`, the hook by single commands.

use std::collections::{BTreeMap, BTreeSet};
use std::error;

use npc_compiler::object::Family;
use npc_compiler::plan::ChainWrites;
use npc_compiler::program::{CHAIN_PREFIX, ChainName, FORWARD_CHAIN};

use super::backend::{self, Backend, Commands};
use super::process;

/// How long, in seconds, one command waits for the xtables lock before it
/// gives up and the agent's own retry takes over.
const LOCK_WAIT: u32 = 10;

/// The exit code with which iptables says that it gave up waiting, and the
/// words that go with it; nft uses the same code for what the kernel refuses.
const RESOURCE_PROBLEM: i32 = 4;
const LOCK_WORDS: &str = "holding the xtables lock";

/// Why the filter table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A restore was refused; nothing of it is in the kernel.
    #[error("{command} refused {}: {message}{}", .place, explained(.message))]
    Restore {
        /// The command.
        command: &'static str,
        /// Which line of its input.
        place: Place,
        /// What it said.
        message: String,
    },
    /// Another program kept the xtables lock.
    #[error("{command} waited {seconds} s for the xtables lock, which another program holds")]
    Locked {
        /// For how long.
        seconds: u32,
        /// The command.
        command: &'static str,
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
    /// A command could not be run.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The commands are not there.
    #[error(transparent)]
    Backend(#[from] backend::Error),
}

/// The line of a restore that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 1, where the command told it.
    pub number: Option<usize>,
    /// Its text, where it could be found.
    pub line: Option<String>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.number, &self.line) {
            (Some(number), Some(line)) => write!(f, "line {number} (`{line}`)"),
            (Some(number), None) => write!(f, "line {number}"),
            (None, _) => f.write_str("its input"),
        }
    }
}

/// What a message of iptables means for us, where it does not say so itself.
fn explained(message: &str) -> &'static str {
    let meanings = [
        ("Couldn't load match", " (this kernel or iptables lacks the match)"),
        ("Couldn't load target", " (a chain that the rule leads to is not there)"),
        ("doesn't exist.", " (somebody else removed the set)"),
        ("Too many links", " (chains lead to chains more deeply than nft takes)"),
        ("Device or resource busy", " (a rule of somebody else still leads to the chain)"),
        ("RULE_APPEND failed (No such file", " (the kernel lacks what the rule asks for)"),
        (
            "is incompatible, use 'nft' tool",
            " (somebody wrote to the table with nft, and iptables cannot read it any more)",
        ),
        ("Permission denied", " (npc needs root, or CAP_NET_ADMIN and CAP_NET_RAW)"),
        ("Can't open socket", " (npc needs root, or CAP_NET_ADMIN and CAP_NET_RAW)"),
    ];
    meanings.iter().find(|(words, _)| message.contains(words)).map_or("", |(_, meaning)| meaning)
}

/// Where the jump to our chains stands in FORWARD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// It is the first rule, and there once.
    First,
    /// It is there so many times and not, or not only, as the first rule.
    Displaced(usize),
    /// It is not there.
    Absent,
}

/// The filter table of one backend and family in the network namespace of the
/// calling thread.
#[derive(Debug, Clone)]
pub struct Iptables {
    backend: Backend,
    family: Family,
    commands: Commands,
    lock_wait: u32,
}

impl Iptables {
    /// The filter table behind the installed commands of a backend.
    ///
    /// # Errors
    /// If they are not installed.
    pub fn new(backend: Backend, family: Family) -> Result<Self, Error> {
        Ok(Self { backend, family, commands: Commands::find(backend, family)?, lock_wait: LOCK_WAIT })
    }

    /// The same table, with another wait for the xtables lock, in seconds.
    #[must_use]
    pub fn with_lock_wait(self, seconds: u32) -> Self {
        Self { lock_wait: seconds, ..self }
    }

    /// The backend.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Writes text of `iptables-save`'s form over what is there, all at once or
    /// not at all; chains that the text does not declare are left alone.
    ///
    /// # Errors
    /// If it is refused, with the line that was, or the lock is kept too long.
    pub fn restore(&self, text: &str) -> Result<(), Error> {
        let command = self.commands.restore;
        let output = process::run(command, &["--noflush", "--wait", &self.lock_wait.to_string()], text)?;
        if output.code == Some(0) {
            return Ok(());
        }
        if output.code == Some(RESOURCE_PROBLEM) && output.stderr.contains(LOCK_WORDS) {
            return Err(self.locked(command));
        }
        Err(Error::Restore { command, place: place(text, &output.stderr), message: message(&output.stderr) })
    }

    /// Writes and deletes chains, all in one commit. A chain that a rule of
    /// somebody else leads to cannot be deleted, and must not hold up the rest:
    /// it is emptied, which does as little, and answered with the reason.
    ///
    /// # Errors
    /// As [`Iptables::restore`].
    pub fn write(&self, writes: &ChainWrites) -> Result<Vec<(ChainName, Error)>, Error> {
        match self.restore(&writes.restore_text()) {
            Err(Error::Restore { .. }) if !writes.delete.is_empty() => {}
            answer => return answer.map(|()| Vec::new()),
        }
        let mut emptied = ChainWrites { delete: BTreeSet::new(), ..writes.clone() };
        emptied.replace.extend(writes.delete.iter().map(|chain| (chain.clone(), Vec::new())));
        self.restore(&emptied.restore_text())?;
        let mut stuck = Vec::new();
        for chain in &writes.delete {
            let one = ChainWrites { delete: BTreeSet::from([chain.clone()]), ..ChainWrites::default() };
            match self.restore(&one.restore_text()) {
                Ok(()) => {}
                Err(error @ Error::Restore { .. }) => stuck.push((chain.clone(), error)),
                Err(error) => return Err(error),
            }
        }
        Ok(stuck)
    }

    /// Our chains and their rules, in the words of `iptables-save`.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn chains(&self) -> Result<BTreeMap<ChainName, Vec<String>>, Error> {
        let output = process::run(self.commands.save, &["-t", "filter"], "")?;
        if output.code != Some(0) {
            return Err(Error::Command {
                command: self.commands.save,
                arguments: "-t filter".to_owned(),
                message: message(&output.stderr),
            });
        }
        Ok(our_chains(&output.stdout))
    }

    /// Where the jump to our chains stands.
    ///
    /// # Errors
    /// If FORWARD cannot be listed.
    pub fn hook(&self) -> Result<Hook, Error> {
        let listed = self.single("-S FORWARD", |tool, wait| tool.execute("filter", &format!("-S FORWARD {wait}")))?;
        if !listed.status.success() {
            return Err(self.refused("-S FORWARD", &String::from_utf8_lossy(&listed.stderr)));
        }
        Ok(hook(&String::from_utf8_lossy(&listed.stdout)))
    }

    /// Puts the jump to our chains first in FORWARD, whatever became of it, and
    /// answers where it was. There is never a moment without it, and nothing of
    /// others is touched.
    ///
    /// # Errors
    /// If FORWARD cannot be read or written, or our chains are not there.
    pub fn put_hook_first(&self) -> Result<Hook, Error> {
        let found = self.hook()?;
        match found {
            Hook::First => {}
            Hook::Absent => {
                let rule = hook_rule();
                self.single(&format!("-I FORWARD 1 {rule}"), |tool, wait| {
                    tool.insert("filter", "FORWARD", &format!("{rule} {wait}"), 1)
                })?;
            }
            // By the rule and not by its number, which others' writes shift; so
            // the old ones go before the new one comes, in one commit.
            Hook::Displaced(copies) => {
                let delete = format!("-D FORWARD {}\n", hook_rule()).repeat(copies);
                self.restore(&format!("*filter\n{delete}-I FORWARD 1 {}\nCOMMIT\n", hook_rule()))?;
            }
        }
        Ok(found)
    }

    /// Whether the jump to our chains is anywhere in FORWARD.
    ///
    /// # Errors
    /// If the command cannot be run.
    pub fn is_hooked(&self) -> Result<bool, Error> {
        let rule = hook_rule();
        self.single(&format!("-C FORWARD {rule}"), |tool, wait| {
            tool.exists("filter", "FORWARD", &format!("{rule} {wait}"))
        })
    }

    /// Removes the jump, as often as it is there.
    ///
    /// # Errors
    /// If FORWARD cannot be written.
    pub fn unhook(&self) -> Result<(), Error> {
        let rule = hook_rule();
        self.single(&format!("-D FORWARD {rule}"), |tool, wait| {
            tool.delete_all("filter", "FORWARD", &format!("{rule} {wait}"))
        })
    }

    /// One command through the iptables crate, with a bounded wait for the lock.
    fn single<T>(
        &self,
        arguments: &str,
        command: impl FnOnce(&iptables::IPTables, &str) -> Result<T, Box<dyn error::Error>>,
    ) -> Result<T, Error> {
        // Made by hand: the crate's own constructor knows the name `iptables`
        // only, which may be the other backend. The wait that it would add has
        // no bound, so it goes with each command's text.
        let tool =
            iptables::IPTables { cmd: self.commands.iptables, has_check: true, has_wait: false, is_numeric: false };
        command(&tool, &format!("-w {}", self.lock_wait)).map_err(|error| self.refused(arguments, &error.to_string()))
    }

    fn locked(&self, command: &'static str) -> Error {
        Error::Locked { seconds: self.lock_wait, command }
    }

    fn refused(&self, arguments: &str, stderr: &str) -> Error {
        let command = self.commands.iptables;
        if stderr.contains(LOCK_WORDS) {
            return self.locked(command);
        }
        Error::Command { command, arguments: arguments.to_owned(), message: message(stderr) }
    }
}

fn hook_rule() -> String {
    format!("-j {FORWARD_CHAIN}")
}

/// Reads `iptables -S FORWARD`.
fn hook(listed: &str) -> Hook {
    let ours = format!("-A FORWARD {}", hook_rule());
    let rules: Vec<&str> = listed.lines().filter(|line| line.starts_with("-A ")).collect();
    let copies = rules.iter().filter(|line| **line == ours).count();
    match (copies, rules.first()) {
        (0, _) => Hook::Absent,
        (1, Some(first)) if *first == ours => Hook::First,
        _ => Hook::Displaced(copies),
    }
}

/// Reads `iptables-save`: our chains and their rules, line by line.
fn our_chains(save: &str) -> BTreeMap<ChainName, Vec<String>> {
    let mut chains: BTreeMap<ChainName, Vec<String>> = BTreeMap::new();
    for line in save.lines() {
        if let Some(declared) = line.strip_prefix(':') {
            chains.extend(declared.split(' ').next().and_then(ChainName::ours).map(|name| (name, Vec::new())));
        } else if let Some(rule) = line.strip_prefix("-A ")
            && rule.starts_with(CHAIN_PREFIX)
            && let Some(name) = rule.split(' ').next().and_then(ChainName::ours)
        {
            chains.entry(name).or_default().push(by_number(line));
        }
    }
    chains
}

/// Protocols without ports that our rules name by number, by the names that
/// `iptables-save` finds for them in one /etc/protocols or another.
const PROTOCOL_NAMES: [(&str, u8); 4] = [("ipencap", 4), ("ipv4", 4), ("ipv6", 41), ("gre", 47)];

/// A rule with the number of its protocol, as we write it.
fn by_number(line: &str) -> String {
    for (name, number) in PROTOCOL_NAMES {
        if line.contains(&format!(" -p {name} ")) {
            return line.replacen(&format!(" -p {name} "), &format!(" -p {number} "), 1);
        }
    }
    line.to_owned()
}

/// The line of a restore's input that a failed restore complains about.
///
/// Parsing errors say `Error occurred at line: 3`, legacy's commit says `line 3
/// failed` and nft's `line 3: CHAIN_DEL failed`. What is found out only at the
/// end is blamed on the COMMIT line, and the message names the chain.
fn place(text: &str, stderr: &str) -> Place {
    let number = stderr.match_indices("line").find_map(|(at, word)| {
        let rest = stderr[at + word.len()..].trim_start_matches([':', ' ']);
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse::<usize>().ok()
    });
    let line = |number: usize| text.lines().nth(number.checked_sub(1)?).map(str::to_owned);
    match number.and_then(line) {
        Some(line) if line == "COMMIT" => {
            let named = stderr.split(['\'', '`']).nth(1);
            let culprit = named.and_then(|name| {
                let leads_there = |line: &str| line.starts_with("-A ") && line.ends_with(&format!(" {name}"));
                text.lines().enumerate().find(|(_, line)| leads_there(line))
            });
            match culprit {
                Some((index, line)) => Place { number: Some(index + 1), line: Some(line.to_owned()) },
                None => Place { number, line: Some(line) },
            }
        }
        line => Place { number, line },
    }
}

/// What a command said, in one line, without its name and its advice.
fn message(stderr: &str) -> String {
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

    #[test]
    fn the_hook_is_first_only_alone_and_on_top() {
        assert_eq!(hook("-P FORWARD ACCEPT\n-A FORWARD -j NPC-FORWARD\n-A FORWARD -j X\n"), Hook::First);
        assert_eq!(hook("-P FORWARD ACCEPT\n-A FORWARD -j X\n-A FORWARD -j NPC-FORWARD\n"), Hook::Displaced(1));
        assert_eq!(hook("-A FORWARD -j NPC-FORWARD\n-A FORWARD -j NPC-FORWARD\n"), Hook::Displaced(2));
        assert_eq!(hook("-P FORWARD ACCEPT\n-A FORWARD -s 10.0.0.1/32 -j NPC-FORWARD\n"), Hook::Absent);
    }

    #[test]
    fn protocols_are_read_by_number_whatever_this_system_calls_them() {
        for (read, number) in [("ipencap", 4), ("ipv4", 4), ("4", 4), ("ipv6", 41), ("gre", 47), ("47", 47)] {
            assert_eq!(by_number(&format!("-A NPC-E-X -p {read} -j DROP")), format!("-A NPC-E-X -p {number} -j DROP"));
        }
        let other = "-A NPC-E-X -p tcp -m comment --comment \"a -p grease \" -j DROP";
        assert_eq!(by_number(other), other);
    }

    #[test]
    fn only_chains_of_ours_are_read() {
        let save = "*filter\n:FORWARD ACCEPT [0:0]\n:NPC-A - [0:0]\n:NPC-B - [0:0]\n:KUBE-X - [0:0]\n\
                    -A FORWARD -j NPC-A\n-A NPC-A -j NPC-B\n-A KUBE-X -j RETURN\nCOMMIT\n";
        let chains = our_chains(save);
        let text: Vec<(&str, &[String])> = chains.iter().map(|(name, rules)| (name.as_str(), &rules[..])).collect();
        assert_eq!(text, [("NPC-A", &["-A NPC-A -j NPC-B".to_owned()][..]), ("NPC-B", &[])]);
    }
}
