//! The same network as Linux makes it: two namespaces that route, nftables that translates. The ends are TAP
//! devices whose descriptors the test holds, so that it is every host and every wire.

use crate::{
    network::{MEMBER, Network, OUTSIDE, OUTSIDE_V6, POD},
    packets::{Ip, ends},
};
use rustix::{
    io::Errno,
    thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_getaffinity, sched_setaffinity},
};
use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use supernet_dataplane::snapshot::GATEWAY_MAC;
use supernet_drivers::tap::{self, Tap};
use supernet_testkit::{net::OUTSIDE_MAC, topology::mac};

/// How long the kernel may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// What tells the frame that shows that all before it are through.
const LAST: &[u8] = b"the last one";

/// Addresses answered by the kernel itself, beyond either router.
const VIP: &str = "192.168.80.10";
const VIP_V6: &str = "fd96::10";

/// What the kernel would say by itself, limit or refuse, turned off. Not every kernel has all of them.
const SETTINGS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv4/icmp_ratemask", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
];

const TIER1: &str = "
link set dev lo up
link set dev pod0 address GATEWAY mtu 1500 up
link set dev pod1 address GATEWAY mtu 1300 up
link set dev north up
address add 10.0.0.1/28 dev pod0
address add 10.0.0.17/28 dev pod1
address add fe80::1/64 dev pod0 nodad
address add fe80::1/64 dev pod1 nodad
address add 192.168.80.10/32 dev lo
address add 10.96.0.10/32 dev lo
address add fd96::10/128 dev lo nodad
address add fe80::11/64 dev north nodad
neighbour add 10.0.0.2 lladdr MAC0 dev pod0 nud permanent
neighbour add 10.0.0.18 lladdr MAC1 dev pod1 nud permanent
neighbour add fd00:0:0:1::2 lladdr MAC0 dev pod0 nud permanent
neighbour add fd00:0:0:2::2 lladdr MAC1 dev pod1 nud permanent
neighbour add 169.254.0.1 lladdr 02:00:00:00:00:f0 dev north nud permanent
neighbour add fe80::f0 lladdr 02:00:00:00:00:f0 dev north nud permanent
route add fd00:0:0:1::/64 dev pod0 src fe80::1
route add fd00:0:0:2::/64 dev pod1 src fe80::1
route add default via 169.254.0.1 dev north onlink src 10.0.0.17
route add default via fe80::f0 dev north
route add blackhole 10.0.0.0/24
route add blackhole 10.96.0.0/16
route add blackhole 192.168.80.0/24
route add blackhole 192.168.90.0/24
";

const TIER0: &str = "
link set dev lo up
link set dev south up
link set dev out4 address MAC2 mtu 1400 up
link set dev out6 address MAC3 mtu 1400 up
address add 192.168.100.1/24 dev out4
address add 2001:db8:100::1/64 dev out6 nodad
address add fe80::f0/64 dev south nodad
neighbour add 192.168.100.254 lladdr OUTSIDE dev out4 nud permanent
neighbour add 2001:db8:100::fe lladdr OUTSIDE dev out6 nud permanent
neighbour add 169.254.0.11 lladdr 02:00:00:00:00:11 dev south nud permanent
neighbour add fe80::11 lladdr 02:00:00:00:00:11 dev south nud permanent
route add default via 192.168.100.254 dev out4
route add default via 2001:db8:100::fe dev out6
route add 10.0.0.0/8 via 169.254.0.11 dev south onlink src 192.168.100.1
route add 192.168.80.0/24 via 169.254.0.11 dev south onlink src 192.168.100.1
route add 192.168.90.0/24 via 169.254.0.11 dev south onlink src 192.168.100.1
route add fd00::/8 via fe80::11 dev south
";

