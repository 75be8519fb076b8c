//! The asking side of a lab's socket.

use super::wire::{self, Answer, Ask, WireError};
use crate::lab::{
    error::LabError,
    state::{self, Presence},
};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

/// How long a lab may be silent: it answers one request after the other, and a large change takes a while.
const PATIENCE: Duration = Duration::from_secs(600);

/// The longest answer, bytes.
const ANSWER_MAX: u64 = 256 << 20;

/// Why a lab gave no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(
        "lab {lab} runs but takes no requests ({source}): it has just started or is about to end, or another version of \
         `supernet` has started it"
    )]
    Deaf { lab: String, source: io::Error },
    #[error(
        "lab {lab} did not answer ({source}); `supernet lab status --name {lab}` tells whether it still runs"
    )]
    Silent { lab: String, source: io::Error },
    #[error("lab {lab}: {source}")]
    Wire { lab: String, source: WireError },
    #[error("the request has more than {} MiB: leave out what is not needed, or apply it in parts", wire::REQUEST_MAX >> 20)]
    TooLong,
    /// In the lab's own words.
    #[error("{0}")]
    Refused(String),
    #[error("lab {lab} answered something else than it was asked")]
    Unexpected { lab: String },
}

impl ClientError {
    /// Whether the same request may be answered later.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Lab(_) | Self::Deaf { .. } | Self::Silent { .. })
    }
}

/// Asks lab `lab` and waits for its answer, which is never [`Answer::Error`].
///
/// # Errors
/// See [`ClientError`].
pub(crate) fn ask(lab: &str, ask: &Ask) -> Result<Answer, ClientError> {
    begin(lab, ask).map(|(answer, _)| answer)
}

/// The same, with the connection for what comes after the answer, and what has come of that already.
///
/// # Errors
/// See [`ClientError`].
pub(super) fn begin(lab: &str, ask: &Ask) -> Result<(Answer, BufReader<UnixStream>), ClientError> {
    match state::presence(lab)? {
        Presence::Running => {}
        Presence::Stale => return Err(LabError::Died { name: lab.to_owned() }.into()),
        Presence::Absent => return Err(state::absent(lab).into()),
    }
    let wire = |source| ClientError::Wire { lab: lab.to_owned(), source };
    let silent = |source| ClientError::Silent { lab: lab.to_owned(), source };
    let request = wire::request(ask).map_err(wire)?;
    if request.len() > wire::REQUEST_MAX {
        return Err(ClientError::TooLong);
    }
    let connect = || {
        let stream = UnixStream::connect(state::socket(lab))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    let mut stream = connect().map_err(|source| ClientError::Deaf { lab: lab.to_owned(), source })?;
    // A lab that does not want to hear all of it has said why.
    let sent = stream.write_all(&request);
    let mut line = Vec::new();
    // Not to its end: that is a reset where something of the request was not read.
    let mut reader = BufReader::new(stream);
    reader.by_ref().take(ANSWER_MAX).read_until(b'\n', &mut line).map_err(silent)?;
    if line.is_empty() {
        let source = sent.err().unwrap_or_else(|| io::Error::other("it closed the connection"));
        return Err(silent(source));
    }
    match wire::read_answer(&line).map_err(wire)? {
        Answer::Error(text) => Err(ClientError::Refused(text)),
        answer => Ok((answer, reader)),
    }
}
