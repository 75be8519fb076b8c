//! Other hosts for a lab that runs.
//!
//! ```text
//!   prepare ─▶ Transition ─▶ TAPs are attached, the network changes ─▶ finish: what is gone is removed
//!      │                         └─ it does not                     ─▶ undo: what was made is removed
//!      └─ something fails: undone, and the error says what
//! ```
//!
//! What always holds: a host that is in both labs keeps its namespace, its processes and its device; the state
//! names a namespace from before it is made until it is removed; and [`LabNet`] owns everything that was made, so
//! that dropping it at any point leaves nothing.

use super::{
    Home, Host, LabError, LabNet, Listening, Made, Netns, Progress, add_address, add_route, check_free, ipv6,
    netns, remove_devices, responder, rootless, serve, set_up_all, state_of, uplink_device,
};
use crate::lab::{
    responder::Identity,
    spec::{EndpointSpec, LabSpec, OUTSIDE, OutsideSpec, Place},
    state::{Entry, State},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
    thread,
};
use supernet_control::model::Protocol;
use supernet_drivers::tap::Tap;

/// The way of a lab from some hosts to others, half gone.
#[derive(Debug, Default)]
pub(crate) struct Transition {
    added: Vec<String>,
    removed: Vec<String>,
    /// Hosts in both whose interfaces were changed.
    adapted: Vec<String>,
    taps: Vec<(Place, Tap)>,
    /// What has the outside become again as it was.
    outside_back: Vec<String>,
    /// Ports that were bound.
    bound: BTreeSet<responder::Port>,
    /// Ports to be closed.
    unbound: BTreeSet<responder::Port>,
    /// Ports of pods in their node's network that others there take over: they can't be bound twice.
    handed_over: BTreeMap<responder::Port, Arc<responder::Port>>,
    listening: Listening,
    warnings: Vec<String>,
}

impl Transition {
    /// Hands out the new TAPs with the place each belongs to.
    pub(crate) fn take_taps(&mut self) -> Vec<(Place, Tap)> {
        std::mem::take(&mut self.taps)
    }

    /// What is not as asked for, but no reason to stop: ports that can't be served.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl LabNet {
    /// Makes what `to` has more than `from`, the hosts there are, and takes nothing away yet but addresses.
    /// `progress` is called after each new host and may break off.
    ///
    /// # Errors
    /// See [`LabError`]; the lab is as it was.
    pub(crate) fn prepare(
        &mut self,
        from: &LabSpec,
        to: &LabSpec,
        progress: Progress<'_>,
    ) -> Result<Transition, LabError> {
        let mut transition = Transition::default();
        match self.go(&mut transition, from, to, progress) {
            Ok(()) => Ok(transition),
            Err(e) => {
                for warning in self.undo(transition, from) {
                    eprintln!("warning: {warning}");
                }
                Err(e)
            }
        }
    }

    fn go(
        &mut self,
        transition: &mut Transition,
        from: &LabSpec,
        to: &LabSpec,
        progress: Progress<'_>,
    ) -> Result<(), LabError> {
        let lab = self.claim.name().to_owned();
        let (before, after) = (by_name(from), by_name(to));
        let new: Vec<Host<'_>> =
            to.endpoints.iter().filter(|e| !before.contains_key(&*e.name)).map(Host::Endpoint).collect();
        let homes: Vec<Home> = new.iter().map(|h| Home::of(&lab, h)).collect();
        check_free(&homes)?;

        // From here on everything is noted before it is done.
        self.claim.write(&self.state(&[from, to]))?;
        let first = self.homes.len();
        transition.added = new.iter().map(|h| h.name().to_owned()).collect();
        let gone = from.endpoints.iter().filter(|e| !after.contains_key(&*e.name));
        for endpoint in gone {
            transition.removed.push(endpoint.name.clone());
            transition.unbound.extend(ports(endpoint));
        }
        if !homes.is_empty() {
            self.make(homes)?;
        }
        let mut all = set_up_all(&new, &self.homes[first..], progress)?;
        for new in &to.endpoints {
            let Some(old) = before.get(&*new.name).filter(|old| **old != new) else { continue };
            all.push(self.adapt_endpoint(transition, old, new)?);
        }
        self.adapt_outside(transition, &from.outside, &to.outside)?;

        let mut served = Vec::new();
        for made in all {
            transition.taps.extend(made.taps);
            transition.warnings.extend(made.warnings);
            for (name, ports) in made.listening {
                transition.listening.entry(name).or_default().extend(ports);
            }
            served.extend(made.served);
        }
        transition.bound = served.iter().map(|s| s.port().clone()).collect();
        match &self.responder {
            Some(responder) => responder.add(served).map_err(|source| LabError::System {
                place: "responder".to_owned(),
                what: "serve more ports",
                source,
            }),
            None => Ok(()),
        }
    }

