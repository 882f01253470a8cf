//! Typing errors: a value that differs by little from the one that was most likely meant.

use strsim::{levenshtein, osa_distance};

use super::selector::{Operator, Requirement, Selector};
use crate::object::Labels;

/// Whether a label has a value that differs by little from one that is asked for.
#[must_use]
pub fn is_slip(requirement: &Requirement, labels: &Labels) -> bool {
    labels.get(&requirement.key).is_some_and(|has| is_slip_of(requirement, has))
}

/// Whether a value differs by little from one that is asked for.
#[must_use]
pub fn is_slip_of(requirement: &Requirement, has: &str) -> bool {
    match &requirement.operator {
        Operator::In(values) => {
            values.iter().any(|value| value != has && (is_close(value, has) || is_same_word(value, has)))
        }
        Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => false,
    }
}

/// Whether a label has a value that one letter more, less or else makes the one that is asked for. Of short
/// words that is often another word, so it counts only beside other evidence.
#[must_use]
pub fn may_be_slip(requirement: &Requirement, labels: &Labels) -> bool {
    let (Operator::In(values), Some(has)) = (&requirement.operator, labels.get(&requirement.key)) else {
        return false;
    };
    let is_near = |value: &String| {
        let is_long = value.len().min(has.len()) >= 3 && value.len().max(has.len()) <= 63;
        is_long && !differ_by_numbers(value, has) && levenshtein(value, has) == 1
    };
    is_slip(requirement, labels) || values.iter().any(is_near)
}

/// Whether a requirement asks for this value.
#[must_use]
pub fn asks_for(requirement: &Requirement, value: &str) -> bool {
    matches!(&requirement.operator, Operator::In(values) if values.iter().any(|of| of == value))
}

/// Whether a namespaceSelector that does not select a namespace means it but for a slip: each label
/// that it asks for has almost the same value, or is one that the namespace lacks and asks for its
/// name (`name: shop` in place of `kubernetes.io/metadata.name: shop`).
#[must_use]
pub fn may_mean_namespace(selector: &Selector, name: &str, labels: &Labels) -> bool {
    let is_slip = |requirement: &Requirement| {
        is_slip(requirement, labels) || (!labels.contains_key(&requirement.key) && asks_for(requirement, name))
    };
    let mut failing = selector.requirements().filter(|requirement| !requirement.matches(labels)).peekable();
    failing.peek().is_some() && failing.all(is_slip)
}

/// Whether what a selector asks for and an object lacks stands on another object: the labels of a pod in
/// a namespaceSelector.
#[must_use]
pub fn asks_for_labels_of(selector: &Selector, lacking: &Labels, having: &Labels) -> bool {
    let mut failing = selector.requirements().filter(|requirement| !requirement.matches(lacking)).peekable();
    failing.peek().is_some() && failing.all(|of| having.contains_key(&of.key) && of.matches(having))
}

/// Whether two values are one but for case and for signs between words: `frontEnd` and `front-end`.
#[must_use]
pub fn is_same_word(one: &str, other: &str) -> bool {
    letters(one).eq(letters(other))
}

/// The letters and digits of a value in lower case.
fn letters(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase())
}

/// Whether few letters differ, but not both the first and the last. Values that differ by numbers,
/// such as `web-1` and `web-2`, mean different things. Thousands of values are compared for one
/// answer, so cheap checks come first.
#[must_use]
pub fn is_close(one: &str, other: &str) -> bool {
    // Labels have at most 63 bytes.
    let (short, long) = (one.len().min(other.len()), one.len().max(other.len()));
    let first = |text: &str| text.chars().next();
    let last = |text: &str| text.chars().next_back();
    let is_unlike = long - short > 2 || long > 63 || (first(one) != first(other) && last(one) != last(other));
    if one == other || is_unlike || differ_by_numbers(one, other) {
        return false;
    }
    match short {
        0 | 1 => false,
        // Two letters have changed places.
        3 if long == 3 => osa_distance(one, other) == 1 && levenshtein(one, other) == 2,
        // Of words this short, one is the other with a letter more.
        2 | 3 => long == short + 1 && (one.starts_with(other) || other.starts_with(one)),
        4 => long <= 5 && (levenshtein(one, other) <= 1 || (long == 4 && osa_distance(one, other) == 1)),
        _ => levenshtein(one, other) <= 2,
    }
}

fn differ_by_numbers(one: &str, other: &str) -> bool {
    let has_digit = |text: &str| text.bytes().any(|byte| byte.is_ascii_digit());
    let without = |c: &char| !c.is_ascii_digit();
    has_digit(one) && has_digit(other) && one.chars().filter(without).eq(other.chars().filter(without))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_letters_are_a_slip_and_a_number_is_not() {
        for (one, other, expected) in [
            ("frontend", "frontent", true),
            ("store", "stroe", true),
            ("stores", "store", true),
            ("db", "dbs", true),
            ("cart", "card", true),
            ("web-1", "web-2", false),
            ("wbe", "web", true),
            ("teir", "tier", true),
            ("web", "app", false),
            ("db", "web", false),
            ("a", "ab", false),
            ("cart", "calf", false),
            ("prometheus", "alertmanager", false),
            ("same", "same", false),
        ] {
            assert_eq!(is_close(one, other), expected, "{one} {other}");
            assert_eq!(is_close(other, one), expected, "{other} {one}");
        }
        assert!(is_same_word("front-End", "frontend") && !is_same_word("front", "frontend"));
    }
}
