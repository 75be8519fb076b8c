//! The life of a lab as a process: run it, run it in the background, enter it, end it.
//!
//! ```text
//!   lab up            supervise ─ bring_up ─ attach ─ announce ─ serve requests until a signal ─ drop everything
//!   lab up --detach   detach ─ starts itself again with --supervised ─ passes its output on until it is ready
//!   lab exec          state ─ setns ─ exec
//!   lab down          state ─ SIGTERM ─ wait ─ look for leftovers
//! ```

use super::{
    error::LabError,
    live::socket::{Reply, Service, Socket},
    net::{self, LabNet, Listening},
    netns::{self, Netns},
    rootless,
    spec::{LabSpec, Place},
    state::{self, Claim, Presence, State},
};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::{
    collections::BTreeSet,
    convert::Infallible,
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    ops::ControlFlow,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use supernet_drivers::tap::Tap;

/// How long a lab has to end after a SIGTERM, before it is killed and cleaned up after.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long that goes without a word.
const SILENCE: Duration = Duration::from_secs(3);

/// The flag that `lab up --detach` adds when it starts itself again.
pub(crate) const SUPERVISED: &str = "--supervised";

/// Starts the lines by which a supervised lab reports to the process that detached it; all other lines are
/// for people.
const REPORT: char = '\u{1}';

/// Who is looking at the lab while it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A person at a terminal, until Ctrl-C.
    Foreground,
    /// The process that detached it, until it is ready.
    Supervised,
}

/// What runs on a lab's hosts.
pub(crate) trait Supervised {
    /// The answer to a request on the lab's socket; see [`Service::answer`]. It may change the hosts.
    /// `interrupted` tells whether a signal has come meanwhile.
    fn answer(&mut self, request: Option<&[u8]>, hosts: &mut LabNet, interrupted: &dyn Fn() -> bool)
    -> Reply;

    /// Called about once a second.
    fn tick(&mut self);
}

/// Runs lab `lab` until a signal ends it.
///
/// `attach` puts the TAPs on a running network, which is kept until the end and dropped before the hosts are.
/// `announce` then tells people about it, and the ports that are served, on standard output.
///
/// # Errors
/// The lab or the network did not start; nothing is left of them.
pub(crate) fn supervise<N: Supervised, E: From<LabError>>(
    lab: &str,
    mode: Mode,
    spec: &LabSpec,
    attach: impl FnOnce(Vec<(Place, Tap)>) -> Result<N, E>,
    announce: impl FnOnce(&N, &Listening),
) -> Result<(), E> {
    let signals = Signals::catch()?;
    if mode == Mode::Supervised {
        // A session of its own: the terminal's Ctrl-C and hang-up are not for it. Fails only if it has one.
        let _ = rustix::process::setsid();
    }
    let reporter = Reporter::new(mode);
    let mut hosts = net::bring_up(lab, spec, &mut |done, total, name| {
        if reporter.progress(done, total, name).is_err() || signals.pending() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })
    // Ctrl-C at the terminal also reaches a running `ip`, whose failure is then not the reason.
    .map_err(|e| if signals.pending() { LabError::Interrupted } else { e })?;
    let mut network = attach(hosts.take_taps())?;
    let socket = Socket::bind(&hosts.claim().socket())?;
    reporter.finish();
    for warning in hosts.warnings() {
        eprintln!("warning: {warning}");
    }
    announce(&network, hosts.listening());
    match mode {
        Mode::Foreground => eprintln!("lab {lab} is up; Ctrl-C ends it"),
        Mode::Supervised => let_go(&hosts)?,
    }
    socket.serve(&signals.caught, &mut Asked { network: &mut network, hosts: &mut hosts, signals: &signals });
    hosts.remove_devices();
    drop(network);
    drop(hosts);
    Ok(())
}

/// The network and hosts of a lab, as they are asked.
struct Asked<'a, N> {
    network: &'a mut N,
    hosts: &'a mut LabNet,
    signals: &'a Signals,
}

impl<N: Supervised> Service for Asked<'_, N> {
    fn answer(&mut self, request: Option<&[u8]>) -> Reply {
        self.network.answer(request, self.hosts, &|| self.signals.pending())
    }

    fn tick(&mut self) {
        self.network.tick();
    }
}