const NFTABLES: &str = "
table ip nat {
    chain before {
        type nat hook prerouting priority dstnat;
        ip daddr { 192.168.80.10, 10.96.0.10 } tcp dport 80 dnat to 10.0.0.18:8080
        ip daddr { 192.168.80.10, 10.96.0.10 } udp dport 53 dnat to 10.0.0.18:5353
    }
    chain after {
        type nat hook postrouting priority srcnat;
        oifname north ip saddr 10.0.0.0/24 snat to 192.168.90.1
    }
}
table inet filter {
    chain through {
        type filter hook forward priority filter; policy accept;
        ct state invalid drop
        ct state established,related accept
    }
    chain to_itself {
        type filter hook input priority filter; policy accept;
        ct state invalid drop
    }
}
";

/// Two namespaces, which live as long as the TAPs.
pub(crate) struct Linux {
    taps: Vec<Tap>,
    /// Echoes sent so far.
    echoes: u32,
    names: [String; 2],
    /// The calling thread's own namespace, and the processors it may run on, to return to.
    before: (File, CpuSet),
}

impl Linux {
    /// `None`, said loudly, where the kernel can't be asked; a failure in CI.
    pub(crate) fn new() -> Option<Self> {
        let missing = if !rustix::process::geteuid().is_root() {
            "not root"
        } else if !Path::new("/dev/net/tun").exists() {
            "no /dev/net/tun"
        } else if Command::new("nft").arg("--version").output().is_err() {
            "no nft (nftables)"
        } else {
            return Some(Self::make());
        };
        assert!(std::env::var_os("CI").is_none(), "the kernel can't be asked in CI: {missing}");
        // Straight to the descriptor: what a test prints is otherwise shown only when it fails.
        let _ =
            writeln!(std::io::stderr(), "\n*** SKIPPED: can't compare with the kernel here: {missing} ***\n");
        None
    }

    fn make() -> Self {
        let name = |tier| format!("kerneltest-{}-{tier}", std::process::id());
        let before = (File::open("/proc/thread-self/ns/net").unwrap(), sched_getaffinity(None).unwrap());
        // From here on dropping it cleans up.
        let mut linux = Self { taps: Vec::new(), echoes: 0, names: [name("tier1"), name("tier0")], before };
        // On one processor the kernel handles frames in the order they came.
        let first = (0..CpuSet::MAX_CPU).find(|cpu| linux.before.1.is_set(*cpu)).unwrap();
        let mut only = CpuSet::new();
        only.set(first);
        sched_setaffinity(None, &only).unwrap();

        let [tier1, tier0] = linux.names.clone();
        run("ip", &["netns", "add", &tier1], "");
        run("ip", &["netns", "add", &tier0], "");
        linux.enter(&tier1);
        let mut taps = vec![tap::open("pod0").unwrap(), tap::open("pod1").unwrap()];
        let link = format!(
            "link add north address 02:00:00:00:00:11 type veth peer south address 02:00:00:00:00:f0 netns {tier0}"
        );
        run("ip", &link.split(' ').collect::<Vec<_>>(), "");
        configure(TIER1);
        run("nft", &["-f", "-"], NFTABLES);
        linux.enter(&tier0);
        taps.extend([tap::open("out4").unwrap(), tap::open("out6").unwrap()]);
        configure(TIER0);
        linux.leave();
        // The descriptors keep them from now on, so they go with this process however it ends.
        linux.forget_names();
        linux.taps = taps;
        // Links are up some time after they were set up.
        let deadline = Instant::now() + PATIENCE;
        for port in [POD, MEMBER, OUTSIDE, OUTSIDE_V6] {
            while !linux.echo(port, Duration::from_millis(20), &mut Vec::new()) {
                assert!(Instant::now() < deadline, "the kernel does not answer at port {port}");
            }
        }
        linux
    }

