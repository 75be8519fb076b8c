//! How many connections pods and namespaces may have.

use std::{fmt, num::NonZeroU32};
use supernet_dataplane::flow::ConnectionLimits;

/// One limit as somebody has written it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Any number, whatever the default is.
    Unlimited,
    /// This many.
    AtMost(NonZeroU32),
}

impl Limit {
    /// The largest number that can be written.
    pub const MOST: u32 = 1_000_000_000;

    fn number(self) -> Option<NonZeroU32> {
        match self {
            Self::Unlimited => None,
            Self::AtMost(n) => Some(n),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::AtMost(n) => n.fmt(f),
        }
    }
}

/// The limits of one pod, or of one namespace's pods together. What is absent is left to the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LimitSettings {
    /// Connections at one time, of any protocol.
    pub connections: Option<Limit>,
    /// TCP connections at one time whose handshake is not complete.
    pub half_open: Option<Limit>,
    /// New connections a second.
    pub new_per_second: Option<Limit>,
}

impl LimitSettings {
    /// What holds, where `defaults` say what is absent here.
    pub fn or(self, defaults: Self) -> ConnectionLimits {
        let of = |own: Option<Limit>, default: Option<Limit>| own.or(default).and_then(Limit::number);
        ConnectionLimits {
            connections: of(self.connections, defaults.connections),
            half_open: of(self.half_open, defaults.half_open),
            new_per_second: of(self.new_per_second, defaults.new_per_second),
        }
    }
}

/// What the Supervisor gives those that say nothing of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DefaultLimits {
    /// Every pod.
    pub pod: LimitSettings,
    /// Every namespace, for its pods together.
    pub namespace: LimitSettings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_goes_before_the_default() {
        let at_most = |n| NonZeroU32::new(n).map(Limit::AtMost);
        let own = LimitSettings {
            connections: at_most(5),
            half_open: Some(Limit::Unlimited),
            ..LimitSettings::default()
        };
        let defaults =
            LimitSettings { connections: at_most(9), half_open: at_most(9), new_per_second: at_most(7) };
        let expected = ConnectionLimits {
            connections: NonZeroU32::new(5),
            half_open: None,
            new_per_second: NonZeroU32::new(7),
        };
        assert_eq!(own.or(defaults), expected);
        assert!(LimitSettings::default().or(LimitSettings::default()).is_none());
    }
}
