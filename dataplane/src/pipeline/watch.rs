//! What captures see: frames taken one by one, what the slow path says of them, and where they went.
//!
//! ```text
//!   arrives: copy ─▶ the frame alone through the pipeline, into an Output of its own ─▶ departs: Record, Output
//!                          └ dropped, answered, held, denied, opened: said on the way
//!   leaves: copies of what a port is handed ─▶ left: Records
//! ```
//!
//! All of it is there only while somebody captures. A frame is known again by where its bytes lie, as it is moved and
//! never copied; what is known of one on its way out is forgotten when it has left.

mod about;

use super::{Output, Pipeline, fast};
use crate::{
    buf::{Frame, HEADER, Offload, Offloads, Pool},
    capture::{Direction, Record, Stage, Stages, Tap, Verdict},
    counters::TallyKey,
    id::{PortId, RuleId, ServerId},
    snapshot::Snapshot,
    state::State,
    time::Instant,
    verdict::DropReason,
    wire::{self, Packet, offload},
};
use about::rules_of;
use foldhash::{HashMap, HashMapExt};
use std::{
    cell::{Cell, RefCell},
    slice,
    sync::Arc,
};

/// A worker's share in the captures that go on.
pub(crate) struct Watch {
    taps: Vec<Arc<Tap>>,
    now: Cell<Instant>,
    snapshot: Arc<Snapshot>,
    current: RefCell<Current>,
    /// Frames on their way out, by where they lie.
    leaving: RefCell<HashMap<usize, Known>>,
    /// What a port is being handed, in order.
    handed: RefCell<Vec<Handed>>,
    /// What came of one frame. It is empty between batches, and keeps its room.
    own: RefCell<Output>,
}

/// The frame that goes through the pipeline.
#[derive(Default)]
struct Current {
    port: Option<PortId>,
    place: usize,
    packet: Option<Packet>,
    copy: Snap,
    fate: Option<Fate>,
    /// The rule that the slow path named last.
    rule: Option<RuleId>,
    opened: bool,
}

#[derive(Clone, Copy)]
enum Fate {
    Dropped(DropReason),
    Answered(Stage),
    Held,
}

/// A copy of a frame.
#[derive(Default, Clone)]
struct Snap {
    bytes: Vec<u8>,
    len: usize,
    offload: Option<Offload>,
}

impl Snap {
    /// Copies at most `most` bytes of a frame.
    fn take(&mut self, frame: &Frame, most: usize) {
        (self.len, self.offload) = (frame.len(), frame.offload());
        self.bytes.clear();
        self.go_on(frame, most);
    }

    /// Copies on from where it ends.
    fn go_on(&mut self, frame: &Frame, most: usize) {
        let end = frame.len().min(most);
        if let Some(rest) = frame.bytes().get(self.bytes.len()..end) {
            self.bytes.extend_from_slice(rest);
        }
    }

    fn of(frame: &Frame, most: usize) -> Self {
        let mut copy = Self::default();
        copy.take(frame, most);
        copy
    }
}

/// What is known of a frame beside its bytes.
#[derive(Clone, Default)]
struct Known {
    /// Where it came in; `None`: the network made it.
    from: Option<PortId>,
    stages: Stages,
    rules: (Option<RuleId>, Option<RuleId>),
    server: Option<ServerId>,
}

impl Known {
    fn rules_of(&mut self, key: TallyKey) {
        (self.rules, self.server) = ((key.egress_rule, key.ingress_rule), key.server);
    }
}

/// A frame that a port is handed, or a piece of it that was lost before.
struct Handed {
    place: usize,
    copy: Snap,
    known: Known,
}

/// Bytes from a frame's start on, beyond which nothing is rewritten: headers, and the headers that an ICMP error quotes.
const REWRITTEN: usize = 256;

/// Runs a batch, frame by frame.
#[cold]
#[inline(never)]
pub(super) fn process(
    pipeline: &mut Pipeline,
    frames: &mut Vec<Frame>,
    ports: &[PortId],
    now: Instant,
    out: &mut Output,
) {
    let mut one = Vec::with_capacity(1);
    let mut own = pipeline.watch.as_ref().map(|watch| watch.own.take()).unwrap_or_default();
    for (frame, port) in frames.drain(..).zip(ports) {
        if let Some(watch) = &pipeline.watch {
            watch.arrives(&frame, *port);
        }
        one.push(frame);
        fast::process(pipeline, &mut one, slice::from_ref(port), now, &mut own);
        match &pipeline.watch {
            Some(watch) => watch.departs(&pipeline.state, &mut own, out),
            None => own.drain(|port, frames| frames.drain(..).for_each(|frame| out.push(port, frame))),
        }
    }
    if let Some(watch) = &pipeline.watch {
        watch.own.replace(own);
    }
}

