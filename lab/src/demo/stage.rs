//! The hosts of the demo and what they do to each other.

use std::{
    collections::BTreeMap,
    error::Error,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant as Clock},
};
use supernet::{
    Counters, DropReason, Instant, Mac, Running, Supernet,
    host::{Host, HostConfig, Socket},
    manifests,
    model::Change,
    port,
};

/// The host beyond the uplink.
pub(super) const OUTSIDE: &str = "outside";

const OUTSIDE_MAC: Mac = Mac([0x02, 0, 0, 0, 0xee, 1]);
const OUTSIDE_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10));
const OUTSIDE_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10));

/// Ports that pods and the outside serve.
const SERVED: [u16; 3] = [8080, 5432, 443];

/// The longest any step may take. A host asks for one neighbour a second, and both ends of a connection may have to: on a
/// busy machine that alone can take three.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running network and its hosts.
pub(super) struct Stage {
    pub(super) net: Running,
    hosts: BTreeMap<String, Host>,
    began: Clock,
}

/// What a server answered: who it is, and whom it saw.
pub(super) struct Saw {
    pub(super) server: String,
    pub(super) client: SocketAddr,
}

/// An open connection of a host.
pub(super) struct Connection {
    host: String,
    socket: Socket,
}

impl Stage {
    /// Builds the network of `manifest` and attaches a host to every pod and to the uplink.
    pub(super) fn set(manifest: &str, workers: usize) -> Result<Self, Box<dyn Error>> {
        let manifests = manifests::read_str("supervisor.yaml", manifest)?;
        let net = Supernet::builder().workers(workers).sessions(4096).frames(4096).build(manifests.model)?;
        let plan = net.plan()?;
        let mut hosts = BTreeMap::new();
        for pod in &plan.pods {
            let entry = net.port_called(&pod.name).ok_or("a pod without port")?;
            let segment = plan.segments.iter().find(|s| s.name == pod.segment);
            let gateways = segment.map(|s| s.gateways.clone()).unwrap_or_default();
            let guest = net.attach(&pod.name, port::memory(256))?;
            let prefix = |a: &IpAddr| ipnet::IpNet::new(*a, if a.is_ipv4() { 28 } else { 64 });
            let config = HostConfig {
                mac: entry.mac,
                addresses: pod.ips.iter().map(prefix).collect::<Result<_, _>>()?,
                gateways,
                mtu: usize::from(entry.mtu),
                seed: entry.mac.to_u64(),
            };
            hosts.insert(pod.name.clone(), Host::new(guest, &config));
        }
        let guest = net.attach_uplink("leaf-a", port::memory(256))?;
        let config = HostConfig {
            mac: OUTSIDE_MAC,
            addresses: vec![ipnet::IpNet::new(OUTSIDE_V4, 24)?, ipnet::IpNet::new(OUTSIDE_V6, 64)?],
            gateways: vec!["203.0.113.1".parse()?, "2001:db8:100::1".parse()?],
            mtu: 1500,
            seed: 1,
        };
        hosts.insert(OUTSIDE.to_owned(), Host::new(guest, &config));
        for (name, host) in &mut hosts {
            for port in SERVED {
                let name = name.clone();
                host.serve(port, move |client, asked| {
                    format!("{name} {client} {}", String::from_utf8_lossy(asked)).into_bytes()
                });
            }
        }
        Ok(Self { net: net.spawn()?, hosts, began: Clock::now() })
    }

    /// The policy objects of a manifest as a change.
    pub(super) fn change(&self, manifest: &str) -> Result<Change, Box<dyn Error>> {
        let objects = manifests::read_objects("policy.yaml", manifest, &self.net.model())?.objects;
        Ok(Change { upsert: objects, delete: Vec::new() })
    }

    /// A pod's address in a family, with a port.
    pub(super) fn address(&self, pod: &str, v6: bool, port: u16) -> SocketAddr {
        let plan = self.net.plan().ok();
        let pods = plan.iter().flat_map(|p| &p.pods);
        let ips = pods.filter(|p| p.name == pod).flat_map(|p| &p.ips).find(|a| a.is_ipv6() == v6);
        SocketAddr::new(ips.copied().unwrap_or(OUTSIDE_V4), port)
    }

