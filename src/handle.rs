//! What can be done to a network while it runs.

use crate::{
    Quota, Stats,
    control::{
        analysis::{
            assert::{Assertions, Report},
            diff::Diff,
            plan::Plan,
            reach::Reach,
            trace::{Probe, TraceError, TraceReport},
        },
        compile::CompileError,
        intern::Interner,
        ipam::Addressing,
        model::{Change, Model},
        network::{CheckError, Draft, Network, NetworkError},
        store::UnixSeconds,
    },
    dataplane::{
        capture::{Capture, Filter, Limits},
        counters::Counters,
        id::PortId,
        port::{Port, Waker},
        rewrite::Tuple,
        snapshot::{PortEntry, Snapshot},
        stage::commit,
        worker::Dataplane,
    },
    flows::{FlowLog, FlowNames, Flows},
    stats::RuleStats,
};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// A change that was not applied. The network is as it was.
pub type ApplyError = NetworkError;

/// A port that was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nobody is called that.
    #[error("there is no {0} in this network; declare it before attaching its port")]
    Unknown(String),
    /// The port could not be opened, or is attached already.
    #[error("cannot attach {name}: {source}")]
    Port {
        /// Whose port.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// A living connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// The port it came in by: "shop/web-0", "uplink/leaf-a".
    pub ingress: String,
    /// The port it leaves by.
    pub egress: String,
    /// The first packet as it came in.
    pub original: Tuple,
    /// Answers as they come in.
    pub reply: Tuple,
    /// Its virtual server, if it goes through one.
    pub server: Option<String>,
    /// Its state: "established", "single", ...
    pub state: &'static str,
    /// Whether the firewall denies it now.
    pub denied: bool,
    /// Packets forward and back.
    pub packets: (u64, u64),
    /// Bytes forward and back.
    pub bytes: (u64, u64),
}

/// The handle on a network. Clones share it; it may be used from any thread while packets run.
#[derive(Debug, Clone)]
pub struct Handle {
    dataplane: Dataplane,
    network: Arc<Mutex<Network>>,
}

impl Handle {
    pub(crate) fn new(dataplane: Dataplane, network: Network) -> Self {
        Self { dataplane, network: Arc::new(Mutex::new(network)) }
    }

    /// Attaches a pod's port by the pod's name, "namespace/pod", and returns its other side.
    ///
    /// # Errors
    /// See [`AttachError`]; nothing was attached.
    pub fn attach<P: Port>(&self, pod: &str, port: P) -> Result<P::Peer, AttachError> {
        self.attach_called(pod.to_owned(), port)
    }

    /// Attaches a node's port by the node's name.
    ///
    /// # Errors
    /// See [`AttachError`]; nothing was attached.
    pub fn attach_node<P: Port>(&self, node: &str, port: P) -> Result<P::Peer, AttachError> {
        self.attach_called(format!("node/{node}"), port)
    }

    /// Attaches an uplink's port by the uplink's name.
    ///
    /// # Errors
    /// See [`AttachError`]; nothing was attached.
    pub fn attach_uplink<P: Port>(&self, uplink: &str, port: P) -> Result<P::Peer, AttachError> {
        self.attach_called(format!("uplink/{uplink}"), port)
    }

    /// Detaches a port by the name its pod, "node/NAME" or "uplink/NAME" has. Its sessions end, and frames on
    /// their way to it are dropped and counted. `false` if there is no port of that name.
    pub fn detach(&self, name: &str) -> bool {
        let Some(id) = self.port_called(name).map(|p| p.id) else { return false };
        self.dataplane.detach(id);
        true
    }

    /// Has `waker` called when worker `index` has something to do that its descriptors do not show. For workers
    /// on threads of the caller's own; ours have one. To be set once, at any time.
    pub fn set_waker(&self, index: usize, waker: Waker) {
        self.dataplane.set_waker(index, waker);
    }

    /// Whether the port of this name is attached. One whose driver failed is not any more, and may be attached
    /// again.
    pub fn is_attached(&self, name: &str) -> bool {
        self.port_called(name).is_some_and(|p| self.dataplane.is_attached(p.id))
    }

