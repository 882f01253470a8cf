//! No circle of imports: in each folder of source, a file or folder that imports from another
//! one, directly or by others, is not imported from there. The folders of the compiler, of the
//! dataplane and of the API server's source also keep the order of their tables in ARCHITECTURE.md.
//!
//! A folder and what is in it count as one thing seen from outside, and what a file takes from
//! its own folder's `mod.rs` is no import. A name that a `use` there brought from another file is
//! an import from that file. Test modules are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

mod source;

use source::{paths, tokens, uses, without_tests};

/// The sources of the workspace's crates.
const CRATES: [&str; 6] =
    ["agent/src", "cni-plugin/src", "compiler/src", "tests/failing-netlink/src", "tests/lab/src", "tests/src"];

/// The path of a module below the root of its crate.
type Module = Vec<String>;

/// Which modules import from which.
type Imports = BTreeMap<Module, BTreeSet<Module>>;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The files below a folder with the modules that they are, without those of tests by name.
fn files(folder: &Path, at: &[String], found: &mut BTreeMap<Module, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        }
        let inside = [at, std::slice::from_ref(&name)].concat();
        if path.is_dir() {
            files(&path, &inside, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let is_root = matches!(name.as_str(), "mod" | "lib" | "main");
            let module = if is_root { at.to_vec() } else { inside };
            let text = std::fs::read_to_string(&path).unwrap();
            // A crate may have a library and a program: both are its root.
            found.entry(module).or_default().push_str(&text);
        }
    }
}

/// The names that the `use`s of each module bring, with their paths as they stand there.
type Brought = BTreeMap<Module, BTreeMap<String, Vec<String>>>;

/// The module in which what a path of this module names is declared, as far as that is known. Nothing if
/// it is of another crate.
fn declared_in(
    sources: &BTreeMap<Module, String>,
    brought: &Brought,
    module: &Module,
    path: &[String],
) -> Option<Module> {
    // Two `use`s of one name that lead to each other do not compile; a longer way than this there is not.
    fn follow(
        sources: &BTreeMap<Module, String>,
        brought: &Brought,
        module: &Module,
        path: &[String],
        ways: usize,
    ) -> Option<Module> {
        let child = |of: &Module, name: &String| {
            Some([of.as_slice(), std::slice::from_ref(name)].concat()).filter(|of| sources.contains_key(of))
        };
        let used = |of: &Module, name: &String| brought.get(of).and_then(|of| of.get(name)).filter(|_| ways > 0);
        let mut rest = path;
        let mut target = match rest.first().map(String::as_str) {
            Some("crate") => Module::new(),
            Some("super" | "self") => module.clone(),
            Some(_) if child(module, &rest[0]).is_some() => module.clone(),
            // Of another crate, or of something that a `use` of this module names, which counts itself.
            _ => return None,
        };
        while let Some((name, left)) = rest.split_first() {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => {
                    target.pop();
                }
                _ => match (child(&target, name), used(&target, name)) {
                    (Some(inside), _) => target = inside,
                    (None, Some(path)) => {
                        let whole = [path.as_slice(), left].concat();
                        return follow(sources, brought, &target, &whole, ways - 1).or(Some(target));
                    }
                    (None, None) => break,
                },
            }
            rest = left;
        }
        Some(target)
    }
    follow(sources, brought, module, path, 8)
}

/// Which module of a crate imports from which.
fn imports(mut sources: BTreeMap<Module, String>) -> Imports {
    let of_tests: Vec<Module> = (sources.iter())
        .flat_map(|(module, text)| {
            let (_, modules) = without_tests(&tokens(text));
            modules.iter().map(|name| [module.as_slice(), &[(*name).to_owned()]].concat()).collect::<Vec<_>>()
        })
        .collect();
    sources.retain(|module, _| !of_tests.iter().any(|of| module.starts_with(of)));
    let owned = |path: &[&str]| path.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    let brought: Brought = (sources.iter())
        .map(|(module, text)| {
            let (kept, _) = without_tests(&tokens(text));
            let (uses, _) = uses(&kept);
            (module.clone(), uses.iter().map(|of| (of.name.to_owned(), owned(&of.path))).collect())
        })
        .collect();
    let mut imports = Imports::new();
    for (module, text) in &sources {
        let (kept, _) = without_tests(&tokens(text));
        for path in paths(&kept) {
            if let Some(target) = declared_in(&sources, &brought, module, &owned(&path)) {
                imports.entry(module.clone()).or_default().insert(target);
            }
        }
    }
    imports
}

