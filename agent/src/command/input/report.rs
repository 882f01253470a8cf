//! What is odd about the input, on standard error: each kind of thing once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use npc_agent::finding::Finding;
use npc_agent::source::manifests::{Loaded, OtherDocument, PassedOver};
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::unread::{Extent, Unread};

use crate::command::words::shorten;

/// So many files or folders are named.
const NAMED: usize = 2;

/// So many warnings that say the same are written out.
const ALIKE: usize = 3;

/// Says what was not read as it stands.
pub(super) fn write(loaded: &Loaded, cluster: &Cluster) {
    let mut warnings = Warnings::default();
    for problem in &loaded.problems {
        // What follows names the other place.
        let what = problem.message.split(" at ").next().unwrap_or_default();
        warnings.add(what, format!("{problem:#}"));
    }
    for finding in cluster.findings() {
        let place = loaded.positions.locate("NetworkPolicy", &finding.namespace, &finding.name, &finding.path);
        let finding = Finding::of_policy(finding, place.as_ref());
        let place = finding.location.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let line = format!("{place}{}[{}]: {finding}", finding.severity.as_str(), finding.code);
        warnings.add(&format!("{}; {}", finding.problem, finding.effect), line);
    }
    warnings.write();
    passed_over(&loaded.passed_over);
    let may_have_policies =
        loaded.unread.iter().any(|unread| unread.kind.as_deref().is_none_or(|kind| kind == "NetworkPolicy"));
    if cluster.policies().next().is_none() && cluster.endpoints().next().is_some() && !may_have_policies {
        eprintln!("npc: 0 NetworkPolicies: everything is allowed");
    }
}

/// Warnings, of which those that say the same of several objects are folded.
#[derive(Default)]
struct Warnings(IndexMap<String, Vec<String>>);

impl Warnings {
    fn add(&mut self, what: &str, line: String) {
        self.0.entry(what.to_owned()).or_default().push(line);
    }

    fn write(&self) {
        for (what, lines) in &self.0 {
            let listed = if lines.len() == ALIKE + 1 { lines.len() } else { ALIKE };
            lines.iter().take(listed).for_each(|line| eprintln!("{line}"));
            if let Some(more @ 1..) = lines.len().checked_sub(listed) {
                eprintln!("npc: {more} more of: {what}");
            }
        }
    }
}

/// One line for each kind of thing that is no object.
pub(super) fn passed_over(passed: &PassedOver) {
    let first = |files: &std::collections::BTreeSet<Arc<str>>| files.iter().next().cloned().unwrap_or_default();
    for (foreign, files) in &passed.files {
        let names: Vec<String> = files.iter().map(ToString::to_string).collect();
        let names = shorten(&names, NAMED, ", ");
        let count = |one: &str, more: &str| match files.len() {
            1 => format!("1 {one}"),
            number => format!("{number} {more}"),
        };
        let line = match foreign {
            OtherDocument::Template => format!(
                "{} not rendered, so nothing in them was judged ({names}); helm template {} | npc … -f -",
                count("file with templates ({{ … }}) is", "files with templates ({{ … }}) are"),
                chart_of(&first(files))
            ),
            OtherDocument::Chart => {
                format!("passed over {} ({names})", count("file of a Helm chart", "files of Helm charts"))
            }
            OtherDocument::Patch => {
                format!("passed over {} ({names})", count("patch of a kustomization", "patches of kustomizations"))
            }
            OtherDocument::Encrypted => format!(
                "{} encrypted by SOPS, so nothing in them was judged ({names}); sops -d {} | npc … -f -",
                count("file is", "files are"),
                first(files)
            ),
            OtherDocument::Other => {
                format!(
                    "passed over {} ({names})",
                    count("file without Kubernetes objects", "files without Kubernetes objects")
                )
            }
        };
        eprintln!("npc: {line}");
    }
    let folders: Vec<String> = passed.kustomizations.iter().map(|folder| folder.display().to_string()).collect();
    if let Some(first) = folders.first() {
        let have = if folders.len() == 1 { "has a kustomization" } else { "have kustomizations" };
        eprintln!(
            "npc: {} {have}, which -f does not apply; to judge what it makes: npc … -k {first}, or kubectl kustomize \
             {first} | npc … -f -",
            shorten(&folders, NAMED, ", ")
        );
    }
}

/// The folder of the chart that a template belongs to.
fn chart_of(template: &str) -> String {
    let path = Path::new(template);
    let in_templates = path.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "templates"));
    let folder = in_templates.and_then(Path::parent).or_else(|| path.parent()).unwrap_or(path);
    if folder.as_os_str().is_empty() { ".".to_owned() } else { folder.display().to_string() }
}

/// What the reader has no right to read, in one line.
pub(super) fn rights(unread: &[Unread]) -> Option<String> {
    let lines = words(unread.iter());
    (!lines.is_empty()).then(|| format!("{}; what depends on them is not known", lines.join("; ")))
}

/// What is missing by kind, where the right to list it is: `no right to list nodes`.
fn words<'a>(unread: impl Iterator<Item = &'a Unread>) -> Vec<String> {
    let mut by_extent = BTreeMap::<&Extent, Vec<&str>>::new();
    for unread in unread.filter(|unread| unread.why.starts_with(NO_RIGHT)) {
        by_extent.entry(&unread.namespace).or_default().push(unread.why.trim_start_matches(NO_RIGHT));
    }
    let words = by_extent.into_iter().map(|(extent, kinds)| {
        let kinds = kinds.join(", ");
        match extent {
            Extent::Everywhere => format!("{NO_RIGHT}{kinds}"),
            Extent::AllBut(read) => format!("{NO_RIGHT}{kinds} of namespaces other than {read}"),
            Extent::In(namespace) => format!("{NO_RIGHT}{kinds} of namespace {namespace}"),
        }
    });
    words.collect()
}

/// The right that is missing for objects of a kind and namespace, which is empty for objects
/// that live outside namespaces.
pub(in crate::command) fn missing_rights(unread: &[Unread], kind: &str, namespace: &str) -> Vec<String> {
    words(unread.iter().filter(|unread| unread.may_hold(kind, namespace)))
}

/// How [`kube::list`](npc_agent::source::kube::list) begins what it says of a missing right.
const NO_RIGHT: &str = "no right to list ";