impl Watch {
    pub(super) fn new(snapshot: Arc<Snapshot>, now: Instant) -> Self {
        Self {
            taps: Vec::new(),
            now: Cell::new(now),
            snapshot,
            current: RefCell::default(),
            leaving: RefCell::new(HashMap::new()),
            handed: RefCell::default(),
            own: RefCell::default(),
        }
    }

    pub(super) fn add(&mut self, tap: Arc<Tap>) {
        tap.begin();
        self.taps.push(tap);
    }

    pub(super) fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
    }

    /// A poll begins. `false`: nobody reads any more.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        self.now.set(now);
        self.taps.retain(|tap| !tap.is_closed());
        !self.taps.is_empty()
    }

    /// Bytes of a frame that somebody wants.
    fn most(&self) -> usize {
        self.taps.iter().map(|tap| tap.snaplen()).max().unwrap_or(0)
    }

    /// Whether somebody may want what goes on through one of these ports.
    fn follows(&self, ports: &[PortId]) -> bool {
        self.taps.iter().any(|tap| ports.iter().any(|port| tap.follows(*port)))
    }

    fn arrives(&self, frame: &Frame, port: PortId) {
        let mut current = self.current.borrow_mut();
        // Of what is told only if it is dropped, no more need be copied than may be rewritten before.
        let most = if self.follows(&[port]) { self.most() } else { self.most().min(REWRITTEN) };
        current.copy.take(frame, most);
        let current = &mut *current;
        (current.port, current.place) = (Some(port), frame.place());
        current.packet = wire::parse(frame.bytes()).ok();
        (current.fate, current.rule, current.opened) = (None, None, false);
    }

    /// A frame is dropped: the one that is on its way, or another.
    #[cold]
    #[inline(never)]
    pub(super) fn dropped(&self, port: PortId, reason: DropReason, frame: &Frame) {
        let rule = {
            let mut current = self.current.borrow_mut();
            if current.port.is_some() && current.place == frame.place() && current.fate.is_none() {
                current.fate = Some(Fate::Dropped(reason));
                current.copy.go_on(frame, self.most());
                return;
            }
            current.rule
        };
        let known = Known {
            from: Some(port),
            stages: Stages::NONE.with(Stage::of_drop(reason, self.is_uplink(port))),
            rules: rules_of(reason, rule),
            server: None,
        };
        let at = (reason == DropReason::EgressDenied).then_some(port);
        let verdict = Verdict::Dropped { reason, at };
        self.emit(port, Direction::In, verdict, &known, &Snap::of(frame, self.most()), true);
    }

    /// There was no buffer for `count` copies or pieces of a frame that were to leave by `port`.
    #[cold]
    #[inline(never)]
    pub(super) fn lost(&self, port: PortId, of: &Frame, count: u64) {
        let known = self.of_current();
        self.tell_lost(port, &known, &Snap::of(of, self.most()), count);
    }

    fn tell_lost(&self, port: PortId, known: &Known, copy: &Snap, count: u64) {
        let reason = DropReason::NoBuffer;
        let known = Known { stages: Stages::NONE.with(Stage::of_drop(reason, false)), ..known.clone() };
        for _ in 0..count {
            let verdict = Verdict::Dropped { reason, at: known.from };
            self.emit(port, Direction::Out, verdict, &known, copy, false);
        }
    }

    fn of_current(&self) -> Known {
        Known { from: self.current.borrow().port, ..Known::default() }
    }

    /// The frame that is on its way is answered.
    #[cold]
    #[inline(never)]
    pub(super) fn answered(&self, stage: Stage) {
        self.current.borrow_mut().fate = Some(Fate::Answered(stage));
    }

    /// The frame that is on its way waits.
    #[cold]
    #[inline(never)]
    pub(super) fn held(&self) {
        self.current.borrow_mut().fate = Some(Fate::Held);
    }

    /// A rule denies what is on its way.
    #[cold]
    #[inline(never)]
    pub(super) fn denied(&self, rule: Option<RuleId>) {
        self.current.borrow_mut().rule = rule;
    }

    /// The packet that is on its way has opened a connection.
    #[cold]
    #[inline(never)]
    pub(super) fn opened(&self) {
        self.current.borrow_mut().opened = true;
    }

    /// The frame has gone through the pipeline, and `own` has what came of it.
    fn departs(&self, state: &State, own: &mut Output, out: &mut Output) {
        let mut current = self.current.borrow_mut();
        let Some(port) = current.port.take() else { return };
        let (mut to, mut went, mut sent) = (Vec::new(), Vec::new(), None);
        own.drain(|port, frames| {
            to.push(port);
            for frame in frames.drain(..) {
                if sent.is_none() {
                    sent = wire::parse(frame.bytes()).ok().map(|packet| (port, packet));
                }
                went.push(frame.place());
                out.push(port, frame);
            }
        });
        let mut known = Known { from: Some(port), ..Known::default() };
        if current.fate.is_none() && !self.follows(&[port]) && !self.follows(&to) {
            self.leaving.borrow_mut().extend(went.into_iter().map(|place| (place, known.clone())));
            return;
        }
        let meta = current.packet.as_ref().and_then(|packet| self.session(state, packet, port));
        let key = meta.and_then(|meta| state.tallies.key(meta.tally));
        let verdict = match current.fate {
            Some(Fate::Dropped(reason)) => {
                known.stages = Stages::NONE.with(Stage::of_drop(reason, self.is_uplink(port)));
                known.rules = rules_of(reason, current.rule);
                Verdict::Dropped { reason, at: self.denied_at(state, &current, (port, reason), meta) }
            }
            Some(Fate::Answered(stage)) => {
                known.stages = Stages::NONE.with(stage);
                Verdict::Answered
            }
            Some(Fate::Held) => {
                known.stages = Stages::NONE.with(Stage::Fragments);
                Verdict::Held
            }
            None => {
                known.stages = self.stages(state, &current, port, meta.is_some(), sent);
                if let Some(key) = key {
                    known.rules_of(key);
                }
                Verdict::Forwarded(to)
            }
        };
        let forwarded = matches!(verdict, Verdict::Forwarded(_));
        self.emit(port, Direction::In, verdict, &known, &current.copy, false);
        // What leaves for a frame that does not is the network's own: an answer, an error, a reset.
        let known = Known { from: known.from.filter(|_| forwarded), ..known };
        self.leaving.borrow_mut().extend(went.into_iter().map(|place| (place, known.clone())));
    }

    /// Does what a port cannot be left with, as [`offload::lower`] does, and knows the pieces again.
    #[cold]
    pub(crate) fn lower(
        &self,
        port: PortId,
        frames: &mut Vec<Frame>,
        offloads: Offloads,
        pool: &Pool,
    ) -> offload::Lowered {
        let mut all = offload::Lowered::default();
        for frame in std::mem::take(frames) {
            let known = self.leaving.borrow_mut().remove(&frame.place());
            let headers = frame.offload().map(|_| Snap::of(&frame, self.most().min(HEADER)));
            let mut pieces = vec![frame];
            let lowered = offload::lower(&mut pieces, offloads, pool);
            all = offload::Lowered { made: all.made + lowered.made, lost: all.lost + lowered.lost };
            if let Some(headers) = headers {
                let known = known.clone().unwrap_or_else(|| self.of_current());
                self.tell_lost(port, &known, &headers, lowered.lost);
            }
            if let Some(known) = known {
                let known = pieces.iter().map(|piece| (piece.place(), known.clone()));
                self.leaving.borrow_mut().extend(known);
            }
            frames.append(&mut pieces);
        }
        all
    }

    /// A port is about to be handed these frames.
    #[cold]
    pub(crate) fn leaves(&self, port: PortId, frames: &[Frame]) {
        let most = if self.follows(&[port]) { self.most() } else { 0 };
        let mut leaving = self.leaving.borrow_mut();
        let handed = frames.iter().map(|frame| Handed {
            place: frame.place(),
            copy: Snap::of(frame, most),
            known: leaving.remove(&frame.place()).unwrap_or_default(),
        });
        self.handed.borrow_mut().extend(handed);
    }

    /// The port has left these of them. A port that is not there has left them all.
    #[cold]
    pub(crate) fn left(&self, port: PortId, frames: &[Frame]) {
        if self.handed.borrow().is_empty() {
            self.leaves(port, frames);
        }
        for Handed { place, mut copy, mut known } in self.handed.borrow_mut().drain(..) {
            let verdict = match frames.iter().find(|frame| frame.place() == place) {
                None => Verdict::Sent { from: known.from },
                Some(frame) => {
                    let reason = DropReason::PortFull;
                    copy.go_on(frame, self.most());
                    known.stages = Stages::NONE.with(Stage::of_drop(reason, false));
                    Verdict::Dropped { reason, at: known.from }
                }
            };
            self.emit(port, Direction::Out, verdict, &known, &copy, false);
        }
    }

    fn emit(
        &self,
        port: PortId,
        direction: Direction,
        verdict: Verdict,
        known: &Known,
        copy: &Snap,
        late: bool,
    ) {
        let record = Record {
            at: self.now.get(),
            port,
            direction,
            verdict,
            stages: known.stages,
            rules: known.rules,
            server: known.server,
            late,
            offload: copy.offload,
            len: copy.len,
            data: Vec::new(),
            names: self.snapshot.names.clone(),
        };
        self.taps.iter().for_each(|tap| tap.offer(&record, &copy.bytes));
    }
}
