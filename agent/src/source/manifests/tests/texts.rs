//! The text itself: YAML's and JSON's corners, and what is wrong with it.

use super::*;

#[test]
fn every_way_to_write_one_pod_reads_the_same() {
    let wanted = read("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    app: x\n").objects;
    assert_eq!(wanted.pods.len(), 1);
    let check = |text: &str| assert_eq!(read(text).objects, wanted, "{text}");
    check("\u{feff}apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    app: x\n");
    check("apiVersion: v1\r\nkind: Pod\r\nmetadata:\r\n  name: a\r\n  labels:\r\n    app: x\r\n");
    check(
        "---\n# comment\n---\n\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: x}}\n...\n---\n~\n",
    );
    check(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"app":"x"}}}"#);
    check(
        "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"a\", \"labels\": {\"app\": \"\\u0078\"}}\n}\n",
    );
    check("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: x}}}\n");
    check(
        "apiVersion: v1\nkind: PodList\nmetadata: {resourceVersion: ''}\nitems:\n- metadata: {name: a, labels: {app: x}}\n",
    );
    check("apiVersion: v1\nitems:\n- metadata: {name: a, labels: {app: x}}\nkind: PodList\n");
    check(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: PodList\n  items: [{metadata: {name: a, labels: {app: x}}}]\n",
    );
    check("apiVersion: v1\nkind: Pod\nmetadata: &m\n  name: a\n  labels: &l {app: x}\nspec: {affinity: *l}\n");
    check("apiVersion: v1\nkind: Pod\nx: &l {app: x}\nmetadata:\n  name: a\n  labels:\n    <<: *l\n");
    check("apiVersion: v1\nkind: Pod\nx: &l {app: x}\nmetadata:\n  name: a\n  labels:\n    <<: [*l, {app: y}]\n");
    check("%YAML 1.2\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: !!str x}}\n");
    check("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    app: >-\n      x\n");
    // A field that npc does not ask for cannot be wrong.
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: x}, managedFields: 7}\n\
         spec: {containers: [{name: c, resources: {limits: {cpu: 1}}, env: 4}]}\n",
    );
}

#[test]
fn nothing_in_a_text_is_no_error() {
    for text in ["", "\n", "# only a comment\n", "---\n", "---\n---\n...\n", "~", "null\n---\n# x\n", "\u{feff}"] {
        assert_eq!(problems(text), [""; 0], "{text:?}");
        assert_eq!(read(text).objects, Objects::default(), "{text:?}");
    }
}

#[test]
fn what_is_not_yaml_or_not_an_object_is_reported_with_its_place() {
    let check = |text: &str, wanted: &str| assert_eq!(problem(text), format!("f.yaml:{wanted}"), "{text}");
    check(
        "a: b: c\n",
        "1:5: error: mapping values are not allowed in this context; look for a missing line break, wrong indentation, or text with \": \" that needs quotes",
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata:\n\tname: a\n",
        "4:2: error: tabs disallowed within this context (block indentation); indent with spaces",
    );
    check("a: [1, 2\n", "1:4: error: unclosed bracket '['");
    check("- a\n", "1:1: error: not an object with apiVersion and kind; only Kubernetes objects are read");
    check("hello\n", "1:1: error: not an object with apiVersion and kind; only Kubernetes objects are read");
    check("a: 1\n", "1:1: error: the object has no apiVersion; give it an apiVersion");
    check("apiVersion: v1\n", "1:1: error: the object has no kind; give it a kind");
    check("kind: Pod\nmetadata: {name: a}\n", "1:1: error: the object has no apiVersion; give it an apiVersion");
    check("apiVersion: v1\nkind: [Pod]\n", "2:7: error: kind must be text");
    check(
        "apiVersion: v1\nkind: Pod\n",
        "1:1: error: pod default/: metadata.name: the object has no name; give it a metadata.name",
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: 'a/b'}\n",
        "3:18: error: pod default/a/b: metadata.name: \"a/b\" is no name; use lower-case letters, digits and \"-\"",
    );
    check("apiVersion: v1\nkind: PodList\nitems: 3\n", "3:1: error: items: items must be a list");
    check(
        "a: 1\nb: 2\na: 3\n",
        "3:1: error: the key \"a\" is there twice; join the two, or begin a new list item with \"-\", or a new document with \"---\"",
    );
    check(
        "{{ .Values.x }}: 1\n",
        "1:2: error: a key must be text, not a list or mapping; a template's {{ … }} must be rendered first",
    );
    check("a: *b\n", "1:4: error: while parsing node, found unknown anchor");
    check("a: &b [*b]\n", "1:8: error: this alias stands inside what it refers to; write the value out");
    check("a: {<<: 3}\n", "1:9: error: \"<<\" takes a mapping, or a list of mappings");
}

#[test]
fn bytes_that_are_not_utf8_are_reported_with_their_place() {
    let parsed = parse(&"f.yaml".into(), b"a: b\n# \xc3\xa9\xff\n".to_vec(), "default");
    let told: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["f.yaml:2:4: error: not UTF-8 text: the byte 0xff; save the file as UTF-8"]);
}

