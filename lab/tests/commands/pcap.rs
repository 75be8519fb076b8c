//! `lab pcap`, as a user has it: files, pipes and lines of a lab's traffic, allowed and denied, while labs change, end and
//! die, and readers stall.

use crate::{hosts::as_root, lab::Lab};
use pcap_file::pcapng::{
    Block, PcapNgParser,
    blocks::{
        enhanced_packet::EnhancedPacketOption, interface_description::InterfaceDescriptionOption,
        interface_statistics::InterfaceStatisticsOption,
    },
};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};
use supernet_dataplane::wire;

const SHOP: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec: {ingressPosture: allowCluster, nodes: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 5432}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}
";

const CURL: &str = "
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: tools}
spec: {containers: [{name: c, image: c}]}
";

/// A reader that does not come to an end within this time never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a capture, and returns once it goes on.
fn capture(lab: &Lab, args: &[&str]) -> Capture {
    let mut command = lab.command(&[&["pcap"], args].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert!(line.starts_with("capturing "), "{line}");
    Capture { child, errors }
}

/// A capture that goes on.
struct Capture {
    child: Child,
    errors: BufReader<std::process::ChildStderr>,
}

/// What a capture has come to: whether it went well, standard output, the rest of standard error.
type Ended = (bool, Vec<u8>, String);

impl Capture {
    /// As Ctrl-C does.
    fn interrupt(self) -> Ended {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.wait()
    }

    /// Waits for it to end by itself.
    fn wait(mut self) -> Ended {
        let mut out = self.child.stdout.take().unwrap();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            out.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    self.child.kill().unwrap();
                    panic!("the capture does not end");
                }
                None => thread::sleep(Duration::from_millis(10)),
            }
        };
        let mut errors = String::new();
        self.errors.read_to_string(&mut errors).unwrap();
        (status.success(), reader.join().unwrap(), errors)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A packet of a file: its interface, whether it came in, its bytes and its comment.
struct Packet {
    port: String,
    is_in: bool,
    data: Vec<u8>,
    len: u32,
    comment: String,
}

/// A file, which must be whole: names and descriptions of interfaces, packets, and what was received and missed of each
/// interface.
struct File {
    interfaces: Vec<(String, String)>,
    packets: Vec<Packet>,
    statistics: Vec<(u64, u64)>,
}

impl File {
    fn read(bytes: &[u8]) -> Self {
        let (mut rest, mut parser) = PcapNgParser::new(bytes).unwrap();
        let mut file = Self { interfaces: Vec::new(), packets: Vec::new(), statistics: Vec::new() };
        while !rest.is_empty() {
            let (after, block) = parser.next_block(rest).unwrap();
            match block {
                Block::InterfaceDescription(i) => {
                    let (mut name, mut description) = Default::default();
                    for option in i.options {
                        match option {
                            InterfaceDescriptionOption::IfName(is) => name = is.into_owned(),
                            InterfaceDescriptionOption::IfDescription(is) => description = is.into_owned(),
                            _ => {}
                        }
                    }
                    file.interfaces.push((name, description));
                }
                Block::EnhancedPacket(p) => {
                    let (mut is_in, mut comment) = (false, String::new());
                    for option in &p.options {
                        match option {
                            EnhancedPacketOption::Flags(flags) => is_in = *flags == 1,
                            EnhancedPacketOption::Comment(is) => comment = is.clone().into_owned(),
                            _ => {}
                        }
                    }
                    let port = file.interfaces[p.interface_id as usize].0.clone();
                    let (data, len) = (p.data.into_owned(), p.original_len);
                    file.packets.push(Packet { port, is_in, data, len, comment });
                }
                Block::InterfaceStatistics(s) => {
                    let [
                        InterfaceStatisticsOption::IsbIfRecv(all),
                        InterfaceStatisticsOption::IsbIfDrop(missed),
                    ] = s.options[..]
                    else {
                        panic!("{s:?}")
                    };
                    file.statistics.push((all, missed));
                }
                other => panic!("{other:?}"),
            }
            rest = after;
        }
        file
    }

    /// SYNs that came in or left at a port.
    fn syns(&self, port: &str, is_in: bool) -> Vec<&Packet> {
        let is_syn = |p: &&Packet| wire::parse(&p.data).is_ok_and(|parsed| parsed.tcp_flags & 0x12 == 0x02);
        self.packets.iter().filter(|p| p.port == port && p.is_in == is_in).filter(is_syn).collect()
    }
}

