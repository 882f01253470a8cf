//! Reads Kubernetes objects from files, as `kubectl apply -f` would, and
//! remembers where each of their fields stands.
//!
//! ```text
//! files ─▶ tree (nodes with positions) ─▶ kinds, decode ─▶ assemble ─▶ Loaded
//! walk      parse: one file at a time       one object      all files
//! ```
//!
//! What is read: YAML with any number of documents, JSON, `List`s and
//! `PodList`s, what `kubectl get -o yaml` prints. A directory means its
//! `*.yaml`, `*.yml` and `*.json` files and, unlike with kubectl, those of the
//! directories below it; names that begin with a dot are left out, but for files
//! where what is no object is passed over (commands), as kubectl reads those. A workload
//! stands for one pod made after its template and named like the workload,
//! unless its own pods, or the workload that owns it, are in the input too, or
//! it is to have none (`replicas: 0`).
//! Objects of JSON may follow each other without a separator, and an object with a
//! `generateName` has a name that ends as the API server would end it.
//! Kinds that say nothing about connectivity are counted and skipped; a kind or version
//! that never existed and looks like one that is read is an error.
//!
//! Values are read as kubectl reads them: `yes` is true where a boolean is
//! wanted, nothing (`null`) is the empty value of any type, a number where
//! text is wanted is an error, a key that comes twice too.
//!
//! A long `List` as kubectl prints it is read item by item, and no more of its text is kept than
//! the parts that places are asked for in (`long`).
//!
//! **Invariant**: for any bytes, reading ends, in time and memory that are linear in their number,
//! and never panics.

mod annotations;
mod assemble;
mod decode;
mod decode_text;
mod documents;
mod field;
mod files;
mod fix_fields;
mod foreign;
mod json;
mod kept_fields;
mod kinds;
mod long;
mod parse;
mod parsed;
mod passed_over;
mod patch;
mod pod_parts;
mod pod_template;
mod position;
mod printed;
mod problem;
mod prune;
mod references;
mod replicas;
mod scalar;
mod span;
mod tree;
mod types;
mod undeclared;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use npc_compiler::algebra::selector::Selector;
use npc_compiler::cluster::unread::{Extent, Unread};
use npc_compiler::object::{Labels, NetworkPolicy, Objects};

pub use foreign::OtherDocument;
pub use passed_over::PassedOver;
pub use position::{Location, Positions};
pub use problem::{Errors, ObjectRef, OtherPlace, Problem, ProblemCode, Severity};
pub use replicas::Ordinals;
pub use span::{Span, TextPosition};

pub(super) use assemble::assemble;
use files::{DirectoryListing, GIVEN, is_long, open_regular, read_bounded};

pub(super) use files::{FOLLOWED, read_regular, walk};
use parse::parse_counted;

pub(super) use parse::parse;
pub(super) use parsed::Parsed;

/// How to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// The namespace of objects that name none.
    pub default_namespace: String,
    /// Leave out what cannot be read, instead of failing.
    pub allow_errors: bool,
    /// Whether a namespace that some object lives in exists, even if none of
    /// the files declares it. Off where the cluster says what exists.
    pub declare_namespaces: bool,
    /// Pass over what ordinary repositories hold beside objects, instead of failing; see
    /// [`Loaded::passed_over`].
    pub pass_over: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            default_namespace: "default".to_owned(),
            allow_errors: false,
            declare_namespaces: true,
            pass_over: false,
        }
    }
}

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The objects, in the order of the input.
    pub objects: Objects,
    /// The workloads that are to have no pods (`replicas: 0`), and the labels of their templates.
    pub idle: BTreeMap<ObjectRef, Labels>,
    /// The labels that workloads have themselves, in `metadata.labels`; their pods do not get these.
    pub workload_labels: BTreeMap<ObjectRef, Labels>,
    /// The labels of the templates of workloads whose pods are among the objects themselves.
    pub represented: BTreeMap<ObjectRef, Labels>,
    /// The workloads that another one has made, and which: ReplicaSets of Deployments, Jobs of CronJobs.
    pub owned: BTreeMap<ObjectRef, ObjectRef>,
    /// Where they and their fields stand.
    pub positions: Positions,
    /// Warnings; and what was left out, where [`ReadOptions::allow_errors`] is set.
    pub problems: Vec<Problem>,
    /// The kinds that were passed over, with how many there were; of a group
    /// other than the core one as `Ingress.networking.k8s.io`.
    pub skipped: BTreeMap<String, usize>,
    /// The skipped objects whose kinds decide about connectivity, and where they stand; only objects of files.
    pub skipped_objects: BTreeMap<String, Vec<(ObjectRef, Location)>>,
    /// Those of the skipped kinds whose objects have a pod's containers, so that their controllers make pods.
    pub pod_makers: BTreeSet<String>,
    /// The objects that were passed over and whose controllers make pods.
    pub pod_making: BTreeSet<ObjectRef>,
    /// How StatefulSets name their pods.
    pub ordinals: BTreeMap<ObjectRef, Ordinals>,
    /// What is no object, where [`ReadOptions::pass_over`] is set.
    pub passed_over: PassedOver,
    /// What was not read, and may decide.
    pub unread: Vec<Unread>,
    /// Policies that do not count, because a later one has the same name.
    pub replaced: Vec<ReplacedPolicy>,
    /// The pod selectors of policies, where only the selector could be read.
    pub unread_subjects: BTreeMap<ObjectRef, Option<Selector>>,
}

