//! Hosts of a test's own: network namespaces with small servers and clients.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Namespaces of this test, removed when dropped.
pub(crate) struct Hosts {
    prefix: String,
    names: Vec<String>,
}

impl Hosts {
    /// Makes them. Their namespaces are called "PREFIX-HOST", and what a prefix begins with is this process's.
    pub(crate) fn new(prefix: &str, names: &[&str]) -> Self {
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        let hosts = Self { prefix: format!("{prefix}{}", std::process::id()), names };
        for host in &hosts.names {
            let done = Command::new("ip").args(["netns", "add", &hosts.name(host)]).status().unwrap();
            assert!(done.success());
        }
        hosts
    }

    /// What a host's namespace is called.
    pub(crate) fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Runs `ip` commands in a host's namespace.
    pub(crate) fn ip(&self, host: &str, commands: &[&str]) {
        for command in commands {
            let done =
                Command::new("ip").args(["-n", &self.name(host)]).args(command.split(' ')).output().unwrap();
            assert!(done.status.success(), "{host}: ip {command}: {}", String::from_utf8_lossy(&done.stderr));
        }
    }

    /// A command in a host's namespace.
    pub(crate) fn command(&self, host: &str, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(host), program]).args(args);
        command
    }

    /// A server that tells every caller who it seems to be.
    pub(crate) fn serve(&self, host: &str, port: u16) -> Server {
        let program = format!(
            "import socket\ns = socket.create_server(('0.0.0.0', {port}))\nprint('ready', flush=True)\n\
             while True:\n c, a = s.accept()\n c.sendall(('{host} ' + a[0]).encode())\n c.close()\n"
        );
        let mut child =
            self.command(host, "python3", &["-c", &program]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Server(child)
    }

    /// What a server answers, or why not.
    pub(crate) fn ask(&self, host: &str, to: &str, port: u16) -> String {
        let program = format!(
            "import socket\ntry:\n s = socket.create_connection(('{to}', {port}), timeout=1.5)\n \
             print(s.recv(100).decode())\nexcept Exception as e:\n print(type(e).__name__)\n"
        );
        let output = self.command(host, "python3", &["-c", &program]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in &self.names {
            let _ = Command::new("ip").args(["netns", "delete", &self.name(host)]).output();
        }
    }
}

/// A server, ended when dropped.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the test may go on. Loud when not, and a failure in CI.
pub(crate) fn as_root() -> bool {
    let has_namespaces =
        Command::new("ip").args(["netns", "list"]).output().is_ok_and(|o| o.status.success());
    let is_root = rustix::process::geteuid().is_root();
    let may = Path::new("/dev/net/tun").exists() && has_namespaces && is_root;
    assert!(
        may || std::env::var_os("CI").is_none(),
        "this test can't run in CI without root, TUN and iproute2"
    );
    if !may {
        let _ =
            writeln!(std::io::stderr(), "\n*** SKIPPED: root, /dev/net/tun and iproute2 are needed ***\n");
    }
    may
}
