//! What the machine at hand can do at best: the limit program's figures, for the same number of connections,
//! measured in the same run.
//!
//! The limit program is a packet chain without anything that makes a network of it. It is run as `PATH chain N
//! uni 12` and prints a line a figure, `5 tag31 simd B64 Ring(4096)   clean n=11 min 8.37 med 8.48 ns = ...`.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

/// Its lines that we compare with: parse and hash; and look up; and rewrite and count.
const PARSE: &str = "2 parse+hash simd Ring(4096)";
const LOOK_UP: &str = "3 tag31 simd B64 Ring(4096)";
const CHAIN: &str = "5 tag31 simd B64 Ring(4096)";

/// Rounds it measures, a sample a line each.
const ROUNDS: &str = "12";

#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("cannot run the limit program {path}: {source}; give the path of the program as it was built", path = .path.display())]
    NotRun { path: PathBuf, source: io::Error },
    #[error("the limit program {path} failed with {flows} connections ({status}): {said}", path = .path.display())]
    Failed { path: PathBuf, flows: usize, status: ExitStatus, said: String },
    #[error(
        "{path} printed no line \"{line}   clean ... med N ns\" for {flows} connections: is it the limit program?",
        path = .path.display()
    )]
    NotALimit { path: PathBuf, flows: usize, line: &'static str },
}

/// What the limit program needs for a packet, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures {
    /// To parse it and to hash its key.
    pub(super) parse: f64,
    /// To find its connection as well.
    pub(super) look_up: f64,
    /// To rewrite and to count it as well.
    pub(super) chain: f64,
}

/// A limit program, and what it has said.
pub(super) struct Limit {
    path: PathBuf,
    said: HashMap<usize, Figures>,
}

impl Limit {
    /// # Errors
    /// There is no such program.
    pub(super) fn new(path: &Path) -> Result<Self, LimitError> {
        let is_file = std::fs::metadata(path)
            .and_then(|m| if m.is_file() { Ok(()) } else { Err(io::Error::other("it is not a file")) });
        is_file.map_err(|source| LimitError::NotRun { path: path.to_owned(), source })?;
        // A bare name is a file here, not a program to be searched for.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, said: HashMap::new() })
    }

    /// Its figures for this many connections; measured now, if that was not done before.
    pub(super) fn figures(&mut self, flows: usize) -> Result<Figures, LimitError> {
        if let Some(figures) = self.said.get(&flows) {
            return Ok(*figures);
        }
        let mut command = Command::new(&self.path);
        command.args(["chain", &flows.to_string(), "uni", ROUNDS]).stdin(Stdio::null());
        let output =
            command.output().map_err(|source| LimitError::NotRun { path: self.path.clone(), source })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said =
                said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
            return Err(LimitError::Failed { path: self.path.clone(), flows, status: output.status, said });
        }
        let figures = read(&String::from_utf8_lossy(&output.stdout))
            .map_err(|line| LimitError::NotALimit { path: self.path.clone(), flows, line })?;
        self.said.insert(flows, figures);
        Ok(figures)
    }
}

/// The figures in what was printed, or the line that is missing.
fn read(text: &str) -> Result<Figures, &'static str> {
    let figure = |line: &'static str| median(text, line).ok_or(line);
    Ok(Figures { parse: figure(PARSE)?, look_up: figure(LOOK_UP)?, chain: figure(CHAIN)? })
}

/// The median of a line. Without a clean sample it is that of all.
fn median(text: &str, name: &str) -> Option<f64> {
    let rest =
        text.lines().find_map(|line| line.trim_start().strip_prefix(name).filter(|r| r.starts_with(' ')))?;
    let mut words = rest.split_whitespace().skip_while(|word| *word != "med");
    words.nth(1)?.parse().ok().filter(|ns: &f64| ns.is_finite() && *ns > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
# tsc 2.596 GHz core 3.700 GHz (from dependent adds)
conns=10000 Uni: tag31 170.0 B per conn, direct 161.0 B per conn
2 parse+hash simd Ring(4096)                                     clean n=11 min   1.90 med   1.95 ns =    7.2 cyc  512.00 Mpps | all med   1.96 ns
3 tag31 simd B64 Ring(4096)                                      NO CLEAN SAMPLE; all: min 4.20 med 4.31 ns
5 tag31 simd B64 Ring(64)                                        clean n=12 min   7.11 med   7.20 ns =   26.6 cyc  138.00 Mpps | all med   7.20 ns
5 tag31 simd B64 Ring(4096)                                      clean n=11 min   8.37 med   8.48 ns =   31.4 cyc  117.92 Mpps | all med   8.49 ns
# clean samples 30 of 36; best probe IPC 4.91
";

    #[test]
    fn the_right_lines_are_read() {
        assert_eq!(read(PRINTED), Ok(Figures { parse: 1.95, look_up: 4.31, chain: 8.48 }));
        assert_eq!(read(&PRINTED.replace("3 tag31", "3 tag15")), Err(LOOK_UP));
        assert_eq!(read(&PRINTED.replace("med   8.48", "med")), Err(CHAIN));
        assert_eq!(read(""), Err(PARSE));
    }

    #[test]
    fn what_is_no_limit_program_is_said_to_be_none() {
        assert!(matches!(Limit::new(Path::new("/no/such")), Err(LimitError::NotRun { .. })));
        assert!(matches!(Limit::new(Path::new("/")), Err(LimitError::NotRun { .. })));
        let mut echo = Limit::new(Path::new("/bin/echo")).unwrap();
        let error = echo.figures(7).unwrap_err();
        assert!(error.to_string().contains("for 7 connections: is it the limit program?"), "{error}");
        let mut cat = Limit::new(Path::new("/bin/cat")).unwrap();
        let error = cat.figures(7).unwrap_err();
        assert!(matches!(&error, LimitError::Failed { said, .. } if said.contains("chain")), "{error}");
    }
}
