//! What a flow log says, by name: one object of JSON each.

use crate::dataplane::{flowlog, flowlog::FlowCounts};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What happened to a connection, or to the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum Flow {
    /// One was made.
    #[serde(rename = "start")]
    Started(Connection),
    /// One was forgotten.
    #[serde(rename = "end")]
    Ended(Ended),
    /// One was not let in, or is denied from now on.
    #[serde(rename = "denied")]
    Denied(Denied),
    /// Some could not be logged.
    #[serde(rename = "missed")]
    Missed(Missed),
}

impl Flow {
    /// The connection, if it is of one.
    pub fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Started(connection) => Some(connection),
            Self::Ended(ended) => Some(&ended.connection),
            Self::Denied(denied) => Some(&denied.connection),
            Self::Missed(_) => None,
        }
    }
}

/// A connection at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// When: microseconds since 1970, or since the origin of the embedder's own clock.
    pub time_micros: u64,
    /// The same in all that is said of it: 16 hexadecimal digits.
    pub id: String,
    /// "TCP", "UDP", "SCTP", "ICMP" or "ICMPv6".
    pub protocol: String,
    /// Who opened it, as it came in.
    pub source: Place,
    /// Where to, as it came in: of a Service, its address.
    pub destination: Place,
    /// What the source became, if it was translated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_source: Option<Place>,
    /// What the destination became, if it was translated: a member of the virtual server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_destination: Option<Place>,
    /// The virtual server: "shop/web:80/TCP".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The rule that decided where it leaves its source: `shop/allow-dns egress[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_rule: Option<String>,
    /// The rule that decided in front of its destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_rule: Option<String>,
    /// The labels that these rules give their log records (`logLabel` of a SecurityPolicy's rules).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

impl Connection {
    /// Where it really goes: behind a virtual server, its member.
    pub fn reached(&self) -> &Place {
        self.translated_destination.as_ref().unwrap_or(&self.destination)
    }
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Whose port it is, as far as that is known: "shop/web-0", "node/node-1", "uplink/leaf-a".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address.
    pub address: IpAddr,
    /// The port; of an ICMP echo, its identifier at the source, and 0 at the destination.
    pub port: u16,
}

/// The end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Which.
    #[serde(flatten)]
    pub connection: Connection,
    /// Why: "closed", "reset", "expired", "gone" or "gaveWay".
    pub reason: String,
    /// From its first packet to its last, in steps of 65.536 ms.
    pub duration_micros: u64,
    /// What went from source to destination.
    pub forward: Carried,
    /// What came back.
    pub reverse: Carried,
}

/// What went one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Carried {
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

impl From<flowlog::Carried> for Carried {
    fn from(carried: flowlog::Carried) -> Self {
        Self { packets: carried.packets, bytes: carried.bytes }
    }
}

/// A connection that was not let in, or is denied from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denied {
    /// Which; its rule is the one that denies it.
    #[serde(flatten)]
    pub connection: Connection,
    /// Why, as counters call it: "IngressDenied".
    pub reason: String,
    /// The same in words.
    pub meaning: String,
    /// It had begun, and has no end yet: a change of policies denies it.
    pub lives: bool,
}

/// What could not be logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Missed {
    /// When that was found out, as in [`Connection::time_micros`].
    pub time_micros: u64,
    /// Records for which there was no room, but for those of the next.
    pub missed: u64,
    /// Connections that were not let in, for which there was no room. Who tries again is counted again.
    pub missed_denied: u64,
    /// Packets of connections that had been told of as denied within the last minute.
    pub repeated: u64,
}

impl Missed {
    pub(super) fn of(counts: FlowCounts, time_micros: u64) -> Self {
        let FlowCounts { missed, missed_denied, repeated, .. } = counts;
        Self { time_micros, missed, missed_denied, repeated }
    }
}
