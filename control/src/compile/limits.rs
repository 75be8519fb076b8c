//! Limits of pods and namespaces: their own, or the Supervisor's.

use crate::{intern::Interner, model::Model, place::Places};
use supernet_dataplane::snapshot::Limits;

/// What holds of each pod with a port and of each namespace.
pub(super) fn limits(model: &Model, places: &Places<'_>, interner: &mut Interner) -> Limits {
    let (defaults, mut limits) = (model.supervisor.limits, Limits::default());
    for (name, place) in places.pods.iter().filter(|(_, place)| place.segment.is_some()) {
        // Its port is called as it is.
        limits.set_port(interner.port(&name.to_string()), place.pod.limits.or(defaults.pod));
    }
    for (name, namespace) in &model.namespaces {
        limits.set_namespace(interner.namespace(name), namespace.limits.or(defaults.namespace));
    }
    limits
}
