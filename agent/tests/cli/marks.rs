//! The marks of `npc explain` are on the very things: labels, operators, items, numbers.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use crate::{Answer, Files};

/// A pod `a` with named ports, which policies isolate, and pods that ask.
const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: other, labels: {team: x}}
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 80}, {name: dns, protocol: UDP, containerPort: 53}]}]}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: b, env: test}}
spec: {nodeName: n2, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: c, namespace: other, labels: {app: c, tier: web}}
spec: {nodeName: n2, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.3}
";

/// What the signs below a line stand under, with the text behind the signs.
fn marked(answer: &Answer) -> Vec<(String, String)> {
    let lines: Vec<&str> = answer.out.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.contains('^')) {
        let start = line.chars().position(|char| char == '^').unwrap();
        let length = line.matches('^').count();
        let above = lines[..number].iter().rev().find(|line| !line.contains('^')).unwrap();
        let text: String = above.chars().skip(start).take(length).collect();
        found.push((text, line.chars().skip(start + length + 1).collect()));
    }
    // In braces they are in the order of requirements, and in lines in that of the file.
    found.sort();
    found
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a}}\nspec:\n  podSelector: {{matchLabels: {{app: a}}}}\n{spec}"
    )
}

#[test]
fn the_mark_is_on_the_label_operator_item_or_number_in_every_style() {
    let block = "  ingress:
  - ports:
    - protocol: TCP
      port: 80
    from:
    - podSelector:
        matchLabels:
          env: test
          app: x
        matchExpressions:
        - key: old
          operator: Exists
        - operator: NotIn
          key: env
          values:
          - live
          - test
";
    let flow = "  ingress: [{from: [{podSelector: {matchLabels: {env: test, app: x}, matchExpressions: \
                [{key: old, operator: Exists}, {operator: NotIn, key: env, values: [live, test]}]}}], ports: [{port: 80}]}]\n";
    let of_pod = [
        ("app: x", "wants app=x, there is app=b"),
        ("test", "wants env notin (live,test), there is env=test"),
        ("operator: Exists", "wants old, there is no label old"),
    ];
    let port = "  ingress:\n  - ports:\n    - protocol: UDP\n      port: 80\n  - ports: [{protocol: SCTP, port: 1, endPort: 9}, {protocol: SCTP}]\n";
    for (spec, question, expected) in [
        (block, "a:80", &of_pod[..]),
        (flow, "a:80", &of_pod),
        (port, "a:80", &[("protocol: UDP", "wants UDP, there is TCP")]),
        (
            "  ingress:\n  - ports:\n    - protocol: TCP\n      port: 70\n      endPort: 79\n",
            "a:80",
            &[("endPort: 79", "wants 70-79, there is 80")],
        ),
        (
            "  ingress:\n  - ports:\n    - protocol: TCP\n      endPort: 99\n      port: 90\n",
            "a:80",
            &[("port: 90", "wants 90-99, there is 80")],
        ),
        (
            "  ingress:\n  - ports:\n    - port: 80\n",
            "a:80/udp",
            &[("port: 80", "wants TCP, there is UDP; without a protocol it is TCP")],
        ),
        (
            "  ingress:\n  - from:\n    - ipBlock:\n        except:\n        - 10.9.0.0/16\n        - 10.0.0.0/24\n        cidr: 10.0.0.0/8\n",
            "a:80",
            &[("10.0.0.0/24", "leaves out 10.0.0.0/24, which holds 10.0.0.2")],
        ),
        (
            "  ingress:\n  - from:\n    - ipBlock:\n        cidr: 10.1.0.0/16\n",
            "a:80",
            &[("cidr: 10.1.0.0/16", "wants 10.1.0.0/16, there is 10.0.0.2")],
        ),
    ] {
        let files = Files::of(&format!("{PODS}---\n{}", policy(spec)));
        let answer = files.npc("explain", &["b", question]);
        let mut expected: Vec<(String, String)> =
            expected.iter().map(|(thing, text)| ((*thing).to_owned(), (*text).to_owned())).collect();
        expected.sort();
        assert_eq!(marked(&answer), expected, "{spec}{}", answer.out);
    }
}

