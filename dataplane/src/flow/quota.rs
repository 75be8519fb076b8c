//! Quotas: how many connections each pod and each namespace has, and whether it may have another.
//!
//! ```text
//!   new ──▶ who pays? ──▶ pod: connections, half open, a token ──▶ namespace: the same ──▶ QuotaClaim
//!                              └── at its limit: a DropReason           └── kept in commit, or dropped: undone
//! ```
//!
//! Every session that is counted has one payer ([`Payer`]), which its record remembers, so that what was counted is
//! given back, once, whatever was published meanwhile. Counts are words that all workers share, and never above a
//! limit by a race. While no snapshot has limits nothing is counted, and a new connection costs two loads.
//!
//! New connections a second are a bucket of tokens as one number: until when what was let in is paid for (the generic
//! cell rate algorithm, ITU-T I.371). Time is passed in; all of it is integers.

use crate::{
    counters::Grow,
    id::{NamespaceId, PortId},
    sync::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Instant,
    verdict::DropReason,
};
use std::{mem, num::NonZeroU32};

/// What one pod or one namespace may have. `None`: any number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ConnectionLimits {
    /// Connections at one time, of any protocol.
    pub connections: Option<NonZeroU32>,
    /// TCP connections at one time whose handshake is not complete.
    pub half_open: Option<NonZeroU32>,
    /// New connections a second, and as many at once after a second of rest.
    pub new_per_second: Option<NonZeroU32>,
}

impl ConnectionLimits {
    /// Any number of everything.
    pub const NONE: Self = Self { connections: None, half_open: None, new_per_second: None };

    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

/// Which end of a connection it counts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payer {
    /// The port that its first packet came in by.
    Caller,
    /// The port that its first packet left by.
    Called,
}

/// What a pod or namespace has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QuotaUsage {
    /// Connections that count for it now.
    pub connections: u32,
    /// Those of them that are half open.
    pub half_open: u32,
    /// Packets that would have opened one more, and were dropped for a limit of its own.
    pub refused: u64,
}

impl QuotaUsage {
    /// Which limit another connection would meet now. Rates are left out: they depend on the time.
    fn limit(&self, limits: &ConnectionLimits, half_open: bool) -> Option<Limit> {
        let is_met = |n: u32, limit: Option<NonZeroU32>| limit.is_some_and(|limit| n >= limit.get());
        if is_met(self.connections, limits.connections) {
            return Some(Limit::Connections);
        }
        (half_open && is_met(self.half_open, limits.half_open)).then_some(Limit::HalfOpen)
    }
}

/// Which limit is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Limit {
    Connections,
    HalfOpen,
    Rate,
}

impl Limit {
    fn of_pod(self) -> DropReason {
        match self {
            Self::Connections => DropReason::PodConnections,
            Self::HalfOpen => DropReason::PodHalfOpen,
            Self::Rate => DropReason::PodConnectionRate,
        }
    }

    fn of_namespace(self) -> DropReason {
        match self {
            Self::Connections => DropReason::NamespaceConnections,
            Self::HalfOpen => DropReason::NamespaceHalfOpen,
            Self::Rate => DropReason::NamespaceConnectionRate,
        }
    }
}

/// What one pod or namespace has. A cache line, so that tenants do not wait for each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Row {
    connections: AtomicU32,
    half_open: AtomicU32,
    /// Until when the connections let in are paid for, nanoseconds.
    paid_until: AtomicU64,
    refused: AtomicU64,
    /// Of a pod: one more than the number of the namespace it counts for; 0: not known yet. It stays, as names of
    /// ports do.
    namespace: AtomicU32,
}

