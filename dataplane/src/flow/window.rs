//! TCP windows: which segments of a connection can be its own, for those who want that checked.
//!
//! A middle box sees what each side sends and what the other has told it that it may send. From that it knows bounds
//! on the sequence and acknowledgment numbers of every honest segment (G. van Rooij, "Real Stateful TCP Packet
//! Filtering in IP Filter", 2001; Linux's connection tracking does the same). Whoever guesses addresses and ports must
//! then guess numbers, too. Of resets, only those count whose number the receiver can be waiting for (RFC 5961, 3).
//!
//! Every segment is looked at with its session's lock held, so this is an option.

use super::{Direction, SessionId};
use crate::{
    sync::{AtomicU32, Ordering},
    wire::{tcp::Segment, tcp_flags},
};

/// How far behind an acknowledgment may be whatever the window: the largest there is without scaling.
const LATE_ACK: u32 = 66_000;

/// What is known of one side of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Side {
    /// One more than the highest number it has sent.
    end: u32,
    /// One more than the highest that it may send.
    max_end: u32,
    /// The largest window that it has offered; zero before its first segment.
    max_window: u32,
    /// The highest number that it has acknowledged.
    max_ack: u32,
    /// By how many bits its windows are shifted, and whether it has [`OFFERED`] a scale, and has [`ACKED`].
    flags: u32,
}

const SCALE: u32 = 0xff;
/// It has offered to scale its windows.
const OFFERED: u32 = 1 << 8;
/// It has acknowledged something.
const ACKED: u32 = 1 << 9;

/// How much data a SYN may carry that its answer does not acknowledge (RFC 7413, 4.2.2).
const SYN_DATA: u32 = 1_500;

impl Side {
    /// What a SYN says of its sender.
    fn of_syn(segment: &Segment) -> Self {
        let window = u32::from(segment.window).max(1);
        let offered = segment.scale.map_or(0, |scale| u32::from(scale.min(14)) | OFFERED);
        let (max_ack, acked) = segment.ack.map_or((0, 0), |ack| (ack, ACKED));
        Self { end: segment.end, max_end: segment.end, max_window: window, max_ack, flags: offered | acked }
    }

    fn is_known(&self) -> bool {
        self.max_window > 0
    }
}

/// Whether `a` comes before `b` (RFC 9293, 3.4).
fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether a segment may be the sender's. If so, `sender` and `receiver` take note of it.
fn pass(sender: &mut Side, receiver: &mut Side, segment: &Segment, answered: bool) -> bool {
    let syn = segment.flags & tcp_flags::SYN != 0;
    // A SYN that answers says more than one that did not.
    let answers_now = syn && segment.ack.is_some() && sender.flags & ACKED == 0;
    if !sender.is_known() || answers_now {
        // Nothing but a SYN begins; an answer acknowledges what it answers.
        let acknowledges = |ack: u32| receiver.is_known() && receiver.end.wrapping_sub(ack) <= SYN_DATA;
        let answers = segment.ack.is_none_or(acknowledges);
        let refuses = segment.flags & tcp_flags::RST != 0 && segment.ack.is_some();
        // Who remembers another connection acknowledges that, and gets a reset (RFC 9293, 3.5.1).
        let remembers = segment.flags & (tcp_flags::SYN | tcp_flags::RST) == 0 && segment.ack.is_some();
        if remembers && receiver.is_known() {
            return true;
        }
        if !answers || !(syn || refuses) {
            return false;
        }
        if refuses {
            return true;
        }
        *sender = Side::of_syn(segment);
        if segment.ack.is_some() {
            receiver.max_end = segment.end_of_window(0);
        }
        // Scaling is for both or none (RFC 7323, 1.3).
        if receiver.is_known() && sender.flags & receiver.flags & OFFERED == 0 {
            sender.flags &= ACKED;
            receiver.flags &= ACKED;
        }
        return true;
    }
    if syn && segment.ack.is_none() {
        // It tries once more, maybe from another number. If it was answered before, it has forgotten that, and will be
        // told so; its numbers count once it has begun anew.
        if !answered {
            *sender = Side::of_syn(segment);
        }
        return true;
    }
    let reset = segment.flags & tcp_flags::RST != 0;
    if !receiver.is_known() {
        // Data before an answer has no window to be in; but who opened may give up, or may have been told of another
        // connection's numbers.
        return reset;
    }
    let ack = segment.ack.unwrap_or(receiver.end);
    let late = sender.max_window.max(LATE_ACK);
    let in_window = !before(sender.max_end, segment.seq)
        && !before(segment.end, sender.end.wrapping_sub(receiver.max_window))
        && !before(receiver.end, ack)
        && !before(ack, receiver.end.wrapping_sub(late));
    let is_behind = receiver.flags & ACKED != 0 && before(segment.seq, receiver.max_ack);
    // What was lost before it came here may have reached up to the end of its window.
    let is_expected = !reset || !(is_behind || before(sender.max_end, segment.seq));
    if !in_window || !is_expected {
        return false;
    }
    let scale = if syn { 0 } else { sender.flags & SCALE };
    let window = u32::from(segment.window) << scale;
    sender.max_window = sender.max_window.max(window);
    if before(sender.end, segment.end) {
        sender.end = segment.end;
    }
    if before(sender.max_end, segment.end) {
        // A probe of a closed window.
        receiver.max_window = receiver.max_window.wrapping_add(segment.end.wrapping_sub(sender.max_end));
    }
    if let Some(ack) = segment.ack {
        if sender.flags & ACKED == 0 || before(sender.max_ack, ack) {
            sender.max_ack = ack;
            sender.flags |= ACKED;
        }
        let end = ack.wrapping_add(window.max(1));
        if before(receiver.max_end, end) {
            receiver.max_end = end;
        }
    }
    true
}

