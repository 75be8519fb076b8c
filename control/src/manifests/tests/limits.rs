//! Limits of connections, as they are written.

use super::{bad, good};
use crate::{
    manifests::read_str,
    model::{Limit, LimitSettings, Name},
};
use std::num::NonZeroU32;

fn at_most(n: u32) -> Option<Limit> {
    NonZeroU32::new(n).map(Limit::AtMost)
}

const SUPERVISOR: &str = "apiVersion: supernet.dev/v1alpha1\nkind: Supervisor\nspec:\n";
const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  annotations:\n";

#[test]
fn the_supervisors_are_for_all_and_annotations_for_one() {
    let text = format!(
        "{SUPERVISOR}  limits:\n    pod: {{connections: 1000, halfOpen: 100, newPerSecond: unlimited}}\n    \
         namespace: {{connections: 1000000000}}\n---\n{NAMESPACE}    supernet.dev/max-connections: unlimited\n    \
         supernet.dev/max-half-open: \"7\"\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  namespace: a\n  \
         annotations: {{supernet.dev/max-new-per-second: \"30\"}}\nspec: {{containers: [{{name: c}}]}}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d, namespace: a}}\nspec:\n  selector: \
         {{matchLabels: {{x: \"y\"}}}}\n  replicas: 2\n  template:\n    metadata:\n      labels: {{x: \"y\"}}\n      \
         annotations: {{supernet.dev/max-connections: \"5\"}}\n    spec: {{containers: [{{name: c}}]}}\n"
    );
    let model = good(&text).model;
    let defaults = model.supervisor.limits;
    let pod = LimitSettings {
        connections: at_most(1000),
        half_open: at_most(100),
        new_per_second: Some(Limit::Unlimited),
    };
    assert_eq!(defaults.pod, pod);
    let none = LimitSettings::default();
    assert_eq!(defaults.namespace, LimitSettings { connections: at_most(Limit::MOST), ..none });
    let namespace = model.namespaces["a"].limits;
    let expected =
        LimitSettings { connections: Some(Limit::Unlimited), half_open: at_most(7), new_per_second: None };
    assert_eq!(namespace, expected);
    let pod = model.pods[&Name::new("a", "p")].limits;
    assert_eq!(pod, LimitSettings { new_per_second: at_most(30), ..none });
    let of_deployment = model.pods.values().filter(|pod| pod.limits.connections == at_most(5)).count();
    assert_eq!(of_deployment, 2);
    assert_eq!(good("").model.supervisor.limits, Default::default());
}

#[test]
fn what_is_no_limit_says_so_and_where() {
    let annotation = |value: &str| bad(&format!("{NAMESPACE}    supernet.dev/max-connections: {value}\n"));
    let zero = "a limit of 0; write `unlimited` if there is to be no limit, and a NetworkPolicy if there are to be no \
                connections";
    assert_eq!(annotation("\"0\""), format!("net.yaml:6:35: {zero}"));
    assert_eq!(annotation("\"000\""), format!("net.yaml:6:35: {zero}"));
    for value in [
        "many",
        "\"-1\"",
        "\"1.5\"",
        "\"07\"",
        "\"1000000001\"",
        "\"99999999999999\"",
        "\"+5\"",
        "\"\"",
        "Unlimited",
    ] {
        let expected = format!(
            "net.yaml:6:35: `{}` is no limit; write a number from 1 to 1000000000, in quotes, or `unlimited`",
            value.trim_matches('"')
        );
        assert_eq!(annotation(value), expected);
    }
    assert!(annotation("50").starts_with("net.yaml:6:35: "), "a number is no text");
    assert!(annotation("50").ends_with("put the value in quotes"));

    let field = |value: &str| bad(&format!("{SUPERVISOR}  limits: {{pod: {{halfOpen: {value}}}}}\n"));
    assert_eq!(field("0"), format!("net.yaml:4:28: {zero}"));
    for value in ["many", "-1", "1.5", "1000000001"] {
        let expected = format!(
            "net.yaml:4:28: `{value}` is no limit; write a number from 1 to 1000000000, or `unlimited`"
        );
        assert_eq!(field(value), expected);
    }
    assert_eq!(field("\"5\""), "net.yaml:4:28: a limit `5` in quotes; write it without quotes");
    assert!(field("[5]").starts_with("net.yaml:4:28: expected a number"), "{}", field("[5]"));
    assert!(field("true").starts_with("net.yaml:4:28: expected a number"), "{}", field("true"));
}

#[test]
fn slips_of_names_and_places() {
    let slip = bad(&format!("{SUPERVISOR}  limits: {{pods: {{connections: 5}}}}\n"));
    assert_eq!(slip, "net.yaml:4:12: unknown field `pods` in limits; did you mean `pod`?");
    let slip = bad(&format!("{SUPERVISOR}  limits: {{pod: {{conections: 5}}}}\n"));
    assert!(slip.ends_with("did you mean `connections`?"), "{slip}");
    let slip = bad(&format!("{NAMESPACE}    supernet.dev/max-conections: \"5\"\n"));
    assert!(slip.ends_with("did you mean `supernet.dev/max-connections`?"), "{slip}");
    let service = "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\n  annotations: {supernet.dev/max-half-open: \"5\"}\nspec: {ports: [{port: 1}]}\n";
    assert!(bad(service).contains("it belongs on a Pod, a pod template or a Namespace"), "{}", bad(service));
    let host = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations: {supernet.dev/max-half-open: \"5\"}\nspec: {hostNetwork: true, containers: [{name: c}]}\n";
    let error = read_str("net.yaml", host).unwrap_err().to_string();
    assert_eq!(
        error,
        "net.yaml:5:45: supernet.dev/max-half-open on a pod with hostNetwork, whose connections are its node's; \
         remove the annotation: nodes have no limits"
    );
}
