//! The lab's side of `lab flows`: each client has a thread and a connection of its own.

use super::{
    End, Item,
    history::{At, Entry, History, Reader},
};
use crate::lab::{
    error::LabError,
    live::{
        capture::serve::ports,
        socket::Stream,
        streams::{LOOK, Outlet, Streams},
        wire,
    },
    spec::LabSpec,
};
use std::{
    collections::{BTreeSet, VecDeque},
    io,
    time::{SystemTime, UNIX_EPOCH},
};
use supernet::{
    Flow, Running,
    flows::{FlowNames, Missed, Place},
};

/// Clients at a time.
const MOST: usize = 16;

/// Bytes that are written at once, about.
const CHUNK: usize = 64 << 10;

/// Entries that are taken at once.
const TAKEN: usize = 1024;

/// Why nobody is told of flows.
#[derive(Debug, thiserror::Error)]
pub(in crate::lab) enum FlowsError {
    #[error(transparent)]
    Place(#[from] LabError),
    #[error(
        "{MOST} readers of this lab's flows go on already: end one of them (Ctrl-C) before another is begun"
    )]
    TooMany,
    #[error("this lab could not start its log of flows: {0}")]
    NoLog(String),
}

/// A lab's flows and who reads them. Dropping it ends all.
#[derive(Debug)]
pub(in crate::lab) struct FlowService {
    readers: Streams,
    history: io::Result<History>,
}

impl FlowService {
    /// Keeps what happens in `net` from now on.
    pub(in crate::lab) fn begin(net: &Running) -> Self {
        Self { readers: Streams::default(), history: History::begin(net) }
    }

    /// Begins to tell: what becomes of the connection after its answer.
    ///
    /// # Errors
    /// See [`FlowsError`].
    pub(in crate::lab) fn tell(
        &mut self,
        lab: &str,
        net: &Running,
        spec: &LabSpec,
        ask: &wire::Flows,
    ) -> Result<Stream, FlowsError> {
        let history = self.history.as_ref().map_err(|e| FlowsError::NoLog(e.to_string()))?;
        if self.readers.count() >= MOST {
            return Err(FlowsError::TooMany);
        }
        let filter = Filter {
            of: ask.of.as_ref().map(|target| Of::find(lab, net, spec, target)).transpose()?,
            denied: ask.denied,
            sample: ask.sample,
        };
        let (reader, end) = history.reader();
        let mut server = Server {
            reader,
            names: history.names(),
            filter,
            end,
            follow: ask.follow,
            last: ask.last,
            chunk: Vec::with_capacity(CHUNK),
        };
        let begun = self.readers.begin("flows-reader", move |outlet| server.serve(outlet));
        begun.map_err(|source| {
            let place = format!("lab {lab}");
            LabError::System { place, what: "start a thread for the reader of flows", source }.into()
        })
    }
}

/// Whose connections are told of.
#[derive(Debug, PartialEq, Eq)]
enum Of {
    /// Those of all pods of a namespace, also of those that come.
    Namespace(String),
    /// Those of ports, by name.
    Ports(BTreeSet<String>),
}

impl Of {
    fn find(lab: &str, net: &Running, spec: &LabSpec, target: &str) -> Result<Self, LabError> {
        let name = target.trim_end_matches('/');
        let prefix = format!("{name}/");
        let is_namespace = !name.contains('/')
            && (net.model().namespaces.contains_key(name)
                || net.snapshot().names.ports.values().any(|port| port.starts_with(&prefix)));
        if is_namespace {
            return Ok(Self::Namespace(prefix));
        }
        let found = ports(lab, spec, &net.snapshot().names, &[target.to_owned()]);
        match found {
            Ok(found) => Ok(Self::Ports(found.unwrap_or_default().into_keys().collect())),
            // One that is gone has flows still.
            Err(_) if net.stats().ports.contains_key(target) => Ok(Self::Ports([target.to_owned()].into())),
            Err(e) => Err(e),
        }
    }