#[test]
fn bytes_of_gzip_and_of_utf16_are_told_apart() {
    let told = |bytes: &[u8]| {
        let parsed = parse(&"f.yaml".into(), bytes.to_vec(), "default");
        parsed.problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told(b"\x1f\x8b\x08\0"), ["f.yaml:1:1: error: compressed by gzip; gunzip -c FILE | npc … -f -"]);
    let utf16: Vec<u8> = "kind: Pod\n".bytes().flat_map(|byte| [byte, 0]).collect();
    let expected = "f.yaml:1:2: error: not UTF-8 text: a null byte, as UTF-16 has them; save the file as UTF-8";
    assert_eq!(told(&utf16), [expected]);
}

#[test]
fn a_broken_document_does_not_hide_the_others() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\nb: [\n---\n\
                apiVersion: v1\nkind: Pod\nmetadata: {name: c}\n---\nd: d: d\n";
    let options = ReadOptions { allow_errors: true, ..ReadOptions::default() };
    let loaded = parse_text("f.yaml", text, &options).unwrap();
    assert_eq!(names(&loaded), ["ns default", "pod default/a", "pod default/c"]);
    assert_eq!(loaded.problems.len(), 2);
    let errors = parse_text("f.yaml", text, &ReadOptions::default()).unwrap_err();
    assert_eq!(errors.problems, loaded.problems);
    let shown = errors.to_string();
    for place in ["f.yaml:5:4", "f.yaml:11:5"] {
        assert!(shown.contains(&format!("{place}: error[document-unreadable]: ")), "{shown}");
    }
    assert!(
        shown.ends_with(
            "2 documents not read, so nothing was judged; correct them, or leave them out with --allow-errors"
        ),
        "{shown}"
    );
}

#[test]
fn one_bad_item_of_a_list_does_not_hide_the_others() {
    let text = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n- metadata: {name: [b]}\n- metadata: {name: c}\n";
    assert_eq!(problem(text), "f.yaml:5:20: error: pod default/: metadata.name: expected text, found a list");
}

#[test]
fn words_are_taken_for_what_the_field_wants() {
    let pod = |fields: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\n{fields}");
    for (word, wanted) in [("true", true), ("yes", true), ("on", true), ("no", false), ("~", false), ("False", false)] {
        let loaded = read(&pod(&format!("spec: {{hostNetwork: {word}}}")));
        assert_eq!(loaded.objects.pods[0].host_network, wanted, "{word}");
        assert!(loaded.problems.is_empty());
    }
    let error = |fields: &str| problem(&pod(fields)).replace("f.yaml:4:", "").replace("pod default/a: ", "");
    assert_eq!(
        error("spec: {hostNetwork: 'true'}"),
        "21: error: spec.hostNetwork: expected true or false, found text (\"true\"); leave out the quotes"
    );
    assert_eq!(
        error("spec: {nodeName: 5}"),
        "18: error: spec.nodeName: expected text, found a number (5); put it in quotes"
    );
    assert_eq!(
        error("spec: {containers: {name: c}}"),
        "20: error: spec.containers: expected a list, found a mapping; begin the item with \"- \""
    );
    assert_eq!(
        error("spec: {containers: [{ports: [{containerPort: http}]}]}"),
        "46: error: spec.containers[0].ports[0].containerPort: expected a number, found text (http)"
    );
    assert_eq!(error("status: {phase: {}}"), "17: error: status.phase: expected text, found a mapping");
}

#[test]
fn a_label_that_only_kubectl_takes_for_something_else_is_text_with_a_warning() {
    let text = |value: &str| format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: {{x: {value}}}\n");
    for (word, taken_for) in
        [("yes", "a boolean"), ("off", "a boolean"), ("1e3", "a number"), ("0x10", "a number"), ("1_0", "a number")]
    {
        let loaded = read(&text(word));
        assert_eq!(loaded.objects.pods[0].labels["x"], word);
        assert_eq!(
            loaded.problems[0].to_string(),
            format!(
                "f.yaml:5:15: warning: pod default/a: metadata.labels.x: taken as the text {word:?}, but kubectl reads {taken_for}; put it in quotes"
            )
        );
    }
    for word in ["true", "80", "1.5", "-1"] {
        assert!(
            problem(&text(word)).contains("error: pod default/a: metadata.labels.x: expected text, found"),
            "{word}"
        );
    }
    for (word, value) in
        [("''", ""), ("~", ""), ("y", "y"), ("'80'", "80"), ("\"yes\"", "yes"), ("10.0.0.0", "10.0.0.0")]
    {
        let loaded = read(&text(word));
        assert_eq!(loaded.objects.pods[0].labels["x"], value);
        assert!(loaded.problems.is_empty(), "{word}");
    }
}

