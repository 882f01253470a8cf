//! `npc cleanup`: out of the kernel with everything of ours.

use std::io::{self, Write};

use npc_agent::dataplane::cleanup::{Removed, cleanup};

use super::{Exit, agent};

/// Remove everything of ours from this node's kernel: the jump, the chains and
/// the sets, from both iptables backends, the table for bridges, and the device
/// group of pods' interfaces.
///
/// Nothing of others is touched. Beside an agent that still runs, which would
/// put it all back, this is refused: end that one first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Say nothing of what was removed.
    #[arg(long, short)]
    quiet: bool,
}

/// Removes, and reports what was removed and what could not be.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(agent::refuse_beside_one())?;
    let removed = cleanup();
    if !args.quiet {
        match report(&mut io::stdout().lock(), &removed) {
            // A reader that closes the pipe changes nothing of what failed.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
    }
    let exit = if removed.errors.is_empty() { Exit::Fine } else { Exit::Not };
    for error in removed.errors {
        // With its causes.
        eprintln!("npc: {:#}", anyhow::Error::new(error));
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
        writeln!(out, "removed set {set}")?;
    }
    for interface in &removed.interfaces {
        writeln!(out, "took interface {interface} out of the device group of pods")?;
    }
    if removed.bridge {
        writeln!(out, "removed the table bridge npc (nf_tables)")?;
    }
    if removed.is_nothing() {
        writeln!(out, "there is nothing of npc in this kernel")?;
    }
    Ok(())
}
