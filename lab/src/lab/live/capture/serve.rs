//! The lab's side of captures: each has a thread and a connection of its own.

use super::{
    stream::{self, Count, End, Interface, Item},
    words,
};
use crate::lab::{
    error::LabError,
    live::{
        socket::Stream,
        streams::{LOOK, Outlet, Streams},
        wire,
    },
    netns,
    spec::{self, LabSpec, OUTSIDE},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io, thread,
    time::{Duration, Instant, SystemTime},
};
use supernet::{
    Running,
    capture::{Capture, Filter, Limits, Record, Stage, Stages, UnknownStage},
    model::Model,
};
use supernet_dataplane::{id::PortId, snapshot::Names};

/// Captures at a time. Each may have [`Limits::default`] of memory.
const MOST: usize = 8;

/// How long it is waited for workers to begin: they sleep at most this long.
const BEGIN: Duration = Duration::from_millis(200);

/// Bytes that are written at once, about.
const CHUNK: usize = 256 << 10;

/// How long a record waits for older ones: workers tell of theirs one after the other.
const HOLD: Duration = Duration::from_millis(5);

/// Records that wait so, and bytes of them.
const HELD: usize = 16 << 10;
const HELD_BYTES: usize = 16 << 20;

/// How names of uplinks' ports begin.
const UPLINK: &str = "uplink/";

/// Why there is no capture.
#[derive(Debug, thiserror::Error)]
pub(in crate::lab) enum CaptureError {
    #[error(transparent)]
    Port(#[from] LabError),
    #[error(transparent)]
    Stage(#[from] UnknownStage),
    #[error("{MOST} captures of this lab go on already: end one of them (Ctrl-C) before another is begun")]
    TooMany,
}

/// The captures of a lab. Dropping them ends them, and waits for that.
#[derive(Debug, Default)]
pub(in crate::lab) struct Captures(Streams);

impl Captures {
    /// Begins one: what is answered, and what becomes of the connection then.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub(in crate::lab) fn begin(
        &mut self,
        lab: &str,
        net: &Running,
        spec: &LabSpec,
        ask: &wire::Capture,
    ) -> Result<(Vec<Interface>, Stream), CaptureError> {
        if self.0.count() >= MOST {
            return Err(CaptureError::TooMany);
        }
        let snapshot = net.snapshot();
        let ports = ports(lab, spec, &snapshot.names, &ask.ports)?;
        let stages = ask.stages.iter().map(|name| name.parse::<Stage>()).collect::<Result<Stages, _>>()?;
        let describer = Describer::of(lab, spec, &net.model());
        let mut interfaces: Vec<Interface> = match &ports {
            Some(ports) => ports.keys().map(|name| describer.interface(name)).collect(),
            None => snapshot.names.ports.values().map(|name| describer.interface(name)).collect(),
        };
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        let filter = Filter {
            ports: ports.map(|ports| ports.into_values().collect()),
            drops: ask.drops,
            stages,
            snaplen: ask.snaplen.map_or(usize::MAX, |bytes| bytes as usize),
        };
        let capture = net.capture(filter, Limits::default());
        let (deadline, workers) = (Instant::now() + BEGIN, net.dataplane().state().config.workers);
        while capture.begun() < workers && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let known = interfaces.iter().map(|i| i.name.clone()).collect();
        let (now, origin) = (Instant::now(), net.origin());
        let uptime = SystemTime::now().duration_since(origin).unwrap_or_default();
        let mut server = Server {
            capture,
            origin,
            began: now.checked_sub(uptime).unwrap_or(now),
            describer,
            known,
            names: snapshot.names.ports.iter().map(|(id, name)| (*id, name.clone())).collect(),
            held: Vec::new(),
            held_bytes: 0,
            chunk: Vec::with_capacity(CHUNK),
        };
        let stream = self.0.begin("capture", move |outlet| server.serve(outlet)).map_err(|source| {
            LabError::System { place: format!("lab {lab}"), what: "start a thread for the capture", source }
        })?;
        Ok((interfaces, stream))
    }
}

/// The ports that are meant, by name; `None`: all.
pub(in crate::lab::live) fn ports(
    lab: &str,
    spec: &LabSpec,
    names: &Names,
    wanted: &[String],
) -> Result<Option<BTreeMap<String, PortId>>, LabError> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let ids: BTreeMap<&str, PortId> = names.ports.iter().map(|(id, name)| (name.as_str(), *id)).collect();
    // Who can be named, and by which port it is reached.
    let mut hosts: Vec<(&str, Option<&str>, &str)> = Vec::new();
    for e in &spec.endpoints {
        hosts.push((&e.name, e.workload.as_deref(), &e.name));
        hosts.extend(e.hosted.iter().map(|h| (&*h.name, h.workload.as_deref(), &*e.name)));
    }
    let uplinks: Vec<&str> = ids.keys().copied().filter(|name| name.starts_with(UPLINK)).collect();
    if !uplinks.is_empty() {
        hosts.push((OUTSIDE, None, OUTSIDE));
    }
    hosts.extend(uplinks.iter().map(|name| (*name, None, *name)));
    let mut found = BTreeMap::new();
    for target in wanted {
        let named = hosts.iter().any(|(name, ..)| name == target);
        let of_workload: Vec<&str> =
            hosts.iter().filter(|(_, workload, _)| *workload == Some(target)).map(|h| h.2).collect();
        let ports = if !named && !of_workload.is_empty() {
            of_workload
        } else {
            let at = spec::resolve(lab, hosts.iter().map(|(name, ..)| (*name, None)), target)?;
            if hosts[at].2 == OUTSIDE { uplinks.clone() } else { vec![hosts[at].2] }
        };
        let ports = ports.into_iter().filter_map(|name| Some((name.to_owned(), *ids.get(name)?)));
        found.extend(ports);
    }
    Ok(Some(found))
}

