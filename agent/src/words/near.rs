//! Names that are known, where one is misspelt.

/// How alike a name has to be, from 0 to 1, to be taken for the one that was meant:
/// more than half of the longer one's letters are in their places.
const ALIKE: f64 = 0.5;

/// How many names are listed.
const LISTED: usize = 5;

/// The bytes that a name of Kubernetes has at most. Manifests and command lines may have longer ones,
/// and a comparison takes the product of two lengths in memory.
const MOST: usize = 253;

/// The known name that is nearest to one that is not known, by how many letters
/// differ; `None` where none is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = &name.to_ascii_lowercase();
    let alike = |known: &'a str| (strsim::normalized_damerau_levenshtein(name, &known.to_ascii_lowercase()), known);
    let comparable = known.into_iter().filter(|known| is_comparable(name, known));
    let near = comparable.map(alike).filter(|(alike, _)| *alike > ALIKE);
    // Of equally near ones the first.
    near.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, name)| name)
}

/// Whether two names are so few slips apart that one may be the other, misspelt: none of
/// fewer than three letters, one of up to five, two of up to ten, else three. A beginning of
/// at least three letters counts too, and one of two letters that lacks no more than two.
#[must_use]
pub fn is_alike(one: &str, other: &str) -> bool {
    // No name of Kubernetes has capital letters, and people write them all the same.
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    let (one, other) = (one.as_str(), other.as_str());
    let length = one.chars().count().min(other.chars().count());
    let slips = match length {
        0..=2 => 0,
        3..=5 => 1,
        6..=10 => 2,
        _ => 3,
    };
    let longer = one.chars().count().max(other.chars().count());
    let is_beginning = length >= 3 || (length == 2 && longer <= 4);
    let begins = is_beginning && (one.starts_with(other) || other.starts_with(one));
    begins || (slips > 0 && is_comparable(one, other) && strsim::damerau_levenshtein(one, other) <= slips)
}

fn is_comparable(one: &str, other: &str) -> bool {
    one.len().max(other.len()) <= MOST
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
            ("GATEWAY", Some("gateway")),
            ("node-1", None),
        ] {
            assert_eq!(nearest(name, nodes), meant, "{name}");
        }
        assert_eq!(nearest("node-1", []), None);
    }

    #[test]
    fn how_many_slips_are_forgiven_depends_on_the_length() {
        for (one, other, expected) in [
            ("db", "da", false),
            ("api", "apo", true),
            ("api", "web", false),
            ("web", "wbe", true),
            ("cart", "card", true),
            ("cart", "dart", true),
            ("cart", "core", false),
            ("web", "web-frontend", true),
            ("we", "web", true),
            ("we", "web-frontend", false),
            ("w", "web", false),
            ("prometheus", "promethues", true),
            ("prometheus", "premothues", false),
            ("payment-gateway", "paiment-getewey", true),
        ] {
            assert_eq!(is_alike(one, other), expected, "{one} {other}");
        }
    }

    /// Compared letter by letter, they would take more memory than there is.
    #[test]
    fn names_of_any_length_are_compared() {
        let (one, other) = ("a".repeat(200_000), "b".repeat(200_000));
        assert_eq!(nearest(&one, [&*other, "node-1"]), None);
        assert_eq!(nearest("node-2", [&*other, "node-1"]), Some("node-1"));
        assert!(!is_alike(&one, &other) && is_alike(&one, &one[1..]));
    }

    #[test]
    fn a_long_list_is_cut_short() {
        assert_eq!(listed(["a", "b"]), "a, b");
        assert_eq!(listed(["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
