//! `lab flows` and `lab rules`, as a user has them: real connections, allowed, balanced, translated and denied, while pods
//! come and go and readers stall, leave or are killed.

use crate::{hosts::as_root, lab::Lab};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

const SHOP: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec: {ingressPosture: allowCluster, nodes: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 8080}, {containerPort: 53, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 5432}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: tools}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}
";

/// What does not come within this time never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends one datagram, and waits for an answer if there is to be one.
const DATAGRAM: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
s.connect((sys.argv[1], int(sys.argv[2])))
s.send(b'hello')
if sys.argv[3] == 'answered': s.recv(100)
";

/// As many datagrams to as many ports as there are, over and over for some seconds.
const FLOOD: &str = "
import socket, sys, time
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for port in range(1, 500):
        try: s.sendto(b'x', (sys.argv[1], port))
        except OSError: pass
    s.close()
";

fn address(lab: &Lab, pod: &str) -> String {
    let status: Value = serde_json::from_slice(&lab.run(&["status", "-o", "json"]).stdout).unwrap();
    let hosts = status["hosts"].as_array().unwrap();
    let host = hosts.iter().find(|host| host["name"] == pod).unwrap();
    host["addresses"][0].as_str().unwrap().to_owned()
}

fn datagram(lab: &Lab, from: &str, to: &str, port: &str, answered: &str) {
    let done = lab.run(&["exec", from, "--", "python3", "-c", DATAGRAM, to, port, answered]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// What a lab remembers.
fn flows(lab: &Lab, args: &[&str]) -> Vec<Value> {
    let output = lab.run(&[&["flows", "-o", "json"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The same, once there are so many: workers have written them down when a packet arrives, and are read a little later.
fn once(lab: &Lab, args: &[&str], count: usize) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = flows(lab, args);
        if all.len() >= count {
            return all;
        }
        assert!(Instant::now() < deadline, "{args:?}: {all:#?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn flows_tell_who_reached_whom_and_who_did_not() {
    if !as_root() {
        return;
    }
    let lab = Lab::up("flows", SHOP);
    let (web, db, curl) = (address(&lab, "shop/web"), address(&lab, "shop/db"), address(&lab, "tools/curl"));
    assert!(lab.reaches("tools/curl", "http://10.96.0.10/"));
    // A SYN is sent again after a second.
    lab.run(&["exec", "tools/curl", "--", "curl", "-s", "--max-time", "2.5", &format!("http://{db}:5432/")]);
    datagram(&lab, "tools/curl", "203.0.113.10", "9", "unanswered");

    let balanced = &once(&lab, &["shop/web"], 1)[0];
    assert_eq!((&balanced["event"], &balanced["protocol"]), (&"start".into(), &"TCP".into()));
    assert_eq!(balanced["source"]["name"], "tools/curl");
    assert_eq!(balanced["source"]["address"], curl);
    assert_eq!(
        (&balanced["destination"]["address"], &balanced["destination"]["port"]),
        (&"10.96.0.10".into(), &80.into())
    );
    let member = &balanced["translatedDestination"];
    assert_eq!(
        (&member["name"], &member["address"], &member["port"]),
        (&"shop/web".into(), &web.into(), &8080.into())
    );
    assert_eq!(balanced["server"], "shop/web:80/TCP");

    let translated = &once(&lab, &["outside"], 1)[0];
    let egress = translated["translatedSource"]["address"].as_str().unwrap();
    assert!(egress.starts_with("192.168.90."), "{translated}");
    assert_eq!(translated["source"]["address"], curl);

    let denied = once(&lab, &["shop", "--denied"], 1);
    assert_eq!(denied.len(), 1, "however often it is tried: {denied:#?}");
    assert_eq!(
        (&denied[0]["reason"], &denied[0]["ingressRule"]),
        (&"IngressDenied".into(), &"shop/closed isolation".into())
    );
    assert_eq!(denied[0]["destination"]["name"], "shop/db");
    let text = lab.run(&["flows", "tools/curl", "--denied"]);
    let text = String::from_utf8(text.stdout).unwrap();
    let (_, line) = text.trim_end().split_once("  ").unwrap();
    let port = &denied[0]["source"]["port"];
    let expected =
        format!("denied  tools/curl {curl}:{port} -> shop/db {db}:5432 TCP  by policy shop/closed isolation");
    assert_eq!(line, expected);

    // Of one in so many, each has all or nothing; together they are all.
    let all: Vec<Value> = flows(&lab, &[]);
    let sampled = flows(&lab, &["--sample", "2"]);
    assert!(sampled.len() < all.len() && sampled.iter().all(|flow| all.contains(flow)));
    assert_eq!(flows(&lab, &["-n", "2"]), all[all.len() - 2..]);
    let nobody = lab.run(&["flows", "shop/nobody"]);
    let error = String::from_utf8(nobody.stderr).unwrap();
    assert!(!nobody.status.success() && error.contains("shop/web"), "{error}");

    let rules: Value = serde_json::from_slice(&lab.run(&["rules", "-o", "json"]).stdout).unwrap();
    let rule = |policy: &str, rule: &str| {
        let all = rules["rules"].as_array().unwrap();
        all.iter().find(|r| r["policy"] == policy && r["rule"] == rule).unwrap().clone()
    };
    let closed = rule("shop/closed", "isolation");
    assert!(closed["hits"] == closed["denied"] && closed["hits"].as_u64().unwrap() >= 2, "{closed}");
    assert_eq!((&closed["packets"], &closed["sessions"]), (&0.into(), &0.into()));
    let open = rule("posture", "allowCluster");
    assert_eq!((&open["hits"], &open["sessions"]), (&1.into(), &1.into()));
    assert!(open["packets"].as_u64().unwrap() >= 8 && open["bytes"].as_u64().unwrap() > 500, "{open}");
    let table = String::from_utf8(lab.run(&["rules", "shop"]).stdout).unwrap();
    assert!(table.contains("shop/closed  isolation") && !table.contains("posture"), "{table}");
}

/// `lab flows --follow`, and what it says.
struct Follower {
    child: Child,
    said: Receiver<Value>,
    /// Kept open.
    _errors: BufReader<std::process::ChildStderr>,
}

impl Follower {
    fn begin(lab: &Lab, args: &[&str]) -> Self {
        let (mut child, errors) = follow(lab, args);
        let (say, said) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .for_each(|line| _ = say.send(serde_json::from_str(&line).unwrap()));
        });
        Self { child, said, _errors: errors }
    }

    fn next(&self) -> Value {
        self.said.recv_timeout(PATIENCE).unwrap()
    }

    fn next_that(&self, is: impl Fn(&Value) -> bool) -> Value {
        std::iter::repeat_with(|| self.next()).find(is).unwrap()
    }
}

/// Starts it, and returns once it goes on.
fn follow(lab: &Lab, args: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut command = lab.command(&[&["flows", "--follow", "-o", "json"], args].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert!(line.starts_with("following "), "{line}");
    (child, errors)
}

#[test]
fn a_follower_sees_beginnings_and_ends_while_pods_come_and_go() {
    if !as_root() {
        return;
    }
    let lab = Lab::up("follow", SHOP);
    let web = address(&lab, "shop/web");
    datagram(&lab, "tools/curl", &web, "53", "answered");
    let mut follower = Follower::begin(&lab, &["shop"]);
    datagram(&lab, "tools/curl", &web, "53", "answered");
    let start = follower.next();
    assert_eq!(
        (&start["event"], &start["source"]["name"]),
        (&"start".into(), &"tools/curl".into()),
        "{start}"
    );
    // A policy that comes denies what lives, and a pod that goes ends it.
    let policy = lab.write(
        "shut.yaml",
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: shut, namespace: shop}, \
          spec: {podSelector: {matchLabels: {app: web}}}}",
    );
    assert!(lab.run(&["apply", "-f", &policy]).status.success());
    let of_start = |flow: &Value| flow["id"] == start["id"];
    let denied = follower.next_that(of_start);
    assert_eq!((&denied["event"], &denied["lives"]), (&"denied".into(), &true.into()), "{denied}");
    assert_eq!(denied["ingressRule"], "shop/shut isolation");
    assert!(lab.run(&["delete", "pod", "shop/web"]).status.success());
    let end = follower.next_that(of_start);
    assert_eq!((&end["event"], &end["reason"]), (&"end".into(), &"gone".into()), "{end}");
    assert_eq!((&end["forward"]["packets"], &end["reverse"]["packets"]), (&1.into(), &1.into()));
    assert_eq!(end["destination"]["name"], "shop/web", "it has its name still");
    assert!(!flows(&lab, &["shop/web"]).is_empty(), "and may be asked for");
    kill_process(Pid::from_child(&follower.child), Signal::INT).unwrap();
    assert!(follower.child.wait().unwrap().success());
}

/// Nobody waits for a reader: not packets, not other readers, not the lab's end.
#[test]
fn readers_that_stall_or_die_hold_nobody_up() {
    if !as_root() {
        return;
    }
    let lab = Lab::up("stall", SHOP);
    let (web, db) = (address(&lab, "shop/web"), address(&lab, "shop/db"));
    // One is stopped, one is not read, one is killed.
    let mut stopped = Follower::begin(&lab, &[]);
    kill_process(Pid::from_child(&stopped.child), Signal::STOP).unwrap();
    let (mut unread, mut errors) = follow(&lab, &[]);
    let mut killed = Follower::begin(&lab, &[]);
    datagram(&lab, "tools/curl", &web, "53", "answered");
    let flood = lab.run(&["exec", "tools/curl", "--", "python3", "-c", FLOOD, &db, "3"]);
    assert!(flood.status.success(), "{}", String::from_utf8_lossy(&flood.stderr));
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    assert!(lab.reaches("tools/curl", "http://10.96.0.10/"));
    // A flood of denials has not pushed out what else there was.
    let starts = once(&lab, &["shop/web"], 2);
    assert!(starts.iter().all(|flow| flow["event"] == "start"), "{starts:#?}");
    let rules: Value = serde_json::from_slice(&lab.run(&["rules", "-o", "json"]).stdout).unwrap();
    let denied = rules["rules"].as_array().unwrap().iter().map(|rule| rule["denied"].as_u64().unwrap()).max();
    assert!(denied > Some(1000), "{denied:?}");
    // Whoever goes on is told what happened meanwhile, or that it was missed.
    kill_process(Pid::from_child(&stopped.child), Signal::CONT).unwrap();
    let last = stopped.next_that(|flow| flow["server"] == "shop/web:80/TCP");
    assert_eq!(last["event"], "start");
    assert!(lab.run(&["down"]).status.success());
    assert!(stopped.child.wait().unwrap().success());
    let mut out = Vec::new();
    unread.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    assert!(unread.wait().is_ok());
    let mut said = String::new();
    errors.read_to_string(&mut said).unwrap();
    assert!(said.contains("has ended") || said.contains("no longer"), "{said}");
}