/// For each folder: what of it imports from what else of it, with one import as an example.
fn between_siblings(imports: &Imports) -> BTreeMap<Module, BTreeMap<(String, String), String>> {
    let mut found = BTreeMap::<Module, BTreeMap<_, _>>::new();
    for (from, targets) in imports {
        for to in targets {
            let common = from.iter().zip(to).take_while(|(one, other)| one == other).count();
            if common == from.len() || common == to.len() {
                continue;
            }
            let example = format!("{} imports from {}", from.join("::"), to.join("::"));
            let pair = (from[common].clone(), to[common].clone());
            found.entry(from[..common].to_vec()).or_default().insert(pair, example);
        }
    }
    found
}

/// The circles of a crate by their folders, with the imports that they are made of.
fn circles(imports: &Imports) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (folder, edges) in between_siblings(imports) {
        let reaches = |from: &str, to: &str| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
            while let Some(at) = open.pop() {
                for (_, next) in edges.keys().filter(|(one, _)| one == at) {
                    if next == to {
                        return true;
                    }
                    if seen.insert(next.as_str()) {
                        open.push(next);
                    }
                }
            }
            false
        };
        let circular = edges.iter().filter(|((from, to), _)| reaches(to, from));
        found.extend(circular.map(|(_, example)| (folder.join("/"), example.clone())));
    }
    found
}

fn of_crate(source: &str) -> Imports {
    let mut sources = BTreeMap::new();
    files(&root().join(source), &[], &mut sources);
    imports(sources)
}

#[test]
fn no_modules_import_from_each_other() {
    for source in CRATES {
        let imports = of_crate(source);
        assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 3, "no imports are found in {source}");
        let found = circles(&imports);
        assert!(found.is_empty(), "{source}: circles of imports: {found:#?}");
    }
}

/// The folders whose own folders have an order: the crate, the module, and how the table in
/// ARCHITECTURE.md begins.
const ORDERED: [(&str, &str, &str); 3] = [
    ("compiler/src", "", "| folder |"),
    ("agent/src", "dataplane", "| folder of `dataplane` |"),
    ("agent/src", "source/kube", "| folder of `source/kube` |"),
];

#[test]
fn folders_import_only_from_those_above_them_in_their_table() {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (source, parent, heading) in ORDERED {
        let rows = page.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
        let table: Vec<&str> = rows.map_while(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let parent: Module = parent.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let entries =
            std::fs::read_dir(root().join(source).join(parent.join("/"))).unwrap().map(|entry| entry.unwrap());
        let folders: BTreeSet<String> = (entries.filter(|entry| entry.file_type().unwrap().is_dir()))
            .map(|entry| entry.file_name().into_string().unwrap())
            // Files of a golden test, say, are no modules.
            .filter(|name| has_modules(&root().join(source).join(parent.join("/")).join(name)))
            .collect();
        assert_eq!(
            folders,
            table.iter().map(|name| (*name).to_owned()).collect(),
            "the folders, and those of the table"
        );
        let place = |name: &String| table.iter().position(|folder| folder == name);
        let edges = between_siblings(&of_crate(source)).remove(&parent).unwrap_or_default();
        let mut compared = 0;
        for ((from, to), example) in &edges {
            // Beside the folders there are files.
            let (Some(from), Some(to)) = (place(from), place(to)) else { continue };
            assert!(to < from, "{example}, which is below it in the table");
            compared += 1;
        }
        assert!(compared > 3, "few imports are found in {source} {parent:?}");
    }
}

/// Whether a folder has files of Rust.
fn has_modules(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).unwrap();
    entries.any(|entry| entry.unwrap().path().extension().is_some_and(|extension| extension == "rs"))
}

