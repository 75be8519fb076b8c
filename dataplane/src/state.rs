//! Everything that changes while packets run, shared by all workers.
//!
//! Snapshots say what should happen; this is what has happened: sessions and their entries, ports claimed of
//! egress addresses, MACs learned of next hops. Only the slow path writes here, but for the counters in the
//! entries, and the generation that a hit finds an entry to agree with.

use crate::{
    counters::Tallies,
    flow::{
        Epochs, FlowTable, FragmentLimits, Fragments, HalfOpen, HalfOpenLimits, Quotas, Sessions, Timeouts,
        Windows,
    },
    id::{NeighborId, PortId},
    snapshot::Neighbor,
    staged::Staged,
    table::{
        ports::{self, PortPool},
        registry::{Registry, RegistryKey},
    },
    time::{Duration, Instant},
    vector::{Engine, Isa},
    wire::{AnyAddress, Mac, Proto},
};
use std::{
    net::IpAddr,
    ops::RangeInclusive,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

/// How a dataplane is made.
#[derive(Debug, Clone)]
pub struct Config {
    /// Threads that will call [`crate::worker::Worker::poll`].
    pub workers: usize,
    /// Connections of both families together.
    pub sessions: usize,
    /// Frame buffers of 2 KiB.
    pub frames: usize,
    /// Frame buffers of 9 KiB, for ports whose MTU needs them.
    pub jumbo_frames: usize,
    /// Frame buffers of 64 KiB, for ports whose other side leaves segmentation to this one. If there are any, jumbo
    /// frames are of this size too.
    pub super_frames: usize,
    /// How long idle connections are remembered.
    pub timeouts: Timeouts,
    /// Seed of every hash; two dataplanes with one seed decide alike.
    pub seed: u64,
    /// Whether verdict and rewrite of a session are kept between packets. Off, they are computed again for
    /// every packet, with the binding kept: slow, and the oracle of the fast path.
    pub cache: bool,
    /// Which instructions read and hash headers; `None`, or what this processor has not: the best it has.
    pub isa: Option<Isa>,
    /// Source ports that connections are translated to, of each egress address and protocol. Whoever uses others
    /// of an egress address for something else leaves them out here.
    pub nat_ports: RangeInclusive<u16>,
    /// ICMP errors, and resets that refuse a connection, that a worker may send a second; to one port a quarter of
    /// them.
    pub errors_per_second: u32,
    /// Packets that come in fragments.
    pub fragments: FragmentLimits,
    /// TCP connections whose handshake is not complete.
    pub half_open: HalfOpenLimits,
    /// TCP segments that cannot be of their connection, by their numbers, are dropped. Every TCP packet takes the slow
    /// path then.
    pub strict_tcp: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 1,
            sessions: 1 << 20,
            frames: 8192,
            jumbo_frames: 0,
            super_frames: 0,
            timeouts: Timeouts::default(),
            seed: 0,
            cache: true,
            isa: None,
            nat_ports: ports::ALL,
            errors_per_second: 1000,
            fragments: FragmentLimits::default(),
            half_open: HalfOpenLimits::default(),
            strict_tcp: false,
        }
    }
}

/// The shared state.
pub struct State {
    /// How it was made.
    pub config: Config,
    /// Entries of IPv4 connections.
    pub v4: FlowTable<u32>,
    /// Entries of IPv6 connections.
    pub v6: FlowTable<u128>,
    /// Cold records.
    pub sessions: Sessions,
    /// How far the workers are.
    pub epochs: Arc<Epochs>,
    /// Ports of egress addresses.
    pub nat: NatPools,
    /// Fragments on their way.
    pub fragments: Fragments,
    /// How many TCP connections are half open.
    pub half_open: HalfOpen,
    /// What pods and namespaces have of connections.
    pub quotas: Quotas,
    /// TCP windows, if they are checked.
    pub windows: Option<Windows>,
    /// Next hops.
    pub neighbors: Neighbors,
    /// What hits are counted under.
    pub tallies: Tallies,
    /// What firewalls that are not enforced would have done.
    pub staged: Staged,
    /// What reads and hashes headers.
    pub engine: Engine,
    /// Where the next pipeline looks for places for its sessions first: one each, so that they rarely meet.
    pub hints: AtomicU32,
    /// How far the sweep is.
    pub sweep: Cursor,
}

/// A place in the buckets of both tables that all workers move on together.
#[derive(Debug, Default)]
pub struct Cursor(AtomicUsize);

impl Cursor {
    /// The next `count` places of `end`, round and round.
    pub fn next(&self, count: usize, end: usize) -> impl Iterator<Item = usize> + use<> {
        let start = if end == 0 { 0 } else { self.0.fetch_add(count, Ordering::Relaxed) % end };
        (0..count.min(end)).map(move |n| (start + n) % end)
    }
}

