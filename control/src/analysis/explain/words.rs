//! What would have to differ, in a sentence.

use super::{Difference, Explanation, Nearest, Question, walk::Walk};
use crate::{analysis::text, model::Peer, policy::POSTURE};
use supernet_dataplane::wire::Proto;

/// One sentence without its full stop; `None` where nothing can be said.
pub(super) fn advice(explanation: &Explanation, question: &Question, walk: &Walk<'_>) -> Option<String> {
    let rule = &explanation.rule;
    match (&explanation.nearest, &explanation.overridden) {
        (Some(nearest), None) => Some(sentence(nearest, question)),
        (nearest, Some(behind)) => {
            let changed = format!("that rule would have to be changed: behind it {behind} would allow this");
            Some(match nearest {
                Some(nearest) if nearest.differences.len() == 1 => {
                    format!("{changed}; or else {}", sentence(nearest, question))
                }
                _ => changed,
            })
        }
        (None, None) if rule.is_tiered() => {
            let changed = "that rule would have to be changed";
            let next = walk.next(walk.compiled().rule);
            // Further rules may allow it behind the next one that denies, but not behind the posture.
            Some(match next.policy == POSTURE {
                true => format!("{changed}, and no rule behind it allows this"),
                false => format!("{changed}, and behind it {next}, which denies this too"),
            })
        }
        // Where only the posture speaks it has said all.
        (None, None) if rule.policy == POSTURE || walk.allowing().next().is_none() => None,
        (None, None) => Some(format!("no rule of pod {} allows anything near", explanation.at)),
    }
}

/// `shop/web ingress[0] would allow TCP 80 if pod other/curl had label app=frontend`.
fn sentence(nearest: &Nearest, question: &Question) -> String {
    let service = nearest.differences.iter().find_map(|difference| match difference {
        Difference::Service { protocol, ports } => Some(self::service(protocol, *ports)),
        _ => None,
    });
    let asked = match question.proto {
        proto if proto.is_icmp() => proto.to_string(),
        proto => format!("{proto} {}", question.port),
    };
    let what = match service {
        Some(other) => format!("{other}, not {asked},"),
        None => asked,
    };
    let others = nearest.differences.iter().filter_map(|difference| condition(difference, question));
    let conditions = text::join(others, " and ");
    if conditions.is_empty() {
        return format!("{} would allow {}", nearest.rule, what.trim_end_matches(','));
    }
    format!("{} would allow {what} if {conditions}", nearest.rule)
}

fn condition(difference: &Difference, question: &Question) -> Option<String> {
    let label = |whose: &str, key: &str, value: &Option<String>, any: bool| match value {
        None => format!("{whose} had no label {key}"),
        Some(_) if any => format!("{whose} had a label {key}"),
        Some(value) => format!("{whose} had label {key}={value}"),
    };
    Some(match difference {
        Difference::Service { .. } => return None,
        Difference::PodLabel { pod, key, value, any } => label(&format!("pod {pod}"), key, value, *any),
        Difference::NamespaceLabel { namespace, key, value, any } => {
            label(&format!("namespace {namespace}"), key, value, *any)
        }
        Difference::Namespace { pod, namespace } => format!("pod {pod} were in namespace {namespace}"),
        Difference::Address { within, except, .. } => {
            let verb = if question.egress { "went to" } else { "came from" };
            let range = Peer::Block { cidr: *within, except: except.clone() };
            match within.network() == within.broadcast() {
                true => format!("it {verb} {}", within.addr()),
                false => format!("it {verb} an address in {}", text::peer("", &range)),
            }
        }
    })
}

/// "TCP 80", "TCP 8000-8999", "UDP", "ICMP type 8".
fn service(protocol: &str, (from, to): (u16, u16)) -> String {
    let is_icmp = protocol == Proto::ICMP.to_string() || protocol == Proto::ICMPV6.to_string();
    let [kind, code] = from.to_be_bytes();
    match (from, to) {
        (0, u16::MAX) => format!("any {protocol}"),
        _ if is_icmp && from == to => format!("{protocol} type {kind} code {code}"),
        _ if is_icmp => format!("{protocol} type {kind}"),
        _ => format!("{protocol} {}", text::range(from, to)),
    }
}
