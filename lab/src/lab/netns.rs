//! Network namespaces by name, where `ip netns` looks for them: `/run/netns`.
//!
//! A namespace lives while something refers to it: its name, a process or thread in it, or a socket or TAP
//! descriptor that was opened there. Removing one here takes its name and its processes; the rest goes when
//! the descriptors are dropped.

use super::error::LabError;
use rustix::{
    event::{PollFd, PollFlags},
    fs::Timespec,
    process::{Pid, PidfdFlags, Signal},
    thread::LinkNameSpaceType,
};
use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const ROOT: &str = "/run/netns";

/// How long processes in a namespace have to end after a SIGTERM.
const PATIENCE: Duration = Duration::from_secs(3);

/// File names may have 255 bytes; this leaves room for whoever appends something.
const NAME_MAX: usize = 200;

/// The name of an endpoint's namespace: `LAB.NAMESPACE.POD`. Neither of the first two has a dot in it, so
/// different endpoints get different names; what is too long ends in a hash instead.
pub(super) fn name(lab: &str, endpoint: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '.' };
    let full: String = format!("{lab}.{endpoint}").chars().map(plain).collect();
    if full.len() <= NAME_MAX {
        return full;
    }
    // FNV-1a: stable over releases, unlike the standard library's hasher.
    let hash = endpoint
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{}~{hash:016x}", &full[..NAME_MAX - 17])
}

/// Where a namespace of this name is bound.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// Makes namespaces, all in one run of `ip`. On an error some may have been made.
///
/// `ip` goes on with its list when this process is killed. It is given `lock` along, so that nobody takes the
/// lab for dead, and cleans up after it, before that has ended too.
pub(super) fn create(names: &[String], lock: &File) -> Result<(), LabError> {
    if let Some(netns) = names.iter().find(|n| path(n).exists()) {
        return Err(LabError::NamespaceTaken { netns: netns.clone() });
    }
    let commands: Vec<String> = names.iter().map(|n| format!("netns add {n}")).collect();
    let place = "network namespaces";
    let lock = lock.try_clone().map_err(|source| LabError::System {
        place: place.to_owned(),
        what: "hand on the lab's lock",
        source,
    })?;
    // It has nothing to say there.
    run_ip(place, &commands, Stdio::from(lock))
}

/// Takes a namespace's name away; `Ok` when it has none.
pub(super) fn remove(name: &str) -> io::Result<()> {
    let path = path(name);
    match rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH) {
        // EINVAL: the file was made, but nothing bound to it yet.
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
        Err(e) => return Err(e.into()),
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// An open network namespace.
#[derive(Debug)]
pub(super) struct Netns {
    file: File,
    /// Device and inode: the namespace's identity.
    identity: (u64, u64),
}

impl Netns {
    /// Opens the namespace of this name.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let file = File::open(path(name))?;
        let meta = file.metadata()?;
        Ok(Self { file, identity: (meta.dev(), meta.ino()) })
    }

    /// Moves the calling thread into the namespace, for good.
    pub(super) fn enter(&self) -> io::Result<()> {
        rustix::thread::move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }
}

/// Gives the calling thread mounts of its own. For a thread that is about to become another program.
#[allow(unsafe_code, reason = "rustix cannot know which flags leave descriptors alone")]
pub(super) fn own_mounts() -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    // SAFETY: only the table of mounts becomes the thread's own, not that of descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    // What is mounted outside later is seen here too, and not the other way round.
    Ok(mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}

/// Gives a thread with [`own_mounts`] a `/sys` of the network namespace that it has entered: the one that was mounted
/// outside shows the devices of the namespace it was mounted in, whoever looks.
pub(super) fn show_own_devices() -> io::Result<()> {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    // In an ordinary user's lab it can't be taken away, but covered.
    let _ = unmount("/sys", UnmountFlags::DETACH);
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    Ok(mount("sysfs", "/sys", "sysfs", flags, None)?)
}

/// Has a thread with [`own_mounts`] see `file` where the file `place` is. The error is a sentence.
pub(super) fn show_instead(place: &str, file: &Path) -> Result<(), String> {
    rustix::mount::mount_bind(file, place).map_err(|e| match e {
        // Also where it is a link that leads nowhere.
        rustix::io::Errno::NOENT => format!("there is no file {place} to be covered: make one, be it empty"),
        e => format!("can't cover {place}: {}", io::Error::from(e)),
    })
}

