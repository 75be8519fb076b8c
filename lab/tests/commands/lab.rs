//! A lab of a test's own, by its commands.

use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// A lab, ended when dropped.
pub(crate) struct Lab {
    pub(crate) name: String,
    folder: tempfile::TempDir,
}

impl Lab {
    /// Brings up a lab of these manifests, without a DNS.
    pub(crate) fn up(test: &str, manifests: &str) -> Self {
        let name = format!("test{}-{test}", std::process::id());
        let lab = Self { name, folder: tempfile::tempdir().unwrap() };
        let file = lab.write("lab.yaml", manifests);
        let up =
            lab.command(&["up", "--detach", "--no-dns", "--workers", "2", "-f", &file]).output().unwrap();
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        lab
    }

    /// Writes a file in the lab's folder. Where it is.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.file(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `supernet lab` with the lab's name.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_supernet"));
        command.args(["lab", args[0], "--name", &self.name]).args(&args[1..]).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Whether a host gets an answer by HTTP.
    pub(crate) fn reaches(&self, host: &str, url: &str) -> bool {
        self.run(&["exec", host, "--", "curl", "-sf", "-o", "/dev/null", "--max-time", "1", url])
            .status
            .success()
    }

    pub(crate) fn pid(&self) -> i32 {
        let state = fs::read_to_string(format!("/run/supernet/{}/state.json", self.name)).unwrap();
        let state: Value = serde_json::from_str(&state).unwrap();
        state["pid"].as_i64().unwrap() as i32
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
    }
}