#[test]
fn allowed_and_denied_are_in_the_file_with_who_decided() {
    if !as_root() {
        return;
    }
    let lab = Lab::up("pcap-file", SHOP);
    let path = lab.file("all.pcapng");
    let file = capture(&lab, &["-w", path.to_str().unwrap()]);
    let lines = capture(&lab, &["--drops"]);
    let json = capture(&lab, &["-o", "json", "--port", "shop/db"]);
    let piped = capture(&lab, &["-w", "-", "--stage", "snat", "--snaplen", "60"]);
    assert!(lab.reaches("shop/db", "http://10.96.0.1/"));
    let db = "http://10.244.0.2:5432/";
    assert!(!lab.reaches("shop/web", db));
    // Nobody may serve there: it is answered all the same.
    lab.reaches("shop/web", "http://203.0.113.10:80/");
    let ended = [file, lines, json, piped].map(Capture::interrupt);
    for (well, _, errors) in &ended {
        assert!(*well && errors.contains("captured, none missed"), "{errors}");
    }
    let file = File::read(&fs::read(&path).unwrap());
    let (name, description) = &file.interfaces.iter().find(|(name, _)| name == "shop/db").unwrap();
    let expected = format!("TAP eth0 in network namespace {}.{}", lab.name, name.replace('/', "."));
    assert_eq!(*description, expected);
    assert_eq!(file.statistics.len(), file.interfaces.len());
    let all: u64 = file.statistics.iter().map(|(all, _)| all).sum();
    assert_eq!(all, file.packets.len() as u64);
    // The ClusterIP as the client sent it, the member as it was delivered.
    let to = |p: &Packet| wire::parse(&p.data).unwrap().dst.to_string();
    let called = file.syns("shop/db", true)[0];
    assert_eq!(to(called), "10.96.0.1");
    let comment = &called.comment;
    assert!(comment.starts_with("to shop/web; new connection, server shop/web:80/TCP"), "{comment}");
    let delivered = file.syns("shop/web", false)[0];
    assert_eq!(to(delivered), "10.244.0.3");
    assert!(delivered.comment.starts_with("from shop/db;"), "{}", delivered.comment);
    let denied = file.syns("shop/web", true).into_iter().find(|p| to(p) == "10.244.0.2").unwrap();
    let why =
        "dropped in front of shop/db by shop/closed isolation; reason IngressDenied; stages dfw-ingress";
    assert!(denied.comment.starts_with(why), "{}", denied.comment);
    // What leaves undone checksums has them done.
    for packet in &file.packets {
        let parsed = wire::parse(&packet.data).unwrap();
        if parsed.proto == wire::Proto::TCP && matches!(parsed.l3, wire::L3::V4) {
            let l4 = &packet.data[parsed.l4()..usize::from(parsed.end)];
            assert_eq!(wire::checksum::transport(parsed.src, parsed.dst, parsed.proto, l4), 0);
        }
        assert_eq!(packet.data.len(), packet.len as usize);
    }
    // Lines: what was denied, and nothing that was not.
    let lines = text(&ended[1].1);
    assert!(lines.lines().all(|l| l.contains("dropped") || l.contains("consumed: ")), "{lines}");
    assert!(lines.contains("dropped in front of shop/db by shop/closed isolation"), "{lines}");
    assert!(!lines.contains('\u{1b}'), "no colours in a pipe");
    // JSON: of one port from either side, and what was denied in front of it.
    let json: Vec<Value> =
        text(&ended[2].1).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(json.iter().all(|p| p["port"] == "shop/db" || p["droppedAt"] == "shop/db"), "{json:?}");
    let denied = json.iter().find(|p| p["verdict"] == "dropped").unwrap();
    assert_eq!(
        (denied["port"].as_str(), denied["reason"].as_str()),
        (Some("shop/web"), Some("IngressDenied"))
    );
    assert_eq!(denied["rules"][0], "shop/closed isolation");
    assert_eq!((&denied["protocol"], &denied["destination"]), (&"TCP".into(), &"10.244.0.2:5432".into()));
    // A pipe, of what was translated, cut short.
    let piped = File::read(&ended[3].1);
    assert!(!piped.packets.is_empty());
    for packet in &piped.packets {
        assert!(packet.comment.contains("stages ") && packet.comment.contains("snat"), "{}", packet.comment);
        assert_eq!(packet.data.len(), packet.len.min(60) as usize);
    }
}

#[test]
fn interfaces_come_with_pods_and_a_lab_that_ends_completes_the_file() {
    if !as_root() {
        return;
    }
    let lab = Lab::up("pcap-ends", SHOP);
    let path = lab.file("all.pcapng");
    let file = capture(&lab, &["-w", path.to_str().unwrap()]);
    let curl = lab.write("curl.yaml", CURL);
    for _ in 0..2 {
        assert!(lab.run(&["apply", "-f", &curl]).status.success());
        assert!(lab.reaches("tools/curl", "http://10.96.0.1/"));
        assert!(lab.run(&["delete", "pod", "tools/curl"]).status.success());
    }
    // Two that read nothing: one has begun, one is a stopped process.
    let mut stalled = UnixStream::connect(format!("/run/supernet/{}/socket", lab.name)).unwrap();
    stalled
        .write_all(b"{\"version\":3,\"ask\":{\"capture\":{\"ports\":[],\"drops\":false,\"stages\":[],\"snaplen\":null}}}\n")
        .unwrap();
    assert!(lab.reaches("shop/db", "http://10.96.0.1/"));
    let began = Instant::now();
    assert!(lab.run(&["down"]).status.success());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let (well, _, errors) = file.wait();
    assert!(well && errors.contains(&format!("lab {} has ended", lab.name)), "{errors}");
    let file = File::read(&fs::read(&path).unwrap());
    let late: Vec<_> = file.interfaces.iter().filter(|(name, _)| name == "tools/curl").collect();
    assert_eq!(late.len(), 1, "the same pod is the same interface");
    assert_eq!(file.interfaces.last().unwrap().0, "tools/curl");
    assert!(file.syns("tools/curl", true).len() >= 2);
    assert_eq!(file.statistics.len(), file.interfaces.len());
    let _ = stalled.shutdown(Shutdown::Both);
}

