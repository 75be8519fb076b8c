//! What is said on a lab's socket: a request of one line of JSON, and an answer of one line.
//!
//! ```text
//!   {"version":3,"ask":"status"}
//!   {"version":3,"ask":{"apply":{"files":[{"name":"shop.yaml","text":"..."}],"prune":false,"noServe":[],"dryRun":true}}}
//!   {"version":3,"answer":{"error":"shop.yaml:3:7: ..."}}
//! ```
//!
//! Whoever reads looks at the version first, so that two programs of different versions say so to each other.

use super::{capture::Interface, change::Changes, rules::Rules, status::Status};
use crate::lab::selftest::{Denier, Facts, Question};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use supernet::control::manifests::Text;

/// The version of requests and answers. Any change of either is another version.
pub(crate) const VERSION: u32 = 3;

/// The longest request, bytes: as much as manifests may have.
pub(crate) const REQUEST_MAX: usize = 64 << 20;

/// What a lab is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Ask {
    /// How it is.
    Status,
    /// To have these objects.
    Apply(Apply),
    /// Not to have these objects.
    Delete(Delete),
    /// What it is made of and what is predicted of it.
    Facts,
    /// What denies these connections.
    Explain(Vec<Question>),
    /// To tell of packets from now on, on this connection.
    Capture(Capture),
    /// To tell of connections, on this connection.
    Flows(Flows),
    /// What its firewall's rules have decided.
    Rules,
}

/// Connections to be told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Flows {
    /// Whose: of a namespace, a host, a workload or the outside; `None`: all.
    pub(crate) of: Option<String>,
    /// Also those to come.
    pub(crate) follow: bool,
    /// So many of those that were; `None`: all, or none if those to come are told of.
    pub(crate) last: Option<u64>,
    /// One of so many.
    pub(crate) sample: u32,
    /// Only what is denied.
    pub(crate) denied: bool,
}

/// Packets to be told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Capture {
    /// Hosts whose ports they pass; none: all.
    pub(crate) ports: Vec<String>,
    /// Only what is dropped.
    pub(crate) drops: bool,
    /// Stages that have to do with them; none: any.
    pub(crate) stages: Vec<String>,
    /// Bytes of each that are told.
    pub(crate) snaplen: Option<u32>,
}

/// Objects to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Apply {
    /// Manifests.
    pub(crate) files: Vec<File>,
    /// What is not in the files goes.
    pub(crate) prune: bool,
    /// Pods whose ports are left to servers of the user's own.
    pub(crate) no_serve: Vec<String>,
    /// Say what would happen, and change nothing.
    pub(crate) dry_run: bool,
}

/// Objects not to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Delete {
    /// Manifests of them.
    pub(crate) files: Vec<File>,
    /// Objects by kind and name.
    pub(crate) objects: Vec<Target>,
    /// Not an error: what is not there.
    pub(crate) ignore_not_found: bool,
    /// Say what would happen, and change nothing.
    pub(crate) dry_run: bool,
}

/// An object by kind, as Kubernetes has it ("Pod"), and name. The namespace is empty for kinds that have none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A manifest's text and what errors call it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl From<Text> for File {
    fn from(text: Text) -> Self {
        Self { name: text.name, text: text.text }
    }
}

/// What a lab says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Answer {
    /// How it is.
    Status(Box<Status>),
    /// What was changed, or would be.
    Changes(Changes),
    /// What it is made of and what is predicted of it.
    Facts(Box<Facts>),
    /// The policy that denies each connection, if one does.
    Explained(Vec<Option<Denier>>),
    /// The ports whose packets follow.
    Capturing(Vec<Interface>),
    /// Connections follow.
    Flowing,
    /// What its firewall's rules have decided.
    Rules(Rules),
    /// Why nothing was done.
    Error(String),
}

/// Why a line is no request or answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("not a line of the lab's protocol: {0}")]
    Nonsense(serde_json::Error),
    #[error(
        "version {theirs} of the lab's protocol is spoken there and version {VERSION} here: use the `supernet` that the \
         lab was started with, or end the lab and start it with this one"
    )]
    Version { theirs: u32 },
}

/// A request as a line.
pub(crate) fn request(ask: &Ask) -> Result<Vec<u8>, WireError> {
    line(&Request { version: VERSION, ask })
}

/// A line as a request.
pub(crate) fn read_request(line: &[u8]) -> Result<Ask, WireError> {
    check_version(line)?;
    Ok(parse::<Request<Ask>>(line)?.ask)
}

/// An answer as a line.
pub(crate) fn answer(answer: &Answer) -> Result<Vec<u8>, WireError> {
    line(&Reply { version: VERSION, answer })
}

/// A line as an answer.
pub(crate) fn read_answer(line: &[u8]) -> Result<Answer, WireError> {
    check_version(line)?;
    Ok(parse::<Reply<Answer>>(line)?.answer)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<A> {
    version: u32,
    ask: A,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply<A> {
    version: u32,
    answer: A,
}

/// Of a line of any version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

fn check_version(line: &[u8]) -> Result<(), WireError> {
    match parse::<Versioned>(line)?.version {
        VERSION => Ok(()),
        theirs => Err(WireError::Version { theirs }),
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, WireError> {
    serde_json::from_slice(line).map_err(WireError::Nonsense)
}

fn line(value: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let mut line = serde_json::to_vec(value).map_err(WireError::Nonsense)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let file = File { name: "a\n.yaml".to_owned(), text: "kind: Pod\n".to_owned() };
        let asks = [
            Ask::Status,
            Ask::Apply(Apply {
                files: vec![file.clone()],
                prune: true,
                no_serve: Vec::new(),
                dry_run: false,
            }),
            Ask::Delete(Delete {
                files: vec![file],
                objects: vec![Target {
                    kind: "Pod".to_owned(),
                    namespace: "shop".to_owned(),
                    name: "web".to_owned(),
                }],
                ignore_not_found: false,
                dry_run: true,
            }),
        ];
        for ask in asks {
            let line = request(&ask).unwrap();
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1, "one line");
            assert_eq!(read_request(&line).unwrap(), ask);
        }
        assert_eq!(request(&Ask::Status).unwrap(), b"{\"version\":3,\"ask\":\"status\"}\n");
    }

    #[test]
    fn another_version_and_nonsense_say_so() {
        let error = |line: &str| read_request(line.as_bytes()).unwrap_err().to_string();
        assert!(
            error(r#"{"version":4,"ask":{"teleport":{}}}"#).starts_with("version 4 of the lab's protocol")
        );
        for bad in
            ["", "GET / HTTP/1.1", "{}", r#"{"version":3}"#, r#"{"version":3,"ask":"status","x":1}"#, "\u{0}"]
        {
            assert!(error(bad).starts_with("not a line of the lab's protocol: "), "{bad}");
        }
        assert!(read_request(&[0xff, 0xfe]).is_err());
    }
}
