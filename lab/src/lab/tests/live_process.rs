//! Labs that are changed, as processes of their own: this very test program, started again with one ignored test.

use super::{
    NOTHING, as_root, lab_name,
    live::{CURL, DEPLOYMENT, apply, by_name, network},
    process::{LAB, this_program},
    traces_of,
};
use crate::lab::{
    error::LabError,
    live::{
        client,
        wire::{Answer, Ask, Delete, REQUEST_MAX},
    },
    netns,
    supervise::{Mode, down, supervise},
};
use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    process::Child,
    thread,
    time::{Duration, Instant},
};

#[test]
#[ignore = "started by the others"]
fn supervisor() {
    let Ok(lab) = env::var(LAB) else { return };
    let (spec, attach) = network(&lab);
    supervise(&lab, Mode::Supervised, &spec, |taps| Ok::<_, LabError>(attach(taps)), |_, _| ()).unwrap();
}

/// Starts a supervisor and returns when it says that it is ready.
pub(super) fn start(lab: &str) -> Child {
    let mut child = this_program(module_path!(), "supervisor", lab).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines {
        if line.unwrap().ends_with("\u{1}ready") {
            return child;
        }
    }
    panic!("it did not start: {:?}", child.wait_with_output());
}

#[test]
fn a_lab_that_was_changed_is_ended_or_killed_and_nothing_is_left() {
    if !as_root() {
        return;
    }
    let lab = lab_name("changed");
    for kill in [false, true] {
        let mut child = start(&lab);
        client::ask(&lab, &apply(&format!("{CURL}---{DEPLOYMENT}"), false, false)).unwrap();
        assert!(netns::path(&netns::name(&lab, "tools/curl")).exists());
        let gone = Delete { ignore_not_found: true, ..by_name("Pod", "shop", "client") };
        client::ask(&lab, &Ask::Delete(gone)).unwrap();
        if kill {
            child.kill().unwrap();
            while !netns::has_ended(child.id() as i32) {
                thread::sleep(Duration::from_millis(5));
            }
            assert!(traces_of(&lab).iter().any(|t| t.contains("tools.curl")));
            let error = client::ask(&lab, &Ask::Status).unwrap_err().to_string();
            assert!(error.contains("died without cleaning up"), "{error}");
        }
        down(&lab, false).unwrap();
        assert_eq!(child.wait().unwrap().success(), !kill);
        assert_eq!(traces_of(&lab), NOTHING);
    }
    let error = client::ask(&lab, &Ask::Status).unwrap_err();
    assert!(error.to_string().starts_with(&format!("no lab {lab} is up")), "{error}");
}

#[test]
fn one_that_is_killed_or_ended_in_the_middle_of_a_change_leaves_nothing() {
    if !as_root() {
        return;
    }
    let lab = lab_name("midway");
    let many = DEPLOYMENT.replace("replicas: 2", "replicas: 120");
    for kill in [true, false] {
        let mut child = start(&lab);
        thread::scope(|s| {
            let asked = s.spawn(|| client::ask(&lab, &apply(&many, false, false)));
            let deadline = Instant::now() + Duration::from_secs(20);
            while !traces_of(&lab).iter().any(|t| t.contains("shop.front-")) {
                assert!(Instant::now() < deadline, "no namespace was made");
                thread::sleep(Duration::from_millis(1));
            }
            if kill {
                child.kill().unwrap();
            }
            down(&lab, false).unwrap();
            assert_eq!(child.wait().unwrap().success(), !kill);
            assert_eq!(traces_of(&lab), NOTHING);
            // It may have been done just before, or have been broken off.
            if let (false, Err(e)) = (kill, asked.join().unwrap()) {
                let said = e.to_string();
                assert!(said.contains("interrupted; the lab is as it was"), "{said}");
            }
        });
    }
}

#[test]
fn nonsense_on_the_socket_harms_nothing() {
    if !as_root() {
        return;
    }
    let lab = lab_name("nonsense");
    let mut child = start(&lab);
    let path = format!("/run/supernet/{lab}/socket");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let status = || match client::ask(&lab, &Ask::Status) {
        Ok(Answer::Status(status)) => status,
        other => panic!("{other:?}"),
    };
    let hosts = status().hosts;
    let connect = || {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    let said = |bytes: &[u8]| {
        let mut stream = connect();
        let _ = stream.write_all(bytes);
        let mut text = String::new();
        BufReader::new(stream).read_line(&mut text).unwrap();
        text
    };
    for bad in
        [&b"hello\n"[..], b"{}\n", b"\n", b"\xff\xfe\x00\n", b"[[[[[[[[[[\n", b"GET / HTTP/1.1\r\n\r\n"]
    {
        assert!(said(bad).contains("not a line of the lab's protocol"), "{}", bad.escape_ascii());
    }
    assert!(said(&[&[b'['; 1 << 20][..], b"\n"].concat()).contains("error"), "deeper than anyone looks");
    assert!(said(b"{\"version\":9,\"ask\":\"status\"}\n").contains("version 9 of the lab's protocol"));
    assert!(said(&vec![b'x'; REQUEST_MAX + 70_000]).contains("has more than 64 MiB"));
    // Connected and gone, with and without a word; and an answer that nobody fetches.
    drop(connect());
    connect().write_all(b"{\"version\":3,").unwrap();
    connect().write_all(b"{\"version\":3,\"ask\":\"status\"}\n").unwrap();
    // Silent ones, more than there is room for: the others wait until they are thrown out.
    let silent: Vec<UnixStream> = (0..20).map(|_| connect()).collect();
    let began = Instant::now();
    assert_eq!(status().hosts, hosts);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    drop(silent);
    assert!(child.try_wait().unwrap().is_none());
    down(&lab, false).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(traces_of(&lab), NOTHING);
}
