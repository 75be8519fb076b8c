//! A host with a real TCP/IP stack (smoltcp) on the guest's end of a memory port.
//!
//! Good for demos, simulators and tests: it resolves its gateway, opens and serves real TCP connections, sends
//! and answers UDP and echo. Nothing here runs by itself; [`Host::poll`] moves it to a point in time.

use crate::dataplane::{port::memory::MemoryGuest, time::Instant, wire::Mac};
use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    phy::{self, DeviceCapabilities, Medium},
    socket::{tcp, udp},
    wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint},
};
use std::net::{IpAddr, SocketAddr};

/// Bytes a socket buffers in each direction.
const BUFFER: usize = 16 * 1024;

/// Local ports of connections begin here (RFC 6335).
const EPHEMERAL: u16 = 49_152;

/// How a host's interface is set up.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses with the length of the prefix that is on its link.
    pub addresses: Vec<ipnet::IpNet>,
    /// Default routers.
    pub gateways: Vec<IpAddr>,
    /// Largest IP packet.
    pub mtu: usize,
    /// Seed of sequence numbers.
    pub seed: u64,
}

/// A host on a memory port.
pub struct Host {
    interface: Interface,
    device: Device,
    sockets: SocketSet<'static>,
    services: Vec<Service>,
    next_port: u16,
    now: smoltcp::time::Instant,
}

/// A TCP connection or UDP socket of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket(SocketHandle);

/// What a served client sees: its own address as the server saw it goes in, the answer comes out.
type Reply = Box<dyn FnMut(SocketAddr, &[u8]) -> Vec<u8> + Send>;

struct Service {
    port: u16,
    tcp: Option<SocketHandle>,
    udp: Option<SocketHandle>,
    /// Connections being served.
    open: Vec<SocketHandle>,
    reply: Reply,
}

impl Host {
    /// A host at `guest`, the end that attaching a memory port gave.
    pub fn new(guest: MemoryGuest, config: &HostConfig) -> Self {
        let mut device = Device { guest, mtu: config.mtu };
        let now = smoltcp::time::Instant::ZERO;
        let mut settings = Config::new(HardwareAddress::Ethernet(EthernetAddress(config.mac.0)));
        settings.random_seed = config.seed;
        let mut interface = Interface::new(settings, &mut device, now);
        interface.update_ip_addrs(|addresses| {
            for net in &config.addresses {
                // The stack's table has a fixed size; more addresses than that are of no use here.
                let _ = addresses.push(IpCidr::new(net.addr().into(), net.prefix_len()));
            }
        });
        for gateway in &config.gateways {
            let routes = interface.routes_mut();
            let _ = match gateway {
                IpAddr::V4(g) => routes.add_default_ipv4_route(*g),
                IpAddr::V6(g) => routes.add_default_ipv6_route(*g),
            };
        }
        let sockets = SocketSet::new(Vec::new());
        Self { interface, device, sockets, services: Vec::new(), next_port: EPHEMERAL, now }
    }

    /// Takes what arrived, sends what is due, serves who waits. Returns whether anything happened.
    pub fn poll(&mut self, now: Instant) -> bool {
        self.now = smoltcp::time::Instant::from_micros(i64::try_from(now.micros()).unwrap_or(i64::MAX));
        let changed = self.interface.poll(self.now, &mut self.device, &mut self.sockets)
            == PollResult::SocketStateChanged;
        let mut services = std::mem::take(&mut self.services);
        for service in &mut services {
            self.serve_tcp(service);
            self.serve_udp(service);
        }
        self.services = services;
        if changed {
            self.interface.poll(self.now, &mut self.device, &mut self.sockets);
        }
        changed
    }

