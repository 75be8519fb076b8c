//! Workloads become the pods that Kubernetes would make of them.

use super::{good, pod, pod_names, warnings};

/// `kind` with a template labelled `app: x`, and these fields of `spec` and of the template's `spec`.
fn workload(kind: &str, name: &str, spec: &str, pod_spec: &str) -> String {
    let version = if kind.ends_with("Job") { "batch/v1" } else { "apps/v1" };
    let selector = if kind.ends_with("Job") { "" } else { "selector: {matchLabels: {app: x}}," };
    let template = format!("template: {{metadata: {{labels: {{app: x}}}}, spec: {{{pod_spec}}}}}");
    let spec = match kind {
        "CronJob" => format!("schedule: '* * * * *', {spec} jobTemplate: {{spec: {{{template}}}}}"),
        _ => format!("{selector} {spec} {template}"),
    };
    format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n---\n")
}

fn is_drawn(text: &str, length: usize) -> bool {
    text.len() == length && text.chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c))
}

/// The text after `prefix`, split at hyphens.
fn parts<'n>(name: &'n str, prefix: &str) -> Vec<&'n str> {
    name.strip_prefix(prefix)
        .unwrap_or_else(|| panic!("{name} does not begin with {prefix}"))
        .split('-')
        .collect()
}

#[test]
fn a_deployment_makes_pods_of_a_replica_set() {
    let text = workload("Deployment", "web", "replicas: 3,", "");
    let m = good(&text);
    assert_eq!(m.model.pods.len(), 3);
    for p in m.model.pods.values() {
        let [hash, own] = parts(&p.name.name, "web-")[..] else { panic!("{}", p.name) };
        assert!(is_drawn(hash, 10) && is_drawn(own, 5), "{}", p.name);
        assert_eq!(p.labels["pod-template-hash"], hash);
        assert_eq!(p.labels["app"], "x");
        assert_eq!(p.owner.as_deref(), Some("deployment/web"));
        assert_eq!(p.at.to_string(), "net.yaml:1:1");
    }
    assert_eq!(m, good(&text), "the same text gives the same pods");
    // Scaling keeps the pods there are; another template makes others.
    let names = pod_names(&m);
    assert!(names.iter().all(|n| pod_names(&good(&text.replace("replicas: 3", "replicas: 5"))).contains(n)));
    assert!(
        !names
            .iter()
            .any(|n| pod_names(&good(&text.replace("spec: {}", "spec: {hostIPC: true}"))).contains(n))
    );
    assert_eq!(good(&workload("Deployment", "web", "", "")).model.pods.len(), 1);
    assert_eq!(good(&workload("Deployment", "web", "replicas: 0,", "")).model.pods.len(), 0);
    assert_eq!(good(&workload("ReplicaSet", "web", "replicas: 2,", "")).model.pods.len(), 2);
}

#[test]
fn long_names_are_cut_as_kubernetes_does() {
    let name = "a".repeat(70);
    let m = good(&workload("Deployment", &name, "replicas: 200,", ""));
    assert_eq!(m.model.pods.len(), 200, "no two names are the same");
    assert!(m.model.pods.keys().all(|n| n.name.len() == 63));
}

#[test]
fn a_stateful_set_numbers_its_pods() {
    let m = good(&workload("StatefulSet", "db", "replicas: 2, ordinals: {start: 5},", ""));
    assert_eq!(pod_names(&m), ["default/db-5", "default/db-6"]);
    let labels = &pod(&m, "default", "db-6").labels;
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-6");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "6");
    assert!(is_drawn(parts(&labels["controller-revision-hash"], "db-")[0], 10));
}

