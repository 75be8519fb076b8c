//! `supernet lab selftest`: every connection of a lab tried with real sockets, against what `reach` predicts.
//!
//! ```text
//!   lab ── facts ──▶ pairs ──▶ probes ──▶ engine: threads in the sources' namespaces ──▶ verdicts ──▶ report
//!           (hosts, virtual servers,        (sockets that do not block, many at a time)
//!            egress addresses, reach)
//! ```
//!
//! The lab is one that runs, asked on its socket, or one that is made here, asked in place. The prediction comes
//! from the analysis of rules and not from the stages that packets walk, so the two check each other. A lab whose
//! hosts are changed while it is tested gives differences.

mod attempt;
mod engine;
mod facts;
mod predict;
mod probes;
mod report;
mod verdict;

pub(crate) use facts::{Denier, Facts, Question};
pub(super) use report::Report;

use super::{
    command::{Planned, Wanted},
    error::LabError,
    live::{
        client::{self, ClientError},
        wire::{Answer, Ask},
    },
    net::{self, allow_many_files},
    netns::{self, Netns},
    responder::{self, Identity, Responder},
    rootless,
    spec::OUTSIDE,
    supervise::{self, Signals},
};
use crate::{
    cli::{Files, SelftestArgs},
    output,
};
use engine::Course;
use facts::Transport;
use predict::Prediction;
use probes::{Expected, Pairs, Probe};
use report::{Difference, Sample};
use std::{
    collections::BTreeSet,
    error::Error,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};
use verdict::Verdict;

/// Exit status of a lab that did otherwise than predicted.
const DIFFERENCES: u8 = 1;
/// Exit status when nothing could be tested.
const CANNOT: u8 = 2;

/// With more pairs than this, some are picked unless all are asked for.
const MANY_PAIRS: usize = 100_000;
/// How many.
const PICKED_PAIRS: usize = 20_000;
/// Served outside, whatever is open there.
const PORT_OUTSIDE: u16 = 30_080;
/// Ports served outside that policies name.
const PORTS_OUTSIDE: usize = 8;
/// Differences whose policy is looked up.
const EXPLAINED: usize = 1000;
/// How often progress is shown.
const GLANCE: Duration = Duration::from_millis(100);

/// Runs `lab selftest`. The exit status to end with.
pub(crate) fn run(args: &SelftestArgs) -> u8 {
    let outcome = tested(args).and_then(|report| {
        output::print(&report, args.output, Report::tables)?;
        Ok(if report.differences.is_empty() { 0 } else { DIFFERENCES })
    });
    outcome.unwrap_or_else(|e| {
        eprintln!("error: {e}");
        CANNOT
    })
}

pub(super) fn tested(args: &SelftestArgs) -> Result<Report, Box<dyn Error>> {
    let signals = Signals::catch()?;
    let how = How::of(args);
    match (&args.name, args.files.is_empty()) {
        (Some(lab), true) => {
            rootless::join(lab, &supervise::running_state(lab)?)?;
            let mut ask = |ask: Ask| client::ask(lab, &ask);
            Ok(test(lab, &how, &mut ask, &signals)?)
        }
        (name, _) => {
            let lab = name.clone().unwrap_or_else(|| format!("selftest-{}", std::process::id()));
            let files = Files { files: args.files.clone() };
            let planned = Planned::of(&files, &lab, &Wanted::default())?;
            of_its_own(&lab, planned, &how, &signals)
        }
    }
}

/// How to test.
#[derive(Debug, Clone)]
pub(super) struct How {
    /// Pairs to pick; `None`: all, or some of very many.
    sample: Option<usize>,
    all: bool,
    seed: u64,
    patience: Duration,
}

impl How {
    pub(super) fn of(args: &SelftestArgs) -> Self {
        let clock = || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::from(now.subsec_nanos() ^ std::process::id())
        };
        Self {
            sample: args.sample.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            all: args.all,
            seed: args.seed.unwrap_or_else(clock),
            patience: Duration::from_millis(args.timeout),
        }
    }

    /// Which pairs to take of so many.
    fn pick(&self, of: usize) -> Option<Sample> {
        let many = || (of > MANY_PAIRS && !self.all).then_some(PICKED_PAIRS);
        let pairs = self.sample.or_else(many).filter(|n| *n < of)?;
        Some(Sample { pairs, of, seed: self.seed })
    }
}