    /// When it wants to be polled again, if nothing arrives before. `None`: when something does.
    pub fn poll_at(&mut self) -> Option<Instant> {
        let at = self.interface.poll_at(self.now, &self.sockets)?.max(self.now);
        Some(Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or_default()))
    }

    /// Serves a TCP port: once a client has sent something, `reply` answers it and the connection stays open.
    pub fn serve(&mut self, port: u16, reply: impl FnMut(SocketAddr, &[u8]) -> Vec<u8> + Send + 'static) {
        let listener = self.listener(port);
        self.services.push(Service {
            port,
            tcp: Some(listener),
            udp: None,
            open: Vec::new(),
            reply: Box::new(reply),
        });
    }

    /// Serves a UDP port: every datagram is answered by `reply`.
    pub fn serve_datagrams(
        &mut self,
        port: u16,
        reply: impl FnMut(SocketAddr, &[u8]) -> Vec<u8> + Send + 'static,
    ) {
        let socket = self.bind(port);
        self.services.push(Service {
            port,
            tcp: None,
            udp: Some(socket.0),
            open: Vec::new(),
            reply: Box::new(reply),
        });
    }

    /// Begins a TCP connection; [`Host::is_open`] says when it is established. `None` when `to` is no address
    /// that can be connected to.
    pub fn connect(&mut self, to: SocketAddr) -> Option<Socket> {
        let mut socket = tcp_socket();
        let local = self.ephemeral();
        socket.connect(self.interface.context(), endpoint(to), local).ok()?;
        Some(Socket(self.sockets.add(socket)))
    }

    /// Waits for one TCP connection to a port other than 0, for the caller to read and write; [`Host::is_open`]
    /// says when it is established.
    pub fn listen(&mut self, port: u16) -> Socket {
        Socket(self.listener(port))
    }

    /// Opens a UDP socket on a port; 0 chooses one.
    pub fn bind(&mut self, port: u16) -> Socket {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; BUFFER]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        let port = if port == 0 { self.ephemeral() } else { port };
        // Fails only for port 0.
        let _ = socket.bind(port);
        Socket(self.sockets.add(socket))
    }

    /// Sends a datagram; `false` when it could not be queued.
    pub fn send_to(&mut self, socket: Socket, data: &[u8], to: SocketAddr) -> bool {
        self.sockets.get_mut::<udp::Socket<'_>>(socket.0).send_slice(data, endpoint(to)).is_ok()
    }

    /// The next datagram, and who sent it.
    pub fn receive_from(&mut self, socket: Socket) -> Option<(Vec<u8>, SocketAddr)> {
        let (data, meta) = self.sockets.get_mut::<udp::Socket<'_>>(socket.0).recv().ok()?;
        Some((data.to_vec(), address(meta.endpoint)))
    }

    /// Queues data on a TCP connection; how many bytes found room.
    pub fn send(&mut self, socket: Socket, data: &[u8]) -> usize {
        self.sockets.get_mut::<tcp::Socket<'_>>(socket.0).send_slice(data).unwrap_or(0)
    }

    /// Takes what a TCP connection has received.
    pub fn receive(&mut self, socket: Socket) -> Vec<u8> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(socket.0);
        let mut data = vec![0; socket.recv_queue()];
        let len = socket.recv_slice(&mut data).unwrap_or(0);
        data.truncate(len);
        data
    }

    /// Whether a TCP connection is established.
    pub fn is_open(&self, socket: Socket) -> bool {
        self.sockets.get::<tcp::Socket<'_>>(socket.0).may_send()
    }

    /// Whether a TCP connection is over: refused, reset, or closed by both sides.
    pub fn is_closed(&self, socket: Socket) -> bool {
        !self.sockets.get::<tcp::Socket<'_>>(socket.0).is_open()
    }

    /// Closes this side of a TCP connection.
    pub fn close(&mut self, socket: Socket) {
        self.sockets.get_mut::<tcp::Socket<'_>>(socket.0).close();
    }

    /// Forgets a socket; a TCP connection that is still open is reset.
    pub fn remove(&mut self, socket: Socket) {
        self.sockets.remove(socket.0);
    }

    fn ephemeral(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = if port == u16::MAX { EPHEMERAL } else { port + 1 };
        port
    }

    fn listener(&mut self, port: u16) -> SocketHandle {
        let mut socket = tcp_socket();
        // Fails only for port 0.
        let _ = socket.listen(port);
        self.sockets.add(socket)
    }

    fn serve_tcp(&mut self, service: &mut Service) {
        let Some(listener) = service.tcp else { return };
        if self.sockets.get::<tcp::Socket<'_>>(listener).is_active() {
            service.open.push(listener);
            service.tcp = Some(self.listener_behind(listener, service.port));
        }
        let before = service.open.len();
        service.open.retain(|handle| {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if let (Some(client), true) = (socket.remote_endpoint(), socket.can_recv()) {
                let mut data = vec![0; socket.recv_queue()];
                let len = socket.recv_slice(&mut data).unwrap_or(0);
                let answer = (service.reply)(address(client), &data[..len]);
                let _ = socket.send_slice(&answer);
            }
            if !socket.may_recv() && socket.may_send() {
                socket.close();
            }
            if socket.is_open() {
                return true;
            }
            self.sockets.remove(*handle);
            false
        });
        // Nobody is left to stand behind: back to the front, so that the set does not grow with every connection.
        if let (true, true, Some(listener)) = (before > 0, service.open.is_empty(), service.tcp) {
            self.sockets.remove(listener);
            service.tcp = Some(self.listener(service.port));
        }
    }

    /// A listener that stands behind a connection in the set, which is gone through from its front: a SYN that comes twice
    /// is to meet the connection that it has opened, and not to open another one beside it.
    fn listener_behind(&mut self, connection: SocketHandle, port: u16) -> SocketHandle {
        let mut before = Vec::new();
        let behind = loop {
            let handle = self.listener(port);
            if handle > connection {
                break handle;
            }
            before.push(handle);
        };
        for handle in before {
            self.sockets.remove(handle);
        }
        behind
    }

    fn serve_udp(&mut self, service: &mut Service) {
        let Some(handle) = service.udp else { return };
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
        while let Ok((data, meta)) = socket.recv() {
            let answer = (service.reply)(address(meta.endpoint), data);
            let _ = socket.send_slice(&answer, meta.endpoint);
        }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({:?})", self.interface.ip_addrs())
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    tcp::Socket::new(buffer(), buffer())
}