#[test]
fn a_daemon_set_runs_on_every_node_that_fits() {
    let nodes = |m: &crate::manifests::Manifests| -> Vec<String> {
        let mut nodes: Vec<_> = m.model.pods.values().map(|p| p.node.clone().unwrap().value).collect();
        nodes.sort();
        nodes
    };
    let plain = workload("DaemonSet", "agent", "", "");
    assert_eq!(nodes(&good(&plain)), ["node-1", "node-2", "node-3"]);
    let linux = workload("DaemonSet", "agent", "", "nodeSelector: {kubernetes.io/os: linux}");
    assert_eq!(nodes(&good(&linux)).len(), 3);
    let supervisor = "{apiVersion: supernet.dev/v1alpha1, kind: Supervisor, spec: {nodes: 5}}\n---\n";
    assert_eq!(nodes(&good(&format!("{supervisor}{plain}"))).len(), 5);
    let declared = "{apiVersion: v1, kind: Node, metadata: {name: a, labels: {gpu: \"yes\"}}}\n---\n\
                    {apiVersion: v1, kind: Node, metadata: {name: b}}\n---\n";
    assert_eq!(nodes(&good(&format!("{declared}{plain}"))), ["a", "b"]);
    let gpu = workload("DaemonSet", "agent", "", "nodeSelector: {gpu: \"yes\"}");
    assert_eq!(nodes(&good(&format!("{declared}{gpu}"))), ["a"]);
    assert_eq!(
        nodes(&good(&format!("{declared}{}", workload("DaemonSet", "agent", "", "nodeName: b")))),
        ["b"]
    );
}

#[test]
fn jobs_and_cron_jobs() {
    let count = |spec: &str| good(&workload("Job", "run", spec, "")).model.pods.len();
    assert_eq!(count(""), 1);
    assert_eq!(count("parallelism: 3,"), 3);
    assert_eq!(count("parallelism: 3, completions: 2,"), 2);
    assert_eq!(count("completions: 5,"), 1);
    assert_eq!(count("suspend: true,"), 0);

    let m = good(&workload("Job", "run", "parallelism: 2, completions: 2, completionMode: Indexed,", ""));
    for (i, p) in m.model.pods.values().enumerate() {
        let [index, own] = parts(&p.name.name, "run-")[..] else { panic!("{}", p.name) };
        assert_eq!((index, is_drawn(own, 5)), (&*i.to_string(), true));
        assert_eq!(p.labels["batch.kubernetes.io/job-completion-index"], index);
        assert_eq!((&*p.labels["job-name"], &*p.labels["batch.kubernetes.io/job-name"]), ("run", "run"));
        assert_eq!(p.labels["controller-uid"].len(), 36);
    }

    let m = good(&workload("CronJob", "tick", "", ""));
    let p = m.model.pods.values().next().unwrap();
    let [minute, own] = parts(&p.name.name, "tick-")[..] else { panic!("{}", p.name) };
    assert!(minute.len() == 8 && minute.parse::<u32>().is_ok() && is_drawn(own, 5), "{}", p.name);
    assert_eq!(p.labels["job-name"], format!("tick-{minute}"));
    assert_eq!(good(&workload("CronJob", "tick", "suspend: true,", "")).model.pods.len(), 0);
}

fn owned(kind: &str, version: &str, name: &str, owner: (&str, &str), rest: &str) -> String {
    format!(
        "{{apiVersion: {version}, kind: {kind}, metadata: {{name: {name}, labels: {{app: x, pod-template-hash: h1}}, \
         ownerReferences: [{{apiVersion: apps/v1, kind: {}, name: {}, uid: u, controller: true}}]}}, {rest}}}\n---\n",
        owner.0, owner.1
    )
}