/// Brings a lab up, tests it and takes it down.
fn of_its_own(lab: &str, planned: Planned, how: &How, signals: &Signals) -> Result<Report, Box<dyn Error>> {
    let began = Instant::now();
    let bar = supervise::bar();
    let spec = planned.spec.clone();
    let mut hosts = net::bring_up(lab, &spec, &mut |done, total, name| {
        supervise::show(&bar, done as u64, total as u64, name);
        if signals.pending() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    // Ctrl-C at the terminal also reaches a running `ip`, whose failure is then not the reason.
    .map_err(|e| if signals.pending() { LabError::Interrupted } else { e })?;
    bar.finish_and_clear();
    for warning in hosts.warnings() {
        eprintln!("warning: {warning}");
    }
    let mut network = planned.run(lab, hosts.take_taps())?;
    let up_seconds = began.elapsed().as_secs_f64();
    let mut ask = |ask: Ask| match network.ask(ask, &mut hosts, &|| signals.pending()) {
        Answer::Error(text) => Err(ClientError::Refused(text)),
        answer => Ok(answer),
    };
    let report = test(lab, how, &mut ask, signals);
    hosts.remove_devices();
    drop(network);
    drop(hosts);
    Ok(Report { up_seconds: Some(up_seconds), ..report? })
}

/// Why a lab could not be tested.
#[derive(Debug, thiserror::Error)]
pub(super) enum TestError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(
        "lab {lab} has nothing to try: no pod declares a containerPort that TCP or UDP is spoken on, and nothing lies \
         outside"
    )]
    Nothing { lab: String },
}

/// Whoever answers for the lab.
pub(super) type Lab<'a> = &'a mut dyn FnMut(Ask) -> Result<Answer, ClientError>;

/// Tests a lab that is up.
pub(super) fn test(lab: &str, how: &How, ask: Lab<'_>, signals: &Signals) -> Result<Report, TestError> {
    let Answer::Facts(facts) = ask(Ask::Facts)? else {
        return Err(ClientError::Unexpected { lab: lab.to_owned() }.into());
    };
    allow_many_files();
    let mut outside = Prediction::of(&facts).ports_outside(PORTS_OUTSIDE);
    outside.extend([Transport::Tcp, Transport::Udp].map(|t| (t, PORT_OUTSIDE)));
    // Serves as long as it is kept.
    let (_world, outside) = serve_outside(lab, outside)?;
    let pairs = Pairs::of(&facts, outside);
    let sample = how.pick(pairs.count());
    let probes = match sample {
        Some(Sample { pairs: most, seed, .. }) => pairs.sample(most, seed),
        None => pairs.all(),
    };
    if probes.is_empty() {
        return Err(TestError::Nothing { lab: lab.to_owned() });
    }
    let began = Instant::now();
    let mut verdicts = tried(lab, &probes, how.patience, signals)?;
    let seconds = began.elapsed().as_secs_f64();
    settle(lab, &probes, &mut verdicts, ask)?;
    Ok(Report {
        lab: lab.to_owned(),
        sample,
        up_seconds: None,
        seconds,
        probes: probes.len(),
        differences: differences(lab, &probes, &verdicts, ask)?,
        kinds: Report::count(&probes, &verdicts),
        left_out: facts.left_out,
    })
}

/// Tries all probes and shows how it goes on.
fn tried(
    lab: &str,
    probes: &[Probe],
    patience: Duration,
    signals: &Signals,
) -> Result<Vec<Option<Verdict>>, TestError> {
    let course = Course::default();
    let bar = supervise::bar();
    let verdicts = thread::scope(|scope| {
        let engine = scope.spawn(|| engine::run(lab, probes, patience, &course));
        while !course.over.load(Ordering::Relaxed) && !engine.is_finished() {
            let done = course.done.load(Ordering::Relaxed);
            supervise::show(&bar, done as u64, probes.len() as u64, "connections");
            if signals.come_within(GLANCE) {
                course.stop.store(true, Ordering::Relaxed);
                break;
            }
        }
        // A panic there was reported there.
        engine.join().unwrap_or(Err(LabError::Interrupted))
    });
    bar.finish_and_clear();
    let verdicts = verdicts?;
    // With a signal, or a thread that ended early, some were not tried.
    if verdicts.iter().any(Option::is_none) {
        return Err(LabError::Interrupted.into());
    }
    Ok(verdicts)
}

