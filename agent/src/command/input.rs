//! What commands that judge read: files now; the cluster is to come.

use std::path::PathBuf;

use anyhow::Context as _;
use npc_agent::source::manifests::{self, Loaded};
use npc_agent::source::whatif::{self, Removal};
use npc_compiler::cluster::Cluster;

use super::{Exit, Stop};

/// Where the objects come from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Input")]
#[group(id = "input")]
pub(super) struct Args {
    /// Read objects from this file or directory, or standard input (`-`);
    /// may be given more than once. The cluster is then not asked.
    #[arg(short, long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The namespace of objects and endpoints that name none.
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    pub(super) namespace: String,

    /// What if these objects were applied on top; may be given more than once.
    #[arg(long, value_name = "FILE")]
    overlay: Vec<PathBuf>,

    /// What if this object were deleted; may be given more than once.
    #[arg(long, value_name = "KIND/NS/NAME")]
    remove: Vec<Removal>,

    /// Leave out documents that cannot be read, instead of failing.
    #[arg(long)]
    allow_errors: bool,
}

/// The objects, and the cluster that they describe.
#[derive(Debug)]
pub(super) struct Input {
    /// Objects and where they stand.
    pub(super) loaded: Loaded,
    /// The cluster.
    pub(super) cluster: Cluster,
}

impl Args {
    /// Reads the objects; says on standard error what is odd about them.
    pub(super) fn read(&self) -> anyhow::Result<Input> {
        if self.files.is_empty() {
            let message = "a live cluster cannot be asked yet; give files or directories with -f";
            return Err(Stop::new(Exit::Cluster, message).into());
        }
        let options = manifests::Options {
            default_namespace: self.namespace.clone(),
            allow_errors: self.allow_errors,
            declare_namespaces: true,
        };
        let mut loaded = manifests::load(&self.files, &options)?;
        if !self.overlay.is_empty() {
            let overlay = manifests::load(&self.overlay, &options).context("--overlay")?;
            whatif::apply_overlay(&mut loaded, overlay);
        }
        for removal in &self.remove {
            removal
                .apply(&mut loaded.objects)
                .map_err(|error| Stop::new(Exit::Input, format!("--remove {removal}: {error}")))?;
        }
        let cluster = Cluster::new(&loaded.objects);
        report(&loaded, &cluster);
        Ok(Input { loaded, cluster })
    }
}

/// Says what was not read as it stands.
fn report(loaded: &Loaded, cluster: &Cluster) {
    for problem in &loaded.problems {
        eprintln!("{problem}");
    }
    for finding in cluster.findings() {
        let place = loaded.positions.locate("NetworkPolicy", &finding.namespace, &finding.name, &finding.path);
        match place {
            Some(place) => eprintln!("{place}: warning: {finding}"),
            None => eprintln!("warning: {finding}"),
        }
    }
    if !loaded.skipped.is_empty() {
        let kinds: Vec<String> = loaded.skipped.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        eprintln!("npc: passed over {}: nothing about connectivity", kinds.join(", "));
    }
}