#[test]
fn a_policy_in_a_list_and_in_json_has_its_marks() {
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}",
        policy("  ingress:\n  - from:\n    - podSelector:\n        matchLabels:\n          app: x\n")
            .replace('\n', "\n  ")
    );
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "a"},
        "spec": {"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "x"}}}]}]}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "one"}});
    for (text, expected) in [
        (list, "app: x"),
        (object.to_string(), "\"app\":\"x\""),
        (serde_json::to_string_pretty(&object).unwrap(), "\"app\": \"x\""),
        (format!("\u{feff}{object}\n"), "\"app\":\"x\""),
        (format!("\u{feff}{namespace}{object}\n"), "\"app\":\"x\""),
    ] {
        let files = Files::of(PODS);
        files.add("policy", &text);
        let answer = files.npc("explain", &["-f", "policy", "b", "a:80"]);
        let wanted = [(expected.to_owned(), "wants app=x, there is app=b".to_owned())];
        assert_eq!(marked(&answer), wanted, "{text}\n{}{}", answer.out, answer.err);
    }
}

#[test]
fn a_rule_that_is_about_something_else_is_no_near_miss() {
    let spec = "  ingress:\n  - from: [{podSelector: {matchLabels: {app: x}}}]\n    ports: [{port: 443}]\n  - from: [{ipBlock: {cidr: 192.0.2.0/24}}]\n    ports: [{port: 9000, protocol: UDP}]\n";
    let answer = Files::of(&format!("{PODS}---\n{}", policy(spec))).npc("explain", &["b", "a:80"]);
    for text in [
        "denied[rule-missing]: no rule is about this",
        "the rules are about 443 from app=x in namespace default; 9000/udp from 192.0.2.0/24\n",
        "   = note: there is TCP 80 from default/pod/b\n",
        "^^^^^^ wants app=x, there is app=b",
        "^^^^^^^^^ wants 443, there is 80",
    ] {
        assert!(answer.out.contains(text), "{text}: {}", answer.out);
    }
    // The name server of the input is `a`, by a port that no rule is about.
    let answer = Files::of(&format!("{PODS}---\n{}", policy(spec))).npc("explain", &["b", "a:53/udp"]);
    assert!(answer.out.contains("without DNS, default/pod/b can resolve no name"), "{}", answer.out);
}

/// Writes a value as YAML; each bit of `style` decides of one collection whether it is in
/// braces, and of one text whether it is in quotes.
fn yaml(value: &Value, indent: usize, in_braces: bool, style: &mut dyn Iterator<Item = bool>) -> String {
    let flow = in_braces || style.next().unwrap_or(true);
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) if flow => {
            let fields = map.iter().map(|(key, value)| format!("{key}: {}", yaml(value, 0, true, style)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) if flow => {
            format!("[{}]", items.iter().map(|item| yaml(item, 0, true, style)).collect::<Vec<_>>().join(",  "))
        }
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Array(items) if items.is_empty() => "[]".to_owned(),
        Value::Object(map) => {
            let fields =
                map.iter().map(|(key, value)| format!("\n{pad}{key}: {}", yaml(value, indent + 2, false, style)));
            fields.collect()
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| format!("\n{pad}- {}", yaml(item, indent + 2, false, style)));
            items.collect()
        }
        Value::String(text) if style.next().unwrap_or(false) => format!("{text:?}"),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn selector() -> impl Strategy<Value = Value> {
    let label = (select(vec!["app", "tier", "example.com/team"]), select(vec!["a", "b", "web"]));
    let labels = prop::collection::btree_map(label.0, label.1, 0..3);
    let values = subsequence(vec!["a", "b", "web", "test"], 1..3);
    let operator = select(vec!["In", "NotIn", "Exists", "DoesNotExist"]);
    let expression = (select(vec!["app", "env", "example.com/team"]), operator, values);
    (labels, prop::collection::vec(expression, 0..3)).prop_map(|(labels, expressions)| {
        let mut selector = Map::new();
        let one = |(key, operator, values): (&str, &str, Vec<&str>)| match operator {
            "In" | "NotIn" => json!({"key": key, "operator": operator, "values": values}),
            _ => json!({"operator": operator, "key": key}),
        };
        selector.insert("matchLabels".to_owned(), json!(labels));
        selector.insert("matchExpressions".to_owned(), expressions.into_iter().map(one).collect());
        Value::Object(selector)
    })
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        (selector(), selector()).prop_map(|(of, pods)| json!({"namespaceSelector": of, "podSelector": pods})),
        selector().prop_map(|of| json!({"namespaceSelector": of})),
        select(vec!["10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"])
            .prop_map(|cidr| json!({"ipBlock": {"cidr": cidr, "except": []}})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"port": 80}),
        json!({"port": 81, "protocol": "TCP"}),
        json!({"protocol": "UDP", "port": 80}),
        json!({"port": 70, "endPort": 79}),
        json!({"port": 90, "protocol": "TCP", "endPort": 99}),
        json!({"port": "metrics"}),
        json!({"port": "dns"}),
    ])
}

