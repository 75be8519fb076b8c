//! How wide text is, without a font to ask.
//!
//! A viewer takes whatever font it has, so widths are those of the widest fonts that stand behind `sans-serif` and
//! `monospace` (Verdana, DejaVu Sans) rounded up. What is estimated to fit does fit.

use std::borrow::Cow;

/// The fonts of a picture. Size and weight say what is above what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Font {
    /// The picture's title and the Tier-0.
    Title,
    /// Tier-1 gateways and namespaces.
    Heading,
    /// Segments and virtual servers.
    Name,
    /// Pods, nodes and uplinks.
    End,
    /// Addresses.
    Address,
    /// Remarks.
    Remark,
}

impl Font {
    /// Its height in pixels.
    pub(super) fn size(self) -> i32 {
        match self {
            Self::Title => 18,
            Self::Heading => 15,
            Self::Name => 13,
            Self::End | Self::Remark => 12,
            Self::Address => 11,
        }
    }

    /// Whether all its letters have one width.
    pub(super) fn is_monospace(self) -> bool {
        matches!(self, Self::End | Self::Address)
    }

    fn is_bold(self) -> bool {
        matches!(self, Self::Title | Self::Heading | Self::Name)
    }

    /// Thousandths of the size that a character is wide at the most.
    fn advance(self, c: char) -> i32 {
        let plain = match c {
            c if !c.is_ascii() => 1300,
            _ if self.is_monospace() => return 620,
            'i' | 'j' | 'l' | 't' | 'f' | 'r' | 'I' | ' ' | '.' | ',' | ':' | ';' | '\'' | '|' | '!'
            | '-' | '/' | '(' | ')' | '[' | ']' => 460,
            'm' | 'M' | 'W' | '@' | '%' => 1000,
            'w' => 850,
            'A'..='Z' | '+' | '<' | '>' | '=' | '~' | '#' | '&' | '_' => 850,
            _ => 660,
        };
        if self.is_bold() { plain * 113 / 100 } else { plain }
    }

    /// How many pixels a text is wide at the most.
    pub(super) fn width(self, text: &str) -> i32 {
        let thousandths: i64 = text.chars().map(|c| i64::from(self.advance(c) * self.size())).sum();
        i32::try_from(thousandths / 1000 + 1).unwrap_or(i32::MAX)
    }

    /// The text, or as much of its beginning and end as fits into so many pixels: what tells the pods of a
    /// workload apart stands at the end.
    pub(super) fn shorten(self, text: &str, room: i32) -> Cow<'_, str> {
        if self.width(text) <= room {
            return Cow::Borrowed(text);
        }
        let chars: Vec<char> = text.chars().collect();
        let mut left = i64::from(room) * 1000 - i64::from((self.advance(GAP) + 1) * self.size()) - 1000;
        let (mut head, mut tail) = (0, chars.len());
        while head < tail {
            let at_head = head <= chars.len() - tail;
            let next = if at_head { head } else { tail - 1 };
            left -= i64::from(self.advance(chars[next]) * self.size());
            if left < 0 {
                break;
            }
            if at_head { head += 1 } else { tail -= 1 }
        }
        let parts = chars[..head].iter().chain([&GAP]).chain(&chars[tail..]);
        Cow::Owned(parts.collect())
    }
}

/// Stands for what was left out.
const GAP: char = '…';

/// A text in one line without what no picture can hold: control characters, which XML forbids, and marks that
/// turn the direction of what follows, which would let a name rearrange its surroundings.
pub(super) fn clean(text: &str) -> String {
    let shown = |c: char| match c {
        '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            '\u{fffd}'
        }
        '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_lose_their_middle() {
        let name = "web-frontend-of-the-shop-5jrrmj76qh-47gq8";
        let short = Font::End.shorten(name, 160);
        assert_eq!(short, "web-fronte…6qh-47gq8");
        assert!(Font::End.width(&short) <= 160);
        assert_eq!(Font::End.shorten("web", 160), "web");
        assert_eq!(Font::End.shorten(name, 0), "…");
    }

    #[test]
    fn what_rearranges_or_breaks_is_replaced() {
        assert_eq!(clean("a\u{202e}b\nc\0d\u{7f}é"), "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}é");
    }
}
