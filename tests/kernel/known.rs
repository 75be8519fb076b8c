//! Where Supernet differs from Linux, and why.

use std::collections::BTreeSet;

/// Fields that differ in some cases.
pub(crate) struct Known {
    pub(crate) fields: &'static [&'static str],
    /// Why it is so.
    pub(crate) why: &'static str,
    pub(crate) cases: &'static [&'static str],
}

/// All that is known to differ.
pub(crate) const KNOWN: &[Known] = &[
    Known {
        fields: &["quoted ttl", "ttl"],
        why: "one walk past two routers: the second quotes the packet as it came to the first, and its error passes no other",
        cases: &[
            "TTL 2 from a pod, UDP",
            "TTL 2 from a pod, echo",
            "TTL 1 and 2 of an open connection",
            "TTL 2 of an answer from outside",
            "TTL 2 to a VIP, from outside",
            "MTU + 1, DF",
            "MTU + 1, DF, of an open TCP connection",
            "MTU + 1, DF, with options",
            "too big for the member, DF, to a VIP",
            "an answer too big for who asked",
            "UDP to a closed port of a VIP",
            "IPv6 hop limit 2",
            "IPv6 hop limit 2, from outside",
            "IPv6, MTU + 1",
            "IPv6, too big for a pod, from outside",
        ],
    },
    Known {
        fields: &["ttl"],
        why: "a VIP answers where the packet came in, in Linux one router further on",
        cases: &["echo to a VIP", "SYN to a closed port of a VIP", "SYN with data to a closed port of a VIP"],
    },
    Known {
        fields: &["src"],
        why: "a router speaks in its own name (RFC 1812, 4.3.2.4); Linux translates it as if its packet were the member's or the pod's",
        cases: &[
            "TTL 2 of an answer from outside",
            "TTL 1 to a ClusterIP",
            "TTL 2 to a VIP, from outside",
            "too big for the member, DF, to a VIP",
            "too big for the member, DF, to a ClusterIP",
            "an answer too big for who asked",
        ],
    },
    Known {
        fields: &["src"],
        why: "to the outside the Tier-0 lends its address; Linux takes any of the Tier-1's",
        cases: &["IPv6 hop limit 2, from outside", "IPv6, too big for a pod, from outside"],
    },
    Known {
        fields: &["tos"],
        why: "errors have precedence 6 and no more; Linux adds low bits of the packet's DSCP and ECN, which were TOS once",
        cases: &["TTL 1 with DSCP and ECN"],
    },
    Known {
        fields: &["only Supernet sends"],
        why: "checksums of what passes are mended, not checked: the receiver finds them wrong, as they are",
        cases: &["UDP with a wrong checksum", "TCP with a wrong checksum"],
    },
    Known {
        fields: &["options"],
        why: "options are carried, not followed (RFC 1812, 4.2.2.6 allows it); Linux writes its addresses and times",
        cases: &["options: record route", "options: timestamp"],
    },
    Known {
        fields: &["only Supernet sends"],
        why: "options are carried, not followed; Linux drops what has a source route",
        cases: &["options: loose source route"],
    },
    Known {
        fields: &["other ports", "only Supernet sends"],
        why: "options are carried, not read; Linux answers with a parameter problem",
        cases: &["options: longer than their header"],
    },
    Known {
        fields: &["length", "options"],
        why: "later fragments have the options that are copied (RFC 791); Linux puts NOPs in place of the others",
        cases: &["MTU + 1, with options"],
    },
    Known {
        fields: &["only Linux sends"],
        why: "addresses that are no host's beyond a router are not routed (RFC 1812, 5.3.7; RFC 3927, 2.7)",
        cases: &["to 240.0.0.1", "to 169.254.169.254"],
    },
    Known {
        fields: &["only Linux sends"],
        why: "a pod has its own address only, and the outside has none of the pods' (uRPF); Linux was not told",
        cases: &["another pod's address, from a pod", "a pod's address, from outside"],
    },
    Known {
        fields: &["only Linux sends"],
        why: "only TCP, UDP, SCTP and echoes have sessions, and what has none is dropped",
        cases: &["ICMP timestamp request", "a protocol without ports"],
    },
    Known {
        fields: &["other ports"],
        why: "a fragment that may not be cut is answered; Linux reassembles and cuts it all the same",
        cases: &["fragments that do not fit, DF"],
    },
    Known {
        fields: &["other ports"],
        why: "what follows a first fragment that was stopped is stopped; in Linux the second router has forgotten",
        cases: &["IPv6, fragments that do not fit"],
    },
    Known {
        fields: &["length", "quoted bytes quoted", "quoted fragment", "quoted length"],
        why: "the error quotes the first fragment, as it came; Linux reassembles before it looks at the TTL",
        cases: &["fragments with TTL 1"],
    },
    Known {
        fields: &["only Supernet sends"],
        why: "fragments are passed on as they come, and what spoils their packet is dropped; Linux reassembles first",
        cases: &[
            "the last fragment lost",
            "overlapping fragments",
            "a fragment of nothing",
            "a fragment beyond 64 KiB",
            "IPv6, overlapping fragments",
        ],
    },
    Known {
        fields: &["only Linux sends"],
        why: "a first fragment has all of the TCP header (RFC 1858, RFC 3128); Linux reassembles it",
        cases: &[
            "TCP whose first fragment has eight bytes",
            "TCP whose first fragment ends within its options",
        ],
    },
    Known {
        fields: &["only Linux sends"],
        why: "a fragment that others follow is a multiple of eight bytes (RFC 791); Linux takes what fits",
        cases: &["a fragment whose length is no multiple of eight"],
    },
    Known {
        fields: &["only Linux sends"],
        why: "source quench is of the past and dropped (RFC 6633)",
        cases: &["source quench about UDP"],
    },
    Known {
        fields: &["only Supernet sends"],
        why: "the ports tell whose it is; Linux wants the eight bytes that RFC 792 promises",
        cases: &["an error whose quote has four bytes of UDP"],
    },
    Known {
        fields: &["only Linux sends"],
        why: "an error must be in one piece, as its checksum is asked for before its quote is believed",
        cases: &["an error in fragments"],
    },
    Known {
        fields: &["only Linux sends"],
        why: "a connection begins with a SYN; Linux picks up others (nf_conntrack_tcp_loose)",
        cases: &["ACK on no connection", "ACK to a VIP on no connection"],
    },
    Known {
        fields: &["only Linux sends"],
        why: "only a SYN is refused with a reset; what belongs to no connection gets no answer",
        cases: &["ACK to a closed port of a VIP"],
    },
    Known {
        fields: &["only Supernet sends"],
        why: "segments of a connection are judged by its ends; Linux follows flags and windows",
        cases: &[
            "NULL on an open connection",
            "XMAS on an open connection",
            "SYN+FIN on an open connection",
            "SYN+RST on an open connection",
            "RST far outside the window",
            "data far outside the window",
        ],
    },
];

/// The fields that are known to differ in a case.
pub(crate) fn fields(case: &str) -> BTreeSet<&'static str> {
    of(case).flat_map(|known| known.fields).copied().collect()
}

/// Why they do.
pub(crate) fn reasons(case: &str) -> Vec<&'static str> {
    of(case).map(|known| known.why).collect()
}

fn of(case: &str) -> impl Iterator<Item = &'static Known> {
    KNOWN.iter().filter(move |known| known.cases.contains(&case))
}
