//! The command as its users run it: the program itself, in namespaces of the test's own where it needs some.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod attach;
mod demo;
mod flows;
mod hosts;
mod lab;
mod pcap;
mod rootless;
mod uplink;
mod watch;
mod workers;
