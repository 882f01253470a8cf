//! Namespaces that no object declares, and whose names are nearly those of ones that are: misspelt, most
//! likely. Manifests often leave their namespaces out, so that alone says nothing.

use std::collections::BTreeSet;

use super::problem::{Code, Problem};
use npc_compiler::object::NetworkPolicy;

use super::{Loaded, ObjectRef};

/// Letters that a part of a name has at least that may be misspelt: shorter ones tell names apart, as
/// `dev` and `uat` do.
const LEAST: usize = 4;

/// A problem for each such namespace, at the first policy in it.
pub(super) fn problems(loaded: &Loaded) -> Vec<Problem> {
    let implied = &loaded.objects.implied_namespaces;
    let names = loaded.objects.namespaces.iter().map(|namespace| namespace.name.as_str());
    let declared: BTreeSet<&str> = names.filter(|name| !implied.contains(*name)).collect();
    let problem = |name: &String| {
        let meant = declared.iter().find(|declared| is_slip(name, declared))?;
        let policies = loaded.objects.policies.iter().filter(|policy| policy.namespace() == name);
        let first = policies.map(NetworkPolicy::name).min()?;
        let place = loaded.positions.locate("NetworkPolicy", name, first, "metadata.namespace")?;
        Some(Problem {
            file: place.file.clone(),
            span: Some(place.span),
            code: Code::NamespaceUndeclared,
            object: Some(ObjectRef::new("NetworkPolicy", name, first)),
            path: "metadata.namespace".to_owned(),
            message: format!("no object declares the namespace {name}"),
            help: format!("did you mean {meant}?"),
        })
    };
    implied.iter().filter_map(problem).collect()
}

/// Whether one name is the other with one slip in one of the parts between its dashes, which is no
/// number.
fn is_slip(one: &str, other: &str) -> bool {
    let (one, other): (Vec<&str>, Vec<&str>) = (one.split('-').collect(), other.split('-').collect());
    let is_part = |(one, other): &(&str, &str)| {
        let letters = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let is_long = one.chars().count().min(other.chars().count()) >= LEAST;
        is_long && letters(one) != letters(other) && strsim::damerau_levenshtein(one, other) == 1
    };
    let pairs: Vec<(&str, &str)> = one.iter().copied().zip(other.iter().copied()).filter(|(a, b)| a != b).collect();
    one.len() == other.len() && matches!(pairs.as_slice(), [pair] if is_part(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_slip_of_another_where_one_letter_of_a_word_differs() {
        for (one, other) in [("mointoring", "monitoring"), ("shop-backedn", "shop-backend"), ("shops", "shop")] {
            assert!(is_slip(one, other), "{one} {other}");
        }
        for (one, other) in [("team-a", "team-b"), ("prod1", "prod2"), ("dev", "dew"), ("shop", "shop-dev"), ("a", "a")]
        {
            assert!(!is_slip(one, other), "{one} {other}");
        }
    }
}