/// The value at a path, and the last step of the path.
fn at<'v>(value: &'v Value, path: &str) -> Option<(&'v Value, String)> {
    let (mut value, mut rest, mut last) = (value, path, String::new());
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some(index) = rest.strip_prefix('[') {
            let (number, left) = index.split_once(']')?;
            (value, rest, last) = (value.get(number.parse::<usize>().ok()?)?, left, String::new());
        } else {
            let key =
                value.as_object()?.keys().filter(|key| rest.starts_with(key.as_str())).max_by_key(|key| key.len())?;
            (value, rest, last) = (&value[key], &rest[key.len()..], key.clone());
        }
    }
    Some((value, last))
}

/// Whether what is marked, by its path in the policy, is what the mark says that it wants.
fn names(policy: &Value, path: &str, want: &str) -> bool {
    let Some((value, key)) = at(policy, path) else { return false };
    if let Some((selector, _)) = path.split_once(".matchExpressions") {
        let index = path[selector.len()..].split(']').next().unwrap();
        let (expression, _) = at(policy, &format!("{selector}{index}]")).unwrap();
        let key = expression["key"].as_str().unwrap();
        let values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        return match expression["operator"].as_str().unwrap() {
            "Exists" => want == key,
            "DoesNotExist" => want == format!("!{key}"),
            "In" => want.starts_with(key) && values.iter().all(|value| want.contains(value)) && !want.contains('!'),
            _ => {
                want.starts_with(key)
                    && want.contains(value.as_str().unwrap())
                    && (want.contains('!') || want.contains("notin"))
            }
        };
    }
    match (key.as_str(), value) {
        (_, Value::String(text)) if path.contains(".matchLabels.") => want == format!("{key}={text}"),
        ("port" | "endPort", Value::Number(number)) => want.split([' ', '-']).any(|word| word == number.to_string()),
        ("port" | "protocol", Value::String(text)) => want.contains(text.as_str()),
        ("cidr", Value::String(text)) => want == text,
        (_, Value::String(text)) if path.contains(".except[") => want == format!("not {text}"),
        // A peer of the policy's own namespace.
        (_, Value::Object(item)) if item.contains_key("podSelector") => {
            want == "default" && !item.contains_key("namespaceSelector")
        }
        // A protocol that is left out.
        (_, Value::Object(_)) => want == "TCP",
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_marked_in_the_file_is_what_the_mark_wants(
        rules in prop::collection::vec((prop::collection::vec(peer(), 1..3), prop::collection::vec(port(), 1..3)), 1..3),
        style in prop::collection::vec(any::<bool>(), 400),
    ) {
        let rules: Vec<Value> = rules.into_iter().map(|(from, ports)| json!({"from": from, "ports": ports})).collect();
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "a"},
            "spec": {"podSelector": {"matchLabels": {"app": "a"}}, "ingress": rules}});
        let text = yaml(&policy, 0, false, &mut std::iter::once(false).chain(style));
        let text = format!("# one\n{}\n", text.trim_start());
        let files = Files::of(PODS);
        files.add("policy.yaml", &text);
        for from in ["b", "other/c"] {
            let answer = files.npc("explain", &["-f", "policy.yaml", from, "a:80", "-o", "json"]);
            for candidate in answer.json()["flows"][0]["ingress"]["candidates"].as_array().unwrap() {
                for conjunct in candidate["conjuncts"].as_array().unwrap() {
                    prop_assert!(conjunct["marks"].as_array().is_some_and(|marks| !marks.is_empty()), "{}", conjunct);
                }
                for mark in candidate["conjuncts"].as_array().unwrap().iter().flat_map(|of| of["marks"].as_array().into_iter().flatten()) {
                    let (path, want, range) = (mark["path"].as_str().unwrap(), mark["want"].as_str().unwrap(), &mark["range"]);
                    prop_assert!(names(&policy, path, want), "{path} is not what is wanted: {mark}");
                    // The text of the range, read back, is what the policy has at the path.
                    let number = |key: &str| usize::try_from(range[key].as_u64().unwrap()).unwrap();
                    let lines: Vec<&str> = text.lines().collect();
                    let (first, last) = (number("line") - 1, number("endLine") - 1);
                    let mut part: Vec<String> = lines[first..=last].iter().map(|line| (*line).to_owned()).collect();
                    let end: String = part[last - first].chars().take(number("endColumn") - 1).collect();
                    part[last - first] = end;
                    let start: String = part[0].chars().skip(number("column") - 1).collect();
                    part[0] = format!("{}{start}", " ".repeat(if first == last { 0 } else { number("column") - 1 }));
                    let read: Value = serde_saphyr::from_str(&part.join("\n")).unwrap();
                    let (value, key) = at(&policy, path).unwrap();
                    let expected = if key.is_empty() { value.clone() } else { json!({key: value}) };
                    prop_assert_eq!(&read, &expected, "{} of {}", path, text);
                }
            }
        }
    }
}

