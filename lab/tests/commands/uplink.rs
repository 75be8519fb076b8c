//! Labs whose uplink is on an interface of the machine, and a world beyond it that is not the lab's.

use crate::hosts::{Hosts, as_root};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

const NETWORK: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
spec:
  ingressPosture: allow
  uplinks:
    - {name: up, addresses: [192.168.100.1/24], interface: eth1, DRIVER}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: web, image: web, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: LoadBalancer, loadBalancerIP: 192.168.80.10, selector: {app: web}, ports: [{port: 80}]}
";

/// A client that receives what the server sends until it ends, and says how much it was and its sum.
const FETCH: &str = "
import socket, zlib
s = socket.create_connection(('203.0.113.10', 7001), timeout=20)
n = c = 0
while True:
    d = s.recv(65536)
    if not d: break
    n += len(d); c = zlib.crc32(d, c)
print(n, c)
";

/// The server of that: 16 MB, and what it received itself.
const SERVE: &str = "
import socket, zlib
s = socket.create_server(('203.0.113.10', 7001))
print('ready', flush=True)
d = bytes(range(251)) * 66000
print(len(d), zlib.crc32(d), flush=True)
c, a = s.accept()
c.sendall(d)
c.close()
";

/// A machine with an interface `eth1`, and the world at its other end.
fn machine(prefix: &str) -> Hosts {
    let hosts = Hosts::new(prefix, &["machine", "world"]);
    hosts.ip("machine", &[&format!("link add eth1 type veth peer name eth1 netns {}", hosts.name("world"))]);
    hosts.ip("machine", &["link set dev eth1 up", "link set dev lo up"]);
    hosts.ip(
        "world",
        &[
            "address add 192.168.100.254/24 dev eth1",
            "address add 203.0.113.10/32 dev lo",
            "link set dev lo up",
            "link set dev eth1 up",
            "route add 192.168.80.0/24 via 192.168.100.1",
            "route add 192.168.90.0/24 via 192.168.100.1",
        ],
    );
    hosts
}

/// `supernet` in the machine's network namespace, and in nothing else that is not everybody's.
fn supernet(hosts: &Hosts, args: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", hosts.name("machine")));
    command.arg(env!("CARGO_BIN_EXE_supernet")).args(args);
    command
}

struct Lab(Child);

impl Lab {
    fn up(hosts: &Hosts, file: &Path, name: &str) -> Self {
        let mut child = supernet(hosts, &["lab", "up", "-f", file.to_str().unwrap(), "--name", name])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The hosts are told when they can be entered; the outside comes last.
        let told = lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("outside"));
        assert!(told, "{:?}", child.wait());
        Self(child)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

fn text(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_lab_reaches_the_world_beyond_an_interface() {
    if !as_root() {
        return;
    }
    let hosts = machine("uplink");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.yaml");
    for driver in ["driver: packet", "driver: xdp"] {
        std::fs::write(&file, NETWORK.replace("DRIVER", driver)).unwrap();
        let name = format!("{}-{}", hosts.name("lab"), driver.len());
        let lab = Lab::up(&hosts, &file, &name);
        let server = hosts.serve("world", 7000);
        let pod = |program: &str| {
            let exec = ["lab", "exec", "--name", &name, "shop/web", "--", "python3", "-c", program];
            supernet(&hosts, &exec).output().unwrap()
        };
        // Out, by the namespace's egress address.
        let ask = "import socket; print(socket.create_connection(('203.0.113.10', 7000), timeout=10).recv(100).decode())";
        let said = text(pod(ask));
        assert!(said.starts_with("world 192.168.90."), "{driver}: {said}");
        // In, to a virtual server.
        let page = "import urllib.request as u; print(u.urlopen('http://192.168.80.10', timeout=10).status)";
        let said = text(hosts.command("world", "python3", &["-c", page]).output().unwrap());
        assert_eq!(said, "200", "{driver}");
        // Much, whose checksums and segments the world's kernel leaves undone where it may.
        let mut much =
            hosts.command("world", "python3", &["-c", SERVE]).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(much.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert_eq!(said.next().as_deref(), Some("ready"));
        let sent = said.next().unwrap();
        assert_eq!(text(pod(FETCH)), sent, "{driver}");
        assert!(much.wait().unwrap().success());
        drop((lab, server));
        let link = text(hosts.command("machine", "ip", &["-d", "link", "show", "eth1"]).output().unwrap());
        assert!(!link.contains("xdp"), "{link}");
    }
}

/// The interface was opened for packets of one size; other changes of the lab go on.
#[test]
fn an_uplink_on_an_interface_keeps_its_mtu_while_the_lab_runs() {
    if !as_root() {
        return;
    }
    let hosts = machine("mtu");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.yaml");
    std::fs::write(&file, NETWORK.replace("DRIVER", "driver: packet")).unwrap();
    let name = hosts.name("lab");
    let _lab = Lab::up(&hosts, &file, &name);
    let apply = |driver: &str| {
        std::fs::write(&file, NETWORK.replace("DRIVER", driver)).unwrap();
        supernet(&hosts, &["lab", "apply", "--name", &name, "-f", file.to_str().unwrap()]).output().unwrap()
    };
    let refused = apply("driver: packet, mtu: 1400");
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{error}");
    let why = "uplink up would have another MTU, on an interface that was opened for this one";
    assert!(error.contains(why), "{error}");
    let same = apply("driver: packet, mtu: 1500");
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stderr));
}

/// What an uplink is on stands in the plan; a plan without such uplinks has no column for it.
#[test]
fn the_plan_tells_the_interfaces_of_uplinks() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.yaml");
    let uplinks = |on: &str| {
        std::fs::write(&file, NETWORK.replace(", interface: eth1, DRIVER", on)).unwrap();
        let plan = ["plan", "-f", file.to_str().unwrap()];
        let output = Command::new(env!("CARGO_BIN_EXE_supernet")).args(plan).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let plan = String::from_utf8(output.stdout).unwrap();
        let rows: Vec<String> =
            plan.lines().skip_while(|l| *l != "Uplinks").skip(1).take(2).map(str::to_owned).collect();
        (rows[0].split_whitespace().last().unwrap().to_owned(), rows[1].clone())
    };
    let (column, row) = uplinks(", interface: eth1, driver: xdp");
    assert_eq!(column, "INTERFACE");
    assert!(row.ends_with("  eth1 (xdp)"), "{row}");
    let (_, row) = uplinks(", interface: eth1");
    assert!(row.ends_with("  eth1 (packet)"), "{row}");
    let (column, row) = uplinks("");
    assert!(column == "MTU" && row.ends_with("1500"), "{row}");
}

