//! `npc why`: what a rule, chain, set or address of a node's kernel is, and which policies
//! it came from.

mod address;
mod answer;
mod facts;
mod kernel;
mod reservations;
mod rule;
mod text;
mod thing;
mod words;

use std::collections::BTreeSet;
use std::path::PathBuf;

use npc_agent::status::AgentStatus;
use npc_agent::words::counted::counted;
use npc_agent::words::near;
use npc_compiler::object::Family;
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::layout::{self, Bounds, RulesetOptions};
use npc_compiler::ruleset::names::seed::Seed;

use super::input::{self, Input, Source};
use super::node_kernel::options::{self, AgentAnswer};
use super::{Exit, Stop, node_kernel, nodes, output};
use crate::command::output::Format;
use crate::command::words::shorten;
use answer::{Basis, KernelExplanation};
use kernel::{ActualKernel, Dumps, rule_distance};
use thing::Thing;

/// Show what a rule, chain, set or address of the kernel is, and why it is there.
///
/// For a chain or a rule it names the endpoints that it judges, the policies, and for each
/// rule the fields of policies that it came from, with file and line where they were read from
/// files. For a set it says what its members are and which rules ask it. For an address it says
/// which sets and chains it meets.
///
/// On a node, as root, npc reads the kernel. With --iptables-save and --ipset-save it reads
/// what these programs printed, and with -f alone it shows what the kernel of --node should
/// hold.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  npc why NPC-I-knacxasg3yineikl\n  npc why 10.244.1.9 -f cluster/ --node node-1\n  \
                        npc why '-A NPC-E-m4sasq3mdxtko5hg -p tcp -m tcp --dport 5432 -j RETURN'\n\n\
                        Exit codes: 0 it is of npc, there or asked for by the policies, 2 bad flags or input, 3 it is of\n\
                        another program, or neither, 4 the kernel cannot be read, 5 the API server did not answer."
)]
pub(super) struct Args {
    /// A line of iptables-save in quotes, or the name of a chain or set, or an address.
    #[arg(value_name = "THING", allow_hyphen_values = true)]
    thing: String,

    #[command(flatten)]
    input: input::Args,

    /// The node whose kernel it is; the name is that of spec.nodeName of its pods [default: that of
    /// the agent here, else the only node of the input].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// Read what iptables-save or ip6tables-save printed of the node's kernel, instead of the
    /// kernel; may be repeated.
    #[arg(long, value_name = "FILE")]
    iptables_save: Vec<PathBuf>,

    /// With --iptables-save: what ipset save printed.
    #[arg(long, value_name = "FILE", requires = "iptables_save")]
    ipset_save: Option<PathBuf>,

    /// Without a kernel or --ipset-save, which show it: the secret of the node, by which groups
    /// stand in the dispatch tree.
    #[arg(long, value_name = "SEED", value_parser = |text: &str| text.parse::<Seed>())]
    seed: Option<Seed>,

    #[command(flatten)]
    agent: AgentFlags,

    /// The format of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The flags of the agent that decide which chains and rules there are.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the agent")]
struct AgentFlags {
    /// Without a kernel, which shows it: the agent runs with --keep-established.
    #[arg(long)]
    keep_established: bool,

    /// Without a kernel: the agent runs with --allow-tunnels.
    #[arg(long)]
    allow_tunnels: bool,

    /// Without a kernel: the agent runs with --log-denied.
    #[arg(long)]
    log_denied: bool,

    /// Without a kernel: the agent runs with --anti-spoof.
    #[arg(long)]
    anti_spoof: bool,
}

impl AgentFlags {
    /// Those that were given.
    fn given(&self) -> Vec<&'static str> {
        let Self { keep_established, allow_tunnels, log_denied, anti_spoof } = *self;
        let all = [
            ("--keep-established", keep_established),
            ("--allow-tunnels", allow_tunnels),
            ("--log-denied", log_denied),
            ("--anti-spoof", anti_spoof),
        ];
        all.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect()
    }

    fn options(&self, seed: Option<Seed>, bounds: Bounds) -> RulesetOptions {
        let Self { keep_established, allow_tunnels, log_denied, anti_spoof } = *self;
        RulesetOptions {
            keep_established,
            allow_tunnels,
            log_denied,
            anti_spoof,
            seed,
            bounds,
            ..RulesetOptions::default()
        }
    }
}

/// Answers.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let thing = Thing::read(&args.thing)?;
    let input = args.input.read()?;
    let node = node(args, &input, &thing)?;
    let answer = if let Thing::Other(other) = &thing {
        KernelExplanation::of_other(other, &node)
    } else {
        let (actual, basis) = actual(args, &input)?;
        let has_sets = basis != Basis::Dumps || args.ipset_save.is_some();
        let knows_seed = args.seed.is_some() || (has_sets && basis != Basis::Policies);
        let (actual, hooks) = actual.map_or_else(|| (None, Vec::new()), |actual| (Some(actual.state), actual.hooks));
        let said = if basis == Basis::Kernel { AgentAnswer::ask(&node) } else { AgentAnswer::default() };
        let options = chosen(&input, &node, args, actual.as_ref(), &said)?;
        let desired = layout::ruleset_with(&input.cluster, &node, &options, &said.retained);
        let groups = layout::group_chains(&input.cluster, &node, &options, &said.retained);
        let desired_state = KernelState::from(&desired);
        if let Some(message) = cut_name(&thing, &args.thing, &[actual.as_ref(), Some(&desired_state)]) {
            return Err(Stop::new(Exit::NotFound, message).into());
        }
        let actual = actual.unwrap_or(desired_state);
        let (input, node) = (&input, node.as_str());
        let retained = said.retained;
        let facts = facts::Facts {
            input,
            node,
            actual,
            desired,
            groups,
            options,
            retained,
            basis,
            hooks,
            has_sets,
            knows_seed,
        };
        KernelExplanation::new(&facts, &thing).of_input(input, &thing, args.output)
    };
    match args.output {
        Format::Json => output::json(&answer)?,
        Format::Text => text::write(&answer, &mut output::stdout())?,
    }
    Ok(if answer.is_ours() { Exit::Fine } else { Exit::NotFound })
}

