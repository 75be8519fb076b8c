//! Labs of several workers.

use crate::{hosts::as_root, lab::Lab};

const SUPERVISOR: &str =
    "{apiVersion: supernet.dev/v1alpha1, kind: Supervisor, spec: {ingressPosture: allowCluster, nodes: 1}}";

fn pod(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, spec: {{containers: [{{name: c, image: c}}]}}}}"
    )
}

/// Queue n of a host is worker n's, also of hosts that come while the lab runs.
#[test]
fn every_host_has_a_queue_for_each_worker() {
    if !as_root() {
        return;
    }
    let lab = Lab::up("queues", &[SUPERVISOR, &pod("early")].join("\n---\n"));
    let late = lab.write("late.yaml", &pod("late"));
    let applied = lab.run(&["apply", "-f", &late]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    for host in ["shop/early", "shop/late", "outside"] {
        let device = if host == "outside" { "up0" } else { "eth0" };
        let device = format!("/sys/class/net/{device}/queues");
        let listed = lab.run(&["exec", host, "--", "ls", &device]);
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["rx-0", "rx-1", "tx-0", "tx-1"], "{host}");
    }
}
