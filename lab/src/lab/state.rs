//! A lab's folder, `/run/supernet/NAME` (of ordinary users: [`rootless`]): what makes a lab findable, and removable after a `kill -9`.
//!
//! The supervisor holds a lock on the folder as long as it lives; the kernel drops the lock with the process
//! (and with the `ip` that makes its namespaces, which goes on for a moment after a `kill -9`), so a folder without a lock is what a killed lab left. `state.json` names the process and every network
//! namespace, and is written before the first namespace is made.

use super::{
    dns::{self, Names},
    error::LabError,
    netns::{self, Netns},
    rootless, spec,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The folder with every host's resolv.conf.
const RESOLV: &str = "resolv";

/// How long someone who looks which labs there are may hold a lock.
const GLANCE: Duration = Duration::from_millis(300);
/// How long a killed supervisor's lock may outlive it: an `ip` that makes namespaces holds it as well.
pub(super) const AFTERMATH: Duration = Duration::from_secs(30);

/// What is written down about a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The supervisor's process id.
    pub(super) pid: i32,
    /// What its processes are known by, if it is not root's.
    #[serde(default)]
    pub(super) token: Option<String>,
    /// Everything that can be entered, `outside` among it.
    pub(super) endpoints: Vec<Entry>,
}

/// A place that can be entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// `NAMESPACE/POD`, or `outside`.
    pub(super) name: String,
    /// `NAMESPACE/NAME` of the workload it belongs to.
    pub(super) workload: Option<String>,
    /// Its network namespace under `/run/netns`.
    pub(super) netns: String,
}

/// The folder of a lab that this process runs. Dropping it removes the folder.
#[derive(Debug)]
pub(super) struct Claim {
    name: String,
    path: PathBuf,
    /// Holds the lock.
    lock: File,
}

