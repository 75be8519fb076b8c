//! Names of the stages, as captures and traces have them.

use crate::verdict::DropReason;
use std::{fmt, str::FromStr};

macro_rules! stages {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// A place where something is decided about a packet, or done to it. Those that a packet walks are named as
        /// in a trace.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Stage {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Stage {
            /// Every stage.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name: "dfw-egress".
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

stages! {
    /// Drops what is no sound packet, or is of a port that is not there.
    Parse = "parse",
    /// Lets a workload send from its own MAC and addresses only.
    SpoofGuard = "spoof-guard",
    /// Lets sources from outside in that are routable and not this network's own.
    Urpf = "urpf",
    /// Answers ARP and neighbour solicitations, copies multicast, reads what needs no answer.
    Segment = "segment",
    /// Has fragments follow the first of their packet.
    Fragments = "fragments",
    /// Takes packets of a known connection on without asking the others, and drops those that belong to none.
    Session = "session",
    /// Virtual servers at the client's port.
    Dlb = "dlb",
    /// Virtual servers for clients outside.
    Vip = "vip",
    /// The firewall where packets leave their source.
    DfwEgress = "dfw-egress",
    /// The firewall in front of their destination.
    DfwIngress = "dfw-ingress",
    /// Distributed routers.
    Router = "router",
    /// Translates sources to egress addresses, and answers back.
    Snat = "snat",
    /// The Tier-0.
    Tier0 = "tier-0",
    /// Gateways and virtual servers, as they answer echo requests.
    Gateway = "gateway",
    /// Makes sessions.
    Commit = "commit",
    /// Hands packets to ports.
    Deliver = "deliver",
}

impl Stage {
    /// Which stage drops for a reason, what came in by an uplink or else by a workload's port.
    pub fn of_drop(reason: DropReason, by_uplink: bool) -> Self {
        use DropReason::*;
        match reason {
            NotReady | Malformed | BadChecksum | UnsupportedProtocol | TinyFragment => Self::Parse,
            SpoofedAddress | NoRoute if by_uplink => Self::Urpf,
            SpoofedMac | SpoofedAddress => Self::SpoofGuard,
            UnknownMac | Dhcp | UnansweredQuery | Absorbed | NoReceiver => Self::Segment,
            Fragment | FragmentOverlap | FragmentTimeout | FragmentsFull => Self::Fragments,
            NoSession | OutOfWindow | BindingGone | IcmpUnrelated | IcmpUnhandled => Self::Session,
            NoServer | NoBackend if by_uplink => Self::Vip,
            NoServer | NoBackend => Self::Dlb,
            EgressDenied => Self::DfwEgress,
            IngressDenied => Self::DfwIngress,
            NoEndpoint | Martian | TtlExceeded | TooBig => Self::Router,
            NoNatSession | NatPortsExhausted => Self::Snat,
            NoRoute | Transit | NeighborUnresolved => Self::Tier0,
            PodConnections | PodHalfOpen | PodConnectionRate => Self::Commit,
            NamespaceConnections | NamespaceHalfOpen | NamespaceConnectionRate => Self::Commit,
            SessionTableFull | TupleClash => Self::Commit,
            NoBuffer | PortFull => Self::Deliver,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no stage's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no stage {:?}; there is: {}", .0, names())]
pub struct UnknownStage(pub String);

fn names() -> String {
    Stage::ALL.iter().map(|stage| stage.name()).collect::<Vec<_>>().join(", ")
}

impl FromStr for Stage {
    type Err = UnknownStage;

    fn from_str(name: &str) -> Result<Self, UnknownStage> {
        let found = Self::ALL.iter().find(|stage| stage.name() == name);
        found.copied().ok_or_else(|| UnknownStage(name.to_owned()))
    }
}

/// Some stages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stages(u32);

impl Stages {
    /// No stage.
    pub const NONE: Self = Self(0);

    /// One more.
    #[must_use]
    pub fn with(self, stage: Stage) -> Self {
        Self(self.0 | 1 << stage as u8)
    }

    /// Whether this stage is among them.
    pub fn contains(self, stage: Stage) -> bool {
        self.0 & 1 << stage as u8 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a stage is among both.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Those that there are, in their order.
    pub fn iter(self) -> impl Iterator<Item = Stage> {
        Stage::ALL.iter().copied().filter(move |stage| self.contains(*stage))
    }
}

impl FromIterator<Stage> for Stages {
    fn from_iter<I: IntoIterator<Item = Stage>>(stages: I) -> Self {
        stages.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_others_are_told_which_there_are() {
        for stage in Stage::ALL {
            assert_eq!(stage.name().parse(), Ok(*stage));
        }
        let error = "dfw".parse::<Stage>().unwrap_err().to_string();
        assert!(error.starts_with("there is no stage \"dfw\"; there is: parse, spoof-guard, "), "{error}");
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let set = Stages::NONE.with(Stage::Snat).with(Stage::Parse).with(Stage::Snat);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Stage::Parse, Stage::Snat]);
        assert!(set.meets(Stages::NONE.with(Stage::Snat)) && !set.meets(Stages::NONE.with(Stage::Deliver)));
        assert!(Stages::NONE.is_empty() && !set.is_empty());
    }
}
