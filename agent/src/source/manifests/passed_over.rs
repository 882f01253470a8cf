//! A command that reads a folder passes over what is no Kubernetes object, and names each kind
//! of thing once with the command that helps. A broken Kubernetes object stays an error. An
//! agent passes over nothing: what it cannot read keeps its last good state.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use npc_compiler::cluster::unread::{Extent, FileFault, Unread, WhyUnread};
use npc_compiler::object::{NetworkPolicy, Objects};

use super::documents::Documents;
use super::foreign::{self, OTHER_WORKLOAD, OtherDocument, is_unfinished_namespace};
use super::parsed::{Parsed, ParsedObject};
use super::patch::{Patch, PatchedPolicy};
use super::problem::{ObjectRef, Problem, ProblemCode, Severity};
use super::{printed, types};

/// What was passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassedOver {
    /// The files, by what they hold.
    pub files: BTreeMap<OtherDocument, BTreeSet<Arc<str>>>,
    /// Those of the files that have Kubernetes objects too.
    pub mixed: BTreeSet<Arc<str>>,
    /// The folders whose kustomization is not applied.
    pub kustomizations: BTreeSet<PathBuf>,
    /// Those of the kustomizations from which another one is made.
    pub bases: BTreeSet<PathBuf>,
    /// The kinds that decide about connectivity and may be among it.
    pub unread: Vec<Unread>,
    /// The policies that patches of kustomizations change, and the files that these patches are in.
    pub(super) patched: BTreeSet<(PatchedPolicy, Arc<str>)>,
}

impl PassedOver {
    /// Adds what was passed over in another input.
    pub(in crate::source) fn merge(&mut self, other: Self) {
        for (foreign, files) in other.files {
            self.files.entry(foreign).or_default().extend(files);
        }
        self.mixed.extend(other.mixed);
        self.kustomizations.extend(other.kustomizations);
        self.bases.extend(other.bases);
        self.unread.extend(other.unread);
        self.patched.extend(other.patched);
    }

    /// Whether patches of kustomizations change policies.
    #[must_use]
    pub fn has_patched_policies(&self) -> bool {
        !self.patched.is_empty()
    }

    /// What patches of policies leave open: the policies of the input that they change, or some that are not
    /// in it.
    pub(super) fn unread_patches(&self, objects: &Objects) -> Vec<Unread> {
        let mut unread = Vec::new();
        for (PatchedPolicy { namespace, name }, file) in &self.patched {
            // A kustomization may set the namespace of what names none, so that of the policy may be any.
            let is_it = |of: &&NetworkPolicy| {
                name.as_ref().is_none_or(|name| of.name() == name.as_str())
                    && namespace.as_ref().is_none_or(|namespace| of.namespace() == namespace.as_str())
            };
            let name_of = |of: &NetworkPolicy| (Extent::In(of.namespace().to_owned()), Some(of.name().to_owned()));
            let mut changed: BTreeSet<_> = objects.policies.iter().filter(is_it).map(name_of).collect();
            if changed.is_empty() {
                changed.insert((namespace.clone().map_or(Extent::Everywhere, Extent::In), name.clone()));
            }
            unread.extend(changed.into_iter().map(|(namespace, name)| Unread {
                kind: Some("NetworkPolicy".to_owned()),
                namespace,
                subject: None,
                why: WhyUnread::InFile(file.to_string(), FileFault::PolicyPatch(name)),
            }));
        }
        unread
    }
}

