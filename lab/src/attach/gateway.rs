//! A port whose guest knows its gateway under a MAC of its own.
//!
//! Inside, the gateway has one MAC everywhere; here it is changed on the way in and out, in the Ethernet header and in
//! what ARP says. ND still says the one it has inside, under which it can be reached as well.

use std::{io, os::fd::BorrowedFd};
use supernet_dataplane::{
    buf::{Frame, Offloads, Pool},
    port::{Opened, Port, Receive, Transmit, Waker},
    snapshot::GATEWAY_MAC,
    wire::Mac,
};

/// Wraps `port`, so that its guest's gateway is at `mac`.
pub(super) fn wrap<P: Port<Peer = ()>>(port: P, mac: Mac) -> Known<P> {
    Known { port, mac }
}

pub(super) struct Known<P> {
    port: P,
    mac: Mac,
}

impl<P: Port<Peer = ()>> Port for Known<P> {
    type Peer = ();

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<()>> {
        let Opened { receivers, senders, peer } = self.port.open(senders, pool)?;
        let mac = self.mac;
        let receiver = |inner| Box::new(Receiver { inner, mac }) as Box<dyn Receive>;
        let sender = |inner| Box::new(Sender { inner, mac }) as Box<dyn Transmit>;
        Ok(Opened {
            receivers: receivers.into_iter().map(receiver).collect(),
            senders: senders.into_iter().map(sender).collect(),
            peer,
        })
    }
}

struct Receiver {
    inner: Box<dyn Receive>,
    mac: Mac,
}

impl Receive for Receiver {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize> {
        let before = into.len();
        let received = self.inner.receive(into, max, pool)?;
        for frame in &mut into[before..] {
            let bytes = frame.bytes_mut();
            if bytes.get(..6) == Some(&self.mac.0) {
                bytes[..6].copy_from_slice(&GATEWAY_MAC.0);
            }
        }
        Ok(received)
    }

    fn take_missed(&mut self) -> u64 {
        self.inner.take_missed()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }

    fn set_waker(&mut self, waker: Waker) {
        self.inner.set_waker(waker);
    }
}

struct Sender {
    inner: Box<dyn Transmit>,
    mac: Mac,
}

impl Sender {
    fn rename(&self, bytes: &mut [u8]) {
        if bytes.get(6..12) != Some(&GATEWAY_MAC.0) {
            return;
        }
        bytes[6..12].copy_from_slice(&self.mac.0);
        // Who sends ARP says in it who it is (RFC 826).
        if bytes.len() >= 42 && bytes[12..14] == [8, 6] && bytes[22..28] == GATEWAY_MAC.0 {
            bytes[22..28].copy_from_slice(&self.mac.0);
        }
    }
}

impl Transmit for Sender {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        frames.iter_mut().for_each(|frame| self.rename(frame.bytes_mut()));
        self.inner.transmit(frames)
    }

    fn offloads(&self) -> Offloads {
        self.inner.offloads()
    }
}
