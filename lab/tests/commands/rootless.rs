//! Labs of ordinary users. The test is root's, and becomes somebody who may open `/dev/net/tun`, as most systems have it.

use crate::hosts::as_root;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};
use tempfile::TempDir;

/// A user of each test's own, who has no other processes.
fn uid() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    (100_000 + std::process::id() * 8 + NEXT.fetch_add(1, Ordering::Relaxed)).to_string()
}

const SHOP: &str = "
{apiVersion: supernet.dev/v1alpha1, kind: Supervisor, spec: {ingressPosture: allowCluster, nodes: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: web, image: web, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {containers: [{name: client, image: client}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}
";

const LATER: &str = "{apiVersion: v1, kind: Pod, metadata: {name: later, namespace: shop}, spec: {containers: [{name: a, image: a}]}}";

/// A folder that everybody can look into: the command, a device node, manifests, and a runtime folder of the user's.
struct User(TempDir, String);

impl User {
    fn new(may_open_tun: bool) -> Self {
        let user = Self(tempfile::tempdir().unwrap(), uid());
        let mode = |path: PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(user.0.path().to_owned(), 0o755);
        fs::copy(env!("CARGO_BIN_EXE_supernet"), user.path("supernet")).unwrap();
        fs::write(user.path("shop.yaml"), SHOP).unwrap();
        fs::write(user.path("later.yaml"), LATER).unwrap();
        fs::create_dir(user.path("runtime")).unwrap();
        assert!(Command::new("chown").arg(&user.1).arg(user.path("runtime")).status().unwrap().success());
        let tun = user.path("tun");
        assert!(Command::new("mknod").arg(&tun).args(["c", "10", "200"]).status().unwrap().success());
        mode(tun, if may_open_tun { 0o666 } else { 0o600 });
        user
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a line of shell as the user; `$S` is the command.
    fn run(&self, line: &str) -> Output {
        let become_user = "mount --bind \"$0/tun\" /dev/net/tun && cd \"$0\" && exec env S=\"$0/supernet\" \
                           XDG_RUNTIME_DIR=\"$0/runtime\" setpriv --reuid \"$1\" --regid \"$1\" --clear-groups sh -c \"$2\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", become_user]).arg(self.0.path()).args([&self.1, line]);
        command.output().unwrap()
    }

    /// Of a line that succeeds, what it prints.
    fn says(&self, line: &str) -> String {
        let output = self.run(line);
        let (text, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {text}{error}");
        text.into_owned()
    }

    /// What is left of labs: folders, and the user's processes, but for those that nobody has waited for.
    fn traces(&self) -> Vec<String> {
        let folders = fs::read_dir(self.path("runtime/supernet")).into_iter().flatten().flatten();
        let mut found: Vec<String> = folders.map(|e| e.path().display().to_string()).collect();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let status = fs::read_to_string(process.path().join("status")).unwrap_or_default();
            let has = |what: &str, value: &str| {
                status.lines().any(|line| line.starts_with(what) && line.contains(value))
            };
            let is_users = has("Uid:", &self.1) && !has("State:", "Z");
            found.extend(is_users.then_some(status));
        }
        found
    }
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_ordinary_user_has_a_lab() {
    if !as_root() {
        return;
    }
    let user = User::new(true);
    let up = user.says("$S lab up -f shop.yaml --detach");
    assert!(up.contains("shop/web") && up.contains("80/TCP"), "{up}");
    let tested = user.says("$S lab selftest --name supernet");
    assert!(tested.contains("all as predicted"), "{tested}");
    // In the pod's network, where the command was given, with its status.
    let inside =
        user.run("$S lab exec shop/client -- sh -c 'ip -o addr show eth0; ls /sys/class/net; pwd; exit 7'");
    let text = String::from_utf8_lossy(&inside.stdout);
    assert_eq!(inside.status.code(), Some(7), "{text}{}", error(&inside));
    assert!(text.contains("10.244.0.2/28") && text.contains("\neth0\nlo\n"), "{text}");
    assert!(text.ends_with(&format!("{}\n", user.0.path().display())), "{text}");
    let fetched = "$S lab exec shop/client -- python3 -c 'import urllib.request as u; print(u.urlopen(\"http://10.244.0.3\").status)'";
    assert_eq!(user.says(fetched), "200\n");
    let named = user.says("$S lab exec shop/client -- getent hosts kube-dns.kube-system");
    assert_eq!(named, "10.96.0.10      kube-dns.kube-system.svc.cluster.local\n");
    // Changed, and looked at.
    user.says("$S lab apply -f later.yaml");
    assert!(user.says("$S lab status").contains("shop/later"));
    let captured = format!(
        "$S lab pcap -c 3 -w runtime/c.pcapng & until test -e runtime/c.pcapng; do sleep 0.05; done; {fetched}; wait $!"
    );
    user.says(&captured);
    assert!(fs::metadata(user.path("runtime/c.pcapng")).unwrap().len() > 500);
    // Another lab beside it; root sees neither.
    user.says("$S lab up -f shop.yaml --detach --name other");
    let roots = Command::new(env!("CARGO_BIN_EXE_supernet"))
        .args(["lab", "down", "--name", "other"])
        .output()
        .unwrap();
    assert!(error(&roots).contains("no lab other is up"), "{}", error(&roots));
    user.says("$S lab down --name other");
    user.says("$S lab down");
    assert_eq!(user.traces(), [""; 0]);
}

#[test]
fn what_a_kill_leaves_of_a_users_lab_is_removed() {
    if !as_root() {
        return;
    }
    let user = User::new(true);
    let kill =
        "$S lab up -f shop.yaml --detach; $S lab exec shop/client -- sleep 1000 >/dev/null 2>&1 & sleep 1
        pid=$(sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p' $XDG_RUNTIME_DIR/supernet/supernet/state.json)
        kill -9 $pid";
    user.says(&format!("{kill}; $S lab down"));
    assert_eq!(user.traces(), [""; 0]);
    user.says(&format!("{kill}; $S lab up -f shop.yaml --detach; $S lab down"));
    assert_eq!(user.traces(), [""; 0]);
}

/// In `/tmp` anybody can make a user's folder first, and write there who is to be ended.
#[test]
fn what_somebody_else_has_planted_is_not_believed() {
    if !as_root() {
        return;
    }
    let user = User::new(true);
    let lab = user.path("planted/supernet/web");
    fs::create_dir_all(&lab).unwrap();
    let state = "{\"pid\": 1, \"endpoints\": [{\"name\": \"x\", \"workload\": null, \"netns\": \"../../proc/self/ns/net\"}]}";
    fs::write(lab.join("state.json"), state).unwrap();
    assert!(
        Command::new("chown")
            .args(["-R", &uid()])
            .arg(user.path("planted/supernet"))
            .status()
            .unwrap()
            .success()
    );
    for what in ["down", "down --force", "exec x -- true", "apply -f later.yaml", "up -f shop.yaml"] {
        let (what, rest) = what.split_once(' ').unwrap_or((what, ""));
        let line = format!("export XDG_RUNTIME_DIR=$PWD/planted; $S lab {what} --name web {rest}");
        let refused = user.run(&line);
        assert!(
            error(&refused).contains("is not a folder that this user alone writes to"),
            "{line}: {}",
            error(&refused)
        );
    }
    // Nor if the user could have written it.
    let state = user.path("runtime/supernet/web/state.json");
    user.says("mkdir -p -m 700 $XDG_RUNTIME_DIR/supernet/web");
    fs::copy(lab.join("state.json"), state).unwrap();
    let refused = error(&user.run("$S lab down --name web"));
    assert!(refused.contains("can't name a network namespace"), "{refused}");
}

#[test]
fn what_an_ordinary_user_cannot_have_is_said() {
    if !as_root() {
        return;
    }
    let user = User::new(true);
    let on_eth1 = "uplinks: [{name: up, addresses: [192.168.100.1/24], interface: eth1}], ingressPosture";
    fs::write(user.path("shop.yaml"), SHOP.replace("ingressPosture", on_eth1)).unwrap();
    let refused = error(&user.run("$S lab up -f shop.yaml"));
    assert!(refused.contains("uplink up is on interface eth1, which only root may open"), "{refused}");
    let user = User::new(false);
    let refused = error(&user.run("$S lab up -f shop.yaml"));
    assert!(refused.contains("have root `chmod 0666 /dev/net/tun`"), "{refused}");
    let refused = error(&user.run("$S lab exec shop/client -- true"));
    assert!(refused.contains("no lab supernet is up"), "{refused}");
}
