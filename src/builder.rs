//! Making a network, and who runs it.

use crate::{
    Handle,
    control::{
        ipam::Leases,
        model::Model,
        network::{Network, NetworkError},
    },
    dataplane::{
        buf::FRAME_CAPACITY,
        flow::{FragmentLimits, HalfOpenLimits, Sessions, Timeouts},
        state::Config,
        vector::Isa,
        wire::ETHERNET,
        worker::{Dataplane, Worker},
    },
    flows::{FlowLog, Flows},
    runtime::Threads,
};
use std::{
    hash::{BuildHasher, RandomState},
    io,
    ops::Deref,
    ops::RangeInclusive,
    sync::Arc,
    time::SystemTime,
};

/// Why a network could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The model is no network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A worker is needed at least.
    #[error("a network needs at least one worker")]
    NoWorkers,
    /// More sessions than the table can number.
    #[error("at most {max} sessions are possible")]
    TooManySessions {
        /// The most there can be.
        max: usize,
    },
}

/// Settings of a network to be built. Everything has a default.
#[derive(Debug)]
pub struct Builder {
    config: Config,
    /// As many as an MTU beyond [`FRAME_CAPACITY`] needs, unless asked for.
    jumbo_frames: Option<usize>,
    leases: Leases,
}

impl Builder {
    pub(crate) fn new() -> Self {
        // Random unless asked for: members and routes are picked with it, and nobody outside should know it.
        let seed = RandomState::new().hash_one("supernet");
        Self { config: Config { seed, ..Config::default() }, jumbo_frames: None, leases: Leases::memory() }
    }

