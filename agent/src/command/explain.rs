//! `npc explain`: why a flow is or is not allowed.

mod answer;
mod ask;
mod contests;
mod ends;
mod excerpt;
mod single;
mod text;
mod zones;

use npc_compiler::cluster::group::Groups;
use npc_compiler::verdict::explain::Verdict;

use super::endpoint::Written;
use super::input::{self, Input};
use super::{Exit, Stop, output};

/// Explain why a flow is or is not allowed; for one endpoint alone, what isolates it,
/// and what it may send and receive.
///
/// An endpoint is [NS/][TYPE/]NAME[:PORT], an address or prefix
/// (203.0.113.7:443, [2001:db8::1]:443, 10.0.0.0/8), svc/NAME, node/NAME,
/// ns/NAME or any. A port is a number, a name, 53/udp or 8000-8100; without a
/// port, all ports are meant. The exit code is 0 for allowed, 1 for denied or
/// partial, 3 if an endpoint is not found or ambiguous, 4 for unknown.
#[allow(rustdoc::broken_intra_doc_links, reason = "clap prints the brackets as they stand")]
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    input: input::Args,

    /// The source. Without a destination: the endpoint to explain.
    #[arg(value_name = "SRC")]
    from: Written,

    /// The destination.
    #[arg(value_name = "DST[:PORT]")]
    to: Option<Written>,

    /// The format of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,

    /// Exit with 0 instead of 1.
    #[arg(long)]
    exit_zero: bool,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

/// What an explanation looks things up in.
struct Context<'a> {
    input: &'a Input,
    groups: &'a Groups,
}

/// Explains.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let input = args.input.read()?;
    let cluster = &input.cluster;
    let groups = Groups::new(cluster, cluster.endpoints().map(|(id, _)| id));
    let context = Context { input: &input, groups: &groups };
    let from = args.from.resolve(&input, &input.namespace)?;
    let Some(to) = &args.to else {
        let about = single::about(&context, &from)?;
        match args.output {
            Format::Json => output::json(&about.json())?,
            Format::Text => about.text(&mut output::stdout())?,
        }
        return Ok(Exit::Fine);
    };
    if from.port.is_some() {
        return Err(Stop::new(Exit::Input, "a port belongs to the destination; the source's does not matter").into());
    }
    let to = to.resolve(&input, &input.namespace)?;
    let asked = ask::ask(&context, &from, &to)?;
    match args.output {
        Format::Json => output::json(&answer::Answer::of(&context, &from, &to, args.to.as_ref(), &asked))?,
        Format::Text => text::write(&context, &from, &to, &asked, &mut output::stdout())?,
    }
    Ok(match asked.verdict() {
        Verdict::Allowed => Exit::Fine,
        Verdict::Unknown => Exit::Unknown,
        Verdict::Denied | Verdict::Partial if args.exit_zero => Exit::Fine,
        Verdict::Denied | Verdict::Partial => Exit::Not,
    })
}
