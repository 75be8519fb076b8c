//! Labs of two hosts, as root. The network between them is a cable: what one TAP receives the other sends.

mod change;
mod dns;
mod faults;
mod limits;
mod live;
mod live_process;
mod netpol;
mod network;
mod offload;
mod process;
mod selftest;

use super::{
    error::LabError,
    net::{LabNet, bring_up},
    netns::{self, Netns},
    spec::{EndpointSpec, LabSpec, OutsideRoute, OutsideSpec, OutsideUplink, Place, Via},
    state,
    supervise::{down, exec},
};
use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    ops::ControlFlow,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use supernet_control::model::Protocol;
use supernet_dataplane::{
    buf::Pool,
    port::{Port, Receive, Transmit},
};
use supernet_drivers::tap::Tap;

const NOTHING: [String; 0] = [];

/// Whether the test may go on. Loud when not, and a failure in CI.
fn as_root() -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if !std::path::Path::new("/dev/net/tun").exists() {
        "no /dev/net/tun"
    } else {
        return true;
    };
    assert!(std::env::var_os("CI").is_none(), "lab tests can't run in CI: {missing}");
    // Straight to the descriptor: what a test prints is otherwise shown only when it fails.
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: this lab test can't run here: {missing} ***\n");
    false
}

/// A lab name of this test run, so that runs and tests do not meet.
fn lab_name(test: &str) -> String {
    format!("test{}-{test}", std::process::id())
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|n| n.parse().unwrap()).collect()
}

fn endpoint(name: &str, mac: u8, addresses: &[&str], gateways: &[&str]) -> EndpointSpec {
    EndpointSpec {
        name: name.to_owned(),
        workload: None,
        mac: supernet_control::model::Mac([2, 0, 0, 0, 0, mac]),
        addresses: nets(addresses),
        gateways: gateways.iter().map(|g| g.parse().unwrap()).collect(),
        mtu: 1400,
        serve: vec![(Protocol::Tcp, 80), (Protocol::Udp, 53), (Protocol::Tcp, 80)],
        dns: Vec::new(),
        hosted: Vec::new(),
    }
}

fn up(lab: &str, spec: &LabSpec) -> LabNet {
    bring_up(lab, spec, &mut |_, _, _| ControlFlow::Continue(())).unwrap()
}