/// Takes what is no object out of the files. One that was named by itself and has none is an error: what is
/// asked may depend on what it was meant to hold.
pub(super) fn pass_over(files: &mut [Parsed], given: &BTreeSet<Arc<str>>) -> PassedOver {
    let mut passed = PassedOver::default();
    let mut patches = BTreeMap::<PathBuf, Vec<Patch>>::new();
    let mut used = BTreeSet::new();
    for file in files.iter() {
        let Some(named) = &file.kustomization else { continue };
        let folder = Path::new(&*file.file).parent().unwrap_or(Path::new(""));
        passed.kustomizations.insert(if folder.as_os_str().is_empty() { ".".into() } else { folder.to_owned() });
        used.extend(file.used.iter().map(|name| plain(&folder.join(name))));
        for patch in named {
            let inline = patch.inline_policies().into_iter();
            passed.patched.extend(inline.map(|policy| (policy, Arc::clone(&file.file))));
            if let Some(path) = &patch.path {
                patches.entry(plain(&folder.join(path))).or_default().push(patch.clone());
            }
        }
    }
    passed.bases.extend(passed.kustomizations.iter().filter(|folder| used.contains(&plain(folder))).cloned());
    for file in files {
        if let Some(patches) = patches.get(&plain(Path::new(&*file.file))) {
            let read = file.items.iter().map(|item| (&item.object, item.has_namespace));
            let broken = file.problems.iter().filter_map(|problem| Some((problem.object.as_ref()?, false)));
            let objects: Vec<_> = read.chain(broken).collect();
            let policies = patches.iter().flat_map(|patch| patch.policies_of(&file.text, objects.iter().copied()));
            passed.patched.extend(policies.map(|policy| (policy, Arc::clone(&file.file))));
            passed.files.entry(OtherDocument::Patch).or_default().insert(Arc::clone(&file.file));
            (file.items, file.problems) = (Vec::new(), Vec::new());
            continue;
        }
        let (mut others, mut unread) = (BTreeSet::new(), BTreeSet::new());
        if let Some(kinds) = &file.openshift {
            others.insert(OtherDocument::OpenShiftTemplate);
            unread.extend(kinds.iter().map(|kind| (*kind, Extent::Everywhere, OtherDocument::OpenShiftTemplate)));
        }
        let documents = LazyCell::new(|| Documents::of(&file.text));
        let mut named = BTreeMap::new();
        let mut index = 0;
        let foreign: BTreeMap<usize, OtherDocument> = file.foreign.drain(..).collect();
        let first = file.problems.first().cloned();
        file.problems.retain(|problem| {
            let foreign = foreign.get(&index).filter(|_| problem.severity() == Severity::Error);
            index += 1;
            let Some(foreign) = foreign else { return true };
            others.insert(*foreign);
            match &problem.object {
                Some(object) => {
                    unread.insert((Some(kind_of(object)), Extent::Everywhere, *foreign));
                }
                None if foreign.may_decide() => {
                    let at = documents.index(problem.span.map_or(1, |span| span.start.line));
                    let kinds = named.entry(at).or_insert_with(|| match foreign {
                        OtherDocument::Printed => printed::kinds(documents.text(at)),
                        _ => kinds(documents.text(at)),
                    });
                    unread.extend(kinds.iter().map(|kind| (*kind, Extent::Everywhere, *foreign)));
                }
                None => {}
            }
            false
        });
        file.items.retain(|item| {
            let Some(unfinished) = item.unfinished else { return true };
            others.insert(unfinished.document());
            unread.insert((Some(kind_of(&item.object)), extent_of(item), unfinished.document()));
            false
        });
        let may_be_made = |of: &OtherDocument| of.may_decide() && *of != OtherDocument::Printed;
        let is_empty = file.items.is_empty() && file.skipped.is_empty() && file.problems.is_empty() && !file.has_list;
        if is_empty && given.contains(&file.file) && !others.iter().any(may_be_made) {
            file.problems.push(without_objects(file, first, others.contains(&OtherDocument::Printed)));
            continue;
        }
        for foreign in others {
            passed.files.entry(foreign).or_default().insert(Arc::clone(&file.file));
        }
        if !file.items.is_empty() || !file.skipped.is_empty() {
            passed.mixed.insert(Arc::clone(&file.file));
        }
        passed.unread.extend(unread.into_iter().filter_map(|(kind, namespace, foreign)| {
            let why = WhyUnread::InFile(file.file.to_string(), foreign.why_unread()?);
            Some(Unread { kind: kind.map(str::to_owned), namespace, subject: None, why })
        }));
    }
    passed
}

/// That a file has no object, though it was named as one that has.
fn without_objects(file: &Parsed, first: Option<Problem>, is_printed: bool) -> Problem {
    let (said, help) = match &first {
        _ if file.kustomization.is_some() => {
            let folder = Path::new(&*file.file).parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new(".")).display();
            (": it is a kustomization, which -f does not apply".to_owned(), format!("npc … -k {folder}"))
        }
        Some(Problem { message, .. }) if is_printed => {
            let said = if message.contains("API server") { message } else { "kubectl printed it for people" };
            (format!(": {said}"), "kubectl get … -o yaml prints objects".to_owned())
        }
        Some(Problem { message, help, .. }) => (format!(": {message}"), help.clone()),
        None => (String::new(), "the program that wrote it may have failed".to_owned()),
    };
    Problem {
        file: Arc::clone(&file.file),
        span: first.and_then(|first| first.span),
        code: ProblemCode::DocumentUnreadable,
        object: None,
        path: String::new(),
        message: format!("no Kubernetes object is in this input{said}"),
        other: None,
        help,
    }
}

/// The kind as which an object counts that was not read.
fn kind_of(object: &ObjectRef) -> &'static str {
    types::kind_that_is_read(&object.kind).unwrap_or(OTHER_WORKLOAD)
}

/// Where an object may live that another program has yet to finish. If its document names no namespace, that
/// program may be given one: `helm -n shop`.
fn extent_of(item: &ParsedObject) -> Extent {
    match &item.object.namespace {
        namespace if item.has_namespace && !is_unfinished_namespace(namespace) => Extent::In(namespace.clone()),
        _ => Extent::Everywhere,
    }
}

/// The kinds that are read and that a text names; none for one that the text does not say.
fn kinds(text: &str) -> BTreeSet<Option<&'static str>> {
    let mut kinds = BTreeSet::new();
    for (at, key) in text.match_indices("kind") {
        let is_in_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
        let value = text[at + key.len()..].trim_start_matches(['"', '\'']).trim_start_matches(' ');
        let Some(value) = value.strip_prefix(':').filter(|_| !text[..at].ends_with(is_in_word)) else { continue };
        let value = value.trim_start_matches(' ').trim_start_matches(['"', '\'']);
        if foreign::begins_unfinished(value) {
            kinds.insert(None);
        }
        let kind = value.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        kinds.extend(types::kind_that_is_read(kind).map(Some));
    }
    kinds
}

/// A path without `.` and `..`, as far as its text shows.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_names_the_kinds_that_it_may_make() {
        let text =
            "{{ if .Values.x }}\nkind: NetworkPolicy\n---\nkind: \"Deployment\"\nkind: ConfigMap\nsubkind: Pod\n";
        assert_eq!(Vec::from_iter(kinds(text)), [Some("Deployment"), Some("NetworkPolicy")]);
        let json = "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"items\":[{\"kind\" : \"{{ .kind }}\"}]}";
        assert_eq!(Vec::from_iter(kinds(json)), [None, Some("Pod")]);
        assert_eq!(Vec::from_iter(kinds("kind: ENC[AES256_GCM,data:x]\n")), [None]);
    }

    #[test]
    fn paths_are_compared_without_their_detours() {
        for (path, expected) in [("r/prod/./a.yaml", "r/prod/a.yaml"), ("r/prod/../b/a", "r/b/a"), ("../a", "../a")] {
            assert_eq!(plain(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
