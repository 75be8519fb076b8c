//! Hosts that come, change and go in a lab that runs, without a network between them.

use super::{NOTHING, as_root, endpoint, get, inside, lab_name, traces_of, unlocked, up};
use crate::lab::{
    error::LabError,
    net::LabNet,
    netns,
    spec::{EndpointSpec, LabSpec, OutsideSpec},
};
use std::{fs, net::TcpStream, ops::ControlFlow, process::Command};
use supernet_control::model::Protocol;

fn spec(endpoints: Vec<EndpointSpec>) -> LabSpec {
    LabSpec { endpoints, outside: OutsideSpec::default(), names: None }
}

fn prepare(net: &mut LabNet, from: &LabSpec, to: &LabSpec) -> Result<(), LabError> {
    let transition = net.prepare(from, to, &mut |_, _, _| ControlFlow::Continue(()))?;
    assert_eq!(net.finish(transition, to), NOTHING);
    Ok(())
}

/// What a host has by way of addresses and routes.
fn wiring(lab: &str, host: &str) -> String {
    let said =
        |args: &[&str]| String::from_utf8(Command::new("ip").args(args).output().unwrap().stdout).unwrap();
    inside(lab, host, || {
        // In lines of their own, without how long they are good for.
        let addresses = said(&["-br", "-4", "address", "show", "dev", "eth0"]);
        addresses.split_whitespace().skip(2).collect::<Vec<_>>().join(" ") + " " + said(&["route"]).trim()
    })
}

fn state(lab: &str) -> String {
    fs::read_to_string(format!("/run/supernet/{lab}/state.json")).unwrap()
}

fn answers(lab: &str, host: &str, port: u16) -> bool {
    inside(lab, host, || TcpStream::connect(("127.0.0.1", port)).is_ok())
}

#[test]
fn hosts_come_change_and_go() {
    if !as_root() {
        return;
    }
    let lab = lab_name("hosts");
    let web = endpoint("shop/web-0", 1, &["10.0.0.2/28"], &["10.0.0.1"]);
    let first = spec(vec![web.clone(), endpoint("shop/old", 2, &["10.0.0.3/28"], &["10.0.0.1"])]);
    let mut net = up(&lab, &first);

    let mut other = web.clone();
    other.addresses = super::nets(&["10.0.0.4/28", "fd00::4/64"]);
    other.gateways = vec!["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()];
    other.mtu = 1300;
    other.serve = vec![(Protocol::Tcp, 8080), (Protocol::Udp, 53)];
    let next = spec(vec![other, endpoint("shop/new", 3, &["10.0.0.5/28"], &["10.0.0.1"])]);
    let mut child = super::sleep_in(&netns::name(&lab, "shop/web-0"));
    prepare(&mut net, &first, &next).unwrap();

    let said = wiring(&lab, "shop/web-0");
    assert!(said.starts_with("10.0.0.4/28 default via 10.0.0.1 dev eth0 onlink"), "{said}");
    let mtu = inside(&lab, "shop/web-0", || {
        String::from_utf8(Command::new("ip").args(["link", "show", "dev", "eth0"]).output().unwrap().stdout)
            .unwrap()
    });
    assert!(mtu.contains("mtu 1300"), "{mtu}");
    let v6 = inside(&lab, "shop/web-0", || {
        let output =
            Command::new("ip").args(["-6", "-br", "address", "show", "dev", "eth0"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    assert!(v6.contains("fd00::4/64"), "a family that it had not before: {v6}");
    assert!(super::is_running(&mut child), "who stays keeps its processes");
    assert!(answers(&lab, "shop/web-0", 8080) && !answers(&lab, "shop/web-0", 80), "other ports are served");
    assert!(inside(&lab, "shop/web-0", || get("[::1]:8080")).0.contains("pod: web-0\nnamespace: shop\n"));
    assert!(answers(&lab, "shop/new", 80));
    assert!(!netns::path(&netns::name(&lab, "shop/old")).exists());
    assert!(state(&lab).contains("shop/new") && !state(&lab).contains("shop/old"));
    assert_eq!(net.listening()["shop/web-0"], [(Protocol::Udp, 53), (Protocol::Tcp, 8080)]);
    assert!(!net.listening().contains_key("shop/old"));

    drop(net);
    assert!(!super::is_running(&mut child));
    assert_eq!(traces_of(&lab), NOTHING);
}

#[test]
fn what_fails_midway_is_undone() {
    if !as_root() {
        return;
    }
    let lab = lab_name("undone");
    let first = spec(vec![endpoint("shop/web-0", 1, &["10.0.0.2/28"], &["10.0.0.1"])]);
    let mut net = up(&lab, &first);
    let (wired, written) = (wiring(&lab, "shop/web-0"), state(&lab));
    let as_before = |net: &LabNet| {
        assert_eq!(wiring(&lab, "shop/web-0"), wired);
        assert_eq!(state(&lab), written);
        assert!(!netns::path(&netns::name(&lab, "shop/new")).exists());
        assert!(answers(&lab, "shop/web-0", 80) && !answers(&lab, "shop/web-0", 8080));
        assert_eq!(net.listening().len(), 1);
    };

    // A new host that can't be set up.
    let mut next = first.clone();
    next.endpoints.push(endpoint("shop/fine", 2, &["10.0.0.3/28"], &["10.0.0.1"]));
    next.endpoints.push(endpoint("shop/new", 3, &["10.0.0.4/28"], &["224.0.0.1"]));
    let error = prepare(&mut net, &first, &next).unwrap_err().to_string();
    assert!(error.starts_with("shop/new: `ip route add default via 224.0.0.1"), "{error}");
    assert!(!netns::path(&netns::name(&lab, "shop/fine")).exists());
    as_before(&net);

    // One that stays and can't become what it should, after others were made and its own ports bound.
    let mut next = first.clone();
    next.endpoints.push(endpoint("shop/new", 3, &["10.0.0.4/28"], &["10.0.0.1"]));
    next.endpoints[0].addresses = super::nets(&["10.0.0.9/28"]);
    next.endpoints[0].gateways = vec!["224.0.0.1".parse().unwrap()];
    next.endpoints[0].serve = vec![(Protocol::Tcp, 8080)];
    let error = prepare(&mut net, &first, &next).unwrap_err().to_string();
    assert!(error.starts_with("shop/web-0: `ip route replace default via 224.0.0.1"), "{error}");
    as_before(&net);

    // Someone else's namespace has the name.
    let foreign = netns::name(&lab, "shop/new");
    netns::create(std::slice::from_ref(&foreign), &unlocked()).unwrap();
    next.endpoints[0] = first.endpoints[0].clone();
    let error = prepare(&mut net, &first, &next).unwrap_err();
    assert!(matches!(&error, LabError::NamespaceTaken { netns } if *netns == foreign), "{error}");
    assert!(netns::path(&foreign).exists());
    netns::remove(&foreign).unwrap();
    as_before(&net);

    // And what was refused is done once nothing is in its way.
    prepare(&mut net, &first, &next).unwrap();
    assert!(answers(&lab, "shop/new", 80));
    drop(net);
    assert_eq!(traces_of(&lab), NOTHING);
}
