//! Whether what became of a connection is what was predicted.

use super::{
    attempt::{Answer, Outcome},
    facts::Transport,
    probes::{Expected, Probe, Seen},
};

/// What is to be said of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::lab) enum Verdict {
    AsPredicted,
    /// Another outcome, in words that follow "but".
    Differs(String),
    /// Nobody answered where some members do and others do not: both are as predicted.
    Undecided,
}

/// Compares.
pub(super) fn judge(probe: &Probe, outcome: &Outcome) -> Verdict {
    let words = || words(probe.transport, outcome);
    match (&probe.expected, outcome) {
        (_, Outcome::Failed(_)) => Verdict::Differs(words()),
        (Expected::Denied, Outcome::Silent | Outcome::Unreachable(_)) => Verdict::AsPredicted,
        (Expected::Denied, Outcome::Answered(_) | Outcome::Refused) => Verdict::Differs(words()),
        (Expected::Open { by, seen } | Expected::Partly { by, seen }, Outcome::Answered(answer)) => {
            judge_answer(&probe.from, by, seen, answer)
        }
        (Expected::Partly { .. }, _) => Verdict::Undecided,
        (Expected::Open { .. }, _) => Verdict::Differs(words()),
    }
}

/// Whether the right one answered, and saw the right address.
fn judge_answer(from: &str, by: &[String], seen: &Seen, answer: &Answer) -> Verdict {
    if let Some(who) = answer.by.as_ref().filter(|who| !by.contains(who)) {
        return Verdict::Differs(format!("{who} answered"));
    }
    let (Some(client), Some(own)) = (answer.client, answer.own) else { return Verdict::AsPredicted };
    match seen {
        Seen::Translated(addresses) if !addresses.contains(&client) => Verdict::Differs(format!(
            "it was seen as {client} instead of {}",
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
        )),
        // A pod that reaches itself through a Service sees the Service, or it would answer itself directly.
        Seen::Own if answer.by.as_deref() == Some(from) => Verdict::AsPredicted,
        Seen::Own if client != own => Verdict::Differs(format!("it was seen as {client} instead of {own}")),
        _ => Verdict::AsPredicted,
    }
}

fn words(transport: Transport, outcome: &Outcome) -> String {
    match (outcome, transport) {
        (Outcome::Answered(_), _) => "it answered".to_owned(),
        (Outcome::Refused, Transport::Tcp) => "it was refused: it got there, and nobody listens".to_owned(),
        (Outcome::Refused, Transport::Udp) => {
            "the port is closed: it got there, and nobody listens".to_owned()
        }
        (Outcome::Silent, _) => "there was no answer".to_owned(),
        (Outcome::Unreachable(why), _) => format!("it is unreachable: {why}"),
        (Outcome::Failed(why), _) => format!("it could not be tried: {why}"),
    }
}
