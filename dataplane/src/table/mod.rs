//! Compiled look-up structures. Control builds them, snapshots own them, packets read them.
//!
//! | table | answers | oracle |
//! | --- | --- | --- |
//! | [`lpm`] | which prefix is the longest that holds an address | a linear scan |
//! | [`classifier`] | which firewall rule decides for a peer, protocol and port | the ordered rule list |
//! | [`maglev`] | which member takes a flow | shares counted over many flows |
//! | [`ports`] | which NAT port is free | a set |

pub mod classifier;
pub mod lpm;
pub mod maglev;
pub mod ports;
