//! What is different between two models: objects that came, went, or say something else now.

use super::{Model, Name, ObjectId, ObjectKind, Position, TieredPolicy};
use std::collections::BTreeMap;

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// It is new.
    Added,
    /// It says something else.
    Changed,
    /// It is gone.
    Removed,
}

impl Model {
    /// What became of objects on the way from here to `next`, in order of kind and name. Where an object was
    /// written makes no difference.
    pub fn difference(&self, next: &Self) -> Vec<(Step, ObjectId)> {
        let mut steps = Vec::new();
        let (mut was, mut is) = (self.supervisor.clone(), next.supervisor.clone());
        was.at = Position::default();
        is.at = Position::default();
        if was != is {
            steps.push((
                Step::Changed,
                ObjectId { kind: ObjectKind::Supervisor, name: Name::new("", is.name) },
            ));
        }
        let alone = |name: &String| Name::new("", name);
        macro_rules! compare {
            ($kind:ident, $field:ident, $name:expr) => {
                maps(
                    &self.$field,
                    &next.$field,
                    ObjectKind::$kind,
                    $name,
                    |o| o.at = Position::default(),
                    &mut steps,
                )
            };
        }
        compare!(Namespace, namespaces, alone);
        compare!(Node, nodes, alone);
        compare!(Pod, pods, Name::clone);
        compare!(Service, services, Name::clone);
        compare!(EndpointSlice, endpoint_slices, Name::clone);
        compare!(NetworkPolicy, policies, Name::clone);
        for kind in ObjectKind::TIERED {
            let of_kind = |model: &Self| -> BTreeMap<Name, TieredPolicy> {
                let all = model.tiered_policies.iter().filter(|(id, _)| id.kind == kind);
                all.map(|(id, policy)| (id.name.clone(), policy.clone())).collect()
            };
            let unplace = |o: &mut TieredPolicy| o.at = Position::default();
            maps(&of_kind(self), &of_kind(next), kind, Name::clone, unplace, &mut steps);
        }
        compare!(AddressSet, address_sets, alone);
        steps
    }
}

/// Compares the objects of one kind. `unplace` has an object forget where it was written.
fn maps<K: Ord, O: Clone + PartialEq>(
    was: &BTreeMap<K, O>,
    is: &BTreeMap<K, O>,
    kind: ObjectKind,
    name: impl Fn(&K) -> Name,
    unplace: impl Fn(&mut O),
    steps: &mut Vec<(Step, ObjectId)>,
) {
    let mut found: BTreeMap<&K, Step> =
        was.keys().filter(|key| !is.contains_key(key)).map(|key| (key, Step::Removed)).collect();
    for (key, object) in is {
        match was.get(key) {
            None => drop(found.insert(key, Step::Added)),
            Some(before) if before == object => {}
            Some(before) => {
                let (mut before, mut object) = (before.clone(), object.clone());
                unplace(&mut before);
                unplace(&mut object);
                if before != object {
                    found.insert(key, Step::Changed);
                }
            }
        }
    }
    steps.extend(found.into_iter().map(|(key, step)| (step, ObjectId { kind, name: name(key) })));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Labels, Pod};

    #[test]
    fn objects_come_change_and_go_and_places_do_not_count() {
        let pod = |name: &str, label: &str, line| Pod {
            labels: Labels::from([("app".to_owned(), label.to_owned())]),
            at: Position::new("x.yaml", line, 1),
            ..Pod::new(Name::new("shop", name))
        };
        let mut was = Model::default();
        for name in ["a", "b", "c"] {
            was.insert(pod(name, "one", 1).into());
        }
        let mut is = Model::default();
        is.insert(pod("d", "one", 1).into());
        is.insert(pod("b", "two", 1).into());
        is.insert(pod("c", "one", 7).into());
        is.supervisor.mtu = 1400;
        let said: Vec<String> =
            was.difference(&is).iter().map(|(step, id)| format!("{step:?} {id}")).collect();
        let expected =
            ["Changed Supervisor default", "Removed Pod shop/a", "Changed Pod shop/b", "Added Pod shop/d"];
        assert_eq!(said, expected);
        assert!(is.difference(&is).is_empty());
    }
}