    /// Takes away what `to` has not: ends its processes, closes its ports, removes its namespaces. What could not be
    /// removed, in sentences; it is tried again when the lab ends.
    pub(crate) fn finish(&mut self, transition: Transition, to: &LabSpec) -> Vec<String> {
        // Of one that is answered otherwise from now on, the place in the list stays.
        let others = transition.handed_over.iter().filter(|(old, new)| old.identity != new.identity);
        let others: Vec<(&responder::Port, &Arc<responder::Port>)> = others.collect();
        for (old, new) in &others {
            let number = (old.protocol, old.number);
            if self.listening.get(&old.identity.name()).is_some_and(|open| open.contains(&number)) {
                self.listening.entry(new.identity.name()).or_default().push(number);
            }
        }
        for port in transition.unbound.iter().chain(others.iter().map(|(old, _)| *old)) {
            if let Some(open) = self.listening.get_mut(&port.identity.name()) {
                open.retain(|p| *p != (port.protocol, port.number));
            }
        }
        for (name, ports) in transition.listening {
            self.listening.entry(name).or_default().extend(ports);
        }
        self.listening.retain(|_, ports| !ports.is_empty());
        let handed_over = match &self.responder {
            Some(responder) => responder.hand_over(transition.handed_over),
            None => Ok(()),
        };
        // Before anybody's end is waited for.
        let names = self.serve_names(to);
        let mut failed = self.remove(&transition.removed, transition.unbound);
        failed.extend(handed_over.err().map(|e| format!("the responder could not hand ports over: {e}")));
        failed.extend(names.iter().map(ToString::to_string));
        failed.extend(self.note(to));
        failed
    }

    /// Takes away what was made, and has adapted hosts as `from` has them. What failed, in sentences.
    ///
    /// To be called when the network has let go of the TAPs.
    pub(crate) fn undo(&mut self, transition: Transition, from: &LabSpec) -> Vec<String> {
        drop(transition.taps);
        let mut failed = self.remove(&transition.added, transition.bound);
        for host in &transition.adapted {
            let Some(old) = from.endpoints.iter().find(|e| e.name == *host) else { continue };
            let restored = self.inside(host, || restore(old));
            failed.extend(restored.err().map(|e| format!("{host} could not be put back as it was: {e}")));
        }
        for command in transition.outside_back {
            // Where the way there broke off, steps back that are not needed fail.
            let _ = self.inside(OUTSIDE, || netns::ip(OUTSIDE, &[command]));
        }
        failed.extend(self.note(from));
        failed
    }

    /// Closes ports and removes hosts. What could not be removed, in sentences.
    fn remove(&mut self, hosts: &[String], ports: BTreeSet<responder::Port>) -> Vec<String> {
        let mut failed = Vec::new();
        if let Some(responder) = &self.responder
            && let Err(e) = responder.remove(ports)
        {
            failed.push(format!("the responder could not close ports: {e}"));
        }
        let hosts: BTreeSet<&str> = hosts.iter().map(String::as_str).collect();
        let all = std::mem::take(&mut self.homes);
        let (mut gone, stay): (Vec<Home>, Vec<Home>) =
            all.into_iter().partition(|home| hosts.contains(&*home.host));
        self.homes = stay;
        netns::end_processes(gone.iter().filter_map(|h| h.open.as_ref()));
        remove_devices(&gone);
        for mut home in gone.drain(..) {
            home.open = None;
            if let Err(e) = netns::remove(&home.netns) {
                failed.push(format!("can't remove network namespace {}: {e}", home.netns));
                self.homes.push(home);
            }
        }
        failed
    }

