//! Supernet: the network of a Kubernetes Supervisor Cluster, NSX-T style, as a library.
//!
//! Declare what there is (from manifests or in code), attach ports (in memory, TAP devices, your own type), and
//! packets run: segments, distributed routing, ClusterIPs and VIPs, source translation, a distributed firewall
//! compiled from network policies.
//!
//! ```
//! use supernet::{Supernet, port, model::{IngressPosture, Model, Name, Pod}};
//!
//! let mut model = Model::default();
//! model.supervisor.ingress_posture = IngressPosture::AllowNamespace;
//! model.insert(Pod::new(Name::new("shop", "web")).into());
//! model.insert(Pod::new(Name::new("shop", "db")).into());
//!
//! let mut net = Supernet::builder().sessions(1024).frames(512).build(model)?;
//! let web = net.attach("shop/web", port::memory(64))?;       // the guest's end speaks `Bytes`
//! let db = net.attach("shop/db", port::memory(64))?;
//!
//! let report = net.trace(&"shop/web -> shop/db TCP 5432".parse()?)?;
//! assert!(report.delivered(), "{report}");
//!
//! let net = net.spawn()?;                                     // our threads, stopped when the handle is dropped
//! assert!(net.sessions().is_empty());
//! # let _ = (web, db);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Embedders with threads of their own take the workers out with [`Supernet::into_parts`] and call
//! [`Worker::poll`], which never blocks, never reads a clock and says when it wants to be called again. In
//! between, [`Worker::descriptors`] become readable when frames wait at devices, and [`Handle::set_waker`] has a
//! function called for everything else. Ports come and go in `poll`, so descriptors are to be asked for after it.
//!
//! Features: `manifests` (Kubernetes YAML), `redb` (leases in a file), `tap`, `pcap`, `host` (hosts with a real
//! TCP/IP stack on memory ports) are on by default; `packet` and `xdp` (ports on the machine's own interfaces) are not.

mod builder;
pub mod flows;
mod handle;
#[cfg(feature = "host")]
pub mod host;
mod runtime;
mod stats;

pub use builder::{BuildError, Builder, Running, Supernet};
pub use flows::{Flow, FlowLog, Flows};
pub use handle::{ApplyError, AttachError, Handle, SessionInfo};
pub use runtime::Threads;
pub use stats::{Quota, RuleStats, Stats};

pub use supernet_control::{
    analysis::{
        assert::Assertions,
        diff::Diff,
        plan::Plan,
        reach::Reach,
        trace::{End, Probe, TraceError, TraceReport},
    },
    ipam::Leases,
    model,
    network::{CheckError, Draft, NetworkError},
};
pub use supernet_dataplane::{
    buf, capture,
    counters::Counters,
    flow::{FragmentLimits, HalfOpenLimits, Timeouts},
    time::Instant,
    verdict::DropReason,
    wire::Mac,
    worker::{Polled, Worker},
};

/// Kubernetes manifests.
#[cfg(feature = "manifests")]
pub use supernet_control::manifests;

/// Ports in memory, faults for any port, and what a port of your own implements.
pub mod port {
    pub use supernet_dataplane::port::{
        Bell, Opened, Port, Receive, Transmit, Waker, fault,
        memory::{MemoryGuest, MemoryPort, SendError, memory},
    };
}

/// Ports onto the world.
pub mod drivers {
    pub use supernet_drivers::*;
}

/// The whole of control, for those who need more than this page.
pub mod control {
    pub use supernet_control::*;
}

/// The whole of the dataplane, for those who need more than this page.
pub mod dataplane {
    pub use supernet_dataplane::*;
}