/// Two TAPs, joined by a thread until dropped.
struct Cable {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Cable {
    fn between(a: Tap, b: Tap) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let pool = Pool::new(256);
        let split = |tap: Tap| {
            let opened = tap.open(1, &pool).unwrap();
            (opened.receivers.into_iter().next().unwrap(), opened.senders.into_iter().next().unwrap())
        };
        let ((mut rx_a, mut tx_a), (mut rx_b, mut tx_b)) = (split(a), split(b));
        let thread = thread::spawn(move || {
            let pass = |rx: &mut dyn Receive, tx: &mut dyn Transmit| {
                let mut frames = Vec::new();
                rx.receive(&mut frames, 64, &pool).unwrap();
                tx.transmit(&mut frames).unwrap();
            };
            while !stopped.load(Ordering::Relaxed) {
                let fds = [rx_a.as_fd().unwrap(), rx_b.as_fd().unwrap()];
                let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
                let timeout = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
                pass(&mut *rx_a, &mut *tx_b);
                pass(&mut *rx_b, &mut *tx_a);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Runs `f` on a thread inside a host of the lab.
fn inside<T: Send>(lab: &str, host: &str, f: impl FnOnce() -> T + Send) -> T {
    let netns = Netns::open(&netns::name(lab, host)).unwrap();
    thread::scope(|s| {
        s.spawn(|| {
            netns.enter().unwrap();
            f()
        })
        .join()
        .unwrap()
    })
}

fn connect(address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().unwrap();
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

fn get(address: &str) -> (String, SocketAddr) {
    let mut stream = connect(address);
    stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    (text, stream.local_addr().unwrap())
}

/// Whatever of a lab can be found in the system.
fn traces_of(lab: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found: Vec<String> = mounts.lines().filter(|l| l.contains(lab)).map(str::to_owned).collect();
    for folder in ["/run/netns", "/run/supernet"] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        found.extend(
            entries.map(|e| e.path().display().to_string()).filter(|p| p.contains(&format!("/{lab}"))),
        );
    }
    found
}

fn is_running(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

fn sleep_in(netns: &str) -> Child {
    let mut command = Command::new("ip");
    let child = command.args(["netns", "exec", netns, "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
    // `ip` enters the namespace after it was started.
    thread::sleep(Duration::from_millis(200));
    child
}

#[test]
fn two_pods_talk_and_nothing_is_left_afterwards() {
    if !as_root() {
        return;
    }
    let lab = lab_name("pair");
    let spec = LabSpec {
        endpoints: vec![
            endpoint("shop/web-0", 1, &["10.0.0.2/28", "fd00::2/64"], &["10.0.0.1"]),
            endpoint("shop/db-0", 2, &["10.0.0.3/28", "fd00::3/64"], &["10.0.0.1"]),
        ],
        outside: OutsideSpec::default(),
        names: None,
        queues: 1,
    };
    let mut hosts = Vec::new();
    let mut net = bring_up(&lab, &spec, &mut |done, total, name| {
        hosts.push((done, total, name.to_owned()));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(hosts.len(), 3, "{hosts:?}");
    assert_eq!(net.warnings(), NOTHING, "a port named twice is served once");
    assert_eq!(
        fs::read_to_string(format!("/run/supernet/{lab}/state.json")).unwrap().matches("netns").count(),
        3
    );

    let mut taps = net.take_taps();
    assert_eq!(taps[1].0, Place::Endpoint("shop/db-0".to_owned()), "in the order of the spec");
    let (b, a) = (taps.pop().unwrap().1, taps.pop().unwrap().1);
    let cable = Cable::between(a, b);
    for (server, client) in [("10.0.0.3:80", "10.0.0.2"), ("[fd00::3]:80", "[fd00::2]")] {
        let (text, local) = inside(&lab, "shop/web-0", || get(server));
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        let body = format!("\r\n\r\npod: db-0\nnamespace: shop\nclient: {client}:{}\n", local.port());
        assert!(text.ends_with(&body), "{text}");
    }
    let echoed = inside(&lab, "shop/db-0", || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(b"a line\n", "10.0.0.2:53").unwrap();
        let mut answer = [0; 64];
        let n = socket.recv(&mut answer).unwrap();
        answer[..n].to_vec()
    });
    assert_eq!(echoed, b"a line\n");

    // What was left running in a pod goes with the lab.
    let mut child = sleep_in(&netns::name(&lab, "shop/web-0"));
    assert!(is_running(&mut child));
    drop(cable);
    drop(net);
    assert!(!is_running(&mut child));
    assert_eq!(traces_of(&lab), NOTHING);
}

#[test]
fn all_interfaces_go_at_once_while_their_taps_are_open() {
    if !as_root() {
        return;
    }
    let lab = lab_name("devices");
    let names: Vec<String> = (0..40).map(|n| format!("shop/web-{n}")).collect();
    let endpoints = names.iter().map(|name| endpoint(name, 1, &["10.0.0.2/28"], &[])).collect();
    let mut net = up(&lab, &LabSpec { endpoints, outside: OutsideSpec::default(), names: None, queues: 1 });
    let taps = net.take_taps();
    let devices = || fs::read_to_string("/proc/thread-self/net/dev").unwrap().matches("eth0:").count();
    let all = || names.iter().map(|name| inside(&lab, name, devices)).sum::<usize>();
    assert_eq!(all(), 40);
    net.remove_devices();
    assert_eq!(all(), 0);
    drop((taps, net));
    assert_eq!(traces_of(&lab), NOTHING);
}

#[test]
fn an_address_outside_its_block_reaches_the_world_through_its_gateway() {
    if !as_root() {
        return;
    }
    let lab = lab_name("world");
    let uplink = OutsideUplink {
        name: "uplink-1".to_owned(),
        mac: Some(supernet_control::model::Mac([2, 0, 0, 0, 1, 1])),
        addresses: nets(&["192.168.100.254/24", "fe80::1/64"]),
        mtu: 1400,
    };
    let route = |prefix: &str, via: &str| OutsideRoute {
        prefix: prefix.parse().unwrap(),
        via: vec![Via { uplink: 0, address: via.parse().unwrap() }],
    };
    let mut spec = LabSpec {
        endpoints: vec![endpoint(
            "shop/web-0",
            1,
            &["192.168.100.1/32", "2001:db8:1::5/128"],
            &["192.168.100.254", "fe80::1"],
        )],
        outside: OutsideSpec {
            uplinks: vec![uplink],
            addresses: vec!["203.0.113.10".parse().unwrap(), "2001:db8:ffff::10".parse().unwrap()],
            routes: vec![route("10.0.0.0/8", "192.168.100.1")],
            serve: vec![(Protocol::Tcp, 80), (Protocol::Sctp, 80)],
        },
        names: None,
        queues: 1,
    };
    spec.without_responder(&lab, "shop/web-0").unwrap();
    assert!(spec.without_responder(&lab, "shop/nobody").is_err());
    let mut net = up(&lab, &spec);
    assert_eq!(net.warnings().len(), 1, "{:?}", net.warnings());
    assert!(net.warnings()[0].starts_with("outside: SCTP port 80 is not served"), "{:?}", net.warnings());
    inside(&lab, "outside", || {
        // No route of the spec: an IPv6 one that needs an interface, for the pod's address.
        netns::ip("outside", &["route add 2001:db8:1::/64 dev up0".to_owned()]).unwrap();
    });
    let mut taps = net.take_taps();
    assert_eq!(taps[1].0, Place::Uplink("uplink-1".to_owned()));
    let (b, a) = (taps.pop().unwrap().1, taps.pop().unwrap().1);
    let cable = Cable::between(a, b);
    for server in ["203.0.113.10:80", "[2001:db8:ffff::10]:80"] {
        let (text, _) = inside(&lab, "shop/web-0", || get(server));
        assert!(text.contains("pod: outside\n"), "{text}");
    }
    let own = inside(&lab, "shop/web-0", || std::net::TcpListener::bind("0.0.0.0:80").map(drop));
    assert!(own.is_ok(), "the port was left to the user: {own:?}");
    drop((cable, net));
    assert_eq!(traces_of(&lab), NOTHING);
}

#[test]
fn a_start_that_fails_or_is_broken_off_leaves_nothing() {
    if !as_root() {
        return;
    }
    let lab = lab_name("failed");
    let spec = |address: &str| LabSpec {
        endpoints: vec![endpoint("a/b", 1, &["10.0.0.2/28"], &[]), endpoint("a/c", 2, &[address], &[])],
        outside: OutsideSpec::default(),
        names: None,
        queues: 1,
    };
    let error = bring_up(&lab, &spec("127.0.0.1/8"), &mut |_, _, _| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(error, LabError::Interrupted), "{error}");
    assert_eq!(traces_of(&lab), NOTHING);

    let mut wrong = spec("10.0.0.3/28");
    wrong.endpoints[1].gateways = vec!["224.0.0.1".parse().unwrap()];
    let error = bring_up(&lab, &wrong, &mut |_, _, _| ControlFlow::Continue(())).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("a/c: `ip route add default via 224.0.0.1 dev eth0 onlink` failed: "), "{text}");
    assert_eq!(traces_of(&lab), NOTHING);
}

#[test]
fn a_name_is_taken_once_and_a_foreign_namespace_is_not_touched() {
    if !as_root() {
        return;
    }
    let lab = lab_name("twice");
    let spec = LabSpec { endpoints: Vec::new(), outside: OutsideSpec::default(), names: None, queues: 1 };
    let net = up(&lab, &spec);
    let error = bring_up(&lab, &spec, &mut |_, _, _| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(&error, LabError::AlreadyUp { pid: Some(p), .. } if *p == std::process::id() as i32));
    assert!(state::running().contains(&lab));
    drop(net);
    assert!(matches!(down(&lab, false), Err(LabError::NotUp { .. })));

    let foreign = netns::name(&lab, "outside");
    netns::create(std::slice::from_ref(&foreign), &unlocked()).unwrap();
    let error = bring_up(&lab, &spec, &mut |_, _, _| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(&error, LabError::NamespaceTaken { netns } if *netns == foreign), "{error}");
    assert!(netns::path(&foreign).exists());
    netns::remove(&foreign).unwrap();
    assert_eq!(traces_of(&lab), NOTHING);
}

/// In place of a lab's lock.
fn unlocked() -> fs::File {
    fs::File::open("/dev/null").unwrap()
}

/// The state of a lab whose supervisor was killed: files without a lock, namespaces, and a process in one.
fn killed_lab(lab: &str) -> Child {
    let netns = netns::name(lab, "shop/web-0");
    netns::create(std::slice::from_ref(&netns), &unlocked()).unwrap();
    fs::create_dir_all(format!("/run/supernet/{lab}")).unwrap();
    let state = format!(r#"{{"pid":1,"endpoints":[{{"name":"shop/web-0","netns":"{netns}"}}]}}"#);
    fs::write(format!("/run/supernet/{lab}/state.json"), state).unwrap();
    sleep_in(&netns)
}

#[test]
fn what_a_killed_lab_left_is_removed_by_the_next_up_and_by_down() {
    if !as_root() {
        return;
    }
    let lab = lab_name("killed");
    let mut child = killed_lab(&lab);
    let error = exec(&lab, "shop/web-0", &["true".into()]).unwrap_err();
    assert!(matches!(&error, LabError::Died { .. }), "{error}");
    let text = down(&lab, false).unwrap();
    assert!(text.contains("had been killed"), "{text}");
    assert!(!is_running(&mut child));
    assert_eq!(traces_of(&lab), NOTHING);

    let mut child = killed_lab(&lab);
    let net =
        up(&lab, &LabSpec { endpoints: Vec::new(), outside: OutsideSpec::default(), names: None, queues: 1 });
    assert!(!is_running(&mut child));
    drop(net);
    assert_eq!(traces_of(&lab), NOTHING);
}

#[test]
fn a_dead_supervisor_s_lock_is_waited_for() {
    if !as_root() {
        return;
    }
    let lab = lab_name("aftermath");
    let none = LabSpec { endpoints: Vec::new(), outside: OutsideSpec::default(), names: None, queues: 1 };
    for by_down in [true, false] {
        let mut child = killed_lab(&lab);
        // Nobody has this number: it is above the kernel's limit.
        let state = format!("/run/supernet/{lab}/state.json");
        let text = fs::read_to_string(&state).unwrap().replace(r#""pid":1,"#, r#""pid":2000000000,"#);
        fs::write(&state, text).unwrap();
        let lock = fs::File::open(format!("/run/supernet/{lab}")).unwrap();
        lock.try_lock().unwrap();
        // What still runs of the dead one makes another second of it.
        let held = thread::spawn(move || {
            thread::sleep(Duration::from_secs(1));
            drop(lock);
        });
        if by_down {
            assert!(down(&lab, false).unwrap().contains("had been killed"));
        } else {
            drop(up(&lab, &none));
        }
        held.join().unwrap();
        assert!(!is_running(&mut child));
        assert_eq!(traces_of(&lab), NOTHING);
    }
}
