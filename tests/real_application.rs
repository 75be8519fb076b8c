//! A real application with its own policies (Online Boutique) plans without edits, and every workload reaches
//! exactly the Services that its policies intend.
//!
//! The manifests are not part of this project: `$SUPERNET_BOUTIQUE` names their folder, else they are looked for
//! beside the checkout. Without them the test says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{io::Write, path::PathBuf};
use supernet::{
    End, Leases, Probe,
    control::{model::Name, network::Network, store::UnixSeconds},
    dataplane::wire::Proto,
    manifests,
};

/// Who may use which Service, on which port: what the application's policies say in words.
const INTENDED: &[(&str, u16, &[&str])] = &[
    ("adservice", 9555, &["frontend"]),
    ("cartservice", 7070, &["frontend", "checkoutservice"]),
    ("checkoutservice", 5050, &["frontend"]),
    ("currencyservice", 7000, &["frontend", "checkoutservice"]),
    ("emailservice", 5000, &["checkoutservice"]),
    ("paymentservice", 50051, &["checkoutservice"]),
    ("productcatalogservice", 3550, &["frontend", "checkoutservice", "recommendationservice"]),
    ("recommendationservice", 8080, &["frontend"]),
    ("redis-cart", 6379, &["cartservice"]),
    ("shippingservice", 50051, &["frontend", "checkoutservice"]),
];

/// Everyone may use the frontend, from outside by its load balancer.
const WORKLOADS: &[&str] = &[
    "adservice",
    "cartservice",
    "checkoutservice",
    "currencyservice",
    "emailservice",
    "frontend",
    "loadgenerator",
    "paymentservice",
    "productcatalogservice",
    "recommendationservice",
    "redis-cart",
    "shippingservice",
];

#[test]
fn every_workload_reaches_what_the_policies_intend_and_nothing_else() {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/manifests/online-boutique");
    let given = std::env::var_os("SUPERNET_BOUTIQUE").map(PathBuf::from);
    let folder = given.clone().unwrap_or_else(beside);
    if !folder.exists() {
        assert!(given.is_none(), "{} is not there", folder.display());
        let said = format!("NO MANIFESTS: {} is not there; set SUPERNET_BOUTIQUE\n", folder.display());
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return;
    }
    let read = manifests::read([&folder]).unwrap();
    assert!(!read.supervisor_given);
    let mut network = Network::new(read.model, Leases::memory(), UnixSeconds(0)).unwrap();
    assert_eq!(network.plan().unwrap().pods.len(), WORKLOADS.len());
    let name = |n: &str| Name::new("default", n);
    let mut delivered = |from: End, to: &str, port| {
        let probe = Probe { from, to: End::Service(name(to)), proto: Proto::TCP, port: Some(port) };
        network.trace(&probe, 0).unwrap()
    };
    let mut asked = 0;
    for (service, port, allowed) in INTENDED {
        for from in WORKLOADS.iter().filter(|w| *w != service) {
            let report = delivered(End::Pod(name(from)), service, *port);
            assert_eq!(report.delivered(), allowed.contains(from), "{report}");
            asked += 1;
        }
        let report = delivered(End::Outside, service, *port);
        assert!(!report.delivered(), "{report}");
    }
    for from in WORKLOADS {
        let report = delivered(End::Pod(name(from)), "frontend", 80);
        assert!(report.delivered(), "{report}");
    }
    assert!(delivered(End::Outside, "frontend-external", 80).delivered());
    assert_eq!(asked, 110);
}
