//! `supernet lab ...`: from manifests to hosts on a running network. What is asked of a running lab is in
//! [`live::command`].

use super::{
    dns::Dns,
    interface::{self, InterfacePort},
    live::{self, network::LiveNetwork},
    net::Listening,
    rootless, selftest,
    spec::{LabSpec, OUTSIDE, Place},
    supervise::{Mode, detach, down, exec, supervise},
};
use crate::{
    cli::{Files, LabCommand},
    input,
};
use std::{collections::BTreeSet, error::Error, io, io::Write, thread};
use supernet::Supernet;
use supernet_drivers::tap::Tap;

/// Connections a lab remembers: many for a laptop, and not more memory than one has to spare (24 MB, IPv6 44 MB).
const SESSIONS: usize = 1 << 17;

/// Frames a port may have under way, on top of those that every network has.
const FRAMES_PER_PORT: usize = 64;
const FRAMES: usize = 8192;
/// Super-packets that may be under way.
const SUPER_FRAMES: usize = 512;

/// Runs a `lab` command. The exit status to end with.
pub(crate) fn run(command: &LabCommand) -> Result<u8, Box<dyn Error>> {
    match command {
        LabCommand::Up { detach: true, supervised: false, name, .. } => Ok(detach(name)?),
        LabCommand::Up { files, name, no_serve, no_dns, workers, supervised, .. } => {
            let mode = if *supervised { Mode::Supervised } else { Mode::Foreground };
            up(files, name, &Wanted { no_serve, dns: !no_dns, workers: *workers }, mode).map(|()| 0)
        }
        LabCommand::Attach { topology, workers } => {
            crate::attach::run(topology, threads(*workers)).map(|()| 0)
        }
        LabCommand::Apply(args) => live::command::apply(args),
        LabCommand::Delete(args) => live::command::delete(args),
        LabCommand::Status(args) => live::command::status(args),
        LabCommand::Pcap(args) => live::pcap(args),
        LabCommand::Flows(args) => live::flows(args),
        LabCommand::Rules(args) => live::command::rules(args),
        LabCommand::Selftest(args) => Ok(selftest::run(args)),
        LabCommand::Exec { name, target, command } => {
            let Err(error) = exec(name, target, command);
            eprintln!("error: {error}");
            Ok(error.exit_status())
        }
        LabCommand::Shell { name, target } => {
            let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
            let Err(error) = exec(name, target, &[shell.unwrap_or_else(|| "/bin/sh".into())]);
            eprintln!("error: {error}");
            Ok(error.exit_status())
        }
        LabCommand::Down { name, force } => {
            let text = down(name, *force)?;
            let _ = writeln!(io::stdout(), "{text}");
            Ok(0)
        }
    }
}

/// As many as asked for, or one for each processor, at most four.
fn threads(workers: Option<u16>) -> usize {
    let processors = || thread::available_parallelism().map_or(1, usize::from).min(4);
    workers.map_or_else(processors, usize::from)
}

/// How a lab is wanted, its network apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Pods whose ports are left to the user.
    pub(super) no_serve: &'a [String],
    /// Whether names are served.
    pub(super) dns: bool,
    /// Threads that move packets.
    pub(super) workers: Option<u16>,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self { no_serve: &[], dns: true, workers: None }
    }
}

fn up(files: &Files, lab: &str, wanted: &Wanted<'_>, mode: Mode) -> Result<(), Box<dyn Error>> {
    let planned = Planned::of(files, lab, wanted)?;
    let spec = planned.spec.clone();
    supervise(lab, mode, &spec, |taps| planned.run(lab, taps), |_, listening| announce(&spec, listening))
}

/// A lab's network before its hosts are made.
pub(super) struct Planned {
    net: Supernet,
    /// Ports of uplinks that are on the machine's own interfaces.
    interfaces: Vec<(String, InterfacePort)>,
    pub(super) spec: LabSpec,
    unserved: BTreeSet<String>,
    dns: Option<Dns>,
}

impl Planned {
    /// The network of manifests. Warnings are printed.
    pub(super) fn of(files: &Files, lab: &str, wanted: &Wanted<'_>) -> Result<Self, Box<dyn Error>> {
        let (read, warnings) = input::read(&files.files)?;
        input::warn(&warnings);
        rootless::own_namespaces(lab)?;
        let interfaces = interface::open(&read.model.supervisor)?;
        let ports = read.model.pods.len() + read.model.supervisor.uplinks.len() + usize::from(wanted.dns);
        let net = Supernet::builder()
            .workers(threads(wanted.workers))
            .sessions(SESSIONS)
            .frames(FRAMES + FRAMES_PER_PORT * ports)
            .super_frames(SUPER_FRAMES)
            .build(read.model)?;
        // Only now, so that everybody has the addresses that `plan` shows.
        let dns = wanted.dns.then(|| Dns::join(&net)).transpose();
        let dns = dns.unwrap_or_else(|e| {
            input::warn(&[e.to_string()]);
            None
        });
        let (model, plan) = (net.model(), net.plan()?);
        let mut spec = LabSpec::of(&model, &net.snapshot(), &plan.pods);
        // A connection stays with one worker, both ways: its answers come by the queue that it was written to.
        spec.queues = threads(wanted.workers);
        if let Some(dns) = &dns {
            dns.furnish(&mut spec, &model, &net.addressing(), &plan.pods);
        }
        let mut unserved = BTreeSet::new();
        for target in wanted.no_serve {
            unserved.insert(spec.without_responder(lab, target)?);
        }
        Ok(Self { net, interfaces, spec, unserved, dns })
    }

    /// Attaches the hosts and has it run.
    pub(super) fn run(self, lab: &str, taps: Vec<(Place, Tap)>) -> Result<LiveNetwork, Box<dyn Error>> {
        for (place, tap) in taps {
            match place {
                Place::Endpoint(name) => self.net.attach(&name, tap)?,
                Place::Uplink(name) => self.net.attach_uplink(&name, tap)?,
            }
        }
        let mut interfaces = Vec::new();
        for (uplink, port) in self.interfaces {
            let interface = port.interface().clone();
            self.net.attach_uplink(&uplink, port)?;
            interfaces.push((uplink, interface));
        }
        let live = LiveNetwork::new(lab, self.net.spawn()?, self.spec, self.unserved, self.dns);
        Ok(live.on(interfaces))
    }
}

/// Who there is to be entered.
fn announce(spec: &LabSpec, listening: &Listening) {
    let names = spec.endpoints.iter().flat_map(|e| e.hosted.iter().map(|h| &h.name).chain([&e.name]));
    let width = names.map(String::len).max().unwrap_or(0);
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(" ");
    let mut text = String::new();
    for e in &spec.endpoints {
        let addresses = list(&mut e.addresses.iter().map(|a| a.addr().to_string()));
        for name in [&e.name].into_iter().chain(e.hosted.iter().map(|h| &h.name)) {
            let ports = listening.get(name).into_iter().flatten();
            let served = list(&mut ports.map(|(protocol, port)| format!("{port}/{protocol}")));
            text.push_str(format!("{name:width$}  {addresses}  {served}").trim_end());
            text.push('\n');
        }
    }
    let world = list(&mut spec.outside.addresses.iter().map(ToString::to_string));
    text.push_str(format!("{:width$}  {world}", OUTSIDE).trim_end());
    let _ = writeln!(io::stdout(), "{text}");
}
