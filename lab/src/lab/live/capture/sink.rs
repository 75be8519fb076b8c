//! Where captured packets are written: a pcapng file or pipe, lines for people, lines of JSON for programs.

use super::{
    stream::{End, Fate, Interface, Note, Way},
    summary::Summary,
    words::time_of_day,
};
use crate::{
    cli::{LineFormat, PcapArgs},
    output::Style,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, IsTerminal, StdoutLock, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use supernet_drivers::pcap::{Direction, Packet, Writer};

/// What packets are written to.
pub(super) enum Sink {
    File(Pcapng<File>),
    Pipe(Pcapng<StdoutLock<'static>>),
    Lines(Lines),
    Json(BufWriter<StdoutLock<'static>>),
}

impl Sink {
    /// Whether it can be written as is wanted.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn check(args: &PcapArgs) -> Result<(), String> {
        if args.write.as_deref() == Some(Path::new("-")) && io::stdout().is_terminal() {
            return Err(
                "standard output is a terminal, and pcapng is not for reading: pipe it, as in `supernet lab \
                        pcap -w - | tcpdump -n -r -`, or leave -w out"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Opens it.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn open(args: &PcapArgs) -> io::Result<Self> {
        let out = || io::stdout().lock();
        Ok(match (args.write.as_deref(), args.output) {
            (Some(path), _) if path == Path::new("-") => Self::Pipe(Pcapng::new(out(), args)?),
            (Some(path), _) => Self::File(Pcapng::new(File::create(path)?, args)?),
            (None, LineFormat::Json) => Self::Json(BufWriter::new(out())),
            (None, LineFormat::Text) => Self::Lines(Lines::new(out())),
        })
    }

    /// A port.
    pub(super) fn interface(&mut self, interface: &Interface) -> io::Result<()> {
        match self {
            Self::File(file) => file.interface(interface),
            Self::Pipe(pipe) => pipe.interface(interface),
            Self::Lines(lines) => {
                lines.widen(&interface.name);
                Ok(())
            }
            Self::Json(_) => Ok(()),
        }
    }

    /// A packet that passed it.
    pub(super) fn packet(&mut self, note: &Note, data: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.packet(note, data),
            Self::Pipe(pipe) => pipe.packet(note, data),
            Self::Lines(lines) => lines.packet(note, data),
            Self::Json(out) => {
                let line = JsonLine { note, summary: Summary::of(data, note.length), text: note.sentence() };
                serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
                out.write_all(b"\n")
            }
        }
    }

    /// Has everything be seen.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.writer.flush(),
            Self::Pipe(pipe) => pipe.writer.flush(),
            Self::Lines(lines) => lines.out.flush(),
            Self::Json(out) => out.flush(),
        }
    }

    /// The last of it.
    pub(super) fn end(&mut self, end: Option<&End>) -> io::Result<()> {
        match (&mut *self, end) {
            (Self::File(file), Some(end)) => file.statistics(end)?,
            (Self::Pipe(pipe), Some(end)) => pipe.statistics(end)?,
            _ => {}
        }
        self.flush()
    }

    /// What tells that nobody reads any more, if that can be told.
    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::File(_) => None,
            Self::Pipe(pipe) => Some(pipe.writer.get_ref().get_ref().as_fd()),
            Self::Lines(lines) => Some(lines.out.get_ref().as_fd()),
            Self::Json(out) => Some(out.get_ref().as_fd()),
        }
    }
}

/// A packet, as programs read it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonLine<'a> {
    #[serde(flatten)]
    note: &'a Note,
    #[serde(flatten)]
    summary: Summary,
    text: String,
}

/// A pcapng file or pipe.
pub(super) struct Pcapng<W: Write> {
    writer: Writer<BufWriter<W>>,
    interfaces: BTreeMap<String, u32>,
    snaplen: u32,
}

impl<W: Write> Pcapng<W> {
    fn new(out: W, args: &PcapArgs) -> io::Result<Self> {
        let application = concat!("supernet ", env!("CARGO_PKG_VERSION"));
        let writer = Writer::new(BufWriter::with_capacity(1 << 16, out), Some(application))?;
        Ok(Self { writer, interfaces: BTreeMap::new(), snaplen: args.snaplen.unwrap_or(0) })
    }

    fn interface(&mut self, interface: &Interface) -> io::Result<()> {
        let Interface { name, description } = interface;
        if !self.interfaces.contains_key(name) {
            let number = self.writer.interface(name, description, self.snaplen)?;
            self.interfaces.insert(name.clone(), number);
        }
        Ok(())
    }

    fn packet(&mut self, note: &Note, data: &[u8]) -> io::Result<()> {
        let Some(&interface) = self.interfaces.get(&note.port) else {
            // The lab tells of each before its first packet.
            return Err(io::Error::other(format!("a packet of a port that is not known: {}", note.port)));
        };
        self.writer.packet(&Packet {
            interface,
            at: Duration::from_micros(note.time_micros),
            direction: match note.direction {
                Way::In => Direction::In,
                Way::Out => Direction::Out,
            },
            data,
            len: note.length,
            comment: &note.comment(),
        })
    }

    fn statistics(&mut self, end: &End) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for (name, number) in &self.interfaces {
            let count = end.ports.get(name).copied().unwrap_or_default();
            self.writer.statistics(*number, now, count.recorded + count.missed, count.missed)?;
        }
        Ok(())
    }
}

/// Lines for people.
pub(super) struct Lines {
    out: BufWriter<StdoutLock<'static>>,
    style: Style,
    /// Letters of the longest port's name.
    width: usize,
}

/// Names of ports that are longer push their lines to the right.
const WIDEST: usize = 32;

impl Lines {
    fn new(out: StdoutLock<'static>) -> Self {
        Self { out: BufWriter::new(out), style: Style::detect(), width: 0 }
    }

    fn widen(&mut self, name: &str) {
        self.width = self.width.max(name.len()).min(WIDEST);
    }

    fn packet(&mut self, note: &Note, data: &[u8]) -> io::Result<()> {
        let line = line(note, &Summary::of(data, note.length), self.width, self.style);
        self.out.write_all(line.as_bytes())
    }
}

fn line(note: &Note, summary: &Summary, width: usize, style: Style) -> String {
    let way = match note.direction {
        Way::In => "in ",
        Way::Out => "out",
    };
    let sentence = note.sentence();
    let sentence = match note.verdict {
        Fate::Dropped | Fate::Refused => style.red(&sentence),
        Fate::Forwarded | Fate::Answered => style.green(&sentence),
        Fate::Consumed | Fate::Held | Fate::Sent => style.dim(&sentence),
    };
    let time = style.dim(&time_of_day(note.time_micros));
    format!("{time}  {:width$}  {way}  {}  {sentence}\n", note.port, summary.summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_port_way_ends_and_verdict() {
        let note = Note {
            time_micros: 1_790_000_000_123_456,
            port: "shop/web".to_owned(),
            to: vec!["shop/db".to_owned()],
            length: 60,
            ..Note::default()
        };
        let summary =
            Summary { summary: "10.0.0.2:5 > 10.0.0.3:80 TCP [S] 0".to_owned(), ..Summary::default() };
        assert_eq!(
            line(&note, &summary, 10, Style::PLAIN),
            "14:13:20.123456  shop/web    in   10.0.0.2:5 > 10.0.0.3:80 TCP [S] 0  to shop/db\n"
        );
    }
}
