//! What commands that judge read: files, or else the cluster that kubectl would
//! talk to.

mod kustomize;
mod named;
mod own_labels;
mod planned;
mod progress;
mod report;
mod timeout;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::builder::RangedU64ValueParser;
use futures::FutureExt as _;
use futures::future::try_join;
use npc_agent::finding::Finding;
use npc_agent::source::kube;
use npc_agent::source::manifests::{self, Loaded, ObjectRef, Severity};
use npc_agent::source::whatif::{self, Removal};
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::hints::Hints;
use npc_compiler::cluster::unread::{Extent, FileFault, Unread, WhyUnread};
use npc_compiler::object::{Consequence, Labels, NetworkPolicy, Objects, Workload};
use npc_compiler::policy::Policy;
use npc_compiler::ruleset::layout::{Bounds, RulesetOptions};
use npc_compiler::ruleset::members;

use super::warning::Warning;
use super::{Exit, Stop, unjudged};
use named::UnknownWorkloads;
pub(super) use named::{NamedEnds, NamedObject};
pub(super) use report::unread_words;
use timeout::Timeout;

/// Where the objects come from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Input")]
#[group(id = "input")]
pub(super) struct Args {
    /// Read objects from this file, this directory and those below it, or standard
    /// input (`-`), instead of a cluster; may be repeated, or a list with commas.
    #[arg(short, long = "filename", value_name = "FILE", value_delimiter = ',')]
    files: Vec<PathBuf>,

    /// Read what `kubectl kustomize` makes of this directory; may be repeated.
    #[arg(short, long, value_name = "DIR")]
    kustomize: Vec<PathBuf>,

    /// Accepted as by kubectl. It changes nothing: npc reads the directories below a
    /// directory too.
    #[arg(short = 'R', long)]
    recursive: bool,

    /// The kubeconfig of the cluster to read [default: as kubectl].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// How long one answer of the API server may take, as 30s, 1m or 5. 0: give up only
    /// after two minutes without data.
    #[arg(long, value_name = "TIME", default_value_t)]
    request_timeout: Timeout,

    /// The namespace of objects and endpoints without one, and one to read where you may not
    /// read all, beside those that the endpoints name [default: the context's, as kubectl takes it with -f too, else default].
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    /// Accepted as by kubectl. npc reads all namespaces that you may read.
    #[arg(short = 'A', long)]
    all_namespaces: bool,

    /// Judge as if these objects were applied on top; may be repeated.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    overlay: Vec<PathBuf>,

    /// Judge as if this object were deleted; may be repeated.
    #[arg(long, value_name = "KIND/NS/NAME")]
    remove: Vec<Removal>,

    /// Leave out documents that npc cannot read, instead of failing.
    #[arg(long)]
    allow_errors: bool,

    /// The agents' --max-set-members, if it is not the default: over it, policies of a
    /// namespace admit nothing on a node.
    #[arg(long, value_name = "COUNT", default_value_t = Bounds::default().set_members, hide_short_help = true,
        value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    max_set_members: u64,

    /// The agents' --max-rules, if it is not the default: over it, as over --max-set-members.
    #[arg(long, value_name = "COUNT", default_value_t = Bounds::default().rules, hide_short_help = true,
        value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    max_rules: u64,
}

/// Where objects came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Files,
    Cluster,
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
    pub(super) warnings: Vec<Warning>,
    /// What files hold that may decide and is no object as it stands: templates, what is
    /// encrypted, kustomizations.
    pub(super) passed_over: Vec<Warning>,
    /// Where the objects came from.
    pub(super) source: Source,
    /// What the policies of a namespace may need on a node.
    pub(super) bounds: Bounds,
    /// What the API server listed and npc cannot read.
    listed: Vec<String>,
    /// Namespaces that may be there and were not read.
    unread_namespaces: Vec<Unread>,
    unknown_workloads: UnknownWorkloads,
}

/// What the API server says.
#[derive(Debug, Default)]
struct ClusterAnswer {
    loaded: Loaded,
    namespace: String,
    /// What it listed and npc cannot read.
    problems: Vec<String>,
    /// What the reader should know besides.
    warnings: Vec<Warning>,
    own_labels: BTreeMap<ObjectRef, Labels>,
    unknown_workloads: UnknownWorkloads,
}

impl Input {
    /// A cluster as agents with the bound of this input enforce it. If a namespace is named, the cluster was so before
    /// policies of this namespace changed.
    pub(super) fn bounded(&self, cluster: Cluster, namespace: Option<&str>) -> Cluster {
        let options = RulesetOptions { bounds: self.bounds, ..RulesetOptions::default() };
        match namespace {
            Some(namespace) => members::bounded_in(cluster, namespace, &options),
            None => members::bounded(cluster, &options),
        }
    }

