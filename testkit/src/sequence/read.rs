//! Bytes read as a network and what happens to it.
//!
//! Records of one size, so that a changed byte changes one event and a lost record takes one event away: what a fuzzer
//! keeps of an input stays what it was. What is missing at the end is zero, and zero is the plainest choice of each.

use super::{
    messages::{Kind, Message, NEIGHBORS, Name},
    network::{Change, PODS, PORTS, Rules, SMALL_MTU, TARGETS, World},
    packets::{Packet, Pieces, Shape, Size, Spoil},
    sides::Event,
};
use arbitrary::Unstructured;
use supernet_dataplane::{
    flow::{FragmentLimits, HalfOpenLimits},
    state::Config,
    time::Duration,
    vector::Isa,
    wire::{Proto, tcp_flags::*},
};

/// Bytes of the network.
const NETWORK: usize = 48;
/// Bytes of an event.
pub(super) const RECORD: usize = 24;
/// Longer inputs find nothing that shorter ones do not.
const MOST: usize = 200;

/// A network and what happens to it.
#[derive(Debug)]
pub struct Sequence {
    /// What it is at first.
    pub world: World,
    /// How its dataplanes are made.
    pub config: Config,
    /// What happens.
    pub events: Vec<Event>,
}

/// Reads any bytes.
pub fn read(input: &[u8]) -> Sequence {
    let (network, records) = input.split_at(input.len().min(NETWORK));
    let mut network = Bytes(Unstructured::new(network));
    let (config, together) = (network.config(), network.of(&[4, 12, 200]));
    let world = network.world();
    let (half_open, strict_tcp) = (network.half_open(), network.of(&[false, false, false, true]));
    let config = Config { half_open, strict_tcp, ..config };
    Sequence { config, world, events: events(records, together) }
}

/// What one record says.
enum Step {
    /// A packet; more come with it unless they go now, by this way.
    Packet(Packet, Option<Way>),
    /// The next records, as many, are a frame that comes in by a port.
    Raw(u32, usize),
    Detach(u32, bool),
    Event(Event),
}

/// Where packets are looked at.
#[derive(Clone, Copy)]
enum Way {
    /// By the worker that has the ports.
    Ports,
    /// By another, with or without the newest snapshot.
    Other(bool),
}

/// The larger `together`, the more packets come at once: few to see each by itself, or many to fill batches.
fn events(records: &[u8], together: u8) -> Vec<Event> {
    let (mut events, mut packets) = (Vec::new(), Vec::new());
    let mut records = records.chunks(RECORD).take(MOST);
    while let Some(record) = records.next() {
        match Bytes(Unstructured::new(record)).step(together) {
            Step::Packet(packet, way) => {
                packets.push(packet);
                events.extend(way.map(|way| way.event(&mut packets)));
            }
            Step::Raw(port, count) => {
                let frame = records.by_ref().take(count).flatten().copied().collect();
                packets.push(Packet::Raw(port, frame));
                events.push(Way::Ports.event(&mut packets));
            }
            Step::Detach(port, with_sessions) => {
                events.push(Event::Detach(std::mem::take(&mut packets), port, with_sessions));
            }
            Step::Event(event) => {
                if !packets.is_empty() {
                    events.push(Way::Ports.event(&mut packets));
                }
                events.push(event);
            }
        }
    }
    if !packets.is_empty() {
        events.push(Way::Ports.event(&mut packets));
    }
    events
}

impl Way {
    fn event(self, packets: &mut Vec<Packet>) -> Event {
        let packets = std::mem::take(packets);
        match self {
            Self::Ports => Event::Burst(packets),
            Self::Other(newest) => Event::Batch(packets, newest),
        }
    }
}

