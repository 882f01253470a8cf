//! `npc lint`: findings of every source, in every format.

use serde_json::Value;

use crate::{Files, SHOP};

/// The schema of SARIF 2.1.0, as OASIS publishes it.
const SARIF: &str = include_str!("sarif-2.1.0.json");

/// A policy with an error, one with a warning, a pod with a label that no API server takes, and
/// a document that cannot be read.
pub(crate) const WRONG: &str = r#"apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {}
  ingress:
  - from:
    - ipBlock: {cidr: "10.0.0.0/33%\n::error ::"}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {}
  egress:
  - to:
    - ipBlock: {cidr: 10.1.0.0/8}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: -web-}}
---
apiVersion: v1
kind: Pod
metadata: [web]
"#;

#[test]
fn findings_of_files_and_policies_are_listed_with_their_codes_and_places() {
    let answer = Files::of(WRONG).npc("lint", &[]);
    assert_eq!(answer.code, 1, "{}", answer.err);
    let lines: Vec<Vec<&str>> = answer.out.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(
        lines,
        [
            ["in.yaml:8:17", "error", "cidr-invalid"],
            ["in.yaml:17:17", "warning", "cidr-legacy"],
            ["in.yaml:21:49", "warning", "label-invalid"],
            ["in.yaml:25:11", "error", "document-unreadable"],
        ],
        "{}",
        answer.out
    );
    for part in ["networkpolicy shop/db spec.egress[0].to[0].ipBlock.cidr: ", "; it works, but today's API server"] {
        assert!(answer.out.contains(part), "{part} is not in {}", answer.out);
    }
}

/// A program that compares two runs finds only what changed, for any order in which the files were named.
#[test]
fn findings_have_one_order_in_every_format_for_any_order_of_the_files() {
    let files = Files::of("");
    files.add("a.yaml", WRONG);
    files.add("b.yaml", &WRONG.replace("namespace: shop", "namespace: store"));
    for format in ["text", "json", "sarif", "github"] {
        let of = |inputs: [&str; 2]| files.run(&["lint", "-f", inputs[0], "-f", inputs[1], "-o", format]).out;
        assert_eq!(of(["a.yaml", "b.yaml"]), of(["b.yaml", "a.yaml"]), "{format}");
    }
    let json = files.run(&["lint", "-f", "b.yaml", "-f", "a.yaml", "-o", "json"]).json();
    let place = |of: &Value| {
        let number = |key: &str| of["location"][key].as_u64().unwrap();
        (of["location"]["file"].as_str().unwrap().to_owned(), number("line"), number("column"))
    };
    let places: Vec<_> = json["findings"].as_array().unwrap().iter().map(place).collect();
    assert!(places.len() > 7 && places.is_sorted(), "{places:?}");
    let sarif = files.run(&["lint", "-f", "b.yaml", "-f", "a.yaml", "-o", "sarif"]).json();
    let lines: Vec<u64> = (sarif["runs"][0]["results"].as_array().unwrap().iter())
        .map(|of| of["locations"][0]["physicalLocation"]["region"]["startLine"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, places.iter().map(|(_, line, _)| *line).collect::<Vec<_>>());
}

#[test]
fn the_exit_code_says_whether_anything_was_found() {
    let none =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {}}\n";
    let none = Files::of(none).npc("lint", &[]);
    assert_eq!((none.code, none.out.as_str()), (0, ""), "{}", none.err);
    let wrong = Files::of(WRONG);
    assert_eq!(wrong.npc("lint", &["--exit-zero"]).code, 0);
    assert_eq!(wrong.npc("lint", &["--fail-on", "error"]).code, 1);
    let label = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: -web-}}\n";
    assert_eq!(Files::of(label).npc("lint", &[]).code, 1);
    assert_eq!(Files::of(label).npc("lint", &["--fail-on", "error"]).code, 0);
    assert_eq!(wrong.run(&["lint", "-f", "nowhere.yaml"]).code, 2);
}