/// A policy that does not count, because a later one has the same name.
#[derive(Debug, Clone)]
pub struct ReplacedPolicy {
    /// The policy.
    pub policy: NetworkPolicy,
    /// Where it stands.
    pub place: Location,
}

/// A text that stands in no file, and the name to show for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The name.
    pub name: String,
    /// The text.
    pub bytes: Vec<u8>,
}

/// Reads files, directories and, as `-`, standard input, in this order.
///
/// # Errors
///
/// Everything that could not be read, unless [`ReadOptions::allow_errors`] is set; a path that
/// leads nowhere in any case.
pub fn load(paths: &[PathBuf], options: &ReadOptions) -> Result<Loaded, Errors> {
    load_with(paths, &[], options, &AtomicUsize::new(0))
}

/// Reads files as [`load`] does, then texts, and counts the documents meanwhile.
///
/// # Errors
///
/// As [`load`].
pub fn load_with(
    paths: &[PathBuf],
    texts: &[Text],
    options: &ReadOptions,
    count: &AtomicUsize,
) -> Result<Loaded, Errors> {
    let mut jobs = Vec::new();
    let mut nowhere = Vec::new();
    let mut named = BTreeSet::new();
    for path in paths {
        if !path.is_dir() {
            named.insert(shown(path));
        }
        if path.as_os_str() == "-" {
            match read_bounded(io::stdin().lock(), GIVEN) {
                Ok(bytes) if options.pass_over && bytes.trim_ascii().is_empty() => {
                    let message = "standard input is empty";
                    let parsed = Parsed::failed(path, message, "the program before the pipe may have failed");
                    nowhere.extend(parsed.problems);
                }
                read => jobs.push(Job::Read(path.clone(), read)),
            }
        } else if path.is_dir() {
            let listing = walk(path);
            match if options.pass_over { listing.map(DirectoryListing::with_hidden) } else { listing } {
                Ok(listing) if listing.files.is_empty() && listing.unlisted.is_empty() => {
                    let message = "no *.yaml, *.yml or *.json file is in this directory";
                    jobs.push(Job::Done(Box::new(Parsed::failed(path, message, ""))));
                }
                Ok(listing) => {
                    let unlisted = listing.unlisted.iter();
                    jobs.extend(unlisted.map(|(path, error)| Job::Done(Box::new(unreadable(path, error)))));
                    jobs.extend(listing.files.into_iter().map(Job::File));
                }
                Err(error) => jobs.push(Job::Done(Box::new(unreadable(path, &error)))),
            }
        } else if is_long(path) {
            jobs.push(Job::File(path.clone()));
        } else {
            // A pipe may be given by its path, as a shell does with `<(…)`.
            match File::open(path).and_then(|file| read_bounded(file, GIVEN)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let problems = unreadable(path, &error).problems;
                    nowhere.extend(
                        problems.into_iter().map(|of| Problem { help: "name a path that exists".to_owned(), ..of }),
                    );
                }
                bytes => jobs.push(Job::Read(path.clone(), bytes)),
            }
        }
    }
    for text in texts {
        jobs.push(Job::Read(text.name.clone().into(), Ok(text.bytes.clone())));
    }
    if !nowhere.is_empty() {
        return Err(Errors { problems: nowhere, are_paths_missing: true });
    }
    finish(parse_all(jobs, options, count), &named, options)
}

/// A file that is being read.
enum Job {
    /// It is to be read and parsed.
    File(PathBuf),
    /// It is to be parsed.
    Read(PathBuf, io::Result<Vec<u8>>),
    /// It is parsed.
    Done(Box<Parsed>),
}

