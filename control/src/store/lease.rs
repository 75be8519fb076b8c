//! What is stored: which owner has which address or block, and which ones rest.

use crate::model::Name;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// All leases. An address is a prefix of full length (/32 or /128), a block is shorter. No address is there
/// twice, since it is the key.
pub type LeaseTable = BTreeMap<IpNet, Lease>;

/// Changes that become durable together: the new lease of each prefix, or `None` where it ends.
pub type LeaseBatch = BTreeMap<IpNet, Option<Lease>>;

/// Who has an address or block, or had it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The owner; of a resting lease, the last one.
    pub owner: Owner,
    /// `None` while it is held. Else nobody but the last owner may have it before that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resting_until: Option<UnixSeconds>,
}

impl Lease {
    /// A lease that its owner holds.
    pub fn held(owner: Owner) -> Self {
        Self { owner, resting_until: None }
    }

    /// Whether its owner holds it, rather than having given it back.
    pub fn is_held(&self) -> bool {
        self.resting_until.is_none()
    }
}

/// What can hold an address or a block. The order is the one in which pools are handed out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    /// The KubeAPI virtual server.
    KubeApi,
    /// The CLI tools' virtual server.
    CliTools,
    /// A node.
    Node(String),
    /// A Service's address inside the cluster.
    ClusterIp(#[serde(with = "NameRecord")] Name),
    /// A LoadBalancer Service's address outside the cluster.
    Ingress(#[serde(with = "NameRecord")] Name),
    /// The SNAT of a namespace.
    Egress(String),
    /// A segment, which holds blocks.
    Segment {
        /// Its namespace.
        namespace: String,
        /// Its number, counted from 0.
        number: u32,
    },
    /// A pod.
    Pod(#[serde(with = "NameRecord")] Name),
}

impl Owner {
    /// A segment of a namespace.
    pub fn segment(namespace: impl Into<String>, number: u32) -> Self {
        Self::Segment { namespace: namespace.into(), number }
    }

    /// The name alone, where the kind is clear.
    pub fn short(&self) -> String {
        match self {
            Self::KubeApi => "KubeAPI".to_owned(),
            Self::CliTools => "CLI tools".to_owned(),
            Self::Node(name) | Self::Egress(name) => name.clone(),
            Self::ClusterIp(name) | Self::Ingress(name) | Self::Pod(name) => name.to_string(),
            Self::Segment { namespace, number } => format!("{namespace}-{number}"),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::KubeApi | Self::CliTools => "virtual server",
            Self::Node(_) => "node",
            Self::ClusterIp(_) => "ClusterIP of Service",
            Self::Ingress(_) => "LoadBalancer Service",
            Self::Egress(_) => "SNAT of namespace",
            Self::Segment { .. } => "segment",
            Self::Pod(_) => "pod",
        };
        write!(f, "{kind} {}", self.short())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Name")]
struct NameRecord {
    namespace: String,
    name: String,
}

/// A point in time: whole seconds since 1970-01-01T00:00:00Z, passed in by the caller and never read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// The time `seconds` later.
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

impl fmt::Display for UnixSeconds {
    /// RFC 3339, in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Days to a civil date: years are counted from March, so that the leap day ends a year.
        let (days, second) = (self.0 / 86_400 + 719_468, self.0 % 86_400);
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_read_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_600, "2025-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(UnixSeconds(seconds).to_string(), text);
        }
        assert!(!UnixSeconds(u64::MAX).to_string().is_empty());
    }

    #[test]
    fn a_lease_comes_back_from_its_text() {
        let owners = [
            Owner::KubeApi,
            Owner::CliTools,
            Owner::Node("n".into()),
            Owner::ClusterIp(Name::new("a", "b")),
            Owner::Ingress(Name::new("a", "b")),
            Owner::Egress("a".into()),
            Owner::segment("a", 7),
            Owner::Pod(Name::new("odd/\"", "name s")),
        ];
        for owner in owners {
            for resting_until in [None, Some(UnixSeconds(5))] {
                let lease = Lease { owner: owner.clone(), resting_until };
                let text = serde_json::to_string(&lease).unwrap();
                assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), lease, "{text}");
            }
        }
    }
}