    /// Writes down what there is now: the hosts of `spec`, and what could not be removed.
    fn note(&self, spec: &LabSpec) -> Option<String> {
        self.claim.write(&self.state(&[spec])).err().map(|e| e.to_string())
    }

    /// What is to be written down where there are hosts of several specs, and perhaps others.
    fn state(&self, specs: &[&LabSpec]) -> State {
        let lab = self.claim.name();
        let mut state =
            State { pid: std::process::id() as i32, token: rootless::token(), endpoints: Vec::new() };
        let all = specs.iter().flat_map(|spec| state_of(lab, spec).endpoints);
        let homes = self.homes.iter().map(|home| Entry {
            name: home.host.clone(),
            workload: None,
            netns: home.netns.clone(),
        });
        for entry in all {
            if !state.endpoints.contains(&entry) {
                state.endpoints.push(entry);
            }
        }
        for entry in homes {
            if !state.endpoints.iter().any(|e| e.netns == entry.netns) {
                state.endpoints.push(entry);
            }
        }
        state
    }

    /// Has a host that stays become as it is to be: its interface, and the ports that are served.
    fn adapt_endpoint(
        &self,
        transition: &mut Transition,
        old: &EndpointSpec,
        new: &EndpointSpec,
    ) -> Result<Made, LabError> {
        let (was, is) = (ports(old), ports(new));
        let mut fresh: BTreeSet<&responder::Port> = is.difference(&was).collect();
        for gone in was.difference(&is) {
            let heir = fresh.iter().find(|p| (p.protocol, p.number) == (gone.protocol, gone.number)).copied();
            match heir {
                Some(heir) => {
                    fresh.remove(heir);
                    transition.handed_over.insert(gone.clone(), Arc::new(heir.clone()));
                }
                None => drop(transition.unbound.insert(gone.clone())),
            }
        }
        let wired = |e: &EndpointSpec| (e.mac, e.mtu, e.addresses.clone(), e.gateways.clone());
        let rewire = wired(old) != wired(new);
        if rewire {
            transition.adapted.push(new.name.clone());
        }
        if !rewire && fresh.is_empty() {
            return Ok(Made::default());
        }
        self.inside(&new.name, || {
            if rewire {
                rewire_endpoint(old, new)?;
            }
            let mut made = Made::default();
            for (name, _, dns) in served(new) {
                let identity = Identity::of(&new.name, name);
                let own = fresh.iter().filter(|p| *p.identity == identity);
                let own: Vec<(Protocol, u16)> = own.map(|p| (p.protocol, p.number)).collect();
                serve(&mut made, &new.name, name, &own, dns);
            }
            Ok(made)
        })
    }

    /// Has the outside's routes and MTUs become as they are to be. Its uplinks are the same ones.
    fn adapt_outside(
        &self,
        transition: &mut Transition,
        old: &OutsideSpec,
        new: &OutsideSpec,
    ) -> Result<(), LabError> {
        let commands = outside_commands(old, new);
        if commands.is_empty() {
            return Ok(());
        }
        transition.outside_back = outside_commands(new, old);
        self.inside(OUTSIDE, || netns::ip(OUTSIDE, &commands))
    }

    /// Runs `f` on a thread inside a host.
    fn inside<T: Send>(
        &self,
        host: &str,
        f: impl FnOnce() -> Result<T, LabError> + Send,
    ) -> Result<T, LabError> {
        let failed =
            |source| LabError::System { place: host.to_owned(), what: "enter its network namespace", source };
        let home = self.homes.iter().find(|h| h.host == host).and_then(|h| h.open.as_ref());
        let netns: &Netns = home.ok_or_else(|| failed(io::Error::from(io::ErrorKind::NotFound)))?;
        let run = || {
            netns.enter().map_err(failed)?;
            f()
        };
        thread::scope(|scope| scope.spawn(run).join())
            .unwrap_or_else(|_| Err(failed(io::Error::other("the thread that did so panicked"))))
    }
}