/// Bytes that never end.
struct Bytes<'a>(Unstructured<'a>);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or_default()
    }

    fn word(&mut self) -> usize {
        self.0.arbitrary::<u16>().unwrap_or_default().into()
    }

    /// Less than `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    fn bit(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Which of the last, most often the very last.
    fn back(&mut self) -> usize {
        match self.share(&[4, 2, 1, 3]) {
            3 => self.below(16),
            near => near,
        }
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    /// Which of these shares of all a byte falls into.
    fn share(&mut self, shares: &[u8]) -> usize {
        let mut at = self.below(shares.iter().map(|share| usize::from(*share)).sum());
        for (n, share) in shares.iter().enumerate() {
            match at.checked_sub(usize::from(*share)) {
                Some(rest) => at = rest,
                None => return n,
            }
        }
        0
    }

    fn config(&mut self) -> Config {
        let few = |packets, held| FragmentLimits { packets, held, timeout: Duration::from_secs(30) };
        Config {
            // Fewer than the flows that are tried, so that the table is full at times.
            sessions: self.of(&[12, 100, 12, 1]),
            frames: self.of(&[400, 400, 400, 3]),
            seed: 7,
            // Fewer than the connections that are translated, so that they run out, and not all that are wanted.
            nat_ports: self.of(&[4001..=4002, 4001..=4001, 1024..=65535]),
            errors_per_second: self.of(&[1000, 1000, 2]),
            fragments: self.of(&[FragmentLimits::default(), few(8, 8), few(3, 3)]),
            isa: self.of(&[None, Some(Isa::Portable), Some(Isa::Avx2), Some(Isa::Avx512)]),
            ..Config::default()
        }
    }

    fn half_open(&mut self) -> HalfOpenLimits {
        self.of(&[
            HalfOpenLimits { per_port: 0, total: Some(0) },
            HalfOpenLimits { per_port: 2, total: Some(4) },
            HalfOpenLimits { per_port: 0, total: Some(8) },
        ])
    }

    fn world(&mut self) -> World {
        let open = World::open(self.byte() & 1 == 0);
        let (snat, small) = (self.byte(), self.byte());
        World {
            snat: [snat & 1 == 0, snat & 2 == 0],
            members: self.byte() ^ open.members,
            hops: self.hops(),
            small: std::array::from_fn(|port| small >> port & 1 == 1),
            rules: std::array::from_fn(|_| [(); 2].map(|()| self.rules())),
            ..open
        }
    }

    fn hops(&mut self) -> [usize; 4] {
        // Mostly there is a way out.
        std::array::from_fn(|_| self.of(&[1, 2, 1, 2, 1, 1, 1, 0]))
    }

    fn rules(&mut self) -> Option<Rules> {
        let count = self.share(&[10, 2, 2, 2]);
        let rule = |bytes: &mut Self| {
            let bits = bytes.byte();
            let peers = [bits & 7, bits >> 3 & 7];
            let peers = peers.into_iter().filter(|peer| *peer < 6).map(u32::from).collect();
            (bits >> 6 & 1 == 0, peers, bytes.of(&[None, Some(6), Some(17), Some(1)]))
        };
        let rules = (1..count).map(|_| rule(self)).collect();
        (count > 0).then(|| Rules(rules, self.share(&[7, 3]) == 0))
    }

    fn step(&mut self, together: u8) -> Step {
        // Connections that are opened, answered and used, and now and then all the rest.
        let what = self.share(&[60, 60, 44, 14, 22, 12, 8, 2, 18, 8, 2, 2, 4]);
        let packet = match what {
            0 => self.new_packet(),
            1 => Packet::Answer { to: self.back(), shape: self.shape(ACK) },
            2 => Packet::Again { of: self.back(), shape: self.shape(ACK) },
            3 => Packet::Piece {
                of: self.back(),
                bytes: (8 * self.below(32), self.of(&[8, 16, 24, 32, 64, 400, 1480, 0, 12, 2000])),
                more: self.bit(),
                id: self.below(4) as u32,
            },
            4 => self.error(),
            5 => Packet::Message(Message {
                from: self.below(PORTS),
                kind: self.of(&Kind::ALL),
                about: self.below(NEIGHBORS.len()),
                name: self.of(&Name::ALL),
                to_all: self.bit(),
            }),
            6 => Packet::Twisted {
                of: self.back(),
                turned: [(self.word(), self.byte()), (self.word() % 80, self.byte())],
            },
            7 => return Step::Raw(self.below(PORTS) as u32, self.below(8)),
            8 => return Step::Event(Event::Change(self.change())),
            9 => return Step::Event(Event::Advance(self.time())),
            10 => return Step::Event(Event::NeighborAnswers(self.below(2))),
            11 => return Step::Detach(self.below(PORTS) as u32, self.bit()),
            _ => return Step::Event(Event::Attach(self.below(PORTS) as u32)),
        };
        let way = match self.share(&[8, 3, 1, together]) {
            0 => Some(Way::Ports),
            1 => Some(Way::Other(true)),
            2 => Some(Way::Other(false)),
            _ => None,
        };
        Step::Packet(packet, way)
    }

    fn new_packet(&mut self) -> Packet {
        let from = self.of(&[0, 1, 2, 0, 3, 4, 5, 6]);
        let to = if from < PODS.len() {
            [1, 2, 4, 4, 4, 4, 9, 5, 1, 1, 1, 1]
        } else {
            [4, 4, 4, 1, 1, 6, 1, 0, 1, 1, 1, 1]
        };
        Packet::New {
            from,
            to: self.share(&to) % TARGETS.len(),
            v6: self.bit(),
            proto: self.of(&[Proto::TCP, Proto::TCP, Proto::UDP, Proto::UDP, Proto::ICMP, Proto::SCTP]),
            sport: 4000 + self.below(4) as u16,
            dport: self.of(&[80, 80, 80, 80, 80, 80, 8080, 53]),
            shape: self.shape(SYN),
        }
    }

    /// The shape of a packet with mostly these flags.
    fn shape(&mut self, usual: u8) -> Shape {
        let flags = [usual, usual, usual, usual, usual, SYN, ACK, SYN | ACK, FIN | ACK, RST];
        let at = |bytes: &mut Self| (bytes.below(80), bytes.byte() & 7);
        Shape {
            flags: self.of(&flags),
            ttl: match self.share(&[12, 2, 1]) {
                0 => 64,
                1 => self.byte() % 5,
                _ => 255,
            },
            size: match self.share(&[12, 3, 1]) {
                0 => Size::Payload(self.below(120)),
                1 => Size::Whole(self.of(&[SMALL_MTU.into(), 1500, 1501, 1280]) + self.below(3) - 1),
                _ => Size::Payload(self.word() % 1900),
            },
            spoil: match self.share(&[36, 10, 1, 1, 4, 1, 1, 1, 2, 2, 3, 2, 1]) {
                0 => Spoil::Nothing,
                1 => Spoil::MayCut,
                2 => Spoil::SourceAddress,
                3 => Spoil::SourceMac,
                4 => Spoil::StraightTo(self.below(PODS.len()) as u32),
                5 => Spoil::Broadcast,
                6 => Spoil::CutShort,
                7 => Spoil::Padded(self.below(30) + 1),
                8 => Spoil::NoUdpChecksum,
                9 => Spoil::Options,
                10 => {
                    let (at, bit) = at(self);
                    Spoil::FlipAndMend(at, bit)
                }
                11 => {
                    let (at, bit) = at(self);
                    Spoil::Flip(at, bit)
                }
                _ => Spoil::Tagged,
            },
            pieces: if self.share(&[5, 1]) == 0 { None } else { Some(self.pieces()) },
        }
    }

    fn pieces(&mut self) -> Pieces {
        let cuts = [self.below(8) + 1, self.below(12) + 2, self.below(200) + 3];
        let (lost, twice) = (self.byte(), self.byte());
        Pieces {
            cuts: cuts.to_vec(),
            order: u64::from(self.byte()) * 0x0101_0101_0101_0101,
            // Mostly all of them come.
            lost: lost & (lost >> 1) & (lost >> 2),
            twice: twice & (twice >> 1) & (twice >> 2),
            id: self.below(4) as u32,
        }
    }

    fn error(&mut self) -> Packet {
        let kinds = [
            (3, 4),
            (3, 3),
            (2, 0),
            (1, 4),
            (11, 0),
            (3, 0),
            (3, 1),
            (12, 0),
            (1, 0),
            (4, 0),
            (5, 1),
            (7, 7),
        ];
        Packet::Error {
            about: self.back(),
            kind: self.of(&kinds),
            by_router: self.bit(),
            quote: match self.share(&[2, 1, 1]) {
                0 => 600,
                1 => 28,
                _ => self.below(100),
            },
            spoil: match self.share(&[4, 1]) {
                0 => None,
                _ => Some((34 + self.below(76), self.byte() & 7)),
            },
        }
    }

    fn change(&mut self) -> Change {
        match self.share(&[4, 1, 2, 2, 2, 1, 2, 4, 2]) {
            0 => Change::Rules(self.below(PODS.len()), self.below(2), self.rules()),
            1 => Change::Pod(self.below(PODS.len())),
            2 => Change::Relabel(self.below(PODS.len())),
            3 => Change::Members(self.byte()),
            4 => Change::Hops(self.hops()),
            5 => Change::Snat(self.below(2)),
            6 => Change::Mtu(self.below(PORTS)),
            7 => {
                let whose = self.below(PODS.len() + 2);
                // Mostly one of them: the first that is met hides the others.
                let mut most = [0; 3];
                for _ in 0..self.share(&[1, 6, 1]) {
                    most[self.below(3)] = 1 + self.below(2) as u8;
                }
                Change::Limits(whose, most)
            }
            _ => Change::Republish,
        }
    }

    fn time(&mut self) -> Duration {
        match self.share(&[4, 4, 1]) {
            0 => Duration::from_millis(self.word() as u64),
            1 => Duration::from_secs(self.of(&[2, 16, 25, 31, 40, 70, 130])),
            _ => Duration::from_secs(self.of(&[700, 50_000])),
        }
    }
}
