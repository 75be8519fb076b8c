//! Labels and label selectors (`metav1.LabelSelector`).

use std::collections::BTreeMap;

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

/// All requirements must hold; without any, everything is selected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Selector {
    /// `matchLabels` and `matchExpressions` alike.
    pub requirements: Vec<Requirement>,
}

/// One term of a selector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How the value is compared.
    pub operator: Operator,
}

/// A comparison, with its values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The key is there and has one of these values (`matchLabels` is this with one value).
    In(Vec<String>),
    /// The key is absent, or has none of these values.
    NotIn(Vec<String>),
    /// The key is there.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

impl Selector {
    /// Selects everything: `{}`.
    pub const ALL: Self = Self { requirements: Vec::new() };

    /// Selects objects that carry all of these labels.
    pub fn labels<K: Into<String>, V: Into<String>>(labels: impl IntoIterator<Item = (K, V)>) -> Self {
        let requirements = labels
            .into_iter()
            .map(|(k, v)| Requirement { key: k.into(), operator: Operator::In(vec![v.into()]) })
            .collect();
        Self { requirements }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| {
            let value = labels.get(&r.key);
            match &r.operator {
                Operator::In(values) => value.is_some_and(|v| values.contains(v)),
                Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_points_that_are_easily_missed() {
        let not_in = Selector {
            requirements: vec![Requirement { key: "a".into(), operator: Operator::NotIn(vec!["x".into()]) }],
        };
        assert!(not_in.matches(&labels(&[])), "NotIn does not need its key");
        assert!(!not_in.matches(&labels(&[("a", "x")])));
        let empty = Selector::labels([("a", "")]);
        assert!(!empty.matches(&labels(&[])), "an empty value is not an absent key");
        assert!(empty.matches(&labels(&[("a", "")])));
        assert!(Selector::ALL.matches(&labels(&[])));
    }
}
