//! The same frames through Supernet and through Linux as router, firewall and NAT, and what comes out of either
//! compared field by field. Where they differ on purpose, [`known`] says why. As root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod cases;
mod known;
mod linux;
mod network;
mod packets;
mod seen;

use linux::Linux;
use network::Network;
use seen::Fields;
use std::collections::BTreeSet;

/// Frames that are sent one after the other, and a name for what they are about.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Sends the frames. `None` when it cannot go on, as nothing came out that it could answer.
    pub(crate) play: fn(&mut Wire<'_>) -> Option<()>,
}

/// The hands of a case in one of the networks.
pub(crate) struct Wire<'a> {
    network: &'a mut dyn Network,
    /// A port that no other case uses, and seven behind it.
    port: u16,
    /// What came out, by step.
    seen: Vec<Vec<(u32, Fields)>>,
}

impl Wire<'_> {
    /// Sends frames in one step, and returns what comes out.
    pub(crate) fn send_all(&mut self, port: u32, frames: &[Vec<u8>]) -> Vec<(u32, Vec<u8>)> {
        let out = self.network.send(port, frames);
        self.seen.push(seen::all(&out));
        out
    }

    /// Sends a packet and returns the one frame that comes out.
    pub(crate) fn send(&mut self, port: u32, packet: packets::Ip) -> Option<Vec<u8>> {
        let mut out = self.send_all(port, &[packet.into(port)]);
        (out.len() == 1).then(|| out.remove(0).1)
    }

    /// A port that is this case's own; `n` is below 8.
    pub(crate) fn own_port(&self, n: u16) -> u16 {
        self.port + n
    }
}

/// What a case saw in a network.
fn play(case: &Case, number: usize, network: &mut dyn Network) -> Vec<Vec<(u32, Fields)>> {
    let mut wire = Wire { network, port: 20_000 + 8 * number as u16, seen: Vec::new() };
    let _ = (case.play)(&mut wire);
    wire.seen
}

/// Fields that differ, and all that there is to say about it.
#[derive(Default)]
struct Differences {
    fields: BTreeSet<String>,
    text: String,
}

fn compare(linux: &[Vec<(u32, Fields)>], ours: &[Vec<(u32, Fields)>]) -> Differences {
    let mut found = Differences::default();
    let mut differ = |step: usize, field: &str, linux: &str, ours: &str| {
        found.fields.insert(field.to_owned());
        found.text += &format!("  step {}: {field}\n    Linux:    {linux}\n    Supernet: {ours}\n", step + 1);
    };
    for step in 0..linux.len().max(ours.len()) {
        let of = |side: &[Vec<(u32, Fields)>]| side.get(step).cloned().unwrap_or_default();
        let (linux, ours) = (of(linux), of(ours));
        let ports = |side: &[(u32, Fields)]| side.iter().map(|(port, _)| *port).collect::<Vec<_>>();
        if ports(&linux) != ports(&ours) {
            let field = match (&linux[..], &ours[..]) {
                (_, []) => "only Linux sends",
                ([], _) => "only Supernet sends",
                _ => "other ports",
            };
            differ(step, field, &told(&linux), &told(&ours));
            continue;
        }
        for ((_, linux), (_, ours)) in linux.iter().zip(&ours) {
            for name in linux.iter().chain(ours).map(|(name, _)| name).collect::<BTreeSet<_>>() {
                let value = |side: &Fields| side.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
                let (linux, ours) = (value(linux).unwrap_or_default(), value(ours).unwrap_or_default());
                // Of quotes that are not of one length, what both have is compared.
                let cut = name == "quoted content" && (linux.starts_with(&ours) || ours.starts_with(&linux));
                if linux != ours && !cut {
                    differ(step, name, &linux, &ours);
                }
            }
        }
    }
    found
}

/// Frames in short.
fn told(frames: &[(u32, Fields)]) -> String {
    let one = |(port, fields): &(u32, Fields)| {
        let fields: Vec<String> = fields
            .iter()
            .filter(|(name, _)| !name.ends_with("content"))
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        format!("port {port}: {}", fields.join(", "))
    };
    if frames.is_empty() {
        "nothing".to_owned()
    } else {
        frames.iter().map(one).collect::<Vec<_>>().join("; ")
    }
}

#[test]
fn supernet_does_as_linux_does() {
    let Some(mut linux) = Linux::new() else { return };
    let mut ours = network::supernet();
    let mut wrong = String::new();
    for (number, case) in cases::all().iter().enumerate() {
        let (linux, ours) = (play(case, number, &mut linux), play(case, number, &mut ours));
        let found = compare(&linux, &ours);
        let fields: BTreeSet<&str> = found.fields.iter().map(String::as_str).collect();
        let silent = linux.last().is_none_or(Vec::is_empty) && ours.last().is_none_or(Vec::is_empty);
        match known::reasons(case.name)[..] {
            [] if silent => println!("{}: alike, nothing comes out", case.name),
            [] => println!("{}: alike", case.name),
            ref reasons => println!("{}: {}", case.name, reasons.join("; ")),
        }
        let known = known::fields(case.name);
        if fields != known {
            wrong += &format!("{}: differs in {fields:?}, known is {known:?}\n{}", case.name, found.text);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn known_differences_are_of_cases_and_the_page_has_them_all() {
    let page = include_str!("../../docs/kernel.md");
    let cases = cases::all();
    for (n, case) in cases.iter().enumerate() {
        assert!(cases[..n].iter().all(|other| other.name != case.name), "{:?} twice", case.name);
        assert!(page.contains(&format!("`{}`", case.name)), "docs/kernel.md lacks {:?}", case.name);
    }
    for name in known::KNOWN.iter().flat_map(|known| known.cases) {
        assert!(cases.iter().any(|case| case.name == *name), "no case {name:?}");
    }
}
