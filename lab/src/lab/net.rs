//! Bringing a lab's hosts up, and taking all of it away again.
//!
//! ```text
//!   namespace LAB.shop.web-0          LAB.outside
//!     eth0 (TAP) ─┐                     up0 (TAP) ─┐   lo: servers of the outside world
//!                 └── descriptor ──▶ Port          └── descriptor ──▶ Port
//! ```
//!
//! A thread enters each namespace, opens the TAP there, configures it with one run of `ip`, and binds the
//! responder's sockets; descriptors and sockets stay in the namespace they were made in and are used from
//! outside. [`LabNet`] owns everything: dropping it, also half made, ends the responder and every process in
//! the namespaces and removes the namespaces. The TAPs it hands out go when they are dropped.

mod change;

use super::{
    error::LabError,
    netns::{self, Netns},
    responder::{self, Identity, Responder, Served},
    rootless,
    spec::{EndpointSpec, LabSpec, OUTSIDE, OutsideRoute, OutsideSpec, Place, Via},
    state::{Claim, Entry, State},
};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    fs, io, iter,
    net::IpAddr,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};
use supernet_control::model::Protocol;
use supernet_drivers::tap::{self, Tap};

/// How far it is: hosts done, hosts in all, and the name of the last.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(usize, usize, &str) -> ControlFlow<()>;

/// Threads that remove interfaces; they mostly wait for the kernel.
const REMOVERS: usize = 32;

/// The hosts of a running lab.
#[derive(Debug)]
pub(crate) struct LabNet {
    claim: Claim,
    homes: Vec<Home>,
    taps: Vec<(Place, Tap)>,
    warnings: Vec<String>,
    listening: Listening,
    responder: Option<Responder>,
}

/// A host's network namespace.
#[derive(Debug)]
struct Home {
    /// Whose it is.
    host: String,
    /// Its name under `/run/netns`.
    netns: String,
    /// `None`: still to be made.
    open: Option<Netns>,
    /// Its interfaces, the loopback apart.
    devices: Vec<String>,
}

/// The ports that are served, by whose they are.
pub(crate) type Listening = BTreeMap<String, Vec<(Protocol, u16)>>;

/// Makes the hosts of `spec` as lab `lab`. `progress` is called after each and may break off.
///
/// # Errors
/// See [`LabError`]; nothing is left of the lab then.
pub(crate) fn bring_up(lab: &str, spec: &LabSpec, progress: Progress<'_>) -> Result<LabNet, LabError> {
    let claim = Claim::take(lab)?;
    let mut net = LabNet {
        homes: Vec::new(),
        taps: Vec::new(),
        warnings: Vec::new(),
        listening: Listening::new(),
        responder: None,
        claim,
    };
    let hosts = hosts(spec);
    let homes: Vec<Home> = hosts.iter().map(|h| Home::of(lab, h)).collect();
    check_free(&homes)?;
    net.claim.write(&state_of(lab, spec))?;
    allow_many_files();
    net.make(homes)?;
    let mut served = Vec::new();
    for made in set_up_all(&hosts, &net.homes, progress)? {
        net.taps.extend(made.taps);
        net.warnings.extend(made.warnings);
        net.listening.extend(made.listening);
        served.extend(made.served);
    }
    net.responder = Some(Responder::start(served).map_err(|source| LabError::System {
        place: "responder".to_owned(),
        what: "start",
        source,
    })?);
    match net.serve_names(spec).into_iter().next() {
        Some(failed) => Err(failed),
        None => Ok(net),
    }
}

impl LabNet {
    /// Hands out the TAPs with the place each belongs to. Drop them before the lab, or its interfaces live on.
    pub(crate) fn take_taps(&mut self) -> Vec<(Place, Tap)> {
        std::mem::take(&mut self.taps)
    }

    /// What is not as asked for, but no reason to stop: ports that can't be served.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The ports that are really served.
    pub(crate) fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Takes all interfaces away, many at a time: the kernel waits for each, and for TAPs that are closed it does
    /// so one by one. What fails here goes when the TAPs are dropped.
    pub(super) fn remove_devices(&self) {
        remove_devices(&self.homes);
    }