fn endpoint(a: SocketAddr) -> IpEndpoint {
    IpEndpoint { addr: IpAddress::from(a.ip()), port: a.port() }
}

fn address(e: IpEndpoint) -> SocketAddr {
    SocketAddr::new(e.addr.into(), e.port)
}

/// The memory port as smoltcp's device.
struct Device {
    guest: MemoryGuest,
    mtu: usize,
}

impl phy::Device for Device {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(RxToken, TxToken<'_>)> {
        let frame = self.guest.recv()?;
        Some((RxToken(frame), TxToken(&self.guest)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&self.guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        // smoltcp counts the Ethernet header.
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

struct RxToken(bytes::Bytes);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct TxToken<'a>(&'a MemoryGuest);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        // A full queue loses the frame, as a wire would; the stack sends it again.
        let _ = self.0.send(&frame);
        result
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{
        Mac,
        buf::Pool,
        port::{Opened, Port, memory},
    };
    use etherparse::{PacketBuilder, TcpHeaderSlice};

    const CLIENT: [u8; 4] = [10, 0, 0, 1];
    const HOST: [u8; 4] = [10, 0, 0, 2];

    /// A host, and a client that makes its segments by hand.
    struct Rig {
        host: Host,
        opened: Opened<()>,
        pool: Pool,
        now: u64,
    }

    impl Rig {
        fn new() -> Self {
            let pool = Pool::new(64);
            let Opened { receivers, senders, peer } = memory(32).open(1, &pool).unwrap();
            let addresses = vec!["10.0.0.2/24".parse().unwrap()];
            let mac = Mac([2, 0, 0, 0, 0, 2]);
            let mut host =
                Host::new(peer, &HostConfig { mac, addresses, gateways: Vec::new(), mtu: 1500, seed: 1 });
            host.serve(80, |_, data| data.to_vec());
            let mut rig =
                Self { host, opened: Opened { receivers, senders, peer: () }, pool, now: 1_000_000 };
            // Whom it hears by ARP it can answer.
            let head = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
            let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &head, &CLIENT, &[0; 6], &HOST].concat();
            rig.exchange(&arp);
            rig
        }

        /// What the host answers to a frame.
        fn exchange(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
            self.opened.senders[0].transmit(&mut vec![self.pool.copy(frame).unwrap()]).unwrap();
            self.now += 1000;
            while self.host.poll(Instant::from_micros(self.now)) {}
            let mut frames = Vec::new();
            self.opened.receivers[0].receive(&mut frames, 16, &self.pool).unwrap();
            frames.iter().map(|frame| frame.bytes().to_vec()).collect()
        }

        /// Sends a segment from a port; the flags, number and acknowledgement of each answer.
        fn segment(&mut self, port: u16, seq: u32, ack: Option<u32>, flag: &str) -> Vec<(String, u32, u32)> {
            let tcp = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
                .ipv4(CLIENT, HOST, 64)
                .tcp(port, 80, seq, 4096);
            let tcp = if let Some(ack) = ack { tcp.ack(ack) } else { tcp };
            let tcp = match flag {
                "syn" => tcp.syn(),
                "rst" => tcp.rst(),
                _ => tcp,
            };
            let mut frame = Vec::new();
            tcp.write(&mut frame, &[]).unwrap();
            let answers = self.exchange(&frame);
            let read = |frame: &Vec<u8>| {
                let tcp = TcpHeaderSlice::from_slice(&frame[34..]).unwrap();
                let flags = [(tcp.syn(), "syn"), (tcp.ack(), "ack"), (tcp.rst(), "rst")];
                let flags: Vec<&str> =
                    flags.into_iter().filter_map(|(on, name)| on.then_some(name)).collect();
                (flags.join(" "), tcp.sequence_number(), tcp.acknowledgment_number())
            };
            answers.iter().map(read).collect()
        }

        /// Opens a connection; the host's first number.
        fn open(&mut self, port: u16) -> u32 {
            let answers = self.segment(port, 100, None, "syn");
            assert_eq!((answers.len(), answers[0].0.as_str(), answers[0].2), (1, "syn ack", 101));
            assert!(self.segment(port, 101, Some(answers[0].1.wrapping_add(1)), "").is_empty());
            answers[0].1
        }
    }

    /// A SYN that was sent twice, the second of which comes when the first has long been answered.
    #[test]
    fn a_late_second_syn_opens_nothing() {
        let mut rig = Rig::new();
        let first = rig.open(4000);
        rig.open(4001);
        // The front of the set is free again.
        assert!(rig.segment(4000, 101, Some(first.wrapping_add(1)), "rst").is_empty());
        let numbers = rig.open(4002);
        for port in [4002, 4001] {
            let answers = rig.segment(port, 100, None, "syn");
            assert!(answers.iter().all(|(flags, ..)| flags == "ack"), "port {port}: {answers:?}");
        }
        // The connection is as it was.
        assert!(rig.segment(4002, 101, Some(numbers.wrapping_add(1)), "").iter().all(|(f, ..)| f != "rst"));
    }

    #[test]
    fn one_connection_after_the_other_takes_the_same_room() {
        let mut rig = Rig::new();
        let mut last = None;
        for port in 5000..5050 {
            let number = rig.open(port);
            rig.segment(port, 101, Some(number.wrapping_add(1)), "rst");
            let handles: Vec<SocketHandle> = rig.host.sockets.iter().map(|(handle, _)| handle).collect();
            assert_eq!(*last.get_or_insert(handles.clone()), handles);
        }
    }
}