    /// Applies a change: all of it or nothing, while packets run. Ports of pods that are gone are detached.
    ///
    /// # Errors
    /// See [`ApplyError`]; the network is as it was.
    pub fn apply(&self, change: Change) -> Result<(), ApplyError> {
        let mut network = self.network();
        let busy = self.dataplane.state().nat.busy().into_iter().collect();
        network.apply(change, unix_now(), &busy)?;
        self.publish(&network);
        Ok(())
    }

    /// Replaces the whole model, keeping the addresses of what stays.
    ///
    /// # Errors
    /// See [`ApplyError`]; the network is as it was.
    pub fn replace(&self, model: Model) -> Result<(), ApplyError> {
        let mut network = self.network();
        let busy = self.dataplane.state().nat.busy().into_iter().collect();
        network.become_model(model, unix_now(), &busy)?;
        self.publish(&network);
        Ok(())
    }

    /// What the network would be as another model, keeping the addresses of what stays. Nothing is changed: for
    /// those who have to prepare something between looking and [`Handle::commit`].
    ///
    /// # Errors
    /// See [`ApplyError`]; the model is no network.
    pub fn draft(&self, model: Model) -> Result<Draft, ApplyError> {
        let busy = self.dataplane.state().nat.busy().into_iter().collect();
        self.network().draft(model, unix_now(), &busy)
    }

    /// Becomes what was drafted, all of it or nothing, while packets run. Ports of pods that are gone are detached.
    ///
    /// # Errors
    /// See [`ApplyError`]; the network is as it was. It is an error that the network was changed since the draft.
    pub fn commit(&self, draft: Draft) -> Result<(), ApplyError> {
        let mut network = self.network();
        network.take(draft)?;
        self.publish(&network);
        Ok(())
    }

    /// A draft as a plan.
    ///
    /// # Errors
    /// As compiling; none in practice, for what was drafted was compiled.
    pub fn plan_of(&self, draft: &Draft) -> Result<Plan, CompileError> {
        self.network().plan_of(draft)
    }

    /// What a draft would change: which connections would become allowed, and which denied.
    ///
    /// # Errors
    /// As compiling; none in practice, for what was drafted was compiled.
    pub fn diff(&self, draft: &Draft) -> Result<Diff, CompileError> {
        self.network().diff(draft)
    }

    /// Checks statements about who reaches whom.
    ///
    /// # Errors
    /// A statement names what is not there, or speaks of nobody.
    pub fn check(&self, assertions: &Assertions) -> Result<Report, CheckError> {
        self.network().check(assertions)
    }

    /// Who has which address.
    pub fn addressing(&self) -> Addressing {
        self.network().addressing().clone()
    }

    /// A copy of the model.
    pub fn model(&self) -> Model {
        self.network().model().clone()
    }

    /// What happens to a packet, stage by stage; one that would open a connection beyond a limit now is dropped.
    ///
    /// # Errors
    /// The probe names what is not there.
    pub fn trace(&self, probe: &Probe) -> Result<TraceReport, TraceError> {
        let state = self.dataplane.state();
        self.network().trace_among(probe, state.config.seed, &state.quotas)
    }

    /// The network as a plan.
    ///
    /// # Errors
    /// As compiling; none in practice, for what runs was compiled.
    pub fn plan(&self) -> Result<Plan, CompileError> {
        self.network().plan()
    }

    /// Who reaches whom.
    ///
    /// # Errors
    /// As compiling; none in practice, for what runs was compiled.
    pub fn reach(&self) -> Result<Reach, CompileError> {
        self.network().reach()
    }

    /// Everything counted so far.
    pub fn counters(&self) -> Counters {
        self.dataplane.counters()
    }

    /// Everything counted so far, by name.
    pub fn stats(&self) -> Stats {
        let network = self.network();
        let quotas = &self.dataplane.state().quotas;
        Stats::of(&self.dataplane.counters(), quotas, network.interner(), network.snapshot())
    }

    /// What pods and namespaces that have limits have of connections: "shop/web-0", "namespace shop".
    pub fn quotas(&self) -> BTreeMap<String, Quota> {
        Quota::all(&self.dataplane.state().quotas, &self.dataplane.snapshot())
    }

