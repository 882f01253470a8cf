//! `npc reason`: each page's example says what the page says that it says.

use std::collections::BTreeMap;

use crate::Files;

/// All codes, as the command lists them.
fn codes() -> Vec<String> {
    let listed = Files::of("").run(&["reason"]);
    assert_eq!(listed.code, 0, "{}", listed.err);
    let lines = listed.out.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    lines.map(str::to_owned).collect()
}

/// The fenced blocks of a page, by their languages.
fn blocks(page: &str) -> BTreeMap<&str, String> {
    let mut blocks = BTreeMap::<&str, String>::new();
    let mut open = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(language), None) => open = Some(language),
            (Some(_), Some(_)) => open = None,
            (None, Some(language)) => blocks.entry(language).or_default().extend([line, "\n"]),
            (None, None) => {}
        }
    }
    blocks
}

/// Whether a line of the answer is this one; what `…` stands for is left out of the page.
fn is_line(line: &str, written: &str) -> bool {
    written.strip_suffix('…').map_or(line == written, |begin| line.starts_with(begin))
}

#[test]
fn the_example_of_every_page_says_what_the_page_says() {
    let codes = codes();
    assert!(codes.len() > 30, "{codes:?}");
    for code in codes {
        let page = std::fs::read_to_string(format!("src/command/reason/pages/{code}.md")).unwrap();
        let blocks = blocks(&page);
        let files = Files::of("");
        files.add("example.yaml", &blocks["yaml"]);
        let (command, written) = blocks["console"].split_once('\n').unwrap();
        let words: Vec<&str> = command.strip_prefix("$ npc ").unwrap().split(' ').collect();
        let answer = files.run(&words);
        let mut lines = answer.out.lines();
        for written in written.lines() {
            let is_there = lines.any(|line| is_line(line, written));
            assert!(is_there, "{code}: {written:?} is not in\n{}{}", answer.out, answer.err);
        }
        // The page is about the code: the answer has it, in text or in JSON.
        let json = files.run(&[words.as_slice(), &["-o", "json"]].concat()).json();
        assert!(has(&json, &code), "{code} is not in {json}");
    }
}

/// Whether a text is somewhere in a document.
fn has(json: &serde_json::Value, text: &str) -> bool {
    match json {
        serde_json::Value::String(found) => found == text,
        serde_json::Value::Array(all) => all.iter().any(|one| has(one, text)),
        serde_json::Value::Object(all) => all.values().any(|one| has(one, text)),
        _ => false,
    }
}

#[test]
fn a_code_is_found_as_explain_prints_it_and_a_misspelt_one_names_the_nearest() {
    let files = Files::of("");
    let page = files.run(&["reason", "port-range"]);
    assert!(page.out.starts_with("port-range\n\nexplain: "), "{}", page.out);
    assert_eq!(files.run(&["reason", "denied[port-range]"]).out, page.out);
    let rule = files.run(&["reason", "rule"]).out;
    assert_eq!(files.run(&["reason", "allowed[rule]"]).out, rule);
    let misspelt = files.run(&["reason", "port-rang"]);
    assert_eq!(misspelt.code, 2);
    assert!(misspelt.err.contains("port-range"), "{}", misspelt.err);
}