/// Knows what is on the other side of ports.
struct Describer {
    lab: String,
    /// Names of uplinks, in the order of the outside's devices.
    uplinks: Vec<String>,
    /// Uplinks on interfaces of the machine, and those.
    interfaces: BTreeMap<String, String>,
}

impl Describer {
    fn of(lab: &str, spec: &LabSpec, model: &Model) -> Self {
        let uplinks = spec.outside.uplinks.iter().map(|uplink| uplink.name.clone()).collect();
        let on_machine = model.supervisor.uplinks.iter().filter_map(|uplink| {
            let interface = uplink.interface.as_ref()?;
            Some((uplink.name.clone(), interface.name.value.clone()))
        });
        Self { lab: lab.to_owned(), uplinks, interfaces: on_machine.collect() }
    }

    fn interface(&self, name: &str) -> Interface {
        let uplink = name.strip_prefix(UPLINK);
        if let Some(interface) = uplink.and_then(|uplink| self.interfaces.get(uplink)) {
            let description = format!("interface {interface} of the machine");
            return Interface { name: name.to_owned(), description };
        }
        let uplink = uplink.and_then(|name| self.uplinks.iter().position(|uplink| uplink == name));
        let (host, device) = match uplink {
            Some(at) => (OUTSIDE, format!("up{at}")),
            None => (name, "eth0".to_owned()),
        };
        let description = format!("TAP {device} in network namespace {}", netns::name(&self.lab, host));
        Interface { name: name.to_owned(), description }
    }
}

/// Serves one capture.
struct Server {
    capture: Capture,
    origin: SystemTime,
    /// The same, by a clock that nobody sets.
    began: Instant,
    describer: Describer,
    /// Ports that the client knows.
    known: BTreeSet<String>,
    /// What ports were called when they were seen last, and when it began.
    names: BTreeMap<PortId, String>,
    /// In order of time but for those that came last.
    held: Vec<Record>,
    held_bytes: usize,
    chunk: Vec<u8>,
}

impl Server {
    /// Until the client has enough, or the lab ends.
    fn serve(&mut self, outlet: &mut Outlet) -> io::Result<()> {
        loop {
            let wait = if self.held.is_empty() { LOOK } else { HOLD };
            if let Some(record) = self.capture.next_within(wait) {
                self.hold(record);
                self.fill();
            }
            let until = supernet::Instant::ZERO + self.began.elapsed().saturating_sub(HOLD);
            self.release(Some(until), outlet)?;
            let lab_ends = outlet.lab_ends();
            if lab_ends || outlet.has_spoken() {
                self.capture.stop();
                // What was captured until now.
                while self.fill() {
                    self.release(None, outlet)?;
                }
                let ports = self.counts();
                stream::write(&Item::End(End { ports, lab_ends }), &[], &mut self.chunk);
                return outlet.send(&mut self.chunk);
            }
        }
    }

    fn hold(&mut self, record: Record) {
        self.held_bytes += record.data.len();
        self.held.push(record);
    }

    fn is_full(&self) -> bool {
        self.held.len() >= HELD || self.held_bytes >= HELD_BYTES
    }

    /// Takes the records that wait. Whether any are held now.
    fn fill(&mut self) -> bool {
        while !self.is_full()
            && let Some(record) = self.capture.next()
        {
            self.hold(record);
        }
        !self.held.is_empty()
    }

    /// Sends records on in order: those until a time, or all if there are too many.
    fn release(&mut self, until: Option<supernet::Instant>, outlet: &mut Outlet) -> io::Result<()> {
        self.held.sort_by_key(|record| record.at);
        let until = until.filter(|_| !self.is_full());
        let count = until.map_or(self.held.len(), |until| self.held.partition_point(|r| r.at <= until));
        let mut held = std::mem::take(&mut self.held);
        for record in held.drain(..count) {
            self.held_bytes -= record.data.len();
            self.put(&record);
            if self.chunk.len() >= CHUNK {
                outlet.send(&mut self.chunk)?;
            }
        }
        self.held = held;
        outlet.send(&mut self.chunk)
    }

    fn put(&mut self, record: &Record) {
        let note = words::note(record, self.origin);
        if !self.known.contains(&note.port) {
            self.names.insert(record.port, note.port.clone());
            let interface = self.describer.interface(&note.port);
            stream::write(&Item::Interface(interface), &[], &mut self.chunk);
            self.known.insert(note.port.clone());
        }
        stream::write(&Item::Packet(note), &record.data, &mut self.chunk);
    }

    fn counts(&self) -> BTreeMap<String, Count> {
        let name = |id: PortId| self.names.get(&id).cloned().unwrap_or_else(|| format!("{id:?}"));
        let count = |c: supernet::capture::Captured| Count { recorded: c.recorded, missed: c.missed };
        self.capture.counts().into_iter().map(|(id, c)| (name(id), count(c))).collect()
    }
}
