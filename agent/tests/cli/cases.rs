//! Questions that people ask, each with its input and its right answer: the files of
//! `tests/cases`, and a folder of the same kind that `NPC_ASKED` names.
//!
//! A file begins with its questions:
//!
//! ```text
//! # ask: explain shop/deploy/web shop/svc/api
//! # exit: 1
//! # says: DENIED
//! # lacks: peer-label-missing
//! # code: port-is-service-port
//! ```
//!
//! `says` is text that standard output or standard error must have, `lacks` text that
//! neither may have, `code` a code that the JSON must have. `# with: base.yaml` adds another
//! file to the input.

use std::path::{Path, PathBuf};

use npc_skip::{Lack, skipped};
use serde_json::Value;

use crate::{Answer, Files};

/// A question and what is right about it.
#[derive(Debug, Default)]
pub(crate) struct Question {
    words: Vec<String>,
    exit: Option<i32>,
    says: Vec<String>,
    lacks: Vec<String>,
    codes: Vec<String>,
}

impl Question {
    /// The words of the command.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    /// Whether the right answer is that some flow is denied.
    pub(crate) fn is_denied(&self) -> bool {
        self.exit == Some(1)
    }
}

/// The YAML files of a folder, sorted.
pub(crate) fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

/// The questions of a file, and the files that its input needs besides.
pub(crate) fn questions(text: &str) -> (Vec<Question>, Vec<String>) {
    let (mut questions, mut with) = (Vec::<Question>::new(), Vec::new());
    for line in text.lines().map_while(|line| line.strip_prefix("# ")) {
        let Some((word, rest)) = line.split_once(": ") else { continue };
        match (word, questions.last_mut()) {
            ("with", _) => with.push(rest.to_owned()),
            ("ask", _) => {
                let words = rest.split_whitespace().map(str::to_owned).collect();
                questions.push(Question { words, ..Question::default() });
            }
            ("exit", Some(question)) => question.exit = rest.parse().ok(),
            ("says", Some(question)) => question.says.push(rest.to_owned()),
            ("lacks", Some(question)) => question.lacks.push(rest.to_owned()),
            ("code", Some(question)) => question.codes.push(rest.to_owned()),
            _ => {}
        }
    }
    (questions, with)
}

fn ask(files: &Files, words: &[String], inputs: &[String]) -> Answer {
    let mut all: Vec<&str> = vec![&words[0]];
    for input in inputs {
        all.extend(["-f", input]);
    }
    all.extend(words[1..].iter().map(String::as_str));
    files.run(&all)
}

