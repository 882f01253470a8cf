//! What this kernel can do, found by asking it to: every match and set type
//! that a program may use is loaded once, into a chain and sets that no packet
//! meets, and removed again.
//!
//! `iptables-restore --test` would not do: it stops before the kernel is asked.

use std::fmt;

use npc_compiler::object::{Family, Protocol};
use npc_compiler::plan::SetWrite;
use npc_compiler::ruleset::layout::MissingMatches;
use npc_compiler::ruleset::node::{ChainName, Match, Rule, SetField, SetKind, SetName, Target};
use npc_compiler::ruleset::text::Restore;

use crate::dataplane::ipset::{self, Ipset};
use crate::dataplane::iptables::{self, Iptables};
use crate::dataplane::{Error, Failures};

/// What a kernel can do, beyond what every one can that we run on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Supported {
    /// `-m bpf` works in every family, so one rule serves the self traffic of
    /// all pods, and one the errors that they send.
    pub bpf: bool,
    /// Matches that some family lacks and that rules do without.
    pub lacks: MissingMatches,
    /// What is missing and worked around.
    pub missing: Vec<Missing>,
    /// What is missing to report denied packets; nothing where it works in
    /// every family.
    pub no_log: Option<Missing>,
    /// What is missing to recognise forged sources; nothing where it works in every
    /// family.
    pub no_anti_spoof: Option<Missing>,
}

/// Something that a kernel lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The family in which it is missing.
    pub family: Family,
    /// What, and what it is for.
    pub what: String,
    /// What the kernel or the tool said.
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {} ({})", self.what, self.family, self.why)
    }
}

/// One match or target that rulesets use.
struct Probe {
    /// What it is and what it is for, in words.
    what: &'static str,
    lack: Lack,
    matches: Vec<Match>,
    target: Target,
}

/// What it means that something is missing.
#[derive(Clone, Copy)]
enum Lack {
    /// No policy can be enforced.
    Fatal,
    /// There are rules instead.
    Bpf,
    /// Rules recognise neighbour discovery by less.
    HopLimit,
    /// What passes without a policy may be of any length.
    Length,
    /// Errors from pods' interfaces are as any.
    DeviceGroup,
    /// Denied packets are not reported.
    Log,
    /// Forged sources pass.
    AntiSpoof,
}

fn probes(family: Family, sets: &ScratchSets) -> Vec<Probe> {
    let set = sets.name(SetKind::HashIp);
    let ports = |protocol| vec![Match::Protocol(protocol), Match::DestinationPorts(vec![(1, 2), (4, 4)])];
    let needed = |what, matches| Probe { what, lack: Lack::Fatal, matches, target: Target::Return };
    let mut probes = vec![
        needed("the match conntrack (established connections)", vec![Match::EstablishedOrRelated]),
        needed("the state RELATED of ICMP in the match conntrack (ICMP errors)", vec![Match::RelatedError]),
        needed("the state DNAT in the match conntrack (a pod's traffic to itself)", vec![Match::Translated]),
        needed("the match set (peers and endpoints)", vec![Match::Set(set.clone(), SetField::Destination)]),
        needed("the match multiport (several ports)", ports(Protocol::Tcp)),
        needed(
            "the match tcp (single ports)",
            vec![Match::Protocol(Protocol::Tcp), Match::DestinationPorts(vec![(1, 1)])],
        ),
        needed(
            "the states INVALID and NEW in the match conntrack (connections that are not known)",
            vec![Match::NotSyn, Match::NewOrInvalid],
        ),
        needed(
            "the match udp (single ports)",
            vec![Match::Protocol(Protocol::Udp), Match::DestinationPorts(vec![(1, 1)])],
        ),
        needed("SCTP in the match multiport", ports(Protocol::Sctp)),
        needed("the match comment", vec![Match::Comment("npc probe".into())]),
        Probe {
            what: "the match bpf (a pod's traffic to itself; each endpoint gets a rule of its own instead, and pods' \
                   ICMP errors are dropped where anything is isolated)",
            lack: Lack::Bpf,
            matches: vec![Match::SourceIsDestination],
            target: Target::Return,
        },
        Probe {
            what: "the match bpf with a longer program (pods' ICMP errors, which are dropped instead where anything is \
                   isolated)",
            lack: Lack::Bpf,
            matches: vec![Match::ErrorFromQuotedDestination],
            target: Target::Return,
        },
        Probe {
            what: "the match length (ICMP errors and neighbour discovery, which pass at any length instead)",
            lack: Lack::Length,
            matches: vec![Match::NotLength(1, 2)],
            target: Target::Return,
        },
        Probe {
            what: "the match devgroup (ICMP errors from pods' interfaces, which pass as any other instead)",
            lack: Lack::DeviceGroup,
            matches: vec![Match::NotFromPods],
            target: Target::Return,
        },
        Probe {
            what: "the target NFLOG or the match limit (--log-denied)",
            lack: Lack::Log,
            matches: vec![Match::Limited],
            target: Target::Log,
        },
    ];
    if sets.lacks_interfaces.is_none() {
        let own = sets.name(SetKind::HashNetIface);
        probes.push(Probe {
            what: "the match devgroup (--anti-spoof)",
            lack: Lack::AntiSpoof,
            matches: vec![Match::FromPods, Match::NotInSet(own, SetField::SourceInterface)],
            target: Target::Return,
        });
    }
    if family == Family::V4 {
        probes.push(needed("the match addrtype (broadcasts on a bridge)", vec![Match::ToBroadcast]));
    } else {
        probes.push(needed("the match icmp6 (neighbour discovery)", vec![Match::Icmpv6Type(133)]));
        probes.push(Probe {
            what: "the match hl (neighbour discovery, which passes from any hop limit instead)",
            lack: Lack::HopLimit,
            matches: vec![Match::HopLimit255],
            target: Target::Return,
        });
    }
    probes
}

