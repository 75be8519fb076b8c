//! Label selectors, by the API server's rules.

use super::{error::Problem, reading::Reading, schema, syntax, yaml::Node};
use crate::model::{Operator, Requirement, Selector};

/// Reads a `metav1.LabelSelector`. Terms that are wrong are noted and left out.
pub(super) fn read(r: &mut Reading, node: &Node) -> Selector {
    let fields = r.fields(node, &schema::LABEL_SELECTOR);
    let labels = r.labels_of(&fields, "matchLabels");
    let mut selector = Selector::labels(labels);
    for item in r.list(&fields, "matchExpressions") {
        selector.requirements.extend(expression(r, item));
    }
    selector
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

fn expression(r: &mut Reading, node: &Node) -> Option<Requirement> {
    let words = [
        ("In", Word::In),
        ("NotIn", Word::NotIn),
        ("Exists", Word::Exists),
        ("DoesNotExist", Word::DoesNotExist),
    ];
    let fields = r.fields(node, &schema::REQUIREMENT);
    let key = r.required(&fields, "key");
    let key = key.and_then(|n| r.checked_text(n, "the key of a label", syntax::label_key));
    let operator = r.required(&fields, "operator");
    let word = operator.and_then(|n| r.word(n, &words));
    let mut values = Vec::new();
    let mut usable = true;
    for value in r.list(&fields, "values") {
        match r.checked_text(value, "the value of a label", syntax::label_value) {
            Some(text) => values.push(text.to_owned()),
            None => usable = false,
        }
    }
    let word = word?;
    let name = words.iter().find(|(_, w)| *w == word).map_or("", |(name, _)| name);
    let takes_values = matches!(word, Word::In | Word::NotIn);
    if takes_values && usable && values.is_empty() {
        let at = r.at(node.place);
        let what = format!("operator {name} without values");
        r.error(at, Problem::Invalid { what, advice: "list the values it compares with".to_owned() });
        usable = false;
    }
    if !takes_values
        && let Some(n) = fields.get("values")
        && !r.items(n).is_empty()
    {
        r.invalid(n.place, format!("operator {name} takes no values"), "remove them");
        usable = false;
    }
    let operator = match word {
        Word::In => Operator::In(values),
        Word::NotIn => Operator::NotIn(values),
        Word::Exists => Operator::Exists,
        Word::DoesNotExist => Operator::DoesNotExist,
    };
    usable.then_some(Requirement { key: key?.to_owned(), operator })
}