/// Runs this very command again in the background and returns once the lab is up, or has failed to start.
/// The exit status to end with.
pub(crate) fn detach(lab: &str) -> Result<u8, LabError> {
    let failed = |what| move |source| LabError::System { place: format!("lab {lab}"), what, source };
    let program = std::env::current_exe().map_err(failed("find this program"))?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg(SUPERVISED)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed("start it in the background"))?;
    let bar = bar();
    // To the end of the pipe, or until the lab lets go of it.
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let Ok(line) = line else { break };
        let Some(report) = line.strip_prefix(REPORT) else {
            // Whoever reads may have seen enough; the lab goes on.
            let _ = bar.suspend(|| writeln!(io::stdout(), "{line}"));
            continue;
        };
        let mut words = report.splitn(3, ' ');
        match (words.next(), words.next().and_then(|w| w.parse().ok()), words.next()) {
            (Some("ready"), ..) => {
                bar.finish_and_clear();
                eprintln!("lab {lab} is up; `supernet lab down --name {lab}` ends it");
                return Ok(0);
            }
            (Some("progress"), Some(done), Some(rest)) => {
                let (total, name) = rest.split_once(' ').unwrap_or((rest, ""));
                show(&bar, done, total.parse().unwrap_or(done), name);
            }
            _ => {}
        }
    }
    bar.finish_and_clear();
    let status = child.wait().map_err(failed("wait for it to start"))?;
    // It has said why on standard error, unless it was killed.
    match status.code() {
        Some(code) if code != 0 => Ok(u8::try_from(code).unwrap_or(1)),
        _ => {
            let source = io::Error::other(format!("the background process ended early ({status})"));
            Err(failed("start it in the background")(source))
        }
    }
}

/// Becomes `command` inside `target`. Returns only if that fails.
pub(crate) fn exec(lab: &str, target: &str, command: &[OsString]) -> Result<Infallible, LabError> {
    let state = running_state(lab)?;
    let entry = state.resolve(lab, target)?;
    rootless::join(lab, &state)?;
    let enter = || Netns::open(&entry.netns)?.enter();
    enter().map_err(|source| LabError::System {
        place: entry.name.clone(),
        what: "enter its network namespace",
        source,
    })?;
    show_own(lab, &entry.name);
    let program = command.first().cloned().unwrap_or_default();
    let source = Command::new(&program).args(command.get(1..).unwrap_or_default()).exec();
    Err(LabError::Exec { command: program.into(), source })
}

/// Gives a program that is about to start in `host` the host's own `/sys`, and has it look names up as the host does.
/// Most programs do as well without.
fn show_own(lab: &str, host: &str) {
    let mounts = netns::own_mounts();
    if mounts.is_ok() {
        // Few look there.
        let _ = netns::show_own_devices();
    }
    let resolv_conf = state::resolv_conf(lab, host);
    if !resolv_conf.exists() {
        return;
    }
    let nsswitch_conf = state::nsswitch_conf(lab);
    let names = || {
        mounts.map_err(|e| format!("mounts of its own are refused: {e}"))?;
        // What it leads to is missed otherwise, and told below.
        let _ = rootless::mend_link("/etc/resolv.conf");
        netns::show_instead("/etc/resolv.conf", &resolv_conf)?;
        if nsswitch_conf.exists() {
            netns::show_instead("/etc/nsswitch.conf", &nsswitch_conf)?;
        }
        // A cache of the system's would be asked first.
        netns::hide("/run/nscd")
    };
    let names: Result<(), String> = names();
    if let Err(e) = names {
        eprintln!("warning: {host} looks names up as this system does, not as the lab: {e}");
    }
}

/// Ends lab `lab`, by force if it is not to be asked, and returns when nothing is left of it. What was done, in a
/// sentence.
pub(crate) fn down(lab: &str, force: bool) -> Result<String, LabError> {
    let mut text = format!("lab {lab} is down");
    let killed = || format!("lab {lab} had been killed; what it left is removed");
    let (state, running) = match state::presence(lab)? {
        Presence::Absent => return Err(state::absent(lab)),
        Presence::Running => (running_state(lab)?, true),
        Presence::Stale => {
            text = killed();
            (State::read(lab).unwrap_or(State { pid: 0, token: None, endpoints: Vec::new() }), false)
        }
    };
    if running && netns::has_ended(state.pid) {
        text = killed();
    } else if running && !end_supervisor(lab, &state, force)? {
        let how = if force { "was killed" } else { "did not end by itself and was killed" };
        text = format!("lab {lab} {how}; what it left is removed");
    }
    // A supervisor that ends takes everything along. One that was killed leaves that to this, once nothing
    // that it had started holds its lock.
    let deadline = Instant::now() + state::AFTERMATH;
    let same = || State::read(lab).is_ok_and(|s| s.pid == state.pid);
    while state::presence(lab)? == Presence::Running && same() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    if state::presence(lab)? == Presence::Stale {
        drop(Claim::take(lab)?);
    }
    // Of an ordinary user's lab, they had no names here.
    let named = state.endpoints.into_iter().filter(|_| state.token.is_none()).map(|e| e.netns);
    let left: BTreeSet<String> = named.filter(|n| netns::path(n).exists()).collect();
    let left = Vec::from_iter(left);
    if left.is_empty() { Ok(text) } else { Err(LabError::Leftovers { name: lab.to_owned(), left }) }
}