/// Asks the kernel for everything that programs use; nothing if that is possible
/// in no family. A family that lacks what policies need, or cannot be asked, has
/// failed.
pub(in super::super) fn probe(tables: &[Iptables], ipset: &mut Ipset, failed: &mut Failures) -> Option<Supported> {
    let mut capabilities = Supported { bpf: true, ..Supported::default() };
    let mut asked = false;
    for table in tables {
        let answer = probe_family(table, ipset, &capabilities);
        if let Some(with_this) = failed.take(table.family(), answer) {
            (capabilities, asked) = (with_this, true);
        }
    }
    asked.then_some(capabilities)
}

/// Probes one family. Returns what both this family and those that were probed before support.
fn probe_family(table: &Iptables, ipset: &mut Ipset, before: &Supported) -> Result<Supported, Error> {
    let mut capabilities = before.clone();
    let mut fatal = Vec::new();
    let sets = ScratchSets::create(ipset, table.family(), &mut fatal)?;
    capabilities.no_anti_spoof = capabilities.no_anti_spoof.or_else(|| sets.lacks_interfaces.clone());
    // Without sets there is no asking for the match.
    let answers = if fatal.is_empty() { ask(table, probes(table.family(), &sets)) } else { Ok(Vec::new()) };
    sets.destroy(ipset)?;
    for (question, why) in answers? {
        let missing = Missing { family: table.family(), what: question.what.to_owned(), why };
        match question.lack {
            Lack::Fatal => fatal.push(missing),
            Lack::Bpf => {
                capabilities.bpf = false;
                capabilities.missing.push(missing);
            }
            Lack::HopLimit => {
                capabilities.lacks.hop_limit = true;
                capabilities.missing.push(missing);
            }
            Lack::Length => {
                capabilities.lacks.length = true;
                capabilities.missing.push(missing);
            }
            Lack::DeviceGroup => {
                capabilities.lacks.device_group = true;
                capabilities.missing.push(missing);
            }
            Lack::Log => capabilities.no_log = Some(missing),
            Lack::AntiSpoof => capabilities.no_anti_spoof = Some(missing),
        }
    }
    // What a family lacks counts only if it can be enforced.
    if fatal.is_empty() { Ok(capabilities) } else { Err(Error::MissingMatches(fatal)) }
}

/// The probes that the kernel answered with no, and its words. All at once
/// first, because most kernels can do all.
fn ask(table: &Iptables, probes: Vec<Probe>) -> Result<Vec<(Probe, String)>, Error> {
    let chain = ChainName::probe();
    let load = |probes: &[Probe]| {
        let mut restore = Restore::of(table.family(), [&chain]);
        let rule = |q: &Probe| Rule { matches: q.matches.clone(), target: q.target.clone() };
        restore.rules(&chain, probes.iter().map(rule));
        table.restore(&restore.finish())
    };
    let mut refused = Vec::new();
    if load(&probes).is_err() {
        for question in probes {
            match load(std::slice::from_ref(&question)) {
                Ok(()) => {}
                Err(iptables::Error::Restore { message, .. }) => refused.push((question, message)),
                Err(error) => return Err(error.into()),
            }
        }
    }
    // Declared again, it is there and empty even where nothing could be loaded.
    remove(table, &chain)?;
    Ok(refused)
}

/// Empties a chain that no packet meets, and removes it.
pub(in super::super) fn remove(table: &Iptables, chain: &ChainName) -> Result<(), iptables::Error> {
    let mut restore = Restore::of(table.family(), [chain]);
    restore.delete(chain);
    table.restore(&restore.finish())
}

/// One scratch set of each kind.
struct ScratchSets {
    family: Family,
    /// The kind for interfaces is missing, which nothing but `--anti-spoof`
    /// needs.
    lacks_interfaces: Option<Missing>,
}

impl ScratchSets {
    fn create(ipset: &mut Ipset, family: Family, fatal: &mut Vec<Missing>) -> Result<Self, Error> {
        let mut sets = Self { family, lacks_interfaces: None };
        for kind in SetKind::ALL {
            match ipset.write(&[&SetWrite::Create(sets.name(kind), family, kind)]) {
                Ok(()) => {}
                Err(ipset::Error::Refused { refusal, .. }) => {
                    let what = format!("the set type {}", kind.as_str());
                    let missing = Missing { family, what, why: refusal.to_string() };
                    match kind {
                        SetKind::HashNetIface => sets.lacks_interfaces = Some(missing),
                        SetKind::HashIp | SetKind::HashNet | SetKind::HashIpPort => fatal.push(missing),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sets)
    }

    fn name(&self, kind: SetKind) -> SetName {
        SetName::probe(self.family, kind)
    }

    fn destroy(&self, ipset: &mut Ipset) -> Result<(), Error> {
        match ipset.destroy(&SetKind::ALL.map(|kind| self.name(kind)), ipset::PATIENCE)?.pop() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        }
    }
}
