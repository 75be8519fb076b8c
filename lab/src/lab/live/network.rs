//! The network of a running lab, as it answers what it is asked.
//!
//! ```text
//!   apply ─ manifests ─▶ Model ─▶ draft ─▶ refusal ─▶ hosts.prepare ─▶ attach ─▶ commit ─▶ hosts.finish
//!   delete ─ names ────▶   ▲        └───────────┴─ dry run ends here        └──────┴── fail: release, hosts.undo
//! ```
//!
//! New TAPs are attached before the network that has their ports is published: what they send until then is dropped
//! (`NotReady`), and publishing is the one step that makes the change. It can't fail but for the store of leases,
//! which a lab has in memory.

use super::{
    capture::serve::Captures,
    change::{self, Changes, Seen},
    deletion::{Deletion, Missing},
    error::ChangeError,
    flows::serve::FlowService,
    refusal,
    rules::Rules,
    socket::{Reply, Stream},
    status::{Samples, Status},
    wire::{self, Answer, Apply, Ask, Delete, File},
};
use crate::lab::{
    dns::Dns,
    net::LabNet,
    selftest::Facts,
    spec::{LabSpec, Place},
    supervise::Supervised,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::ControlFlow,
    time::Instant,
};
use supernet::{
    Running,
    control::{
        manifests::{Objects, Reader, WorkloadId},
        model::{Change, Model, Object, ObjectId, ObjectKind},
        network::Draft,
    },
};
use supernet_dataplane::id::PortId;
use supernet_drivers::interface::Interface;

/// What a lab is to become, its own DNS apart.
struct Wish<'a> {
    next: Model,
    /// Pods whose ports are left to the user from now on.
    no_serve: &'a [String],
    dry_run: bool,
    warnings: Vec<String>,
}

/// A lab's network and what it was made of.
#[derive(Debug)]
pub(crate) struct LiveNetwork {
    /// First, so that they have ended when the network does.
    captures: Captures,
    flows: FlowService,
    lab: String,
    net: Running,
    spec: LabSpec,
    /// Hosts whose ports are left to the user.
    unserved: BTreeSet<String>,
    /// `None`: it has none.
    dns: Option<Dns>,
    began: Instant,
    samples: Samples,
    /// The machine's own interfaces that uplinks are on, as long as they are there.
    interfaces: Vec<(String, Interface)>,
}

impl LiveNetwork {
    /// The network of lab `lab`, which runs with the hosts of `spec`.
    pub(crate) fn new(
        lab: &str,
        net: Running,
        spec: LabSpec,
        unserved: BTreeSet<String>,
        dns: Option<Dns>,
    ) -> Self {
        let (began, samples) = (Instant::now(), Samples::default());
        let (captures, flows) = (Captures::default(), FlowService::begin(&net));
        let (lab, interfaces) = (lab.to_owned(), Vec::new());
        Self { captures, flows, lab, net, spec, unserved, dns, began, samples, interfaces }
    }

    /// Uplinks that are on interfaces of the machine, which may be taken away.
    pub(crate) fn on(self, interfaces: Vec<(String, Interface)>) -> Self {
        Self { interfaces, ..self }
    }

    /// What was declared: the network's objects but for those of the lab's own DNS.
    fn declared(&self) -> Model {
        let model = self.net.model();
        match &self.dns {
            Some(dns) => dns.without(model),
            None => model,
        }
    }

    /// Its network.
    #[cfg(test)]
    pub(crate) fn network(&self) -> &Running {
        &self.net
    }

    /// Answers a request. `interrupted` tells whether the lab is to end.
    pub(crate) fn ask(&mut self, ask: Ask, hosts: &mut LabNet, interrupted: &dyn Fn() -> bool) -> Answer {
        let changes = match ask {
            Ask::Status => {
                let status = Status::of(&self.lab, self.began, &self.net, &self.spec, &self.samples);
                return Answer::Status(Box::new(status));
            }
            Ask::Facts => {
                return match Facts::of(&self.net, &self.spec) {
                    Ok(facts) => Answer::Facts(Box::new(facts)),
                    Err(e) => Answer::Error(e.to_string()),
                };
            }
            Ask::Explain(questions) => {
                return Answer::Explained(questions.iter().map(|q| q.denied_by(&self.net)).collect());
            }
            Ask::Rules => return Answer::Rules(Rules::of(&self.lab, &self.net)),
            Ask::Capture(_) | Ask::Flows(_) => {
                return Answer::Error("this needs a connection of its own".to_owned());
            }
            Ask::Apply(apply) => self.apply(&apply, hosts, interrupted),
            Ask::Delete(delete) => self.delete(&delete, hosts, interrupted),
        };
        match changes {
            Ok(changes) => Answer::Changes(changes),
            Err(e) => Answer::Error(e.to_string()),
        }
    }