impl State {
    /// Makes the tables.
    pub fn new(config: Config) -> Self {
        let epochs = Arc::new(Epochs::new(config.workers));
        let chosen = config.isa.and_then(|isa| Engine::new(isa, config.seed));
        let engine = chosen.unwrap_or_else(|| Engine::detect(config.seed));
        Self {
            v4: FlowTable::new(config.sessions, engine, epochs.clone()),
            v6: FlowTable::new(config.sessions, engine, epochs.clone()),
            engine,
            sessions: Sessions::new(config.sessions),
            epochs,
            nat: NatPools::new(config.nat_ports.clone()),
            // What waits must leave buffers to others.
            fragments: Fragments::new(FragmentLimits {
                held: config.fragments.held.min(config.frames / 4),
                ..config.fragments.clone()
            }),
            half_open: HalfOpen::default(),
            quotas: Quotas::default(),
            windows: config.strict_tcp.then(|| Windows::new(config.sessions)),
            neighbors: Neighbors::new(),
            tallies: Tallies::default(),
            staged: Staged::default(),
            hints: AtomicU32::default(),
            sweep: Cursor::default(),
            config,
        }
    }
}

/// An address and a number, as one key. Mapped IPv4 addresses are on no wire, so families do not meet.
#[inline]
fn key(address: IpAddr, number: u32) -> RegistryKey {
    let bits = match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => a.to_bits(),
    };
    (bits, number)
}

/// The ports of every egress address in use.
#[derive(Debug)]
pub struct NatPools {
    pools: Registry<Box<NatPool>>,
    ports: RangeInclusive<u16>,
}

#[derive(Debug)]
struct NatPool {
    address: IpAddr,
    proto: Proto,
    ports: PortPool,
}

impl NatPools {
    fn new(ports: RangeInclusive<u16>) -> Self {
        Self { pools: Registry::default(), ports }
    }

    /// The ports of an address for a protocol.
    #[inline]
    pub fn pool(&self, address: impl AnyAddress, proto: Proto) -> &PortPool {
        let address = address.ip();
        let make = || Box::new(NatPool { address, proto, ports: PortPool::new(self.ports.clone()) });
        &self.pools.get_or_make(key(address, proto.0.into()), make).ports
    }

    /// Addresses of which a session holds a port; they must not be given to anyone else.
    pub fn busy(&self) -> Vec<IpAddr> {
        let pools = self.pools.all().into_iter().map(|(_, pool)| pool);
        let mut busy: Vec<IpAddr> = pools.filter(|p| p.ports.used() > 0).map(|p| p.address).collect();
        busy.sort_unstable();
        busy.dedup();
        busy
    }

    /// Ports in use of an address, by protocol.
    pub fn used(&self, address: IpAddr) -> Vec<(Proto, u32)> {
        let pools = self.pools.all().into_iter().map(|(_, pool)| pool);
        pools.filter(|p| p.address == address).map(|p| (p.proto, p.ports.used())).collect()
    }
}

/// How many of them only routes can take. Addresses in connected prefixes are taken by packets, and a workload
/// that scans such a prefix must not use up what a new route will need.
const FOR_ROUTES: usize = 512;

/// How long a learned MAC is trusted before the next hop is asked again.
const REFRESH: Duration = Duration::from_secs(30);

/// How long to wait for an answer before asking again.
const RETRY: Duration = Duration::from_secs(1);

/// Next hops beyond uplinks and the MACs they have.
pub struct Neighbors {
    ids: Registry<NeighborId>,
    slots: Box<[NeighborSlot]>,
    next: AtomicUsize,
    /// Grows whenever a next hop or its MAC is new.
    version: AtomicU64,
}

struct NeighborSlot {
    neighbor: OnceLock<(PortId, IpAddr)>,
    /// Zero while unknown.
    mac: AtomicU64,
    /// Configured: never asked, never learned.
    fixed: AtomicBool,
    /// A route leads by it, so it is asked for before packets come.
    routed: AtomicBool,
    /// A packet found it unknown since it was asked for.
    wanted: AtomicBool,
    /// When to ask (again), microseconds.
    ask_at: AtomicU64,
}

impl Neighbors {
    /// Next hops that can be known at one time.
    pub const MAX: usize = 4096;