/// At most this many names are listed.
const LISTED: usize = 8;

/// That a name is only the beginning of others, where no state has it as it stands.
fn cut_name(thing: &Thing, text: &str, states: &[Option<&KernelState>]) -> Option<String> {
    let name = match thing {
        Thing::Chain(chain) => chain.as_str(),
        Thing::Set(set) => set.as_str(),
        _ => return None,
    };
    let of_family = |state: &KernelState, family| -> Vec<String> {
        let state = state.family(family);
        let chains = state.chains.keys().map(|chain| chain.as_str().to_owned());
        chains.chain(state.sets.keys().map(|set| set.as_str().to_owned())).collect()
    };
    let all: BTreeSet<String> = (states.iter().flatten())
        .flat_map(|state| Family::ALL.into_iter().flat_map(|family| of_family(state, family)))
        .filter(|other| other.starts_with(name))
        .collect();
    let is_cut = !all.is_empty() && !all.contains(name);
    is_cut.then(|| {
        let names = Vec::from_iter(all);
        let what = counted(names.len(), "name");
        format!("{text:?} is the beginning of {what}; say which: {}", shorten(&names, LISTED, ", "))
    })
}

/// What the kernel holds; nothing if only the policies say what it should hold.
fn actual(args: &Args, input: &Input) -> anyhow::Result<(Option<ActualKernel>, Basis)> {
    if !args.iptables_save.is_empty() {
        let dumps = Dumps { iptables: &args.iptables_save, ipset: args.ipset_save.as_deref() };
        return Ok((Some(dumps.read()?), Basis::Dumps));
    }
    if input.source == Source::Files {
        return Ok((None, Basis::Policies));
    }
    match node_kernel::open() {
        Ok((kernel, state)) => {
            let hooks = kernel.hooks().into_iter().filter_map(|(family, hook)| Some((family, hook.ok()?))).collect();
            Ok((Some(ActualKernel { state, hooks }), Basis::Kernel))
        }
        Err(error) => Err(Stop::new(
            Exit::Unknown,
            format!(
                "cannot read this kernel: {error}; run npc why on the node as root, or give it what the node's \
                 kernel holds with --iptables-save and --ipset-save"
            ),
        )
        .into()),
    }
}

/// The options by which the rules of the kernel were made.
fn chosen(
    input: &Input,
    node: &str,
    args: &Args,
    actual: Option<&KernelState>,
    said: &AgentAnswer,
) -> Result<RulesetOptions, Stop> {
    // A kernel without a chain of npc shows no option.
    let shows = actual.filter(|actual| Family::ALL.iter().any(|family| !actual.family(*family).chains.is_empty()));
    let (seed, bounds) = (args.seed, input.bounds);
    let Some(actual) = shows else { return Ok(args.agent.options(seed, bounds)) };
    let mut vain = args.agent.given();
    vain.extend((seed.is_some() && actual.seed().is_some_and(|of_kernel| Some(of_kernel) != seed)).then_some("--seed"));
    if !vain.is_empty() {
        let message = format!("{}: only where no kernel is read; what was read shows it", vain.join(", "));
        return Err(Stop::new(Exit::Input, message));
    }
    // What the kernel keeps is what its rules were made by.
    let seeded = |options: RulesetOptions| RulesetOptions { seed: actual.seed().or(seed), ..options };
    let of_agent = said.options.clone().map(seeded);
    Ok(of_agent.unwrap_or_else(|| {
        seeded(options::nearest(actual, bounds, |options| {
            let options = seeded(options.clone());
            let desired = KernelState::from(&layout::ruleset_with(&input.cluster, node, &options, &said.retained));
            rule_distance(&desired, actual)
        }))
    }))
}

/// The node: that of the flag, of the agent here, of the address's endpoint, or the only one.
fn node(args: &Args, input: &Input, thing: &Thing) -> anyhow::Result<String> {
    let cluster = &input.cluster;
    if let Some(node) = &args.node {
        nodes::is_known(cluster, node)?;
        return Ok(node.clone());
    }
    if input.source == Source::Cluster
        && args.iptables_save.is_empty()
        && let Ok(status) = AgentStatus::ask()
    {
        return Ok(status.node);
    }
    if let Thing::Address(address) = thing
        && let [pod] = cluster.holders(*address, None)
        && let Some(node) = &cluster.pod(*pod).node
    {
        return Ok(node.clone());
    }
    let names: Vec<&str> = cluster.nodes().keys().map(String::as_str).collect();
    match (names.as_slice(), thing) {
        ([node], _) => Ok((*node).to_owned()),
        (_, Thing::Other(_)) => Ok(String::new()),
        ([], _) => Err(Stop::new(Exit::Input, "the input has no node; --node NAME says whose kernel it is").into()),
        (names, _) => {
            let known = near::listed(names.iter().copied());
            Err(Stop::new(Exit::Input, format!("--node NAME says whose kernel it is; the input knows {known}")).into())
        }
    }
}
