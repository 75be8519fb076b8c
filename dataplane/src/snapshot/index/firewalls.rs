//! The firewalls of all ports, their cells one after the other.

use crate::{
    id::{IdentityId, RuleId},
    table::{
        classifier::{Action, Decision, RuleSet, Shape},
        firewall::Firewall,
    },
    wire::Proto,
};
use foldhash::HashMap;
use std::{num::NonZeroU32, sync::Arc};

/// What all firewalls decide.
#[derive(Clone, Default)]
pub(super) struct Firewalls {
    shapes: Vec<Arc<Shape>>,
    cells: Vec<Option<Decision>>,
    /// The layers of firewalls that have several, one firewall after the other. The last of each always decides.
    layers: Vec<Layer>,
}

/// A firewall: its only layer; or [`SEVERAL`], and where its layers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FirewallAt(Layer);

/// A layer, by where its shape and its cells are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Layer {
    /// From 1 on, so that having none takes no room.
    shape: NonZeroU32,
    cells: u32,
}

/// In place of a shape: there are several layers, and `cells` is where the first stands among all layers.
const SEVERAL: NonZeroU32 = NonZeroU32::MAX;

/// Never met: the last layer always decides. Were it not so, nothing would pass.
const NOBODY: Decision = Decision { rule: RuleId(u32::MAX), action: Action::Drop };

impl Firewalls {
    /// What a firewall decides for a connection with a peer of this identity.
    #[inline]
    pub(super) fn decide(
        &self,
        FirewallAt(at): FirewallAt,
        peer: IdentityId,
        proto: Proto,
        port: u16,
    ) -> Decision {
        let decision = if at.shape == SEVERAL {
            self.layers[at.cells as usize..].iter().find_map(|layer| self.ask(layer, peer, proto, port))
        } else {
            self.ask(&at, peer, proto, port)
        };
        decision.unwrap_or(NOBODY)
    }

    #[inline]
    fn ask(&self, layer: &Layer, peer: IdentityId, proto: Proto, port: u16) -> Option<Decision> {
        let cell = self.shapes[layer.shape.get() as usize - 1].cell(peer, proto, port);
        self.cells[layer.cells as usize + cell]
    }
}

/// Lays firewalls out, every part of them once.
#[derive(Default)]
pub(super) struct Builder {
    laid: Firewalls,
    known: HashMap<*const Firewall, FirewallAt>,
    /// By rule set and, if it is the last, by what is decided where it says nothing.
    layers: HashMap<(*const RuleSet, Option<Decision>), Layer>,
    shapes: HashMap<*const Shape, NonZeroU32>,
    several: HashMap<Vec<Layer>, u32>,
    /// Stands where a firewall has no layers.
    nothing: Option<Arc<RuleSet>>,
}

impl Builder {
    /// Where a firewall lies.
    pub(super) fn add(&mut self, firewall: &Arc<Firewall>) -> FirewallAt {
        if let Some(at) = self.known.get(&Arc::as_ptr(firewall)) {
            return *at;
        }
        let nothing = self.nothing.get_or_insert_with(|| Arc::new(RuleSet::new(Vec::new()))).clone();
        let default = Some(firewall.default_decision());
        let at = match firewall.layers() {
            [] => self.layer(&nothing, default),
            [only] => self.layer(only, default),
            [first @ .., last] => {
                let mut layers: Vec<Layer> = first.iter().map(|set| self.layer(set, None)).collect();
                layers.push(self.layer(last, default));
                let all = &mut self.laid.layers;
                let at = *self.several.entry(layers).or_insert_with_key(|layers| {
                    all.extend(layers);
                    (all.len() - layers.len()) as u32
                });
                Layer { shape: SEVERAL, cells: at }
            }
        };
        self.known.insert(Arc::as_ptr(firewall), FirewallAt(at));
        FirewallAt(at)
    }

    fn layer(&mut self, set: &Arc<RuleSet>, default: Option<Decision>) -> Layer {
        let Self { laid, shapes, .. } = self;
        *self.layers.entry((Arc::as_ptr(set), default)).or_insert_with(|| {
            let (shape, cells) = set.compiled();
            let at = laid.cells.len() as u32;
            laid.cells.extend(cells.iter().map(|cell| cell.or(default)));
            let shape = *shapes.entry(Arc::as_ptr(shape)).or_insert_with(|| {
                laid.shapes.push(shape.clone());
                NonZeroU32::MIN.saturating_add(laid.shapes.len() as u32 - 1)
            });
            Layer { shape, cells: at }
        })
    }

    /// All of them.
    pub(super) fn finish(self) -> Firewalls {
        self.laid
    }
}
