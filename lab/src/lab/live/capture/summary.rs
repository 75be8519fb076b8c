//! A packet in a few words: who to whom, by what.

use serde::Serialize;
use supernet_dataplane::wire::{self, L3, Packet, Part, Proto, arp::Arp, tcp_flags};

/// Flags of TCP that the dataplane has no use for.
const PSH: u8 = 0x08;

/// What stands in a packet's headers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    /// Where from and where to: an address, with a port if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) destination: Option<String>,
    /// "TCP", "ARP".
    pub(super) protocol: String,
    /// In words.
    pub(super) summary: String,
}

impl Summary {
    /// Of a frame of `length` bytes that begins so.
    pub(super) fn of(data: &[u8], length: u32) -> Self {
        let mut whole = data.to_vec();
        // What was not kept is not looked at, but it has to be there.
        whole.resize(usize::try_from(length).unwrap_or(data.len()).max(data.len()), 0);
        match wire::parse(&whole) {
            Ok(packet) => Self::of_packet(&whole, &packet),
            Err(e) => {
                let is_cut = whole.len() > data.len();
                let summary = if is_cut { format!("{length} bytes") } else { e.to_string() };
                Self { protocol: "?".to_owned(), summary, ..Self::default() }
            }
        }
    }

    fn of_packet(frame: &[u8], p: &Packet) -> Self {
        match p.l3 {
            L3::V4 | L3::V6 => {}
            L3::Arp => {
                let Arp { request, sender, target, sender_mac } = Arp::read(frame, p.l3());
                let summary = match request {
                    true => format!("ARP who has {target}? tell {sender}"),
                    false => format!("ARP {sender} is at {sender_mac}"),
                };
                return Self { protocol: "ARP".to_owned(), summary, ..Self::default() };
            }
            L3::Other => {
                let kind = p.l3().checked_sub(2).and_then(|at| frame.get(at..at + 2));
                let kind = kind.map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
                let summary = format!("EtherType {kind:#06x} from {} to {}", p.src_mac, p.dst_mac);
                return Self { protocol: "?".to_owned(), summary, ..Self::default() };
            }
        }
        let ports = matches!(p.proto, Proto::TCP | Proto::UDP | Proto::SCTP) && p.part != Part::Later;
        let end = |address: std::net::IpAddr, port| match ports {
            true => std::net::SocketAddr::new(address, port).to_string(),
            false => address.to_string(),
        };
        let (source, destination) = (end(p.src, p.sport), end(p.dst, p.dport));
        let protocol = p.proto.to_string();
        let mut summary = format!("{source} > {destination} {protocol}");
        match p.proto {
            _ if p.part == Part::Later => summary += " later fragment",
            Proto::TCP => summary += &format!(" [{}] {}", flags(p.tcp_flags), tcp_payload(frame, p)),
            Proto::UDP => summary += &format!(" {}", usize::from(p.end).saturating_sub(p.l4() + 8)),
            proto if proto.is_icmp() => summary += &icmp(p),
            _ => {}
        }
        if p.part == Part::First {
            summary += " first fragment";
        }
        Self { source: Some(source), destination: Some(destination), protocol, summary }
    }
}

/// As tcpdump has them: "S", "S.", "P.".
fn flags(flags: u8) -> String {
    let all = [
        (tcp_flags::SYN, 'S'),
        (tcp_flags::FIN, 'F'),
        (tcp_flags::RST, 'R'),
        (PSH, 'P'),
        (tcp_flags::ACK, '.'),
    ];
    all.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, letter)| *letter).collect()
}

/// Bytes of payload.
fn tcp_payload(frame: &[u8], p: &Packet) -> usize {
    let header = frame.get(p.l4() + 12).map_or(20, |b| usize::from(b >> 4) * 4);
    usize::from(p.end).saturating_sub(p.l4() + header)
}

fn icmp(p: &Packet) -> String {
    let (kind, code) = (p.icmp.kind, p.icmp.code);
    let name = match (p.proto, kind) {
        _ if p.is_echo_request() => return format!(" echo request {}", p.sport),
        _ if p.is_echo_reply() => return format!(" echo reply {}", p.dport),
        (Proto::ICMP, 3) => "unreachable",
        (Proto::ICMP, 11) => "time exceeded",
        (Proto::ICMPV6, 1) => "unreachable",
        (Proto::ICMPV6, 2) => "packet too big",
        (Proto::ICMPV6, 3) => "time exceeded",
        (Proto::ICMPV6, 133) => "router solicitation",
        (Proto::ICMPV6, 134) => "router advertisement",
        (Proto::ICMPV6, 135) => "neighbor solicitation",
        (Proto::ICMPV6, 136) => "neighbor advertisement",
        (Proto::ICMPV6, 143) => "multicast listener report",
        _ => return format!(" type {kind} code {code}"),
    };
    format!(" {name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernet_testkit::packet::Probe;

    fn said(data: &[u8], length: usize) -> String {
        Summary::of(data, length as u32).summary
    }

    #[test]
    fn headers_are_told_in_a_line_however_little_is_kept() {
        let tcp = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.3:80").frame();
        assert_eq!(said(&tcp, tcp.len()), "10.0.0.2:4000 > 10.0.0.3:80 TCP [S] 10");
        assert_eq!(said(&tcp[..54], tcp.len()), "10.0.0.2:4000 > 10.0.0.3:80 TCP [S] 10");
        assert_eq!(said(&tcp[..20], tcp.len()), "64 bytes");
        let udp = Probe::new(0, Proto::UDP, "[fd00::2]:4000", "[fd00::3]:53").frame();
        assert_eq!(said(&udp, udp.len()), "[fd00::2]:4000 > [fd00::3]:53 UDP 10");
        let echo = Probe::new(0, Proto::ICMP, "10.0.0.2:77", "10.0.0.3:0").frame();
        assert_eq!(said(&echo, echo.len()), "10.0.0.2 > 10.0.0.3 ICMP echo request 77");
        assert_eq!(said(&[1; 5], 5), "the frame ends inside a header");
        let later = supernet_testkit::fragments::cut(
            &Probe { payload: 100, ..Probe::new(0, Proto::UDP, "10.0.0.2:1", "10.0.0.3:2") }.frame(),
            &[40],
            9,
        );
        assert_eq!(said(&later[0], later[0].len()), "10.0.0.2:1 > 10.0.0.3:2 UDP 32 first fragment");
        assert_eq!(said(&later[1], later[1].len()), "10.0.0.2 > 10.0.0.3 UDP later fragment");
    }

    #[test]
    fn no_bytes_are_too_odd_to_be_told() {
        let mut frame = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.3:80").frame();
        for at in 0..frame.len() {
            let was = frame[at];
            for value in [0, 1, 0x7f, 0xff] {
                frame[at] = value;
                (0..frame.len()).for_each(|end| drop(said(&frame[..end], frame.len())));
            }
            frame[at] = was;
        }
    }
}
