//! Half-open TCP connections give way to newer ones, and to any connection when there is no room left.

use super::Pipeline;
use crate::{
    flow::{HalfOpenEnd, HalfOpenEnds, Opened, Record},
    stage::{commit, log::Why},
    wire::Proto,
};

/// How many of the oldest are looked at for one that is still half open.
const LOOKED_AT: usize = 256;

impl Pipeline {
    /// Counts a new TCP connection, and ends the oldest if they are too many with it.
    #[inline]
    pub(super) fn limit_half_open(&mut self, new: Opened, ends: HalfOpenEnds) {
        for end in ends.into_iter().flatten() {
            let excess = self.opener.open(&self.state.half_open, Some(end), new);
            if excess > 0 && !self.snapshot.row(end.port).is_uplink {
                self.end_oldest_half_opens(excess, Some(end), new);
            }
        }
        let excess = self.opener.open(&self.state.half_open, None, new);
        if excess > 0 {
            self.end_oldest_half_opens(excess, None, new);
        }
    }

    #[cold]
    fn end_oldest_half_opens(&mut self, count: usize, end: Option<HalfOpenEnd>, newest: Opened) {
        (0..count).all(|_| self.end_oldest_half_open(end, Some(newest)));
    }

    /// Ends the connection, of an end or of all, that has been half open longest, unless that is the newest: the packet
    /// that opened it is still to be sent on. It can be the oldest that this worker knows of, where others opened the
    /// rest or where it goes from a port to itself. Whether there was one.
    #[cold]
    pub(super) fn end_oldest_half_open(&mut self, end: Option<HalfOpenEnd>, newest: Option<Opened>) -> bool {
        for _ in 0..LOOKED_AT {
            let Some(oldest) = self.opener.oldest(end).filter(|oldest| Some(*oldest) != newest) else {
                break;
            };
            self.opener.take_oldest(end);
            if self.end_half_open(oldest) {
                return true;
            }
        }
        false
    }

    /// Ends a connection, if it is still half open.
    fn end_half_open(&self, opened: Opened) -> bool {
        let state = &*self.state;
        let mut place = state.sessions.lock(opened.id);
        let is_it = |record: &Record| record.entries.0 == opened.entry && record.track.is_half_open();
        let Some(record) = place.get().filter(is_it) else { return false };
        if commit::session(state, &record).is_none_or(|session| session.original.proto != Proto::TCP) {
            return false;
        }
        commit::end(state, &mut place, &self.logs, Why::GaveWay);
        self.counters.half_open_ended.add(1);
        true
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.opener.say(&self.state.half_open);
    }
}