    fn apply(
        &mut self,
        apply: &Apply,
        hosts: &mut LabNet,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Changes, ChangeError> {
        let base = self.declared();
        let reader = reader(&apply.files);
        let (next, warnings) = if apply.prune {
            let read = reader.finish_under(&base.supervisor)?;
            (read.model, read.warnings)
        } else {
            let Objects { objects, workloads, warnings } = reader.finish_change(&base)?;
            let delete = outdated(&base, &objects, &workloads);
            (base.with(Change { upsert: objects, delete })?, warnings)
        };
        let warnings = warnings.iter().map(ToString::to_string).collect();
        let wish = Wish { next, no_serve: &apply.no_serve, dry_run: apply.dry_run, warnings };
        self.change(wish, hosts, interrupted)
    }

    fn delete(
        &mut self,
        delete: &Delete,
        hosts: &mut LabNet,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Changes, ChangeError> {
        let base = self.declared();
        let Objects { objects, workloads, .. } = reader(&delete.files).finish_change(&base)?;
        let mut deletion = Deletion::of(&base);
        for workload in &workloads {
            deletion.workload(workload);
        }
        for object in &objects {
            match object {
                Object::Supervisor(_) => deletion.keep_supervisor(),
                Object::Pod(pod) if workloads.iter().any(|w| w.owns(pod)) => {}
                object => deletion.object(object.id()),
            }
        }
        for target in &delete.objects {
            deletion.target(target);
        }
        let is_own = |id: &&ObjectId| self.dns.as_ref().is_some_and(|dns| dns.owns(id));
        let own: Vec<ObjectId> =
            deletion.missing.iter().filter_map(Missing::object).filter(is_own).cloned().collect();
        if !own.is_empty() {
            return Err(ChangeError::OwnDns(own));
        }
        if !deletion.missing.is_empty() && !delete.ignore_not_found {
            let missing = deletion.missing.iter().map(ToString::to_string).collect();
            return Err(ChangeError::NotFound(missing));
        }
        let warnings = std::mem::take(&mut deletion.warnings);
        let next = base.with(Change { upsert: Vec::new(), delete: deletion.ids() })?;
        let wish = Wish { next, no_serve: &[], dry_run: delete.dry_run, warnings };
        self.change(wish, hosts, interrupted)
    }

    /// Becomes as is wished, all of it or nothing.
    fn change(
        &mut self,
        wish: Wish<'_>,
        hosts: &mut LabNet,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Changes, ChangeError> {
        let Wish { next, no_serve, dry_run, mut warnings } = wish;
        let (model, addressing) = (self.net.model(), self.net.addressing());
        let (was_declared, is_declared) = (self.declared(), next.clone());
        let (next, dns) = match &self.dns {
            Some(dns) => {
                let (next, dns) = dns.complete(next);
                (next, Some(dns))
            }
            None => (next, None),
        };
        let draft = self.net.draft(next)?;
        let (before, after) = (self.net.plan()?, self.net.plan_of(&draft)?);
        let mut spec = LabSpec::of(draft.model(), draft.snapshot(), &after.pods);
        spec.queues = self.spec.queues;
        if let Some(dns) = &dns {
            dns.furnish(&mut spec, draft.model(), draft.addressing(), &after.pods);
        }
        spec.silence(&self.unserved);
        let mut unserved = self.unserved.clone();
        for target in no_serve {
            unserved.insert(spec.without_responder(&self.lab, target).map_err(ChangeError::Hosts)?);
        }
        // The lab's own DNS may be given other addresses.
        let others = match &self.dns {
            Some(dns) => dns.without_own(addressing.clone()),
            None => addressing.clone(),
        };
        let was = refusal::Side { model: &model, addressing: &others, spec: &self.spec };
        let is = refusal::Side { model: draft.model(), addressing: draft.addressing(), spec: &spec };
        refusal::check(&was, &is, self.net.dataplane().pool().longest())?;
        let seen = Seen { model: &was_declared, addressing: &addressing, pods: &before.pods };
        let will = Seen { model: &is_declared, addressing: draft.addressing(), pods: &after.pods };
        let objects = change::between(&seen, &will);
        if !dry_run {
            warnings.extend(self.carry_out(draft, spec, hosts, interrupted)?);
            self.unserved = unserved;
            self.dns = dns;
        }
        Ok(Changes { lab: self.lab.clone(), dry_run, objects, warnings })
    }

    /// Makes hosts, publishes, removes hosts. What went wrong after publishing, in sentences.
    fn carry_out(
        &mut self,
        draft: Draft,
        spec: LabSpec,
        hosts: &mut LabNet,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Vec<String>, ChangeError> {
        let go_on = |_: usize, _: usize, _: &str| match interrupted() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let mut transition = hosts.prepare(&self.spec, &spec, &mut { go_on }).map_err(ChangeError::Hosts)?;
        let mut attached = Vec::new();
        let published = attach(&self.net, &draft, transition.take_taps(), &mut attached)
            .and_then(|()| Ok(self.net.commit(draft)?));
        if let Err(e) = published {
            for port in attached {
                self.net.dataplane().release(port);
            }
            for failed in hosts.undo(transition, &self.spec) {
                eprintln!("warning: {failed}");
            }
            return Err(e);
        }
        let mut warnings = transition.warnings().to_vec();
        warnings.extend(hosts.finish(transition, &spec));
        self.spec = spec;
        Ok(warnings)
    }
}

impl Supervised for LiveNetwork {
    fn answer(
        &mut self,
        request: Option<&[u8]>,
        hosts: &mut LabNet,
        interrupted: &dyn Fn() -> bool,
    ) -> Reply {
        let (answer, stream) = match request.map(wire::read_request) {
            Some(Ok(Ask::Capture(ask))) => {
                let begun = self.captures.begin(&self.lab, &self.net, &self.spec, &ask);
                going_on(begun.map(|(interfaces, then)| (Answer::Capturing(interfaces), then)))
            }
            Some(Ok(Ask::Flows(ask))) => {
                let begun = self.flows.tell(&self.lab, &self.net, &self.spec, &ask);
                going_on(begun.map(|then| (Answer::Flowing, then)))
            }
            None => (Answer::Error(super::client::ClientError::TooLong.to_string()), None),
            Some(Err(e)) => (Answer::Error(e.to_string()), None),
            Some(Ok(ask)) => (self.ask(ask, hosts, interrupted), None),
        };
        // Nothing that is answered fails to be written as JSON; who asked is told if it does.
        Reply { line: wire::answer(&answer).unwrap_or_default(), stream }
    }

    fn tick(&mut self) {
        self.samples.take(self.net.counters());
        self.interfaces.retain(|(uplink, interface)| {
            let is_there = interface.is_there();
            if !is_there {
                eprintln!("warning: uplink {uplink}: interface {} is gone", interface.name());
                self.net.detach(&format!("uplink/{uplink}"));
            }
            is_there
        });
    }
}

/// An answer after which the connection goes on, unless there is none.
fn going_on<E: std::fmt::Display>(begun: Result<(Answer, Stream), E>) -> (Answer, Option<Stream>) {
    match begun {
        Ok((answer, then)) => (answer, Some(then)),
        Err(e) => (Answer::Error(e.to_string()), None),
    }
}

/// Attaches TAPs to the ports that the draft has for them. Those that were, also when it fails, are in `attached`.
fn attach(
    net: &Running,
    draft: &Draft,
    taps: Vec<(Place, supernet_drivers::tap::Tap)>,
    attached: &mut Vec<PortId>,
) -> Result<(), ChangeError> {
    let ids: BTreeMap<&str, PortId> =
        draft.snapshot().names.ports.iter().map(|(id, name)| (name.as_str(), *id)).collect();
    for (place, tap) in taps {
        let name = match place {
            Place::Endpoint(name) => name,
            Place::Uplink(uplink) => format!("uplink/{uplink}"),
        };
        let id = ids.get(&*name).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        match id.and_then(|id| net.dataplane().attach(id, tap).map(|()| id)) {
            Ok(id) => attached.push(id),
            Err(source) => return Err(ChangeError::Attach { name, source }),
        }
    }
    Ok(())
}

fn reader(files: &[File]) -> Reader {
    let mut reader = Reader::new();
    for file in files {
        reader.text(&file.name, &file.text);
    }
    reader
}

/// Pods that workloads had before, and have no more.
fn outdated(base: &Model, objects: &[Object], workloads: &[WorkloadId]) -> Vec<ObjectId> {
    let stay: BTreeSet<ObjectId> = objects.iter().map(Object::id).collect();
    let pods = base.pods.values().filter(|pod| workloads.iter().any(|w| w.owns(pod)));
    let ids = pods.map(|pod| ObjectId { kind: ObjectKind::Pod, name: pod.name.clone() });
    ids.filter(|id| !stay.contains(id)).collect()
}
