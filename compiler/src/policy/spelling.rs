//! What a misspelt name was meant to be: how far names are apart, and which field of the API is near.

/// The fields of the object at a field of this name.
const FIELDS: [(&str, &[&str]); 12] = [
    ("", &["apiVersion", "kind", "metadata", "spec"]),
    ("metadata", &["annotations", "labels", "name", "namespace"]),
    ("spec", &["egress", "ingress", "podSelector", "policyTypes"]),
    ("ingress", &["from", "ports"]),
    ("egress", &["to", "ports"]),
    ("from", PEER),
    ("to", PEER),
    ("ipBlock", &["cidr", "except"]),
    ("podSelector", SELECTOR),
    ("namespaceSelector", SELECTOR),
    ("matchExpressions", &["key", "operator", "values"]),
    ("ports", &["endPort", "port", "protocol"]),
];
const PEER: &[&str] = &["ipBlock", "namespaceSelector", "podSelector"];
const SELECTOR: &[&str] = &["matchExpressions", "matchLabels"];

/// The field that was most likely meant by one that the API does not have.
pub(crate) fn meant(path: &str) -> Option<&'static str> {
    let (parents, key) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = parents.rsplit('.').next().unwrap_or_default();
    let parent = parent.split('[').next().unwrap_or_default();
    let (_, fields) = FIELDS.iter().find(|(name, _)| *name == parent)?;
    most_similar(key, fields)
}

/// The field whose name is at most two slips away from a key.
fn most_similar(key: &str, fields: &'static [&'static str]) -> Option<&'static str> {
    let close = fields.iter().map(|field| (slips(key, field), *field)).filter(|(slips, _)| *slips <= 2);
    close.min().map(|(_, field)| field)
}

/// How many letters must be added, removed, changed or swapped with their neighbour to make one
/// name of the other, case aside.
#[must_use]
pub fn slips(written: &str, known: &str) -> usize {
    // What is written may be as long as the file; what is known is short.
    if written.len() > 64 {
        return usize::MAX;
    }
    strsim::damerau_levenshtein(&written.to_ascii_lowercase(), &known.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_or_two_are_seen_through() {
        for (path, wanted) in [
            ("spec.Ingress", Some("ingress")),
            ("spec.ingres", Some("ingress")),
            ("speck", Some("spec")),
            ("metadata.namespce", Some("namespace")),
            ("metadata.label", Some("labels")),
            ("spec.podSelektor", Some("podSelector")),
            ("spec.ingress[0].form", Some("from")),
            ("spec.egress[12].form", None),
            ("spec.egress[12].port", Some("ports")),
            ("spec.ingress[0].from[1].ipBlok", Some("ipBlock")),
            ("spec.egress[0].to[0].ipBlock.exept", Some("except")),
            ("spec.egress[0].ports[0].endport", Some("endPort")),
            ("spec.podSelector.matchLabel", Some("matchLabels")),
            ("spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].value", Some("values")),
            ("spec.zzz", None),
            ("spec.x.y", None),
            ("", None),
        ] {
            assert_eq!(meant(path), wanted, "{path}");
        }
        assert_eq!(meant(&format!("spec.{}", "ingress".repeat(1000))), None);
    }
}
