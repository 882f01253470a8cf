//! Nothing that Rust prints for its programmers reaches an operator.

use std::fs;
use std::path::{Path, PathBuf};

/// The only fields of the log that are printed in Debug form: times, which look like `1.5ms`.
const TIMES: &[&str] = &[
    "ADDRESS_RETRY",
    "PATIENCE",
    "POLL",
    "YIELD",
    "applied",
    "at_most",
    "compiled",
    "confirm_after",
    "held_for",
    "next",
    "poll",
    "retry",
    "wait",
    "waited",
    "within",
];

/// What may stand in words in Debug form: times, and texts, which then stand in quotes.
const IN_WORDS: &[&str] = &[
    "0",
    "BUSY",
    "PATIENCE",
    "UNPROVEN",
    "applied",
    "code",
    "command",
    "compiled",
    "inside",
    "kind",
    "last",
    "limit",
    "name",
    "namespace",
    "node",
    "rest",
    "rounded(*.0",
    "self.text",
    "shorten(text)",
    "text",
    "time",
    "timeout",
    "twice.key",
    "value",
    "what",
];

/// The code of a crate that is no test, by files.
fn sources(of: &str) -> Vec<(PathBuf, String)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(of).join("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let is_test = name.contains("tests") || ["fuzz", "fuzz.rs", "golden", "sample.rs"].contains(&name.as_str());
            match () {
                () if is_test => {}
                () if path.is_dir() => folders.push(path),
                () if path.extension().is_some_and(|end| end == "rs") => {
                    let text = fs::read_to_string(&path).unwrap();
                    let code = text.split("\nmod tests {").next().unwrap_or_default().to_owned();
                    files.push((path, code));
                }
                () => {}
            }
        }
    }
    assert!(!files.is_empty(), "{of} has code");
    files
}

/// The arguments of a macro, from behind its opening bracket: the code with empty texts, and
/// the texts.
fn arguments(code: &str) -> (String, Vec<String>) {
    let (mut bare, mut texts, mut depth) = (String::new(), Vec::new(), 1);
    let mut signs = code.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '"' => {
                let mut text = String::new();
                while let Some(sign) = signs.next().filter(|sign| *sign != '"') {
                    text.push(sign);
                    if sign == '\\' {
                        text.extend(signs.next());
                    }
                }
                texts.push(text);
            }
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        bare.push(sign);
    }
    (bare, texts)
}

#[test]
fn the_log_has_no_rust_values_but_times() {
    let mut seen = 0;
    for (path, code) in ["agent", "cni-plugin", "compiler"].into_iter().flat_map(sources) {
        for level in ["info!(", "warn!(", "error!("] {
            for (_, rest) in code.match_indices(level).map(|(at, found)| code.split_at(at + found.len())) {
                seen += 1;
                let (fields, texts) = arguments(rest);
                for field in fields.split(',').map(str::trim) {
                    let (key, value) = field.split_once(" = ").unwrap_or((field, field));
                    if let Some(value) = value.strip_prefix('?') {
                        let is_time = TIMES.contains(&value) || TIMES.contains(&key);
                        assert!(is_time, "{}: {field} is logged as Rust writes it", path.display());
                    }
                }
                let is_plain = texts.iter().all(|text| !text.contains("{error:?}"));
                assert!(is_plain, "{}: an error is logged as Rust writes it", path.display());
            }
        }
    }
    assert!(seen > 100, "only {seen} log lines were found");
}

#[test]
fn words_for_operators_have_no_rust_values_but_times_and_quoted_texts() {
    let mut seen = 0;
    for (path, code) in ["agent", "cni-plugin"].into_iter().flat_map(sources) {
        for (at, _) in code.match_indices(":?}") {
            let shown = code[..at].rsplit('{').next().unwrap_or_default();
            // The value of an empty pair is the first behind the text.
            let behind = || {
                let rest = code[at..].split_once("\",").map_or("", |(_, rest)| rest);
                rest.trim_start().split([',', '\n']).next().unwrap_or_default()
            };
            let shown = if shown.is_empty() { behind().trim_end_matches([')', ';', ']']) } else { shown };
            let is_known =
                |shown: &str| IN_WORDS.iter().any(|known| shown.trim_end_matches(')') == known.trim_end_matches(')'));
            assert!(is_known(shown), "{}: {shown:?} is printed as Rust writes it", path.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} were found");
}
