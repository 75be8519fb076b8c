//! Super-packets between kernels: what one leaves undone another takes undone, and where it does not, it is done.

use super::{NOTHING, as_root, inside, lab_name, traces_of, up};
use crate::lab::spec::{EndpointSpec, LabSpec, OUTSIDE, Place};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};
use supernet::{Handle, Supernet, manifests};
use supernet_testkit::packet::bytes;

const BYTES: usize = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
const WEB: &str = "shop/web";
const CURL: &str = "office/curl";

const SHOP: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec: {podCIDRs: [10.244.0.0/20, 'fd00:244::/48'], ingressPosture: allow}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: office}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

/// Has `client` send to `server`, which listens on `port`, by the name `to`.
fn transfer(lab: &str, client: &str, server: &str, port: u16, to: SocketAddr) {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { "::".parse().unwrap() };
    let listener = inside(lab, server, || TcpListener::bind((any, port)).unwrap());
    let mut asking = inside(lab, client, || TcpStream::connect_timeout(&to, PATIENCE).unwrap());
    let sent = bytes(7, BYTES);
    thread::scope(|s| {
        s.spawn(|| {
            asking.write_all(&sent).unwrap();
            asking.shutdown(Shutdown::Write).unwrap();
        });
        let (mut served, _) = listener.accept().unwrap();
        served.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = Vec::new();
        served.read_to_end(&mut received).unwrap();
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    });
}

/// Frames that one transfer takes on the way of its data, whose ends take work undone or do not.
fn frames(super_frames: usize, plain: &[&str], name: &str) -> Option<Vec<u64>> {
    if !as_root() {
        return None;
    }
    let model = manifests::read_str("shop.yaml", SHOP).unwrap().model;
    let net = Supernet::builder().workers(1).sessions(256).frames(4096).super_frames(super_frames);
    let net = net.build(model).unwrap();
    let spec = LabSpec::of(&net.model(), &net.snapshot(), &net.plan().unwrap().pods);
    let lab = lab_name(name);
    let mut hosts = up(&lab, &spec);
    for (place, tap) in hosts.take_taps() {
        match place {
            Place::Endpoint(name) if plain.contains(&&*name) => {
                net.attach(&name, tap.without_offloads()).unwrap()
            }
            Place::Endpoint(name) => net.attach(&name, tap).unwrap(),
            Place::Uplink(name) => net.attach_uplink(&name, tap).unwrap(),
        }
    }
    let net = net.spawn().unwrap();
    let address = |name: &str| -> Vec<IpAddr> {
        let of = |e: &EndpointSpec| e.addresses.iter().map(|a| a.addr()).collect();
        spec.endpoints.iter().find(|e| e.name == name).map(of).unwrap()
    };
    let world = spec.outside.addresses.iter().find(|a| a.is_ipv4()).copied().unwrap();
    let mut ways: Vec<(&str, &str, u16, SocketAddr)> =
        address(WEB).into_iter().map(|a| (CURL, WEB, 8080, SocketAddr::new(a, 8080))).collect();
    ways.push((CURL, WEB, 8080, "10.96.0.7:80".parse().unwrap()));
    ways.push((CURL, OUTSIDE, 9999, SocketAddr::new(world, 9999)));
    let mut counts = Vec::new();
    for (client, server, port, to) in ways {
        let before = net.counters().received;
        transfer(&lab, client, server, port, to);
        counts.push(net.counters().received - before);
    }
    let handle = Handle::clone(&net);
    drop(net);
    let counters = handle.counters();
    assert!(counters.conserved(), "{counters:?}");
    drop((handle, hosts));
    assert_eq!(traces_of(&lab), NOTHING);
    Some(counts)
}

/// A segment of data, without acknowledgements.
const SEGMENTS: u64 = (BYTES / 1460) as u64;

#[test]
fn what_both_take_undone_is_never_done() {
    for frames in frames(64, &[], "both").unwrap_or_default() {
        assert!(frames < SEGMENTS / 3, "{frames} frames for {SEGMENTS} segments");
    }
}

#[test]
fn what_a_receiver_wants_done_is_done() {
    for frames in frames(64, &[WEB, OUTSIDE], "one").unwrap_or_default() {
        assert!(frames < SEGMENTS * 2, "{frames} frames for {SEGMENTS} segments and their acknowledgements");
    }
}

#[test]
fn without_large_buffers_only_checksums_are_left() {
    for frames in frames(0, &[], "none").unwrap_or_default() {
        assert!(frames > SEGMENTS, "{frames} frames for {SEGMENTS} segments");
    }
}

/// Datagrams that a program has its kernel segment (`UDP_SEGMENT`) come as datagrams, each whole.
#[test]
fn datagrams_in_one_packet_arrive_one_by_one() {
    if !as_root() {
        return;
    }
    let model = manifests::read_str("shop.yaml", SHOP).unwrap().model;
    let net =
        Supernet::builder().workers(1).sessions(256).frames(4096).super_frames(64).build(model).unwrap();
    let spec = LabSpec::of(&net.model(), &net.snapshot(), &net.plan().unwrap().pods);
    let lab = lab_name("uso");
    let mut hosts = up(&lab, &spec);
    for (place, tap) in hosts.take_taps() {
        if let Place::Endpoint(name) = place {
            net.attach(&name, tap).unwrap();
        }
    }
    let net = net.spawn().unwrap();
    let web = spec.endpoints.iter().find(|e| e.name == WEB).unwrap().addresses[0].addr();
    let receiver = inside(&lab, WEB, || std::net::UdpSocket::bind((web, 7777)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let program = format!(
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.setsockopt(17, 103, 1000)\ns.sendto(bytes(n // 1000 for n in range(59500)), ('{web}', 7777))\n"
    );
    let before = net.counters().received;
    let start = || Command::new("python3").arg("-c").arg(&program).stderr(Stdio::piped()).output();
    let ran = inside(&lab, CURL, start).unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let mut buffer = [0; 65_536];
    for n in 0..60 {
        let len = receiver.recv(&mut buffer).unwrap();
        let expected = if n == 59 { 500 } else { 1000 };
        assert_eq!((len, buffer[0], buffer[len - 1]), (expected, n, n));
    }
    let frames = net.counters().received - before;
    assert!(frames < 40, "{frames} frames for one packet, and what hosts ask of their neighbours");
    drop(net);
    drop(hosts);
    assert_eq!(traces_of(&lab), NOTHING);
}
