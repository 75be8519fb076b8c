//! A pod whose frames are your own code: a type of your own is its port.
//!
//! The network hands frames for the pod to [`Transmit`], and takes the frames that the pod sends from
//! [`Receive`]. Between the two there may be anything: a virtual machine's queue, a simulator, a tunnel. Here
//! it is ten lines that send every datagram back, no TCP/IP stack at all.
//!
//! Run it with `cargo run --example own_port`.

use std::{
    collections::VecDeque,
    error::Error,
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant as Clock},
};
use supernet::{
    Instant, Supernet,
    buf::{Frame, Pool},
    host::{Host, HostConfig},
    manifests,
    port::{self, Opened, Port, Receive, Transmit, Waker},
};

const MANIFESTS: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: example}
spec: {podCIDRs: [10.244.0.0/20], ingressPosture: allowNamespace}
---
apiVersion: v1
kind: Pod
metadata: {name: echo, namespace: lab, annotations: {supernet.dev/ip: 10.244.0.2}}
spec: {containers: [{name: c, image: own-code}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: lab, annotations: {supernet.dev/ip: 10.244.0.3}}
spec: {containers: [{name: c, image: smoltcp}]}
";

/// A port behind which every UDP datagram is sent back.
struct EchoPort;

/// Frames on their way from our code into the network, and whom to wake when there are some.
#[derive(Default)]
struct Outbox {
    frames: Mutex<VecDeque<Frame>>,
    waker: OnceLock<Waker>,
}

/// The half that the network receives from.
struct FromUs(Arc<Outbox>);

/// A half that the network sends to; every worker has one.
struct ToUs(Arc<Outbox>);

impl Port for EchoPort {
    /// What `attach` returns. A port that a guest talks through would give it its end here.
    type Peer = ();

    fn open(self, senders: usize, _pool: &Pool) -> io::Result<Opened<()>> {
        let outbox = Arc::new(Outbox::default());
        let sender = |_| Box::new(ToUs(outbox.clone())) as Box<dyn Transmit>;
        Ok(Opened {
            senders: (0..senders).map(sender).collect(),
            receivers: vec![Box::new(FromUs(outbox))],
            peer: (),
        })
    }
}

impl Transmit for ToUs {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        // Frames that are taken belong to us. One that is dropped gives its buffer back to the pool.
        let answers = frames.drain(..).filter_map(|mut frame| echo(frame.bytes_mut()).then_some(frame));
        self.0.frames.lock().unwrap_or_else(PoisonError::into_inner).extend(answers);
        if let Some(waker) = self.0.waker.get() {
            waker.wake();
        }
        Ok(())
    }
}

impl Receive for FromUs {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, _pool: &Pool) -> io::Result<usize> {
        let mut waiting = self.0.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(max);
        into.extend(waiting.drain(..count));
        Ok(count)
    }

    fn set_waker(&mut self, waker: Waker) {
        // The worker that polls this half sleeps while nothing happens; a port with a descriptor offers
        // `as_fd` instead.
        let _ = self.0.waker.set(waker);
    }
}

/// Turns a UDP datagram over IPv4 around. No checksum changes: sums don't know an order.
fn echo(frame: &mut [u8]) -> bool {
    // EtherType IPv4, a header without options, protocol UDP.
    let is_udp = frame.len() >= 42 && frame[12..15] == [0x08, 0x00, 0x45] && frame[23] == 17;
    if is_udp {
        for (at, len) in [(0, 6), (26, 4), (34, 2)] {
            let (a, b) = frame[at..at + 2 * len].split_at_mut(len);
            a.swap_with_slice(b);
        }
    }
    is_udp
}

fn main() -> Result<(), Box<dyn Error>> {
    let model = manifests::read_str("own_port.yaml", MANIFESTS)?.model;
    let net = Supernet::builder().workers(2).sessions(1024).frames(256).build(model)?;

    // Our own code is one pod, a host with a real stack is the other.
    net.attach("lab/echo", EchoPort)?;
    let guest = net.attach("lab/client", port::memory(64))?;
    let config = HostConfig {
        mac: net.port_called("lab/client").ok_or("no such port")?.mac,
        addresses: vec!["10.244.0.3/28".parse()?],
        gateways: vec!["10.244.0.1".parse()?],
        mtu: 1500,
        seed: 1,
    };
    let mut client = Host::new(guest, &config);

    let net = net.spawn()?;
    let socket = client.bind(0);
    client.send_to(socket, b"is anybody there?", "10.244.0.2:7".parse()?);
    let began = Clock::now();
    while began.elapsed() < Duration::from_secs(5) {
        client.poll(Instant::from_micros(began.elapsed().as_micros() as u64));
        if let Some((data, from)) = client.receive_from(socket) {
            println!("{from} answers: {}", String::from_utf8_lossy(&data));
            for session in net.sessions() {
                println!("session: {}, {}, packets {:?}", session.original, session.state, session.packets);
            }
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Err(format!("no answer; drops: {:?}", net.counters().drops).into())
}