#[test]
fn what_a_workload_made_stands_for_its_expansion() {
    let deployment = workload("Deployment", "web", "replicas: 3,", "");
    let set = owned(
        "ReplicaSet",
        "apps/v1",
        "web-h1",
        ("Deployment", "web"),
        "spec: {replicas: 2, selector: {matchLabels: {app: x}}, template: {metadata: {labels: {app: x, \
         pod-template-hash: h1}}, spec: {}}}",
    );
    let of_set = owned("Pod", "v1", "web-h1-aaaaa", ("ReplicaSet", "web-h1"), "spec: {}");

    let m = good(&format!("{deployment}{set}"));
    assert_eq!(m.model.pods.len(), 2, "the ReplicaSet's, not the Deployment's");
    assert!(m.model.pods.values().all(|p| p.labels["pod-template-hash"] == "h1"));
    assert_eq!(pod_names(&good(&format!("{deployment}{set}{of_set}"))), ["default/web-h1-aaaaa"]);
    // The ReplicaSet in between need not be there.
    assert_eq!(pod_names(&good(&format!("{of_set}{deployment}"))), ["default/web-h1-aaaaa"]);
    let of_other = owned("Pod", "v1", "api-h1-aaaaa", ("ReplicaSet", "api-h1"), "spec: {}");
    assert_eq!(good(&format!("{of_other}{deployment}")).model.pods.len(), 4);

    let job = owned(
        "Pod",
        "v1",
        "tick-29000000-aaaaa",
        ("Job", "tick-29000000"),
        "spec: {}, status: {phase: Succeeded}",
    );
    let m = good(&format!("{}{job}", workload("CronJob", "tick", "", "")));
    assert!(m.model.pods.is_empty());
    assert_eq!(warnings(&m), ["1 pod has ended and is left out: it has no network"]);

    let member = owned("Pod", "v1", "db-0", ("StatefulSet", "db"), "spec: {}");
    assert_eq!(
        pod_names(&good(&format!("{member}{}", workload("StatefulSet", "db", "replicas: 3,", "")))),
        ["default/db-0"]
    );
}

#[test]
fn a_finished_job_has_no_pods() {
    let text = workload("Job", "run", "", "");
    let done =
        text.replace("}\n---\n", ", status: {conditions: [{type: Complete, status: \"True\"}]}}\n---\n");
    assert!(good(&done).model.pods.is_empty());
}

#[test]
fn one_replica_may_ask_for_its_address() {
    let text = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, \
                template: {metadata: {labels: {a: b}, annotations: {supernet.dev/ip: 10.0.0.1}}, spec: {}}}}";
    let m = good(text);
    let p = m.model.pods.values().next().unwrap();
    assert_eq!(p.addresses, [std::net::IpAddr::from([10, 0, 0, 1]).into()]);
}

#[test]
fn nodes_that_are_only_named() {
    // A name of the default nodes leaves these as they are; any other makes the named nodes the cluster's.
    let named =
        |node: &str| good(&workload("Deployment", "web", "", &format!("nodeName: {node}"))).model.nodes.len();
    assert_eq!((named("node-2"), named("worker-a")), (0, 1));
}

#[test]
fn a_replication_controller_is_the_elder_replica_set() {
    let text = "{apiVersion: v1, kind: ReplicationController, metadata: {name: old}, spec: {replicas: 2, \
                selector: {app: x}, template: {metadata: {labels: {app: x}}, spec: {}}}}";
    for text in [text.to_owned(), text.replace("selector: {app: x}, ", "")] {
        let m = good(&text);
        assert_eq!(m.model.pods.len(), 2);
        assert!(m.model.pods.keys().all(|n| is_drawn(parts(&n.name, "old-")[0], 5)));
    }
}

#[test]
fn text_as_tools_write_it() {
    let pod = "apiVersion: v1\r\nkind: Pod\r\nmetadata:\r\n  name: a\r\nspec: {}\r\n";
    let helm = "\u{feff}---\n# Source: chart/templates/a.yaml\n---\n# Source: b\n\n---\n";
    let m = good(&format!("{helm}{pod}...\n---\n{}", pod.replace("name: a", "name: b")));
    assert_eq!(pod_names(&m), ["default/a", "default/b"]);
    assert_eq!(m.model.pods.values().next().unwrap().at.to_string(), "net.yaml:7:1");
}

#[test]
fn an_empty_text_is_a_field_left_out() {
    let m = good(
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: \"\"}, spec: {nodeName: \"\", containers: \
         [{ports: [{containerPort: 1, name: \"\", protocol: \"\"}]}]}, status: {podIP: \"\"}}\n---\n\
         {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: \"\", clusterIP: \"\", loadBalancerIP: \"\", \
         ports: [{port: 1, name: \"\", targetPort: \"\"}]}}\n",
    );
    assert_eq!(pod(&m, "default", "a").ports.len(), 1);
    assert_eq!(m.model.services.len(), 1);
}