    /// The address of the host beyond the uplink.
    pub(super) fn outside(&self, v6: bool, port: u16) -> SocketAddr {
        SocketAddr::new(if v6 { OUTSIDE_V6 } else { OUTSIDE_V4 }, port)
    }

    /// Connects, asks who is there, and closes.
    pub(super) fn ask(&mut self, host: &str, to: SocketAddr) -> Option<Saw> {
        let connection = self.open(host, to)?;
        let answer = self.exchange(&connection, "hello");
        if let Some(host) = self.hosts.get_mut(host) {
            host.close(connection.socket);
        }
        self.wait(|stage| stage.is_closed(&connection));
        answer
    }

    /// Opens a connection and leaves it open.
    pub(super) fn open(&mut self, host: &str, to: SocketAddr) -> Option<Connection> {
        let socket = self.hosts.get_mut(host)?.connect(to)?;
        let connection = Connection { host: host.to_owned(), socket };
        let open = self.wait(|stage| stage.is_open(&connection));
        open.then_some(connection)
    }

    /// Sends a word on an open connection and waits for the answer to it.
    pub(super) fn exchange(&mut self, connection: &Connection, word: &str) -> Option<Saw> {
        self.hosts.get_mut(&connection.host)?.send(connection.socket, word.as_bytes());
        let mut answer = String::new();
        self.wait(|stage| {
            let host = stage.hosts.get_mut(&connection.host);
            let data = host.map(|h| h.receive(connection.socket)).unwrap_or_default();
            answer += &String::from_utf8_lossy(&data);
            answer.ends_with(word)
        });
        let mut words = answer.split_whitespace().map(str::to_owned);
        Some(Saw { server: words.next()?, client: words.next()?.parse().ok()? })
    }

    /// Whether a connection attempt is dropped for `reason` and nothing comes of it.
    pub(super) fn denied(&mut self, host: &str, to: SocketAddr, reason: DropReason) -> bool {
        let before = self.drops(reason);
        let Some(socket) = self.hosts.get_mut(host).and_then(|h| h.connect(to)) else { return false };
        let connection = Connection { host: host.to_owned(), socket };
        let dropped = self.wait(|stage| stage.drops(reason) > before || stage.is_open(&connection));
        let open = self.is_open(&connection);
        if let Some(host) = self.hosts.get_mut(host) {
            host.remove(socket);
        }
        dropped && !open
    }

    /// Whether data on an open connection is dropped for `reason`.
    pub(super) fn cut(&mut self, connection: &Connection, word: &str, reason: DropReason) -> bool {
        let before = self.drops(reason);
        let Some(host) = self.hosts.get_mut(&connection.host) else { return false };
        host.send(connection.socket, word.as_bytes());
        self.wait(|stage| stage.drops(reason) > before) && self.is_open(connection)
    }

    /// The counters once no frame is on its way.
    pub(super) fn settled(&mut self) -> Counters {
        self.wait(|stage| {
            let before = stage.net.counters();
            std::thread::sleep(Duration::from_millis(20));
            before == stage.net.counters()
        });
        self.net.counters()
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.net.counters().drops.get(&reason).copied().unwrap_or(0)
    }

    fn is_open(&self, c: &Connection) -> bool {
        self.hosts.get(&c.host).is_some_and(|h| h.is_open(c.socket))
    }

    fn is_closed(&self, c: &Connection) -> bool {
        self.hosts.get(&c.host).is_none_or(|h| !h.is_open(c.socket))
    }

    /// Moves all hosts until `done`, or patience ends.
    fn wait(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let until = Clock::now() + PATIENCE;
        while Clock::now() < until {
            let now = Instant::from_micros(self.began.elapsed().as_micros() as u64);
            let mut moved = false;
            for host in self.hosts.values_mut() {
                moved |= host.poll(now);
            }
            if done(self) {
                return true;
            }
            if !moved {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        false
    }
}