impl Job {
    fn run(self, options: &ReadOptions, count: &AtomicUsize) -> Parsed {
        let namespace = &options.default_namespace;
        let long = |path: &Path, from: &mut dyn Read| long::read(&shown(path), from, namespace, count);
        let parse = |path: &Path, read: io::Result<Vec<u8>>| match read {
            Ok(bytes) => {
                let list = if files::is_long_text(bytes.len()) { long(path, &mut bytes.as_slice()) } else { Ok(None) };
                match list {
                    Ok(Some(parsed)) => parsed,
                    _ => parse_counted(&shown(path), bytes, namespace, count),
                }
            }
            Err(error) => unreadable(path, &error),
        };
        match self {
            Self::File(path) if is_long(&path) => {
                let list = open_regular(&path, GIVEN).and_then(|mut file| long(&path, &mut file));
                let parsed = list.and_then(|list| match list {
                    Some(parsed) => Ok(parsed),
                    None => {
                        read_regular(&path, GIVEN).map(|bytes| parse_counted(&shown(&path), bytes, namespace, count))
                    }
                });
                parsed.unwrap_or_else(|error| unreadable(&path, &error))
            }
            Self::File(path) => parse(&path, read_regular(&path, GIVEN)),
            Self::Read(path, read) => parse(&path, read),
            Self::Done(parsed) => *parsed,
        }
    }
}

/// Parses files on as many threads as there are cores; the answers are in the order of the
/// files.
fn parse_all(jobs: Vec<Job>, options: &ReadOptions, count: &AtomicUsize) -> Vec<Parsed> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get).min(jobs.len());
    if cores < 2 {
        return jobs.into_iter().map(|job| job.run(options, count)).collect();
    }
    let jobs = Mutex::new(jobs.into_iter().enumerate());
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || std::iter::from_fn(next).map(|(place, job)| (place, job.run(options, count))).collect::<Vec<_>>();
    let mut parsed: Vec<(usize, Parsed)> = thread::scope(|scope| {
        let others: Vec<_> = (1..cores).map(|_| scope.spawn(work)).collect();
        let own = work();
        let theirs = others.into_iter().flat_map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        own.into_iter().chain(theirs).collect()
    });
    parsed.sort_by_key(|(place, _)| *place);
    parsed.into_iter().map(|(_, parsed)| parsed).collect()
}

/// Reads a text, as if it stood in a file of this name.
///
/// # Errors
///
/// Everything that could not be read, unless [`ReadOptions::allow_errors`] is set.
pub fn parse_text(name: &str, text: &str, options: &ReadOptions) -> Result<Loaded, Errors> {
    let parsed = parse(&name.into(), text.as_bytes().to_vec(), &options.default_namespace);
    finish(vec![parsed], &BTreeSet::new(), options)
}

/// Puts files together; `named` are those that were named one by one.
fn finish(mut parsed: Vec<Parsed>, named: &BTreeSet<Arc<str>>, options: &ReadOptions) -> Result<Loaded, Errors> {
    let passed_over =
        if options.pass_over { passed_over::pass_over(&mut parsed, named) } else { PassedOver::default() };
    let mut loaded = assemble(parsed, options);
    if !options.allow_errors && loaded.problems.iter().any(|problem| problem.severity() == Severity::Error) {
        return Err(Errors { problems: loaded.problems, are_paths_missing: false });
    }
    loaded.unread.clone_from(&passed_over.unread);
    let subjects = std::mem::take(&mut loaded.unread_subjects);
    loaded.unread.extend(loaded.problems.iter().filter_map(|problem| left_out(problem, &subjects)));
    loaded.unread.extend(passed_over.unread_patches(&loaded.objects));
    loaded.passed_over = passed_over;
    Ok(loaded)
}

/// What a document that is left out may hold; of policies, whom these would select.
fn left_out(problem: &Problem, subjects: &BTreeMap<ObjectRef, Option<Selector>>) -> Option<Unread> {
    let (kind, namespace) = match &problem.object {
        Some(object) if object.namespace.is_empty() => (Some(object.kind.clone()), Extent::Everywhere),
        Some(object) => (Some(object.kind.clone()), Extent::In(object.namespace.clone())),
        None => (None, Extent::Everywhere),
    };
    let subject = problem.object.as_ref().and_then(|object| subjects.get(object)?.clone());
    (problem.severity() == Severity::Error).then(|| Unread { kind, namespace, subject, why: problem.why_unread() })
}

/// A path as it is shown; two paths that differ only in bytes that are not
/// text are shown alike.
pub(super) fn shown(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

fn unreadable(path: &Path, error: &io::Error) -> Parsed {
    Parsed::failed(path, &format!("cannot be read: {error}"), "")
}

#[cfg(test)]
mod tests;
