//! A TAP device as a pod's port: your own machine becomes the pod.
//!
//! Needs root, for the TAP device: build with `cargo build --example tap`, then
//! `sudo target/debug/examples/tap`. It says what to type in another terminal. Ctrl-C ends it, and the device
//! is gone.

use std::{
    error::Error,
    process::ExitCode,
    time::{Duration, Instant as Clock},
};
use supernet::{
    Instant, Supernet,
    drivers::tap,
    host::{Host, HostConfig},
    manifests, port,
};

const MANIFESTS: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: example}
spec: {podCIDRs: [10.244.0.0/20], ingressPosture: allowNamespace}
---
apiVersion: v1
kind: Pod
metadata: {name: you, namespace: lab, annotations: {supernet.dev/ip: 10.244.0.2}}
spec: {containers: [{name: c, image: your-machine}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: lab, annotations: {supernet.dev/ip: 10.244.0.3}}
spec: {containers: [{name: c, image: smoltcp}]}
";

const DEVICE: &str = "supernet0";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    // The error says what to do: run as root, or load the driver.
    let device = tap::open(DEVICE)?;

    let model = manifests::read_str("tap.yaml", MANIFESTS)?.model;
    let net = Supernet::builder().sessions(1024).frames(1024).build(model)?;
    net.attach("lab/you", device)?;
    let guest = net.attach("lab/web", port::memory(64))?;
    let mac = |pod: &str| net.port_called(pod).map(|p| p.mac).ok_or("no such port");

    // The other pod is a host in memory that answers HTTP.
    let config = HostConfig {
        mac: mac("lab/web")?,
        addresses: vec!["10.244.0.3/28".parse()?],
        gateways: vec!["10.244.0.1".parse()?],
        mtu: 1500,
        seed: 1,
    };
    let mut web = Host::new(guest, &config);
    web.serve(80, |client, _| {
        let body = format!("hello, {client}\n");
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });

    // The spoof guard only lets the pod's own MAC and addresses in, so the device must have them.
    println!("The pod lab/you is the device {DEVICE}. In another terminal:\n");
    println!("  sudo ip link set {DEVICE} address {} up", mac("lab/you")?);
    println!("  sudo ip address add 10.244.0.2/28 dev {DEVICE}");
    println!("  ping -c 3 10.244.0.1              # the gateway");
    println!("  curl http://10.244.0.3/           # the other pod\n\nCtrl-C ends it.");

    let net = net.spawn()?;
    let (began, mut seen) = (Clock::now(), 0);
    loop {
        let idle = !web.poll(Instant::from_micros(began.elapsed().as_micros() as u64));
        let sessions = net.sessions();
        if sessions.len() != seen {
            seen = sessions.len();
            println!("{seen} sessions; the last: {:?}", sessions.last().map(|s| s.original));
        }
        if idle {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
