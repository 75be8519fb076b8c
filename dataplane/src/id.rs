//! Names for things, as small numbers.
//!
//! Control interns every port, segment, rule and server once and never reuses a number, so counters and
//! sessions may refer to an id long after the object is gone. All ids are dense: tables are indexed by them.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The id as an index into a table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A port of the network: a pod's interface, a node, or an uplink. At most 2^23 of them.
    PortId, "port"
);

impl PortId {
    /// How many ports there can be: a session's entry has room for this many and the next hops.
    pub const MAX: u32 = 1 << 23;
}

id!(
    /// An L2 segment: one block of a namespace's addresses and its gateway.
    SegmentId, "segment"
);
id!(
    /// A Tier-1 gateway.
    Tier1Id, "tier1-"
);
id!(
    /// A namespace: the owner of segments and of an egress address.
    NamespaceId, "namespace"
);
id!(
    /// A firewall rule, named by policy, direction and position.
    RuleId, "rule"
);
id!(
    /// A virtual server: one address, protocol and port that is spread over members.
    ServerId, "server"
);
id!(
    /// A next hop beyond an uplink: an address whose MAC is configured or learned.
    NeighborId, "neighbor"
);
id!(
    /// A class of addresses that every firewall rule treats alike.
    IdentityId, "identity"
);

impl IdentityId {
    /// The class of every address that no rule names.
    pub const UNKNOWN: Self = Self(0);
}

/// The number of a published snapshot. It grows by one with each; zero is "before the first".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u32);

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}
