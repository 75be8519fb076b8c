//! Connection states and how long each lasts.
//!
//! States and times are those of NSX's distributed firewall. How many packets each direction carried comes from the
//! flow entries; the rest is recorded here by the slow path, which sees every SYN, FIN and RST, and what ends a
//! handshake.

use crate::{
    time::Duration,
    wire::{Proto, tcp_flags},
};

/// A direction of a connection, seen from who opened it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From the one who opened it.
    Forward,
    /// From the one who was called.
    Reverse,
}

/// How long a connection is remembered after its last packet, by state. Five days are the most; what is more
/// counts as five days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP: only a SYN was seen. 120 s.
    pub tcp_first: Duration,
    /// TCP: both sides were seen, the handshake is not complete. 30 s.
    pub tcp_opening: Duration,
    /// TCP: the handshake is complete. 43,200 s.
    pub tcp_established: Duration,
    /// TCP: one side sent FIN. 120 s.
    pub tcp_closing: Duration,
    /// TCP: both sides sent FIN. 45 s.
    pub tcp_fin_wait: Duration,
    /// TCP: a reset was seen. 20 s.
    pub tcp_closed: Duration,
    /// UDP and SCTP: one packet was seen. 60 s.
    pub udp_first: Duration,
    /// UDP and SCTP: several packets, one side only. 30 s.
    pub udp_single: Duration,
    /// UDP and SCTP: both sides were seen. 60 s.
    pub udp_multiple: Duration,
    /// ICMP echo. 20 s.
    pub icmp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            tcp_first: s(120),
            tcp_opening: s(30),
            tcp_established: s(43_200),
            tcp_closing: s(120),
            tcp_fin_wait: s(45),
            tcp_closed: s(20),
            udp_first: s(60),
            udp_single: s(30),
            udp_multiple: s(60),
            icmp: s(20),
        }
    }
}

impl Timeouts {
    /// The shortest of all.
    pub fn least(&self) -> Duration {
        let tcp = [
            self.tcp_first,
            self.tcp_opening,
            self.tcp_established,
            self.tcp_closing,
            self.tcp_fin_wait,
            self.tcp_closed,
        ];
        let others = [self.udp_first, self.udp_single, self.udp_multiple, self.icmp];
        tcp.into_iter().chain(others).min().unwrap_or_default()
    }
}

/// The state of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// Only its first packet was seen (TCP: only SYNs).
    First,
    /// TCP: both sides were seen, the handshake is not complete.
    Opening,
    /// TCP: the handshake is complete.
    Established,
    /// TCP: one side sent FIN.
    Closing,
    /// TCP: both sides sent FIN.
    FinWait,
    /// TCP: a reset was seen.
    Closed,
    /// Several packets, from one side only.
    Single,
    /// Both sides were seen.
    Multiple,
}

impl State {
    /// How long a connection of `proto` stays in this state without a packet.
    pub fn timeout(self, proto: Proto, t: &Timeouts) -> Duration {
        if proto.is_icmp() {
            return t.icmp;
        }
        match (proto, self) {
            (Proto::TCP, Self::First | Self::Single) => t.tcp_first,
            (Proto::TCP, Self::Opening) => t.tcp_opening,
            (Proto::TCP, Self::Established | Self::Multiple) => t.tcp_established,
            (_, Self::Closing) => t.tcp_closing,
            (_, Self::FinWait) => t.tcp_fin_wait,
            (_, Self::Closed) => t.tcp_closed,
            (_, Self::First) => t.udp_first,
            (_, Self::Single) => t.udp_single,
            (_, Self::Opening | Self::Established | Self::Multiple) => t.udp_multiple,
        }
    }

    /// The state's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::FinWait => "fin-wait",
            Self::Closed => "closed",
            Self::Single => "single",
            Self::Multiple => "multiple",
        }
    }
}

/// What the slow path saw of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Track {
    answered: bool,
    /// The answer was acknowledged.
    established: bool,
    fin_forward: bool,
    fin_reverse: bool,
    reset: bool,
}

impl Track {
    /// As five bits.
    pub(super) fn bits(self) -> u8 {
        let flags = [self.answered, self.fin_forward, self.fin_reverse, self.reset, self.established];
        (0..).zip(flags).fold(0, |bits, (n, set)| bits | u8::from(set) << n)
    }

