//! Frames on their way out, by port.

use crate::{buf::Frame, id::PortId};

/// Collects what a batch sends, so that every port is handed its frames at once and in order.
#[derive(Debug, Default)]
pub struct Output {
    /// By port.
    queues: Vec<Vec<Frame>>,
    /// Ports whose queues hold frames, and room for one more than there are queues.
    busy: Vec<PortId>,
    /// How many of them there are.
    count: usize,
}

impl Output {
    /// Appends a frame for a port.
    #[inline(always)]
    pub fn push(&mut self, port: PortId, frame: Frame) {
        let Some(queue) = self.queues.get_mut(port.index()).filter(|queue| queue.len() < queue.capacity())
        else {
            return self.push_anywhere(port, frame);
        };
        let was_empty = queue.is_empty();
        // Before anything else is written, so that the compiler still knows that there is room.
        queue.push(frame);
        // Written in any case, and kept if the queue was empty: whether it was is anybody's guess.
        if let Some(next) = self.busy.get_mut(self.count) {
            *next = port;
        }
        self.count += usize::from(was_empty);
    }

    /// The same where there is no room yet.
    #[cold]
    #[inline(never)]
    fn push_anywhere(&mut self, port: PortId, frame: Frame) {
        if port.index() >= self.queues.len() {
            self.queues.resize_with(port.index() + 1, Vec::new);
            self.busy.resize(self.queues.len() + 1, PortId(0));
        }
        let queue = &mut self.queues[port.index()];
        self.busy[self.count] = port;
        self.count += usize::from(queue.is_empty());
        queue.push(frame);
    }

    /// Hands every port's frames to `send`, which takes them all.
    pub fn drain(&mut self, mut send: impl FnMut(PortId, &mut Vec<Frame>)) {
        for port in &self.busy[..std::mem::take(&mut self.count)] {
            let frames = &mut self.queues[port.index()];
            send(*port, frames);
            frames.clear();
        }
    }
}