impl Claim {
    /// Takes the name `lab`, and first removes whatever a killed lab of that name has left.
    pub(super) fn take(lab: &str) -> Result<Self, LabError> {
        check_name(lab)?;
        let path = folder(lab);
        let failed = |source| LabError::State { path: path.clone(), source };
        let start = Instant::now();
        loop {
            fs::create_dir_all(&path).map_err(failed)?;
            let lock = match File::open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed)?,
            };
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let pid = State::read(lab).ok().map(|s| s.pid);
                    let patience = if pid.is_some_and(netns::has_ended) { AFTERMATH } else { GLANCE };
                    if start.elapsed() >= patience {
                        return Err(LabError::AlreadyUp { name: lab.to_owned(), pid });
                    }
                    thread::sleep(Duration::from_millis(10));
                    continue;
                }
                Err(TryLockError::Error(e)) => return Err(failed(e)),
                Ok(()) => {}
            }
            // The former holder may have removed the folder between our open and our lock.
            if same_folder(&lock, &path) {
                let claim = Self { name: lab.to_owned(), path, lock };
                claim.clean()?;
                return Ok(claim);
            }
        }
    }

    /// The lab's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the lab listens for requests.
    pub(super) fn socket(&self) -> PathBuf {
        socket(&self.name)
    }

    /// What the lock is held with.
    pub(super) fn lock(&self) -> &File {
        &self.lock
    }

    /// Where the output of a detached lab goes.
    pub(super) fn log_file(&self) -> io::Result<File> {
        File::create(self.path.join("log"))
    }

    /// Writes the state down, whole or not at all.
    pub(super) fn write(&self, state: &State) -> Result<(), LabError> {
        let (new, path) = (self.path.join("state.json.new"), self.path.join("state.json"));
        serde_json::to_vec_pretty(state)
            .map_err(io::Error::from)
            .and_then(|json| fs::write(&new, json))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| LabError::State { path, source })
    }

    /// Writes down whom hosts ask for names: files for [`resolv_conf`] and [`nsswitch_conf`]. Those that somebody has
    /// mounted are changed in place.
    pub(super) fn write_names(&self, names: &Names) -> Result<(), LabError> {
        let folder = self.path.join(RESOLV);
        let failed = |source| LabError::State { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        let mut left: HashSet<OsString> =
            fs::read_dir(&folder).map_err(failed)?.flatten().map(|e| e.file_name()).collect();
        for (host, text) in &names.resolv {
            let path = resolv_conf(&self.name, host);
            left.remove(path.file_name().unwrap_or_default());
            if fs::read_to_string(&path).ok().as_deref() != Some(text) {
                fs::write(&path, text).map_err(failed)?;
            }
        }
        for gone in left {
            fs::remove_file(folder.join(gone)).map_err(failed)?;
        }
        let system = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
        match dns::hosts_by_dns(&system) {
            Some(text) => fs::write(nsswitch_conf(&self.name), text).map_err(failed),
            None => Ok(()),
        }
    }

    /// Removes namespaces, and processes in them, that a killed lab of this name has left.
    fn clean(&self) -> Result<(), LabError> {
        let state = match State::read(&self.name) {
            Ok(state) => state,
            // Killed before it had written anything, hence before it had made anything.
            Err(LabError::State { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        if let Some(token) = &state.token {
            // Its namespaces have no names outside of it: they go with the last process.
            netns::end_all(|pid| rootless::is_marked(pid, token));
        } else {
            let found: Vec<Netns> =
                state.endpoints.iter().filter_map(|e| Netns::open(&e.netns).ok()).collect();
            netns::end_processes(&found);
            for entry in &state.endpoints {
                netns::remove(&entry.netns)
                    .map_err(|source| LabError::State { path: netns::path(&entry.netns), source })?;
            }
        }
        let path = self.path.join("state.json");
        fs::remove_file(&path).map_err(|source| LabError::State { path, source })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lock goes after the folder, so nobody finds an unlocked folder that is still in use.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl State {
    /// What lab `lab` has written down.
    pub(super) fn read(lab: &str) -> Result<Self, LabError> {
        let path = folder(lab).join("state.json");
        let text =
            fs::read_to_string(&path).map_err(|source| LabError::State { path: path.clone(), source })?;
        let bad = |reason| LabError::BadState { path: path.clone(), reason };
        let state: Self = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        // They become parts of paths.
        match state.endpoints.iter().find(|e| e.netns.contains('/') || e.netns.starts_with('.')) {
            Some(entry) => Err(bad(format!("{:?} can't name a network namespace", entry.netns))),
            None => Ok(state),
        }
    }

    /// The place that `target` stands for; see [`spec::resolve`].
    pub(super) fn resolve(&self, lab: &str, target: &str) -> Result<&Entry, LabError> {
        let hosts = self.endpoints.iter().map(|e| (&*e.name, e.workload.as_deref()));
        Ok(&self.endpoints[spec::resolve(lab, hosts, target)?])
    }
}

/// What is known about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// A supervisor holds it.
    Running,
    /// A killed supervisor left it.
    Stale,
    /// There is no such lab.
    Absent,
}

/// Whether a lab of this name runs.
pub(super) fn presence(lab: &str) -> Result<Presence, LabError> {
    check_name(lab)?;
    rootless::check_folder()?;
    let path = folder(lab);
    let folder = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Presence::Absent),
        other => other.map_err(|source| LabError::State { path: path.clone(), source })?,
    };
    // A shared lock, so that two who ask at once do not take each other for the supervisor.
    match folder.try_lock_shared() {
        Ok(()) if same_folder(&folder, &path) => Ok(Presence::Stale),
        Ok(()) => Ok(Presence::Absent),
        Err(TryLockError::WouldBlock) => Ok(Presence::Running),
        Err(TryLockError::Error(source)) => Err(LabError::State { path, source }),
    }
}

/// The names of all labs that run.
pub(super) fn running() -> Vec<String> {
    let entries = fs::read_dir(rootless::folder()).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| matches!(presence(name), Ok(Presence::Running)))
        .collect();
    names.sort();
    names
}

/// What there is to say of a lab that is not there.
pub(super) fn absent(lab: &str) -> LabError {
    let name = lab.to_owned();
    if rootless::is_roots(lab) {
        LabError::Roots { name }
    } else {
        LabError::NotUp { name, running: running() }
    }
}

/// Where a lab listens for requests.
pub(super) fn socket(lab: &str) -> PathBuf {
    folder(lab).join("socket")
}

/// What a host has in place of the system's resolv.conf; not there: the system's.
pub(super) fn resolv_conf(lab: &str, host: &str) -> PathBuf {
    folder(lab).join(RESOLV).join(netns::name(lab, host))
}

/// What hosts have in place of the system's nsswitch.conf; not there: the system's.
pub(super) fn nsswitch_conf(lab: &str) -> PathBuf {
    folder(lab).join("nsswitch.conf")
}

fn folder(lab: &str) -> PathBuf {
    rootless::folder().join(lab)
}

fn same_folder(open: &File, path: &Path) -> bool {
    match (open.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Lab names become part of file names, and are told from what follows by a dot.
fn check_name(lab: &str) -> Result<(), LabError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=32).contains(&lab.len()) && lab.bytes().all(fits) {
        Ok(())
    } else {
        Err(LabError::BadName(lab.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_the_folder() {
        for bad in ["", "..", "a/b", "a.b", "a b", &"x".repeat(33)] {
            assert!(matches!(check_name(bad), Err(LabError::BadName(_))), "{bad}");
        }
        check_name("Shop_2-a").unwrap();
    }
}
