//! What is said on a capture's connection, once it has begun: a line of JSON for each item, and after that of a packet
//! the packet's bytes.
//!
//! ```text
//!   {"interface":{"name":"shop/web-0","description":"..."}}
//!   {"packet":{"timeMicros":1790000000000000,"port":"shop/web-0","direction":"in",...,"length":1514,"bytes":96}}
//!   ...96 bytes...
//!   {"end":{"ports":{"shop/web-0":{"recorded":1,"missed":0}},"labEnds":false}}
//! ```

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io};

/// The longest line, bytes; and the longest packet.
const LINE_MAX: usize = 1 << 20;
const PACKET_MAX: usize = 1 << 20;

/// One thing that is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Item {
    /// A port that there was not before.
    Interface(Interface),
    /// A packet; its bytes follow.
    Packet(Note),
    /// The last one.
    End(End),
}

/// A port of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Interface {
    /// As `lab status` has it: "shop/web-0".
    pub(crate) name: String,
    /// The device on the other side.
    pub(crate) description: String,
}

/// What is known of a packet beside its bytes. Ports, rules and servers by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Note {
    /// Microseconds since 1970.
    pub(super) time_micros: u64,
    pub(super) port: String,
    pub(super) direction: Way,
    pub(super) verdict: Fate,
    /// Where it goes on to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) to: Vec<String>,
    /// Where it came in, if it leaves and the network did not make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
    /// Why it was dropped, as counters call it: "IngressDenied".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) meaning: Option<String>,
    /// The port whose firewall denied it, or that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dropped_at: Option<String>,
    /// The rules that denied it, or allowed its connection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) rules: Vec<String>,
    /// The virtual server of its connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<String>,
    /// The stages that have to do with it.
    pub(super) stages: Vec<String>,
    /// It had come in before, or is a piece of what came in.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) late: bool,
    /// Its sender has left the checksum undone, which is done here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) checksum_undone: bool,
    /// Bytes of payload that each segment is to have, if its sender has left segmentation undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) segment_bytes: Option<u16>,
    /// Bytes of the frame.
    pub(super) length: u32,
    /// Bytes of it that are here.
    pub(super) bytes: u32,
}

fn is_false(b: &bool) -> bool {
    !b
}

/// Which way, as the network sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Way {
    #[default]
    In,
    Out,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Fate {
    #[default]
    Forwarded,
    /// Dropped, and its sender is told.
    Refused,
    Dropped,
    /// It was read, and needs no answer; counted as dropped.
    Consumed,
    Answered,
    Held,
    Sent,
}

/// How a capture ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct End {
    /// What there was, by port.
    pub(super) ports: BTreeMap<String, Count>,
    /// The lab ends.
    pub(super) lab_ends: bool,
}

/// Packets of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Count {
    pub(super) recorded: u64,
    /// Those that came faster than they were read.
    pub(super) missed: u64,
}

/// Appends an item, and a packet's bytes.
pub(super) fn write(item: &Item, data: &[u8], to: &mut Vec<u8>) {
    // Nothing that is said fails to be written as JSON.
    if serde_json::to_writer(&mut *to, item).is_ok() {
        to.push(b'\n');
        to.extend_from_slice(data);
    }
}

/// Takes items off bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: Vec<u8>,
    taken: usize,
}

impl Reader {
    /// Bytes that came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..std::mem::take(&mut self.taken));
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next item, and a packet's bytes. `None`: it has not come as a whole.
    ///
    /// # Errors
    /// What came is no item.
    pub(super) fn next(&mut self) -> io::Result<Option<(Item, &[u8])>> {
        let rest = &self.bytes[self.taken..];
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            return if rest.len() > LINE_MAX { Err(nonsense("a line without end")) } else { Ok(None) };
        };
        let item: Item = serde_json::from_slice(&rest[..end]).map_err(nonsense)?;
        let len = match &item {
            Item::Packet(note) => note.bytes as usize,
            _ => 0,
        };
        if len > PACKET_MAX {
            return Err(nonsense("a packet larger than there are"));
        }
        let start = self.taken + end + 1;
        if self.bytes.len() < start + len {
            return Ok(None);
        }
        self.taken = start + len;
        Ok(Some((item, &self.bytes[start..start + len])))
    }
}

fn nonsense(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_as_they_were_written_however_they_come() {
        let note = Note { port: "shop/web".to_owned(), bytes: 3, length: 60, ..Note::default() };
        let interface = Interface { name: "shop/web".to_owned(), description: "TAP\n".to_owned() };
        let items = [
            (Item::Interface(interface), &b""[..]),
            (Item::Packet(note), b"\n\n{"),
            (Item::End(End::default()), b""),
        ];
        let mut bytes = Vec::new();
        items.iter().for_each(|(item, data)| write(item, data, &mut bytes));
        for step in [1, 2, 7, bytes.len()] {
            let (mut reader, mut read) = (Reader::default(), Vec::new());
            for chunk in bytes.chunks(step) {
                reader.push(chunk);
                while let Some((item, data)) = reader.next().unwrap() {
                    read.push((item, data.to_vec()));
                }
            }
            let expected: Vec<_> = items.iter().map(|(i, d)| (i.clone(), d.to_vec())).collect();
            assert_eq!(read, expected, "{step} bytes at a time");
        }
    }

    #[test]
    fn nonsense_is_an_error_and_no_loop() {
        for bad in [&b"hello\n"[..], b"{}\n", b"\xff\n", b"{\"packet\":{}}\n"] {
            let mut reader = Reader::default();
            reader.push(bad);
            assert!(reader.next().is_err(), "{}", bad.escape_ascii());
        }
        let mut reader = Reader::default();
        reader.push(&vec![b'x'; LINE_MAX + 1]);
        assert!(reader.next().is_err());
    }
}