fn by_name(spec: &LabSpec) -> BTreeMap<&str, &EndpointSpec> {
    spec.endpoints.iter().map(|e| (&*e.name, e)).collect()
}

/// Ports of a host.
type Ports = Vec<(Protocol, u16)>;

/// Who answers on a host: itself, and the pods that use its network; on which ports, and on which of them names.
fn served(endpoint: &EndpointSpec) -> impl Iterator<Item = (&String, &Ports, &Ports)> {
    let own = (&endpoint.name, &endpoint.serve, &endpoint.dns);
    [own].into_iter().chain(endpoint.hosted.iter().map(|h| (&h.name, &h.serve, &h.dns)))
}

/// The ports that are to be served on a host.
fn ports(endpoint: &EndpointSpec) -> BTreeSet<responder::Port> {
    let ports = served(endpoint).flat_map(|(name, serve, dns)| {
        let identity = Arc::new(Identity::of(&endpoint.name, name));
        serve.iter().map(move |&(protocol, number)| responder::Port {
            identity: identity.clone(),
            protocol,
            number,
            dns: dns.contains(&(protocol, number)),
        })
    });
    ports.collect()
}

/// Changes the interface of the calling thread's host, and touches nothing that stays.
fn rewire_endpoint(old: &EndpointSpec, new: &EndpointSpec) -> Result<(), LabError> {
    let has = |e: &EndpointSpec, v6: bool| e.addresses.iter().any(|a| a.addr().is_ipv6() == v6);
    let mut commands = Vec::new();
    if (old.mac, old.mtu) != (new.mac, new.mtu) {
        commands.push(format!("link set dev eth0 address {} mtu {}", new.mac, new.mtu));
    }
    // Before those that come: of two addresses in one prefix, the second would go with the first.
    let gone = old.addresses.iter().filter(|a| !new.addresses.contains(a));
    commands.extend(gone.map(|a| format!("address del {a} dev eth0")));
    let come = new.addresses.iter().filter(|a| !old.addresses.contains(a));
    commands.extend(come.map(|a| add_address(*a, "eth0")));
    commands.extend(new.gateways.iter().map(default_route));
    if has(new, true) && !has(old, true) {
        ipv6(&new.name, "eth0", true)?;
    }
    netns::ip(&new.name, &commands)?;
    if has(old, true) && !has(new, true) {
        ipv6(&new.name, "eth0", false)?;
    }
    Ok(())
}

/// Has the interface of the calling thread's host become as it was, whatever it is now.
fn restore(old: &EndpointSpec) -> Result<(), LabError> {
    ipv6(&old.name, "eth0", old.addresses.iter().any(|a| a.addr().is_ipv6()))?;
    let mut commands = vec![
        "address flush dev eth0 scope global".to_owned(),
        format!("link set dev eth0 address {} mtu {}", old.mac, old.mtu),
    ];
    commands.extend(old.addresses.iter().map(|a| add_address(*a, "eth0")));
    commands.extend(old.gateways.iter().map(default_route));
    netns::ip(&old.name, &commands)
}

fn default_route(gateway: &IpAddr) -> String {
    match gateway {
        IpAddr::V6(g) if g.is_unicast_link_local() => format!("route replace default via {g} dev eth0"),
        g => format!("route replace default via {g} dev eth0 onlink"),
    }
}

/// The way of the outside from one state to another with the same uplinks.
fn outside_commands(from: &OutsideSpec, to: &OutsideSpec) -> Vec<String> {
    let mut commands = Vec::new();
    for (i, (was, is)) in from.uplinks.iter().zip(&to.uplinks).enumerate() {
        if was.mtu != is.mtu {
            commands.push(format!("link set dev {} mtu {}", uplink_device(i), is.mtu));
        }
    }
    // Each prefix is there once, so what goes does so first.
    let gone = from.routes.iter().filter(|r| !r.via.is_empty() && !to.routes.contains(r));
    commands.extend(gone.map(|r| format!("route del {}", r.prefix)));
    let come = to.routes.iter().filter(|r| !r.via.is_empty() && !from.routes.contains(r));
    commands.extend(come.map(|r| add_route(r, &to.addresses)));
    commands
}
