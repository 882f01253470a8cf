//! Namespaces that no object declares, and whose names are nearly those of ones that are: misspelt, most
//! likely. Manifests often leave their namespaces out, so that alone says nothing.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

use super::problem::{Problem, ProblemCode};
use super::{Loaded, ObjectRef};

/// Letters that a part of a name has at least that may be misspelt: shorter ones distinguish names, as
/// `dev` and `uat` do.
const LEAST: usize = 4;

/// The bytes that the name of a namespace has at most (a label of RFC 1123). A manifest may have
/// longer ones.
const MOST: usize = 63;

/// A problem for each such namespace, at the first policy in it.
pub(super) fn problems(loaded: &Loaded) -> Vec<Problem> {
    let implied = &loaded.objects.implied_namespaces;
    if implied.is_empty() {
        return Vec::new();
    }
    let names = loaded.objects.namespaces.iter().map(|namespace| namespace.name.as_str());
    let declared = NearNames::of(names.filter(|name| !implied.contains(*name)));
    let mut first_policies: BTreeMap<&str, &str> = BTreeMap::new();
    for policy in &loaded.objects.policies {
        let first = first_policies.entry(policy.namespace()).or_insert(policy.name());
        *first = policy.name().min(first);
    }
    let problem = |(name, first): (&str, &str)| {
        let meant = declared.meant_by(name)?;
        let place = loaded.positions.locate("NetworkPolicy", name, first, "metadata.namespace")?;
        Some(Problem {
            file: place.file.clone(),
            span: Some(place.span),
            code: ProblemCode::NamespaceUndeclared,
            object: Some(ObjectRef::new("NetworkPolicy", name, first)),
            path: "metadata.namespace".to_owned(),
            message: format!("no object declares the namespace {name}"),
            other: None,
            help: format!("did you mean {meant}?"),
        })
    };
    first_policies.into_iter().filter(|(name, _)| implied.contains(*name)).filter_map(problem).collect()
}

/// Names that are known, by hashes of what is left of each without one of its letters. Two names that
/// are one slip apart have such a text in common, so of a hundred thousand names few are compared.
struct NearNames<'a> {
    hasher: RandomState,
    /// In order.
    names: Vec<(u64, &'a str)>,
}

impl<'a> NearNames<'a> {
    fn of(names: impl Iterator<Item = &'a str>) -> Self {
        let hasher = RandomState::new();
        let mut names: Vec<_> = names
            .flat_map(|name| shortened(name).into_iter().map(move |text| (text, name)))
            .map(|(text, name)| (hasher.hash_one(text), name))
            .collect();
        names.sort_unstable();
        Self { hasher, names }
    }

    /// The first known name that this one can be a slip of.
    fn meant_by(&self, name: &str) -> Option<&'a str> {
        let alike = |text: String| {
            let hash = self.hasher.hash_one(text);
            let begin = self.names.partition_point(|(of, _)| *of < hash);
            self.names[begin..].iter().take_while(move |(of, _)| *of == hash).map(|(_, known)| *known)
        };
        shortened(name).into_iter().flat_map(alike).filter(|known| is_slip(name, known)).min()
    }
}

/// A name, and what is left of it without one of the letters that may be a slip. Nothing of one
/// that no namespace can have.
fn shortened(name: &str) -> Vec<String> {
    if !name.is_ascii() || name.len() > MOST {
        return Vec::new();
    }
    let parts = name.split('-').scan(0, |at, part| {
        let begin = *at;
        *at += part.len() + 1;
        Some(begin..begin + part.len())
    });
    let letters = parts.filter(|part| part.len() >= LEAST).flatten();
    let without = letters.map(|at| format!("{}{}", &name[..at], &name[at + 1..]));
    std::iter::once(name.to_owned()).chain(without).collect()
}

/// Whether one name is the other with one slip in one of the parts between its dashes, which is no
/// number. Both have at most [`MOST`] bytes, because this takes the product of two lengths in memory.
fn is_slip(one: &str, other: &str) -> bool {
    let (one, other): (Vec<&str>, Vec<&str>) = (one.split('-').collect(), other.split('-').collect());
    let is_part = |(one, other): &(&str, &str)| {
        let letters = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let is_long = one.len().min(other.len()) >= LEAST;
        is_long && letters(one) != letters(other) && strsim::damerau_levenshtein(one, other) == 1
    };
    let pairs: Vec<(&str, &str)> = one.iter().copied().zip(other.iter().copied()).filter(|(a, b)| a != b).collect();
    one.len() == other.len() && matches!(pairs.as_slice(), [pair] if is_part(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
        NearNames::of(known.iter().copied()).meant_by(name)
    }

    #[test]
    fn a_name_is_a_slip_of_another_where_one_letter_of_a_word_differs() {
        for (one, other) in [
            ("mointoring", "monitoring"),
            ("shop-backedn", "shop-backend"),
            ("shop-backend-a", "shop-bakcend-a"),
            ("shops", "shop"),
            ("shop", "shops"),
            ("shop", "shoq"),
            ("kshop", "shop"),
        ] {
            assert_eq!(meant(one, &["aaaa", other, "zzzz"]), Some(other), "{one} {other}");
        }
        for (one, other) in [("team-a", "team-b"), ("prod1", "prod2"), ("dev", "dew"), ("shop", "shop-dev"), ("a", "a")]
        {
            assert_eq!(meant(one, &[other]), None, "{one} {other}");
        }
        assert_eq!(meant("shop", &["shoq", "shoo"]), Some("shoo"));
    }

    /// Compared letter by letter, they would take more memory than there is.
    #[test]
    fn names_of_any_length_are_compared() {
        let (one, other) = ("a".repeat(200_000), "b".repeat(200_000));
        assert_eq!(meant(&one, &[&other, "shop"]), None);
        assert_eq!(meant("shop", &[&other, "shops"]), Some("shops"));
        assert_eq!(meant("löwe", &["löwen"]), None);
    }
}
