//! What kubectl prints for people, which stands in a file where its output was kept without `-o yaml`.

use std::collections::BTreeSet;

/// What begins an error, or the word that there is nothing.
const MESSAGES: [&str; 6] = [
    "Error from server",
    "Error in configuration",
    "error: ",
    "No resources found",
    "Unable to connect to the server",
    "The connection to the server",
];

/// Words in the printed text that show for which kind of objects it was asked.
const KINDS: [(&str, &str); 12] = [
    ("networkpolic", "NetworkPolicy"),
    ("POD-SELECTOR", "NetworkPolicy"),
    ("PodSelector:", "NetworkPolicy"),
    ("pods", "Pod"),
    ("RESTARTS", "Pod"),
    ("namespaces is", "Namespace"),
    ("services", "Service"),
    ("CLUSTER-IP", "Service"),
    ("deployments", "Deployment"),
    ("UP-TO-DATE", "Deployment"),
    ("endpointslices", "EndpointSlice"),
    ("nodes is", "Node"),
];

/// Whether kubectl printed a text for people: a table, a description or an error.
pub(super) fn is_printed(text: &str) -> bool {
    let mut lines = lines(text);
    let Some(first) = lines.next() else { return false };
    let mut is_described =
        || first.starts_with("Name:") && lines.next().is_some_and(|line| line.starts_with("Namespace:"));
    is_message(first) || is_header(first) || is_described()
}

/// The kinds of the objects that stand behind what was printed; none for any kind.
pub(super) fn kinds(text: &str) -> BTreeSet<Option<&'static str>> {
    let first = lines(text).next().unwrap_or_default();
    if first.starts_with("No resources found") {
        return BTreeSet::new();
    }
    let named: BTreeSet<_> =
        KINDS.iter().filter(|(mark, _)| text.contains(mark)).map(|(_, kind)| Some(*kind)).collect();
    if named.is_empty() && is_message(first) { BTreeSet::from([None]) } else { named }
}

/// The lines of a document that say anything.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with(['#']) && !line.starts_with("---"))
}

fn is_message(line: &str) -> bool {
    MESSAGES.iter().any(|message| line.starts_with(message))
}

/// Whether a line is the first one of a table: `NAME   READY   UP-TO-DATE`.
fn is_header(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_uppercase() || b"-()/".contains(&byte));
    words.len() > 1 && matches!(words[0], "NAME" | "NAMESPACE") && words.iter().all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubectl_prints_for_people_is_told_from_objects() {
        for (text, of) in [
            ("NAME  POD-SELECTOR  AGE\napi  app=api  3d\n", vec![Some("NetworkPolicy")]),
            ("NAMESPACE   NAME   READY   STATUS   RESTARTS   AGE\na  b  1/1  Running  0  3d\n", vec![Some("Pod")]),
            ("---\nName:         api\nNamespace:    shop\nSpec:\n  PodSelector:  a=b\n", vec![Some("NetworkPolicy")]),
            (
                "Error from server (Forbidden): networkpolicies.networking.k8s.io is forbidden\n",
                vec![Some("NetworkPolicy")],
            ),
            ("Unable to connect to the server: EOF\n", vec![None]),
            ("No resources found in shop namespace.\n", vec![]),
            ("NAME  DATA  AGE\na  1  3d\n", vec![]),
        ] {
            assert!(is_printed(text), "{text}");
            assert_eq!(Vec::from_iter(kinds(text)), of, "{text}");
        }
        for text in ["NAME: x\n", "name: a\n", "NAME\n", "Name: a\nVersion: 1\n", "errors: []\n", ""] {
            assert!(!is_printed(text), "{text}");
        }
    }
}
