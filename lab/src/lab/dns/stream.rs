//! Messages on a TCP connection: each after its length in two bytes (RFC 7766). They may come in any portions, and
//! several ahead of their answers.

/// What has come and is not answered yet.
#[derive(Debug, Default)]
pub(in crate::lab) struct Frames {
    pending: Vec<u8>,
}

impl Frames {
    /// Takes what was received.
    pub(in crate::lab) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next message that is whole.
    pub(in crate::lab) fn next(&mut self) -> Option<Vec<u8>> {
        let (length, rest) = self.pending.split_first_chunk()?;
        let message = rest.get(..usize::from(u16::from_be_bytes(*length)))?.to_vec();
        self.pending.drain(..2 + message.len());
        Some(message)
    }
}

/// A message as it is sent. `None`: it is too long.
pub(in crate::lab) fn frame(message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok()?;
    Some([&length.to_be_bytes()[..], message].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_any_portions() {
        let sent = [frame(b"one").unwrap(), frame(b"").unwrap(), frame(&[7; 300]).unwrap()].concat();
        for portion in [1, 2, 3, 100, sent.len()] {
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            for bytes in sent.chunks(portion) {
                frames.push(bytes);
                got.extend(std::iter::from_fn(|| frames.next()));
            }
            assert_eq!(got, [b"one".to_vec(), Vec::new(), vec![7; 300]], "{portion}");
        }
        assert_eq!(frame(&[0; 65536]), None);
    }
}
