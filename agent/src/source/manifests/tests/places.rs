//! Where fields stand.

use super::*;

const TEXT: &str = "\
# a policy
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: n}
spec:
  podSelector:
    matchLabels:
      app.kubernetes.io/name: é
      app: x
  ingress:
  - from:
    - podSelector: {matchLabels: {app: web}}
    - ipBlock:
        cidr: 10.0.0.0/8
        except: [10.1.0.0/16, \"10.2.0.0/16\"]
    ports:
    - port: 80

  # a comment
  - from:
  policyTypes: [Ingress]
";

#[test]
fn a_path_leads_to_its_key_and_to_the_end_of_its_value() {
    let loaded = read(TEXT);
    let check = |path: &str, start: (u32, u32), end: (u32, u32), exact: bool| {
        let found = loaded.positions.locate("NetworkPolicy", "n", "p", path).unwrap();
        let span = found.span;
        assert_eq!((span.start.line, span.start.column), start, "start of {path}");
        assert_eq!((span.end.line, span.end.column), end, "end of {path}");
        assert_eq!((found.exact, &*found.file), (exact, "f.yaml"), "{path}");
    };
    check("", (2, 1), (21, 25), true);
    check("metadata.name", (4, 12), (4, 19), true);
    check("spec", (5, 1), (21, 25), true);
    check("spec.podSelector", (6, 3), (9, 13), true);
    check("spec.podSelector.matchLabels.app.kubernetes.io/name", (8, 7), (8, 32), true);
    check("spec.podSelector.matchLabels.app", (9, 7), (9, 13), true);
    check("spec.ingress", (10, 3), (20, 9), true);
    check("spec.ingress[0]", (11, 5), (17, 15), true);
    check("spec.ingress[0].from[0]", (12, 7), (12, 45), true);
    check("spec.ingress[0].from[1].ipBlock.cidr", (14, 9), (14, 25), true);
    check("spec.ingress[0].from[1].ipBlock.except[1]", (15, 31), (15, 44), true);
    check("spec.ingress[0].ports[0].port", (17, 7), (17, 15), true);
    check("spec.ingress[1].from", (20, 5), (20, 9), true);
    // The nearest field that is there.
    check("spec.ingress[1].from[0].podSelector", (20, 5), (20, 9), false);
    check("spec.ingress[7]", (10, 3), (20, 9), false);
    check("spec.ingress[x]", (10, 3), (20, 9), false);
    check("spec.egress[0].to", (5, 1), (21, 25), false);
    check("spec.podSelector.matchLabels.ap", (7, 5), (9, 13), false);
    check("nonsense", (2, 1), (21, 25), false);
    assert_eq!(loaded.positions.locate("NetworkPolicy", "n", "q", ""), None);
    assert_eq!(loaded.positions.locate("Pod", "n", "p", ""), None);
}

#[test]
fn lines_are_quoted_without_their_ends() {
    let positions = read("# one\r\n# two\n# é three").positions;
    let check = |line, wanted: Option<&str>| assert_eq!(positions.line("f.yaml", line), wanted);
    check(0, None);
    check(1, Some("# one"));
    check(2, Some("# two"));
    check(3, Some("# é three"));
    check(4, None);
    assert_eq!(positions.line("g.yaml", 1), None);
}

#[test]
fn a_place_is_in_its_line_behind_a_mark_of_byte_order_and_carriage_returns() {
    for (begin, end) in [("\u{feff}", "\n"), ("", "\r\n"), ("", "\r"), ("\u{feff}", "\r")] {
        let text = format!(
            "{begin}{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy,{end}metadata: {{name: p}},{end} spec: {{podSelector: {{}}}}}}{end}"
        );
        let positions = read(&text).positions;
        for (path, wanted) in
            [("metadata.name", "name: p"), ("spec.podSelector", "podSelector: {}"), ("kind", "kind: NetworkPolicy")]
        {
            let place = positions.locate("NetworkPolicy", "default", "p", path).unwrap();
            let line = positions.line("f.yaml", place.line()).unwrap();
            let start = place.column() as usize - 1;
            assert_eq!(line.chars().skip(start).take(wanted.len()).collect::<String>(), wanted, "{text:?}");
        }
    }
}

#[test]
fn every_kind_has_its_place_also_in_lists_and_through_aliases() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {name: d, labels: {team: a}}\n  \
                spec:\n    template: {metadata: {labels: &l {app: x}}, spec: {}}\n- apiVersion: v1\n  kind: Service\n  \
                metadata: {name: s}\n  spec:\n    selector: *l\n    ports:\n    - port: 80\n- apiVersion: networking.k8s.io/v1\n  \
                kind: NetworkPolicy\n  metadata: {name: p, namespace: default}\n  spec: {podSelector: {matchLabels: *l}}\n";
    let positions = read(text).positions;
    let check = |kind: &str, name: &str, path: &str, wanted: &str| {
        assert_eq!(positions.locate(kind, "default", name, path).unwrap().to_string(), format!("f.yaml:{wanted}"));
    };
    check("Deployment", "d", "", "4:3");
    // The fields of a policy have their places, the labels of a workload itself, those of its template
    // if an anchor writes them, and the ports of a Service; another field has that of what it is in.
    check("Deployment", "d", "metadata.labels.team", "6:32");
    check("Deployment", "d", "spec.template.metadata.labels.app", "8:39");
    check("Deployment", "d", "spec.replicas", "7:3");
    check("Service", "s", "spec.ports[0].port", "15:7");
    // The key stands here, what is inside where the anchor is.
    check("NetworkPolicy", "p", "spec.podSelector.matchLabels", "19:24");
    check("NetworkPolicy", "p", "spec.podSelector.matchLabels.app", "8:39");
    assert_eq!(positions.locate("Namespace", "", "default", ""), None, "no file has it");
    let shared = |kind: &str, name: &str, path: &str| {
        let place = positions.shared_text(&ObjectRef::new(kind, "default", name), path);
        place.map(|place| place.to_string())
    };
    let anchor = Some("f.yaml:8:38".to_owned());
    assert_eq!(shared("NetworkPolicy", "p", "spec.podSelector.matchLabels.app"), anchor);
    assert_eq!(shared("NetworkPolicy", "p", "spec.podSelector"), None);
    assert_eq!(shared("Deployment", "d", "spec.template.metadata.labels"), anchor);
    assert_eq!(shared("Deployment", "d", "metadata.labels"), None);
}

#[test]
fn what_a_merge_key_takes_over_is_shared_text_and_what_stands_beside_it_is_not() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: default}\nspec:\n  \
                podSelector: {}\n  ingress:\n  - &rule\n    from: [{podSelector: {}}]\n    ports: [{port: 1}]\n  \
                - <<: *rule\n    ports: [{port: 2}]\n";
    let positions = read(text).positions;
    let object = ObjectRef::new("NetworkPolicy", "default", "p");
    let line = |path: &str| positions.shared_text(&object, path).map(|place| place.line());
    assert_eq!(line("spec.ingress[1].from[0]"), Some(8));
    assert_eq!(line("spec.ingress[1].ports[0]"), None);
    assert_eq!(line("spec.ingress"), None);
    // Other places may use the text that bears the anchor.
    assert_eq!(line("spec.ingress[0].ports"), Some(8));
}
