//! `lab apply --watch`: a lab that follows a folder.

use crate::{hosts::as_root, lab::Lab};
use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

const SUPERVISOR: &str =
    "{apiVersion: supernet.dev/v1alpha1, kind: Supervisor, spec: {ingressPosture: allowCluster, nodes: 1}}";

fn pod(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, spec: {{containers: [{{name: c, image: c}}]}}}}"
    )
}

#[test]
fn a_lab_follows_a_folder_until_ctrl_c() {
    if !as_root() {
        return;
    }
    let lab = Lab::up("watch", SUPERVISOR);
    let folder = lab.file("followed");
    fs::create_dir(&folder).unwrap();
    let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
    write("a.yaml", pod("one"));
    let mut watch = lab
        .command(&["apply", "--prune", "--watch", folder.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What it says, in either way.
    let (say, said) = mpsc::channel();
    let hear = |reader: Box<dyn std::io::Read + Send>| {
        let say = say.clone();
        thread::spawn(move || {
            BufReader::new(reader).lines().map_while(Result::ok).for_each(|l| drop(say.send(l)))
        })
    };
    hear(Box::new(watch.stdout.take().unwrap()));
    hear(Box::new(watch.stderr.take().unwrap()));
    let wait_for = |what: &str| {
        let mut all = Vec::new();
        while !all.iter().any(|line: &String| line.contains(what)) {
            all.push(
                said.recv_timeout(Duration::from_secs(30))
                    .unwrap_or_else(|_| panic!("no {what:?} in {all:#?}")),
            );
        }
    };
    let has = |pod: &str| {
        let status = lab.run(&["status"]);
        String::from_utf8_lossy(&status.stdout).contains(pod)
    };
    wait_for("shop/one");
    assert!(has("shop/one") && !has("shop/two"));
    write("b.yaml", pod("two"));
    wait_for("shop/two");
    assert!(has("shop/one") && has("shop/two"));
    // What is wrong is said, and nothing is done until it is right.
    write("b.yaml", pod("three").replace("kind: Pod", "kind: Podd"));
    wait_for("b.yaml:1:");
    assert!(has("shop/two"));
    write("b.yaml", pod("three"));
    wait_for("shop/three");
    assert!(has("shop/three") && !has("shop/two"), "with --prune, the folder is the whole");
    let pid = rustix::process::Pid::from_child(&watch);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(watch.wait().unwrap().success());
    assert!(has("shop/three"), "the lab goes on");
}
