//! The files of a directory as they were read last, and as they were good
//! last.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use npc_compiler::object::Objects;

use super::Update;
use super::read::{DirectoryContents, ReadFile};
use crate::source::manifests::{Parsed, Problem, ProblemCode, ReadOptions, Severity, assemble, parse, shown};

/// What is known of the directory.
#[derive(Debug)]
pub(super) struct DirectoryState {
    root: PathBuf,
    options: ReadOptions,
    files: BTreeMap<PathBuf, File>,
    /// The problems at the last update.
    problems: BTreeSet<Problem>,
    /// The objects at the last update; `None` before the first.
    objects: Option<Objects>,
    /// The directories that cannot be listed and have no known file.
    unlisted: BTreeSet<PathBuf>,
    /// No file was there at the last reading.
    is_empty: bool,
    /// All that was there was read well once. What is new and bad is left out since then; before,
    /// nothing is in force.
    has_begun: bool,
}

/// One file.
#[derive(Debug)]
struct File {
    /// What was read last; `None` if it could not be read.
    bytes: Option<Vec<u8>>,
    /// What of it is in force: the last version without errors, or if there
    /// never was one, what could be read.
    in_force: Parsed,
    /// There was a version without errors.
    was_good: bool,
    /// What is wrong with it now.
    problems: Vec<Problem>,
}

impl DirectoryState {
    pub(super) fn new(root: PathBuf, options: ReadOptions) -> Self {
        Self {
            root,
            options,
            files: BTreeMap::new(),
            problems: BTreeSet::new(),
            objects: None,
            unlisted: BTreeSet::new(),
            is_empty: false,
            has_begun: false,
        }
    }

    /// Takes over what was read; the update, if anything is different.
    /// `unwatched` is why changes will not be noticed, if so.
    pub(super) fn take(&mut self, reading: DirectoryContents, unwatched: Option<&io::Error>) -> Option<Update> {
        let mut problems = Vec::new();
        if let Some(error) = unwatched {
            let message = format!("its changes cannot be watched: {error}");
            let help = "more watches may be needed: sysctl fs.inotify.max_user_watches, max_user_instances";
            problems.push(self.root_problem(&message, help));
        }
        let mut never_read = Vec::new();
        let is_empty = reading.files.as_ref().is_ok_and(BTreeMap::is_empty) && !reading.has_unlisted();
        let was_empty = std::mem::replace(&mut self.is_empty, is_empty);
        let unlisted_before = self.unlisted.clone();
        let listed = match reading.files {
            Ok(files) => {
                let unlisted = reading.unlisted;
                let is_unlisted = |path: &PathBuf| unlisted.keys().any(|directory| path.starts_with(directory));
                self.files.retain(|path, _| files.contains_key(path) || is_unlisted(path));
                for (path, content) in files {
                    if matches!(content, ReadFile::Busy) && !self.files.contains_key(&path) {
                        never_read.push(path);
                    } else {
                        self.read(path, content);
                    }
                }
                self.unlisted.retain(|directory| unlisted.contains_key(directory));
                for (directory, error) in &unlisted {
                    let held = self.files.keys().any(|path| path.starts_with(directory));
                    problems.push(self.unlisted_problem(directory, error, held));
                    if !held {
                        self.unlisted.insert(directory.clone());
                    }
                }
                true
            }
            Err(error) => {
                let message = format!("the directory cannot be read: {error}");
                let help = if self.objects.is_some() {
                    "the objects it held stay in force until it can be read"
                } else {
                    "nothing is written to the kernel before it can be read"
                };
                problems.push(self.root_problem(&message, help));
                false
            }
        };
        problems.extend(self.files.values().flat_map(|file| file.problems.iter().cloned()));

        // Nothing is said about objects before the directory was read once.
        let loaded = (listed || self.objects.is_some()).then(|| {
            let in_force = self.files.values().map(|file| file.in_force.silent());
            assemble(in_force.collect(), &self.options)
        });
        // What assembling finds is between files, such as a name in two of them.
        problems.extend(loaded.iter().flat_map(|loaded| loaded.problems.iter().cloned()));
        let problems: BTreeSet<Problem> = problems.into_iter().collect();
        let new = problems.difference(&self.problems).cloned().collect::<Vec<_>>();
        let standing: Vec<Problem> = problems.iter().cloned().collect();
        let has_gone = self.problems.iter().any(|problem| !problems.contains(problem));
        let loaded = loaded.filter(|loaded| self.objects.as_ref() != Some(&loaded.objects)).map(|mut loaded| {
            loaded.problems.clone_from(&standing);
            loaded
        });
        self.problems = problems;
        if let Some(loaded) = &loaded {
            self.objects = Some(loaded.objects.clone());
        }
        let is_same = is_empty == was_empty && self.unlisted == unlisted_before;
        if loaded.is_none() && new.is_empty() && !has_gone && is_same {
            return None;
        }
        never_read.extend(self.files.iter().filter(|(_, file)| !file.was_good).map(|(path, _)| path.clone()));
        never_read.extend(self.unlisted.iter().cloned());
        never_read.sort_unstable();
        self.has_begun |= never_read.is_empty();
        Some(Update { loaded, problems: new, standing, never_read, is_empty })
    }

