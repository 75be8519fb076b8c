//! Labs of ordinary users: in a user namespace, where they may what root may elsewhere.
//!
//! ```text
//!   supernet lab up (uid 1000) ── unshare ──▶ user namespace: uid 0, mount namespace: a /run of its own
//!                                                  └── /run/supernet is the user's folder outside
//!   supernet lab exec ── setns, by the process that state.json names ──▶ the same
//! ```
//!
//! From there on nothing knows the difference: `/run/netns` and `/run/supernet` are where they always are. The user's
//! folder is seen from outside, so requests need to enter nothing. The namespaces go with the last process in them.
//! What they can't have is the machine's own network, whose interfaces belong to root: the process is in another one, as
//! `ip netns` has to come back to where it began.

use super::{
    error::LabError,
    state::{self, Claim, Presence, State},
};
use rustix::{
    fs::{Access, Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    process::{getegid, geteuid, getuid},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Component, Path, PathBuf},
    sync::OnceLock,
    time::SystemTime,
};

/// Where labs of root have their folders, and where those of others see theirs.
const ROOT: &str = "/run/supernet";

/// Says inside which lab's `/run` it is.
const MARK: &str = "run/supernet-lab";

/// What this process has written there, if it has made namespaces of its own.
static TOKEN: OnceLock<String> = OnceLock::new();

/// The folder that labs have theirs in.
pub(super) fn folder() -> PathBuf {
    if geteuid().is_root() {
        return PathBuf::from(ROOT);
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute());
    match runtime {
        Some(dir) => Path::new(&dir).join("supernet"),
        None => PathBuf::from(format!("/tmp/supernet-{}", getuid())),
    }
}

/// Whether root has a lab of this name, which another user can't have meant to make.
pub(super) fn is_roots(lab: &str) -> bool {
    !geteuid().is_root() && Path::new(ROOT).join(lab).exists()
}

/// Unless it is root's, puts the process into namespaces of its own, where it is, for lab `lab`. To be called while there is
/// but one thread.
///
/// # Errors
/// This system does not let ordinary users do so, and what root can do about it.
pub(super) fn own_namespaces(lab: &str) -> Result<(), LabError> {
    if geteuid().is_root() {
        return Ok(());
    }
    let refused = |advice: &'static str| move |source: io::Error| LabError::Rootless { source, advice };
    if rustix::fs::access("/dev/net/tun", Access::READ_OK | Access::WRITE_OK).is_err() {
        let source = io::Error::new(io::ErrorKind::PermissionDenied, "/dev/net/tun can't be opened");
        return Err(refused("have root `chmod 0666 /dev/net/tun`")(source));
    }
    let folder = own_folder()?;
    // Processes that a killed lab has left can't be told from inside another one.
    drop(Claim::take(lab)?);
    let token = format!("{}-{:?}", std::process::id(), SystemTime::now());
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    unshare().map_err(refused(
        "user namespaces are switched off: see `sysctl user.max_user_namespaces kernel.unprivileged_userns_clone`",
    ))?;
    let become_root = || -> io::Result<()> {
        // Without this, groups could be left that keep somebody out of a file.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        // It may lie in the /run that is about to be covered; and is to be of this namespace, not of the one before.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = rustix::fs::open(&folder, flags, Mode::empty())?;
        mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))?;
        fs::create_dir("/run/netns")?;
        fs::create_dir(ROOT)?;
        mount_bind(format!("/proc/self/fd/{}", held.as_raw_fd()), ROOT)?;
        fs::write(Path::new("/").join(MARK), &token)
    };
    become_root().map_err(refused(
        "user namespaces have no rights here: with AppArmor, see `sysctl kernel.apparmor_restrict_unprivileged_userns`",
    ))?;
    let _ = TOKEN.set(token);
    Ok(())
}

/// In a lab whose `/run` is its own, makes what `link` leads to there, if it is a link that leads there and to nothing:
/// what the system keeps in its `/run` is not seen.
pub(super) fn mend_link(link: &str) -> io::Result<()> {
    let link = Path::new(link);
    if !Path::new("/").join(MARK).exists() || link.exists() {
        return Ok(());
    }
    let mut target = PathBuf::from("/");
    for part in link.parent().unwrap_or(link).join(fs::read_link(link)?).components() {
        match part {
            Component::ParentDir => drop(target.pop()),
            part => target.push(part),
        }
    }
    match target.parent() {
        Some(parent) if target.starts_with("/run") => {
            fs::create_dir_all(parent)?;
            File::create(&target).map(drop)
        }
        _ => Ok(()),
    }
}

/// The mark that processes of a lab of this process are known by, if it is not root's.
pub(super) fn token() -> Option<String> {
    TOKEN.get().cloned()
}

/// Whether a process is in the namespaces that have this mark.
pub(super) fn is_marked(pid: i32, token: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/root/{MARK}")).is_ok_and(|mark| mark == token)
}

/// Puts the process into the namespaces of a lab that runs, unless it is root's. To be called while there is but one
/// thread.
pub(super) fn join(lab: &str, state: &State) -> Result<(), LabError> {
    if geteuid().is_root() {
        return Ok(());
    }
    let failed =
        |source| LabError::System { place: format!("lab {lab}"), what: "enter its namespaces", source };
    let enter = || -> io::Result<()> {
        // Leaving the mount namespace forgets where it was.
        let here = std::env::current_dir();
        let open = |kind: &str| File::open(format!("/proc/{}/ns/{kind}", state.pid));
        let (user, mounts) = (open("user")?, open("mnt")?);
        move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
        move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        here.and_then(std::env::set_current_dir).or_else(|_| std::env::set_current_dir("/"))
    };
    enter().map_err(failed)?;
    // The process was that lab's all the while, or its number is somebody else's now.
    match state::presence(lab)? {
        Presence::Running => Ok(()),
        _ => Err(LabError::Died { name: lab.to_owned() }),
    }
}

/// The user's folder, made if there is none.
fn own_folder() -> Result<PathBuf, LabError> {
    let folder = folder();
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(LabError::State { path: folder, source: e });
        }
        _ => {}
    }
    check_folder()?;
    Ok(folder)
}

/// An error if somebody else has put the user's folder there, or could put something into it: what lies in it is believed.
/// One that is not there is fine, and so is root's.
pub(super) fn check_folder() -> Result<(), LabError> {
    let folder = folder();
    let found = match fs::symlink_metadata(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|source| LabError::State { path: folder.clone(), source })?,
    };
    if geteuid().is_root() || found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0
    {
        return Ok(());
    }
    let why = "it is not a folder that this user alone writes to; set XDG_RUNTIME_DIR to one";
    Err(LabError::State { path: folder, source: io::Error::other(why) })
}

#[allow(unsafe_code, reason = "rustix cannot know which flags leave descriptors alone")]
fn unshare() -> io::Result<()> {
    // SAFETY: none of them touches the table of descriptors.
    Ok(unsafe {
        rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWNET)
    }?)
}
