//! `lab attach`, as another harness uses it: it makes TAPs, we move them into hosts of our own, and packets pass.

use crate::hosts::{Hosts, as_root};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const TOPOLOGY: &str = r#"{
  "ports": [
    {"tap": "ta", "pod": "a", "segment": "one", "ip": "10.1.0.2", "mac": "02:00:00:00:00:0a"},
    {"tap": "tb", "pod": "b", "segment": "one", "ip": "10.1.0.3/24", "mac": "02:00:00:00:00:0b"},
    {"tap": "tc", "pod": "c", "segment": "two", "ip": ["10.2.0.2"]},
    {"tap": "td", "pod": "d", "segment": "wan", "ip": "203.0.113.10", "mac": "02:00:00:00:00:0d"}
  ],
  "segments": {
    "one": {"cidr": "10.1.0.0/24", "gw": "10.1.0.1", "gw_mac": "02:aa:00:00:00:01", "egress": "203.0.113.101"},
    "two": {"cidr": "10.2.0.0/24", "gw": "10.2.0.1", "gw_mac": "02:aa:00:00:00:02", "egress": "192.168.90.2"},
    "wan": {"cidr": "203.0.113.0/24", "gw": "203.0.113.1", "gw_mac": "02:aa:00:00:00:03", "egress": null}
  },
  "services": [
    {"vip": "10.96.0.1", "port": 80, "target_port": 8080, "proto": "TCP", "backends": ["10.2.0.2"], "affinity": null}
  ],
  "rules": [
    {"src": "10.1.0.3/32", "dst": "10.2.0.0/24", "proto": "tcp", "dport": 8080, "action": "allow"},
    {"src": "10.1.0.0/24", "dst": "10.2.0.0/24", "proto": "tcp", "dport": "8000-9000", "action": "deny"},
    {"src": "any", "dst": "0.0.0.0/0", "proto": "any", "dport": null, "action": "allow"}
  ],
  "default": "deny",
  "snat_exempt": ["10.0.0.0/8"],
  "comment": "left out"
}"#;

#[test]
fn hosts_of_another_harness_reach_each_other_as_the_file_says() {
    if !as_root() {
        return;
    }
    let hosts = Hosts::new("snat", &["net", "a", "b", "c", "d"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.json");
    std::fs::write(&file, TOPOLOGY).unwrap();
    let mut attach = hosts
        .command(
            "net",
            env!("CARGO_BIN_EXE_supernet"),
            &["lab", "attach", "--topology", file.to_str().unwrap()],
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(attach.stdout.take().unwrap()).lines();
    let said: Vec<String> = lines.map_while(Result::ok).take_while(|line| line != "ready").collect();
    assert_eq!(said.len(), 4, "{said:?}");
    for (host, address, gateway) in [
        ("a", "10.1.0.2", "10.1.0.1"),
        ("b", "10.1.0.3", "10.1.0.1"),
        ("c", "10.2.0.2", "10.2.0.1"),
        ("d", "203.0.113.10", "203.0.113.1"),
    ] {
        hosts.ip("net", &[&format!("link set dev t{host} netns {} name eth0", hosts.name(host))]);
        hosts.ip(host, &[&format!("address add {address}/24 dev eth0"), "link set dev eth0 up"]);
        hosts.ip(host, &[&format!("route add default via {gateway}")]);
    }
    // Some never ask.
    hosts.ip("a", &["neigh add 10.1.0.1 lladdr 02:aa:00:00:00:01 dev eth0"]);
    let servers = [("b", 7000), ("c", 8080), ("c", 7000), ("d", 7000), ("a", 7000)];
    let servers = servers.map(|(host, port)| hosts.serve(host, port));
    for (host, to, port, answer) in [
        ("a", "10.1.0.3", 7000, "b 10.1.0.2"),
        ("c", "10.1.0.3", 7000, "b 10.2.0.2"),
        ("a", "10.2.0.2", 7000, "c 10.1.0.2"),
        ("b", "10.2.0.2", 8080, "c 10.1.0.3"),
        ("b", "10.96.0.1", 80, "c 10.1.0.3"),
        // The second rule, which is about backends and not about the service's own address.
        ("a", "10.2.0.2", 8080, "TimeoutError"),
        ("a", "10.96.0.1", 80, "TimeoutError"),
        // One egress address is on the outside's own link, the other behind its gateway.
        ("a", "203.0.113.10", 7000, "d 203.0.113.101"),
        ("c", "203.0.113.10", 7000, "d 192.168.90.2"),
        ("d", "10.96.0.1", 80, "c 203.0.113.10"),
        ("d", "10.1.0.2", 7000, "a 203.0.113.10"),
    ] {
        assert_eq!(hosts.ask(host, to, port), answer, "{host} to {to}:{port}");
    }
    // Who asks is told the gateway's own MAC, and that of a neighbour.
    let neighbours = hosts.command("b", "ip", &["neigh", "show"]).output().unwrap();
    let neighbours = String::from_utf8(neighbours.stdout).unwrap();
    assert!(neighbours.contains("10.1.0.1 dev eth0 lladdr 02:aa:00:00:00:01"), "{neighbours}");
    assert!(neighbours.contains("10.1.0.2 dev eth0 lladdr 02:00:00:00:00:0a"), "{neighbours}");
    drop(servers);
    assert!(Command::new("kill").args(["-TERM", &attach.id().to_string()]).status().unwrap().success());
    let deadline = Instant::now() + Duration::from_secs(20);
    let status = loop {
        match attach.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                attach.kill().unwrap();
                panic!("it does not end on SIGTERM");
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(status.success(), "{status}");
    let links = hosts.command("a", "ip", &["-o", "link", "show"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&links.stdout).contains("eth0"), "the TAP went along");
}