#[test]
fn of_many_values_that_a_rule_asks_for_a_few_are_listed() {
    let values: Vec<String> = (0..400).map(|number| format!("app{number}")).collect();
    let expression = format!("{{key: app, operator: In, values: [{}]}}", values.join(", "));
    let from = format!("ingress: [{{from: [{{podSelector: {{matchExpressions: [{expression}]}}}}]}}]");
    let text = [
        crate::manifests::running("web", "", "{app: web}", "10.0.0.1"),
        crate::manifests::running("api", "", "{app: api}", "10.0.0.2"),
        crate::manifests::policy("name: api", &from),
    ];
    let answer = crate::Files::of(&text.concat()).npc("explain", &["web", "api:8080"]).out;
    assert!(answer.contains("+392 more") && !answer.contains("app399,"), "{answer}");
}

/// The name is understood, and no port has it: that is why, and not a part that was not understood.
#[test]
fn a_number_in_quotes_is_a_name_that_no_port_has() {
    let rule = "ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: \"8080\"}]}]";
    let text = [
        crate::manifests::running("web", "", "{app: web}", "10.0.0.1"),
        crate::manifests::running("api", "", "{app: api}", "10.0.0.2"),
        crate::manifests::policy("name: api", rule),
    ];
    let answer = crate::Files::of(&text.concat()).npc("explain", &["web", "api:8080"]);
    assert!(answer.out.contains("denied[port-named-unresolved]"), "{}{}", answer.out, answer.err);
}

/// An editor that reads the JSON draws what the text draws, also where an item fails as a whole.
#[test]
fn the_json_has_a_mark_where_an_item_fails_as_a_whole() {
    for (item, from, path, marked, code) in [
        (
            "podSelector: {matchLabels: {app: c}}",
            "other/c",
            "spec.ingress[0].from[0]",
            "podSelector: {matchLabels: {app: c}}",
            "peer-other-namespace",
        ),
        (
            "ipBlock: {cidr: 203.0.113.0/24}",
            "198.51.100.9",
            "spec.ingress[0].from[0].ipBlock.cidr",
            "cidr: 203.0.113.0/24",
            "ipblock-outside",
        ),
        (
            "ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.8/30]}",
            "198.51.100.9",
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "198.51.100.8/30",
            "ipblock-except",
        ),
        (
            "ipBlock: {cidr: \"2001:db8::/32\"}",
            "198.51.100.9",
            "spec.ingress[0].from[0].ipBlock.cidr",
            "cidr: \"2001:db8::/32\"",
            "ipblock-family",
        ),
    ] {
        let spec = format!("  ingress:\n  - from:\n    - {item}\n");
        let text = [PODS, "---\n", &policy(&spec)].concat();
        let files = Files::of(&text);
        let json = files.run(&["explain", "-f", "in.yaml", from, "a:80", "-o", "json"]).json();
        let conjunct = &json["flows"][0]["ingress"]["candidates"][0]["conjuncts"][0];
        assert_eq!(conjunct["code"], code, "{json}");
        let [mark] = conjunct["marks"].as_array().unwrap().as_slice() else { panic!("{conjunct}") };
        assert_eq!((&mark["path"], &mark["got"]), (&json!(path), &conjunct["got"]), "{conjunct}");
        let range = &mark["range"];
        let number = |key: &str| usize::try_from(range[key].as_u64().unwrap()).unwrap();
        assert_eq!(number("line"), number("endLine"), "{range}");
        let line = text.lines().nth(number("line") - 1).unwrap();
        assert_eq!(&line[number("column") - 1..number("endColumn") - 1], marked, "{range}");
    }
}
