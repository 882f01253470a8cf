//! `npc cleanup`: out of the kernel with everything of ours, and out of the CNI
//! configuration.

use std::io::{self, Write};

use npc_agent::dataplane::cleanup::{Removed, cleanup};

use super::install_cni::NodePaths;
use super::{Exit, agent};

/// What help begins with.
const EXAMPLES: &str = "\
Examples:
  npc cleanup                  remove the rules of this node, once no agent runs here
  npc cleanup --cni            the same, and take the CNI plugin away first
  npc cleanup --quiet          for scripts: only the exit code and errors";

/// What help ends with.
const EXITS: &str = "\
Exit codes: 0 nothing of npc is left, or there was nothing, 1 something could not be removed (standard error says what),
2 bad flags, or an agent or an npc install-cni runs here and nothing was removed.";

/// Remove all that npc has in this node's kernel.
///
/// That is the jump in FORWARD, the chains and the sets of both iptables backends, the tables `bridge npc`
/// and `inet npc` of nf_tables, and the device group of pods' interfaces. The command touches nothing
/// else. From then on no policy is enforced on this node. While an agent runs here, it
/// removes nothing and exits with 2, because the agent would put it all back: stop the agent first.
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = EXITS)]
pub(super) struct Args {
    /// Do not print what was removed.
    #[arg(long, short)]
    quiet: bool,

    /// First take the CNI plugin away: its conflist, and the plugin itself unless a runtime
    /// may still call it for pods that were started with it. The node starts pods without
    /// it from then on.
    #[arg(long)]
    cni: bool,

    /// Remove the plugin also while a runtime may call it for pods that were started with it. The
    /// runtime may be unable to end these pods. It stays while a file that another program derived from npc's
    /// conflist names it, because no pod would start.
    #[arg(long, requires = "cni")]
    purge: bool,

    #[command(flatten)]
    places: NodePaths,
}

/// Removes, and reports what was removed and what could not be.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _no_agent = runtime.block_on(agent::refuse_beside_agent())?;
    if args.cni {
        let done = args.places.remove(args.purge)?;
        if !args.quiet {
            for words in done {
                match writeln!(io::stdout().lock(), "{words}") {
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
                    _ => {}
                }
            }
        }
    }
    let removed = cleanup();
    if !args.quiet {
        match report(&mut io::stdout().lock(), &removed) {
            // If a reader closes the pipe, the failures of the removal still count.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
    }
    let exit = if removed.errors.is_empty() { Exit::Fine } else { Exit::Not };
    for error in removed.errors {
        // With its causes.
        say!("npc: {:#}", anyhow::Error::new(error));
    }
    Ok(exit)
}

fn report(out: &mut impl Write, removed: &Removed) -> io::Result<()> {
    for (backend, family) in &removed.jumps {
        writeln!(out, "removed the jump to NPC-FORWARD from FORWARD ({backend}, {family})")?;
    }
    for (backend, family, chain) in &removed.chains {
        writeln!(out, "removed chain {chain} ({backend}, {family})")?;
    }
    for set in &removed.sets {
        writeln!(out, "removed set {}", set.shown())?;
    }
    for interface in &removed.interfaces {
        writeln!(out, "took interface {interface} out of the device group of pods")?;
    }
    if removed.bridge {
        writeln!(out, "removed the table bridge npc (nf_tables)")?;
    }
    if removed.flow_index {
        writeln!(out, "removed the table inet npc (nf_tables)")?;
    }
    if removed.is_nothing() {
        writeln!(out, "there is nothing of npc in this kernel")?;
    }
    Ok(())
}
