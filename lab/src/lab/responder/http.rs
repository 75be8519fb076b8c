//! As much of HTTP/1.1 (RFC 9112) as a server needs that says the same to everyone: where a request ends,
//! whether it wants a body in the answer, and whether the connection stays.
//!
//! Bytes may come in any portions. Nothing a client sends makes it panic or grow beyond [`HEAD_MAX`].

/// A request's line and fields may have this many bytes.
const HEAD_MAX: usize = 16 * 1024;

/// What is known of a connection's requests.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Bytes not understood yet.
    pending: Vec<u8>,
    /// Bytes of a request's body still to be passed over.
    skip: u64,
}

/// A request, as far as the answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// A request that is answered.
    Request {
        /// It is a HEAD request: the answer has no body.
        head_only: bool,
        /// Another request may follow.
        keep_alive: bool,
    },
    /// Not HTTP, or not such that its end could be found.
    Bad,
    /// Longer than [`HEAD_MAX`].
    TooLong,
}

impl Reading {
    /// Takes what was received.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let passed = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= passed as u64;
        self.pending.extend_from_slice(&bytes[passed..]);
    }

    /// The next request that is complete but for its body.
    pub(super) fn next(&mut self) -> Option<Head> {
        // Empty lines before a request are to be overlooked (RFC 9112, 2.2).
        let blank = self.pending.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        self.pending.drain(..blank);
        let first = line_end(&self.pending, 0);
        let Some(first) = first else {
            return (self.pending.len() > HEAD_MAX).then_some(Head::TooLong);
        };
        let Some(request) = request_line(&self.pending[..first]) else { return Some(Head::Bad) };
        let mut start = first + 1;
        let mut fields = Fields::default();
        // HTTP/0.9 has no fields, and closes.
        while let Some(version) = request.version {
            let Some(end) = line_end(&self.pending, start) else {
                return (self.pending.len() > HEAD_MAX).then_some(Head::TooLong);
            };
            let line = trim(&self.pending[start..end]);
            start = end + 1;
            if line.is_empty() {
                fields.close |= version == 0 && !fields.keep_alive;
                break;
            }
            if !fields.read(line) {
                return Some(Head::Bad);
            }
        }
        let keep_alive = request.version.is_some() && !fields.close;
        let rest = self.pending.split_off(start);
        self.pending.clear();
        self.skip = fields.length;
        self.push(&rest);
        Some(Head::Request { head_only: request.head_only, keep_alive })
    }
}

impl Head {
    /// Whether another request may follow on the connection.
    pub(super) fn keep_alive(self) -> bool {
        matches!(self, Self::Request { keep_alive: true, .. })
    }

    /// The whole answer, with `text` as its body if it was a good request.
    pub(super) fn answer(self, text: &str) -> Vec<u8> {
        let (status, body) = match self {
            Self::Request { .. } => ("200 OK", text),
            Self::Bad => ("400 Bad Request", "this is not an HTTP/1.1 request\n"),
            Self::TooLong => ("431 Request Header Fields Too Large", "the request's head is too long\n"),
        };
        let connection = if self.keep_alive() { "keep-alive" } else { "close" };
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nServer: supernet\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        if !matches!(self, Self::Request { head_only: true, .. }) {
            answer.push_str(body);
        }
        answer.into_bytes()
    }
}

struct RequestLine {
    head_only: bool,
    /// The minor version of HTTP/1; `None` for HTTP/0.9.
    version: Option<u8>,
}

fn request_line(line: &[u8]) -> Option<RequestLine> {
    let line = std::str::from_utf8(trim(line)).ok()?;
    let mut words = line.split(' ');
    let (method, _target, version) = (words.next()?, words.next()?, words.next());
    let is_token =
        !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if !is_token || words.next().is_some() {
        return None;
    }
    let version = match version {
        None if method == "GET" => None,
        None => return None,
        Some("HTTP/1.0") => Some(0),
        Some(v) if v.starts_with("HTTP/1.") => Some(1),
        Some(_) => return None,
    };
    Some(RequestLine { head_only: method == "HEAD", version })
}

