//! Names in a lab, as a cluster has them: a Service `kube-system/kube-dns` with a pod behind it, whose port 53 the lab
//! itself answers in that pod's network namespace.
//!
//! ```text
//!   objects   what is missing of Service, pod and policy is added to the network, after everybody has an address
//!   fill      model, addresses ─▶ Zone          a new one with every change, handed to the responder's thread whole
//!   zone      name ─▶ its records, or that it does not exist
//!   answer    bytes of a query, Zone ─▶ bytes of the answer
//!   stream    messages of a TCP connection
//!   ask       who answers? (`lab selftest`)
//!   resolv    resolv.conf of every pod, which `lab exec` puts in its place
//! ```
//!
//! Queries are packets of the network like others: a policy that keeps a pod from the DNS pod's port 53 keeps it from
//! names. The sockets are the responder's (`lab/responder`), which bounds connections and time.

mod answer;
mod ask;
mod fill;
mod objects;
mod resolv;
mod stream;
#[cfg(test)]
mod tests;
mod zone;

pub(super) use answer::{Asked, answer};
pub(super) use ask::{said, who};
pub(super) use objects::Dns;
pub(super) use resolv::hosts_by_dns;
pub(super) use stream::{Frames, frame};
pub(super) use zone::Zone;

use std::{collections::BTreeMap, sync::Arc};

/// Names as a lab's hosts need them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// What is answered.
    pub(super) zone: Arc<Zone>,
    /// The resolv.conf of everything that can be entered, by its name.
    pub(super) resolv: BTreeMap<String, String>,
}