    /// Makes namespaces and keeps them, also those made before one fails.
    fn make(&mut self, homes: Vec<Home>) -> Result<(), LabError> {
        let first = self.homes.len();
        self.homes.extend(homes);
        let new = &mut self.homes[first..];
        let names: Vec<String> = new.iter().map(|h| h.netns.clone()).collect();
        netns::create(&names, self.claim.lock())?;
        for home in new {
            let open = Netns::open(&home.netns).map_err(|source| LabError::System {
                place: home.netns.clone(),
                what: "open the network namespace",
                source,
            })?;
            home.open = Some(open);
        }
        Ok(())
    }

    /// Has names be those of `spec`: what is answered, and whom hosts ask. What failed.
    fn serve_names(&self, spec: &LabSpec) -> Vec<LabError> {
        let Some(names) = &spec.names else { return Vec::new() };
        let system = |source| LabError::System { place: "names".to_owned(), what: "serve them", source };
        let answered = self.responder.as_ref().map_or(Ok(()), |r| r.answer_from(names.zone.clone()));
        answered.map_err(system).err().into_iter().chain(self.claim.write_names(names).err()).collect()
    }

    /// The folder and name of the lab.
    pub(super) fn claim(&self) -> &Claim {
        &self.claim
    }
}

impl Drop for LabNet {
    fn drop(&mut self) {
        self.responder = None;
        self.taps.clear();
        netns::end_processes(self.homes.iter().filter_map(|h| h.open.as_ref()));
        for Home { netns, open, .. } in &mut self.homes {
            *open = None;
            if let Err(e) = netns::remove(netns) {
                // Nobody is there to be told but the user's terminal or the lab's log.
                eprintln!("warning: can't remove network namespace {netns}: {e}");
            }
        }
    }
}

impl Home {
    fn of(lab: &str, host: &Host<'_>) -> Self {
        let name = host.name();
        Self { host: name.to_owned(), netns: netns::name(lab, name), open: None, devices: host.devices() }
    }
}

/// An error if a namespace of someone else has a name that is needed.
fn check_free(homes: &[Home]) -> Result<(), LabError> {
    match homes.iter().find(|h| netns::path(&h.netns).exists()) {
        Some(home) => Err(LabError::NamespaceTaken { netns: home.netns.clone() }),
        None => Ok(()),
    }
}

/// What is written down about a lab.
fn state_of(lab: &str, spec: &LabSpec) -> State {
    let mut endpoints = Vec::new();
    for host in hosts(spec) {
        let netns = netns::name(lab, host.name());
        endpoints.extend(host.residents().map(|(name, workload)| Entry {
            name: name.to_owned(),
            workload: workload.map(str::to_owned),
            netns: netns.clone(),
        }));
    }
    State { pid: std::process::id() as i32, token: rootless::token(), endpoints }
}

fn remove_devices(homes: &[Home]) {
    let next = AtomicUsize::new(0);
    let remove = || {
        while let Some(home) = homes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let commands: Vec<String> = home.devices.iter().map(|d| format!("link delete dev {d}")).collect();
            if home.open.as_ref().is_some_and(|netns| netns.enter().is_ok()) {
                let _ = netns::ip(&home.netns, &commands);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..REMOVERS.min(homes.len()) {
            scope.spawn(remove);
        }
    });
}

/// A host to be set up.
#[derive(Clone, Copy)]
enum Host<'a> {
    Endpoint(&'a EndpointSpec),
    Outside(&'a OutsideSpec),
}

impl Host<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Endpoint(e) => &e.name,
            Self::Outside(_) => OUTSIDE,
        }
    }

    /// Its interfaces, the loopback apart.
    fn devices(&self) -> Vec<String> {
        match self {
            Self::Endpoint(_) => vec!["eth0".to_owned()],
            Self::Outside(o) => (0..o.uplinks.len()).map(uplink_device).collect(),
        }
    }

    /// Who is entered here, by name and workload: itself, and the pods that use its network.
    fn residents(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let (workload, hosted) = match self {
            Self::Endpoint(e) => (e.workload.as_deref(), &e.hosted[..]),
            Self::Outside(_) => (None, &[][..]),
        };
        let hosted = hosted.iter().map(|h| (&*h.name, h.workload.as_deref()));
        iter::once((self.name(), workload)).chain(hosted)
    }
}