#[derive(Default)]
struct Fields {
    length: u64,
    has_length: bool,
    close: bool,
    keep_alive: bool,
}

impl Fields {
    /// Takes one field; `false` when it leaves open where the request ends.
    fn read(&mut self, line: &[u8]) -> bool {
        let Some(colon) = line.iter().position(|&b| b == b':') else { return false };
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        let has = |word: &[u8]| value.split(|&b| b == b',').any(|v| trim(v).eq_ignore_ascii_case(word));
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits = std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
            let Some(length) = digits.and_then(|v| v.parse().ok()) else { return false };
            if self.has_length && self.length != length {
                return false;
            }
            (self.length, self.has_length) = (length, true);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // Chunks are not followed to their end: the answer is the connection's last.
            self.close = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            self.close |= has(b"close");
            self.keep_alive |= has(b"keep-alive");
        }
        true
    }
}

fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    bytes.get(from..)?.iter().position(|&b| b == b'\n').map(|n| from + n)
}

fn trim(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(reading: &mut Reading, text: &[u8]) -> Vec<Head> {
        reading.push(text);
        std::iter::from_fn(|| reading.next()).take(16).collect()
    }

    const GET: Head = Head::Request { head_only: false, keep_alive: true };
    const LAST: Head = Head::Request { head_only: false, keep_alive: false };

    #[test]
    fn a_request_may_come_byte_by_byte() {
        let mut reading = Reading::default();
        let text = b"GET / HTTP/1.1\r\nHost: web\r\nUser-Agent: x\r\n\r\n";
        for (i, byte) in text.iter().enumerate() {
            reading.push(&[*byte]);
            assert_eq!(reading.next(), (i + 1 == text.len()).then_some(GET), "after byte {i}");
        }
    }

    #[test]
    fn requests_sent_ahead_and_bodies_are_told_apart() {
        let mut reading = Reading::default();
        let text = b"POST /a HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\n\n";
        assert_eq!(all(&mut reading, text), [GET, Head::Request { head_only: true, keep_alive: true }]);
        assert_eq!(all(&mut reading, b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab"), [GET]);
        assert_eq!(all(&mut reading, b"cdeGET / HTTP/1.1\r\n\r\n"), [GET], "the body went on");
    }

    #[test]
    fn the_connection_stays_or_goes() {
        let one = |text: &[u8]| all(&mut Reading::default(), text);
        assert_eq!(one(b"GET / HTTP/1.0\r\n\r\n"), [LAST]);
        assert_eq!(one(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"), [GET]);
        assert_eq!(one(b"GET / HTTP/1.1\r\nConnection: foo, Close\r\n\r\n"), [LAST]);
        assert_eq!(one(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), [LAST]);
        assert_eq!(one(b"GET /\r\n"), [LAST], "HTTP/0.9");
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for bad in [
            &b"hello\n"[..],
            b"\x16\x03\x01\x02\x00\x01\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET / a HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        ] {
            assert_eq!(all(&mut Reading::default(), bad)[0], Head::Bad, "{}", bad.escape_ascii());
        }
        let mut reading = Reading::default();
        assert_eq!(all(&mut reading, &[b'a'; HEAD_MAX + 1])[0], Head::TooLong);
        assert!(Head::TooLong.answer("x").starts_with(b"HTTP/1.1 431 "));
    }

    #[test]
    fn an_answer_says_how_long_it_is() {
        let text = String::from_utf8(GET.answer("hi\n")).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("Content-Length: 3\r\n") && text.ends_with("\r\n\r\nhi\n"), "{text}");
        let head = Head::Request { head_only: true, keep_alive: true };
        let text = String::from_utf8(head.answer("hi\n")).unwrap();
        assert!(text.contains("Content-Length: 3\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }
}
