//! `npc reason`: each page's example says what the page says that it says.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Files;
use crate::rights::{Reply, items, refused, serve};

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
        // A page may have other files, by their names.
        for (name, text) in blocks.iter().filter_map(|(language, text)| Some((language.strip_prefix("yaml ")?, text))) {
            if let Some((folder, _)) = name.rsplit_once('/') {
                std::fs::create_dir_all(files.path().join(folder)).unwrap();
            }
            files.add(name, text);
        }
        let (command, written) = blocks["console"].split_once('\n').unwrap();
        let mut words: Vec<&str> = command.strip_prefix("$ npc ").unwrap().split(' ').collect();
        // Without files, the example is what a cluster has.
        if !words.contains(&"-f") {
            let objects = objects(&blocks["yaml"]);
            serve(&files, move |path| one_namespace(&objects, path));
            words.extend(["--kubeconfig", "kubeconfig"]);
        }
        let answer = files.run(&words);
        // Of some commands, warnings are on standard error.
        let mut lines = answer.out.lines().chain(answer.err.lines());
        for written in written.lines() {
            let is_there = lines.any(|line| is_line(line, written));
            assert!(is_there, "{code}: {written:?} is not in\n{}{}", answer.out, answer.err);
        }
        // The page is about the code: the answer has it, in text or in JSON.
        let json = files.run(&[words.as_slice(), &["-o", "json"]].concat()).json();
        assert!(has(&json, &code), "{code} is not in {json}");
    }
}

/// The objects of a YAML text.
fn objects(text: &str) -> Vec<Value> {
    text.split("---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// An API server with these objects, for one who may read the namespace shop only.
fn one_namespace(objects: &[Value], path: &str) -> Reply {
    let list = |of: &Value| {
        let (version, kind) = (of["apiVersion"].as_str().unwrap(), of["kind"].as_str().unwrap().to_lowercase());
        let root = if version == "v1" { "/api" } else { "/apis" };
        format!("{root}/{version}/namespaces/shop/{kind}s")
    };
    let name = |of: &Value| of["metadata"]["name"].as_str().unwrap().to_owned();
    if path == "/apis" {
        return Some((200, json!({"groups": []})));
    }
    if !path.contains("/namespaces/shop/") {
        return refused(403, "Forbidden");
    }
    if let Some(one) = objects.iter().find(|of| path == format!("{}/{}", list(of), name(of))) {
        return Some((200, one.clone()));
    }
    if path.split("/namespaces/shop/").nth(1).is_some_and(|rest| rest.contains('/')) {
        return refused(404, "NotFound");
    }
    items(objects.iter().filter(|of| path == list(of)).cloned().collect())
}

/// Whether a text is somewhere in a document.
fn has(json: &Value, text: &str) -> bool {
    match json {
        Value::String(found) => found == text,
        Value::Array(all) => all.iter().any(|one| has(one, text)),
        Value::Object(all) => all.values().any(|one| has(one, text)),
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
