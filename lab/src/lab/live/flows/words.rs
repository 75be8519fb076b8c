//! Flows as people read them: a line each.

use crate::{
    lab::{
        live::capture::words::{POSTURE, time_of_day},
        spec::OUTSIDE,
    },
    output::Style,
};
use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
};
use supernet::{
    Flow,
    flows::{Carried, Connection, Denied, Ended, Missed, Place},
};

/// A line without its end. Names of ports are those of `lab status`, but what is beyond an uplink is "outside".
pub(super) fn line(flow: &Flow, style: Style) -> String {
    let (word, time) = match flow {
        Flow::Started(connection) => ("start ", connection.time_micros),
        Flow::Ended(ended) => ("end   ", ended.connection.time_micros),
        Flow::Denied(denied) => ("denied", denied.connection.time_micros),
        Flow::Missed(missed) => ("missed", missed.time_micros),
    };
    let word = match flow {
        Flow::Denied(_) | Flow::Missed(_) => style.red(word),
        Flow::Started(_) => style.green(word),
        Flow::Ended(_) => word.to_owned(),
    };
    let what = match flow {
        Flow::Started(connection) => format!("{}{}", ways(connection), after(&allowed(connection))),
        Flow::Ended(ended) => format!("{}  {}", ways(&ended.connection), ending(ended)),
        Flow::Denied(denied) => format!("{}  {}", ways(&denied.connection), because(denied)),
        Flow::Missed(missed) => self::missed(missed),
    };
    format!("{}  {word}  {what}", style.dim(&time_of_day(time)))
}

/// Who, to whom, by which protocol, and what was translated.
fn ways(connection: &Connection) -> String {
    let is_icmp = connection.protocol.starts_with("ICMP");
    let at = |place: &Place| at(place.address, place.port, is_icmp);
    let of = |place: &Place| match &place.name {
        Some(name) if name.starts_with("uplink/") => format!("{OUTSIDE} {}", at(place)),
        Some(name) => format!("{name} {}", at(place)),
        None => at(place),
    };
    let (from, to) = (of(&connection.source), of(connection.reached()));
    let mut text = format!("{from} -> {to} {}", connection.protocol);
    let mut more = Vec::new();
    if let Some(server) = &connection.server {
        // Its name has the port, and the protocol.
        more.push(format!("through {server} at {}", connection.destination.address));
    }
    if let Some(source) = &connection.translated_source {
        more.push(format!("as {}", at(source)));
    }
    text += &after(&more.join(", "));
    text
}

fn at(address: IpAddr, port: u16, is_icmp: bool) -> String {
    if is_icmp { address.to_string() } else { SocketAddr::new(address, port).to_string() }
}

/// Words that follow, if there are any.
fn after(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!("  {words}") }
}

/// By which policies, if by any: most connections meet nothing but postures, on one side at least.
fn allowed(connection: &Connection) -> String {
    let rules = [&connection.egress_rule, &connection.ingress_rule];
    let rules = rules.into_iter().flatten().filter(|rule| !rule.starts_with(POSTURE));
    let rules: Vec<&str> = rules.map(String::as_str).collect();
    if rules.is_empty() { String::new() } else { format!("allowed by {}", rules.join(", ")) }
}

fn because(denied: &Denied) -> String {
    let Denied { connection, reason, meaning, lives } = denied;
    let mut text = if *lives { "from now on, ".to_owned() } else { String::new() };
    let rule = connection.egress_rule.as_deref().or(connection.ingress_rule.as_deref());
    match rule {
        Some(rule) if rule.starts_with(POSTURE) => text += "by the posture, as no policy selects it",
        Some(rule) => _ = write!(text, "by policy {rule}"),
        None => text += meaning,
    }
    if reason == "EgressDenied" && rule.is_some() {
        text += ", where it leaves";
    }
    text
}

fn ending(ended: &Ended) -> String {
    let Ended { reason, duration_micros, forward, reverse, .. } = ended;
    let reason = if reason == "gaveWay" { "gave way to a newer one" } else { reason };
    let seconds = *duration_micros as f64 / 1e6;
    format!("{reason} after {seconds:.1} s; {} out, {} back", carried(*forward), carried(*reverse))
}

fn carried(carried: Carried) -> String {
    let Carried { packets, bytes } = carried;
    let s = if packets == 1 { "" } else { "s" };
    format!("{packets} packet{s} of {bytes} bytes")
}