    fn enter(&self, name: &str) {
        let netns = File::open(format!("/run/netns/{name}")).unwrap();
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    fn leave(&self) {
        let _ = move_into_link_name_space(self.before.0.as_fd(), Some(LinkNameSpaceType::Network));
    }

    fn forget_names(&self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }

    fn write(&self, port: u32, frame: &[u8]) {
        let written = rustix::io::write(&self.taps[port as usize], frame).unwrap();
        assert_eq!(written, frame.len());
    }

    /// What the kernel has sent so far.
    fn read(&self, into: &mut Vec<(u32, Vec<u8>)>) {
        for (port, tap) in self.taps.iter().enumerate() {
            let mut frame = [0; 2048];
            loop {
                match rustix::io::read(tap, &mut frame) {
                    // ARP and multicast are the kernel's own.
                    Ok(len) if frame[12..14] == [8, 6] || frame[0] & 1 != 0 => assert!(len > 0),
                    Ok(len) => into.push((port as u32, frame[..len].to_vec())),
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => {}
                    Err(e) => panic!("read from TAP {port}: {e}"),
                }
            }
        }
    }
}

impl Network for Linux {
    fn send(&mut self, port: u32, frames: &[Vec<u8>]) -> Vec<(u32, Vec<u8>)> {
        frames.iter().for_each(|frame| self.write(port, frame));
        let mut out = Vec::new();
        assert!(self.echo(port, PATIENCE, &mut out), "the kernel does not answer at port {port}");
        out
    }
}

impl Linux {
    /// Waits for an echo that passes both routers twice, so that all that was sent before has come out. Whether it
    /// came back.
    fn echo(&mut self, port: u32, patience: Duration, out: &mut Vec<(u32, Vec<u8>)>) -> bool {
        let (src, dst, kind) = match port {
            POD => ("10.0.0.2", "192.168.100.1", 8),
            MEMBER => ("10.0.0.18", "192.168.100.1", 8),
            OUTSIDE => ("198.51.100.99", VIP, 8),
            _ => ("2001:db8:99::99", VIP_V6, 128),
        };
        self.echoes += 1;
        let payload = [LAST, &self.echoes.to_be_bytes()].concat();
        self.write(port, &Ip::echo(ends(src, 0, dst, 0), kind, 0xfefe, &payload).into(port));
        let deadline = Instant::now() + patience;
        let mut came = false;
        while !came && Instant::now() < deadline {
            self.read(out);
            came = out.iter().any(|(_, frame)| frame.ends_with(&payload));
        }
        self.read(out);
        // Also those that came too late.
        out.retain(|(_, frame)| !frame.windows(LAST.len()).any(|bytes| bytes == LAST));
        came
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        self.leave();
        let _ = sched_setaffinity(None, &self.before.1);
        self.forget_names();
    }
}

/// Settings, addresses, neighbors and routes of the namespace that the calling thread is in.
fn configure(commands: &str) {
    for (name, value) in SETTINGS {
        let _ = fs::write(Path::new("/proc/sys/net").join(name), value);
    }
    // Interfaces that were there before took over older settings.
    for interface in fs::read_dir("/proc/sys/net/ipv4/conf").unwrap().flatten() {
        for name in ["rp_filter", "send_redirects"] {
            let _ = fs::write(interface.path().join(name), "0");
        }
        let v6 = Path::new("/proc/sys/net/ipv6/conf").join(interface.file_name());
        for (name, value) in [("accept_dad", "0"), ("addr_gen_mode", "1")] {
            let _ = fs::write(v6.join(name), value);
        }
    }
    let mut commands = commands.replace("GATEWAY", &GATEWAY_MAC.to_string()).replace("OUTSIDE", OUTSIDE_MAC);
    for port in [POD, MEMBER, OUTSIDE, OUTSIDE_V6] {
        commands = commands.replace(&format!("MAC{port}"), &mac(port).to_string());
    }
    run("ip", &["-batch", "-"], &commands);
}

/// Runs a program in the calling thread's namespace.
fn run(program: &str, args: &[&str], input: &str) {
    let mut command = Command::new(program);
    let command = command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", args.join(" "));
}
