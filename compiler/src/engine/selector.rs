//! Selectors over interned labels.

use super::intern::{Interner, Text};
use crate::algebra::selector::{Operator, Selector};
use crate::object::Labels;

/// A label: key and value.
pub(super) type LabelPair = (Text, Text);

/// Labels, sorted by the numbers of their keys.
pub(super) type LabelPairs = Box<[LabelPair]>;

/// Interns labels; [`release`] them.
pub(super) fn keep(strings: &mut Interner, labels: &Labels) -> LabelPairs {
    let mut pairs: Vec<LabelPair> =
        labels.iter().map(|(key, value)| (strings.keep(key), strings.keep(value))).collect();
    pairs.sort_unstable();
    pairs.into()
}

/// Labels whose strings are kept already, sorted as by [`keep`]; `None` if one is not.
pub(super) fn find(strings: &Interner, labels: &Labels) -> Option<LabelPairs> {
    let pairs = labels.iter().map(|(key, value)| Some((strings.find(key)?, strings.find(value)?)));
    let mut pairs: Vec<LabelPair> = pairs.collect::<Option<_>>()?;
    pairs.sort_unstable();
    Some(pairs.into())
}

/// Gives interned labels back.
pub(super) fn release(strings: &mut Interner, pairs: &[LabelPair]) {
    for (key, value) in pairs {
        strings.release(*key);
        strings.release(*value);
    }
}

/// A selector whose strings are kept.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Compiled {
    requirements: Box<[InternedRequirement]>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct InternedRequirement {
    key: Text,
    /// Whether having one of the values, sorted, or any at all, is asked for.
    values: Option<Box<[Text]>>,
    wanted: bool,
}

impl Compiled {
    pub(super) fn new(strings: &mut Interner, selector: &Selector) -> Self {
        let mut requirements = Vec::new();
        for requirement in selector.requirements() {
            let (values, wanted) = match &requirement.operator {
                Operator::In(values) => (Some(values), true),
                Operator::NotIn(values) => (Some(values), false),
                Operator::Exists => (None, true),
                Operator::DoesNotExist => (None, false),
            };
            requirements.push(InternedRequirement {
                key: strings.keep(&requirement.key),
                values: values.map(|values| {
                    let mut values: Box<[Text]> = values.iter().map(|value| strings.keep(value)).collect();
                    values.sort_unstable();
                    values
                }),
                wanted,
            });
        }
        Self { requirements: requirements.into() }
    }

    pub(super) fn release(self, strings: &mut Interner) {
        for requirement in self.requirements {
            strings.release(requirement.key);
            requirement.values.into_iter().flatten().for_each(|value| strings.release(value));
        }
    }

    /// As [`Selector::matches`].
    pub(super) fn matches(&self, labels: &[LabelPair]) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.binary_search_by_key(&requirement.key, |(key, _)| *key).ok().map(|at| labels[at].1);
            let has = match &requirement.values {
                None => value.is_some(),
                Some(values) => value.is_some_and(|value| values.binary_search(&value).is_ok()),
            };
            has == requirement.wanted
        })
    }

    /// Labels such that every selected pod has at least one of them; `None` if there are no such
    /// labels, or too many.
    pub(super) fn needs(&self) -> Option<Vec<LabelPair>> {
        const MANY: usize = 16;
        let needs = |requirement: &&InternedRequirement| {
            requirement.wanted && requirement.values.as_ref().is_some_and(|values| values.len() <= MANY)
        };
        let requirement = self.requirements.iter().find(needs)?;
        let values = requirement.values.iter().flat_map(|values| &**values);
        Some(values.map(|value| (requirement.key, *value)).collect())
    }
}