fn hosts(spec: &LabSpec) -> Vec<Host<'_>> {
    spec.endpoints.iter().map(Host::Endpoint).chain([Host::Outside(&spec.outside)]).collect()
}

/// What setting a host up gave.
#[derive(Default)]
struct Made {
    taps: Vec<(Place, Tap)>,
    served: Vec<Served>,
    listening: Listening,
    warnings: Vec<String>,
}

/// Sets all hosts up, a few at a time. The result is in the order of `hosts`.
fn set_up_all(hosts: &[Host<'_>], homes: &[Home], progress: Progress<'_>) -> Result<Vec<Made>, LabError> {
    let threads = thread::available_parallelism().map_or(2, usize::from).min(8);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut made: Vec<Option<Made>> = hosts.iter().map(|_| None).collect();
    let mut result = Ok(());
    thread::scope(|scope| {
        let (tx, rx) = mpsc::channel();
        for _ in 0..threads {
            let (tx, next, stop) = (tx.clone(), &next, &stop);
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let home = homes.get(i).and_then(|h| h.open.as_ref());
                    let (Some(host), Some(netns)) = (hosts.get(i), home) else { return };
                    if stop.load(Ordering::Relaxed) || tx.send((i, set_up(host, netns))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tx);
        for (done, (i, one)) in rx.into_iter().enumerate() {
            match one {
                Ok(one) => made[i] = Some(one),
                Err(e) if result.is_ok() => result = Err(e),
                Err(_) => {}
            }
            if result.is_ok() && progress(done + 1, hosts.len(), hosts[i].name()).is_break() {
                result = Err(LabError::Interrupted);
            }
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    result.map(|()| made.into_iter().flatten().collect())
}

/// Sets one host up. Leaves the calling thread in the host's namespace.
fn set_up(host: &Host<'_>, netns: &Netns) -> Result<Made, LabError> {
    let place = host.name();
    netns.enter().map_err(|source| LabError::System {
        place: place.to_owned(),
        what: "enter its network namespace",
        source,
    })?;
    // A new namespace inherits from the system's own: hosts are no routers, whatever that one is.
    write_setting(place, "ipv4/ip_forward", "0")?;
    let mut made = Made::default();
    let mut commands = vec!["link set dev lo up".to_owned()];
    match host {
        Host::Endpoint(e) => {
            open_tap(&mut made, place, "eth0", Place::Endpoint(e.name.clone()))?;
            ipv6(place, "eth0", e.addresses.iter().any(|a| a.addr().is_ipv6()))?;
            commands.push(format!("link set dev eth0 address {} mtu {} up", e.mac, e.mtu));
            commands.extend(e.addresses.iter().map(|a| add_address(*a, "eth0")));
            commands.extend(e.gateways.iter().map(|g| match g {
                // Of a link-local next hop the kernel knows that it is on the link.
                IpAddr::V6(g) if g.is_unicast_link_local() => format!("route add default via {g} dev eth0"),
                g => format!("route add default via {g} dev eth0 onlink"),
            }));
            netns::ip(place, &commands)?;
            serve(&mut made, place, place, &e.serve, &e.dns);
            e.hosted.iter().for_each(|h| serve(&mut made, place, &h.name, &h.serve, &h.dns));
        }
        Host::Outside(o) => {
            for (i, uplink) in o.uplinks.iter().enumerate() {
                let device = uplink_device(i);
                open_tap(&mut made, place, &device, Place::Uplink(uplink.name.clone()))?;
                ipv6(place, &device, uplink.addresses.iter().any(|a| a.addr().is_ipv6()))?;
                // Several uplinks: each interface answers for its own address, and replies may come by another.
                write_setting(place, &format!("ipv4/conf/{device}/arp_ignore"), "1")?;
                write_setting(place, &format!("ipv4/conf/{device}/rp_filter"), "0")?;
                let mac = uplink.mac.map_or_else(String::new, |m| format!("address {m} "));
                commands.push(format!("link set dev {device} {mac}mtu {} up", uplink.mtu));
                commands.extend(uplink.addresses.iter().map(|a| add_address(*a, &device)));
            }
            write_setting(place, "ipv4/conf/all/rp_filter", "0")?;
            commands.extend(o.addresses.iter().map(|a| add_address(IpNet::from(*a), "lo")));
            let routes = o.routes.iter().filter(|r| !r.via.is_empty());
            commands.extend(routes.map(|r| add_route(r, &o.addresses)));
            netns::ip(place, &commands)?;
            serve(&mut made, place, place, &o.serve, &[]);
        }
    }
    Ok(made)
}

/// What the outside calls its interface towards an uplink.
fn uplink_device(uplink: usize) -> String {
    format!("up{uplink}")
}

fn open_tap(made: &mut Made, place: &str, device: &str, attach: Place) -> Result<(), LabError> {
    let tap = tap::Options::new()
        .offloads(true)
        .open(device)
        .map_err(|source| LabError::Tap { place: place.to_owned(), source })?;
    made.taps.push((attach, tap));
    Ok(())
}

fn add_address(address: IpNet, device: &str) -> String {
    let nodad = if address.addr().is_ipv6() { " nodad" } else { "" };
    format!("address add {address} dev {device}{nodad}")
}

/// The outside speaks from its own address, not from that of the interface it happens to leave by.
fn add_route(route: &OutsideRoute, own: &[IpAddr]) -> String {
    let same_family = |a: &&IpAddr| a.is_ipv4() == route.prefix.addr().is_ipv4();
    let source = own.iter().find(same_family).map_or_else(String::new, |a| format!(" src {a}"));
    let via = |v: &Via| format!("via {} dev {}", v.address, uplink_device(v.uplink));
    match &route.via[..] {
        [one] => format!("route add {}{source} {}", route.prefix, via(one)),
        several => {
            let hops: Vec<String> = several.iter().map(|v| format!("nexthop {}", via(v))).collect();
            format!("route add {}{source} {}", route.prefix, hops.join(" "))
        }
    }
}

/// Addresses are static: nothing is to be asked for or advertised. An interface without an IPv6 address does
/// not speak IPv6 at all.
fn ipv6(place: &str, device: &str, wanted: bool) -> Result<(), LabError> {
    let conf = format!("ipv6/conf/{device}");
    if !wanted {
        return match write_setting(place, &format!("{conf}/disable_ipv6"), "1") {
            // A kernel without IPv6 speaks none either.
            Err(LabError::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
    }
    let settings = [
        ("disable_ipv6", "0"),
        ("accept_dad", "0"),
        ("dad_transmits", "0"),
        ("accept_ra", "0"),
        ("autoconf", "0"),
    ];
    settings.iter().try_for_each(|(name, value)| write_setting(place, &format!("{conf}/{name}"), value))
}

/// Writes a setting of the calling thread's network namespace.
fn write_setting(place: &str, path: &str, value: &str) -> Result<(), LabError> {
    fs::write(format!("/proc/sys/net/{path}"), value).map_err(|source| LabError::System {
        place: place.to_owned(),
        what: if path.starts_with("ipv6") { "configure IPv6" } else { "configure IPv4" },
        source,
    })
}

/// Binds ports in `host` that the responder is to serve as `name`, `dns` among them for names. Those that it can't give
/// a warning each.
fn serve(made: &mut Made, host: &str, name: &str, ports: &[(Protocol, u16)], dns: &[(Protocol, u16)]) {
    let identity = Arc::new(Identity::of(host, name));
    let mut seen = Vec::new();
    for &(protocol, port) in ports {
        if seen.contains(&(protocol, port)) {
            continue;
        }
        seen.push((protocol, port));
        match responder::bind(&identity, protocol, port, dns.contains(&(protocol, port))) {
            Ok(served) => {
                made.served.push(served);
                made.listening.entry(name.to_owned()).or_default().push((protocol, port));
            }
            Err(e) => made.warnings.push(format!("{name}: {protocol} port {port} is not served: {e}")),
        }
    }
}

/// A lab has a descriptor or more a pod and port; the usual soft limit of 1024 is soon reached.
pub(super) fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Not being allowed to shows later, if at all, as the error of the file that is one too many.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
