//! The sets: written in bulk by one `ipset restore`, read by one `ipset save`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use npc_compiler::object::{Family, Protocol};
use npc_compiler::plan::SetWrite;
use npc_compiler::program::{Member, SetKind, SetName};
use npc_compiler::text::MAXELEM;

use super::process;

const IPSET: &str = "ipset";

/// How long a set may stay in use after the last rule that names it is gone.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What ipset says of a set that a rule names.
const IN_USE: &str = "in use by a kernel component";

/// Why sets could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A line was refused. The lines before it are in the kernel.
    #[error("ipset refused line {number} (`{line}`): {message}{}", explained(.message))]
    Restore {
        /// Its number, from 1.
        number: usize,
        /// Its text.
        line: String,
        /// What ipset said.
        message: String,
    },
    /// ipset failed as a whole.
    #[error("ipset {arguments} failed: {message}{}", explained(.message))]
    Command {
        /// Its arguments.
        arguments: &'static str,
        /// What it said.
        message: String,
    },
    /// A set of ours holds what we do not understand.
    #[error("cannot read the member `{member}` of the set {set}")]
    Member {
        /// The set.
        set: SetName,
        /// The member.
        member: String,
    },
    /// ipset could not be run.
    #[error(transparent)]
    Process(#[from] process::Error),
}

/// What a message of ipset means for us, where it does not say so itself.
fn explained(message: &str) -> &'static str {
    let meanings = [
        (
            "same name already exists",
            " (somebody made a set under our name, of another kind; `npc cleanup` removes it)",
        ),
        ("set with the given name does not exist", " (somebody else removed the set)"),
        (IN_USE, " (a rule of somebody else, or of the other backend, names the set)"),
        ("type not supported", " (this kernel lacks the set type)"),
        ("Hash is full", " (the set was made with a smaller limit)"),
        ("Operation not permitted", " (npc needs root, or CAP_NET_ADMIN)"),
    ];
    meanings.iter().find(|(words, _)| message.contains(words)).map_or("", |(_, meaning)| meaning)
}

/// The sets of one family that bear our names and are ours.
pub type Sets = BTreeMap<SetName, (SetKind, BTreeSet<Member>)>;

/// What the kernel holds under our names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// The IPv4 sets.
    pub v4: Sets,
    /// The IPv6 sets.
    pub v6: Sets,
    /// Sets that bear our names and are none that we would make.
    pub odd: Vec<OddSet>,
}

/// A set that bears our name and is not as we make sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddSet {
    /// Its name.
    pub name: SetName,
    /// Its header, as ipset prints it.
    pub header: String,
}

/// Writes to sets, in order, by one process.
///
/// # Errors
/// If a line is refused; those before it are in the kernel.
pub fn write(writes: &[&SetWrite]) -> Result<(), Error> {
    let lines: Vec<String> = writes.iter().map(ToString::to_string).collect();
    restore_patiently(&lines, Instant::now() + PATIENCE)
}

/// Removes sets, going on past those that cannot go; answers them, and why.
/// Sets in use are waited for, all together for so long.
#[must_use]
pub fn destroy(names: &[SetName], patience: Duration) -> Vec<(SetName, Error)> {
    let mut stuck = Vec::new();
    let deadline = Instant::now() + patience;
    let mut rest = names;
    while !rest.is_empty() {
        let lines: Vec<String> = rest.iter().map(|name| format!("destroy {name}")).collect();
        let Err(error) = restore_patiently(&lines, deadline) else { break };
        // The lines before the refused one were carried out; go on behind it.
        let done = if let Error::Restore { number, .. } = &error { number - 1 } else { 0 };
        stuck.push((rest[done].clone(), error));
        rest = &rest[done + 1..];
    }
    stuck
}

/// Empties a set.
///
/// # Errors
/// If ipset refuses.
pub fn flush(name: &SetName) -> Result<(), Error> {
    restore(&format!("flush {name}\n"))
}