    fn has(&self, place: Option<&Place>) -> bool {
        let Some(name) = place.and_then(|place| place.name.as_ref()) else { return false };
        match self {
            Self::Namespace(prefix) => name.starts_with(prefix),
            Self::Ports(names) => names.contains(name),
        }
    }
}

/// What a client wants to be told of.
#[derive(Debug)]
struct Filter {
    of: Option<Of>,
    denied: bool,
    sample: u32,
}

impl Filter {
    /// An entry by name, if it is wanted.
    fn pass(&self, names: &mut FlowNames, entry: Entry) -> Option<Flow> {
        let record = match entry {
            // What was missed may have been of anybody.
            Entry::Missed(missed) => return Some(Flow::Missed(missed)),
            Entry::Record(record) => record,
        };
        let is_denied = matches!(record.what, supernet::flows::What::Denied { .. });
        if (self.denied && !is_denied) || !record.is_sampled(self.sample) {
            return None;
        }
        let flow = names.flow(&record);
        let connection = flow.connection()?;
        let is_of = |of: &Of| of.has(Some(&connection.source)) || of.has(Some(connection.reached()));
        self.of.as_ref().is_none_or(is_of).then_some(flow)
    }
}

/// Serves one client.
struct Server {
    reader: Reader,
    names: FlowNames,
    filter: Filter,
    /// Where it was when it was asked.
    end: At,
    /// Whether to go on from there.
    follow: bool,
    /// How many there are to be before.
    last: Option<u64>,
    chunk: Vec<u8>,
}

impl Server {
    /// Until all is told, the client has enough, or the lab ends.
    fn serve(&mut self, outlet: &mut Outlet) -> io::Result<()> {
        self.before(outlet)?;
        let mut lab_ends = false;
        while self.follow {
            let mut entries = Vec::new();
            let lost = self.reader.take(&mut entries, TAKEN, LOOK);
            self.put_lost(lost);
            for entry in entries {
                if let Some(flow) = self.filter.pass(&mut self.names, entry) {
                    self.put(Item::Flow(Box::new(flow)));
                }
            }
            outlet.send(&mut self.chunk)?;
            lab_ends = outlet.lab_ends();
            if lab_ends || outlet.has_spoken() {
                break;
            }
        }
        self.put(Item::End(End { lab_ends }));
        outlet.send(&mut self.chunk)
    }

    /// Tells what had happened when it was asked.
    fn before(&mut self, outlet: &mut Outlet) -> io::Result<()> {
        // Most of it may not be wanted, so it is asked for all, and the last of what is wanted are kept.
        let most = self.last.unwrap_or(if self.follow { 0 } else { u64::MAX });
        if most == 0 {
            self.reader.skip_to(self.end);
            return Ok(());
        }
        let mut last: VecDeque<Flow> = VecDeque::new();
        let mut more = true;
        while more && !outlet.lab_ends() {
            let mut entries = Vec::new();
            let lost;
            (more, lost) = self.reader.take_until(self.end, &mut entries, TAKEN);
            if most == u64::MAX {
                self.put_lost(lost);
            }
            for entry in entries {
                let Some(flow) = self.filter.pass(&mut self.names, entry) else { continue };
                if most == u64::MAX {
                    self.put(Item::Flow(Box::new(flow)));
                } else {
                    last.push_back(flow);
                    if last.len() as u64 > most {
                        last.pop_front();
                    }
                }
            }
            outlet.send(&mut self.chunk)?;
        }
        last.into_iter().for_each(|flow| self.put(Item::Flow(Box::new(flow))));
        outlet.send(&mut self.chunk)
    }

    /// Tells how many were forgotten before they could be told.
    fn put_lost(&mut self, missed: u64) {
        if missed > 0 {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let time_micros = since.map_or(0, |since| since.as_micros() as u64);
            let missed = Missed { time_micros, missed, missed_denied: 0, repeated: 0 };
            self.put(Item::Flow(Box::new(Flow::Missed(missed))));
        }
    }

    fn put(&mut self, item: Item) {
        // Nothing of it fails to be written as JSON.
        if serde_json::to_writer(&mut self.chunk, &item).is_ok() {
            self.chunk.push(b'\n');
        }
    }
}