/// Whether a source names a crate, and not a module of the same name, which it declares or which its
/// `use`s brought.
fn names_crate(tokens: &[&str], name: &str) -> bool {
    let is_word = |token: &str| token.chars().all(|c| c.is_alphanumeric() || c == '_');
    let by_root = tokens.windows(3).any(|three| three[1..] == ["::", name] && !is_word(three[0]));
    let paths = paths(tokens);
    let is_brought = tokens.windows(2).any(|two| two == ["mod", name])
        || paths.iter().any(|path| path.len() > 1 && path[1..].contains(&name));
    by_root || (!is_brought && paths.iter().any(|path| path.first() == Some(&name)))
}

/// The files of the agent that do what only some modules may: what that is, and where.
fn beyond_their_part(sources: &BTreeMap<Module, String>) -> Vec<(&'static str, String)> {
    // Kubectl, for `-k`: the one program that a command of people starts. What is fuzzed is netlink too.
    let allowed: [(&str, &[&str]); 3] = [
        ("kube", &["source::kube"]),
        ("netlink", &["dataplane", "fuzz"]),
        ("processes", &["dataplane", "command::input::kustomize"]),
    ];
    let mut found = Vec::new();
    for (module, text) in sources {
        let (kept, _) = without_tests(&tokens(text));
        let name = module.join("::");
        for (what, modules) in allowed {
            let does = match what {
                "kube" => names_crate(&kept, "kube"),
                "netlink" => kept.iter().any(|token| *token == "rtnetlink" || token.starts_with("netlink_packet")),
                _ => paths(&kept).iter().any(|path| path.windows(2).any(|two| two == ["process", "Command"])),
            };
            let is_allowed = modules.iter().any(|one| name == *one || name.starts_with(&format!("{one}::")));
            if does && !is_allowed {
                found.push((what, name.clone()));
            }
        }
    }
    found
}

#[test]
fn only_their_modules_name_kube_speak_netlink_and_start_processes() {
    let mut sources = BTreeMap::new();
    files(&root().join("agent/src"), &[], &mut sources);
    let found = beyond_their_part(&sources);
    assert!(found.is_empty(), "{found:#?}");
    // Each is found where it is allowed, so it would be found elsewhere.
    for (what, module) in
        [("kube", "source::kube"), ("netlink", "dataplane"), ("processes", "dataplane::programs::process")]
    {
        let module: Module = module.split("::").map(str::to_owned).collect();
        let of_module = sources.iter().filter(|(of, _)| of.starts_with(&module)).map(|(_, text)| text.clone());
        let moved = of_module.enumerate().map(|(number, text)| (vec![format!("elsewhere{number}")], text)).collect();
        assert!(beyond_their_part(&moved).iter().any(|(found, _)| *found == what), "{what}");
    }
}

#[test]
fn the_crate_kube_is_distinguished_from_the_module() {
    for (text, expected) in [
        ("fn f(client: &::kube::Client) {}", true),
        ("use kube::Client;", true),
        ("fn f() { kube::Client::new() }", true),
        ("use npc_agent::source::kube;\nfn f() { kube::list() }", false),
        ("use npc_agent::source::kube::{self, list};\nfn f() { kube::list() }", false),
        ("pub mod kube;\npub use kube::list;", false),
        ("// use kube::Client;\nfn f() { crate::source::kube::list() }", false),
    ] {
        assert_eq!(names_crate(&tokens(text), "kube"), expected, "{text}");
    }
}

/// The circles of a crate of these files.
fn circles_of(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let module = |path: &str| path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    circles(&imports(files.iter().map(|(path, text)| (module(path), (*text).to_owned())).collect()))
}