/// Feeds lines to `ipset restore`, and waits where a set is still in use: nft
/// lets go of a deleted rule's sets a little after the commit that deleted it.
fn restore_patiently(lines: &[String], deadline: Instant) -> Result<(), Error> {
    let mut done = 0;
    loop {
        match restore(&lines[done..].join("\n")) {
            Err(Error::Restore { number, line, message }) => {
                done += number - 1;
                if !message.contains(IN_USE) || Instant::now() >= deadline {
                    return Err(Error::Restore { number: done + 1, line, message });
                }
                thread::sleep(Duration::from_millis(5));
            }
            answer => return answer,
        }
    }
}

/// Feeds text to one `ipset restore`.
pub(super) fn restore(text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Ok(());
    }
    // What is there already, or is gone already, is no failure.
    let output = process::run(IPSET, &["restore", "-exist"], text)?;
    if output.code == Some(0) {
        return Ok(());
    }
    let message = message(&output.stderr);
    let refused = message.strip_prefix("Error in line ").and_then(|rest| rest.split_once(": "));
    let line = refused.and_then(|(number, said)| {
        let number: usize = number.parse().ok()?;
        let line = text.lines().nth(number.checked_sub(1)?)?.to_owned();
        Some(Error::Restore { number, line, message: said.to_owned() })
    });
    Err(line.unwrap_or(Error::Command { arguments: "restore", message }))
}

/// The names of the sets that bear our names.
///
/// # Errors
/// If ipset fails.
pub fn names() -> Result<Vec<SetName>, Error> {
    let listed = run(&["list", "-name"], "list -name")?;
    Ok(listed.lines().filter_map(|line| SetName::ours(line.trim())).map(|(name, _)| name).collect())
}

/// Reads the sets that bear our names.
///
/// # Errors
/// If ipset fails, or a member makes no sense.
pub fn read() -> Result<Reading, Error> {
    parse(&run(&["save"], "save")?)
}

fn run(args: &[&str], arguments: &'static str) -> Result<String, Error> {
    let output = process::run(IPSET, args, "")?;
    if output.code == Some(0) {
        return Ok(output.stdout);
    }
    Err(Error::Command { arguments, message: message(&output.stderr) })
}

/// What ipset said, without its name: `ipset v7.17: Error in line 2: …`.
fn message(stderr: &str) -> String {
    let said = stderr.trim();
    let said = said.strip_prefix("ipset ").and_then(|rest| rest.split_once(": ")).map_or(said, |(_, rest)| rest);
    if said.is_empty() { "no reason given".to_owned() } else { said.replace('\n', "; ") }
}

/// Reads the text of `ipset save`.
fn parse(save: &str) -> Result<Reading, Error> {
    let mut reading = Reading::default();
    for line in save.lines() {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let Some((name, family)) = SetName::ours(name) else { continue };
        let sets = match family {
            Family::V4 => &mut reading.v4,
            Family::V6 => &mut reading.v6,
        };
        match verb {
            "create" => match kind(rest, family) {
                Some(kind) => {
                    sets.insert(name, (kind, BTreeSet::new()));
                }
                None => reading.odd.push(OddSet { name, header: rest.to_owned() }),
            },
            "add" => {
                // Members of odd sets say nothing.
                let Some((kind, members)) = sets.get_mut(&name) else { continue };
                match member(*kind, rest) {
                    Some(member) => {
                        members.insert(member);
                    }
                    None => return Err(Error::Member { set: name, member: rest.to_owned() }),
                }
            }
            _ => {}
        }
    }
    Ok(reading)
}

