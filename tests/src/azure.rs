//! Runs a packet through rules and sets that Azure NPM wrote, as
//! `iptables-save` and `ipset save` print them: chains with jumps and marks,
//! sets of prefixes with exceptions, of addresses with ports, and of sets. It
//! knows what these texts use and nothing else: a word that is new is an error,
//! not a guess.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use npc_compiler::object::Protocol;

/// A first packet of a flow (conntrack's state NEW).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// The source address.
    pub source: Ipv4Addr,
    /// The destination address.
    pub destination: Ipv4Addr,
    /// The protocol and the destination port; none for ICMP.
    pub port: Option<(Protocol, u16)>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// ACCEPT: rules that follow in FORWARD do not see it.
    Accepted,
    /// DROP.
    Dropped,
    /// Back in FORWARD, undecided.
    Returned,
}

/// A filter table and the sets that its rules match.
#[derive(Debug)]
pub struct Capture {
    chains: BTreeMap<String, Vec<Rule>>,
    sets: BTreeMap<String, Vec<Member>>,
}

/// A text that is not understood, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}: {line}")]
pub struct Unknown {
    line: String,
    problem: String,
}

#[derive(Debug)]
struct Rule {
    matches: Vec<Match>,
    target: Target,
}

#[derive(Debug)]
enum Match {
    Protocol(Protocol),
    Ports(u16, u16),
    New,
    Mark { value: u32, mask: u32 },
    Set { included: bool, set: String, source: bool },
}

#[derive(Debug)]
enum Target {
    Jump(String),
    Accept,
    Drop,
    Mark { value: u32, mask: u32 },
}

#[derive(Debug)]
enum Member {
    Prefix { first: u32, length: u32, nomatch: bool },
    Port(Ipv4Addr, Protocol, u16),
    Set(String),
}

impl Capture {
    /// Reads the output of `iptables-save -t filter` and of `ipset save`.
    ///
    /// # Errors
    /// At the first line that is not understood.
    pub fn read(rules: &str, sets: &str) -> Result<Self, Unknown> {
        let mut capture = Self { chains: BTreeMap::new(), sets: BTreeMap::new() };
        for line in rules.lines() {
            capture.rule(line).map_err(|problem| Unknown { line: line.to_owned(), problem })?;
        }
        for line in sets.lines() {
            capture.member(line).map_err(|problem| Unknown { line: line.to_owned(), problem })?;
        }
        Ok(capture)
    }

    /// The chains, FORWARD and the other built-in ones among them.
    pub fn chains(&self) -> impl Iterator<Item = &str> {
        self.chains.keys().map(String::as_str)
    }

    /// The sets.
    pub fn sets(&self) -> impl Iterator<Item = &str> {
        self.sets.keys().map(String::as_str)
    }

    /// What becomes of a packet that is forwarded.
    #[must_use]
    pub fn run(&self, packet: &Packet) -> Outcome {
        let mut mark = 0;
        self.walk("FORWARD", packet, &mut mark).unwrap_or(Outcome::Returned)
    }

    fn walk(&self, chain: &str, packet: &Packet, mark: &mut u32) -> Option<Outcome> {
        for rule in &self.chains[chain] {
            if !rule.matches.iter().all(|one| self.matches(one, packet, *mark)) {
                continue;
            }
            match &rule.target {
                Target::Accept => return Some(Outcome::Accepted),
                Target::Drop => return Some(Outcome::Dropped),
                Target::Mark { value, mask } => *mark = (*mark & !mask) ^ value,
                Target::Jump(chain) => {
                    if let Some(outcome) = self.walk(chain, packet, mark) {
                        return Some(outcome);
                    }
                }
            }
        }
        None
    }

    fn matches(&self, one: &Match, packet: &Packet, mark: u32) -> bool {
        match one {
            Match::New => true,
            Match::Protocol(protocol) => packet.port.is_some_and(|(had, _)| had == *protocol),
            Match::Ports(first, last) => packet.port.is_some_and(|(_, port)| (*first..=*last).contains(&port)),
            Match::Mark { value, mask } => mark & mask == *value,
            Match::Set { included, set, source } => *included == self.is_in(set, packet, *source),
        }
    }

    fn is_in(&self, set: &str, packet: &Packet, source: bool) -> bool {
        let address = if source { packet.source } else { packet.destination };
        let members = &self.sets[set];
        // Of prefixes the longest decides.
        let prefixes = members.iter().filter_map(|member| match member {
            Member::Prefix { first, length, nomatch } => {
                let host = 32 - length;
                let within = u32::from(address).checked_shr(host) == first.checked_shr(host) || *length == 0;
                within.then_some((*length, !nomatch))
            }
            _ => None,
        });
        let in_prefix = prefixes.max().is_some_and(|(_, matches)| matches);
        in_prefix
            || members.iter().any(|member| match member {
                Member::Port(of, protocol, port) => *of == address && packet.port == Some((*protocol, *port)),
                Member::Set(set) => self.is_in(set, packet, source),
                Member::Prefix { .. } => false,
            })
    }

