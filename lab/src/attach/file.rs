//! The topology file: who hangs on which TAP, and what the network between them is to do.
//!
//! Written by other harnesses, so it is read with patience: what may be one thing may be a list, words are taken in
//! either case, and what is not known is told and left out. What cannot be understood is an error with its place.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};
use supernet_dataplane::wire::{Mac, Proto};

/// Why a topology file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}:{}:{}: {}", path.display(), source.line(), source.column(), without_place(source))]
    Malformed { path: PathBuf, source: serde_json::Error },
}

/// What is wrong; the library says where in its own words.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).map_or(text.clone(), str::to_owned)
}

/// A topology.
#[derive(Debug, Deserialize)]
pub(crate) struct File {
    /// Who hangs on which TAP.
    pub(crate) ports: Vec<Port>,
    /// Their segments, by name.
    pub(crate) segments: BTreeMap<String, Segment>,
    /// Virtual servers.
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) services: Vec<Service>,
    /// The firewall, first match first.
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) rules: Vec<Rule>,
    /// What happens to connections that no rule matches; allowed if left out.
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) default: Action,
    /// Destinations that are never translated for.
    #[serde(default, deserialize_with = "nets")]
    pub(crate) snat_exempt: Vec<IpNet>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Port {
    pub(crate) tap: String,
    /// Its name; that of the TAP if left out.
    #[serde(default)]
    pod: Option<String>,
    pub(crate) segment: String,
    #[serde(deserialize_with = "addresses")]
    pub(crate) ip: Vec<IpAddr>,
    /// The MAC that the interface has, or is given.
    #[serde(default, deserialize_with = "mac")]
    pub(crate) mac: Option<Mac>,
    #[serde(default)]
    pub(crate) mtu: Option<u16>,
}

impl Port {
    pub(crate) fn name(&self) -> &str {
        self.pod.as_deref().unwrap_or(&self.tap)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Segment {
    #[serde(deserialize_with = "nets")]
    pub(crate) cidr: Vec<IpNet>,
    /// The gateway; the first address of the range if left out.
    #[serde(default, alias = "gateway", deserialize_with = "addresses")]
    pub(crate) gw: Vec<IpAddr>,
    #[serde(default, deserialize_with = "mac")]
    pub(crate) gw_mac: Option<Mac>,
    /// The address that its pods have outside. A segment without one, to which translation applies, is outside.
    #[serde(default, deserialize_with = "addresses")]
    pub(crate) egress: Vec<IpAddr>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    pub(crate) vip: IpAddr,
    pub(crate) port: u16,
    /// The port of backends that name none; that of the service if left out.
    #[serde(default)]
    pub(crate) target_port: Option<u16>,
    #[serde(default, deserialize_with = "protocols")]
    pub(crate) proto: Vec<Proto>,
    #[serde(default, deserialize_with = "backends")]
    pub(crate) backends: Vec<Backend>,
    /// Clients stay with their backend.
    #[serde(default, deserialize_with = "affinity")]
    pub(crate) affinity: bool,
}

/// A member of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) ip: IpAddr,
    pub(crate) port: Option<u16>,
}

/// A field that is not known, or an action that is not there, is an error here and not a warning: the rule would be
/// another one, and mostly a wider one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// Empty: every address.
    #[serde(default, deserialize_with = "nets")]
    pub(crate) src: Vec<IpNet>,
    #[serde(default, deserialize_with = "nets")]
    pub(crate) dst: Vec<IpNet>,
    /// Empty: every protocol.
    #[serde(default, deserialize_with = "protocols")]
    pub(crate) proto: Vec<Proto>,
    /// Empty: every port.
    #[serde(default, deserialize_with = "ports")]
    pub(crate) dport: Vec<RangeInclusive<u16>>,
    pub(crate) action: Action,
    #[serde(default, rename = "name")]
    _name: ForPeople,
    #[serde(default, rename = "comment")]
    _comment: ForPeople,
    #[serde(default, rename = "description")]
    _description: ForPeople,
    #[serde(default, rename = "id")]
    _id: ForPeople,
}

