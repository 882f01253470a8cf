//! Names that are known, for who has misspelt one.

/// How alike a name has to be, from 0 to 1, to be taken for the one that was meant:
/// more than half of the longer one's letters are in their places.
const ALIKE: f64 = 0.5;

/// How many names are listed.
const LISTED: usize = 5;

/// The known name that is nearest to one that is not known, by how many letters
/// differ; `None` where none is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |known: &'a str| (strsim::normalized_damerau_levenshtein(name, known), known);
    let near = known.into_iter().map(alike).filter(|(alike, _)| *alike > ALIKE);
    // Of equally near ones the first.
    near.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, name)| name)
}

/// The first few of these names, and how many more there are.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names = names.into_iter();
    let first: Vec<&str> = names.by_ref().take(LISTED).collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_among_alike_ones() {
        let nodes = ["aks-pool-vmss000001", "aks-pool-vmss000002", "aks-pool-vmss00000a", "gateway"];
        for (name, meant) in [
            ("aks-pool-vmss000003", Some("aks-pool-vmss000001")),
            ("aks-pool-vmss00002", Some("aks-pool-vmss000002")),
            ("aks-pool-vmss0000a", Some("aks-pool-vmss00000a")),
            ("gatewya", Some("gateway")),
            ("node-1", None),
        ] {
            assert_eq!(nearest(name, nodes), meant, "{name}");
        }
        assert_eq!(nearest("node-1", []), None);
    }

    #[test]
    fn a_long_list_is_cut_short() {
        assert_eq!(listed(["a", "b"]), "a, b");
        assert_eq!(listed(["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