#[test]
fn sarif_is_valid_and_every_result_has_its_rule() {
    // As published, the pattern of languages is no regular expression: a "[" is missing.
    let schema: Value = serde_json::from_str(&SARIF.replace("{2}]?$", "{2}$")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for text in [SHOP, WRONG, "kind: [\n"] {
        let log = Files::of(text).npc("lint", &["-o", "sarif"]).json();
        let faults: Vec<String> =
            validator.iter_errors(&log).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(faults.is_empty(), "{faults:#?}\n{log}");
        let run = &log["runs"][0];
        for result in run["results"].as_array().unwrap() {
            let rule = &run["tool"]["driver"]["rules"][usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
            assert_eq!(rule["id"], result["ruleId"]);
            assert!(rule["help"]["markdown"].as_str().is_some_and(|help| help.starts_with("## ")), "{rule}");
        }
    }
    let log = Files::of(WRONG).npc("lint", &["-o", "sarif"]).json();
    let place = &log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "in.yaml");
    assert_eq!(place["region"], serde_json::json!({"startLine": 8, "startColumn": 17}));
    // The schema refuses what is wrong.
    let mut wrong = log;
    wrong["runs"][0]["results"][0]["level"] = "fatal".into();
    assert!(!validator.is_valid(&wrong));
}

/// What was not judged has a code and a place too, and does not count for the exit code.
#[test]
fn what_is_not_judged_is_a_finding_in_every_format_and_does_not_count() {
    let files = Files::of("");
    let policy =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {}}\n";
    let cilium = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\nspec: {}\n";
    files.add("all.yaml", &format!("{policy}---\n{cilium}---\n{cilium}"));
    files.add("chart.yaml", "kind: NetworkPolicy\nmetadata: {name: {{ .Release.Name }}}\n");
    let json = files.run(&["lint", "-f", ".", "-o", "json"]);
    assert_eq!(json.code, 0, "{}", json.err);
    let json = json.json();
    let findings = json["findings"].as_array().unwrap();
    let found: Vec<[String; 2]> =
        (findings.iter()).map(|of| [of["code"].as_str().unwrap().to_owned(), of["location"].to_string()]).collect();
    assert_eq!(
        found,
        [
            ["policies-not-judged", r#"{"column":1,"file":"./all.yaml","line":6}"#],
            ["policies-not-judged", r#"{"column":1,"file":"./all.yaml","line":11}"#],
            ["template-not-rendered", r#"{"column":null,"file":"./chart.yaml","line":null}"#],
        ],
        "{json}"
    );
    assert_eq!(
        findings[1]["object"],
        serde_json::json!({"kind": "CiliumNetworkPolicy", "namespace": "default", "name": "x"}),
        "{json}"
    );
    assert_eq!(json["warnings"].as_array().map(Vec::len), Some(2), "{json}");
    assert!(json["warnings"][0].as_str().unwrap().ends_with(": 2 CiliumNetworkPolicy.cilium.io"), "{json}");
    let github = files.run(&["lint", "-f", ".", "-o", "github"]);
    assert_eq!((github.code, github.err.as_str()), (0, ""), "a log has both streams");
    for line in [6, 11] {
        let command = format!("::warning file=./all.yaml,line={line},col=1,title=policies-not-judged::");
        assert_eq!(github.out.matches(&command).count(), 1, "{}", github.out);
    }
    let sarif = files.run(&["lint", "-f", ".", "-o", "sarif"]).json();
    let rules: Vec<&str> =
        (sarif["runs"][0]["results"].as_array().unwrap().iter()).map(|of| of["ruleId"].as_str().unwrap()).collect();
    assert_eq!(rules, ["policies-not-judged", "policies-not-judged", "template-not-rendered"]);
    // For people, they are beside the list of what is wrong.
    let text = files.run(&["lint", "-f", "."]);
    assert_eq!((text.code, text.out.as_str()), (0, ""), "{}", text.err);
    assert!(text.err.contains("warning[policies-not-judged]: npc judges NetworkPolicies only"), "{}", text.err);
    // Other commands have them in their JSON too.
    for words in [&["matrix"][..], &["compile", "-o", "pairs-json"], &["migrate"]] {
        let output: &[&str] = if words.contains(&"-o") { &[] } else { &["-o", "json"] };
        let json = files.run(&[words, &["-f", "."], output].concat()).json();
        let codes: Vec<&str> =
            json["findings"].as_array().unwrap().iter().map(|of| of["code"].as_str().unwrap()).collect();
        assert_eq!(codes, ["policies-not-judged", "policies-not-judged", "template-not-rendered"], "{words:?}: {json}");
    }
}

/// A program gets the other place as data.
#[test]
fn of_two_objects_with_one_name_the_finding_leads_to_both() {
    let policy =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: {podSelector: {}}\n";
    let files = Files::of(&format!("{policy}---\n{policy}"));
    let json = files.npc("lint", &["-o", "json"]).json();
    let of = json["findings"].as_array().unwrap().iter().find(|of| of["code"] == "duplicate-name").unwrap();
    assert_eq!((&of["location"]["line"], &of["related"]["line"]), (&6.into(), &1.into()), "{of}");
    let sarif = files.npc("lint", &["-o", "sarif"]).json();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let of = results.iter().find(|of| of["ruleId"] == "duplicate-name").unwrap();
    assert_eq!(of["relatedLocations"][0]["physicalLocation"]["region"]["startLine"], 1, "{of}");
}

#[test]
fn a_misspelt_field_of_the_spec_is_an_error_and_a_denials_reason() {
    for (spec, field) in [
        ("podSelecter: {matchLabels: {app: db}}, policyTypes: [Ingress]", "podSelecter"),
        ("podSelector: {}, policyType: [Egress]", "policyType"),
        ("podSelector: {}, ingres: [{}]", "ingres"),
        ("podSelector: {}, policyTypes: [Ingress, Egress], egres: [{}]", "egres"),
    ] {
        let pod = |name: &str, number: u8| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
                 spec: {{containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIP: 10.0.0.{number}}}\n"
            )
        };
        let policy =
            format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{{spec}}}\n");
        let files = Files::of(&[policy, pod("web", 1), pod("api", 2)].concat());
        let findings = files.npc("lint", &["-o", "json"]).json();
        let findings = findings["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(
            [&findings[0]["severity"], &findings[0]["path"], &findings[0]["effect"]],
            ["Error", &format!("spec.{field}"), "npc enforces the policy without it"]
        );
        // `egres` is why egress is denied, and not why ingress is.
        let answer = files.npc("explain", &["web", "api:80"]);
        for part in ["denied[rule-not-understood]", &format!("networkpolicy default/p  spec.{field}")] {
            assert_eq!(answer.out.matches(part).count(), 1, "{}{}", answer.out, answer.err);
        }
    }
}

