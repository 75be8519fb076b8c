//! Limits of connections: the Supervisor's `limits`, and annotations of namespaces and pods.

use super::{
    declared::Meta,
    reading::{Fields, Reading},
    schema,
    yaml::{Node, Value},
};
use crate::model::{DefaultLimits, Limit, LimitSettings};
use std::num::NonZeroU32;

/// Connections at one time.
pub(super) const CONNECTIONS_ANNOTATION: &str = "supernet.dev/max-connections";
/// Half-open TCP connections at one time.
pub(super) const HALF_OPEN_ANNOTATION: &str = "supernet.dev/max-half-open";
/// New connections a second.
pub(super) const RATE_ANNOTATION: &str = "supernet.dev/max-new-per-second";

const UNLIMITED: &str = "unlimited";

/// The Supervisor's defaults.
pub(super) fn read_defaults(r: &mut Reading, spec: &Fields<'_>) -> DefaultLimits {
    let fields = r.sub(spec, "limits", &schema::LIMITS);
    let mut of = |field| {
        let fields = r.sub(&fields, field, &schema::CONNECTION_LIMITS);
        let mut limit = |field| fields.get(field).and_then(|n| read(r, n, false));
        LimitSettings {
            connections: limit("connections"),
            half_open: limit("halfOpen"),
            new_per_second: limit("newPerSecond"),
        }
    };
    DefaultLimits { pod: of("pod"), namespace: of("namespace") }
}

/// What an object says of its own.
pub(super) fn read_annotations(r: &mut Reading, meta: &Meta<'_>) -> LimitSettings {
    let mut limit = |key| meta.annotation(key).and_then(|n| read(r, n, true));
    LimitSettings {
        connections: limit(CONNECTIONS_ANNOTATION),
        half_open: limit(HALF_OPEN_ANNOTATION),
        new_per_second: limit(RATE_ANNOTATION),
    }
}

/// The first annotation of limits that an object has.
pub(super) fn annotated<'n>(meta: &Meta<'n>) -> Option<(&'static str, &'n Node)> {
    let all = [CONNECTIONS_ANNOTATION, HALF_OPEN_ANNOTATION, RATE_ANNOTATION];
    all.into_iter().find_map(|key| Some((key, meta.annotation(key)?)))
}

/// A number, which an annotation has in quotes, or the word.
fn read(r: &mut Reading, node: &Node, quoted: bool) -> Option<Limit> {
    let text = match &node.value {
        Value::Number(text) if !quoted => text,
        Value::String(text) if quoted || text == UNLIMITED => text,
        // Tells what is wrong with it.
        _ if quoted => r.text(node)?,
        Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() => {
            r.invalid(node.place, format!("a limit `{text}` in quotes"), "write it without quotes");
            return None;
        }
        Value::String(text) => text,
        _ => {
            let most = i64::from(Limit::MOST);
            r.integer(node, 1..=most);
            return None;
        }
    };
    if text == UNLIMITED {
        return Some(Limit::Unlimited);
    }
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let digits = text.trim_start_matches('0');
    if is_number && digits.is_empty() {
        // Elsewhere it means "none at all" as often as "any number".
        let advice = format!(
            "write `{UNLIMITED}` if there is to be no limit, and a NetworkPolicy if there are to be no connections"
        );
        r.invalid(node.place, "a limit of 0", advice);
        return None;
    }
    let number = text.parse::<NonZeroU32>().ok().filter(|n| n.get() <= Limit::MOST);
    let number = number.filter(|_| is_number && digits == text);
    if number.is_none() {
        let quotes = if quoted { ", in quotes" } else { "" };
        let advice = format!("write a number from 1 to {}{quotes}, or `{UNLIMITED}`", Limit::MOST);
        r.invalid(node.place, format!("`{text}` is no limit"), advice);
    }
    number.map(Limit::AtMost)
}
