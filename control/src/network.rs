//! One network as control holds it: what is wanted, which addresses it has, and the snapshot compiled from both.
//!
//! A [`Network`] changes in one step or not at all: a change is checked, addressed and compiled before a lease
//! is written, and leases are durable before the snapshot can be published.

use crate::{
    analysis::{
        View,
        assert::{Assertions, Report, Wrong},
        diff::Diff,
        lint::Lint,
        plan::Plan,
        reach::Reach,
        trace::{Probe, TraceError, TraceReport},
    },
    compile::{CompileError, compile},
    intern::Interner,
    ipam::{Addressing, Ipam, IpamErrors, Leases, Proposal},
    model::{Change, Model, ModelError},
    store::{StoreError, UnixSeconds},
};
use std::{collections::BTreeSet, net::IpAddr};
use supernet_dataplane::{flow::Quotas, snapshot::Snapshot};

/// Why a network could not be made or changed. Nothing was applied.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The change contradicts the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Addresses that cannot be given.
    #[error(transparent)]
    Ipam(#[from] IpamErrors),
    /// The leases could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model is no network.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The network was changed after a draft of its next state was made.
    #[error("the network was changed in the meantime; look at it again and repeat the change")]
    Outdated,
}

/// Why statements could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// They name what is not there, or speak of nobody.
    #[error(transparent)]
    Statements(#[from] Wrong),
    /// As compiling; none in practice, for what the network holds was compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// A next state of a network: checked, addressed and compiled, and not taken yet.
#[derive(Debug)]
pub struct Draft {
    model: Model,
    proposal: Proposal,
    snapshot: Snapshot,
    /// The revision of the network that it was made for.
    revision: u64,
}

impl Draft {
    /// What would be wanted.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Who would have which address.
    pub fn addressing(&self) -> &Addressing {
        self.proposal.addressing()
    }

    /// The network compiled.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

/// A network: model, addresses, snapshot.
#[derive(Debug)]
pub struct Network {
    model: Model,
    ipam: Ipam,
    interner: Interner,
    addressing: Addressing,
    snapshot: Snapshot,
    /// Counts changes.
    revision: u64,
}

impl Network {
    /// The network of a model, on from these leases.
    ///
    /// # Errors
    /// See [`NetworkError`]; no lease was written.
    pub fn new(model: Model, leases: Leases, now: UnixSeconds) -> Result<Self, NetworkError> {
        let mut network = Self {
            model: Model::default(),
            ipam: Ipam::new(leases),
            interner: Interner::default(),
            addressing: Addressing::default(),
            snapshot: Snapshot::default(),
            revision: 0,
        };
        network.become_model(model, now, &BTreeSet::new())?;
        Ok(network)
    }

    /// Takes all steps of a change or none. `busy` are addresses that living sessions use, which are given to
    /// nobody else.
    ///
    /// # Errors
    /// See [`NetworkError`]; the network is as it was.
    pub fn apply(
        &mut self,
        change: Change,
        now: UnixSeconds,
        busy: &BTreeSet<IpAddr>,
    ) -> Result<(), NetworkError> {
        let next = self.model.with(change)?;
        self.become_model(next, now, busy)
    }

    /// Takes another model's place, keeping the addresses of what stays.
    ///
    /// # Errors
    /// See [`NetworkError`]; the network is as it was.
    pub fn become_model(
        &mut self,
        model: Model,
        now: UnixSeconds,
        busy: &BTreeSet<IpAddr>,
    ) -> Result<(), NetworkError> {
        let draft = self.draft(model, now, busy)?;
        self.take(draft)
    }

    /// What this network would be as another model, keeping the addresses of what stays. Nothing is leased.
    ///
    /// # Errors
    /// See [`NetworkError`]; the model is no network.
    pub fn draft(
        &mut self,
        model: Model,
        now: UnixSeconds,
        busy: &BTreeSet<IpAddr>,
    ) -> Result<Draft, NetworkError> {
        let proposal = self.ipam.plan(&model, now, busy)?;
        let snapshot = compile(&model, proposal.addressing(), &mut self.interner)?;
        // Stamped against nothing, so that look-ups that publishing prepares work for analyses too.
        let snapshot = snapshot.succeed(&Snapshot::default());
        Ok(Draft { model, proposal, snapshot, revision: self.revision })
    }

    /// Becomes what was drafted.
    ///
    /// # Errors
    /// The network was changed since, or the leases could not be stored; the network is as it was.
    pub fn take(&mut self, draft: Draft) -> Result<(), NetworkError> {
        if draft.revision != self.revision {
            return Err(NetworkError::Outdated);
        }
        self.addressing = self.ipam.commit(draft.proposal)?;
        self.snapshot = draft.snapshot;
        self.model = draft.model;
        self.revision += 1;
        Ok(())
    }

    /// A draft as a plan.
    ///
    /// # Errors
    /// None for a draft of this network; the type is that of compiling.
    pub fn plan_of(&mut self, draft: &Draft) -> Result<Plan, CompileError> {
        Plan::of(&draft.model, draft.addressing(), &draft.snapshot, &mut self.interner)
    }

    /// What is wanted.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Who has which address.
    pub fn addressing(&self) -> &Addressing {
        &self.addressing
    }

    /// The compiled network.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What the ids of this network are called, those of objects that are gone included.
    pub fn interner(&self) -> &Interner {
        &self.interner
    }

    /// The network as a plan.
    ///
    /// # Errors
    /// None for a model that this network holds; the type is that of compiling.
    pub fn plan(&mut self) -> Result<Plan, CompileError> {
        Plan::of(&self.model, &self.addressing, &self.snapshot, &mut self.interner)
    }

    /// Who reaches whom.
    ///
    /// # Errors
    /// None for a model that this network holds; the type is that of compiling.
    pub fn reach(&mut self) -> Result<Reach, CompileError> {
        Reach::of(&self.model, &self.addressing, &self.snapshot, &mut self.interner)
    }

    /// What is odd about its policies.
    pub fn lint(&self) -> Lint {
        Lint::of(&self.model, &self.addressing, &self.snapshot)
    }

    /// What changes between this network and a draft of its next state.
    ///
    /// # Errors
    /// None for a draft of this network; the type is that of compiling.
    pub fn diff(&mut self, draft: &Draft) -> Result<Diff, CompileError> {
        let before = View::of(&self.model, &self.addressing, &self.snapshot, &mut self.interner)?;
        let after = View::of(&draft.model, draft.addressing(), &draft.snapshot, &mut self.interner)?;
        Ok(Diff::of(&before, &after))
    }

    /// Checks statements about who reaches whom.
    ///
    /// # Errors
    /// A statement names what is not there, or speaks of nobody.
    pub fn check(&mut self, assertions: &Assertions) -> Result<Report, CheckError> {
        Ok(assertions.check(&self.view()?)?)
    }

    /// This network, for analyses that look at all of it.
    ///
    /// # Errors
    /// None for a model that this network holds; the type is that of compiling.
    pub fn view(&mut self) -> Result<View<'_>, CompileError> {
        View::of(&self.model, &self.addressing, &self.snapshot, &mut self.interner)
    }

    /// What happens to a packet. `seed` is the dataplane's.
    ///
    /// # Errors
    /// The probe names what is not there.
    pub fn trace(&mut self, probe: &Probe, seed: u64) -> Result<TraceReport, TraceError> {
        let Self { model, addressing, snapshot, interner, .. } = self;
        TraceReport::of(probe, model, addressing, snapshot, interner, seed, None)
    }

    /// What happens to a packet where pods and namespaces have these connections: one that a limit refuses is dropped.
    ///
    /// # Errors
    /// The probe names what is not there.
    pub fn trace_among(
        &mut self,
        probe: &Probe,
        seed: u64,
        quotas: &Quotas,
    ) -> Result<TraceReport, TraceError> {
        let Self { model, addressing, snapshot, interner, .. } = self;
        TraceReport::of(probe, model, addressing, snapshot, interner, seed, Some(quotas))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Name, Pod};

    #[test]
    fn a_draft_changes_nothing_and_is_good_for_one_state() {
        let none = BTreeSet::new();
        let with = |model: &Model, pod: &str| {
            let mut model = model.clone();
            model.insert(Pod::new(Name::new("shop", pod)).into());
            model
        };
        let mut network = Network::new(Model::default(), Leases::memory(), UnixSeconds(0)).unwrap();
        let before = network.model().clone();
        let (web, other) = (with(&before, "web"), with(&before, "other"));
        let draft = network.draft(web.clone(), UnixSeconds(0), &none).unwrap();
        let late = network.draft(other, UnixSeconds(0), &none).unwrap();
        assert_eq!(draft.addressing().pods.len(), 1);
        assert_eq!(network.plan_of(&draft).unwrap().pods.len(), 1);
        assert!(network.model() == &before && network.addressing().pods.is_empty(), "nothing was taken");
        network.take(draft).unwrap();
        assert!(network.model() == &web && network.addressing().pods.len() == 1);
        assert!(matches!(network.take(late), Err(NetworkError::Outdated)));
        assert_eq!(network.model(), &web);
    }

    #[test]
    fn an_address_set_that_a_rule_refers_to_stays() {
        let text = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: supernet.dev/v1alpha1
kind: AddressSet
metadata: {name: scanners}
spec: {addresses: [203.0.113.0/24]}
---
apiVersion: supernet.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: edge}
spec:
  category: Emergency
  rules:
  - {action: ALLOW, direction: IN, sources: [{addressSet: scanners}], sourcesExcluded: true}
";
        use crate::{fixture::endpoint, model::ObjectKind};
        use supernet_dataplane::wire::Proto;
        let model = crate::manifests::read_str("edge.yaml", text).unwrap().model;
        let mut network = Network::new(model, Leases::memory(), UnixSeconds(0)).unwrap();
        let scanner: IpAddr = "203.0.113.7".parse().unwrap();
        let lets_in = |network: &Network| {
            let snapshot = network.snapshot();
            let web = network.addressing().pods[&Name::new("shop", "web")].addresses[0];
            let firewall = endpoint(snapshot, web).unwrap().ingress.clone().unwrap();
            firewall.decide(snapshot.identities.of(scanner), Proto::TCP, 80).action.allows()
        };
        assert!(!lets_in(&network));
        let delete = Change::delete(ObjectKind::AddressSet, Name::new("", "scanners"));
        let deleted = network.apply(delete, UnixSeconds(0), &BTreeSet::new());
        assert!(
            deleted.is_err() && !lets_in(&network),
            "deleted: {deleted:?}, lets in: {}",
            lets_in(&network)
        );
    }
}