#[test]
fn a_planted_circle_is_found() {
    for (files, expected) in [
        // By `use`, by a whole path, nested, and of the crate's root.
        (&[("", ""), ("a", "use super::b::B;"), ("b", "fn f() { super::a::f() }")][..], 2),
        (&[("a", "use crate::{c, b::{self, B as C}};"), ("b", "use crate::c;"), ("c", "use crate::a::A;")], 4),
        (&[("a", "use crate::d::b::B;"), ("d", ""), ("d/b", "use super::super::a;")], 2),
        (&[("d", ""), ("d/a", "use super::b;"), ("d/b", "use super::a;")], 2),
        // By a name that the parent, or the root, took from the other one; under another name; by way of two.
        (&[("d", "pub use a::A;"), ("d/a", "use super::b::B;"), ("d/b", "use super::A;")], 2),
        (&[("d", "pub(crate) use a::{C, A as Z};"), ("d/a", "use super::b::B;"), ("d/b", "use super::Z;")], 2),
        (
            &[("", "use d::a;"), ("d", "pub use a::A;"), ("d/a", "use super::b;"), ("d/b", "fn f() { crate::a::f() }")],
            2,
        ),
        (&[("", "pub use d::A;"), ("d", "use self::a::A;"), ("d/a", "use super::b;"), ("d/b", "use crate::A;")], 2),
        // What looks like one and is none.
        (&[("d", "pub use a::A;"), ("d/a", "use super::b::B;"), ("d/b", "use super::C;")], 0),
        (&[("d", "pub use a::A; use k::B;"), ("d/a", "use super::b::B;"), ("d/b", "use super::{B, k::A};")], 0),
        (&[("a", "use super::b;"), ("b", "// use super::a;\nconst A: &str = \"use super::a;\"; fn f<'a>() {}")], 0),
        (&[("a", "use super::b;"), ("b", "const A: [char; 3] = ['\\'','\"','x']; use super::a;")], 2),
        (&[("a", "use super::b;"), ("b", "#[cfg(test)]\nmod tests { use super::super::a; }\nstruct B;")], 0),
        (&[("a", "use super::b;"), ("b", "#[cfg(test)]\nmod t;\n"), ("b/t", "use crate::a;")], 0),
        (&[("a", "use super::b;"), ("b", "#[cfg(test)]\nfn f() { crate::a::f() }\n")], 0),
        (&[("d", "mod a; use a::A;"), ("d/a", "use super::D;"), ("e", "use crate::d::a;")], 0),
    ] {
        let found = circles_of(files);
        assert_eq!(found.len(), expected, "{files:?}: {found:#?}");
    }
}

/// The crates on which a crate of the workspace depends, directly and by others, with those of its tests.
fn dependencies(lock: &str, of: &str) -> BTreeSet<String> {
    let name = |line: &str| line.trim().trim_matches([',', '"']).split(' ').next().unwrap_or_default().to_owned();
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let own = package.lines().find_map(|line| line.strip_prefix("name = ")).map(name).unwrap();
        let listed = package.lines().filter(|line| line.starts_with(" \"")).map(name);
        known.entry(own).or_default().extend(listed);
    }
    let (mut found, mut open) = (BTreeSet::new(), vec![of.to_owned()]);
    while let Some(next) = open.pop() {
        open.extend(known[&next].iter().filter(|of| found.insert((*of).clone())).cloned());
    }
    found
}

#[test]
fn the_cni_plugin_depends_neither_on_tokio_nor_on_kube() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let is_one = |name: &String| name == "tokio" || name == "kube" || name == "k8s-openapi";
    let of = |name| dependencies(&lock, name).into_iter().filter(is_one).collect::<Vec<_>>();
    assert_eq!(of("npc-cni"), [""; 0]);
    assert_eq!(of("npc-agent"), ["k8s-openapi", "kube", "tokio"]);
}
