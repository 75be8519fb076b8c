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
    /// Somebody said no where a denial is predicted: as predicted if a policy rejects it, else another outcome.
    Refused(String),
    /// Nobody answered where some members do and others do not: both are as predicted.
    Undecided,
}

/// Compares.
pub(super) fn judge(probe: &Probe, outcome: &Outcome) -> Verdict {
    let words = || words(probe.transport, outcome);
    match (&probe.expected, outcome) {
        (_, Outcome::Failed(_) | Outcome::NoSocket) => Verdict::Differs(words()),
        (Expected::Denied, Outcome::Silent | Outcome::Unreachable(_)) => Verdict::AsPredicted,
        (Expected::Denied, Outcome::Refused) => Verdict::Refused(words()),
        (Expected::Denied, Outcome::Answered(_)) => Verdict::Differs(words()),
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
        (Outcome::NoSocket, _) => "it could not be tried: the system gives no more sockets".to_owned(),
        (Outcome::Failed(why), _) => format!("it could not be tried: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::probes::Kind, *};

    fn probe(expected: Expected) -> Probe {
        Probe {
            kind: Kind::PodToPod,
            from: "shop/web".to_owned(),
            source: None,
            to: "shop/db".to_owned(),
            address: "10.0.0.3:5432".parse().unwrap(),
            transport: Transport::Tcp,
            dns: false,
            expected,
        }
    }

    fn answer(by: &str, client: &str) -> Outcome {
        let (client, own) = (client.parse().ok(), "10.0.0.2".parse().ok());
        Outcome::Answered(Answer { by: Some(by.to_owned()), client, own })
    }

    fn differs(expected: &Expected, outcome: &Outcome) -> Option<String> {
        match judge(&probe(expected.clone()), outcome) {
            Verdict::AsPredicted => None,
            Verdict::Undecided => Some("undecided".to_owned()),
            Verdict::Differs(but) | Verdict::Refused(but) => Some(but),
        }
    }

    #[test]
    fn what_is_denied_is_silent() {
        let denied = |outcome| differs(&Expected::Denied, &outcome);
        assert_eq!(denied(Outcome::Silent), None);
        assert_eq!(denied(Outcome::Unreachable("no route".to_owned())), None);
        assert_eq!(denied(answer("shop/db", "10.0.0.2")).as_deref(), Some("it answered"));
        assert!(denied(Outcome::Refused).is_some_and(|but| but.contains("it got there")));
        assert!(
            denied(Outcome::Failed("no sockets".to_owned())).is_some_and(|but| but.contains("no sockets"))
        );
    }

    #[test]
    fn the_right_one_answers_and_sees_the_right_address() {
        let by = || vec!["shop/db".to_owned(), "shop/web".to_owned()];
        let open = Expected::Open { by: by(), seen: Seen::Own };
        assert_eq!(differs(&open, &answer("shop/db", "10.0.0.2")), None);
        assert_eq!(differs(&open, &answer("shop/web", "10.96.0.1")), None, "itself, by way of a Service");
        assert_eq!(differs(&open, &answer("shop/x", "10.0.0.2")).as_deref(), Some("shop/x answered"));
        let seen = differs(&open, &answer("shop/db", "10.96.0.1"));
        assert_eq!(seen.as_deref(), Some("it was seen as 10.96.0.1 instead of 10.0.0.2"));
        assert_eq!(differs(&open, &Outcome::Silent).as_deref(), Some("there was no answer"));
        let silent = Outcome::Answered(Answer::default());
        assert_eq!(differs(&open, &silent), None, "a server of somebody else");

        let egress = vec!["192.168.90.1".parse().unwrap()];
        let translated = Expected::Open { by: by(), seen: Seen::Translated(egress) };
        assert_eq!(differs(&translated, &answer("shop/db", "192.168.90.1")), None);
        let seen = differs(&translated, &answer("shop/db", "10.0.0.2"));
        assert_eq!(seen.as_deref(), Some("it was seen as 10.0.0.2 instead of 192.168.90.1"));

        let partly = Expected::Partly { by: by(), seen: Seen::Own };
        assert_eq!(differs(&partly, &Outcome::Silent).as_deref(), Some("undecided"));
        assert_eq!(differs(&partly, &answer("shop/x", "10.0.0.2")).as_deref(), Some("shop/x answered"));
    }
}
