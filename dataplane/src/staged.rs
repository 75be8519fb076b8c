//! What firewalls that are not enforced would have done to new connections.
//!
//! A port may have, beside the firewalls that decide, others that are only asked ([`EndpointPort::staged`]). Where
//! they say otherwise about a connection, it is counted here under the rule that would have decided, with a few of
//! the connections as samples. Connections that live are not asked about again.
//!
//! [`EndpointPort::staged`]: crate::snapshot::EndpointPort::staged

use crate::{id::RuleId, rewrite::Tuple, time::Instant};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Connections that are kept of a rule: the latest.
pub const SAMPLES: usize = 8;

/// Rules of which connections are kept; others are only counted.
const SAMPLED_RULES: usize = 4096;

/// All that was counted, of as many rules as there are.
#[derive(Debug, Default)]
pub struct Staged(Mutex<BTreeMap<RuleId, StagedCount>>);

/// What a rule would have done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StagedCount {
    /// First packets of connections that passed, and that it would have dropped or rejected.
    pub would_deny: u64,
    /// First packets that were dropped or rejected, and that it would have let pass at the same side.
    pub would_allow: u64,
    /// The latest of them, oldest first: when, what, and whether it would have been denied.
    pub samples: VecDeque<Sample>,
}

/// A connection about which an enforced firewall and one that is not disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When its packet came.
    pub at: Instant,
    /// The packet as the firewall saw it: behind any load balancer.
    pub tuple: Tuple,
    /// It passed and would have been denied; else the other way round.
    pub would_deny: bool,
}

impl Staged {
    /// Counts a disagreement. Held for a moment, and only where there is one.
    pub(crate) fn count(&self, rule: RuleId, sample: Sample) {
        let mut rules = self.lock();
        let is_sampled =
            rules.len() < SAMPLED_RULES || rules.get(&rule).is_some_and(|c| !c.samples.is_empty());
        let count = rules.entry(rule).or_default();
        if sample.would_deny {
            count.would_deny += 1;
        } else {
            count.would_allow += 1;
        }
        if is_sampled {
            if count.samples.len() == SAMPLES {
                count.samples.pop_front();
            }
            count.samples.push_back(sample);
        }
    }

    /// What was counted, by the rule that would have decided.
    pub fn counts(&self) -> BTreeMap<RuleId, StagedCount> {
        self.lock().clone()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RuleId, StagedCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