/// Anything at all. Unlike [`serde::de::IgnoredAny`] it is known, so nobody is told that it is left out.
#[derive(Debug, Default)]
struct ForPeople;

impl<'d> Deserialize<'d> for ForPeople {
    fn deserialize<D: Deserializer<'d>>(d: D) -> Result<Self, D::Error> {
        serde_json::Value::deserialize(d).map(|_| Self)
    }
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "Verdict")]
pub(crate) struct Action {
    pub(crate) denies: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    #[serde(alias = "ALLOW", alias = "Allow", alias = "accept", alias = "ACCEPT", alias = "pass")]
    Allow,
    #[serde(alias = "DENY", alias = "Deny", alias = "drop", alias = "DROP", alias = "Drop")]
    #[serde(alias = "reject", alias = "REJECT", alias = "block")]
    Deny,
}

impl From<Verdict> for Action {
    fn from(verdict: Verdict) -> Self {
        Self { denies: matches!(verdict, Verdict::Deny) }
    }
}

impl File {
    /// Reads a topology; with the names of fields that are left out, as "rules.3.dports".
    ///
    /// # Errors
    /// See [`FileError`].
    pub(crate) fn read(path: &Path) -> Result<(Self, Vec<String>), FileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
        let malformed = |source| FileError::Malformed { path: path.to_owned(), source };
        let mut json = serde_json::Deserializer::from_str(&text);
        let mut unknown = Vec::new();
        let file = serde_ignored::deserialize(&mut json, |field| {
            // A question mark stands for what may be null.
            unknown.push(field.to_string().replace(".?", ""));
        });
        let file = file.map_err(malformed)?;
        json.end().map_err(malformed)?;
        Ok((file, unknown))
    }
}

/// Nothing, one, or several; `null` is nothing.
#[derive(Deserialize)]
#[serde(untagged)]
enum Some0<T> {
    Many(Vec<T>),
    One(T),
    None(()),
}

impl<T> Some0<T> {
    fn all(self) -> Vec<T> {
        match self {
            Self::Many(all) => all,
            Self::One(one) => vec![one],
            Self::None(()) => Vec::new(),
        }
    }
}

/// A number or a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Number(u16),
    Text(String),
}

/// Words that mean "all of them".
fn means_all(text: &str) -> bool {
    ["", "any", "all", "*"].contains(&text.to_ascii_lowercase().as_str())
}

fn or_default<'d, D: Deserializer<'d>, T: Default + Deserialize<'d>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

fn words<'d, D: Deserializer<'d>>(d: D, expected: &str) -> Result<Vec<Word>, D::Error> {
    Some0::deserialize(d).map(Some0::all).map_err(|_| D::Error::custom(format!("expected {expected}")))
}

fn texts<'d, D: Deserializer<'d>>(d: D, expected: &str) -> Result<Vec<String>, D::Error> {
    let text = |word| match word {
        Word::Text(text) => Ok(text.trim().to_owned()),
        Word::Number(n) => Err(D::Error::custom(format!("`{n}` is no {expected}"))),
    };
    words(d, expected)?.into_iter().map(text).collect()
}

fn nets<'d, D: Deserializer<'d>>(d: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = texts(d, "CIDR")?;
    if texts.iter().any(|text| means_all(text)) {
        return Ok(Vec::new());
    }
    let net = |text: &String| {
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        net.map(|net| net.trunc())
            .ok_or_else(|| D::Error::custom(format!("`{text}` is no CIDR; write one like 10.1.0.0/24")))
    };
    texts.iter().map(net).collect()
}

/// Addresses; with a prefix's length or without.
fn addresses<'d, D: Deserializer<'d>>(d: D) -> Result<Vec<IpAddr>, D::Error> {
    let address = |text: String| {
        let with_length = || text.parse::<IpNet>().ok().map(|net| net.addr());
        let address = text.parse().ok().or_else(with_length);
        address.ok_or_else(|| D::Error::custom(format!("`{text}` is no IP address")))
    };
    texts(d, "IP address")?.into_iter().filter(|text| !text.is_empty()).map(address).collect()
}

