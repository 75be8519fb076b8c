//! `supernet lab flows`: asks for what happened, and prints it as it comes.

use super::{Item, words};
use crate::{
    cli::{FlowsArgs, LineFormat},
    lab::{
        live::{
            client::{self, ClientError},
            command::say,
            wire::{Answer, Ask, Flows},
        },
        supervise::Signals,
    },
    output::Style,
};
use rustix::event::{PollFd, PollFlags};
use std::{
    error::Error,
    io::{self, BufReader, Read},
    os::{fd::AsFd, unix::net::UnixStream},
};

/// The longest line, bytes.
const LINE_MAX: usize = 1 << 20;

/// Why flows are told no longer.
#[derive(Debug, thiserror::Error)]
#[error(
    "lab {lab} tells of flows no longer ({why}); `supernet lab status --name {lab}` tells whether it still runs"
)]
struct Broken {
    lab: String,
    why: io::Error,
}

/// `lab flows`. The exit status to end with.
pub(in crate::lab) fn run(args: &FlowsArgs) -> Result<u8, Box<dyn Error>> {
    let signals = Signals::catch()?;
    let ask = Ask::Flows(Flows {
        of: args.target.clone(),
        follow: args.follow,
        last: args.last,
        sample: args.sample,
        denied: args.denied,
    });
    let connection = match client::begin(&args.name, &ask)? {
        (Answer::Flowing, connection) => connection,
        _ => return Err(ClientError::Unexpected { lab: args.name.clone() }.into()),
    };
    if args.follow {
        eprintln!("following the flows of lab {}; Ctrl-C ends it", args.name);
    }
    let ended = follow(connection, &signals, args.output);
    let lab_ends = ended.map_err(|why| Broken { lab: args.name.clone(), why })?;
    if lab_ends {
        eprintln!("lab {} has ended", args.name);
    }
    Ok(0)
}

/// Prints what comes, until that was all or nobody wants more of it. Whether the lab ends.
fn follow(connection: BufReader<UnixStream>, signals: &Signals, format: LineFormat) -> io::Result<bool> {
    let style = Style::detect();
    let mut waiting = connection.buffer().to_vec();
    let mut stream = connection.into_inner();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (mut text, mut rest) = (String::new(), &waiting[..]);
        let mut ended = None;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let line = &rest[..at];
            rest = &rest[at + 1..];
            match serde_json::from_slice(line)? {
                Item::End(end) => ended = Some(end.lab_ends),
                Item::Flow(flow) => {
                    match format {
                        LineFormat::Text => text += &words::line(&flow, style),
                        LineFormat::Json => text += &serde_json::to_string(&flow)?,
                    }
                    text.push('\n');
                }
            }
        }
        waiting = rest.to_vec();
        if waiting.len() > LINE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what it says makes no sense"));
        }
        if (!text.is_empty() && !say(&text)?) || ended.is_some() {
            return Ok(ended.unwrap_or(false));
        }
        if !wait(&stream, signals)? {
            return Ok(false);
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed")),
            Ok(n) => waiting.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Waits for more. `false`: none is wanted, or nobody reads it.
fn wait(stream: &UnixStream, signals: &Signals) -> io::Result<bool> {
    let output = io::stdout();
    loop {
        let mut fds = [
            PollFd::new(stream, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            // Nothing is asked of the output, so this is whether its reader has gone.
            PollFd::new(&output, PollFlags::empty()),
        ];
        match rustix::event::poll(&mut fds, None) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(fds[1..].iter().all(|fd| fd.revents().is_empty())),
            Err(e) => return Err(e.into()),
        }
    }
}
