//! What resolvers of hosts are to go by: resolv.conf, and how nsswitch.conf has them look up hosts.

use super::zone::CLUSTER;
use std::net::IpAddr;
use supernet_control::model::{DnsPolicy, Pod, PodDns};

/// As many name servers as resolvers take.
const SERVERS: usize = 3;

/// Of a host that asks nobody. Resolvers then ask the host itself, where nobody listens; glibc's hears of that, musl's
/// would wait.
pub(super) const NOBODY: &str = "# Nobody is asked for names here.\noptions timeout:0 attempts:1\n";

/// The resolv.conf of a pod that reaches the cluster's DNS at `servers`.
pub(super) fn of_pod(pod: &Pod, servers: &[IpAddr]) -> String {
    let PodDns { policy, nameservers, searches, options, .. } = &pod.dns;
    let by_cluster = match policy {
        DnsPolicy::ClusterFirst => !pod.host_network,
        DnsPolicy::ClusterFirstWithHostNet => true,
        // Its node asks nobody.
        DnsPolicy::Default | DnsPolicy::None => false,
    };
    let mut all_servers: Vec<IpAddr> = Vec::new();
    let mut domains: Vec<String> = Vec::new();
    let mut all_options: Vec<(&str, Option<&str>)> = Vec::new();
    if by_cluster {
        all_servers.extend(servers);
        let svc = format!("svc.{CLUSTER}");
        domains.extend([format!("{}.{svc}", pod.name.namespace), svc, CLUSTER.to_owned()]);
        all_options.push(("ndots", Some("5")));
    }
    // As the kubelet adds them: each once, and an option of the pod's in place of ours.
    all_servers.extend(nameservers);
    domains.extend(searches.iter().cloned());
    for (name, value) in options {
        all_options.retain(|(other, _)| other != name);
        all_options.push((name, value.as_deref()));
    }
    dedup(&mut all_servers);
    dedup(&mut domains);
    if all_servers.is_empty() {
        return NOBODY.to_owned();
    }
    let mut text = String::new();
    if !domains.is_empty() {
        text.push_str(&format!("search {}\n", domains.join(" ")));
    }
    for server in all_servers.iter().take(SERVERS) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let words = all_options.iter().map(|(name, value)| match value {
        Some(value) => format!("{name}:{value}"),
        None => (*name).to_owned(),
    });
    let words: Vec<String> = words.collect();
    if !words.is_empty() {
        text.push_str(&format!("options {}\n", words.join(" ")));
    }
    text
}

/// An nsswitch.conf by which hosts are looked up in files and by DNS, for a system that has someone else asked (a
/// resolver of the system's own, which knows nothing of the lab). `None`: the system's will do.
pub(in crate::lab) fn hosts_by_dns(system: &str) -> Option<String> {
    let words = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let list = line.trim_start().strip_prefix("hosts:")?;
        Some(list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    let plain = |words: &[String]| words.iter().all(|w| matches!(&**w, "files" | "dns" | "myhostname"));
    if system.lines().filter_map(words).all(|w| plain(&w) && w.iter().any(|w| w == "dns")) {
        return None;
    }
    let line = |line: &str| match words(line) {
        Some(_) => "hosts: files dns\n".to_owned(),
        None => format!("{line}\n"),
    };
    Some(system.lines().map(line).collect())
}

fn dedup<T: PartialEq>(items: &mut Vec<T>) {
    let mut seen = Vec::new();
    for item in items.drain(..) {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    *items = seen;
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernet_control::model::Name;

    fn pod(dns: PodDns) -> Pod {
        Pod { dns, ..Pod::new(Name::new("shop", "web")) }
    }

    fn servers() -> Vec<IpAddr> {
        vec!["10.96.0.10".parse().unwrap()]
    }

    #[test]
    fn a_pod_asks_the_cluster_unless_it_says_otherwise() {
        let plain = of_pod(&pod(PodDns::default()), &servers());
        let search = "search shop.svc.cluster.local svc.cluster.local cluster.local\n";
        assert_eq!(plain, format!("{search}nameserver 10.96.0.10\noptions ndots:5\n"));
        let on_node = Pod { host_network: true, ..pod(PodDns::default()) };
        assert_eq!(of_pod(&on_node, &servers()), NOBODY);
        let policy = DnsPolicy::ClusterFirstWithHostNet;
        let on_node = Pod { host_network: true, ..pod(PodDns { policy, ..PodDns::default() }) };
        assert_eq!(of_pod(&on_node, &servers()), plain);
        let policy = DnsPolicy::Default;
        assert_eq!(of_pod(&pod(PodDns { policy, ..PodDns::default() }), &servers()), NOBODY);
    }

    #[test]
    fn what_a_pod_configures_is_added_or_all_there_is() {
        let own = |policy| PodDns {
            policy,
            nameservers: vec!["10.1.1.1".parse().unwrap(), servers()[0]],
            searches: vec!["example.org".to_owned(), "cluster.local".to_owned()],
            options: vec![("ndots".to_owned(), Some("2".to_owned())), ("edns0".to_owned(), None)],
            ..PodDns::default()
        };
        assert_eq!(
            of_pod(&pod(own(DnsPolicy::ClusterFirst)), &servers()),
            "search shop.svc.cluster.local svc.cluster.local cluster.local example.org\n\
             nameserver 10.96.0.10\nnameserver 10.1.1.1\noptions ndots:2 edns0\n"
        );
        assert_eq!(
            of_pod(&pod(own(DnsPolicy::None)), &servers()),
            "search example.org cluster.local\nnameserver 10.1.1.1\nnameserver 10.96.0.10\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn a_resolver_of_the_systems_is_passed_by() {
        assert_eq!(hosts_by_dns("passwd: files\nhosts:  files dns # both\n"), None);
        assert_eq!(hosts_by_dns("passwd: files\n"), None, "files and dns, then");
        let fedora =
            "passwd: files\nhosts: files myhostname resolve [!UNAVAIL=return] dns\nnetworks: files\n";
        let ours = "passwd: files\nhosts: files dns\nnetworks: files\n";
        assert_eq!(hosts_by_dns(fedora).as_deref(), Some(ours));
        assert_eq!(hosts_by_dns("hosts: files\n").as_deref(), Some("hosts: files dns\n"));
    }
}