#[test]
fn a_lab_that_is_killed_leaves_a_whole_file_and_a_word() {
    if !as_root() {
        return;
    }
    let lab = Lab::up("pcap-killed", SHOP);
    let path = lab.file("all.pcapng");
    let file = capture(&lab, &["-w", path.to_str().unwrap()]);
    assert!(lab.reaches("shop/db", "http://10.96.0.1/"));
    // What is on its way has a moment.
    thread::sleep(Duration::from_millis(300));
    let pid = rustix::process::Pid::from_raw(lab.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let (well, _, errors) = file.wait();
    assert!(!well && errors.contains("ended the capture without a word"), "{errors}");
    assert!(!File::read(&fs::read(&path).unwrap()).syns("shop/db", true).is_empty());
}

#[test]
fn readers_that_stall_or_leave_hold_nobody_up() {
    if !as_root() {
        return;
    }
    let lab = Lab::up("pcap-stalls", SHOP);
    // One that leaves in the middle, one that leaves while nothing happens, and one that never reads.
    let leaves = lab.command(&["pcap", "-w", "-"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut leaves = leaves.unwrap();
    drop(leaves.stdout.take());
    let deadline = Instant::now() + PATIENCE;
    while leaves.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "nobody reads it, and it goes on");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(leaves.wait().unwrap().success(), "who read it has seen enough");
    let never = capture(&lab, &["-w", "-"]);
    let counted = capture(&lab, &["-c", "3"]);
    // More than pipes, sockets and the capture have room for.
    let load = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                for n in range(20000): s.sendto(b'x' * 1400, ('10.244.0.3', 7))\n";
    let received = || {
        let status: Value = serde_json::from_slice(&lab.run(&["status", "-o", "json"]).stdout).unwrap();
        let port = status["ports"].as_array().unwrap().iter().find(|p| p["name"] == "shop/db").unwrap();
        port["in"]["packets"].as_u64().unwrap()
    };
    while received() < 50_000 {
        assert!(Instant::now() < deadline, "the network stands still");
        let sent = lab.run(&["exec", "shop/db", "--", "python3", "-c", load]);
        assert!(sent.status.success(), "{}", text(&sent.stderr));
    }
    let (well, out, errors) = counted.wait();
    assert!(well && errors.starts_with("3 packets captured"), "{errors}");
    assert_eq!(text(&out).lines().count(), 3);
    assert!(lab.reaches("shop/db", "http://10.96.0.1/"), "the network goes on");
    assert!(lab.run(&["status"]).status.success(), "and so does the lab");
    // It is read at last: the rest was missed, and that is in the file.
    let (well, out, errors) = never.interrupt();
    assert!(well && errors.contains(" missed because they came faster than they were read: "), "{errors}");
    let file = File::read(&out);
    let (all, missed) = file.statistics.iter().fold((0, 0), |sum, s| (sum.0 + s.0, sum.1 + s.1));
    assert!(missed > 0 && all - missed >= file.packets.len() as u64, "{all} and {missed}");
    assert!(all > 50_000, "{all}");
}

#[test]
fn what_cant_be_captured_is_said() {
    if !as_root() {
        return;
    }
    let lab = Lab::up("pcap-errors", SHOP);
    let error = |args: &[&str]| {
        let output = lab.run(&[&["pcap"], args].concat());
        assert!(!output.status.success() && output.stdout.is_empty());
        text(&output.stderr)
    };
    let said = error(&["--port", "shop/nobody"]);
    assert!(said.contains("nothing in lab") && said.contains("uplink/uplink-1"), "{said}");
    let said = error(&["--stage", "firewall"]);
    assert!(said.contains("there is no stage \"firewall\"; there is: parse, spoof-guard,"), "{said}");
    let said = error(&["-w", "/nonexistent/x.pcapng"]);
    assert!(said.contains("can't write /nonexistent/x.pcapng: No such file"), "{said}");
    let said = error(&["-w", "/dev/full", "--for", "1"]);
    assert!(said.contains("can't write /dev/full: No space left"), "{said}");
    // Those that were never written have a moment to end. No more than there is memory for.
    thread::sleep(Duration::from_secs(1));
    let going_on: Vec<Capture> = (0..8).map(|_| capture(&lab, &[])).collect();
    let said = error(&[]);
    assert!(said.contains("8 captures of this lab go on already"), "{said}");
    for capture in going_on {
        assert!(capture.interrupt().0);
    }
    let (well, _, errors) = capture(&lab, &["--for", "1"]).wait();
    assert!(well && errors.contains("captured, none missed"), "{errors}");
}
