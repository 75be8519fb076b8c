//! The supervisor as a process of its own: this very test program, started again with one ignored test.

use super::{LabError, LabSpec, NOTHING, as_root, endpoint, lab_name, traces_of, up};
use crate::lab::{
    live::socket::Reply,
    net::LabNet,
    spec::{HostedPod, OutsideSpec, Place},
    supervise::{Mode, Supervised, down, exec, supervise},
};
use rustix::process::{Pid, Signal};
use std::{
    env,
    ffi::OsString,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Output, Stdio},
};
use supernet_control::model::Protocol;
use supernet_drivers::tap::Tap;

pub(super) const LAB: &str = "SUPERNET_TEST_LAB";
const TARGET: &str = "SUPERNET_TEST_TARGET";

fn spec() -> LabSpec {
    let mut host = endpoint("shop/web-0", 1, &["10.0.0.2/28"], &["10.0.0.1"]);
    let serve = vec![(Protocol::Sctp, 3868), (Protocol::Tcp, 9100), (Protocol::Tcp, 80)];
    host.hosted.push(HostedPod { name: "shop/agent".to_owned(), workload: None, serve, dns: Vec::new() });
    LabSpec { endpoints: vec![host], outside: OutsideSpec::default(), names: None, queues: 1 }
}

/// TAPs on no network.
struct Idle(Vec<(Place, Tap)>);

impl Supervised for Idle {
    fn answer(&mut self, _: Option<&[u8]>, _: &mut LabNet, _: &dyn Fn() -> bool) -> Reply {
        Vec::new().into()
    }

    fn tick(&mut self) {}
}

#[test]
#[ignore = "started by the others"]
fn supervisor() {
    let Ok(lab) = env::var(LAB) else { return };
    let attach = |taps| Ok::<_, LabError>(Idle(taps));
    supervise(&lab, Mode::Supervised, &spec(), attach, |Idle(taps), listening| {
        assert_eq!(taps.len(), 1);
        assert_eq!(listening["shop/web-0"], [(Protocol::Tcp, 80), (Protocol::Udp, 53)]);
        assert_eq!(listening["shop/agent"], [(Protocol::Tcp, 9100)], "only what is really served");
    })
    .unwrap();
}

#[test]
#[ignore = "started by the others"]
fn executed() {
    let Ok(lab) = env::var(LAB) else { return };
    let target = env::var(TARGET).unwrap_or_else(|_| "shop/w".to_owned());
    let command = ["sh", "-c", "ip -o address show dev eth0; cat /sys/class/net/eth0/address; exit 7"]
        .map(OsString::from);
    panic!("{}", exec(&lab, &target, &command).unwrap_err());
}

fn again(test: &str, lab: &str) -> Command {
    this_program(module_path!(), test, lab)
}

/// This test program with nothing but an ignored test of a module.
pub(super) fn this_program(module: &str, test: &str, lab: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    let name = format!("{}::{test}", module.split_once("::").unwrap().1);
    command.args(["--ignored", "--exact", "--nocapture", &name]).env(LAB, lab);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a supervisor and returns when it says that it is ready.
fn start(lab: &str) -> Child {
    let mut child = again("supervisor", lab).spawn().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.ends_with("\u{1}ready") {
            assert!(said.iter().any(|l: &String| l.contains("\u{1}progress 2 2 ")), "{said:?}");
            return child;
        }
        said.push(line);
    }
    panic!("it did not start: {said:?} {:?}", child.wait_with_output());
}

#[test]
fn a_command_runs_inside_and_down_leaves_nothing() {
    if !as_root() {
        return;
    }
    let lab = lab_name("down");
    let mut child = start(&lab);
    // A pod of its own, and one that has its host's network.
    for target in ["shop/w", "shop/agent"] {
        let Output { status, stdout, stderr } = again("executed", &lab).env(TARGET, target).output().unwrap();
        let text = String::from_utf8_lossy(&stdout);
        assert!(text.contains("inet 10.0.0.2/28"), "{text}{}", String::from_utf8_lossy(&stderr));
        assert!(text.contains("02:00:00:00:00:01"), "/sys is the pod's: {text}");
        assert_eq!(status.code(), Some(7), "the command's own status");
    }

    assert_eq!(down(&lab, false).unwrap(), format!("lab {lab} is down"));
    assert!(child.wait().unwrap().success());
    assert_eq!(traces_of(&lab), NOTHING);
    let error = exec(&lab, "shop/web-0", &["true".into()]).unwrap_err();
    assert!(matches!(error, LabError::NotUp { .. }), "{error}");
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    if !as_root() {
        return;
    }
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let lab = lab_name("signal");
        let mut child = start(&lab);
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        assert!(child.wait().unwrap().success(), "{signal:?}");
        assert_eq!(traces_of(&lab), NOTHING, "{signal:?}");
    }
}

#[test]
fn what_a_kill_leaves_is_removed() {
    if !as_root() {
        return;
    }
    let lab = lab_name("kill");
    for by_down in [true, false] {
        let mut child = start(&lab);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_ne!(traces_of(&lab), NOTHING);
        if by_down {
            assert!(down(&lab, false).unwrap().contains("had been killed"));
        } else {
            drop(up(&lab, &spec()));
        }
        assert_eq!(traces_of(&lab), NOTHING);
    }
}

#[test]
fn one_that_is_stopped_is_ended_too() {
    if !as_root() {
        return;
    }
    let lab = lab_name("stopped");
    let mut child = start(&lab);
    rustix::process::kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
    assert_eq!(down(&lab, false).unwrap(), format!("lab {lab} is down"));
    assert!(child.wait().unwrap().success());
    assert_eq!(traces_of(&lab), NOTHING);
}

#[test]
fn force_leaves_nothing_either() {
    if !as_root() {
        return;
    }
    let lab = lab_name("force");
    let mut child = start(&lab);
    assert_eq!(down(&lab, true).unwrap(), format!("lab {lab} was killed; what it left is removed"));
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(traces_of(&lab), NOTHING);
}