    fn new() -> Self {
        let slot = || NeighborSlot {
            neighbor: OnceLock::new(),
            mac: AtomicU64::new(0),
            fixed: AtomicBool::new(false),
            routed: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            ask_at: AtomicU64::new(0),
        };
        Self {
            ids: Registry::default(),
            slots: (0..Self::MAX).map(|_| slot()).collect(),
            next: AtomicUsize::new(0),
            version: AtomicU64::new(0),
        }
    }

    /// The number of a route's next hop; `None` when there are too many.
    pub fn intern_routed(&self, n: &Neighbor) -> Option<NeighborId> {
        let id = self.number(n, Self::MAX)?;
        self.slots[id.index()].routed.store(true, Ordering::Relaxed);
        Some(id)
    }

    /// The number of the next hop of a packet; `None` when there are too many.
    pub fn intern(&self, n: &Neighbor) -> Option<NeighborId> {
        self.number(n, Self::MAX - FOR_ROUTES)
    }

    fn number(&self, n: &Neighbor, max: usize) -> Option<NeighborId> {
        let make = || {
            let at = self
                .next
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1))
                .ok()?;
            let _ = self.slots[at].neighbor.set((n.port, n.address));
            Some(NeighborId(at as u32))
        };
        let id = *self.ids.get_or_try(key(n.address, n.port.0), make)?;
        let slot = &self.slots[id.index()];
        // Mostly it is known already, and a line that nobody writes stays with all workers.
        if let Some(mac) = n.mac.filter(|mac| mac.to_u64() != slot.mac.load(Ordering::Relaxed)) {
            self.set_mac(slot, mac);
        }
        if slot.fixed.load(Ordering::Relaxed) != n.mac.is_some() {
            slot.fixed.store(n.mac.is_some(), Ordering::Relaxed);
        }
        Some(id)
    }

    fn set_mac(&self, slot: &NeighborSlot, mac: Mac) {
        if slot.mac.swap(mac.to_u64(), Ordering::Relaxed) != mac.to_u64() {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// A number that grows when the MAC of a next hop changes.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Next hops in use, from number 0 on: the uplink of each, and its MAC once known.
    pub fn iter(&self) -> impl Iterator<Item = Option<(PortId, Mac)>> {
        let used = self.next.load(Ordering::Relaxed).min(Self::MAX);
        self.slots[..used].iter().map(|slot| {
            let mac = slot.mac.load(Ordering::Relaxed);
            let port = slot.neighbor.get().map(|(port, _)| *port);
            port.filter(|_| mac != 0).map(|port| (port, Mac::from_u64(mac)))
        })
    }

    /// The uplink of a next hop. Whoever only wants to know that asks for no MAC.
    pub fn port(&self, id: NeighborId) -> Option<PortId> {
        self.slots.get(id.index())?.neighbor.get().map(|(port, _)| *port)
    }

    /// Where a next hop is, for a packet: its uplink, and its MAC once known. An unknown one will be asked for.
    pub fn get(&self, id: NeighborId) -> Option<(PortId, Option<Mac>)> {
        let slot = self.slots.get(id.index())?;
        let mac = slot.mac.load(Ordering::Relaxed);
        if mac == 0 {
            slot.wanted.store(true, Ordering::Relaxed);
        }
        slot.neighbor.get().map(|(port, _)| (*port, (mac != 0).then(|| Mac::from_u64(mac))))
    }

    /// Takes note of the MAC of an address on an uplink, if it is a next hop in use.
    pub fn learn(&self, port: PortId, address: IpAddr, mac: Mac, now: Instant) {
        let Some(id) = self.ids.get(key(address, port.0)).copied() else { return };
        let slot = &self.slots[id.index()];
        if !slot.fixed.load(Ordering::Relaxed) && !mac.is_multicast() {
            self.set_mac(slot, mac);
            slot.ask_at.store((now + REFRESH).micros(), Ordering::Relaxed);
        }
    }

    /// Next hops to be asked for now: known ones now and then, unknown ones as long as a route or a packet
    /// wants them. Each is named once; whoever calls asks.
    pub fn due(&self, now: Instant) -> Vec<(PortId, IpAddr)> {
        let used = self.next.load(Ordering::Relaxed).min(Self::MAX);
        let due = |slot: &&NeighborSlot| {
            let at = slot.ask_at.load(Ordering::Relaxed);
            let known = slot.mac.load(Ordering::Relaxed) != 0;
            !slot.fixed.load(Ordering::Relaxed)
                && at <= now.micros()
                && (known
                    || slot.routed.load(Ordering::Relaxed)
                    || slot.wanted.swap(false, Ordering::Relaxed))
                && slot
                    .ask_at
                    .compare_exchange(at, (now + RETRY).micros(), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
        };
        self.slots[..used].iter().filter(due).filter_map(|s| s.neighbor.get().copied()).collect()
    }
}
