//! Which of many labelled things a selector selects, without asking each.

use crate::model::{Labels, Operator, Selector};
use std::collections::HashMap;

/// Labelled things, by their position in a list.
#[derive(Debug, Default)]
pub(crate) struct LabelIndex<'a> {
    labels: Vec<&'a Labels>,
    /// Who carries this key and value.
    carriers: HashMap<(&'a str, &'a str), Vec<usize>>,
}

impl<'a> FromIterator<&'a Labels> for LabelIndex<'a> {
    fn from_iter<I: IntoIterator<Item = &'a Labels>>(things: I) -> Self {
        let mut index = Self::default();
        for (at, labels) in things.into_iter().enumerate() {
            index.labels.push(labels);
            for (key, value) in labels {
                index.carriers.entry((key, value)).or_default().push(at);
            }
        }
        index
    }
}

impl LabelIndex<'_> {
    /// Positions of the things that are selected, ascending.
    pub(crate) fn select(&self, selector: &Selector) -> Vec<usize> {
        let matches = |at: &usize| selector.matches(self.labels[*at]);
        // The term with the fewest carriers says whom to ask; the other operators narrow too little to be worth it.
        let narrowest = selector
            .requirements
            .iter()
            .filter_map(|r| match &r.operator {
                Operator::In(values) => Some((&*r.key, values)),
                _ => None,
            })
            .map(|(key, values)| values.iter().filter_map(move |v| self.carriers.get(&(key, &**v))))
            .min_by_key(|lists| lists.clone().map(Vec::len).sum::<usize>());
        let Some(lists) = narrowest else {
            return (0..self.labels.len()).filter(matches).collect();
        };
        let mut selected: Vec<usize> = lists.flatten().copied().filter(matches).collect();
        selected.sort_unstable();
        selected.dedup();
        selected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Requirement;
    use proptest::prelude::*;

    fn labels() -> impl Strategy<Value = Labels> {
        prop::collection::btree_map("[abc]", "[xyz]?", 0..4)
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let values = || prop::collection::vec("[xyz]?", 1..3);
        let operator = prop_oneof![
            3 => values().prop_map(Operator::In),
            1 => values().prop_map(Operator::NotIn),
            1 => Just(Operator::Exists),
            1 => Just(Operator::DoesNotExist),
        ];
        let requirement = ("[abcd]", operator).prop_map(|(key, operator)| Requirement { key, operator });
        prop::collection::vec(requirement, 0..4).prop_map(|requirements| Selector { requirements })
    }

    proptest! {
        #[test]
        fn agrees_with_asking_each(things in prop::collection::vec(labels(), 0..20), selector in selector()) {
            let index: LabelIndex<'_> = things.iter().collect();
            let asked: Vec<usize> = (0..things.len()).filter(|&i| selector.matches(&things[i])).collect();
            prop_assert_eq!(index.select(&selector), asked);
        }
    }
}