#[test]
fn an_interface_that_is_taken_away_is_told_of() {
    if !as_root() {
        return;
    }
    let hosts = machine("away");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.yaml");
    for driver in ["driver: packet", "driver: xdp"] {
        std::fs::write(&file, NETWORK.replace("DRIVER", driver)).unwrap();
        let name = format!("{}-{}", hosts.name("lab"), driver.len());
        let mut lab = Lab::up(&hosts, &file, &name);
        let errors = lab.0.stderr.take().unwrap();
        hosts.ip("machine", &["link del dev eth1"]);
        let mut lines = BufReader::new(errors).lines().map_while(Result::ok);
        let told = lines.find(|line| line.contains("is gone"));
        assert_eq!(told.as_deref(), Some("warning: uplink up: interface eth1 is gone"), "{driver}");
        let status = text(supernet(&hosts, &["lab", "status", "--name", &name]).output().unwrap());
        let uplink = status.lines().find(|line| line.contains("uplink/up")).unwrap_or_default().to_owned();
        assert!(!uplink.contains("yes"), "{status}");
        drop(lab);
        hosts.ip(
            "machine",
            &[&format!("link add eth1 type veth peer name eth1 netns {}", hosts.name("world"))],
        );
        hosts.ip("machine", &["link set dev eth1 up"]);
        hosts.ip("world", &["link set dev eth1 up"]);
    }
}

#[test]
fn an_interface_that_does_not_fit_is_refused_before_anything_is_made() {
    if !as_root() {
        return;
    }
    let hosts = machine("unfit");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.yaml");
    let refused = |driver: &str, change: &[&str]| {
        std::fs::write(&file, NETWORK.replace("DRIVER", driver)).unwrap();
        hosts.ip("machine", change);
        let name = hosts.name("lab");
        let output =
            supernet(&hosts, &["lab", "up", "-f", file.to_str().unwrap(), "--name", &name]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("net.yaml:7:60: "), "{error}");
        error
    };
    let error = refused("mtu: 9000", &[]);
    assert!(error.contains("packets of 9000 bytes, and interface eth1 of 1500"), "{error}");
    let error = refused("driver: xdp", &["address add 10.0.0.1/8 dev eth1"]);
    assert!(error.contains("has the address 10.0.0.1 on interface eth1"), "{error}");
    let error = refused("driver: packet", &["address add 192.168.100.1/24 dev eth1"]);
    assert!(error.contains("has the address 192.168.100.1 of uplink up itself"), "{error}");
    let error = refused("driver: packet", &["link set dev eth1 down"]);
    assert!(error.contains("interface eth1 is down"), "{error}");
    let error = refused("driver: packet", &["link set dev eth1 name other"]);
    assert!(error.contains("there is no interface eth1; there are: other"), "{error}");
}