    /// What is wrong with the objects, sorted.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let problems = self.loaded.problems.iter().map(Finding::of_problem);
        let listed = self.listed.iter().map(|problem| Finding::of_listing(problem));
        let policies = self.cluster.findings().iter().map(|of| {
            let place = self.loaded.positions.locate("NetworkPolicy", &of.namespace, &of.name, &of.path);
            Finding::of_policy(of, place.as_ref())
        });
        let mut findings: Vec<Finding> = problems.chain(listed).chain(policies).collect();
        Finding::sort(&mut findings);
        findings
    }

    /// What is wrong with the objects, and what an answer does not take into account, sorted.
    pub(super) fn findings_with(&self, warnings: &[Warning]) -> Vec<Finding> {
        let mut findings = self.findings();
        findings.extend(warnings.iter().flat_map(Warning::findings).cloned());
        Finding::sort(&mut findings);
        findings.dedup();
        findings
    }

    /// Warnings, and with them what files hold that may decide and was passed over: a program that
    /// reads the JSON of an answer gets nothing else.
    pub(super) fn with_passed_over(&self, mut warnings: Vec<Warning>) -> Vec<Warning> {
        warnings.extend(self.passed_over.iter().cloned());
        warnings
    }

    /// The same, and what was left out because it was not understood: of an answer that has no findings on ends
    /// that it lacks.
    pub(super) fn with_left_out(&self, warnings: Vec<Warning>) -> Vec<Warning> {
        let mut warnings = self.with_passed_over(warnings);
        let errors = self.loaded.problems.iter().filter(|problem| problem.severity() == Severity::Error);
        warnings.extend(errors.map(|problem| {
            let text = format!("left out, because it was not understood: {problem:#}");
            Warning::of_finding(problem.code.as_str(), text)
        }));
        warnings
    }

    /// Whether pods of a namespace may exist that were not read.
    pub(super) fn may_hold_pods(&self, namespace: &str) -> bool {
        self.loaded.unread.iter().any(|unread| unread.may_hold("Pod", namespace))
    }

    /// Whether a namespace may be there that was not read.
    pub(super) fn may_have_namespace(&self, name: &str) -> bool {
        self.unread_namespaces.iter().any(|unread| unread.namespace.covers(name))
    }

    /// What was not read and may declare a namespace, in words.
    pub(super) fn unread_namespaces(&self, name: &str) -> Vec<String> {
        unread_words(self.unread_namespaces.iter().filter(|unread| unread.namespace.covers(name)))
    }

    /// Why it is not known whether workloads are there that this name may mean; without a kind, any.
    pub(super) fn unknown_workloads(&self, namespace: &str, kind: Option<&str>, name: &str) -> Vec<String> {
        self.unknown_workloads.why(namespace, kind, name)
    }

    /// Documents that were left out and may hold pods, in words. What a reader may not list, and what files
    /// have in place of objects, warnings say.
    pub(super) fn left_out_pods(&self) -> Option<String> {
        let is_left_out =
            |of: &&Unread| of.may_be_pods() && matches!(of.why, WhyUnread::InFile(_, FileFault::DidNotParse { .. }));
        let words = unread_words(self.loaded.unread.iter().filter(is_left_out));
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// What was not read of the policies of any namespace, in words.
    pub(super) fn unread_policies(&self) -> Vec<String> {
        unread_words(self.loaded.unread.iter().filter(|unread| unread.may_be("NetworkPolicy")))
    }

    /// Says on standard error what the input has that npc does not judge.
    pub(super) fn warn(&self) {
        for warning in &self.warnings {
            say!("{warning}");
        }
    }
}

impl Source {
    /// As in JSON.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Cluster => "cluster",
        }
    }
}

impl Args {
    /// Leaves out what cannot be read, as --allow-errors does.
    pub(super) const fn leave_out_errors(&mut self) {
        self.allow_errors = true;
    }

    /// The namespace of `-n`, unless `-A` asks for all.
    pub(super) fn only_namespace(&self) -> Option<&str> {
        self.namespace.as_deref().filter(|_| !self.all_namespaces)
    }

    /// Reads the objects; says on standard error what is odd about them.
    pub(super) fn read(&self) -> anyhow::Result<Input> {
        self.read_for(&NamedEnds::default())
    }

    /// Reads the objects, and of a cluster the workloads that are named so too, and where not all namespaces
    /// may be read those that are named; says on standard error what is odd about them.
    pub(super) fn read_for(&self, ends: &NamedEnds<'_>) -> anyhow::Result<Input> {
        let input = self.read_all(Some(ends))?;
        input.listed.iter().for_each(|problem| say!("{problem}"));
        report::write(&input.loaded, &input.cluster);
        Ok(input)
    }

