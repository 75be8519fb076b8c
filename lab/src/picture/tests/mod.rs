//! What every picture keeps to, whatever the network, and pictures of small ones to look at.

mod networks;
mod rules;

use super::*;
use crate::fixture::shop;
use networks::{Network, namespaces};
use proptest::prelude::*;
use supernet_control::analysis::{
    plan::Plan,
    topology::{Fold, View},
};

fn open(plan: &Plan) -> Topology {
    Topology::of(plan, &View { fold: Fold::Never, ..View::default() }).unwrap()
}

fn shop_plan() -> Plan {
    let mut s = shop();
    Plan::of(&s.model, &s.addressing, &s.snapshot, &mut s.interner).unwrap()
}

/// Compares with a file of the repository; `SUPERNET_ACCEPT=1` writes it.
fn is_as_accepted(name: &str, drawn: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    if std::env::var_os("SUPERNET_ACCEPT").is_some() {
        std::fs::write(&path, drawn).unwrap();
    }
    let accepted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        accepted == drawn,
        "{} is not what is drawn now; look at the difference after running with SUPERNET_ACCEPT=1",
        path.display()
    );
}

/// The shop of the README, whose picture is there too.
#[test]
fn the_shop_is_drawn_as_accepted() {
    let readme = include_str!("../../../../README.md");
    let (_, rest) = readme.split_once("<summary>shop.yaml</summary>\n\n```yaml\n").unwrap();
    let (yaml, _) = rest.split_once("```").unwrap();
    let manifests = supernet::manifests::read_str("shop.yaml", yaml).unwrap();
    let leases = supernet::Leases::memory();
    let mut network = supernet::control::network::Network::new(
        manifests.model,
        leases,
        supernet::control::store::UnixSeconds(0),
    )
    .unwrap();
    let topology = Topology::of(&network.plan().unwrap(), &View::default()).unwrap();
    for (name, drawing) in [
        ("docs/shop.svg", Drawing::Svg),
        ("lab/src/picture/tests/shop.dot", Drawing::Dot),
        ("lab/src/picture/tests/shop.mmd", Drawing::Mermaid),
    ] {
        is_as_accepted(name, &draw(&topology, drawing));
    }
}

#[test]
fn a_picture_needs_nothing_but_itself() {
    let svg = draw(&open(&shop_plan()), Drawing::Svg);
    let document = roxmltree::Document::parse(&svg).unwrap();
    for node in document.descendants().filter(|n| n.is_element()) {
        assert!(!["script", "image", "use", "foreignObject", "a"].contains(&node.tag_name().name()));
        assert!(node.attributes().all(|a| !a.name().starts_with("on") && a.name() != "href"));
    }
    assert!(!svg.contains("url(") && !svg.contains("@import") && !svg.contains("@font-face"));
    let root = document.root_element();
    let named: Vec<&str> = root.attribute("aria-labelledby").unwrap().split(' ').collect();
    let ids: Vec<&str> = root.children().filter_map(|n| n.attribute("id")).collect();
    assert_eq!(named, ids, "the title and the description are who the picture says they are");
}

#[test]
fn nothing_and_little_can_be_drawn() {
    let nothing = Network { nodes: 0, uplinks: 0, ..Network::default() };
    let nodes = Network::default();
    let empty = Network { namespaces: namespaces(2, 0, 0), ..Network::default() };
    let services = Network { namespaces: namespaces(1, 0, 3), ..Network::default() };
    for network in [nothing, nodes, empty, services] {
        rules::hold(&open(&network.plan())).unwrap();
    }
}

#[test]
fn networks_of_all_sizes_keep_the_rules() {
    let fifty = Network { namespaces: namespaces(5, 10, 3), ..Network::default() };
    let one = Network { namespaces: namespaces(1, 50, 30), ..Network::default() };
    let dual = Network { namespaces: namespaces(3, 12, 3), dual_stack: true, ..Network::default() };
    let many = Network {
        namespaces: namespaces(100, 10, 2),
        uplinks: 64,
        routes: 20,
        own_tier1s: true,
        ..Network::default()
    };
    for network in [fifty, one, dual, many.clone(), Network { own_tier1s: false, ..many }] {
        let plan = network.plan();
        for fold in [Fold::Auto, Fold::Never, Fold::Always] {
            rules::hold(&Topology::of(&plan, &View { fold, ..View::default() }).unwrap()).unwrap();
        }
        let namespaces = [network.namespaces[0].name.clone()].into();
        rules::hold(&Topology::of(&plan, &View { fold: Fold::Auto, namespaces }).unwrap()).unwrap();
    }
}

#[test]
fn fifty_pods_have_a_readable_size() {
    let network = Network { namespaces: namespaces(5, 10, 3), ..Network::default() };
    let page = layout::page(&open(&network.plan()));
    assert!(page.w < 2600 && page.h < 2600, "{} x {}", page.w, page.h);
}

#[test]
fn hostile_names_stay_text() {
    let hostile = [
        "</title><script>alert(1)</script>",
        "\"]; evil [label=\"x",
        "\\\"",
        "x\"]\nclick n1 href \"javascript:alert(1)\"",
        "%%{init: {\"theme\":\"dark\"}}%%",
        "]]><!--",
        "&lt;&#60;",
        "style:#35;x",
        "`**bold**`",
        "\u{202e}gnp\u{0}\u{7}",
    ];
    for name in hostile {
        let mut network = Network { namespaces: namespaces(2, 3, 2), ..Network::default() };
        network.namespaces[0].name = name.to_owned();
        network.suffix = name.to_owned();
        let topology = open(&network.plan());
        rules::hold(&topology).unwrap_or_else(|e| panic!("{name:?}: {e}"));
        let mermaid = draw(&topology, Drawing::Mermaid);
        assert!(!mermaid.contains("%%") && !mermaid.contains("<script"));
    }
}

#[test]
fn whole_names_are_in_tooltips() {
    let mut network = Network { namespaces: namespaces(1, 2, 1), ..Network::default() };
    network.suffix = "-with-a-name-that-is-far-too-long-for-any-box-in-any-picture-of-a-network".to_owned();
    let svg = draw(&open(&network.plan()), Drawing::Svg);
    let document = roxmltree::Document::parse(&svg).unwrap();
    let texts = |tag: &str| {
        let nodes = document.descendants().filter(|n| n.has_tag_name(("http://www.w3.org/2000/svg", tag)));
        nodes.filter_map(|n| n.text()).map(str::to_owned).collect::<Vec<_>>()
    };
    let name = format!("pod-0{}", network.suffix);
    assert!(texts("title").iter().any(|t| t.lines().next() == Some(&name)));
    assert!(texts("text").iter().all(|t| *t != name), "it does not fit");
    assert!(texts("text").iter().any(|t| t.starts_with("pod-0-with") && t.contains('…')));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_network_keeps_the_rules(network in networks::any_network(), fold in networks::any_fold()) {
        let topology = Topology::of(&network.plan(), &View { fold, ..View::default() }).unwrap();
        rules::hold(&topology).map_err(TestCaseError::fail)?;
    }
}
