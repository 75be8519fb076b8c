//! One document: what kind of object it is, lists unpacked, and off to the kind's own reader.

use super::error::Problem;
use super::{
    admin_policy, cluster,
    declared::Declared,
    pod, policy,
    reading::Reading,
    schema::{self, Kind},
    security_policy, service, supervisor, syntax, workload,
    yaml::{Node, Value},
};

/// Lists in lists, which nobody writes, are read to this depth.
const MAX_LISTS: usize = 4;

/// Reads the object, or list of objects, of a document. Documents that hold nothing are passed over.
pub(super) fn read(r: &mut Reading, node: &Node, declared: &mut Declared) {
    object(r, node, None, 0, declared);
}

fn object(
    r: &mut Reading,
    node: &Node,
    list_kind: Option<(&str, &str)>,
    depth: usize,
    declared: &mut Declared,
) {
    match &node.value {
        Value::Null => return,
        Value::Map(_) => {}
        _ => {
            r.map(node);
            return;
        }
    }
    let (kind_node, version_node) = (node.field("kind"), node.field("apiVersion"));
    // Items of a PodList need not repeat what they are.
    let kind = match (kind_node, list_kind) {
        (Some(n), _) => r.text(n),
        (None, Some((kind, _))) => Some(kind),
        (None, None) => missing(r, node, "kind"),
    };
    let version = match (version_node, list_kind) {
        (Some(n), _) => r.text(n),
        (None, Some((_, version))) => Some(version),
        (None, None) => missing(r, node, "apiVersion"),
    };
    let (Some(kind), Some(version)) = (kind, version) else { return };
    let place = version_node.map_or(node.place, |n| n.place);
    let group = version.rsplit_once('/').map_or("", |(group, _)| group);

    if kind.ends_with("List") && node.field("items").is_some() {
        let item = kind.strip_suffix("List").filter(|k| !k.is_empty()).map(|k| (k, version));
        let list = r.fields(node, &schema::LIST);
        let items = r.list(&list, "items");
        if depth >= MAX_LISTS {
            r.invalid(node.place, "lists are nested too deeply", "put their items into one list");
            return;
        }
        for item_node in items {
            object(r, item_node, item, depth + 1, declared);
        }
        return;
    }
    let known = Kind::ALL.iter().find(|(_, name, _)| *name == kind);
    match known {
        Some((known, _, wanted)) if version == *wanted => dispatch(r, *known, node, declared),
        Some((_, _, wanted)) if syntax::closest(group, schema::OWN_GROUPS).is_some() => {
            let at = r.at(place);
            let problem = Problem::ApiVersion { kind: kind.to_owned(), found: version.to_owned(), wanted };
            r.error(at, problem);
        }
        None if (kind, version) == ("Endpoints", "v1") => service::note_endpoints(r, node, declared),
        _ => skip(r, kind, group, kind_node.unwrap_or(node)),
    }
}

fn missing<'n>(r: &mut Reading, node: &Node, field: &'static str) -> Option<&'n str> {
    let at = r.at(node.place);
    r.error(at, Problem::MissingField { field, owner: "a Kubernetes object" });
    None
}

fn skip(r: &mut Reading, kind: &str, group: &str, node: &Node) {
    // A slip in a kind that would be read must not pass as a kind that is not needed.
    let names = Kind::ALL.iter().map(|(_, name, _)| *name);
    let wanted = Kind::ALL.iter().find(|(_, name, _)| Some(*name) == syntax::closest(kind, names.clone()));
    if let Some((_, meant, wanted)) = wanted
        && *meant != kind
        && wanted.rsplit_once('/').map_or("", |(g, _)| g) == group
    {
        r.invalid(node.place, format!("unknown kind `{kind}`"), format!("did you mean `{meant}`?"));
        return;
    }
    if group == "supernet.dev" {
        r.invalid(
            node.place,
            format!("unknown kind `{kind}` of {group}"),
            "use Supervisor, SecurityPolicy or AddressSet",
        );
        return;
    }
    let shapes = schema::shapes_traffic(kind, group);
    let counts = if shapes { &mut r.notes.kinds } else { &mut r.notes.skipped };
    // The group tells Knative's Service from the real one.
    let ambiguous = Kind::ALL.iter().any(|(_, name, _)| *name == kind);
    let name = if ambiguous { format!("{kind} ({group})") } else { kind.to_owned() };
    *counts.entry(name).or_default() += 1;
}

fn dispatch(r: &mut Reading, kind: Kind, node: &Node, declared: &mut Declared) {
    match kind {
        Kind::Supervisor => supervisor::read(r, node, declared),
        Kind::Namespace => cluster::read_namespace(r, node, declared),
        Kind::Node => cluster::read_node(r, node, declared),
        Kind::Pod => pod::read(r, node, declared),
        Kind::Service => service::read_service(r, node, declared),
        Kind::EndpointSlice => service::read_slice(r, node, declared),
        Kind::NetworkPolicy => policy::read(r, node, declared),
        Kind::ClusterNetworkPolicy | Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy => {
            admin_policy::read(r, kind, node, declared);
        }
        Kind::SecurityPolicy => security_policy::read(r, node, declared),
        Kind::AddressSet => security_policy::read_address_set(r, node, declared),
        Kind::Deployment
        | Kind::ReplicaSet
        | Kind::ReplicationController
        | Kind::StatefulSet
        | Kind::DaemonSet
        | Kind::Job
        | Kind::CronJob => workload::read(r, kind, node, declared),
    }
}
