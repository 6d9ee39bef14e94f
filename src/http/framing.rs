//! Watches where the messages of one HTTP/1 connection begin and end. hyper drops `Content-Length` beside
//! `Transfer-Encoding` before a request reaches us, and takes a line feed without a carriage return for the end of a line: so the
//! marks of a smuggled request can only be seen in the bytes.
//!
//! Invariant: hyper alone decides what a request is; what is found here only refuses a request or closes a connection, and
//! a stream that it can't follow is left alone. Acting on it is left to `server`.

use super::hygiene::Doubt;

/// Enough of a line to know `content-length` with any sensible length, `transfer-encoding`, and a chunk's size.
const LINE_KEPT: usize = 64;

/// The position in the byte stream of one connection.
#[derive(Debug)]
pub struct Framing {
    state: State,
    line: [u8; LINE_KEPT],
    line_len: usize,
    /// The last byte of a line whose end has not come.
    last: Option<u8>,
    head: Head,
    heads: u64,
    doubt: Option<(u64, Doubt)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between two messages; line breaks are skipped.
    Start,
    RequestLine,
    Headers,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    /// Something that hyper will refuse, or that isn't understood here.
    Lost,
}

#[derive(Debug, Default, Clone, Copy)]
struct Head {
    bare_line_feed: bool,
    transfer_encoding: bool,
    content_length: bool,
    length: Option<u64>,
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            state: State::Start,
            line: [0; LINE_KEPT],
            line_len: 0,
            last: None,
            head: Head::default(),
            heads: 0,
            doubt: None,
        }
    }
}

impl Framing {
    /// Takes the next bytes that arrived.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Lost => return,
                State::Start => self.start(bytes),
                State::Body(left) => self.skip(bytes, left, State::Start, State::Body),
                State::ChunkData(left) => self.skip(bytes, left, State::ChunkEnd, State::ChunkData),
                _ => self.take_line(bytes),
            };
        }
    }

    /// Whether a head has begun and has not ended.
    #[must_use]
    pub fn in_head(&self) -> bool {
        matches!(self.state, State::RequestLine | State::Headers)
    }

    /// Whether the peer has nothing half sent.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        self.state == State::Start
    }

    /// The first request, counted from 1, that two readers might take for two different ones, and why.
    #[must_use]
    pub fn doubt(&self) -> Option<(u64, Doubt)> {
        self.doubt
    }

    fn start<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if blank < bytes.len() {
            self.state = State::RequestLine;
            self.head = Head::default();
            self.line_len = 0;
        }
        &bytes[blank..]
    }

    fn skip<'a>(&mut self, bytes: &'a [u8], left: u64, then: State, more: fn(u64) -> State) -> &'a [u8] {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - here as u64;
        self.state = if left == 0 { then } else { more(left) };
        &bytes[here..]
    }

    fn take_line<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let begun;
        // Nearly every line comes as a whole, and is read where it stands.
        let line = if end.is_some() && self.line_len == 0 {
            &part[..part.len().min(LINE_KEPT)]
        } else {
            let kept = part.len().min(LINE_KEPT - self.line_len);
            self.line[self.line_len..self.line_len + kept].copy_from_slice(&part[..kept]);
            self.line_len += kept;
            begun = self.line;
            &begun[..self.line_len]
        };
        let last = part.last().copied().or(self.last);
        let Some(end) = end else {
            self.last = last;
            return &[];
        };
        self.last = None;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.line_len = 0;
        if matches!(self.state, State::RequestLine | State::Headers) {
            self.head.bare_line_feed |= last != Some(b'\r');
        }
        self.state = match self.state {
            State::RequestLine => State::Headers,
            State::Headers if line.is_empty() => self.end_of_head(),
            State::Headers => {
                self.head.note(line);
                State::Headers
            }
            State::ChunkSize => match chunk_size(line) {
                Some(0) => State::Trailers,
                Some(size) => State::ChunkData(size),
                None => State::Lost,
            },
            State::ChunkEnd if line.is_empty() => State::ChunkSize,
            State::Trailers if line.is_empty() => State::Start,
            State::Trailers => State::Trailers,
            _ => State::Lost,
        };
        &bytes[end + 1..]
    }

    fn end_of_head(&mut self) -> State {
        self.heads += 1;
        let head = self.head;
        let doubt = match head {
            Head { bare_line_feed: true, .. } => Some(Doubt::BareLineFeed),
            Head { transfer_encoding: true, content_length: true, .. } => Some(Doubt::BothLengths),
            _ => None,
        };
        self.doubt = self.doubt.or(doubt.map(|doubt| (self.heads, doubt)));
        match head {
            Head { transfer_encoding: true, .. } => State::ChunkSize,
            Head { content_length: false, .. } | Head { length: Some(0), .. } => State::Start,
            Head { length: Some(length), .. } => State::Body(length),
            Head { length: None, .. } => State::Lost,
        }
    }
}

