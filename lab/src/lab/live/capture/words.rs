//! Records by name, as the lab tells them; and in a sentence, as people read them.

use super::stream::{Fate, Note, Way};
use std::{
    fmt::Write,
    time::{SystemTime, UNIX_EPOCH},
};
use supernet::capture::{Direction, Record, Verdict};
use supernet_dataplane::{
    id::{PortId, RuleId},
    verdict::DropReason,
};

/// What a record says, by name. `origin` is the time from which its workers count.
pub(super) fn note(record: &Record, origin: SystemTime) -> Note {
    let names = &record.names;
    let port = |id: &PortId| names.ports.get(id).cloned().unwrap_or_else(|| format!("{id:?}"));
    let rule = |id: &RuleId| names.rules.get(id).map_or_else(|| format!("{id:?}"), |name| format!("{name}"));
    let at = origin + record.at.since(supernet::Instant::ZERO);
    let mut note = Note {
        time_micros: at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64),
        port: port(&record.port),
        direction: match record.direction {
            Direction::In => Way::In,
            Direction::Out => Way::Out,
        },
        rules: [record.rules.0, record.rules.1].iter().flatten().map(rule).collect(),
        server: record.server.map(|id| names.servers.get(&id).cloned().unwrap_or_else(|| format!("{id:?}"))),
        stages: record.stages.iter().map(|stage| stage.name().to_owned()).collect(),
        late: record.late,
        checksum_undone: record.offload.is_some(),
        segment_bytes: record.offload.map(|left| left.segment).filter(|bytes| *bytes > 0),
        length: u32::try_from(record.len).unwrap_or(u32::MAX),
        bytes: u32::try_from(record.data.len()).unwrap_or(u32::MAX),
        ..Note::default()
    };
    match &record.verdict {
        Verdict::Forwarded(to) => note.to = to.iter().map(port).collect(),
        Verdict::Dropped { reason, at } => {
            note.verdict = match reason {
                DropReason::Absorbed => Fate::Consumed,
                DropReason::NoServer | DropReason::NoBackend => Fate::Refused,
                _ => Fate::Dropped,
            };
            note.reason = Some(reason.name().to_owned());
            note.meaning = Some(reason.text().to_owned());
            note.dropped_at = at.as_ref().map(port);
        }
        Verdict::Answered => note.verdict = Fate::Answered,
        Verdict::Held => note.verdict = Fate::Held,
        Verdict::Sent { from } => {
            note.verdict = Fate::Sent;
            note.from = from.as_ref().map(port);
        }
    }
    note
}

/// How rules of the Supervisor's posture are called, which decides where no policy does.
pub(in crate::lab::live) const POSTURE: &str = "posture ";

impl Note {
    /// What became of the packet, in a sentence without end.
    pub(super) fn sentence(&self) -> String {
        let mut text = if self.late { "came in before; ".to_owned() } else { String::new() };
        let because = self.meaning.as_deref().unwrap_or_default();
        let denial = self.denial();
        match self.verdict {
            Fate::Forwarded if self.to.is_empty() => text += "cut into pieces that were all lost",
            Fate::Forwarded => text += &format!("to {}", self.to.join(", ")),
            Fate::Refused => text += &format!("refused: {because}"),
            Fate::Dropped if denial.is_some() => text += &denial.unwrap_or_default(),
            Fate::Dropped => text += &format!("dropped: {because}"),
            Fate::Consumed => text += &format!("consumed: {because}"),
            Fate::Answered => {
                let by = if self.has_stage("gateway") { "gateway" } else { "segment" };
                text += &format!("answered by the {by}");
            }
            Fate::Held => text += "held until the first fragment of its packet comes",
            Fate::Sent => match &self.from {
                Some(from) => text += &format!("from {from}"),
                None => text += "from the network itself",
            },
        }
        if let Some(from) = self.dropped_at.as_ref().filter(|_| self.direction == Way::Out) {
            _ = write!(text, "; came from {from}");
        }
        if self.verdict == Fate::Forwarded && self.has_stage("commit") {
            text += "; new connection";
            list(&mut text, ", server ", self.server.iter().cloned());
            // Most connections meet nothing but postures, on one side at least.
            let rules = self.rules.iter().filter(|rule| !rule.starts_with(POSTURE));
            list(&mut text, ", allowed by ", rules.cloned());
        }
        text
    }

