//! What became of a frame.
//!
//! Every frame that comes in is sent on or dropped, and a drop has exactly one [`DropReason`]. The names are
//! part of the interface: counters, traces and logs carry them.

use std::fmt;

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a frame was not forwarded.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// Every reason, in order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason in words, to stand after "dropped: ".
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The reason's name as it stands in counters.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

drop_reasons! {
    /// No snapshot was published yet, or the port is not in it.
    NotReady = "the network is not programmed yet, or does not know this port",
    /// The frame ends before its headers do, or a length or version field contradicts the bytes.
    Malformed = "the frame is malformed",
    /// The checksum of the IPv4 header (RFC 1812, 5.2.2) is wrong; or that of an ICMP error, or of a connection's
    /// SYN, FIN or RST, which would change what is known of the connection.
    BadChecksum = "the checksum of the IPv4 header, ICMP error, or SYN, FIN or RST of a connection is wrong",
    /// An EtherType, VLAN tag or IP protocol that this network does not carry.
    UnsupportedProtocol = "the protocol is not carried",
    /// A fragment whose packet has no session: its first fragment was stopped. Or one that cannot be translated:
    /// of SCTP whose ports change, or of an ICMP error.
    Fragment = "the fragment belongs to no packet that went on, or cannot be translated",
    /// A first fragment without the whole transport header (RFC 1858; RFC 7112).
    TinyFragment = "the first fragment does not hold all headers",
    /// Bytes of a packet that came before; if they overlap only in part, the rest of the packet as well (RFC 5722).
    FragmentOverlap = "bytes of the packet came twice",
    /// The first fragment of the packet did not come in time.
    FragmentTimeout = "the first fragment of the packet did not come in time",
    /// Too many fragments wait for the first of their packet, or one packet comes in too many pieces.
    FragmentsFull = "too many fragments wait",
    /// Longer than the MTU of the port it would leave by.
    TooBig = "the packet is larger than the MTU of its way",
    /// The source MAC is not the port's.
    SpoofedMac = "the source MAC does not belong to the port",
    /// The source address (or ARP or ND sender) is not the port's.
    SpoofedAddress = "the source address does not belong to the port",
    /// Addressed to a MAC that nobody in the segment has.
    UnknownMac = "no port of the segment has this destination MAC",
    /// DHCP, asked for or offered; addresses are static here.
    Dhcp = "DHCP is not served: addresses are assigned by control",
    /// An address query for an address that nobody in the segment has.
    UnansweredQuery = "nobody in the segment has the address that was asked for",
    /// A control frame that was read and needs no answer: an ARP or ND reply, DAD for the own address.
    Absorbed = "a control frame that needs no answer",
    /// Multicast or broadcast with nobody else in the segment to hear it.
    NoReceiver = "nobody else in the segment hears multicast or broadcast",
    /// The destination is in an address range of this network and nobody has it.
    NoEndpoint = "nobody has the destination address",
    /// No route leads to the destination, or back to a source outside.
    NoRoute = "there is no route to the destination, or back to the source",
    /// Entered by an uplink and would leave by an uplink: this network is no transit.
    Transit = "from an uplink to an uplink: this network carries no transit",
    /// An address that must not be routed: link-local, loopback, unspecified, or multicast as a source.
    Martian = "the address cannot be routed",
    /// The route's next hop has not answered ARP or ND yet.
    NeighborUnresolved = "the next hop's MAC is not known yet",
    /// TTL or hop limit ended at a router of this network.
    TtlExceeded = "the TTL ended at a router of this network",
    /// Denied by a firewall rule at the source's port.
    EgressDenied = "denied by the firewall where it left its source",
    /// Denied by a firewall rule at the destination's port.
    IngressDenied = "denied by the firewall in front of its destination",
    /// A TCP segment without SYN that belongs to no session.
    NoSession = "TCP without SYN that belongs to no session",
    /// A TCP segment whose sequence or acknowledgment number cannot be of its connection.
    OutOfWindow = "the segment's numbers cannot be of its connection",
    /// To an egress address, without a session that was translated to it.
    NoNatSession = "to an egress address, and no session was translated to it",
    /// A virtual server's address, on a port nobody serves.
    NoServer = "no virtual server listens on this port of the address",
    /// A virtual server without members that could serve.
    NoBackend = "the virtual server has no member that could serve",
    /// All ports of the namespace's egress address are in use for this protocol.
    NatPortsExhausted = "every port of the egress address is in use",
    /// The pod has as many connections as it may have.
    PodConnections = "the pod has as many connections as it may have",
    /// The pod has as many TCP connections as it may have whose handshake is not complete.
    PodHalfOpen = "the pod has as many half-open connections as it may have",
    /// The pod's connections of this second are used up.
    PodConnectionRate = "the pod opens more connections a second than it may",
    /// The pods of the namespace have as many connections as they may have together.
    NamespaceConnections = "the namespace has as many connections as it may have",
    /// The pods of the namespace have as many TCP connections as they may have whose handshake is not complete.
    NamespaceHalfOpen = "the namespace has as many half-open connections as it may have",
    /// The namespace's connections of this second are used up.
    NamespaceConnectionRate = "the namespace opens more connections a second than it may",
    /// The session table has no room.
    SessionTableFull = "the session table is full",
    /// No source port makes both directions of the connection unique.
    TupleClash = "no free source port makes the connection unique",
    /// The session's member, server, egress address or pod is gone.
    BindingGone = "what the connection was bound to is gone",
    /// An ICMP error about a packet of no session, or that cannot be read.
    IcmpUnrelated = "an ICMP error about nothing that is known here",
    /// An ICMP message other than echo that no stage answers.
    IcmpUnhandled = "an ICMP message that nobody answers",
    /// No frame buffer was free for a copy or an answer.
    NoBuffer = "no frame buffer was free",
    /// The output port took no more frames, or is gone.
    PortFull = "the output port does not take the frame: its queue is full, or its line is down",
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether it is a limit of a pod or namespace that was reached.
    pub fn is_limit(self) -> bool {
        use DropReason::*;
        matches!(
            self,
            PodConnections
                | PodHalfOpen
                | PodConnectionRate
                | NamespaceConnections
                | NamespaceHalfOpen
                | NamespaceConnectionRate
        )
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
