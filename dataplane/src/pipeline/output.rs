//! Frames on their way out, by port.

use crate::{buf::Frame, id::PortId};

/// Collects what a batch sends, so that every port is handed its frames at once and in order.
#[derive(Debug, Default)]
pub struct Output {
    /// Where a port's queue is; `u32::MAX` before its first frame.
    slots: Vec<u32>,
    queues: Vec<(PortId, Vec<Frame>)>,
    /// Queues that hold frames.
    busy: Vec<u32>,
}

impl Output {
    /// Appends a frame for a port.
    pub fn push(&mut self, port: PortId, frame: Frame) {
        if self.slots.len() <= port.index() {
            self.slots.resize(port.index() + 1, u32::MAX);
        }
        let slot = &mut self.slots[port.index()];
        if *slot == u32::MAX {
            *slot = self.queues.len() as u32;
            self.queues.push((port, Vec::new()));
        }
        let queue = &mut self.queues[*slot as usize].1;
        if queue.is_empty() {
            self.busy.push(*slot);
        }
        queue.push(frame);
    }

    /// Hands every port's frames to `send`, which takes them all.
    pub fn drain(&mut self, mut send: impl FnMut(PortId, &mut Vec<Frame>)) {
        for slot in self.busy.drain(..) {
            let (port, frames) = &mut self.queues[slot as usize];
            send(*port, frames);
            frames.clear();
        }
    }
}
