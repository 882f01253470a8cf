//! Files that are broken, huge or odd. For each of them, every command ends with an exit code of
//! its contract and a message for people.

use std::fmt::Write as _;
use std::process::{Command, Output};

use crate::{Files, SHOP};

/// The number of the next file follows from the one before, so that each run tries the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^= number >> 31;
        usize::try_from(number % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

/// Values of other types than the fields have, and of no measure.
const VALUES: [&str; 22] = [
    "[]",
    "{}",
    "null",
    "true",
    "-1",
    "0",
    "65536",
    "99999999999999999999999999",
    "1e999",
    "-0x10",
    ".nan",
    "\"\"",
    "\"\\0\"",
    "\"\\u202e\"",
    "[[[[1]]]]",
    "{a: {b: {c: [1, {d: e}]}}}",
    "2026-11-29",
    "!!binary aGVsbG8=",
    "*nowhere",
    "&a [*a]",
    "'{{ .Values.port }}'",
    "0.0.0.0/-1",
];

fn lines_of(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Puts another value behind the key of a line.
fn other_value(text: &str, numbers: &mut Numbers) -> Vec<u8> {
    let mut lines = lines_of(text);
    for _ in 0..=numbers.below(3) {
        let place = numbers.below(lines.len());
        if let Some((key, _)) = lines[place].split_once(": ") {
            lines[place] = format!("{key}: {}", VALUES[numbers.below(VALUES.len())]);
        }
    }
    lines.join("\n").into_bytes()
}

/// A file that is a change of another one.
pub(crate) fn mutated(text: &str, number: usize) -> Vec<u8> {
    let mut numbers = Numbers(u64::try_from(number).unwrap());
    let mut lines = lines_of(text);
    let place = numbers.below(lines.len());
    match number % 14 {
        0 => text.as_bytes()[..numbers.below(text.len())].to_vec(),
        1 => {
            // A key twice, with the same value or another one.
            let line = lines[place].clone();
            lines.insert(place, line);
            lines.join("\n").into_bytes()
        }
        2 => text.replace('\n', "\r\n").into_bytes(),
        3 => [b"\xef\xbb\xbf".as_slice(), text.as_bytes()].concat(),
        4 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        5 => {
            let mut bytes = text.as_bytes().to_vec();
            bytes.insert(numbers.below(text.len()), 0);
            bytes
        }
        6 => {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..4 {
                let place = numbers.below(bytes.len());
                bytes[place] = u8::try_from(numbers.below(256)).unwrap();
            }
            bytes
        }
        7 => {
            let deep = 1 + numbers.below(20_000);
            let (open, close) = if numbers.below(2) == 0 { ("[", "]") } else { ("{a: ", "}") };
            let spec = format!("{}{}", open.repeat(deep), close.repeat(deep));
            format!(
                "{text}\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: deep, namespace: shop}}\nspec: {spec}\n"
            )
            .into_bytes()
        }
        8 => {
            // Each alias stands for nine of the one before.
            let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
            for level in 1..=12 {
                let before = format!("*a{}", level - 1);
                writeln!(bomb, "a{level}: &a{level} [{}]", [before.as_str(); 9].join(", ")).unwrap();
            }
            format!("{text}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: bomb}}\n{bomb}").into_bytes()
        }
        9 => {
            lines.remove(place);
            lines.join("\n").into_bytes()
        }
        10 => {
            lines[place] = format!("{}\t{}", " ".repeat(numbers.below(9)), lines[place].trim());
            lines.join("\n").into_bytes()
        }
        11 => {
            let long = "a".repeat(1 + numbers.below(300_000));
            lines[place] = format!("{}{long}", lines[place]);
            lines.join("\n").into_bytes()
        }
        _ => other_value(text, &mut numbers),
    }
}

/// What shows that a text was written for programmers.
const DEBUG: [&str; 12] = [
    "panicked at",
    "RUST_BACKTRACE",
    "Some(",
    "None)",
    "Ok(",
    "Err(",
    "Error(",
    "Error {",
    "Kind {",
    "kind: Invalid",
    "::unwrap",
    "stack overflow",
];

/// Whether a command answers its question, and does not refuse it.
///
/// # Errors
/// What is wrong with the way in which it ends.
pub(crate) fn answers(files: &Files, words: &[&str]) -> Result<bool, String> {
    let npc = Command::new(env!("CARGO_BIN_EXE_npc")).args(words).current_dir(files.path()).output();
    let Output { status, stdout, stderr } = npc.unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let shows = DEBUG.iter().find(|text| out.contains(**text) || err.contains(**text));
    let is_code = status.code().is_some_and(|code| (0..=5).contains(&code));
    // What is no plain success says why: a failure in words for people, an answer itself. That a thing is not in
    // the kernel is an answer of `why`.
    let is_said_in_out = matches!(status.code(), Some(1 | 4)) || (words[0] == "why" && status.code() == Some(3));
    let says = if is_said_in_out { [&out, &err] } else { [&err, &err] };
    let is_silent = status.code() != Some(0) && says.iter().all(|text| text.trim().is_empty());
    if !is_code || shows.is_some() || is_silent {
        let err: String = err.chars().take(600).collect();
        return Err(format!("{words:?}: {status} {shows:?}\n{err}"));
    }
    Ok(matches!(status.code(), Some(0 | 1 | 4)))
}

#[test]
fn for_any_file_a_command_ends_in_words_and_with_a_code_of_its_contract() {
    let commands: [&[&str]; 12] = [
        &["explain", "-f", "in.yaml", "shop/deploy/web", "shop/deploy/api:8080"],
        &["explain", "-f", "in.yaml", "any", "any", "-o", "json"],
        &["explain", "-f", "in.yaml", "shop/deploy/api"],
        &["explain", "-f", "in.yaml", "netpol/api", "-n", "shop"],
        &["matrix", "-f", "in.yaml"],
        &["matrix", "-f", "in.yaml", "-o", "json", "--by", "pod"],
        &["matrix", "-f", "in.yaml", "-o", "md"],
        &["lint", "-f", "in.yaml"],
        &["lint", "-f", "in.yaml", "-o", "sarif"],
        &["compile", "-f", "in.yaml"],
        &["migrate", "-f", "in.yaml"],
        &["explain", "--overlay", "in.yaml", "-f", "shop.yaml", "shop/deploy/web", "shop/svc/api"],
    ];
    let files = Files::of("");
    files.add("shop.yaml", SHOP);
    let (mut wrong, mut answered) = (Vec::new(), 0);
    for number in 0..200 {
        std::fs::write(files.path().join("in.yaml"), mutated(SHOP, number)).unwrap();
        // Each file meets three of the commands, each command every kind of change.
        for step in 0..3 {
            let words = commands[(number + number / 14 + step * 5) % commands.len()];
            let with_errors: Vec<&str> = words.iter().copied().chain(["--allow-errors"]).collect();
            let words = if step == 1 { with_errors.as_slice() } else { words };
            match answers(&files, words) {
                Ok(is_answer) => answered += usize::from(is_answer),
                Err(fault) => wrong.push(format!("{number}: {fault}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong[..wrong.len().min(6)].join("\n"));
    assert!(answered > 40, "only {answered} of 600 commands answered");
}

#[test]
fn the_ends_of_lines_and_a_byte_order_mark_change_nothing() {
    let files = Files::of(SHOP);
    let matrix = files.npc("matrix", &[]);
    assert_eq!(matrix.code, 0, "{}", matrix.err);
    for number in [2, 3] {
        std::fs::write(files.path().join("in.yaml"), mutated(SHOP, number)).unwrap();
        let other = files.npc("matrix", &[]);
        assert_eq!((other.code, other.out), (0, matrix.out.clone()), "{number}: {}", other.err);
    }
}

#[test]
fn a_reader_that_has_read_enough_changes_no_exit_code() {
    let files = Files::of(SHOP);
    let denied = ["explain", "-f", "in.yaml", "monitoring/prometheus", "shop/deploy/api:9090"];
    for words in
        [&denied[..], &["explain", "-f", "in.yaml", "monitoring/prometheus", "shop/deploy/api:9090", "-o", "json"]]
    {
        let expected = files.run(words).code;
        assert_eq!(expected, 1, "{words:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = files.command(words).stdout(writer).status().unwrap();
        assert_eq!(status.code(), Some(expected), "{words:?}");
    }
}
