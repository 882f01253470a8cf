//! No circle of imports: in each folder of source, a file or folder that imports from another
//! one, directly or by others, is not imported from there. The folders of the compiler, of the
//! dataplane and of the API server's source also keep the order of their tables in ARCHITECTURE.md.
//!
//! A folder and what is in it count as one thing seen from outside, and what a file takes from
//! its own folder's `mod.rs` is no import. Test modules are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

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

/// The words and signs of a source, without comments, texts and characters.
fn tokens(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => text_length(rest),
            'r' | 'b' if rest.trim_start_matches(['r', 'b', '#']).starts_with('"') && !rest.starts_with("b#") => {
                let begin = rest.find('"').unwrap();
                let end = format!("\"{}", "#".repeat(rest[..begin].matches('#').count()));
                if rest[..begin].contains('r') {
                    begin + 1 + rest[begin + 1..].find(&end).unwrap_or(0) + end.len()
                } else {
                    begin + text_length(&rest[begin..])
                }
            }
            // A character; anything else with a quote is a lifetime.
            '\'' if rest[1..].starts_with('\\') => 4 + rest[3..].find('\'').unwrap_or(0),
            '\'' if rest.chars().nth(2) == Some('\'') => rest.char_indices().nth(3).map_or(rest.len(), |(at, _)| at),
            first if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            first => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        let is_kept = token == "::" || token.chars().all(is_word) || (token.len() == 1 && !token.trim().is_empty());
        if is_kept && token != "'" {
            found.push(token);
        }
        rest = after;
    }
    found
}

/// The length of a text with its quotes.
fn text_length(rest: &str) -> usize {
    let mut is_escaped = false;
    let end = rest.char_indices().skip(1).find(|(_, c)| {
        let is_end = *c == '"' && !is_escaped;
        is_escaped = *c == '\\' && !is_escaped;
        is_end
    });
    end.map_or(rest.len(), |(at, _)| at + 1)
}

/// The place behind what a bracket at this place encloses.
fn behind(tokens: &[&str], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Takes what exists for tests alone out of a source, and answers the modules among it that have
/// files of their own.
fn without_tests<'a>(tokens: &[&'a str]) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut kept, mut modules, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        let is_test = |of: &[&str]| {
            of.starts_with(&["#", "[", "cfg", "(", "test", ")"])
                || of.starts_with(&["#", "[", "cfg", "(", "all", "(", "test"])
        };
        if !is_test(&tokens[at..]) {
            kept.push(tokens[at]);
            at += 1;
            continue;
        }
        while tokens.get(at) == Some(&"#") {
            at = behind(tokens, at + 1);
        }
        let begin = at;
        while at < tokens.len() && !matches!(tokens[at], ";" | "{") {
            at = if matches!(tokens[at], "(" | "[") { behind(tokens, at) } else { at + 1 };
        }
        if tokens.get(at) == Some(&"{") {
            at = behind(tokens, at);
        } else if let Some(module) = tokens[begin..at].iter().position(|token| *token == "mod") {
            modules.extend(tokens.get(begin + module + 1));
            at += 1;
        }
    }
    (kept, modules)
}

/// The paths of a source: those of its `use`s, each whole, and all others.
fn paths<'a>(tokens: &[&'a str]) -> Vec<Vec<&'a str>> {
    fn tree<'a>(tokens: &[&'a str], at: &mut usize, before: &[&'a str], found: &mut Vec<Vec<&'a str>>) {
        let mut path = before.to_vec();
        while let Some(token) = tokens.get(*at) {
            *at += 1;
            match *token {
                "{" => loop {
                    tree(tokens, at, &path, found);
                    if tokens.get(*at - 1) != Some(&",") {
                        break;
                    }
                },
                "," | "}" | ";" => break,
                // The name that it gets here does not matter.
                "as" => *at += 1,
                "::" => {}
                name => path.push(name),
            }
        }
        found.push(path);
    }
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if tokens[at] == "use" && tokens.get(at + 1) != Some(&"<") {
            at += 1;
            tree(tokens, &mut at, &[], &mut found);
            continue;
        }
        let mut path = vec![tokens[at]];
        while tokens.get(at + 1) == Some(&"::") && at + 2 < tokens.len() {
            path.push(tokens[at + 2]);
            at += 2;
        }
        if path.len() > 1 {
            found.push(path);
        }
        at += 1;
    }
    found
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
    let mut imports = Imports::new();
    for (module, text) in &sources {
        let (kept, _) = without_tests(&tokens(text));
        for path in paths(&kept) {
            let mut rest = path.as_slice();
            let mut target = match rest.first() {
                Some(&"crate") => Module::new(),
                Some(&("super" | "self")) => module.clone(),
                Some(first) if sources.contains_key(&[module.as_slice(), &[(*first).to_owned()]].concat()) => {
                    module.clone()
                }
                // Of another crate, or of something that a `use` names.
                _ => continue,
            };
            while let Some((&("crate" | "super" | "self"), left)) = rest.split_first() {
                if rest[0] == "super" {
                    target.pop();
                }
                rest = left;
            }
            target.extend(rest.iter().map(|name| (*name).to_owned()));
            while !target.is_empty() && !sources.contains_key(&target) {
                target.pop();
            }
            imports.entry(module.clone()).or_default().insert(target);
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
        // What looks like one and is none.
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