/// Has a thread with [`own_mounts`] see an empty folder where `place` is, if it is there. The error is a sentence.
pub(super) fn hide(place: &str) -> Result<(), String> {
    use rustix::mount::{MountFlags, mount};
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    match mount("tmpfs", place, "tmpfs", flags, Some(c"size=4k")) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(format!("can't cover {place}: {}", io::Error::from(e))),
    }
}

/// Runs `ip` commands in the calling thread's namespace, in one process, and stops at the first that fails.
pub(super) fn ip(place: &str, commands: &[String]) -> Result<(), LabError> {
    run_ip(place, commands, Stdio::null())
}

fn run_ip(place: &str, commands: &[String], stdout: Stdio) -> Result<(), LabError> {
    let failed = |what| move |source| LabError::System { place: place.to_owned(), what, source };
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => LabError::NoIproute,
            _ => failed("run ip")(e),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // An early death of `ip` shows in its status.
        let _ = stdin.write_all((commands.join("\n") + "\n").as_bytes());
    }
    let output = child.wait_with_output().map_err(failed("wait for ip"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    // `ip` ends its complaint with "Command failed -:LINE".
    let line = text.lines().find_map(|l| l.strip_prefix("Command failed -:")?.trim().parse::<usize>().ok());
    let message = text.lines().filter(|l| !l.starts_with("Command failed")).collect::<Vec<_>>().join("; ");
    Err(LabError::Ip {
        place: place.to_owned(),
        command: line
            .and_then(|n| commands.get(n.wrapping_sub(1)))
            .cloned()
            .unwrap_or_else(|| "-batch".to_owned()),
        message: if message.is_empty() { output.status.to_string() } else { message },
    })
}

/// Ends every process in the namespaces but this one: SIGTERM, and SIGKILL for what is still there later.
pub(super) fn end_processes<'a>(namespaces: impl IntoIterator<Item = &'a Netns>) {
    let identities: HashSet<(u64, u64)> = namespaces.into_iter().map(|n| n.identity).collect();
    let inside = |pid: i32| {
        fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| identities.contains(&(m.dev(), m.ino())))
    };
    if !identities.is_empty() {
        end_all(inside);
    }
}

/// Ends every process that is `one_of` them, but this one.
pub(super) fn end_all(one_of: impl Fn(i32) -> bool) {
    for signal in [Signal::TERM, Signal::KILL] {
        let deadline = Instant::now() + PATIENCE;
        // Looked up anew each time: a process may start others while it ends.
        loop {
            let found = processes(&one_of);
            if found.is_empty() {
                return;
            }
            for process in &found {
                let _ = rustix::process::pidfd_send_signal(process, signal);
            }
            let round = Instant::now() + Duration::from_millis(500);
            for process in &found {
                wait_for_end(process, round.min(deadline));
            }
            if Instant::now() >= deadline {
                break;
            }
        }
    }
}

/// Whether no process of this number runs. A zombie does not.
pub(super) fn has_ended(pid: i32) -> bool {
    let Some(pid) = Pid::from_raw(pid) else { return true };
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => wait_for_end(&process, Instant::now()),
        Err(e) => e == rustix::io::Errno::SRCH,
    }
}

/// Waits until a process has ended; whether it has by `deadline`.
pub(super) fn wait_for_end(process: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// The other processes that are `one_of` some, by descriptors that can't come to mean another process.
fn processes(one_of: &impl Fn(i32) -> bool) -> Vec<OwnedFd> {
    let own = std::process::id() as i32;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| pid != own && one_of(pid))
        .filter_map(|pid| {
            let fd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            // The number may have been given to another process since.
            one_of(pid).then_some(fd)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_short_enough() {
        assert_eq!(name("lab", "shop/web-0"), "lab.shop.web-0");
        assert_eq!(name("lab", "outside"), "lab.outside");
        let long = "x".repeat(253);
        let (a, b) = (name("lab", &format!("shop/{long}a")), name("lab", &format!("shop/{long}b")));
        assert_ne!(a, b);
        assert_eq!(a.len(), NAME_MAX);
        assert!(!name("lab", "a b/c\n").contains([' ', '\n', '/']));
    }
}