    /// Reads the objects; says nothing about them.
    pub(super) fn read_quietly(&self) -> anyhow::Result<Input> {
        self.read_all(Some(&NamedEnds::default()))
    }

    /// Reads the objects for their names alone: asks for nothing that only answers need, and says nothing.
    pub(super) fn read_names(&self) -> anyhow::Result<Input> {
        self.read_all(None)
    }

    /// Takes `-n` for not said.
    pub(super) fn forget_namespace(&mut self) {
        self.namespace = None;
    }

    /// Reads the objects, for their names alone where there is no list of ends.
    fn read_all(&self, ends: Option<&NamedEnds<'_>>) -> anyhow::Result<Input> {
        let source = if self.files.is_empty() && self.kustomize.is_empty() { Source::Cluster } else { Source::Files };
        let asked = match source {
            Source::Cluster => self.ask(ends)?,
            Source::Files => {
                let namespace = self.namespace_of_files()?;
                ClusterAnswer { loaded: self.load(&namespace)?, namespace, ..ClusterAnswer::default() }
            }
        };
        let ClusterAnswer {
            mut loaded,
            namespace,
            problems: listed,
            warnings: of_server,
            own_labels,
            unknown_workloads,
        } = asked;
        if !self.overlay.is_empty() {
            let options = self.options(&namespace, source == Source::Files);
            let overlay = manifests::load(&self.overlay, &options).context("--overlay")?;
            whatif::apply_overlay(&mut loaded, overlay);
        }
        for removal in &self.remove {
            removal
                .apply(&mut loaded.objects)
                .map_err(|error| Stop::new(Exit::Input, format!("--remove {removal}: {error}")))?;
        }
        if !self.remove.is_empty() {
            // Where no policy of this name is left, none counts in place of an earlier one.
            let policies = &loaded.objects.policies;
            let remains = |of: &NetworkPolicy| {
                policies.iter().any(|policy| policy.namespace() == of.namespace() && policy.name() == of.name())
            };
            loaded.replaced.retain(|replaced| remains(&replaced.policy));
        }
        if !self.overlay.is_empty() || !self.remove.is_empty() {
            loaded.objects.forget_computed_slices();
        }
        loaded.objects.forget_endpoints_of_selectors();
        loaded.objects.declare_slice_pods();
        let planned = ends.map(|ends| planned::add(&mut loaded, ends, &namespace)).unwrap_or_default();
        let unread_namespaces = loaded.unread.iter().filter(|of| of.may_be("Namespace")).cloned().collect();
        if source == Source::Files {
            loaded.unread.extend(undeclared(&loaded.objects));
        }
        let cluster = Cluster::new(&loaded.objects)
            .with_unread(loaded.unread.clone())
            .with_pod_makers(unjudged::with(&loaded, &[Consequence::MakesPods, Consequence::MakesObjects]))
            .with_hints(hints(&loaded, &own_labels));
        let bounds = Bounds { set_members: self.max_set_members, rules: self.max_rules };
        let options = RulesetOptions { bounds, ..RulesetOptions::default() };
        let cluster = members::bounded(cluster, &options);
        let mut warnings = unjudged::warnings(&loaded);
        warnings.extend(of_server);
        warnings.extend(planned);
        warnings.extend(report::rights(&loaded.unread));
        let passed_over = report::undecided(&loaded.passed_over);
        Ok(Input {
            loaded,
            cluster,
            namespace,
            warnings,
            passed_over,
            source,
            bounds,
            listed,
            unread_namespaces,
            unknown_workloads,
        })
    }

    /// The namespace of objects of files without one, as kubectl finds it.
    fn namespace_of_files(&self) -> Result<String, Stop> {
        if let Some(namespace) = &self.namespace {
            return Ok(namespace.clone());
        }
        let of_context = match kube::context_namespace(self.kubeconfig.as_deref(), self.context.as_deref()) {
            // Files need no kubeconfig; one that is named has to be there.
            Err(error) if self.kubeconfig.is_some() || self.context.is_some() => {
                return Err(Stop::new(Exit::Input, error.to_string()));
            }
            of_context => of_context.ok().flatten(),
        };
        Ok(of_context.unwrap_or_else(|| "default".to_owned()))
    }

    /// A cluster knows its namespaces; files may leave them out.
    fn options(&self, namespace: &str, declare_namespaces: bool) -> manifests::ReadOptions {
        let default_namespace = namespace.to_owned();
        manifests::ReadOptions {
            default_namespace,
            allow_errors: self.allow_errors,
            declare_namespaces,
            pass_over: true,
        }
    }

