//! Which worker receives from which port.

use crate::id::PortId;

/// What was attached under an id, once: what is attached under it later is another attachment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attachment {
    pub(super) port: PortId,
    serial: u64,
}

impl Attachment {
    #[cfg(all(test, not(shuttle)))]
    pub(super) fn first(port: PortId) -> Self {
        Self { port, serial: 0 }
    }
}

/// The workers that receivers were dealt out to.
#[derive(Default)]
pub(super) struct Owners {
    /// A row for each receiver.
    rows: Vec<(Attachment, usize)>,
    /// How many attachments there have been.
    count: u64,
}

impl Owners {
    /// What is attached under an id.
    pub(super) fn of(&self, port: PortId) -> Option<Attachment> {
        self.rows.iter().map(|(attachment, _)| *attachment).find(|attachment| attachment.port == port)
    }

    /// What a worker receives from.
    pub(super) fn by(&self, worker: usize) -> Vec<Attachment> {
        let mut all: Vec<_> = self.rows.iter().filter(|(_, w)| *w == worker).map(|(a, _)| *a).collect();
        all.dedup();
        all
    }

    /// Attaches a port: the worker of each of its `receivers`, out of `workers`, of which there is one at least.
    pub(super) fn add(
        &mut self,
        port: PortId,
        receivers: usize,
        workers: &[usize],
    ) -> (Attachment, Vec<usize>) {
        let attachment = Attachment { port, serial: self.count };
        self.count += 1;
        let dealt = if receivers.is_multiple_of(workers.len()) {
            // Sender n of a device with queues sends by queue n, and answers come by the queue that was sent by: both
            // directions of a connection stay with one worker.
            workers.iter().copied().cycle().take(receivers).collect()
        } else {
            let mut dealt = Vec::new();
            for _ in 0..receivers {
                let load = |w: usize| {
                    let all = self.rows.iter().filter(|(_, owner)| *owner == w).count();
                    let of_this = dealt.iter().filter(|owner| **owner == w).count();
                    (of_this, all)
                };
                dealt.extend(workers.iter().copied().min_by_key(|w| load(*w)));
            }
            dealt
        };
        self.rows.extend(dealt.iter().map(|worker| (attachment, *worker)));
        (attachment, dealt)
    }

    /// Removes an attachment; whether it was there.
    pub(super) fn remove(&mut self, attachment: Attachment) -> bool {
        let before = self.rows.len();
        self.rows.retain(|(of, _)| *of != attachment);
        self.rows.len() < before
    }
}