/// One more, if that is allowed.
fn take(count: &AtomicU32, limit: Option<NonZeroU32>) -> bool {
    let Some(limit) = limit else {
        count.fetch_add(1, Ordering::Relaxed);
        return true;
    };
    let one_more = |n: u32| (n < limit.get()).then_some(n + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

fn give_back(count: &AtomicU32) {
    let before = count.fetch_sub(1, Ordering::Relaxed);
    debug_assert!(before > 0, "given back more often than taken");
}

impl Row {
    fn claim(&self, limits: &ConnectionLimits, half_open: bool, now: Instant) -> Result<Held<'_>, Limit> {
        let mut held = Held { row: self, connection: false, half_open: false, paid: 0 };
        held.connection = take(&self.connections, limits.connections);
        if !held.connection {
            return Err(Limit::Connections);
        }
        held.half_open = half_open && take(&self.half_open, limits.half_open);
        if held.half_open != half_open {
            return Err(Limit::HalfOpen);
        }
        held.paid = self.pay(limits.new_per_second, now).ok_or(Limit::Rate)?;
        Ok(held)
    }

    /// Takes a token; what it costs, in nanoseconds. `None`: there is none left.
    fn pay(&self, rate: Option<NonZeroU32>, now: Instant) -> Option<u64> {
        let Some(rate) = rate else { return Some(0) };
        let rate = u64::from(rate.get());
        // Rounded up: never more than the rate.
        let price = 1_000_000_000_u64.div_ceil(rate);
        let now = now.micros().saturating_mul(1000);
        let most = now.saturating_add(price * rate);
        let pay = |until: u64| Some(until.max(now).saturating_add(price)).filter(|until| *until <= most);
        self.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).ok().map(|_| price)
    }

    fn usage(&self) -> QuotaUsage {
        QuotaUsage {
            connections: self.connections.load(Ordering::Relaxed),
            half_open: self.half_open.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    fn namespace(&self) -> Option<NamespaceId> {
        self.namespace.load(Ordering::Relaxed).checked_sub(1).map(NamespaceId)
    }

    /// The namespace it counts for: `namespace`, unless it has had another.
    fn bind(&self, namespace: NamespaceId) -> NamespaceId {
        if let Some(bound) = self.namespace() {
            return bound;
        }
        let id = namespace.0.saturating_add(1);
        match self.namespace.compare_exchange(0, id, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => namespace,
            Err(bound) => NamespaceId(bound - 1),
        }
    }
}

/// What was taken of a row. Dropped, it is given back.
#[derive(Debug)]
struct Held<'a> {
    row: &'a Row,
    connection: bool,
    half_open: bool,
    /// What the token cost.
    paid: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.connection {
            give_back(&self.row.connections);
        }
        if self.half_open {
            give_back(&self.row.half_open);
        }
        if self.paid > 0 {
            let refund = |until: u64| Some(until.saturating_sub(self.paid));
            let _ = self.row.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, refund);
        }
    }
}

/// A connection that is counted, of a pod and its namespace. Dropped, it is counted no more, as if it had never been.
#[derive(Debug)]
#[must_use]
pub struct QuotaClaim<'a> {
    held: [Held<'a>; 2],
}

impl QuotaClaim<'_> {
    /// The connection is made: [`Quotas::end`] gives back what it holds.
    pub fn keep(self) {
        self.held.into_iter().for_each(mem::forget);
    }
}

/// What all pods and namespaces have.
#[derive(Debug)]
pub struct Quotas {
    counting: AtomicBool,
    pods: Grow<Row>,
    namespaces: Grow<Row>,
}

impl Default for Quotas {
    fn default() -> Self {
        let rows = || Grow::new(PortId::MAX as usize);
        Self { counting: AtomicBool::new(false), pods: rows(), namespaces: rows() }
    }
}

impl Quotas {
    /// Whether new connections are counted.
    #[inline]
    pub fn is_counting(&self) -> bool {
        self.counting.load(Ordering::Relaxed)
    }

    /// Counts new connections from now on, or no more. Whether that is a change to counting: whoever makes it has to
    /// count the connections that there are ([`Quotas::adopt`]), each with its place locked. One that is made
    /// meanwhile is counted by whoever makes it, unless it was made before its place is locked for that.
    #[must_use]
    pub fn set_counting(&self, counting: bool) -> bool {
        !self.counting.swap(counting, Ordering::SeqCst) && counting
    }

