//! What is odd about the input, on standard error: each kind of thing once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use npc_agent::finding::Finding;
use npc_agent::source::kube::OtherPolicies;
use npc_agent::source::manifests::{Loaded, OtherDocument, PassedOver};
use npc_agent::words::folded::Folded;
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::unread::{Extent, Unread, WhyUnread, joined};
use npc_compiler::object::Consequence;

use crate::command::unjudged;
use crate::command::warning::{Warning, WarningCode};
use crate::command::words::shorten;

/// At most this many files or folders are named.
const NAMED: usize = 2;

/// Says what was not read as it stands.
pub(super) fn write(loaded: &Loaded, cluster: &Cluster) {
    let mut warnings = Folded::default();
    for problem in &loaded.problems {
        warnings.add(&problem.message, format!("{problem:#}"));
    }
    for finding in cluster.findings() {
        let place = loaded.positions.locate("NetworkPolicy", &finding.namespace, &finding.name, &finding.path);
        let finding = Finding::of_policy(finding, place.as_ref());
        let place = finding.location.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let line = format!("{place}{}[{}]: {finding}", finding.severity.as_str(), finding.code);
        warnings.add(&format!("{}; {}", finding.problem, finding.effect), line);
    }
    warnings.lines().for_each(|line| say!("{line}"));
    passed_over(&loaded.passed_over);
    let may_have_policies = loaded.unread.iter().any(|unread| unread.may_be("NetworkPolicy"));
    if cluster.policies().next().is_none() && cluster.endpoints().next().is_some() && !may_have_policies {
        // A warning names them.
        if unjudged::with(loaded, &[Consequence::Decides]).is_empty() {
            say!("npc: 0 NetworkPolicies: everything is allowed, as far as policies decide");
        } else {
            say!("npc: 0 NetworkPolicies; only policies that are not judged may deny something");
        }
    }
}

/// Says each kind of thing that is no object in one line.
pub(super) fn passed_over(passed: &PassedOver) {
    lines(passed).for_each(|line| say!("npc: {line}"));
}

/// What is not known of policies that npc does not judge, one warning for each reason.
pub(super) fn other_policies(others: &OtherPolicies) -> Vec<Warning> {
    let refused = (!others.refused.is_empty()).then(|| {
        format!(
            "npc judges NetworkPolicies only; you may not list all of these, so there may be some that decide otherwise: {}",
            others.refused.join(", ")
        )
    });
    let failed = (!others.failures.is_empty()).then(|| {
        format!(
            "npc judges NetworkPolicies only; whether policies of other kinds decide otherwise is not known: {}",
            shorten(&others.failures, NAMED, "; ")
        )
    });
    refused.into_iter().chain(failed).map(|text| Warning::new(WarningCode::PoliciesNotJudged, text)).collect()
}

/// What of these may hold objects that decide, one warning for each kind of thing.
pub(super) fn undecided(passed: &PassedOver) -> Vec<Warning> {
    let of_files = passed.files.iter().filter_map(|(document, files)| {
        let code = code_of(passed, *document)?;
        let of_file = |file: &Arc<str>| code.of_file(line(passed, *document, &[file]), file);
        let findings = files.iter().map(of_file).collect();
        Some(Warning::of_each(code, line(passed, *document, &Vec::from_iter(files)), findings))
    });
    let kustomizations = kustomizations_line(&passed.kustomizations, &passed.bases).map(|text| {
        let code = WarningCode::KustomizationNotApplied;
        let of_folder = |folder: &PathBuf| {
            let text = kustomizations_line(&BTreeSet::from([folder.clone()]), &BTreeSet::new()).unwrap_or_default();
            code.of_file(text, &folder.to_string_lossy())
        };
        Warning::of_each(code, text, passed.kustomizations.iter().map(of_folder).collect())
    });
    of_files.chain(kustomizations).collect()
}

