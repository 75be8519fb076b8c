//! Compiled look-up structures. Control builds them, snapshots own them, packets read them.
//!
//! | table | answers | oracle |
//! | --- | --- | --- |
//! | [`exact`] | what is known of an integer | a hash map |
//! | [`lpm`] | which prefix is the longest that holds an address | a linear scan |
//! | [`ranges`] | the same for packets: what holds in the piece an address lies in | counting cuts |
//! | [`classifier`] | which rule decides for a peer, protocol and port | the ordered rule list |
//! | [`firewall`] | which of several rule lists decides | the same, one list after the other |
//! | [`maglev`] | which member takes a flow | shares counted over many flows |
//! | [`ports`] | which NAT port is free | a set |
//! | [`registry`] | the number or pool of what was met before | a map |

pub mod classifier;
pub mod exact;
pub mod firewall;
pub mod lpm;
pub mod maglev;
pub mod ports;
pub mod ranges;
pub mod registry;