/// The windows of all sessions.
#[derive(Debug)]
pub struct Windows {
    /// By session, each forward and reverse.
    sides: Box<[[AtomicU32; 10]]>,
}

impl Windows {
    /// For as many sessions.
    pub fn new(sessions: usize) -> Self {
        Self { sides: (0..sessions).map(|_| Default::default()).collect() }
    }

    /// Whether a segment may be its sender's. The caller holds the session's lock.
    pub fn pass(&self, id: SessionId, direction: Direction, segment: &Segment, answered: bool) -> bool {
        let Some(words) = self.sides.get(id.0 as usize) else { return true };
        let (forward, reverse) = words.split_at(5);
        let (from, to) = match direction {
            Direction::Forward => (forward, reverse),
            Direction::Reverse => (reverse, forward),
        };
        let (mut sender, mut receiver) = (load(from), load(to));
        let passes = pass(&mut sender, &mut receiver, segment, answered);
        if passes {
            store(from, sender);
            store(to, receiver);
        }
        passes
    }

    /// Forgets a session that ends. The caller holds its lock.
    pub fn clear(&self, id: SessionId) {
        let words = self.sides.get(id.0 as usize);
        words.into_iter().flatten().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

fn load(words: &[AtomicU32]) -> Side {
    let word = |n: usize| words.get(n).map_or(0, |word| word.load(Ordering::Relaxed));
    Side { end: word(0), max_end: word(1), max_window: word(2), max_ack: word(3), flags: word(4) }
}

fn store(words: &[AtomicU32], side: Side) {
    let all = [side.end, side.max_end, side.max_window, side.max_ack, side.flags];
    words.iter().zip(all).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use Direction::{Forward, Reverse};
    use tcp_flags::{ACK, FIN, RST, SYN};

    /// A connection whose numbers are counted from these, so that they wrap.
    struct Connection {
        windows: Windows,
        base: [u32; 2],
        answered: bool,
    }

    const ID: SessionId = SessionId(0);

    impl Connection {
        fn new() -> Self {
            Self { windows: Windows::new(1), base: [u32::MAX - 500, u32::MAX - 70], answered: false }
        }

        /// A segment with numbers counted from the bases.
        fn send(&mut self, direction: Direction, flags: u8, seq: u32, len: u32, ack: u32) -> bool {
            self.send_with(direction, flags, (seq, len, ack), 1000, None)
        }

        fn send_with(
            &mut self,
            direction: Direction,
            flags: u8,
            (seq, len, ack): (u32, u32, u32),
            window: u16,
            scale: Option<u8>,
        ) -> bool {
            let [own, other] = if direction == Forward { self.base } else { [self.base[1], self.base[0]] };
            let seq = own.wrapping_add(seq);
            let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            let end = seq.wrapping_add(len + counted);
            let ack = (flags & ACK != 0).then(|| other.wrapping_add(ack));
            let passes = self.windows.pass(
                ID,
                direction,
                &Segment { flags, seq, end, ack, window, scale },
                self.answered,
            );
            self.answered |= passes && direction == Reverse && flags & SYN != 0;
            passes
        }

        fn established() -> Self {
            let mut c = Self::new();
            assert!(c.send(Forward, SYN, 0, 0, 0));
            assert!(c.send(Reverse, SYN | ACK, 0, 0, 1));
            assert!(c.send(Forward, ACK, 1, 0, 1));
            c
        }
    }

    #[test]
    fn an_honest_connection_passes() {
        let mut c = Connection::new();
        for _ in 0..3 {
            // Sent again, and from another number the second time.
            assert!(c.send(Forward, SYN, 0, 0, 0));
            c.base[0] = c.base[0].wrapping_add(1 << 30);
        }
        c.base[0] = c.base[0].wrapping_sub(1 << 30);
        assert!(c.send(Reverse, SYN | ACK, 0, 0, 1));
        assert!(c.send(Forward, SYN, 0, 0, 0), "the answer was lost");
        assert!(c.send(Reverse, SYN | ACK, 0, 0, 1));
        assert!(c.send(Forward, ACK, 1, 0, 1));
        for n in 0..10 {
            assert!(c.send(Forward, ACK, 1 + 500 * n, 500, 1));
            assert!(c.send(Reverse, ACK, 1, 0, 501 + 500 * n));
        }
        // Sent again; out of order; the window filled to the last byte; a keepalive.
        assert!(c.send(Forward, ACK, 4501, 500, 1));
        assert!(c.send(Forward, ACK, 5501, 500, 1));
        assert!(c.send(Forward, ACK, 5001, 500, 1));
        assert!(c.send(Reverse, ACK, 1, 0, 6001));
        assert!(c.send(Forward, ACK, 6000, 0, 1));
        // Both close.
        assert!(c.send(Forward, FIN | ACK, 6001, 0, 1));
        assert!(c.send(Reverse, ACK, 1, 0, 6002));
        assert!(c.send(Reverse, FIN | ACK, 1, 0, 6002));
        assert!(c.send(Forward, ACK, 6002, 0, 2));
        assert!(c.send(Reverse, RST, 2, 0, 0));
    }

    #[test]
    fn what_does_not_fit_the_windows_fails() {
        let mut c = Connection::established();
        assert!(!c.send(Forward, ACK, 1002, 0, 1), "beyond what it may send");
        assert!(!c.send(Forward, ACK, 1_000_000, 10, 1));
        assert!(!c.send(Forward, ACK, 1, 10, 2), "acknowledges what was never sent");
        assert!(!c.send(Reverse, ACK, 1, 10, 2));
        assert!(!c.send(Reverse, ACK, 1u32.wrapping_sub(2000), 10, 1), "older than any window");
        assert!(c.send(Reverse, ACK, 1, 900, 1));
        assert!(!c.send(Forward, ACK, 1, 0, 1u32.wrapping_sub(70_000)), "acknowledges what is long past");
        assert!(c.send(Forward, ACK, 1, 1000, 901), "and nothing of that changed a thing");
    }

    #[test]
    fn a_reset_counts_only_where_it_is_waited_for() {
        for (seq, counts) in [
            (0, false),
            (1, false),
            (400, false),
            (401, true),
            (600, true),
            (602, true),
            (1401, true),
            (1402, false),
        ] {
            let mut c = Connection::established();
            assert!(c.send(Forward, ACK, 1, 400, 1));
            assert!(c.send(Reverse, ACK, 1, 0, 401));
            assert!(c.send(Forward, ACK, 401, 200, 1));
            assert_eq!(c.send(Forward, RST, seq, 0, 0), counts, "{seq}");
        }
        // A call that is refused, one that is given up, and what only pretends to be either.
        let mut c = Connection::new();
        assert!(c.send(Forward, SYN, 0, 0, 0));
        let zero = 0u32.wrapping_sub(c.base[1]);
        assert!(!c.send(Reverse, RST, zero, 0, 0));
        assert!(!c.send(Reverse, RST | ACK, zero, 0, 9));
        assert!(c.send(Reverse, RST | ACK, zero, 0, 1));
        assert!(c.send(Forward, RST, 1, 0, 0));
    }

    #[test]
    fn windows_are_scaled_if_both_agree() {
        for (theirs, room) in [(Some(3), 8000), (None, 1000)] {
            let mut c = Connection::new();
            assert!(c.send_with(Forward, SYN, (0, 0, 0), 1000, Some(7)));
            assert!(c.send_with(Reverse, SYN | ACK, (0, 0, 1), 1000, theirs));
            // A SYN's own window is not scaled.
            assert!(!c.send(Forward, ACK, 1002, 0, 1));
            assert!(c.send(Forward, ACK, 1, 0, 1));
            assert!(c.send(Reverse, ACK, 1, 0, 1));
            assert!(!c.send(Forward, ACK, 2 + room, 0, 1), "{theirs:?}");
            assert!(c.send(Forward, ACK, 1 + room, 0, 1), "{theirs:?}");
        }
    }

    #[test]
    fn an_answer_fits_its_call() {
        let mut c = Connection::new();
        assert!(!c.send(Reverse, SYN | ACK, 0, 0, 1), "to no call");
        // With data, of which the answer takes all or none.
        assert!(c.send(Forward, SYN, 0, 600, 0));
        assert!(!c.send(Reverse, SYN | ACK, 0, 0, 602));
        assert!(!c.send(Reverse, SYN | ACK, 0, 0, 1u32.wrapping_sub(2000)));
        assert!(c.send(Reverse, ACK, 700, 0, 9), "of another connection");
        assert!(c.send(Forward, RST, 9, 0, 0), "which is told so");
        assert!(!c.send(Forward, ACK, 601, 10, 1), "before the answer");
        assert!(c.send(Reverse, SYN | ACK, 0, 0, 1));
    }

    #[test]
    fn a_closed_window_may_be_probed_and_opens_again() {
        let mut c = Connection::established();
        assert!(c.send(Forward, ACK, 1, 1000, 1));
        assert!(c.send_with(Reverse, ACK, (1, 0, 1001), 0, None));
        assert!(c.send(Forward, ACK, 1001, 1, 1), "a probe of one byte");
        assert!(c.send_with(Reverse, ACK, (1, 0, 1001), 0, None));
        assert!(!c.send(Forward, ACK, 1005, 1, 1));
        assert!(c.send_with(Reverse, ACK, (1, 0, 1002), 500, None));
        assert!(c.send(Forward, ACK, 1002, 500, 1));
    }

    #[test]
    fn both_may_call_at_once() {
        let mut c = Connection::new();
        assert!(c.send(Forward, SYN, 0, 0, 0));
        assert!(c.send(Reverse, SYN, 0, 0, 0));
        assert!(c.send(Forward, SYN | ACK, 0, 0, 1));
        assert!(c.send(Reverse, SYN | ACK, 0, 0, 1));
        assert!(c.send(Forward, ACK, 1, 100, 1));
        assert!(c.send(Reverse, ACK, 1, 100, 101));
    }

    #[test]
    fn a_session_that_ended_leaves_nothing() {
        let mut c = Connection::established();
        c.windows.clear(ID);
        c.answered = false;
        assert!(!c.send(Forward, ACK, 1, 10, 1));
        assert!(c.send(Forward, SYN, 77, 0, 0));
    }
}
