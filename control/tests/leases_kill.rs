//! Leases survive `kill -9` at any moment: what was reported as leased is there, and nothing is there twice.
//!
//! The test starts itself as a child, which plans and commits in a loop and prints every commit when it has
//! returned. It is killed at a random moment, several times, on the same file.

#![cfg(all(unix, feature = "redb"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use supernet_control::{
    ipam::{Addressing, Ipam, Leases},
    model::{Change, Model, Name, ObjectKind, Pod},
    store::{Owner, StoreError, UnixSeconds},
};

/// Set for the child: the file, and how many steps were taken before.
const CHILD: &str = "SUPERNET_TEST_LEASES_CHILD";
const ROUNDS: u32 = 12;
const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

/// The model after a number of steps: each adds a pod, every third removes the oldest.
fn step(model: &Model, step: u32) -> Model {
    let name = |n: u32| Name::new(format!("ns{}", n % 7), format!("p{n}"));
    let mut change = Change::upsert(Pod::new(name(step)));
    if step % 3 == 2 {
        change = change.and(Change::delete(ObjectKind::Pod, name(step / 3)));
    }
    model.with(change).unwrap()
}

fn time(step: u32) -> UnixSeconds {
    NOW.plus(u64::from(step) * 5)
}

fn line(addressing: &Addressing) -> String {
    let pod =
        |(name, pod): (&Name, &supernet_control::ipam::PodAddresses)| format!("{name}={}", pod.addresses[0]);
    addressing.pods.iter().map(pod).collect::<Vec<_>>().join(" ")
}

/// What the child does until it is killed. Runs as a test that does nothing when it is not the child.
#[test]
fn child() {
    let Ok(marker) = env::var(CHILD) else { return };
    let (path, done) = marker.rsplit_once('|').unwrap();
    let mut steps: u32 = done.parse().unwrap();
    let mut ipam = Ipam::new(Leases::open(path).unwrap());
    let mut model = (0..steps).fold(Model::default(), |m, s| step(&m, s));
    loop {
        model = step(&model, steps);
        let proposal = ipam.plan(&model, time(steps), &BTreeSet::new()).unwrap();
        let addressing = ipam.commit(proposal).unwrap();
        steps += 1;
        println!("COMMIT {steps} {} END", line(&addressing));
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn leases_survive_kill_9() {
    if env::var_os(CHILD).is_some() {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut seed = env::var("SEED").map_or(now.as_nanos() as u64, |s| s.parse().unwrap());
    println!("SEED={seed}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases");
    let start = Instant::now();
    let (mut steps, mut reported) = (0, String::new());
    let mut commits = 0;
    for round in 0..ROUNDS {
        // The first ones die while the file is being made, the others somewhere among the commits.
        let at_most = if round < 4 { 30_000 } else { 500_000 };
        let life = Duration::from_micros(random(&mut seed) % at_most);
        if let Some((done, last)) = run_and_kill(&path, steps, life) {
            commits += done - steps;
            (steps, reported) = (done, last);
        }
        let unreported = check(&path, steps, &reported);
        if let Some((done, last)) = unreported {
            (steps, reported) = (done, last);
        }
        if start.elapsed() > Duration::from_secs(10) {
            println!("stopped after {} rounds: slow machine", round + 1);
            break;
        }
    }
    println!("{commits} reported commits survived");
    assert!(commits > 0, "no child lived long enough to commit anything");
}

/// SplitMix64: enough randomness for a test, from a seed that can be printed.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Lets a child commit for a while from `steps` on, and kills it. Returns its last report.
fn run_and_kill(path: &Path, steps: u32, life: Duration) -> Option<(u32, String)> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(CHILD, format!("{}|{steps}", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (send, receive) = mpsc::channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            send.send(line).unwrap();
        }
    });
    std::thread::sleep(life);
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(9), "the child ended by itself: {errors}");
    reader.join().unwrap();
    let reports: Vec<String> = receive.try_iter().filter(|l| l.contains("COMMIT ")).collect();
    reports.iter().rev().find_map(|l| parse(l))
}

/// A report that arrived whole: the last line may be torn.
fn parse(report: &str) -> Option<(u32, String)> {
    let (_, rest) = report.split_once("COMMIT ")?;
    let (steps, list) = rest.strip_suffix(" END")?.split_once(' ')?;
    Some((steps.parse().ok()?, list.to_owned()))
}

/// Opens the file after a kill. Returns the state one step further if that commit became durable but was not
/// reported any more.
fn check(path: &Path, steps: u32, reported: &str) -> Option<(u32, String)> {
    let ipam = loop {
        match Leases::open(path) {
            Ok(leases) => break Ipam::new(leases),
            // The kernel may take a moment to drop the lock of the dead.
            Err(StoreError::Locked { .. }) => std::thread::sleep(Duration::from_millis(5)),
            Err(e) => panic!("{e}"),
        }
    };
    let mut held: BTreeMap<&Name, Vec<IpAddr>> = BTreeMap::new();
    for (net, lease) in ipam.leases() {
        if let (Owner::Pod(name), true) = (&lease.owner, lease.is_held()) {
            held.entry(name).or_default().push(net.addr());
        }
    }
    assert!(held.values().all(|a| a.len() == 1), "a pod has two addresses: {held:?}");
    let stored = held.iter().map(|(n, a)| format!("{n}={}", a[0])).collect::<Vec<_>>().join(" ");
    // Plan again what is stored: it must be a state that the steps lead to, with every address as it is.
    for done in [steps, steps + 1] {
        let model = (0..done).fold(Model::default(), |m, s| step(&m, s));
        let wanted: Vec<&Name> = model.pods.keys().collect();
        if wanted == held.keys().copied().collect::<Vec<_>>() {
            if done == steps {
                assert_eq!(stored, reported, "what was reported as leased is not what is stored");
            } else {
                for lease in reported.split(' ').filter(|l| !l.is_empty()) {
                    let (name, _) = lease.split_once('=').unwrap();
                    let kept = stored.split(' ').any(|s| s == lease);
                    let removed = !model.pods.keys().any(|n| n.to_string() == name);
                    assert!(kept || removed, "{lease} is lost");
                }
            }
            if done > 0 {
                let again = ipam.plan(&model, time(done - 1), &BTreeSet::new()).unwrap();
                assert_eq!(line(again.addressing()), stored);
            }
            return (done > steps).then_some((done, stored));
        }
    }
    panic!("what is stored is neither what {steps} steps give nor what the next one gives: {stored}");
}
