//! Where every pod is: its node, its segment and its addresses.
//!
//! This resolves what the model leaves open. Host-networked pods get their node's addresses, and pods that name
//! no node are dealt out to the nodes in turn. Policy and the compiler read the result instead of deciding the
//! same thing again.

use crate::{
    intern::Interner,
    ipam::Addressing,
    model::{Model, Name, Pod, Position},
};
use std::{collections::BTreeMap, net::IpAddr};

/// The place of every pod of a model.
#[derive(Debug, Clone)]
pub struct Places<'a> {
    /// By the pods' names.
    pub pods: BTreeMap<&'a Name, Place<'a>>,
}

/// The place of one pod.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its node; `None` only where there are no nodes at all.
    pub node: Option<&'a str>,
    /// The name of its segment; `None`: it uses its node's network.
    pub segment: Option<&'a str>,
    /// Its addresses, primary first; its node's when it uses that one's network.
    pub addresses: &'a [IpAddr],
}

/// A pod that has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The pod names a node that is not there.
    #[error(
        "{at}: pod {pod} runs on node {node}, which does not exist; declare the node or correct the name"
    )]
    UnknownNode {
        /// The pod.
        pod: Name,
        /// The node it names.
        node: String,
        /// Where it names it.
        at: Position,
    },
    /// The pod uses its node's network, but there is no node.
    #[error("{at}: pod {pod} uses its node's network, but there is no node; declare one")]
    NoNode {
        /// The pod.
        pod: Name,
        /// Where it was written.
        at: Position,
    },
    /// The pod was not given addresses.
    #[error("{at}: pod {pod} has no address; assign addresses to this model before compiling it")]
    NoAddress {
        /// The pod.
        pod: Name,
        /// Where it was written.
        at: Position,
    },
}

impl<'a> Places<'a> {
    /// Finds the place of every pod.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub fn of(
        model: &'a Model,
        addressing: &'a Addressing,
        interner: &mut Interner,
    ) -> Result<Self, PlaceError> {
        let nodes: Vec<(&str, &[IpAddr])> =
            addressing.nodes.iter().map(|(name, addresses)| (&**name, &**addresses)).collect();
        let mut pods = BTreeMap::new();
        for pod in model.pods.values() {
            let node = match &pod.node {
                Some(wanted) => {
                    let found = nodes.iter().find(|(name, _)| *name == wanted.value);
                    Some(*found.ok_or_else(|| PlaceError::UnknownNode {
                        pod: pod.name.clone(),
                        node: wanted.value.clone(),
                        at: if wanted.at == Position::default() { pod.at.clone() } else { wanted.at.clone() },
                    })?)
                }
                None if nodes.is_empty() => None,
                None => Some(nodes[interner.turn(&pod.name) as usize % nodes.len()]),
            };
            let (segment, addresses) = if pod.host_network {
                let missing = || PlaceError::NoNode { pod: pod.name.clone(), at: pod.at.clone() };
                (None, node.ok_or_else(missing)?.1)
            } else {
                let missing = || PlaceError::NoAddress { pod: pod.name.clone(), at: pod.at.clone() };
                let given = addressing.pods.get(&pod.name).ok_or_else(missing)?;
                (Some(&*given.segment), &*given.addresses)
            };
            pods.insert(&pod.name, Place { pod, node: node.map(|(name, _)| name), segment, addresses });
        }
        Ok(Self { pods })
    }
}