/// Whether what was refused was rejected by a policy, as it was to be.
fn settle(
    lab: &str,
    probes: &[Probe],
    verdicts: &mut [Option<Verdict>],
    ask: Lab<'_>,
) -> Result<(), TestError> {
    let refused = |verdict: &Option<Verdict>| matches!(verdict, Some(Verdict::Refused(_)));
    let at: Vec<usize> = (0..probes.len()).filter(|at| refused(&verdicts[*at])).collect();
    for some in at.chunks(EXPLAINED) {
        let questions = some.iter().map(|at| Question::of(&probes[*at])).collect();
        for (at, by) in some.iter().zip(explained(lab, questions, ask)?) {
            let Some(Verdict::Refused(but)) = verdicts[*at].take() else { continue };
            let rejected = by.is_some_and(|by| by.rejects);
            verdicts[*at] = Some(if rejected { Verdict::AsPredicted } else { Verdict::Differs(but) });
        }
    }
    Ok(())
}

/// Who denies each of these connections.
fn explained(lab: &str, questions: Vec<Question>, ask: Lab<'_>) -> Result<Vec<Option<Denier>>, TestError> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    match ask(Ask::Explain(questions))? {
        Answer::Explained(explained) => Ok(explained),
        _ => Err(ClientError::Unexpected { lab: lab.to_owned() }.into()),
    }
}

/// What went otherwise than predicted, and the policies that were to deny it.
fn differences(
    lab: &str,
    probes: &[Probe],
    verdicts: &[Option<Verdict>],
    ask: Lab<'_>,
) -> Result<Vec<Difference>, TestError> {
    let differing = probes.iter().zip(verdicts).filter_map(|(probe, verdict)| match verdict {
        Some(Verdict::Differs(but)) => Some((probe, but)),
        _ => None,
    });
    let differing: Vec<(&Probe, &String)> = differing.collect();
    let denied = || differing.iter().filter(|(probe, _)| probe.expected == Expected::Denied);
    let questions = denied().take(EXPLAINED).map(|(probe, _)| Question::of(probe)).collect();
    let mut reasons = explained(lab, questions, ask)?.into_iter();
    let difference = |(probe, but): (&Probe, &String)| {
        let denied = probe.expected == Expected::Denied;
        let by = if denied { reasons.next().flatten() } else { None };
        Difference::of(probe, but, by.map(|by| by.policy).as_deref())
    };
    Ok(differing.into_iter().map(difference).collect())
}

/// Serves ports outside, for pods to be seen there. Those that someone else has are left to them, and not tried.
fn serve_outside(
    lab: &str,
    ports: BTreeSet<(Transport, u16)>,
) -> Result<(Responder, BTreeSet<(Transport, u16)>), LabError> {
    let failed = |what| move |source| LabError::System { place: OUTSIDE.to_owned(), what, source };
    let netns = Netns::open(&netns::name(lab, OUTSIDE)).map_err(failed("open its network namespace"))?;
    let bind = || {
        netns.enter().map_err(failed("enter its network namespace"))?;
        let identity = Arc::new(Identity::of(OUTSIDE, OUTSIDE));
        let bound = ports.iter().filter_map(|&(transport, port)| {
            let served = responder::bind(&identity, transport.into(), port, false).ok()?;
            Some(((transport, port), served))
        });
        Ok(bound.collect::<Vec<_>>())
    };
    let bound = thread::scope(|scope| scope.spawn(bind).join());
    let (ports, served): (BTreeSet<_>, Vec<_>) =
        bound.unwrap_or(Err(LabError::Interrupted))?.into_iter().unzip();
    Ok((Responder::start(served).map_err(failed("start its servers"))?, ports))
}

/// For conformance cases, whose probes come from elsewhere.
#[cfg(test)]
pub(super) mod parts {
    pub(in crate::lab) use super::{
        engine::{Course, run},
        facts::Transport,
        probes::{Expected, Kind, Pairs, Probe, Seen},
        verdict::Verdict,
    };
}
