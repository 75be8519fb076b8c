//! Kernels on bad lines: TCP between two hosts whose TAPs lose, double, damage and reorder frames.

use super::{NOTHING, as_root, inside, lab_name, traces_of, up};
use crate::lab::{
    netns,
    spec::{EndpointSpec, LabSpec, Place},
};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};
use supernet::{
    Handle, Supernet, manifests,
    port::fault::{self, FaultCounters, Faults, Rates},
};
use supernet_testkit::packet::bytes;

/// Bytes that each side of a connection sends.
const BYTES: usize = 4 << 20;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);

const WEB: &str = "shop/web";
const CURL: &str = "shop/curl";

const SHOP: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec: {podCIDRs: [10.244.0.0/20, 'fd00:244::/48'], ingressPosture: allowNamespace}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: shop}
spec: {containers: [{name: c, image: c}]}
";

/// Sends `out` and receives to the end, at the same time.
fn exchange(mut stream: TcpStream, out: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let mut received = Vec::new();
    thread::scope(|s| {
        s.spawn(move || {
            sender.write_all(out).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut received).unwrap();
    });
    received
}

/// Has a host send again what was lost after 10 ms at the earliest, not after 200.
fn hurry(lab: &str, host: &EndpointSpec) {
    let route = |net: &ipnet::IpNet| format!("route replace {} dev eth0 rto_min 10ms", net.trunc());
    let routes: Vec<String> = host.addresses.iter().map(route).collect();
    inside(lab, &host.name, || netns::ip(&host.name, &routes).unwrap());
}

#[test]
fn kernels_transfer_megabytes_over_bad_lines() {
    transfer_over_bad_lines("faults", false);
}

/// What is late or comes again is honest, whatever its numbers.
#[test]
fn and_with_strict_tcp() {
    transfer_over_bad_lines("strict", true);
}

fn transfer_over_bad_lines(lab: &str, strict: bool) {
    if !as_root() {
        return;
    }
    let model = manifests::read_str("shop.yaml", SHOP).unwrap().model;
    let net = Supernet::builder().workers(2).sessions(256).frames(2048).strict_tcp(strict);
    let net = net.build(model).unwrap();
    let spec = LabSpec::of(&net.model(), &net.snapshot(), &net.plan().unwrap().pods);
    let lab = lab_name(lab);
    let mut hosts = up(&lab, &spec);
    let mut lines: Vec<FaultCounters> = Vec::new();
    let transmit = Rates { loss: 0.05, duplication: 0.01, reordering: 0.1, delay: 0.02, ..Rates::default() };
    // Damage on the way in only: a frame that is damaged twice may look sound.
    let receive = Rates { corruption: 0.01, ..transmit };
    for (place, tap) in hosts.take_taps() {
        let Place::Endpoint(name) = place else { continue };
        if ![WEB, CURL].contains(&&*name) {
            continue;
        }
        let port =
            fault::wrap(tap.without_offloads(), Faults { seed: lines.len() as u64, receive, transmit });
        lines.push(port.counters());
        net.attach(&name, port).unwrap();
    }
    let net = net.spawn().unwrap();
    let host = |name: &str| spec.endpoints.iter().find(|e| e.name == name).unwrap();
    [WEB, CURL].into_iter().for_each(|name| hurry(&lab, host(name)));

    let (question, answer) = (bytes(1, BYTES), bytes(2, BYTES));
    for address in &host(WEB).addresses {
        let listener = inside(&lab, WEB, || TcpListener::bind((address.addr(), 0)).unwrap());
        let to = listener.local_addr().unwrap();
        let client = inside(&lab, CURL, || TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        thread::scope(|s| {
            s.spawn(|| {
                let (server, _) = listener.accept().unwrap();
                assert!(exchange(server, &answer) == question, "what the server received");
            });
            assert!(exchange(client, &question) == answer, "what the client received");
        });
    }

    for counts in lines.iter().flat_map(|line| [line.receive(), line.transmit()]) {
        let least = [counts.lost, counts.duplicated, counts.reordered, counts.delayed].into_iter().min();
        assert!(least > Some(10), "{counts:?}");
    }
    let handle = Handle::clone(&net);
    // Until the threads have stopped, frames are under way.
    drop(net);
    assert!(handle.counters().conserved(), "{:?}", handle.counters());
    drop((handle, hosts));
    assert_eq!(traces_of(&lab), NOTHING);
}