#[test]
fn aliases_cannot_make_much_of_little() {
    let check = |first: &str, levels: usize, line: &dyn Fn(usize, usize) -> String| {
        let lines = (1..levels).map(|level| line(level, level - 1));
        let text: String = std::iter::once(first.to_owned()).chain(lines).map(|line| line + "\n").collect();
        let told = problem(&text);
        assert!(told.ends_with("the aliases of this document expand to too much; write the values out"), "{told}");
    };
    check("a0: &a0 [x, x, x, x, x, x, x, x, x, x]", 12, &|level, below| {
        format!("a{level}: &a{level} [{}]", vec![format!("*a{below}"); 10].join(", "))
    });
    check("m0: &m0 {k: x}", 40, &|level, below| {
        format!("m{level}: &m{level} {{a{level}: *m{below}, b{level}: *m{below}, <<: *m{below}}}")
    });
    check("a0: &a0 [x]", 300, &|level, below| format!("a{level}: &a{level} [*a{below}]"));
}

#[test]
fn nesting_ends_in_an_error_not_in_a_crash() {
    for (open, count) in [("[", 100_000), ("{a: ", 100_000), ("- ", 100_000), ("? ", 100_000), ("{\"a\":[", 100_000)] {
        assert_eq!(problems(&open.repeat(count)).len(), 1, "{open}");
    }
}

#[test]
fn lists_in_lists_end_in_an_error() {
    let text = "{apiVersion: v1, kind: List, items: [".repeat(20) + &"]}".repeat(20);
    assert!(problem(&text).contains("lists of lists of lists"));
}

/// How many items make a reader that takes the square of their number take a minute.
const MANY: usize = 40_000;

/// Reads a text of [`MANY`] items. Returns how many findings its policies have.
fn findings_of_many(text: &str) -> usize {
    let loaded = parse_text("f.yaml", text, &ReadOptions { allow_errors: true, ..ReadOptions::default() });
    let policies = loaded.iter().flat_map(|loaded| &loaded.objects.policies);
    policies.map(|policy| npc_compiler::policy::Policy::read(policy).1.len()).sum()
}

#[test]
fn merge_keys_of_many_keys_and_of_many_mappings_are_read() {
    let keys: Vec<String> = (0..MANY).map(|key| format!("k{key}: 1")).collect();
    assert_eq!(findings_of_many(&format!("a: &a {{{}}}\nb: {{<<: *a}}\n", keys.join(", "))), 0);
    let maps: Vec<String> = (0..MANY).map(|key| format!("{{k{key}: 1}}")).collect();
    assert_eq!(findings_of_many(&format!("b: {{<<: [{}]}}\n", maps.join(", "))), 0);
}

#[test]
fn many_unknown_fields_are_reported_up_to_a_bound() {
    let fields: Vec<String> = (0..MANY).map(|field| format!("  f{field}: 1\n")).collect();
    assert_eq!(findings_of_many(&policy(&format!("  podSelector: {{}}\n{}", fields.concat()))), 101);
    let peers = "    - {podSelector: {}, odd: 1}\n".repeat(MANY);
    assert_eq!(findings_of_many(&policy(&format!("  podSelector: {{}}\n  ingress:\n  - from:\n{peers}"))), 101);
}

#[test]
fn annotations_of_a_policy_are_what_the_api_server_takes() {
    let of = |annotations: &str| {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\n  namespace: n\n  annotations:\n{annotations}spec: {{podSelector: {{}}}}\n"
        );
        let loaded = parse_text("f.yaml", &text, &ReadOptions::default()).unwrap();
        assert_eq!(names(&loaded).last().unwrap(), "policy n/p", "it is in force whatever they say: {annotations}");
        loaded.problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for good in ["    a: b\n", "    Example.COM/A_b: ''\n", "    a: |\n      {\"b\": 1}\n", "    a: null\n"] {
        assert_eq!(of(good), Vec::<String>::new(), "{good}");
    }
    for (bad, expected) in [
        (
            "    a b: c\n",
            "f.yaml:7:5: warning: networkpolicy n/p: metadata.annotations.a b: \"a b\" is no annotation key",
        ),
        (
            "    a/b/c: d\n",
            "f.yaml:7:5: warning: networkpolicy n/p: metadata.annotations.a/b/c: \"a/b/c\" is no annotation key",
        ),
        ("    a: 1\n", "metadata.annotations.a: the value of an annotation is text; put it in quotes"),
        ("    a: {b: c}\n", "metadata.annotations.a: the value of an annotation is text"),
        ("    [a]\n", "metadata.annotations: annotations must be a mapping"),
    ] {
        let found = of(bad);
        assert!(matches!(found.as_slice(), [one] if one.contains(expected)), "{bad}: {found:?}");
    }
    let long = |bytes: usize| of(&format!("    a: {}\n", "x".repeat(bytes - 1)));
    assert_eq!(long(256 << 10), Vec::<String>::new());
    let found = long((256 << 10) + 1);
    assert!(found[0].contains("metadata.annotations: the annotations have 262145 bytes"), "{found:?}");
}
