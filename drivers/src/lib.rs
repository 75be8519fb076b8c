//! Ports onto the world.
//!
//! Each driver is a [`Port`](supernet_dataplane::port::Port) behind a feature of its own: [`tap`] for Linux
//! TAP devices; [`packet`] and [`xdp`] for interfaces that are there already; [`pcap`] to replay and to record capture
//! files. Drivers know frames and nothing else of the
//! dataplane: they import only `port` and `buf`.

#[cfg(any(feature = "tap", feature = "packet"))]
mod descriptor;
#[cfg(any(feature = "packet", feature = "xdp"))]
pub mod interface;
#[cfg(feature = "packet")]
pub mod packet;
#[cfg(feature = "pcap")]
pub mod pcap;
#[cfg(feature = "tap")]
pub mod tap;
#[cfg(any(feature = "tap", feature = "packet"))]
mod virtio;
#[cfg(feature = "xdp")]
pub mod xdp;
