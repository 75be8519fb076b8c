//! What pods and namespaces may have of connections.

use crate::{
    flow::ConnectionLimits,
    id::{NamespaceId, PortId},
};

/// Limits of pods and namespaces. What is not in them has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// Of each pod, indexed by [`PortId`].
    pub ports: Vec<ConnectionLimits>,
    /// Of each namespace, for its pods together, indexed by [`NamespaceId`].
    pub namespaces: Vec<ConnectionLimits>,
}

impl Limits {
    /// Whether nothing is limited, so that nothing needs to be counted.
    pub fn is_empty(&self) -> bool {
        self.ports.iter().chain(&self.namespaces).all(ConnectionLimits::is_none)
    }

    /// Of a pod, by its port.
    #[inline]
    pub fn of_port(&self, port: PortId) -> ConnectionLimits {
        self.ports.get(port.index()).copied().unwrap_or_default()
    }

    /// Of a namespace.
    #[inline]
    pub fn of_namespace(&self, namespace: NamespaceId) -> ConnectionLimits {
        self.namespaces.get(namespace.index()).copied().unwrap_or_default()
    }

    /// Sets those of a pod.
    pub fn set_port(&mut self, port: PortId, limits: ConnectionLimits) {
        set(&mut self.ports, port.index(), limits);
    }

    /// Sets those of a namespace.
    pub fn set_namespace(&mut self, namespace: NamespaceId, limits: ConnectionLimits) {
        set(&mut self.namespaces, namespace.index(), limits);
    }
}

/// Tables end with something that is limited, so that equal limits are equal tables.
fn set(table: &mut Vec<ConnectionLimits>, at: usize, limits: ConnectionLimits) {
    if at >= table.len() && !limits.is_none() {
        table.resize(at + 1, ConnectionLimits::NONE);
    }
    if let Some(row) = table.get_mut(at) {
        *row = limits;
    }
    while table.last().is_some_and(ConnectionLimits::is_none) {
        table.pop();
    }
}