/// The code of a kind of thing that is no object, if it may hold objects that decide.
fn code_of(passed: &PassedOver, document: OtherDocument) -> Option<WarningCode> {
    match document {
        OtherDocument::Template | OtherDocument::Parameters | OtherDocument::OpenShiftTemplate => {
            Some(WarningCode::TemplateNotRendered)
        }
        OtherDocument::Encrypted => Some(WarningCode::FileEncrypted),
        OtherDocument::Printed => Some(WarningCode::FileNotObjects),
        // Without a kustomization that names it, nothing else says that a patch is not applied.
        OtherDocument::Patch if passed.kustomizations.is_empty() || passed.has_patched_policies() => {
            Some(WarningCode::KustomizationNotApplied)
        }
        OtherDocument::Patch | OtherDocument::Chart | OtherDocument::Other => None,
    }
}

/// One line for each kind of thing that is no object.
fn lines(passed: &PassedOver) -> impl Iterator<Item = String> {
    let of_files = passed.files.iter().map(|(document, files)| line(passed, *document, &Vec::from_iter(files)));
    of_files.chain(kustomizations_line(&passed.kustomizations, &passed.bases))
}

/// That files are of a kind of thing that is no object, and what to do.
fn line(passed: &PassedOver, document: OtherDocument, files: &[&Arc<str>]) -> String {
    let listed = |files: &[&Arc<str>]| shorten(&files.iter().map(ToString::to_string).collect::<Vec<_>>(), NAMED, ", ");
    let names = listed(files);
    let number_of = |number: usize, one: &str, more: &str| match number {
        1 => format!("1 {one}"),
        number => format!("{number} {more}"),
    };
    let count = |one: &str, more: &str| number_of(files.len(), one, more);
    let first = files.first().map_or_else(Arc::default, |first| Arc::clone(first));
    match document {
        OtherDocument::Template => format!(
            "{} not rendered, so what the templates make was not judged ({names}); {}",
            count("file with templates ({{ … }}) is", "files with templates ({{ … }}) are"),
            renderer_of(&first)
        ),
        OtherDocument::Parameters => format!(
            "{} not filled in, so what they make was not judged ({names}); replace <NAME> by hand, ${{NAME}} by: \
             NAME=… envsubst < {first} | npc … -f -",
            count("file with parameters (${NAME}, <NAME>) is", "files with parameters (${NAME}, <NAME>) are")
        ),
        OtherDocument::OpenShiftTemplate => format!(
            "{} not processed, so what they make was not judged ({names}); oc process -f {first} --local | npc … -f -",
            count("file with a Template of OpenShift is", "files with Templates of OpenShift are")
        ),
        OtherDocument::Chart => {
            format!("passed over {} ({names})", count("file of a Helm chart", "files of Helm charts"))
        }
        OtherDocument::Patch => {
            format!("passed over {} ({names})", count("patch of a kustomization", "patches of kustomizations"))
        }
        OtherDocument::Encrypted => format!(
            "{} encrypted by SOPS, so what is encrypted was not judged ({names}); sops -d {} | npc … -f -",
            count("file is", "files are"),
            first
        ),
        OtherDocument::Printed => format!(
            "{} what kubectl printed for people, so what it is about was not judged ({names}); kubectl get … -o \
             yaml prints objects",
            count("file has", "files have")
        ),
        OtherDocument::Other => {
            let (mixed, whole): (Vec<_>, Vec<_>) = files.iter().partition(|file| passed.mixed.contains(**file));
            let whole = (!whole.is_empty()).then(|| {
                let count =
                    number_of(whole.len(), "file without Kubernetes objects", "files without Kubernetes objects");
                format!("{count} ({})", listed(&whole))
            });
            let mixed =
                (!mixed.is_empty()).then(|| format!("documents that are no Kubernetes objects, in {}", listed(&mixed)));
            format!("passed over {}", whole.into_iter().chain(mixed).collect::<Vec<_>>().join(", "))
        }
    }
}