    /// Reads files, and what kubectl makes of kustomizations.
    fn load(&self, namespace: &str) -> anyhow::Result<Loaded> {
        if let Some(url) = self.files.iter().filter_map(|file| file.to_str()).find(|file| is_url(file)) {
            let message = format!("npc fetches nothing; curl -s {url} | npc … -f -");
            return Err(Stop::new(Exit::Input, message).into());
        }
        let options = self.options(namespace, true);
        let rendered = self.kustomize.iter().map(|folder| kustomize::render(folder)).collect::<Result<Vec<_>, _>>()?;
        let loaded = progress::show(|read| manifests::load_with(&self.files, &rendered, &options, read))?;
        let is_nothing = loaded.objects == Objects::default() && loaded.skipped.is_empty() && loaded.idle.is_empty();
        if is_nothing && !loaded.passed_over.files.is_empty() {
            report::passed_over(&loaded.passed_over);
            return Err(Stop::new(Exit::Input, "no Kubernetes object is in this input, so nothing was judged").into());
        }
        Ok(loaded)
    }

    /// Lists the cluster's objects; with ends, looks for what these name and for what decides besides.
    fn ask(&self, ends: Option<&NamedEnds<'_>>) -> anyhow::Result<ClusterAnswer> {
        let asked = async {
            let connector = kube::connect(self.kubeconfig.as_deref(), self.context.as_deref())?;
            let client = connector.client()?;
            let namespace = self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
            let request_timeout = self.request_timeout.into();
            let others = ends.iter().flat_map(|ends| ends.namespaces(&namespace)).collect();
            let settings = kube::ListSettings { namespace: namespace.clone(), others, request_timeout };
            let aside = connector.apart().client()?;
            let others = async {
                match ends {
                    Some(_) => kube::other_policies(&aside, &settings).await,
                    None => kube::OtherPolicies::default(),
                }
            };
            let listed = try_join(kube::list(&client, &settings), others.map(Ok)).await;
            let server = connector.server().unwrap_or_default();
            let (listed, others) = listed.map_err(|error| anyhow::anyhow!("{error} (API server {server})"))?;
            let kube::ListedObjects { objects, problems, unread } = listed;
            let mut loaded = Loaded { objects, unread, skipped: others.found.clone(), ..Loaded::default() };
            let named_objects = ends.map(|ends| ends.objects.as_slice()).unwrap_or_default();
            let mut named = named::read(&client, named_objects, &settings, &mut loaded).await;
            let mut own_labels = std::mem::take(&mut named.own_labels);
            if ends.is_some_and(|ends| ends.wants_own_labels) {
                let Loaded { objects, represented, .. } = &mut loaded;
                own_labels::read(&client, named_objects, &settings, objects, &mut own_labels, represented).await;
            }
            let warnings = named.warnings(&loaded.unread).into_iter().chain(report::other_policies(&others)).collect();
            anyhow::Ok(ClusterAnswer {
                loaded,
                namespace,
                problems,
                warnings,
                own_labels,
                unknown_workloads: named.unknown,
            })
        };
        let unreachable = |error: anyhow::Error| {
            Stop::new(Exit::Cluster, format!("{error:#}; to judge files instead of a cluster, name them with -f"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = runtime.block_on(asked).map_err(unreachable)?;
        if !asked.problems.is_empty() && !self.allow_errors {
            return Err(Stop::new(Exit::Input, asked.problems.join("\n")).into());
        }
        Ok(asked)
    }
}

/// What the input says beside the objects that decide. `asked` has the labels of workloads that the API
/// server was asked for. A file in place of what the cluster has says all of the object.
fn hints(loaded: &Loaded, asked: &BTreeMap<ObjectRef, Labels>) -> Hints {
    let name = |of: &ObjectRef| (of.namespace.clone(), Workload { kind: of.kind.clone(), name: of.name.clone() });
    let of_files = loaded.workload_labels.iter().map(|(of, labels)| (name(of), labels.clone()));
    Hints {
        workload_labels: asked.iter().map(|(of, labels)| (name(of), labels.clone())).chain(of_files).collect(),
        template_labels: loaded.represented.iter().map(|(of, labels)| (name(of), labels.clone())).collect(),
        without_pods: loaded.idle.iter().map(|(of, labels)| (name(of), labels.clone())).collect(),
        replaced_policies: loaded.replaced.iter().map(|of| Policy::read(&of.policy).0).collect(),
    }
}

/// Whether kubectl would fetch it.
fn is_url(file: &str) -> bool {
    file.starts_with("http://") || file.starts_with("https://")
}

/// The labels of namespaces that no object of the files declares: only their names are known.
fn undeclared(objects: &Objects) -> Option<Unread> {
    let names: Vec<String> = objects.implied_namespaces.iter().cloned().collect();
    let kind = Some("Namespace".to_owned());
    (!names.is_empty()).then_some(Unread {
        kind,
        namespace: Extent::Everywhere,
        subject: None,
        why: WhyUnread::Undeclared(names),
    })
}
