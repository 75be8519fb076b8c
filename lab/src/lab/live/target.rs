//! Objects as people name them: `deploy shop/web`, `pod shop/curl`, `ns shop`.

use super::wire::Target;

/// Kinds that can be deleted: as Kubernetes writes them, what people may write, and whether they lie in a namespace.
const KINDS: [(&str, &[&str], bool); 18] = [
    ("Namespace", &["namespace", "namespaces", "ns"], false),
    ("Node", &["node", "nodes", "no"], false),
    ("Pod", &["pod", "pods", "po"], true),
    ("Service", &["service", "services", "svc"], true),
    ("EndpointSlice", &["endpointslice", "endpointslices"], true),
    ("NetworkPolicy", &["networkpolicy", "networkpolicies", "netpol"], true),
    ("SecurityPolicy", &["securitypolicy", "securitypolicies", "sp"], false),
    ("ClusterNetworkPolicy", &["clusternetworkpolicy", "clusternetworkpolicies", "cnp"], false),
    ("AdminNetworkPolicy", &["adminnetworkpolicy", "adminnetworkpolicies", "anp"], false),
    (
        "BaselineAdminNetworkPolicy",
        &["baselineadminnetworkpolicy", "baselineadminnetworkpolicies", "banp"],
        false,
    ),
    ("AddressSet", &["addressset", "addresssets"], false),
    ("Deployment", &["deployment", "deployments", "deploy"], true),
    ("ReplicaSet", &["replicaset", "replicasets", "rs"], true),
    ("ReplicationController", &["replicationcontroller", "replicationcontrollers", "rc"], true),
    ("StatefulSet", &["statefulset", "statefulsets", "sts"], true),
    ("DaemonSet", &["daemonset", "daemonsets", "ds"], true),
    ("Job", &["job", "jobs"], true),
    ("CronJob", &["cronjob", "cronjobs", "cj"], true),
];

/// Why words name no object.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("there is no kind {kind:?} to delete; there is: {}", kinds())]
    Kind { kind: String },
    #[error("{0:?} is no name: write NAMESPACE/NAME, or NAME alone for the namespace `default`")]
    Name(String),
    #[error("a {kind} lies in no namespace: write {kind} NAME instead of {name}")]
    NoNamespace { kind: &'static str, name: String },
}

fn kinds() -> String {
    KINDS.map(|(_, words, _)| words[0]).join(", ")
}

/// The objects of words: a kind, and names.
pub(super) fn parse(kind: &str, names: &[String]) -> Result<Vec<Target>, TargetError> {
    let wanted = kind.to_ascii_lowercase();
    let found = KINDS.iter().find(|(_, words, _)| words.contains(&&*wanted));
    let Some(&(kind, _, namespaced)) = found else { return Err(TargetError::Kind { kind: kind.to_owned() }) };
    let one = |name: &String| {
        let (namespace, short) = match name.split_once('/') {
            Some(_) if !namespaced => return Err(TargetError::NoNamespace { kind, name: name.clone() }),
            Some(parts) => parts,
            None if namespaced => ("default", &**name),
            None => ("", &**name),
        };
        if short.is_empty() || short.contains('/') || (namespaced && namespace.is_empty()) {
            return Err(TargetError::Name(name.clone()));
        }
        let (namespace, name) = (namespace.to_owned(), short.to_owned());
        Ok(Target { kind: kind.to_owned(), namespace, name })
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_kinds_and_names_as_with_kubectl() {
        let one = |kind: &str, name: &str| {
            parse(kind, &[name.to_owned()])
                .map(|t| (t[0].kind.clone(), t[0].namespace.clone(), t[0].name.clone()))
        };
        let expected = |kind: &str, namespace: &str, name: &str| {
            Ok((kind.to_owned(), namespace.to_owned(), name.to_owned()))
        };
        assert_eq!(one("deploy", "shop/web"), expected("Deployment", "shop", "web"));
        assert_eq!(one("Pod", "web"), expected("Pod", "default", "web"));
        assert_eq!(one("ns", "shop"), expected("Namespace", "", "shop"));
        assert!(matches!(one("supervisor", "x"), Err(TargetError::Kind { .. })));
        assert!(matches!(one("ns", "a/b"), Err(TargetError::NoNamespace { .. })));
        for bad in ["", "/", "a/", "/b", "a/b/c"] {
            assert!(matches!(one("pod", bad), Err(TargetError::Name(_))), "{bad}");
        }
    }
}