fn mac<'d, D: Deserializer<'d>>(d: D) -> Result<Option<Mac>, D::Error> {
    let Some(text) = Option::<String>::deserialize(d)?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let mac = text.to_ascii_lowercase().parse::<Mac>().ok().filter(|mac| !mac.is_multicast());
    mac.map(Some).ok_or_else(|| D::Error::custom(format!("`{text}` is not the MAC address of one interface")))
}

fn protocols<'d, D: Deserializer<'d>>(d: D) -> Result<Vec<Proto>, D::Error> {
    let mut protocols = Vec::new();
    for word in words(d, "protocol")? {
        match word {
            Word::Number(n) => protocols.push(Proto(u8::try_from(n).map_err(D::Error::custom)?)),
            Word::Text(text) => match text.to_ascii_lowercase().as_str() {
                "tcp" => protocols.push(Proto::TCP),
                "udp" => protocols.push(Proto::UDP),
                "sctp" => protocols.push(Proto::SCTP),
                // Of either family.
                "icmp" => protocols.extend([Proto::ICMP, Proto::ICMPV6]),
                "icmpv6" | "icmp6" => protocols.push(Proto::ICMPV6),
                all if means_all(all) => return Ok(Vec::new()),
                _ => {
                    return Err(D::Error::custom(format!(
                        "`{text}` is no protocol; use tcp, udp, sctp, icmp or any"
                    )));
                }
            },
        }
    }
    Ok(protocols)
}

fn ports<'d, D: Deserializer<'d>>(d: D) -> Result<Vec<RangeInclusive<u16>>, D::Error> {
    let mut ports = Vec::new();
    for word in words(d, "port")? {
        match word {
            Word::Number(0) => return Ok(Vec::new()),
            Word::Number(port) => ports.push(port..=port),
            Word::Text(text) if means_all(&text) => return Ok(Vec::new()),
            Word::Text(text) => {
                let (from, to) = text.split_once(['-', ':']).unwrap_or((&text, &text));
                let range = from.trim().parse().ok().zip(to.trim().parse().ok());
                let range = range.filter(|(from, to)| from <= to);
                let (from, to) = range.ok_or_else(|| {
                    D::Error::custom(format!("`{text}` is no port, nor a range like 80-90"))
                })?;
                ports.push(from..=to);
            }
        }
    }
    Ok(ports)
}

fn backends<'d, D: Deserializer<'d>>(d: D) -> Result<Vec<Backend>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Fields {
            #[serde(alias = "address")]
            ip: IpAddr,
            #[serde(default, alias = "target_port")]
            port: Option<u16>,
        },
    }
    let backend = |written| match written {
        Written::Fields { ip, port } => Ok(Backend { ip, port }),
        Written::Text(text) => {
            let alone = || text.parse().ok().map(|ip| Backend { ip, port: None });
            let at = text.parse::<SocketAddr>().ok().map(|at| Backend { ip: at.ip(), port: Some(at.port()) });
            at.or_else(alone)
                .ok_or_else(|| D::Error::custom(format!("`{text}` is no backend; write IP or IP:PORT")))
        }
    };
    let all: Option<Vec<Written>> = Option::deserialize(d)?;
    all.unwrap_or_default().into_iter().map(backend).collect()
}

/// `true`, a number of seconds, or Kubernetes' word for it.
fn affinity<'d, D: Deserializer<'d>>(d: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Flag(bool),
        Seconds(f64),
        Text(String),
        Other(serde_json::Value),
    }
    match Written::deserialize(d)? {
        Written::Flag(flag) => Ok(flag),
        Written::Seconds(seconds) => Ok(seconds > 0.0),
        Written::Text(text) => match text.to_ascii_lowercase().as_str() {
            "" | "none" => Ok(false),
            "clientip" | "client_ip" | "client-ip" | "client" | "source" => Ok(true),
            _ => Err(D::Error::custom(format!("`{text}` is no affinity; use ClientIP or None"))),
        },
        Written::Other(value) => Ok(!value.is_null()),
    }
}