/// That kustomizations are not applied, and what to do.
fn kustomizations_line(folders: &BTreeSet<PathBuf>, bases: &BTreeSet<PathBuf>) -> Option<String> {
    // What others are made of is not what is applied.
    let last = folders.iter().find(|folder| !bases.contains(*folder)).map(|folder| folder.display().to_string());
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let first = last.as_ref().or(folders.first())?;
    let have = if folders.len() == 1 { "has a kustomization" } else { "have kustomizations" };
    Some(format!(
        "{} {have}, which -f does not apply; to judge what it makes: npc … -k {first}, or kubectl kustomize \
         {first} | npc … -f -",
        shorten(&folders, NAMED, ", ")
    ))
}

/// How to render a template: by Helm where it belongs to a chart, which its folder or a Chart.yaml says.
fn renderer_of(template: &str) -> String {
    let path = Path::new(template);
    let folder_of = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.display().to_string(),
        _ => ".".to_owned(),
    };
    let in_templates = path.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "templates"));
    let is_helmfile = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("helmfile"));
    let is_in_chart = path.parent().is_some_and(|folder| folder.join("Chart.yaml").exists());
    match in_templates {
        Some(templates) => format!("helm template {} | npc … -f -", folder_of(templates)),
        None if is_helmfile => format!("helmfile -f {template} template | npc … -f -"),
        None if is_in_chart => format!("helm template {} | npc … -f -", folder_of(path)),
        None => "render them by the program that they are for, and give npc what it prints: … | npc … -f -".to_owned(),
    }
}

/// What the reader has no right to read, in one warning.
pub(super) fn rights(unread: &[Unread]) -> Option<Warning> {
    let lines = rights_words(unread.iter());
    let code = WarningCode::RightMissing;
    (!lines.is_empty()).then(|| {
        let findings = lines.iter().map(|line| code.finding(line.clone())).collect();
        Warning::of_each(code, format!("{}; {}", lines.join("; "), code.effect()), findings)
    })
}

/// What was not read, in words: rights that are missing, then documents.
pub(in crate::command) fn unread_words<'a>(unread: impl Iterator<Item = &'a Unread>) -> Vec<String> {
    let (rights, documents): (Vec<&Unread>, Vec<&Unread>) =
        unread.partition(|of| matches!(of.why, WhyUnread::NoRight(_)));
    let mut words = rights_words(rights.into_iter());
    words.extend(documents.into_iter().map(|of| of.why.to_string()));
    words.dedup();
    words
}

/// What is missing by kind, where the right to list it is: `no right to list nodes`.
fn rights_words<'a>(unread: impl Iterator<Item = &'a Unread>) -> Vec<String> {
    let mut by_extent = BTreeMap::<(&Extent, bool), Vec<&str>>::new();
    for unread in unread {
        let WhyUnread::NoRight(resource) = &unread.why else { continue };
        // Namespaces are in no namespace: all but one of them were not read.
        let is_namespace = unread.kind.as_deref() == Some("Namespace") && unread.namespace != Extent::Everywhere;
        by_extent.entry((&unread.namespace, is_namespace)).or_default().push(resource);
    }
    let words = by_extent.into_iter().map(|((extent, are_namespaces), kinds)| {
        let kinds = kinds.join(", ");
        match extent {
            Extent::Everywhere => format!("{NO_RIGHT}{kinds}"),
            Extent::AllBut(read) if are_namespaces => format!("{NO_RIGHT}{kinds} other than {}", joined(read)),
            Extent::AllBut(read) => format!("{NO_RIGHT}{kinds} of namespaces other than {}", joined(read)),
            Extent::In(namespace) => format!("{NO_RIGHT}{kinds} of namespace {namespace}"),
        }
    });
    words.collect()
}

/// What begins the words for missing rights.
const NO_RIGHT: &str = "no right to list ";
