//! Why addresses could not be given, and what to do about it.

use super::pool::PoolKind;
use crate::{
    model::{IpFamily, Position},
    store::{Owner, UnixSeconds},
};
use ipnet::IpNet;
use std::{fmt, net::IpAddr};

/// Everything that is wrong with one plan, in the order in which it was found. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpamErrors(pub Vec<IpamError>);

impl fmt::Display for IpamErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for IpamErrors {}

/// Why an owner cannot have its address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// An address that was asked for cannot be had.
    #[error("{at}: {owner} asks for {address}, {reason}")]
    Refused {
        /// Where it was asked for.
        at: Position,
        /// Who asks.
        owner: Owner,
        /// For what.
        address: IpAddr,
        /// Why not.
        reason: Refusal,
    },
    /// Nothing is left.
    #[error("{at}: {owner}{} no address: {shortage}", also(*.others, "gets", "get"))]
    Exhausted {
        /// Where the first one that went away empty-handed was written.
        at: Position,
        /// That one.
        owner: Owner,
        /// How many others got none.
        others: usize,
        /// The pool and its state.
        shortage: Shortage,
    },
    /// There is no pool of that family.
    #[error(
        "{at}: {owner}{} an {} address, but the Supervisor has no such {}; add a range there, or ask for the \
         other family only",
        also(*.others, "needs", "need"), family_name(*.family), .pool.field()
    )]
    NoPool {
        /// Where the first one that needs it was written.
        at: Position,
        /// That one.
        owner: Owner,
        /// How many others need it.
        others: usize,
        /// The pool.
        pool: PoolKind,
        /// The family.
        family: IpFamily,
    },
    /// Blocks are too small to hold a pod.
    #[error(
        "{at}: blocks of /{prefix} have no address for a pod (a gateway, the network and the broadcast address \
         are taken); set namespacePrefixLength to 30 or less"
    )]
    BlockTooSmall {
        /// Where the Supervisor was written.
        at: Position,
        /// The length of a block's prefix.
        prefix: u8,
    },
}

impl IpamError {
    /// Where the object or address was written that could not be satisfied.
    pub fn at(&self) -> &Position {
        match self {
            Self::Refused { at, .. }
            | Self::Exhausted { at, .. }
            | Self::NoPool { at, .. }
            | Self::BlockTooSmall { at, .. } => at,
        }
    }
}

/// Why an address that was asked for is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Multicast, loopback, link-local and the like.
    #[error("which is not an address that one host can have on a network; choose a unicast address")]
    NotUnicast,
    /// It lies outside the pool.
    #[error("which is not in pool {pool}; choose an address of the pool, or add a range to {}", .kind.field())]
    NotInPool {
        /// The pool and its ranges.
        pool: String,
        /// Its kind.
        kind: PoolKind,
    },
    /// It lies in a pool of something else.
    #[error("which lies in pool {pool}; choose an address outside of it")]
    OtherPool {
        /// The pool and its ranges.
        pool: String,
    },
    /// It lies in a block of another namespace.
    #[error("which lies in block {block} of namespace {namespace}; choose an address outside of it")]
    OtherBlock {
        /// The block.
        block: IpNet,
        /// Whose block it is.
        namespace: String,
    },
    /// A network, gateway, broadcast or anycast address.
    #[error("which is the {role} address of {net}; choose another one")]
    Reserved {
        /// What it is.
        role: &'static str,
        /// Of what.
        net: IpNet,
    },
    /// Somebody has it.
    #[error("which is held by {by}; choose another one, or change that one first")]
    Held {
        /// Who has it.
        by: String,
    },
    /// Somebody had it until a moment ago.
    #[error("which {last} gave back and which rests until {until}; wait for another {} s, or choose another one", .left)]
    Resting {
        /// Who had it.
        last: Owner,
        /// Until when.
        until: UnixSeconds,
        /// Seconds from now.
        left: u64,
    },
    /// Somebody had it, and living sessions still use it.
    #[error("which living sessions still use; wait until they end, or choose another one")]
    InUse,
    /// A second address of one family.
    #[error("and for another {} address, but can have only one; remove one of them", family_name(*.family))]
    SecondOfFamily {
        /// The family.
        family: IpFamily,
    },
    /// A family that it does not have.
    #[error("an {} address, but has no address of that family; name the family in ipFamilies, or remove the address", family_name(*.family))]
    WrongFamily {
        /// The family.
        family: IpFamily,
    },
}

/// A pool of which nothing is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// The pool and its ranges.
    pub pool: String,
    /// Its kind.
    pub kind: PoolKind,
    /// Length of a block's prefix if the pool is cut into blocks.
    pub block: Option<u8>,
    /// How many addresses or blocks it has.
    pub size: u128,
    /// How many of them are held.
    pub held: usize,
    /// Names of holders, each once.
    pub holders: Vec<String>,
    /// How many rest or are still used by sessions.
    pub resting: usize,
    /// When the first of these is free again, unless sessions still use it.
    pub until: Option<UnixSeconds>,
}

/// How many holders an error names.
const NAMED: usize = 8;

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.size == 1 { "" } else { "s" };
        match self.block {
            Some(length) => write!(f, "pool {} has {} block{many} of /{length}", self.pool, self.size)?,
            None => {
                let many = if self.size == 1 { "" } else { "es" };
                write!(f, "pool {} has {} address{many}", self.pool, self.size)?;
            }
        }
        if self.held > 0 {
            if self.held as u128 == self.size {
                f.write_str(", all held: ")?;
            } else {
                write!(f, ", {} held: ", self.held)?;
            }
            let named = &self.holders[..self.holders.len().min(NAMED)];
            f.write_str(&named.join(", "))?;
            match self.holders.len() - named.len() {
                0 => {}
                more => write!(f, " and {more} more")?,
            }
        }
        if self.resting > 0 {
            let verb = if self.resting == 1 { "rests" } else { "rest" };
            write!(f, "; {} {verb}", self.resting)?;
            match self.until {
                Some(until) => write!(f, " until {until}")?,
                None => f.write_str(" because living sessions use them")?,
            }
        }
        let other = self.size.saturating_sub(self.held as u128).saturating_sub(self.resting as u128);
        if other > 0 {
            write!(f, "; {other} cannot be used because of addresses that are used otherwise")?;
        }
        write!(f, "; add a range to {}", self.kind.field())?;
        if self.held > 0 {
            f.write_str(", or remove a holder")?;
        }
        Ok(())
    }
}

pub(super) fn family_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

/// "" + verb, or " and N others" + verb.
fn also(others: usize, one: &str, many: &str) -> String {
    match others {
        0 => format!(" {one}"),
        1 => format!(" and 1 other {many}"),
        n => format!(" and {n} others {many}"),
    }
}