/// The kind of a set with this header, if it is as we make them.
fn kind(header: &str, family: Family) -> Option<SetKind> {
    let mut words = header.split(' ');
    let kind = match words.next()? {
        "hash:ip" => SetKind::HashIp,
        "hash:net" => SetKind::HashNet,
        "hash:ip,port" => SetKind::HashIpPort,
        _ => return None,
    };
    let (mut same_family, mut same_limit) = (false, false);
    while let Some(option) = words.next() {
        match option {
            "family" => {
                same_family = words.next()? == if family == Family::V4 { "inet" } else { "inet6" };
            }
            "maxelem" => same_limit = words.next()? == MAXELEM.to_string(),
            // How the kernel lays the set out; it grows them by itself.
            "hashsize" | "bucketsize" | "initval" => {
                words.next()?;
            }
            // A time-out would lose members, counters would cost; ours have no
            // further options.
            _ => return None,
        }
    }
    (same_family && same_limit).then_some(kind)
}

/// A member as `ipset save` prints it.
fn member(kind: SetKind, text: &str) -> Option<Member> {
    match kind {
        SetKind::HashIp => text.parse().ok().map(Member::Address),
        // Host prefixes come back without their length.
        SetKind::HashNet => match text.parse::<IpAddr>() {
            Ok(address) => Some(Member::Address(address)),
            Err(_) => text.parse().ok().map(Member::Prefix),
        },
        SetKind::HashIpPort => {
            let (address, rest) = text.split_once(',')?;
            let (protocol, port) = rest.split_once(':')?;
            // ipset prints numbers where the system has no /etc/protocols.
            let protocol = match protocol {
                "tcp" | "6" => Protocol::Tcp,
                "udp" | "17" => Protocol::Udp,
                "sctp" | "132" => Protocol::Sctp,
                _ => return None,
            };
            Some(Member::AddressPort(address.parse().ok()?, protocol, port.parse().ok()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_is_read_back_as_the_members_that_were_written() {
        let save = "\
create npc4-a hash:net family inet hashsize 1024 maxelem 16777216 bucketsize 12 initval 0x1888bf4d
add npc4-a 10.0.0.1
add npc4-a 10.0.0.0/24
create KUBE-X hash:ip family inet hashsize 1024 maxelem 65536
add KUBE-X 10.9.9.9
create npc6-b hash:ip,port family inet6 hashsize 1024 maxelem 16777216 bucketsize 12 initval 0xd0038a4c
add npc6-b fd00::1,tcp:80
add npc6-b fd00::1,132:80
";
        let reading = parse(save).expect("it reads");
        let texts = |sets: &Sets| -> Vec<(String, SetKind, Vec<String>)> {
            let text = |members: &BTreeSet<Member>| members.iter().map(ToString::to_string).collect();
            sets.iter().map(|(name, (kind, members))| (name.to_string(), *kind, text(members))).collect()
        };
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            texts(&reading.v4),
            [("npc4-a".to_owned(), SetKind::HashNet, strings(&["10.0.0.1", "10.0.0.0/24"]))]
        );
        assert_eq!(
            texts(&reading.v6),
            [("npc6-b".to_owned(), SetKind::HashIpPort, strings(&["fd00::1,6:80", "fd00::1,132:80"]))]
        );
        assert_eq!(reading.odd, []);
    }

    #[test]
    fn a_set_of_another_kind_under_our_name_is_odd() {
        let odd = [
            "create npc4-a hash:mac hashsize 1024 maxelem 16777216",
            "create npc4-a hash:ip family inet6 hashsize 1024 maxelem 16777216",
            "create npc4-a hash:ip family inet hashsize 1024 maxelem 65536",
            "create npc4-a hash:ip family inet hashsize 1024 maxelem 16777216 timeout 30",
        ];
        for line in odd {
            let reading = parse(&format!("{line}\nadd npc4-a whatever\n")).expect("it reads");
            assert_eq!(reading.odd.len(), 1, "{line}");
            assert!(reading.v4.is_empty(), "{line}");
        }
    }

    #[test]
    fn a_member_that_makes_no_sense_is_an_error() {
        let save = "create npc4-a hash:net family inet hashsize 1024 maxelem 16777216\nadd npc4-a 10.0.0.0/8 nomatch\n";
        let error = parse(save).expect_err("nomatch is never ours");
        assert_eq!(error.to_string(), "cannot read the member `10.0.0.0/8 nomatch` of the set npc4-a");
    }
}