    /// Worker threads; 1 by default.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.config.workers = workers;
        self
    }

    /// Connections that can be remembered at one time; 1,048,576 by default. A connection takes 188 bytes (IPv6:
    /// 339), which the system hands out as they are first used; in huge pages where it has any, so that some
    /// hundreds of connections, spread by hash, take most of their family's table.
    #[must_use]
    pub fn sessions(mut self, sessions: usize) -> Self {
        self.config.sessions = sessions;
        self
    }

    /// Frame buffers of 2 KiB, shared by all ports; 8,192 by default.
    #[must_use]
    pub fn frames(mut self, frames: usize) -> Self {
        self.config.frames = frames;
        self
    }

    /// Frame buffers of 9 KiB, likewise. By default there are none if every MTU of the model fits 2 KiB, and
    /// otherwise a quarter as many as of the others. What is applied later may need more than there are: then longer
    /// frames do not come in. If there are [`super_frames`](Self::super_frames), these have 64 KiB too.
    #[must_use]
    pub fn jumbo_frames(mut self, frames: usize) -> Self {
        self.jumbo_frames = Some(frames);
        self
    }

    /// Frame buffers of 64 KiB, likewise; none by default. With some, ports that can, TAP devices for one, take and give
    /// TCP and UDP packets of up to 64 KB that are segmented only where they leave towards a port that cannot.
    #[must_use]
    pub fn super_frames(mut self, frames: usize) -> Self {
        self.config.super_frames = frames;
        self
    }

    /// How long idle connections are remembered.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.config.timeouts = timeouts;
        self
    }

    /// How many TCP connections may be half open at one time: 4,096 of one workload, and a quarter of the sessions in
    /// all, by default. Beyond that, the oldest gives way to the newest.
    #[must_use]
    pub fn half_open(mut self, limits: HalfOpenLimits) -> Self {
        self.config.half_open = limits;
        self
    }

    /// How much is remembered of packets that come in fragments: 1,024 packets and 256 fragments that wait for the
    /// first of theirs, for 30 seconds, by default.
    #[must_use]
    pub fn fragments(mut self, limits: FragmentLimits) -> Self {
        self.config.fragments = limits;
        self
    }

    /// Whether TCP segments are dropped (`OutOfWindow`) whose numbers cannot be of their connection, as forged resets
    /// have; only if the Supervisor says so (`strictTCP`) by default. Every TCP packet takes the slow path then, and a
    /// session 40 bytes more.
    #[must_use]
    pub fn strict_tcp(mut self, strict: bool) -> Self {
        self.config.strict_tcp = strict;
        self
    }

    /// The seed of everything that is picked; random by default. Two networks with one seed pick alike.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// Source ports that connections are translated to; 1024 to 65535 by default.
    #[must_use]
    pub fn nat_ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.config.nat_ports = ports;
        self
    }

    /// Which instructions read and hash packets' headers; the best that this processor has by default, and also
    /// when it has not these.
    #[must_use]
    pub fn isa(mut self, isa: Isa) -> Self {
        self.config.isa = Some(isa);
        self
    }

    /// Where addresses are leased from; in memory by default.
    #[must_use]
    pub fn leases(mut self, leases: Leases) -> Self {
        self.leases = leases;
        self
    }

    /// Builds the network of a model: addresses are leased, the snapshot is compiled and published.
    ///
    /// # Errors
    /// See [`BuildError`]; no lease was written.
    pub fn build(self, model: Model) -> Result<Supernet, BuildError> {
        if self.config.workers == 0 {
            return Err(BuildError::NoWorkers);
        }
        if self.config.sessions > Sessions::MOST {
            return Err(BuildError::TooManySessions { max: Sessions::MOST });
        }
        let uplinks = model.supervisor.uplinks.iter().filter_map(|uplink| uplink.mtu);
        let namespaces = model.namespaces.values().filter_map(|namespace| namespace.mtu);
        let mtu = uplinks.chain(namespaces).fold(model.supervisor.mtu, u16::max);
        let is_jumbo = usize::from(mtu) + ETHERNET > FRAME_CAPACITY;
        let needed = if is_jumbo { self.config.frames.div_ceil(4) } else { 0 };
        let jumbo_frames = self.jumbo_frames.unwrap_or(needed);
        let strict_tcp = self.config.strict_tcp || model.supervisor.strict_tcp;
        let config = Config { jumbo_frames, strict_tcp, ..self.config };
        let network = Network::new(model, self.leases, crate::handle::unix_now())?;
        let (dataplane, workers) = Dataplane::new(config);
        dataplane.publish(network.snapshot().clone());
        Ok(Supernet { handle: Handle::new(dataplane, network), workers })
    }
}

/// A network that is built and not running yet. Everything a [`Handle`] can do works on it already.
#[derive(Debug)]
pub struct Supernet {
    handle: Handle,
    workers: Vec<Worker>,
}

impl Supernet {
    /// Begins to build a network.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Runs the workers on threads of our own, which sleep while there is nothing to do.
    ///
    /// # Errors
    /// A thread or its event descriptor could not be made.
    pub fn spawn(self) -> io::Result<Running> {
        let threads = Threads::spawn(self.handle.dataplane(), self.workers)?;
        Ok(Running { handle: self.handle, threads: Arc::new(threads) })
    }

    /// The handle, and the workers for threads of the caller's own.
    pub fn into_parts(self) -> (Handle, Vec<Worker>) {
        (self.handle, self.workers)
    }
}

impl Deref for Supernet {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

/// A network that runs. Clones share it; the last one to be dropped stops its threads.
#[derive(Debug, Clone)]
pub struct Running {
    handle: Handle,
    threads: Arc<Threads>,
}

impl Running {
    /// Logs connections, as [`Handle::flows`] does, with the time of day.
    pub fn flows(&self, log: &FlowLog) -> Flows {
        self.handle.flows_since(log, Some(self.origin()))
    }

    /// The time of day at [`Instant::ZERO`](crate::Instant::ZERO), from which its workers count.
    pub fn origin(&self) -> SystemTime {
        self.threads.origin()
    }
}

impl Deref for Running {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}