    /// Living connections.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let snapshot = self.dataplane.snapshot();
        let port = |id: PortId| snapshot.names.ports.get(&id).cloned().unwrap_or_else(|| format!("{id:?}"));
        let mut all = Vec::new();
        self.dataplane.for_each_session(|_, session, usage| {
            let server = session.binding.bound.and_then(|b| snapshot.names.servers.get(&b.server));
            all.push(SessionInfo {
                ingress: port(session.ingress),
                egress: port(session.judgement.out),
                original: session.original,
                reply: session.reply,
                server: server.cloned(),
                state: commit::condition(session.track, session.original.proto, usage).name(),
                denied: session.judgement.denied.is_some(),
                packets: (usage.0.packets, usage.1.packets),
                bytes: (usage.0.bytes, usage.1.bytes),
            });
        });
        all
    }

    /// The published snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.dataplane.snapshot()
    }

    /// A port of the published snapshot by name: "shop/web-0", "node/node-1", "uplink/leaf-a".
    pub fn port_called(&self, name: &str) -> Option<Arc<PortEntry>> {
        let snapshot = self.dataplane.snapshot();
        let id = snapshot.names.ports.iter().find(|(_, n)| *n == name).map(|(id, _)| *id)?;
        snapshot.port(id).cloned()
    }

    /// Copies frames as they come in and leave, with what became of each, until what is returned is dropped. Ports of
    /// the filter are found by [`Handle::port_called`]. Nothing waits for who reads: what does not fit is missed, and
    /// counted.
    pub fn capture(&self, filter: Filter, limits: Limits) -> Capture {
        self.dataplane.capture(filter, limits)
    }

    /// Logs when connections begin and end, with what they have carried, and which are not let in, until what is returned
    /// is dropped. Nothing waits for who reads: what does not fit is missed, and told of. The times are those of the
    /// workers' clock ([`Running::flows`](crate::Running::flows) knows the time of day).
    pub fn flows(&self, log: &FlowLog) -> Flows {
        self.flows_since(log, None)
    }

    pub(crate) fn flows_since(&self, log: &FlowLog, origin: Option<SystemTime>) -> Flows {
        Flows::new(self.dataplane.log_flows(log), FlowNames::new(self.clone(), origin))
    }

    /// The firewall's rules of the published snapshot, by policy and rule, with what each has decided. Goes through all
    /// sessions.
    pub fn rules(&self) -> Vec<RuleStats> {
        let (snapshot, counters) = (self.dataplane.snapshot(), self.dataplane.counters());
        let staged = self.dataplane.state().staged.counts();
        RuleStats::all(&snapshot.names, &counters, &self.dataplane.sessions_by_rule(), &staged)
    }

    pub(crate) fn with_interner<T>(&self, see: impl FnOnce(&Interner) -> T) -> T {
        see(self.network().interner())
    }

    /// The dataplane below.
    pub fn dataplane(&self) -> &Dataplane {
        &self.dataplane
    }

    fn attach_called<P: Port>(&self, name: String, port: P) -> Result<P::Peer, AttachError> {
        let Some(id) = self.port_called(&name).map(|p| p.id) else { return Err(AttachError::Unknown(name)) };
        self.dataplane.attach(id, port).map_err(|source| AttachError::Port { name, source })
    }

    fn publish(&self, network: &Network) {
        let before = self.dataplane.snapshot();
        self.dataplane.publish(network.snapshot().clone());
        if !network.snapshot().has_staged {
            // There is nothing that would be otherwise.
            self.dataplane.state().staged.clear();
        }
        let now = self.dataplane.snapshot();
        for gone in before.ports.iter().flatten().filter(|p| now.port(p.id).is_none()) {
            self.dataplane.release(gone.id);
        }
    }

    fn network(&self) -> MutexGuard<'_, Network> {
        // A network changes in one step, so it is whole whatever panicked.
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970, for leases.
pub(crate) fn unix_now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixSeconds(since.map_or(0, |d| d.as_secs()))
}