    /// That a firewall's rule denied it, and where.
    fn denial(&self) -> Option<String> {
        let at = self.dropped_at.as_deref();
        let place = match self.reason.as_deref()? {
            "EgressDenied" => format!("where it leaves {}", at.unwrap_or("its source")),
            "IngressDenied" => format!("in front of {}", at.unwrap_or("its destination")),
            _ => return None,
        };
        let rule = self.rules.first()?;
        let rule = match rule.starts_with(POSTURE) {
            true => "the posture, as no policy selects it",
            false => rule,
        };
        Some(format!("dropped {place} by {rule}"))
    }

    /// All that is known of the packet, for a comment in a file.
    pub(super) fn comment(&self) -> String {
        let mut text = self.sentence();
        if let Some(reason) = &self.reason {
            _ = write!(text, "; reason {reason}");
        } else {
            list(&mut text, "; rules ", self.rules.iter().cloned());
        }
        list(&mut text, "; server ", self.server.iter().cloned());
        list(&mut text, "; stages ", self.stages.iter().cloned());
        if let Some(bytes) = self.segment_bytes {
            _ = write!(text, "; to be segmented, {bytes} bytes of payload each");
        }
        if self.checksum_undone {
            text += "; checksum left undone by the sender";
            // Of a part it can't be known.
            text += if self.bytes == self.length { ", and done here" } else { "" };
        }
        text
    }

    fn has_stage(&self, name: &str) -> bool {
        self.stages.iter().any(|stage| stage == name)
    }
}

/// Appends words and what they are about, unless that is nothing.
fn list(text: &mut String, words: &str, items: impl Iterator<Item = String>) {
    let items: Vec<String> = items.collect();
    if !items.is_empty() {
        _ = write!(text, "{words}{}", items.join(", "));
    }
}

/// The time of day, UTC, to a microsecond.
pub(in crate::lab::live) fn time_of_day(micros: u64) -> String {
    let (seconds, micros) = (micros / 1_000_000 % 86_400, micros % 1_000_000);
    format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_a_sentence() {
        let port = || "shop/web".to_owned();
        let mut note = Note { port: port(), to: vec!["shop/db".to_owned()], ..Note::default() };
        note.rules = vec!["posture egress".to_owned(), "shop/db ingress[1]".to_owned()];
        note.server = Some("shop/db:80/TCP".to_owned());
        assert_eq!(note.sentence(), "to shop/db");
        note.stages = vec!["commit".to_owned()];
        assert_eq!(
            note.sentence(),
            "to shop/db; new connection, server shop/db:80/TCP, allowed by shop/db ingress[1]"
        );
        assert!(
            note.comment().ends_with(
                "; rules posture egress, shop/db ingress[1]; server shop/db:80/TCP; stages commit"
            )
        );
        let denied = DropReason::IngressDenied;
        let note = Note {
            port: port(),
            verdict: Fate::Dropped,
            reason: Some(denied.name().to_owned()),
            meaning: Some(denied.text().to_owned()),
            dropped_at: Some("shop/db".to_owned()),
            rules: vec!["shop/db isolation".to_owned()],
            stages: vec!["dfw-ingress".to_owned()],
            segment_bytes: Some(1448),
            checksum_undone: true,
            ..Note::default()
        };
        assert_eq!(note.sentence(), "dropped in front of shop/db by shop/db isolation");
        let comment = note.comment();
        assert!(
            comment.contains("; reason IngressDenied; stages dfw-ingress; to be segmented, 1448 "),
            "{comment}"
        );
    }

    #[test]
    fn times_are_of_the_day() {
        assert_eq!(time_of_day(1_790_000_000_123_456), "14:13:20.123456");
        assert_eq!(time_of_day(86_399_999_999), "23:59:59.999999");
    }
}