#[test]
fn questions_that_people_ask_get_right_answers() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases"));
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for path in yaml_files(folder) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let (questions, with) = questions(&text);
        let files = Files::of("");
        files.add(name, &text);
        for other in &with {
            files.add(other, &std::fs::read_to_string(folder.join(other)).unwrap());
        }
        let inputs: Vec<String> = with.into_iter().chain([name.to_owned()]).collect();
        for question in questions {
            asked += 1;
            let answer = ask(&files, &question.words, &inputs);
            let all = format!("{}{}", answer.out, answer.err);
            let mut faults = Vec::new();
            if question.exit.is_some_and(|exit| exit != answer.code) {
                faults.push(format!("exit code {}, not {:?}", answer.code, question.exit));
            }
            faults.extend(
                question.says.iter().filter(|text| !all.contains(*text)).map(|text| format!("does not say {text:?}")),
            );
            faults
                .extend(question.lacks.iter().filter(|text| all.contains(*text)).map(|text| format!("says {text:?}")));
            if !question.codes.is_empty() {
                let words = [question.words.as_slice(), &["-o".to_owned(), "json".to_owned()]].concat();
                let json = ask(&files, &words, &inputs).json();
                let missing = question.codes.iter().filter(|code| !has_code(&json, code));
                faults.extend(missing.map(|code| format!("the JSON has no {code:?}")));
            }
            if question.exit.is_none() && question.says.is_empty() && question.codes.is_empty() {
                faults.push("asks for no exit code, text or code, so an error would do too".to_owned());
            }
            if !faults.is_empty() {
                wrong.push(format!("{name}: {}: {}\n{all}", question.words.join(" "), faults.join("; ")));
            }
        }
    }
    assert!(asked > 40, "only {asked} questions were found");
    assert!(wrong.is_empty(), "{} of {asked} questions are answered wrongly:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whether a field for codes, somewhere in a document, has this one.
fn has_code(json: &Value, code: &str) -> bool {
    match json {
        Value::Array(all) => all.iter().any(|one| has_code(one, code)),
        Value::Object(all) => all
            .iter()
            .any(|(key, one)| (matches!(key.as_str(), "reason" | "code") && one == code) || has_code(one, code)),
        _ => false,
    }
}

#[test]
fn every_code_of_explain_has_a_question_that_gets_it() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases"));
    let texts: Vec<String> = yaml_files(folder).iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let asked: Vec<String> =
        texts.iter().flat_map(|text| questions(text).0).flat_map(|question| question.codes).collect();
    let listed = Files::of("").run(&["reason"]).out;
    let of_explain = listed.split("\n\n").filter(|codes| codes.starts_with("explain"));
    let lines = of_explain.flat_map(|codes| codes.lines().skip(1));
    let codes: Vec<&str> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(codes.len() > 29, "{listed}");
    let missing: Vec<&&str> = codes.iter().filter(|code| !asked.iter().any(|asked| asked == **code)).collect();
    assert!(missing.is_empty(), "no file of tests/cases asks for {missing:?}");
}

/// A table of questions in a README of a folder: `| file | ask | right | … |`. Of the right
/// answer the verdicts in capitals and the codes in backquotes are looked for.
#[test]
fn questions_of_a_folder_outside_get_right_answers() {
    let Some(folder) = std::env::var_os("NPC_ASKED").map(PathBuf::from) else {
        skipped(Lack::Corpora, &"NPC_ASKED names no folder of questions");
        return;
    };
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut wrong = Vec::new();
    for line in readme.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, asks, right, ..] = cells.as_slice() else { continue };
        let is_alone = names.contains("(alone)");
        for name in names.replace("(alone)", "").split(", ") {
            let files = Files::of("");
            let file = format!("{}.yaml", name.trim());
            let mut inputs = vec![file.clone()];
            if !is_alone {
                inputs.insert(0, "base.yaml".to_owned());
            }
            for input in &inputs {
                files.add(input, &std::fs::read_to_string(folder.join(input)).unwrap());
            }
            for ask_words in
                asks.split("; ").filter(|ask| ["explain ", "matrix"].iter().any(|word| ask.starts_with(word)))
            {
                // One question of the folder calls its StatefulSet a Deployment.
                let words: Vec<String> =
                    ask_words.replace("deploy/db", "sts/db").split_whitespace().map(str::to_owned).collect();
                let answer = ask(&files, &words, &inputs);
                let all = format!("{}{}", answer.out, answer.err);
                let verdict = right
                    .split([' ', ',', ';', ':', '(', ')'])
                    .find(|word| ["ALLOWED", "DENIED", "PARTIAL", "UNKNOWN"].contains(word));
                let other = right.contains("PARTIAL or UNKNOWN").then_some("UNKNOWN");
                let is_right = |word: &str| {
                    answer.out.starts_with(word) || (right.contains("or a warning") && all.contains("warning"))
                };
                let codes: Vec<&str> = right
                    .split('`')
                    .skip(1)
                    .step_by(2)
                    .filter(|code| code.contains('-') && !code.contains(' '))
                    .collect();
                let mut faults: Vec<String> =
                    codes.iter().filter(|code| !all.contains(**code)).map(|code| format!("no {code}")).collect();
                if words.len() > 2 && verdict.is_some_and(|verdict| !is_right(verdict) && !other.is_some_and(is_right))
                {
                    faults.push(format!("not {verdict:?}"));
                }
                if !faults.is_empty() {
                    wrong.push(format!("{name}: {ask_words}: {} (right: {right})\n{all}", faults.join(", ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