impl Head {
    fn note(&mut self, line: &[u8]) {
        // Nearly every line is neither; its first byte says so.
        match line.first() {
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length") {
                    self.content_length = true;
                    self.length = decimal(value);
                }
            }
            Some(b't' | b'T') => self.transfer_encoding |= value_of(line, b"transfer-encoding").is_some(),
            _ => {}
        }
    }
}

fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    if found.eq_ignore_ascii_case(name) { rest.strip_prefix(b":") } else { None }
}

fn decimal(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    u64::from_str_radix(std::str::from_utf8(&line[..end]).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::{Doubt, Framing};

    fn fed(bytes: &[u8], step: usize) -> Framing {
        let mut framing = Framing::default();
        for part in bytes.chunks(step) {
            framing.feed(part);
        }
        framing
    }

    #[test]
    fn follows_messages_however_they_are_cut() {
        let stream = b"\r\nPOST / HTTP/1.1\r\ncontent-length: 33\r\n\r\nx\r\nContent-Length: 1\r\nfoo: bar\r\n.\
            POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1a\r\nTransfer-Encoding: chunked\r\n0\r\nA: b\r\n\r\n\
            GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for step in [1, 2, 3, 7, 64, stream.len()] {
            let framing = fed(stream, step);
            assert!(framing.at_rest(), "{step}: {framing:?}");
            assert_eq!((framing.heads, framing.doubt()), (3, None), "{step}");
        }
    }

    proptest::proptest! {
        #[test]
        fn where_a_stream_is_cut_makes_no_difference(
            parts in proptest::collection::vec(
                proptest::sample::select(&[
                    "POST / HTTP/1.1\r\n", "content-length: 7\r\n", "transfer-encoding: chunked\r\n", "\r\n", "\n", "\r", "7\r\n",
                    "0\r\n", "payload", "content-length:", "g", "\u{0}", "ffffffffffffffff\r\n",
                ][..]), 0..40),
            step in 1usize..40,
        ) {
            let stream = parts.concat();
            let (whole, cut) = (fed(stream.as_bytes(), usize::MAX), fed(stream.as_bytes(), step));
            proptest::prop_assert_eq!((whole.state, whole.heads, whole.doubt), (cut.state, cut.heads, cut.doubt));
        }
    }

    #[test]
    fn sees_both_lengths_in_either_order() {
        for head in
            ["content-length: 3\r\nTransfer-Encoding: chunked", "TRANSFER-ENCODING: chunked\r\nContent-Length:3"]
        {
            for step in [1, 5, 500] {
                let bytes = format!("GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\n{head}\r\n\r\n");
                assert_eq!(fed(bytes.as_bytes(), step).doubt(), Some((2, Doubt::BothLengths)));
            }
        }
    }

    #[test]
    fn sees_a_line_feed_without_a_carriage_return_in_a_head() {
        let long = "a".repeat(200);
        for head in
            ["GET / HTTP/1.1\nhost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: LONG\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\n"]
        {
            for step in [1, 2, 5, 500] {
                let bytes = format!("\nGET / HTTP/1.1\r\nhost: {long}\r\n\r\n{}", head.replace("LONG", &long));
                assert_eq!(fed(bytes.as_bytes(), step).doubt(), Some((2, Doubt::BareLineFeed)), "{head:?} by {step}");
            }
        }
    }

    #[test]
    fn says_when_a_head_is_under_way() {
        assert!(!fed(b"\r\n", 9).in_head());
        assert!(fed(b"G", 9).in_head());
        assert!(fed(b"GET / HTTP/1.1\r\na: b\r\n", 9).in_head());
        assert!(!fed(b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab", 9).in_head());
        assert!(!fed(b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab", 9).at_rest());
    }

    #[test]
    fn gives_up_on_what_it_does_not_understand() {
        let framing = fed(b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\nGET", 9);
        assert!(!framing.at_rest() && !framing.in_head());
        let framing = fed(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n", 9);
        assert!(!framing.at_rest() && !framing.in_head());
    }
}
