//! One compiled network, as analyses take it that look at all of it.

use crate::{
    compile::{CompileError, ServerSpec, server_specs},
    intern::Interner,
    ipam::Addressing,
    model::Model,
    place::Places,
};
use supernet_dataplane::snapshot::Snapshot;

/// A network: what is wanted, who has which address, and the snapshot compiled from both.
#[derive(Debug, Clone)]
pub struct View<'a> {
    pub(super) model: &'a Model,
    pub(super) addressing: &'a Addressing,
    pub(super) snapshot: &'a Snapshot,
    pub(super) places: Places<'a>,
    pub(super) servers: Vec<ServerSpec>,
}

impl<'a> View<'a> {
    /// Puts together what belongs together. The snapshot is one that [`Snapshot::succeed`] has finished.
    ///
    /// # Errors
    /// As [`crate::compile::compile`]; none if the snapshot is of this model.
    pub fn of(
        model: &'a Model,
        addressing: &'a Addressing,
        snapshot: &'a Snapshot,
        interner: &mut Interner,
    ) -> Result<Self, CompileError> {
        let places = Places::of(model, addressing, interner)?;
        let servers = server_specs(model, addressing, &places)?;
        Ok(Self { model, addressing, snapshot, places, servers })
    }
}