    /// Parses a file, if it is not what it was.
    fn read(&mut self, path: PathBuf, content: ReadFile) {
        let known = self.files.get(&path);
        // Nothing was ever to be read of it, so nothing waits for it.
        let is_special = matches!(content, ReadFile::Special(_));
        let (bytes, parsed) = match content {
            ReadFile::Busy => return,
            ReadFile::Bytes(bytes) if known.is_some_and(|file| file.bytes.as_ref() == Some(&bytes)) => return,
            // A full disk leaves files behind that are empty. Objects are seldom removed so,
            // and the problem says how they are.
            ReadFile::Bytes(bytes) if bytes.is_empty() && known.is_some_and(|file| file.was_good) => {
                let help = "to remove its objects, remove the file";
                (Some(bytes), Parsed::failed(&path, "the file is empty", help))
            }
            ReadFile::Bytes(bytes) => {
                let parsed = parse(&shown(&path), bytes.clone(), &self.options.default_namespace);
                (Some(bytes), parsed)
            }
            ReadFile::Unreadable(error) | ReadFile::Special(error) => {
                (None, Parsed::failed(&path, &format!("cannot be read: {error}"), ""))
            }
        };
        let is_good = parsed.problems.iter().all(|problem| problem.severity() == Severity::Warning);
        let was_good = is_good || is_special;
        // What was never a file has no version that could stay.
        let keeps = |file: &File| file.was_good && !is_good && !(is_special && file.in_force.is_empty());
        let kept = self.files.get_mut(&path).filter(|file| keeps(file));
        let effect = match &kept {
            Some(_) => Some("the last good version of this file stays in force"),
            None => (self.has_begun && !is_special).then_some("what could not be read is left out"),
        };
        let mut problems = parsed.problems.clone();
        for problem in problems.iter_mut().filter(|problem| problem.severity() == Severity::Error) {
            if let Some(effect) = effect {
                add_effect(problem, effect);
            }
        }
        match kept {
            Some(file) => (file.bytes, file.problems) = (bytes, problems),
            None => drop(self.files.insert(path, File { bytes, in_force: parsed, was_good, problems })),
        }
    }

    fn unlisted_problem(&self, directory: &Path, error: &io::Error, has_objects: bool) -> Problem {
        let message = format!("the directory cannot be listed: {error}");
        let help = if has_objects {
            "the objects of the files that it held stay in force until it can be"
        } else {
            "what its files ask for is not known until it can be"
        };
        Problem { file: shown(directory), ..self.root_problem(&message, help) }
    }

    fn root_problem(&self, message: &str, help: &str) -> Problem {
        Problem {
            file: shown(&self.root),
            span: None,
            code: ProblemCode::DocumentUnreadable,
            object: None,
            path: String::new(),
            message: message.to_owned(),
            other: None,
            help: help.to_owned(),
        }
    }
}

/// Adds to a problem what happens now.
fn add_effect(problem: &mut Problem, effect: &str) {
    problem.help = if problem.help.is_empty() { effect.to_owned() } else { format!("{}; {effect}", problem.help) };
}
