use super::*;
use crate::time::Duration;
use proptest::prelude::*;

fn limit(n: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(n)
}

fn limits(connections: u32, half_open: u32, new_per_second: u32) -> ConnectionLimits {
    ConnectionLimits {
        connections: limit(connections),
        half_open: limit(half_open),
        new_per_second: limit(new_per_second),
    }
}

const POD: (PortId, NamespaceId) = (PortId(3), NamespaceId(5));

/// What a pod and its namespace have, refusals left out.
fn counted(quotas: &Quotas) -> [(u32, u32); 2] {
    [quotas.pod(POD.0), quotas.namespace(POD.1)].map(|usage| (usage.connections, usage.half_open))
}

#[test]
fn a_refused_or_dropped_claim_leaves_nothing() {
    let (quotas, now) = (Quotas::default(), Instant::from_secs(1));
    let claim = |pod: &ConnectionLimits, namespace: ConnectionLimits| {
        quotas.claim(POD, pod, |id| if id == POD.1 { namespace } else { ConnectionLimits::NONE }, true, now)
    };
    claim(&ConnectionLimits::NONE, ConnectionLimits::NONE).unwrap().keep();
    let any = ConnectionLimits::NONE;
    for (pod, namespace, reason) in [
        (limits(1, 0, 0), any, DropReason::PodConnections),
        (limits(2, 1, 0), any, DropReason::PodHalfOpen),
        (any, limits(1, 0, 0), DropReason::NamespaceConnections),
        (any, limits(2, 1, 0), DropReason::NamespaceHalfOpen),
    ] {
        for _ in 0..3 {
            assert_eq!(claim(&pod, namespace).unwrap_err(), reason);
            assert_eq!(counted(&quotas), [(1, 1); 2], "{reason:?}");
        }
    }
    // A token that the namespace's limit made useless is there again.
    for _ in 0..3 {
        claim(&limits(0, 0, 1), limits(1, 0, 0)).unwrap_err();
        drop(claim(&limits(0, 0, 1), limits(0, 0, 1)).unwrap());
    }
    claim(&limits(0, 0, 1), limits(0, 0, 1)).unwrap().keep();
    assert_eq!(claim(&limits(0, 0, 1), any).unwrap_err(), DropReason::PodConnectionRate);
    assert_eq!(claim(&any, limits(0, 0, 1)).unwrap_err(), DropReason::NamespaceConnectionRate);
    quotas.establish(POD.0);
    assert_eq!(counted(&quotas), [(2, 1); 2]);
    quotas.end(POD.0, true);
    quotas.end(POD.0, false);
    assert_eq!(counted(&quotas), [(0, 0); 2]);
    for reason in DropReason::ALL {
        quotas.refuse(POD.0, *reason);
    }
    // Other reasons are no limit of anybody's, and are not told to it.
    assert_eq!((quotas.pod(POD.0).refused, quotas.namespace(POD.1).refused), (3, 3));
}

/// Ids are never reused; should a port be said to be of another namespace all the same, nothing is lost.
#[test]
fn a_pod_counts_for_the_namespace_it_had_first() {
    let (quotas, now) = (Quotas::default(), Instant::ZERO);
    let any = |_| ConnectionLimits::NONE;
    quotas.claim(POD, &ConnectionLimits::NONE, any, true, now).unwrap().keep();
    let other = (POD.0, NamespaceId(6));
    quotas.claim(other, &ConnectionLimits::NONE, any, true, now).unwrap().keep();
    assert_eq!(counted(&quotas), [(2, 2); 2]);
    (0..2).for_each(|_| quotas.end(POD.0, true));
    assert_eq!((counted(&quotas), quotas.namespace(other.1)), ([(0, 0); 2], QuotaUsage::default()));
}

proptest! {
    /// The bucket against one that counts tokens as fractions of two integers, through changes of the rate and of
    /// time: never more than that one lets in, and as many but for the rounding.
    #[test]
    fn the_rate_is_that_of_a_bucket_of_tokens(
        rate in prop_oneof![1u32..20, 1u32..5000, Just(1_000_000_000)],
        steps in proptest::collection::vec((0u64..3_000_000, 1u32..40), 1..60),
    ) {
        let (row, rated) = (Row::default(), limits(0, 0, rate));
        // A token is a million parts, of which `rate` come in each microsecond.
        const TOKEN: u128 = 1_000_000;
        let (full, mut parts) = (u128::from(rate) * TOKEN, u128::from(rate) * TOKEN);
        let mut now = Instant::from_secs(1_000_000);
        let (mut passed, mut allowed) = (0u64, 0u64);
        for (wait, tries) in steps {
            now = now + Duration::from_micros(wait);
            parts = full.min(parts + u128::from(wait) * u128::from(rate));
            for _ in 0..tries {
                let exact = parts >= TOKEN;
                if exact {
                    parts -= TOKEN;
                    allowed += 1;
                }
                if let Ok(held) = row.claim(&rated, false, now) {
                    std::mem::forget(held);
                    passed += 1;
                }
                prop_assert!(passed <= allowed, "{passed} of {allowed}");
            }
        }
        // A price is rounded up by less than a nanosecond: that is one in 10^9 / rate.
        let lost = allowed as u128 * u128::from(rate) / 1_000_000_000 + 1;
        prop_assert!(u128::from(allowed - passed) <= lost, "{passed} of {allowed}");
    }

    /// Whatever the clock does, and whatever the rate becomes, a second of rest gives a full second's worth.
    #[test]
    fn a_second_of_rest_is_enough(
        steps in proptest::collection::vec((1u32..2000, 0u64..5_000_000), 1..40), last in 1u32..500,
    ) {
        let row = Row::default();
        let mut newest = Instant::ZERO;
        for (rate, at) in steps {
            let at = Instant::from_micros(at);
            newest = newest.max(at);
            while let Some(price) = row.pay(limit(rate), at) {
                prop_assert!(price > 0);
            }
        }
        // Workers are told different times, so more than one second from the newest may be paid for; a rounded-up
        // second is a little more than a second.
        let now = newest + Duration::from_micros(1_000_010);
        let passed = (0..1000).filter(|_| row.pay(limit(last), now).is_some()).count();
        prop_assert_eq!(passed as u32, last);
    }
}
