//! What can go wrong with a lab, and what to do about it.

use std::{io, net::IpAddr, path::PathBuf};
use supernet_control::model::Position;
use supernet_drivers::{interface::InterfaceError, tap::TapError};

/// Why a lab could not be started, entered or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabError {
    #[error("lab {name} is root's: run this with sudo")]
    Roots { name: String },
    #[error("this system lets only root have a lab ({source}): run it with sudo, or {advice}")]
    Rootless { source: io::Error, advice: &'static str },
    #[error(
        "`ip` is not installed: install it with `apt-get install iproute2` (or your system's package manager)"
    )]
    NoIproute,
    #[error("{0:?} can't name a lab: use 1 to 32 letters, digits, `-` or `_`")]
    BadName(String),
    #[error("lab {name} is already up{}: end it with `supernet lab down --name {name}`, or choose another name with --name", process(.pid))]
    AlreadyUp { name: String, pid: Option<i32> },
    #[error("no lab {name} is up{}", others(.running))]
    NotUp { name: String, running: Vec<String> },
    #[error(
        "lab {name} died without cleaning up: `supernet lab down --name {name}` removes what it left, and so does \
         starting it again with `supernet lab up`"
    )]
    Died { name: String },
    #[error("nothing in lab {lab} is called {target:?}; there is: {}", list(.names))]
    UnknownTarget { lab: String, target: String, names: Vec<String> },
    #[error("{target:?} is not unique in lab {lab}: it could be {}", list(.candidates))]
    AmbiguousTarget { lab: String, target: String, candidates: Vec<String> },
    #[error(
        "network namespace {netns} exists and is not of this lab: remove it with `ip netns del {netns}` if nobody needs it, or choose another lab name with --name"
    )]
    NamespaceTaken { netns: String },
    #[error("{place}: {source}")]
    Tap { place: String, source: TapError },
    #[error("{at}: uplink {uplink}: {source}")]
    Interface { at: Position, uplink: String, source: InterfaceError },
    #[error(
        "{at}: uplink {uplink} is on interface {interface}, which only root may open: run this with sudo, or leave \
         `interface` out"
    )]
    InterfaceOfRoot { at: Position, uplink: String, interface: String },
    #[error(
        "{at}: uplink {uplink} carries packets of {wanted} bytes, and interface {interface} of {mtu}: give the uplink \
         `mtu: {mtu}`, or the interface more with `ip link set dev {interface} mtu {wanted}`"
    )]
    InterfaceMtu { at: Position, uplink: String, interface: String, wanted: u16, mtu: u32 },
    #[error(
        "{at}: interface {interface} has the address {address} of uplink {uplink} itself, so that both would answer: take \
         it away with `ip address del`, or give the uplink another one"
    )]
    InterfaceAddress { at: Position, uplink: String, interface: String, address: IpAddr },
    #[error(
        "{at}: this machine has the address {address} on interface {interface}, and would hear nothing there any more: with \
         the driver `xdp` the interface is the network's alone; take its addresses away, choose another interface, or \
         the driver `packet`"
    )]
    InterfaceInUse { at: Position, interface: String, address: IpAddr },
    #[error("{place}: `ip {command}` failed: {message}")]
    Ip { place: String, command: String, message: String },
    #[error("{place}: can't {what}: {source}")]
    System { place: String, what: &'static str, source: io::Error },
    #[error("{}: {source}", .path.display())]
    State { path: PathBuf, source: io::Error },
    #[error("{}: not a lab's state ({reason}): remove the folder if no lab runs", .path.display())]
    BadState { path: PathBuf, reason: String },
    #[error("can't run {}: {source}", .command.display())]
    Exec { command: PathBuf, source: io::Error },
    #[error("lab {name} is gone, but these are left: {}", list(.left))]
    Leftovers { name: String, left: Vec<String> },
    #[error(
        "lab {name}: process {pid} does not end, not even when killed: the kernel holds it (`cat /proc/{pid}/stack` says \
         where); try `supernet lab down --name {name}` again later"
    )]
    Stuck { name: String, pid: i32 },
    #[error("interrupted")]
    Interrupted,
}

impl LabError {
    /// The exit status that says the same, as shells and `env` have it for a command that can't be run.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Exec { .. } => 126,
            _ => 1,
        }
    }
}

fn process(pid: &Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

fn others(running: &[String]) -> String {
    if running.is_empty() {
        ": start one with `supernet lab up -f FILE`".to_owned()
    } else {
        format!("; these are: {} (choose one with --name)", list(running))
    }
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 40;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
