//! `npc compile`: what the compiler makes of the objects: pair sets, or one
//! node's program.

mod expand;
mod pairs;
mod program;

use npc_compiler::cluster::group::Groups;
use npc_compiler::ruleset::layout;
use npc_compiler::verdict::pairs::pair_sets;

use super::{Exit, Stop, input, nodes, output};

/// Show what the policies compile to.
///
/// By default the pair sets: for each group of endpoints that the same policies
/// isolate, which addresses may exchange which traffic with it, and which may not.
/// With --node, the chains and sets of one node's kernel, as text that ipset and
/// iptables load.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    input: input::Args,

    /// What to print, and in which format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,

    /// With -o pairs: print every pair of addresses.
    #[arg(long)]
    expand: bool,

    /// With -o iptables and json: the node, as in spec.nodeName of its pods.
    #[arg(long, value_name = "NAME", required_if_eq_any([("output", "iptables"), ("output", "json")]))]
    node: Option<String>,

    /// With -o iptables: only the part that this command loads.
    #[arg(long, value_enum, value_name = "PROGRAM")]
    only: Option<program::Section>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The pair sets, for people.
    #[default]
    Pairs,
    /// The pair sets, as JSON.
    PairsJson,
    /// One node's ruleset as text for ipset, iptables-restore and
    /// ip6tables-restore.
    Iptables,
    /// One node's ruleset as JSON.
    Json,
}

/// Prints pair sets or a program.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let input = args.input.read()?;
    input.warn();
    let cluster = &input.cluster;
    match args.output {
        Format::Pairs | Format::PairsJson => {
            let groups = Groups::of_cluster(cluster);
            let sets = pair_sets(cluster, &groups);
            match (args.output, args.expand) {
                (Format::Pairs, true) => expand::text(cluster, &sets, &mut output::raw())?,
                (_, true) => return Err(Stop::new(Exit::Input, "--expand goes with -o pairs").into()),
                (Format::Pairs, false) => pairs::text(cluster, &groups, &sets, &mut output::stdout())?,
                _ => output::json(&pairs::json(cluster, &sets))?,
            }
        }
        Format::Iptables | Format::Json => {
            let node = args.node.as_deref().unwrap_or_default();
            nodes::is_known(cluster, node)?;
            let program = layout::ruleset(cluster, node, &layout::Options::default());
            match args.output {
                Format::Json => output::json(&program::json(node, &program))?,
                _ => program::text(node, &program, args.only, &mut output::raw())?,
            }
        }
    }
    Ok(Exit::Fine)
}