#[test]
fn a_finding_is_one_command_of_a_workflow_with_any_quoted_text() {
    let answer = Files::of(WRONG).npc("lint", &["-o", "github"]);
    let lines: Vec<&str> = answer.out.lines().collect();
    assert_eq!(lines.len(), 4, "{}", answer.out);
    let cidr = "::error file=in.yaml,line=8,col=17,title=cidr-invalid::networkpolicy shop/api ";
    assert!(lines[0].starts_with(cidr) && lines[0].contains("10.0.0.0/33%25%0A::error ::"), "{}", lines[0]);
}

#[test]
fn every_code_that_lint_prints_has_a_page() {
    let json = Files::of(WRONG).npc("lint", &["-o", "json"]).json();
    for finding in json["findings"].as_array().unwrap() {
        let code = finding["code"].as_str().unwrap();
        let page = Files::of("").run(&["reason", code]);
        assert!(page.code == 0 && page.out.starts_with(&format!("{code}\n\nlint: ")), "{}", page.out);
    }
}

#[test]
fn names_that_the_api_server_refuses_are_findings_of_the_policy() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: Deny\n  namespace: shop.eu\nspec: {podSelector: {}}\n";
    let answer = Files::of(text).npc("lint", &[]);
    for part in [
        "in.yaml:4:3   warning  name-invalid  networkpolicy shop.eu/Deny metadata.name: \"Deny\" is no name",
        "in.yaml:5:3   warning  name-invalid  networkpolicy shop.eu/Deny metadata.namespace: \"shop.eu\" is no name of a namespace",
    ] {
        let found = answer.out.lines().any(|line| {
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            words(line).starts_with(&words(part))
        });
        assert!(found, "{part} is not in {}", answer.out);
    }
}

/// kubectl refuses these, and without a word the policy would land elsewhere, or select everything.
#[test]
fn misspelt_fields_of_metadata_are_findings() {
    let of = |metadata: &str, spec: &str| {
        let text =
            format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, {metadata}}}\n{spec}");
        let answer = crate::Files::of(&text).npc("lint", &[]);
        [answer.out, answer.err].concat()
    };
    let spec = "spec: {podSelector: {}}\n";
    assert!(of("namespce: shop", spec).contains("did you mean namespace?"), "{}", of("namespce: shop", spec));
    let nested = of("spec: {podSelector: {matchLabels: {app: a}}}", "");
    assert!(nested.contains("spec stands beside metadata"), "{nested}");
    for live in ["managedFields: [{manager: m}], resourceVersion: '1', generation: 1", "creationTimestamp: null"] {
        assert!(!of(live, spec).contains("no such field"), "{live}: {}", of(live, spec));
    }
    let block = "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/08}}]}]}\n";
    assert!(of("namespace: shop", block).contains("cidr-legacy"), "{}", of("namespace: shop", block));
}