fn missed(missed: &Missed) -> String {
    let Missed { missed, missed_denied, .. } = missed;
    let mut both = Vec::new();
    if *missed > 0 {
        both.push(format!("{missed} records"));
    }
    if *missed_denied > 0 {
        both.push(format!("{missed_denied} denied connections"));
    }
    format!("{}: more happened than could be written down, or read", both.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: Option<&str>, address: &str, port: u16) -> Place {
        Place { name: name.map(str::to_owned), address: address.parse().unwrap(), port }
    }

    fn connection() -> Connection {
        Connection {
            time_micros: 1_790_000_000_123_456,
            id: "0123456789abcdef".to_owned(),
            protocol: "TCP".to_owned(),
            source: place(Some("shop/curl"), "10.244.0.3", 41_000),
            destination: place(Some("shop/db"), "10.244.0.19", 5432),
            translated_source: None,
            translated_destination: None,
            server: None,
            egress_rule: Some("posture egress".to_owned()),
            ingress_rule: None,
            labels: Vec::new(),
        }
    }

    fn said(flow: Flow) -> String {
        line(&flow, Style::PLAIN)
    }

    #[test]
    fn a_flow_is_a_line() {
        let ingress_rule = Some("shop/db-only isolation".to_owned());
        let (reason, meaning) = ("IngressDenied".to_owned(), "denied".to_owned());
        let denied = Denied {
            connection: Connection { egress_rule: None, ingress_rule: ingress_rule.clone(), ..connection() },
            reason,
            meaning,
            lives: false,
        };
        assert_eq!(
            said(Flow::Denied(denied.clone())),
            "14:13:20.123456  denied  shop/curl 10.244.0.3:41000 -> shop/db 10.244.0.19:5432 TCP  by policy shop/db-only \
             isolation"
        );
        let posture =
            Connection { ingress_rule: Some("posture deny".to_owned()), ..denied.connection.clone() };
        let cut_off = said(Flow::Denied(Denied { connection: posture, lives: true, ..denied.clone() }));
        assert!(cut_off.ends_with("TCP  from now on, by the posture, as no policy selects it"), "{cut_off}");
        let unrouted = Connection { ingress_rule: None, ..denied.connection.clone() };
        let unrouted = Denied { connection: unrouted, meaning: "there is no route".to_owned(), ..denied };
        assert!(said(Flow::Denied(unrouted)).ends_with("TCP  there is no route"));
        assert_eq!(
            said(Flow::Started(connection())),
            "14:13:20.123456  start   shop/curl 10.244.0.3:41000 -> shop/db 10.244.0.19:5432 TCP"
        );
        let balanced = Connection {
            source: place(Some("uplink/up"), "2001:db8::7", 5000),
            destination: place(None, "fd00:80::3", 80),
            translated_destination: Some(place(Some("shop/web"), "fd00:244::2", 8080)),
            translated_source: Some(place(None, "fd00:90::1", 2000)),
            server: Some("shop/web:80/TCP".to_owned()),
            ingress_rule: Some("shop/web-open ingress[0]".to_owned()),
            ..connection()
        };
        assert_eq!(
            said(Flow::Started(balanced)),
            "14:13:20.123456  start   outside [2001:db8::7]:5000 -> shop/web [fd00:244::2]:8080 TCP  through \
             shop/web:80/TCP at fd00:80::3, as [fd00:90::1]:2000  allowed by shop/web-open ingress[0]"
        );
        let forward = Carried { packets: 4, bytes: 340 };
        let reverse = Carried { packets: 1, bytes: 60 };
        let reason = "closed".to_owned();
        let ended = Ended { connection: connection(), reason, duration_micros: 3_014_656, forward, reverse };
        let ended = said(Flow::Ended(ended));
        let end = "TCP  closed after 3.0 s; 4 packets of 340 bytes out, 1 packet of 60 bytes back";
        assert!(ended.ends_with(end), "{ended}");
        let missed = Missed { time_micros: 0, missed: 7, missed_denied: 12, repeated: 9 };
        assert_eq!(
            said(Flow::Missed(missed)),
            "00:00:00.000000  missed  7 records and 12 denied connections: more happened than could be written down, or \
             read"
        );
    }
}
