use super::{
    file::{File, FileError},
    network::compile,
};
use ipnet::IpNet;
use proptest::prelude::*;
use std::{io::Write, net::IpAddr};
use supernet_dataplane::{snapshot::PortRole, table::classifier::Action, wire::Proto};

fn read(text: &str) -> Result<File, FileError> {
    read_all(text).map(|(file, _)| file)
}

/// With what is left out.
fn read_all(text: &str) -> Result<(File, Vec<String>), FileError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    File::read(file.path())
}

fn topology(segments: &str, ports: &str, more: &str) -> String {
    format!("{{\"segments\": {{{segments}}}, \"ports\": [{ports}] {more}}}")
}

const SEGMENT: &str = r#""one": {"cidr": "10.1.0.0/24", "gw": "10.1.0.1"}"#;
const PORT: &str = r#"{"tap": "t0", "segment": "one", "ip": "10.1.0.2"}"#;

#[test]
fn what_cannot_be_understood_has_its_place() {
    for (text, error) in [
        ("{", ":1:1: EOF"),
        (
            &topology(SEGMENT, r#"{"tap": "t0", "segment": "one", "ip": "10.1.0"}"#, ""),
            "`10.1.0` is no IP address",
        ),
        (&topology(SEGMENT, r#"{"segment": "one", "ip": "10.1.0.2"}"#, ""), "missing field `tap`"),
        (&topology(SEGMENT, PORT, r#", "rules": [{"port": 80, "action": "allow"}]"#), "unknown field `port`"),
        (&topology(SEGMENT, PORT, r#", "rules": [{"acton": "deny"}]"#), "unknown field `acton`"),
        (&topology(SEGMENT, PORT, r#", "rules": [{"src": "any"}]"#), "missing field `action`"),
        (&topology(SEGMENT, PORT, r#", "rules": [{"proto": "tpc"}]"#), "`tpc` is no protocol"),
        (&topology(SEGMENT, PORT, r#", "rules": [{"dport": "90-80"}]"#), "`90-80` is no port"),
        (&topology(SEGMENT, PORT, r#", "rules": [{"src": "10.1.0.0/33"}]"#), "is no CIDR"),
        (&topology(SEGMENT, PORT, r#", "default": "perhaps""#), "unknown variant `perhaps`"),
    ] {
        let told = read(text).unwrap_err().to_string();
        assert!(told.contains(error), "{told}");
        assert!(told.contains(":1:"), "{told}");
    }
}

#[test]
fn what_is_not_known_is_told_wherever_it_stands() {
    let more = r#", "comment": {"by": "me"}, "services": [{"vip": "10.96.0.1", "port": 80, "ports": 81}]"#;
    let port = PORT.replace("}", r#", "speed": 10}"#);
    let (file, unknown) = read_all(&topology(SEGMENT, &port, more)).unwrap();
    assert_eq!(unknown, ["ports.0.speed", "comment", "services.0.ports"]);
    assert_eq!((file.ports.len(), file.services.len()), (1, 1));
    let (_, unknown) = read_all(&topology(SEGMENT, PORT, "")).unwrap();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(read(&format!("{} more", topology(SEGMENT, PORT, ""))).is_err());
}

#[test]
fn what_cannot_be_is_refused() {
    for (text, error) in [
        (topology("", PORT, ""), "port t0: there is no segment one"),
        (topology(SEGMENT, &format!("{PORT}, {PORT}"), ""), "TAP t0 is given to both t0 and t0"),
        (
            topology(SEGMENT, &format!("{PORT}, {}", PORT.replace("t0", "t1")), ""),
            "10.1.0.2 is given to both t0 and t1",
        ),
        (
            topology(
                SEGMENT,
                PORT,
                r#", "services": [{"vip": "10.96.0.1", "port": 80, "backends": ["fd00::1"]}]"#,
            ),
            "service 10.96.0.1:80/TCP: a backend is of the other family",
        ),
    ] {
        let told = compile(&read(&text).unwrap()).err().unwrap().to_string();
        assert_eq!(told, error);
    }
}

/// What is left out, or `null`, or written another way.
#[test]
fn patience_has_its_meaning() {
    let file = read(&topology(
        SEGMENT,
        PORT,
        r#", "services": null, "snat_exempt": null, "default": null, "rules": [
            {"src": null, "dst": "*", "proto": ["tcp", 17], "dport": [80, "90-99"], "action": "DROP"},
            {"src": ["10.1.0.2", "10.2.0.0/16"], "dport": 0, "action": "accept"}]"#,
    ))
    .unwrap();
    assert!(file.rules[0].src.is_empty() && file.rules[0].dst.is_empty() && file.rules[0].action.denies);
    assert_eq!(file.rules[0].proto, [Proto::TCP, Proto::UDP]);
    assert_eq!(file.rules[0].dport, [80..=80, 90..=99]);
    assert_eq!(file.rules[1].src.len(), 2);
    assert!(file.rules[1].dport.is_empty() && !file.default.denies);
}

/// A rule may have a name, a comment and more at once; none of it is told of as left out.
#[test]
fn what_is_for_people_may_stand_beside_each_other() {
    let rule =
        r#"{"name": "web", "comment": ["a", {"b": 1}], "description": null, "id": 7, "action": "deny"}"#;
    let (file, unknown) = read_all(&topology(SEGMENT, PORT, &format!(r#", "rules": [{rule}]"#))).unwrap();
    assert!(file.rules[0].action.denies);
    assert!(unknown.is_empty(), "{unknown:?}");
    let twice = rule.replace("comment", "name");
    let error = read(&topology(SEGMENT, PORT, &format!(r#", "rules": [{twice}]"#))).unwrap_err();
    assert!(error.to_string().contains("duplicate field `name`"), "{error}");
}

/// Which segments are outside.
#[test]
fn translation_tells_inside_from_outside() {
    let two = r#""one": {"cidr": "10.1.0.0/24"E}, "wan": {"cidr": "203.0.113.0/24"}"#;
    let ports = format!(r#"{PORT}, {{"tap": "t1", "segment": "wan", "ip": "203.0.113.10"}}"#);
    let is_outside = |egress: &str, exempt: &str| {
        let text = topology(&two.replace('E', egress), &ports, &format!(r#", "snat_exempt": [{exempt}]"#));
        compile(&read(&text).unwrap()).unwrap().ports.iter().map(|line| line.is_outside).collect::<Vec<_>>()
    };
    let egress = r#", "egress": "192.168.90.1""#;
    assert_eq!(is_outside(egress, ""), [false, true]);
    assert_eq!(is_outside(egress, r#""203.0.113.0/24""#), [false, false]);
    assert_eq!(is_outside("", ""), [false, false], "nothing is translated");
}

#[test]
fn translation_inside_is_told_not_to_happen() {
    let segments = r#""a": {"cidr": "10.1.0.0/24", "egress": "192.168.90.1"}, "b": {"cidr": "10.2.0.0/24", "egress": "192.168.90.2"}"#;
    let ports = r#"{"tap": "t0", "segment": "a", "ip": "10.1.0.2"}"#;
    let warnings = |exempt: &str| {
        let text = topology(segments, ports, &format!(r#", "snat_exempt": [{exempt}]"#));
        compile(&read(&text).unwrap()).unwrap().warnings
    };
    assert_eq!(warnings("").len(), 1);
    assert!(warnings("")[0].starts_with("between a, b nothing is translated"));
    assert!(warnings(r#""10.0.0.0/8""#).is_empty());
}

/// A rule about IPv4 says nothing of IPv6, at a port that has both.
#[test]
fn a_rule_is_about_the_family_that_it_names() {
    let segment = r#""one": {"cidr": ["10.1.0.0/24", "fd00:1::/64"]}"#;
    let port = r#"{"tap": "t0", "segment": "one", "ip": ["10.1.0.2", "fd00:1::2"]}"#;
    for (default, action) in [("allow", "deny"), ("deny", "allow")] {
        let rules = format!(
            r#"{{"src": "10.1.0.0/24", "action": "{action}"}}, {{"dst": "10.1.0.2", "action": "{action}"}}"#
        );
        let text = topology(segment, port, &format!(r#", "default": "{default}", "rules": [{rules}]"#));
        let snapshot = compile(&read(&text).unwrap()).unwrap().snapshot;
        let PortRole::Endpoint(e) = &snapshot.ports[0].as_ref().unwrap().role else { unreachable!() };
        for set in [&e.egress, &e.ingress] {
            let denies = |peer: &str| {
                let peer = snapshot.identities.of(peer.parse().unwrap());
                set.as_ref().unwrap().decide(peer, Proto::TCP, 80).action == Action::Drop
            };
            assert_eq!((denies("192.0.2.1"), denies("2001:db8::1")), (action == "deny", default == "deny"));
        }
    }
}

fn net() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("any".to_owned()),
        (0..4_u8, prop_oneof![Just(8_u8), Just(24), Just(31), Just(32)], 0..4_u8).prop_map(|(b, len, d)| {
            IpNet::new(IpAddr::from([10, b, 0, d]), len).unwrap().trunc().to_string()
        }),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    let proto = prop_oneof![Just("any"), Just("tcp"), Just("udp"), Just("icmp")];
    let ports = prop_oneof![Just("null"), Just("80"), Just("\"70-90\""), Just("[443, 80]")];
    (net(), net(), proto, ports, any::<bool>()).prop_map(|(src, dst, proto, dport, allow)| {
        let action = if allow { "allow" } else { "deny" };
        format!(r#"{{"src": "{src}", "dst": "{dst}", "proto": "{proto}", "dport": {dport}, "action": "{action}"}}"#)
    })
}

proptest! {
    /// Both ends decide as the list does, read from its top.
    #[test]
    fn the_first_rule_that_matches_decides(
        rules in proptest::collection::vec(rule(), 0..12),
        denies in any::<bool>(),
        src in (0..4_u8, 0..4_u8),
        dst in (0..4_u8, 0..4_u8),
        proto in prop_oneof![Just(Proto::TCP), Just(Proto::UDP), Just(Proto::ICMP), Just(Proto::SCTP)],
        port in prop_oneof![Just(80_u16), Just(443), Just(70), Just(1)],
    ) {
        prop_assume!(src != dst);
        let default = if denies { "deny" } else { "allow" };
        let ip = |(b, d): (u8, u8)| IpAddr::from([10, b, 0, d]);
        let segment = r#""all": {"cidr": "10.0.0.0/8", "gw": "10.9.9.9"}"#;
        let ports = format!(
            r#"{{"tap": "t0", "segment": "all", "ip": "{}"}}, {{"tap": "t1", "segment": "all", "ip": "{}"}}"#,
            ip(src), ip(dst)
        );
        let more = format!(r#", "default": "{default}", "rules": [{}]"#, rules.join(","));
        let file = read(&topology(segment, &ports, &more)).unwrap();
        let port = if proto == Proto::ICMP { 0 } else { port };
        let expected = file.rules.iter().find(|rule| {
            let names = |nets: &[IpNet], ip: IpAddr| nets.is_empty() || nets.iter().any(|n| n.contains(&ip));
            let ports = rule.dport.is_empty() || rule.dport.iter().any(|ports| ports.contains(&port));
            // A rule with ports and any protocol is of those that have some.
            let is_proto = match &rule.proto[..] {
                [] => rule.dport.is_empty() || (proto != Proto::ICMP && ports),
                named => named.contains(&proto) && (proto == Proto::ICMP || ports),
            };
            names(&rule.src, ip(src)) && names(&rule.dst, ip(dst)) && is_proto
        });
        let expected = expected.map_or(denies, |rule| rule.action.denies);
        let snapshot = compile(&file).unwrap().snapshot;
        let decide = |at: usize, egress: bool, peer: IpAddr| {
            let PortRole::Endpoint(e) = &snapshot.ports[at].as_ref().unwrap().role else { unreachable!() };
            let set = if egress { &e.egress } else { &e.ingress };
            let action = |set: &supernet_dataplane::table::firewall::Firewall| {
                set.decide(snapshot.identities.of(peer), proto, port).action == Action::Drop
            };
            set.as_deref().is_some_and(action)
        };
        prop_assert_eq!(decide(0, true, ip(dst)), expected);
        prop_assert_eq!(decide(1, false, ip(src)), expected);
    }
}
