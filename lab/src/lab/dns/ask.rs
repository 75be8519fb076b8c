//! The other side: asking the DNS who it is, and whom it sees.

use super::zone::name;
use domain::{
    base::{
        Message, MessageBuilder, Rtype,
        iana::{Class, Rcode},
    },
    rdata::Txt,
};

/// A query that is answered with who answers it.
pub(in crate::lab) fn who(id: u16) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    let mut builder = builder.question();
    if let Some(name) = name("id.server") {
        // It fits into an empty message.
        let _ = builder.push((name, Rtype::TXT, Class::CH));
    }
    builder.finish()
}

/// What an answer to the query of this number says, a line each; of somebody else's server that may be nothing.
/// `None`: it is no answer to it.
pub(in crate::lab) fn said(id: u16, message: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_octets(message).ok()?;
    let header = message.header();
    if !header.qr() || header.id() != id {
        return None;
    }
    let mut lines = Vec::new();
    if header.rcode() == Rcode::NOERROR
        && let Ok(answers) = message.answer()
    {
        for record in answers.limit_to::<Txt<_>>().flatten() {
            for line in record.data().iter() {
                lines.extend_from_slice(line);
                lines.push(b'\n');
            }
        }
    }
    Some(lines)
}
