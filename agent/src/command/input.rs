//! What commands that judge read: files, or else the cluster that kubectl would
//! talk to.

use std::path::PathBuf;

use anyhow::Context as _;
use npc_agent::source::kube;
use npc_agent::source::manifests::{self, Loaded, Severity};
use npc_agent::source::whatif::{self, Removal};
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::unread::{Extent, Unread};

use super::{Exit, Stop, unjudged};

/// Where the objects come from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Input")]
#[group(id = "input")]
pub(super) struct Args {
    /// Read objects from this file, this directory, or standard input (`-`),
    /// instead of a cluster; may be repeated.
    #[arg(short, long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The kubeconfig of the cluster to read [default: as kubectl].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// The namespace of objects and endpoints without one [default: the context's,
    /// else default].
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    /// Accepted as by kubectl. It changes nothing: npc reads all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,

    /// Judge as if these objects were applied on top; may be repeated.
    #[arg(long, value_name = "FILE")]
    overlay: Vec<PathBuf>,

    /// Judge as if this object were deleted; may be repeated.
    #[arg(long, value_name = "KIND/NS/NAME")]
    remove: Vec<Removal>,

    /// Leave out documents that npc cannot read, instead of failing.
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
    /// The namespace of endpoints that name none.
    pub(super) namespace: String,
    /// What the input has that npc does not judge and that may change every answer.
    pub(super) warnings: Vec<String>,
}

impl Input {
    /// Says on standard error what the input has that npc does not judge.
    pub(super) fn warn(&self) {
        for warning in &self.warnings {
            eprintln!("warning: {warning}");
        }
    }
}

/// What documents that are left out may hold.
fn unread(loaded: &Loaded) -> Vec<Unread> {
    let errors = loaded.problems.iter().filter(|problem| problem.severity == Severity::Error);
    let left_out = errors.map(|problem| {
        let (kind, namespace) = match &problem.object {
            Some(object) if object.namespace.is_empty() => (Some(object.kind.clone()), Extent::Everywhere),
            Some(object) => (Some(object.kind.clone()), Extent::In(object.namespace.clone())),
            None => (None, Extent::Everywhere),
        };
        Unread { kind, namespace, why: problem.to_string() }
    });
    left_out.collect()
}

impl Args {
    /// Reads the objects; says on standard error what is odd about them.
    pub(super) fn read(&self) -> anyhow::Result<Input> {
        let (mut loaded, namespace) = if self.files.is_empty() {
            self.ask()?
        } else {
            let namespace = self.namespace.clone().unwrap_or_else(|| "default".to_owned());
            (manifests::load(&self.files, &self.options(&namespace, true))?, namespace)
        };
        if !self.overlay.is_empty() {
            let options = self.options(&namespace, !self.files.is_empty());
            let overlay = manifests::load(&self.overlay, &options).context("--overlay")?;
            whatif::apply_overlay(&mut loaded, overlay);
        }
        for removal in &self.remove {
            removal
                .apply(&mut loaded.objects)
                .map_err(|error| Stop::new(Exit::Input, format!("--remove {removal}: {error}")))?;
        }
        if !self.overlay.is_empty() || !self.remove.is_empty() {
            loaded.objects.forget_computed_slices();
        }
        loaded.objects.declare_slice_pods();
        let cluster = Cluster::new(&loaded.objects).with_unread(unread(&loaded));
        report(&loaded, &cluster);
        let warnings = unjudged::warnings(&loaded.skipped);
        Ok(Input { loaded, cluster, namespace, warnings })
    }

    /// A cluster knows its namespaces; files may leave them out.
    fn options(&self, namespace: &str, declare_namespaces: bool) -> manifests::Options {
        let default_namespace = namespace.to_owned();
        manifests::Options { default_namespace, allow_errors: self.allow_errors, declare_namespaces }
    }

    /// Lists the cluster's objects.
    fn ask(&self) -> anyhow::Result<(Loaded, String)> {
        let unreachable = |error: anyhow::Error| Stop::new(Exit::Cluster, format!("{error:#}"));
        let asked = async {
            let client = kube::connect(self.kubeconfig.as_deref(), self.context.clone()).await?.client()?;
            let namespace = self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
            anyhow::Ok((kube::list(&client).await?, namespace))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (listed, namespace) = runtime.block_on(asked).map_err(unreachable)?;
        if !listed.problems.is_empty() && !self.allow_errors {
            return Err(Stop::new(Exit::Input, listed.problems.join("\n")).into());
        }
        listed.problems.iter().for_each(|problem| eprintln!("{problem}"));
        Ok((Loaded { objects: listed.objects, ..Loaded::default() }, namespace))
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
}
