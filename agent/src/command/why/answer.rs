//! The answer as data: what a thing is, which endpoints it judges, and which policies it came from.

use std::net::IpAddr;

use npc_agent::finding::{Finding, Place};
use npc_compiler::API_VERSION;
use npc_compiler::object::Family;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::SetName;
use serde::{Serialize, Serializer};

use super::thing::OtherProgram;
use crate::command::warning::{self, Warning};

/// What the answer is based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Basis {
    /// This kernel.
    Kernel,
    /// What iptables-save and ipset save printed.
    Dumps,
    /// What the policies of the input ask for.
    Policies,
}

/// Warnings as JSON has them for people.
fn as_texts<S: Serializer>(warnings: &[Warning], serializer: S) -> Result<S::Ok, S::Error> {
    warning::texts(warnings).serialize(serializer)
}

/// What there is to say of a thing.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KernelExplanation {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) thing: String,
    /// `chain`, `set`, `rule` or `address`.
    pub(super) is: &'static str,
    pub(super) node: Option<String>,
    pub(super) basis: Option<Basis>,
    /// `npc`, or the program that names its things so.
    pub(super) owner: Option<String>,
    /// What it is for, in words.
    pub(super) role: String,
    pub(super) direction: Option<Direction>,
    pub(super) families: Vec<Family>,
    /// Whether the kernel holds it; null where no kernel was read.
    #[serde(rename = "held")]
    pub(super) actual: Option<bool>,
    /// Whether the policies of the input ask for it.
    #[serde(rename = "wanted")]
    pub(super) desired: bool,
    /// Where the kernel and the policies of the input differ, in words.
    pub(super) differs: Vec<String>,
    /// Whether the secret of the node is known, where the answer depends on it.
    pub(super) seed_known: bool,
    /// The endpoints that it is about.
    pub(super) judges: Vec<Endpoint>,
    /// The policies that it came from.
    pub(super) policies: Vec<PolicyPlace>,
    /// How many more there are, which the comments of a kernel's rules do not name.
    pub(super) more_policies: usize,
    /// For a chain: its rules. For a set: the rules that ask it. For a rule: that rule.
    pub(super) rules: Vec<RuleAnswer>,
    /// The sets that hold an address.
    pub(super) sets: Vec<SetAnswer>,
    /// The chains that judge an address.
    pub(super) chains: Vec<ChainAnswer>,
    /// What the input has that npc does not judge, and what it leaves out.
    #[serde(serialize_with = "as_texts")]
    pub(super) warnings: Vec<Warning>,
    /// What was not read and may change the answer.
    pub(super) unknowns: Vec<String>,
    /// What is wrong with the objects.
    pub(super) findings: Vec<Finding>,
}

/// An endpoint.
#[derive(Debug, Serialize)]
pub(super) struct Endpoint {
    #[serde(skip)]
    pub(super) namespace: String,
    /// `NAMESPACE/NAME`.
    #[serde(rename = "endpoint")]
    pub(super) full_name: String,
    pub(super) addresses: Vec<IpAddr>,
}

/// A policy and where it stands.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct PolicyPlace {
    pub(super) policy: String,
    pub(super) location: Option<Place>,
}

/// A rule of the kernel.
#[derive(Debug, Serialize)]
pub(super) struct RuleAnswer {
    pub(super) family: Family,
    pub(super) chain: String,
    /// From 1, as `iptables -L --line-numbers` counts.
    pub(super) number: Option<usize>,
    pub(super) text: String,
    pub(super) means: String,
    /// The rules of policies that it came from.
    pub(super) origins: Vec<RuleOrigin>,
    /// How many more there are, for which its comment has no room.
    pub(super) more: usize,
}

/// A rule of a policy.
#[derive(Debug, Serialize)]
pub(super) struct RuleOrigin {
    pub(super) policy: String,
    pub(super) path: String,
    pub(super) location: Option<Place>,
}

/// A set that holds an address.
#[derive(Debug, Serialize)]
pub(super) struct SetAnswer {
    #[serde(skip)]
    pub(super) name: SetName,
    /// Its name as it may be shown.
    pub(super) set: String,
    pub(super) meaning: String,
}

/// A chain that judges an address.
#[derive(Debug, Serialize)]
pub(super) struct ChainAnswer {
    pub(super) direction: Direction,
    /// The chain to which the kernel leads the address; none if it leads it to none. Where no
    /// kernel was read, as the policies ask.
    pub(super) chain: Option<String>,
    /// The chain to which the policies of the input ask to lead it; none if none isolates it.
    #[serde(rename = "wanted")]
    pub(super) desired: Option<String>,
    pub(super) policies: Vec<String>,
}

impl KernelExplanation {
    pub(super) fn empty(thing: String, is: &'static str, node: &str) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "KernelExplanation",
            thing,
            is,
            node: Some(node.to_owned()).filter(|node| !node.is_empty()),
            basis: None,
            owner: None,
            role: String::new(),
            direction: None,
            families: Vec::new(),
            actual: None,
            desired: false,
            differs: Vec::new(),
            seed_known: true,
            judges: Vec::new(),
            policies: Vec::new(),
            more_policies: 0,
            rules: Vec::new(),
            sets: Vec::new(),
            chains: Vec::new(),
            warnings: Vec::new(),
            unknowns: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// What there is to say of another program's thing.
    pub(super) fn of_other(other: &OtherProgram, node: &str) -> Self {
        let what = match (other.kind, other.owner) {
            ("chain", Some("the kernel")) => "built-in chain; npc has one rule there, -j NPC-FORWARD in FORWARD",
            ("rule", _) => "rule of another program: npc writes its rules in chains NPC-... only",
            (_, Some(_)) => "of another program; npc neither reads nor changes it",
            _ => "not of npc",
        };
        Self {
            owner: other.owner.map(str::to_owned),
            role: what.to_owned(),
            ..Self::empty(other.name.clone(), other.kind, node)
        }
    }

    /// Whether it is of npc and there.
    pub(super) fn is_ours(&self) -> bool {
        let is_there = self.actual == Some(true) || self.desired || self.is == "address";
        self.owner.as_deref() == Some("npc") && is_there
    }
}
