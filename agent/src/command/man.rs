//! `npc man`: the manual pages.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::{Cli, Exit};

/// Write the manual pages, one for each command, into a directory.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory, which is made where it is not there.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Writes them.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let failed = || format!("cannot write manual pages to {}", args.folder.display());
    fs::create_dir_all(&args.folder).with_context(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.folder).with_context(failed)?;
    Ok(Exit::Fine)
}