    /// Counts a connection of a pod, if limits allow it: the pod's, and those that `of_namespace` says.
    ///
    /// # Errors
    /// The limit that is reached. Nothing was counted.
    pub fn claim(
        &self,
        (port, namespace): (PortId, NamespaceId),
        of_pod: &ConnectionLimits,
        of_namespace: impl Fn(NamespaceId) -> ConnectionLimits,
        half_open: bool,
        now: Instant,
    ) -> Result<QuotaClaim<'_>, DropReason> {
        let row = self.pods.at(port.index());
        let namespace = row.bind(namespace);
        let pod = row.claim(of_pod, half_open, now).map_err(Limit::of_pod)?;
        let row = self.namespaces.at(namespace.index());
        let namespace = row.claim(&of_namespace(namespace), half_open, now).map_err(Limit::of_namespace)?;
        Ok(QuotaClaim { held: [pod, namespace] })
    }

    /// Counts a connection that was made before connections were counted, whatever limits say.
    pub fn adopt(&self, (port, namespace): (PortId, NamespaceId), half_open: bool) {
        let row = self.pods.at(port.index());
        for row in [row, self.namespaces.at(row.bind(namespace).index())] {
            row.connections.fetch_add(1, Ordering::Relaxed);
            row.half_open.fetch_add(u32::from(half_open), Ordering::Relaxed);
        }
    }

    /// A counted connection's handshake is complete.
    pub fn establish(&self, port: PortId) {
        self.rows(port).for_each(|row| give_back(&row.half_open));
    }

    /// A counted connection has ended, which was half open or not.
    pub fn end(&self, port: PortId, half_open: bool) {
        for row in self.rows(port) {
            give_back(&row.connections);
            if half_open {
                give_back(&row.half_open);
            }
        }
    }

    /// A packet was dropped because of a limit of a pod or its namespace.
    #[cold]
    pub fn refuse(&self, port: PortId, reason: DropReason) {
        let all = [Limit::Connections, Limit::HalfOpen, Limit::Rate];
        let mut rows = self.rows(port);
        let row = if all.map(Limit::of_pod).contains(&reason) {
            rows.next()
        } else if all.map(Limit::of_namespace).contains(&reason) {
            rows.nth(1)
        } else {
            None
        };
        if let Some(row) = row {
            row.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Why another connection of a pod would be refused now, if it would; but for limits of new ones a second.
    pub fn would_refuse(
        &self,
        (port, namespace): (PortId, NamespaceId),
        (of_pod, of_namespace): (&ConnectionLimits, &ConnectionLimits),
        half_open: bool,
    ) -> Option<DropReason> {
        let pod = self.pod(port).limit(of_pod, half_open).map(Limit::of_pod);
        let namespace = || self.namespace(namespace).limit(of_namespace, half_open).map(Limit::of_namespace);
        pod.or_else(namespace)
    }

    /// What a pod has, by its port.
    pub fn pod(&self, port: PortId) -> QuotaUsage {
        self.pods.get(port.index()).map(Row::usage).unwrap_or_default()
    }

    /// What a namespace has.
    pub fn namespace(&self, namespace: NamespaceId) -> QuotaUsage {
        self.namespaces.get(namespace.index()).map(Row::usage).unwrap_or_default()
    }

    /// The rows of a pod whose connections were counted.
    fn rows(&self, port: PortId) -> impl Iterator<Item = &Row> {
        let pod = self.pods.at(port.index());
        let namespace = pod.namespace().map(|id| self.namespaces.at(id.index()));
        [Some(pod), namespace].into_iter().flatten()
    }
}

#[cfg(test)]
#[cfg(shuttle)]
mod interleavings;

#[cfg(test)]
mod tests;
