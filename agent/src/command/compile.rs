//! `npc compile`: what the compiler makes of the objects: pair sets, or one
//! node's ruleset.

mod expand;
mod pairs;
mod ruleset;

use npc_compiler::cluster::PodId;
use npc_compiler::cluster::group::Groups;
use npc_compiler::ruleset::layout;
use npc_compiler::ruleset::names::seed::Seed;
use npc_compiler::verdict::pairs::pair_sets;

use super::endpoint::check_namespace;
use super::labels::Labels;
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

    /// What to print, and in which format [default: pairs, with --node iptables].
    #[arg(short, long, value_enum)]
    output: Option<CompileFormat>,

    /// With -o pairs: print every pair of addresses.
    #[arg(long)]
    expand: bool,

    /// Print what this node's kernel gets; the name is that of spec.nodeName of its pods.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// With -o iptables and json: place groups in the dispatch tree by this secret of the node.
    ///
    /// The kernel of the node keeps it, in the name of the set npc4-seed-SEED. Without it,
    /// groups stand by their names.
    #[arg(long, value_name = "SEED", value_parser = |text: &str| text.parse::<Seed>())]
    seed: Option<Seed>,

    /// With -o iptables: only the part that this command loads.
    #[arg(long, value_enum, value_name = "PROGRAM")]
    only: Option<ruleset::Section>,

    /// Of the pair sets, show only those of pods with these labels, as kubectl's -l; -n shows
    /// those of one namespace only.
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<Labels>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CompileFormat {
    /// The pair sets, for people.
    Pairs,
    /// The pair sets, as JSON.
    PairsJson,
    /// One node's ruleset as text for ipset, iptables-restore and
    /// ip6tables-restore.
    Iptables,
    /// One node's ruleset as JSON.
    Json,
}

impl Args {
    /// The format; a flag that says nothing about it is an error.
    fn format(&self) -> Result<CompileFormat, Stop> {
        let by_default =
            if self.node.is_some() || self.only.is_some() { CompileFormat::Iptables } else { CompileFormat::Pairs };
        let format = self.output.unwrap_or(by_default);
        let of_node = matches!(format, CompileFormat::Iptables | CompileFormat::Json);
        let wrong = match format {
            _ if self.expand && format != CompileFormat::Pairs => "--expand goes with -o pairs",
            _ if self.only.is_some() && format != CompileFormat::Iptables => "--only goes with -o iptables",
            _ if self.seed.is_some() && !of_node => "--seed goes with -o iptables and -o json",
            _ if self.node.is_some() && !of_node => "--node goes with -o iptables and -o json",
            _ if self.selector.is_some() && of_node => "-l goes with -o pairs and -o pairs-json",
            _ if self.node.is_none() && of_node => "-o iptables, -o json and --only need --node NAME",
            _ => return Ok(format),
        };
        Err(Stop::new(Exit::Input, wrong))
    }
}

/// Prints pair sets or a ruleset.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let format = args.format()?;
    let input = args.input.read()?;
    input.warn();
    let cluster = &input.cluster;
    match format {
        CompileFormat::Pairs | CompileFormat::PairsJson => {
            let groups = Groups::of_cluster(cluster);
            let namespace = args.input.only_namespace();
            if let Some(namespace) = namespace {
                check_namespace(&input, namespace)?;
            }
            let is_shown = |pod: PodId| {
                let pod = cluster.pod(pod);
                namespace.is_none_or(|namespace| pod.namespace == namespace)
                    && args.selector.as_ref().is_none_or(|labels| labels.select(&pod.labels))
            };
            let mut sets = pair_sets(cluster, &groups);
            for set in &mut sets {
                set.subjects.retain(|pod| is_shown(*pod));
            }
            sets.retain(|set| !set.subjects.is_empty());
            match (format, args.expand) {
                (_, true) => expand::text(cluster, &sets, is_shown, &mut output::raw())?,
                (CompileFormat::Pairs, false) => pairs::text(cluster, &groups, &sets, &mut output::stdout())?,
                _ => output::json(&pairs::json(&input, &groups, &sets, is_shown))?,
            }
        }
        CompileFormat::Iptables | CompileFormat::Json => {
            let node = args.node.as_deref().unwrap_or_default();
            nodes::is_known(cluster, node)?;
            let options =
                layout::RulesetOptions { seed: args.seed, bounds: input.bounds, ..layout::RulesetOptions::default() };
            let ruleset = layout::ruleset(cluster, node, &options);
            match format {
                CompileFormat::Json => output::json(&ruleset::json(&input, node, &ruleset))?,
                _ => ruleset::text(node, &ruleset, args.only, &mut output::raw())?,
            }
        }
    }
    Ok(Exit::Fine)
}
