//! `npc migrate`: which flows change when npc takes Azure NPM's place.

mod node;
mod report;
mod text;

use npc_compiler::azure::{Model, Placement, differences};
use npc_compiler::cluster::group::Groups;

use super::endpoint::no_namespace;
use super::{Exit, Stop, input, nodes, output};
use crate::command::output::Format;
use node::NodeKernel;
use report::MigrationReport;

/// List the flows whose verdict will differ from Azure NPM's.
///
/// The command judges the policies as Azure NPM 1.4 to 1.6 does on Linux and as npc
/// does. It lists what npc will newly deny (-) and newly allow (+), by reason,
/// policy and field. With -n, it lists flows from or to that namespace only. On a node, with
/// --node, it also shows whether npc's rules already hold in this kernel, and what Azure NPM has
/// in it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    input: input::Args,

    /// Where Azure NPM's jump stands in FORWARD [default: as in this node's kernel,
    /// else behind-kube-proxy, which lists more].
    #[arg(long, value_enum, value_name = "WHERE")]
    azure_chain: Option<AzureJump>,

    /// Read this machine's kernel too; it is the node of this name. Needs root.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// The format of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,

    /// Exit with 0 even if there are differences.
    #[arg(long)]
    exit_zero: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AzureJump {
    /// Before everything else (PlaceAzureChainFirst; AKS since 1.27).
    First,
    /// Behind kube-proxy's jumps.
    BehindKubeProxy,
}

/// Lists the differences.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let input = args.input.read()?;
    input.warn();
    let cluster = &input.cluster;
    if let Some(node) = &args.node {
        nodes::is_known(cluster, node)?;
    }
    let node = args.node.as_deref().map(|node| NodeKernel::read(node, &input)).transpose()?;
    let placement = match args.azure_chain {
        Some(AzureJump::First) => Placement::First,
        Some(AzureJump::BehindKubeProxy) => Placement::BehindKubeProxy,
        None => node.as_ref().and_then(NodeKernel::placement).unwrap_or_default(),
    };
    let groups = Groups::of_cluster(cluster);
    let model = Model::new(cluster, &input.loaded.objects.policies, placement);
    let differences = differences(&model, &groups, &input.loaded.objects.services);
    let mut report = MigrationReport::new(&input, (&model, placement), &differences, node.as_ref());
    if let Some(namespace) = args.input.only_namespace() {
        if let Some(message) = no_namespace(&input, namespace) {
            return Err(Stop::new(Exit::NotFound, message).into());
        }
        report.keep_only(namespace);
    }
    match args.output {
        Format::Json => output::json(&report)?,
        Format::Text => text::write(&report, &mut output::stdout())?,
    }
    let holds = node.as_ref().is_none_or(|node| node.differs.is_empty());
    Ok(if (report.differences.is_empty() && holds) || args.exit_zero { Exit::Fine } else { Exit::Not })
}