/// The state of a lab that is up.
pub(super) fn running_state(lab: &str) -> Result<State, LabError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match state::presence(lab)? {
            Presence::Running => {}
            Presence::Stale => return Err(LabError::Died { name: lab.to_owned() }),
            Presence::Absent => return Err(state::absent(lab)),
        }
        match State::read(lab) {
            // It has just started.
            Err(LabError::State { source, .. })
                if source.kind() == io::ErrorKind::NotFound && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// Asks the supervisor to end and kills it if it does not. Whether it ended by itself.
fn end_supervisor(lab: &str, state: &State, force: bool) -> Result<bool, LabError> {
    let failed = |e: rustix::io::Errno| LabError::System {
        place: format!("lab {lab}"),
        what: "signal its process",
        source: e.into(),
    };
    let Some(pid) = Pid::from_raw(state.pid) else { return Ok(true) };
    let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        other => other.map_err(failed)?,
    };
    // The lab held its lock after the descriptor was opened, so the descriptor is the lab's process.
    let same = State::read(lab).is_ok_and(|s| s.pid == state.pid);
    if !same || state::presence(lab)? != Presence::Running {
        return Ok(true);
    }
    let send = |signal| match rustix::process::pidfd_send_signal(&process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(failed(e)),
    };
    let (pid, seconds) = (state.pid, PATIENCE.as_secs());
    if !force {
        send(Signal::TERM)?;
        // One that is stopped hears of it only when it goes on.
        send(Signal::CONT)?;
        if netns::wait_for_end(&process, Instant::now() + SILENCE) {
            return Ok(true);
        }
        eprintln!("still waiting for process {pid} to end; it is killed after {seconds} s");
        if netns::wait_for_end(&process, Instant::now() + PATIENCE - SILENCE) {
            return Ok(true);
        }
    }
    send(Signal::KILL)?;
    if netns::wait_for_end(&process, Instant::now() + PATIENCE) {
        return Ok(false);
    }
    Err(LabError::Stuck { name: lab.to_owned(), pid })
}

/// Tells the detaching process that all is well, and takes input and output off it.
fn let_go(hosts: &LabNet) -> Result<(), LabError> {
    let failed = |source| LabError::System { place: "lab".to_owned(), what: "go to the background", source };
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{REPORT}ready").and_then(|()| stdout.flush()).map_err(|_| LabError::Interrupted)?;
    let redirect = || -> io::Result<()> {
        let log = hosts.claim().log_file()?;
        rustix::stdio::dup2_stdout(&log)?;
        rustix::stdio::dup2_stderr(&log)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        // Not to keep anyone from unmounting what the command was started in.
        std::env::set_current_dir("/")
    };
    redirect().map_err(failed)
}

/// SIGINT, SIGTERM and SIGHUP, turned into something to wait for.
pub(crate) struct Signals {
    caught: UnixStream,
}

impl Signals {
    pub(crate) fn catch() -> Result<Self, LabError> {
        let failed = |source| LabError::System { place: "lab".to_owned(), what: "catch signals", source };
        let (caught, raised) = UnixStream::pair().map_err(failed)?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let raised = raised.try_clone().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal, raised).map_err(failed)?;
        }
        Ok(Self { caught })
    }

    /// Whether one has come.
    pub(super) fn pending(&self) -> bool {
        self.come_within(Duration::ZERO)
    }

    /// A descriptor that is readable from when one has come.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.caught.as_fd()
    }

    /// Waits for one, but no longer than `at_most`; whether one has come.
    pub(super) fn come_within(&self, at_most: Duration) -> bool {
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        matches!(
            rustix::event::poll(&mut [PollFd::new(&self.caught, PollFlags::IN)], Some(&timeout)),
            Ok(1..)
        )
    }

    /// Returns when one has come.
    pub(crate) fn wait(&self) {
        while let Ok(0) | Err(rustix::io::Errno::INTR) =
            rustix::event::poll(&mut [PollFd::new(&self.caught, PollFlags::IN)], None)
        {}
    }
}

/// Shows how the start goes on.
struct Reporter {
    /// `None`: reported on standard output to the process that detached this one.
    bar: Option<ProgressBar>,
}

impl Reporter {
    fn new(mode: Mode) -> Self {
        Self { bar: (mode == Mode::Foreground).then(bar) }
    }

    /// An error means that nobody waits for the lab any more.
    fn progress(&self, done: usize, total: usize, name: &str) -> io::Result<()> {
        match &self.bar {
            Some(bar) => {
                show(bar, done as u64, total as u64, name);
                Ok(())
            }
            None => {
                let mut stdout = io::stdout().lock();
                writeln!(stdout, "{REPORT}progress {done} {total} {name}")?;
                stdout.flush()
            }
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar on standard error; invisible when that is no terminal.
pub(super) fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

pub(super) fn show(bar: &ProgressBar, done: u64, total: u64, name: &str) {
    bar.set_length(total);
    bar.set_position(done);
    bar.set_message(name.to_owned());
}