    /// From five bits.
    pub(super) fn from_bits(bits: u8) -> Self {
        let flag = |n: u8| bits >> n & 1 == 1;
        let (answered, established) = (flag(0), flag(4));
        Self { answered, established, fin_forward: flag(1), fin_reverse: flag(2), reset: flag(3) }
    }

    /// Takes note of a segment's flags.
    pub fn see(&mut self, direction: Direction, flags: u8) {
        let (syn, fin, rst) = (tcp_flags::SYN, tcp_flags::FIN, tcp_flags::RST);
        // With or without the end of its data.
        let acknowledges = flags & (syn | rst | tcp_flags::ACK) == tcp_flags::ACK;
        self.established |= self.answered && acknowledges && direction == Direction::Forward;
        self.answered |= direction == Direction::Reverse && flags & syn != 0;
        self.reset |= flags & rst != 0;
        if flags & fin != 0 {
            match direction {
                Direction::Forward => self.fin_forward = true,
                Direction::Reverse => self.fin_reverse = true,
            }
        }
    }

    /// Whether the other side has answered.
    pub fn is_answered(&self) -> bool {
        self.answered
    }

    /// Whether the handshake is not complete. Nothing that who opened it can do alone changes that.
    pub fn is_half_open(&self) -> bool {
        !self.established
    }

    /// Whether one side has reset it.
    pub fn is_reset(&self) -> bool {
        self.reset
    }

    /// Whether the connection ends or has ended, so that a new SYN may take its ports.
    pub fn is_over(&self) -> bool {
        self.reset || (self.fin_forward && self.fin_reverse)
    }

    /// The state, given packets a direction.
    pub fn state(&self, proto: Proto, packets: (u64, u64)) -> State {
        if proto != Proto::TCP {
            return match packets {
                (_, 1..) => State::Multiple,
                (0 | 1, 0) => State::First,
                (_, 0) => State::Single,
            };
        }
        match (self.reset, self.fin_forward, self.fin_reverse) {
            (true, _, _) => State::Closed,
            (_, true, true) => State::FinWait,
            (_, true, _) | (_, _, true) => State::Closing,
            _ if self.established => State::Established,
            _ if packets.1 > 0 => State::Opening,
            _ => State::First,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcp_flags::{ACK, FIN, RST, SYN};

    #[test]
    fn a_tcp_connection_from_syn_to_end() {
        use Direction::{Forward, Reverse};
        let mut t = Track::default();
        let mut after = |direction, flags, packets| {
            t.see(direction, flags);
            (t.state(Proto::TCP, packets), t.is_half_open(), t.is_over())
        };
        assert_eq!(after(Forward, SYN, (1, 0)), (State::First, true, false));
        // What is acknowledged before there was an answer acknowledges nothing.
        assert_eq!(after(Forward, ACK, (2, 0)), (State::First, true, false));
        assert_eq!(after(Reverse, SYN | ACK, (2, 1)), (State::Opening, true, false));
        assert_eq!(after(Reverse, ACK, (2, 2)), (State::Opening, true, false));
        assert_eq!(after(Forward, ACK, (3, 2)), (State::Established, false, false));
        assert_eq!(after(Forward, FIN | ACK, (4, 2)), (State::Closing, false, false));
        assert_eq!(after(Reverse, FIN | ACK, (4, 3)), (State::FinWait, false, true));
        assert_eq!(after(Reverse, RST, (4, 4)), (State::Closed, false, true));
    }

    #[test]
    fn both_may_call_at_once() {
        let mut t = Track::default();
        t.see(Direction::Forward, SYN);
        t.see(Direction::Reverse, SYN);
        t.see(Direction::Forward, SYN | ACK);
        t.see(Direction::Reverse, SYN | ACK);
        assert_eq!((t.state(Proto::TCP, (2, 2)), t.is_half_open()), (State::Opening, true));
        t.see(Direction::Forward, ACK);
        assert_eq!((t.state(Proto::TCP, (3, 2)), t.is_half_open()), (State::Established, false));
    }

    #[test]
    fn what_is_kept_of_it_fits_five_bits() {
        for bits in 0..32 {
            assert_eq!(Track::from_bits(bits).bits(), bits);
        }
    }

    #[test]
    fn udp_states_follow_who_was_seen() {
        let t = Track::default();
        assert_eq!(t.state(Proto::UDP, (1, 0)), State::First);
        assert_eq!(t.state(Proto::UDP, (5, 0)), State::Single);
        assert_eq!(t.state(Proto::UDP, (5, 1)), State::Multiple);
    }
}