    fn rule(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with(['*', '#']) || line == "COMMIT" {
            return Ok(());
        }
        if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split(' ').next().unwrap_or_default();
            self.chains.insert(name.to_owned(), Vec::new());
            return Ok(());
        }
        let words = words(line);
        let mut words = words.iter().map(String::as_str);
        let mut next = || words.next();
        if next() != Some("-A") {
            return Err("not a rule".to_owned());
        }
        let chain = next().ok_or("no chain")?.to_owned();
        let (mut matches, mut target, mut included) = (Vec::new(), None, true);
        while let Some(word) = next() {
            let mut value = || next().ok_or_else(|| format!("{word} without a value"));
            match word {
                "!" => included = false,
                "-m" | "--comment" => drop(value()?),
                "--ctstate" if value()? == "NEW" => matches.push(Match::New),
                "-p" => matches.push(Match::Protocol(protocol(value()?)?)),
                "--dport" => {
                    let ports = value()?;
                    let (first, last) = ports.split_once(':').unwrap_or((ports, ports));
                    matches.push(Match::Ports(number(first)?, number(last)?));
                }
                "--mark" => {
                    let (value, mask) = mark(value()?)?;
                    matches.push(Match::Mark { value, mask });
                }
                "--match-set" => {
                    let set = value()?.to_owned();
                    let source = match value()? {
                        "src" => true,
                        "dst" | "dst,dst" => false,
                        other => return Err(format!("{other} is new")),
                    };
                    matches.push(Match::Set { included, set, source });
                    included = true;
                }
                "--set-xmark" => {
                    let (value, mask) = mark(value()?)?;
                    target = Some(Target::Mark { value, mask });
                }
                "-j" => match value()? {
                    "ACCEPT" => target = Some(Target::Accept),
                    "DROP" => target = Some(Target::Drop),
                    "MARK" => {}
                    chain => target = Some(Target::Jump(chain.to_owned())),
                },
                other => return Err(format!("{other} is new")),
            }
        }
        if !included {
            return Err("a negation of something else".to_owned());
        }
        let rule = Rule { matches, target: target.ok_or("no target")? };
        self.chains.get_mut(&chain).ok_or("a chain that was not named before")?.push(rule);
        Ok(())
    }

    fn member(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split(' ');
        let (verb, set) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match (verb, words.next()) {
            ("create", Some("hash:net" | "hash:ip,port" | "list:set")) => {
                self.sets.insert(set.to_owned(), Vec::new());
                Ok(())
            }
            ("add", Some(member)) => {
                let nomatch = match words.next() {
                    None => false,
                    Some("nomatch") => true,
                    Some(other) => return Err(format!("{other} is new")),
                };
                let member = self.read_member(member, nomatch)?;
                self.sets.get_mut(set).ok_or("a set that was not made before")?.push(member);
                Ok(())
            }
            _ => Err("not a set".to_owned()),
        }
    }

    fn read_member(&self, text: &str, nomatch: bool) -> Result<Member, String> {
        if self.sets.contains_key(text) {
            return Ok(Member::Set(text.to_owned()));
        }
        let address = |text: &str| text.parse::<Ipv4Addr>().map_err(|error| format!("{text}: {error}"));
        if let Some((of, rest)) = text.split_once(',') {
            let (name, port) = rest.split_once(':').ok_or("no protocol")?;
            return Ok(Member::Port(address(of)?, protocol(name)?, number(port)?));
        }
        let (first, length) = text.split_once('/').unwrap_or((text, "32"));
        Ok(Member::Prefix { first: address(first)?.into(), length: number(length)?.into(), nomatch })
    }
}

/// The words of a line; quotes keep one together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.iter_mut().next_back().into_iter().for_each(|word| word.push(c)),
        }
    }
    words
}

fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::ALL.into_iter().find(|protocol| protocol.lower() == text).ok_or_else(|| format!("{text} is new"))
}

fn number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

fn mark(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").ok_or_else(|| format!("{text} is no mark"))?;
        u32::from_str_radix(digits, 16).map_err(|error| format!("{text}: {error}"))
    };
    let (value, mask) = text.split_once('/').ok_or_else(|| format!("{text} has no mask"))?;
    Ok((number(value)?, number(mask)?))
}
