//! What is asked of all connections together: a log of them, and who lives by which rule.

use super::{Command, Dataplane, lock};
use crate::{
    flowlog::{self, FlowLog, FlowReader},
    id::RuleId,
    time::Instant,
};
use std::collections::BTreeMap;

impl Dataplane {
    /// Logs when connections begin and end, and which are not let in, from every worker's next poll on, until what is
    /// returned is dropped. Nothing waits for who reads: what does not fit is missed, and counted.
    pub fn log_flows(&self, options: &FlowLog) -> FlowReader {
        let (mut desks, reader) = flowlog::begin(options, self.shared.workers.len() + 1);
        let mut logs = lock(&self.shared.logs);
        if let Some(desk) = desks.pop() {
            // Nothing else reminds of logs that nobody reads any more.
            logs.let_go();
            logs.add(desk, Instant::ZERO);
        }
        drop(logs);
        for (worker, desk) in self.shared.workers.iter().zip(desks) {
            let _ = worker.commands.send(Command::Log(desk));
        }
        self.shared.wake_all();
        reader
    }

    /// How many live sessions each firewall rule has decided on, as it is now.
    pub fn sessions_by_rule(&self) -> BTreeMap<RuleId, u64> {
        // Few tallies, many sessions.
        let mut tallies: BTreeMap<u32, u64> = BTreeMap::new();
        self.for_each_session(|_, session, _| *tallies.entry(session.tally).or_default() += 1);
        let mut rules = BTreeMap::new();
        for (tally, count) in tallies {
            let key = self.shared.state.tallies.key(tally).unwrap_or_default();
            for rule in key.rules() {
                *rules.entry(rule).or_default() += count;
            }
        }
        rules
    }
}
