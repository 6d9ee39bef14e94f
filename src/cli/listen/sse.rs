//! Reads a stream of server-sent events (WHATWG HTML §9.2), as far as ours has them: `event`, `data`, comments. Owns what is held
//! of an event that has not come whole.

/// No event is larger: a delivery with a body of several MiB, its quotes escaped.
const EVENT_BYTES_MAX: usize = 32 * 1024 * 1024;

#[derive(Default)]
pub(super) struct Parser {
    rest: Vec<u8>,
    kind: String,
    data: Vec<u8>,
}

impl Parser {
    /// Takes what has come, and gives the events that are whole now: kind and data.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
        if self.rest.len() + self.data.len() + bytes.len() > EVENT_BYTES_MAX {
            return Err(format!("an event of the stream is longer than {EVENT_BYTES_MAX} bytes"));
        }
        // What stands in `rest` was looked through when it came.
        let looked = self.rest.len();
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        let Some(last) = self.rest[looked..].iter().rposition(|byte| *byte == b'\n') else { return Ok(events) };
        let rest = self.rest.split_off(looked + last + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        for line in whole[..whole.len() - 1].split(|byte| *byte == b'\n') {
            self.take(line.strip_suffix(b"\r").unwrap_or(line), &mut events);
        }
        Ok(events)
    }

    fn take(&mut self, line: &[u8], events: &mut Vec<(String, Vec<u8>)>) {
        let value = |line: &[u8]| line.strip_prefix(b" ").unwrap_or(line).to_vec();
        if line.is_empty() {
            let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            if !data.is_empty() {
                events.push((kind, data));
            }
        } else if let Some(kind) = line.strip_prefix(b"event:") {
            self.kind = String::from_utf8_lossy(&value(kind)).into_owned();
        } else if let Some(data) = line.strip_prefix(b"data:") {
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            self.data.extend(value(data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let text =
            b":\n\nevent: stream\ndata: {\"a\":1}\n\n: more\n\nevent:delivery\r\ndata:x\r\ndata: y\r\n\r\ndata: z\n\n";
        let wanted = [("stream", "{\"a\":1}"), ("delivery", "x\ny"), ("", "z")];
        for size in 1..=text.len() {
            let mut parser = Parser::default();
            let events: Vec<_> = text.chunks(size).flat_map(|part| parser.feed(part).unwrap()).collect();
            let events: Vec<_> =
                events.iter().map(|(kind, data)| (kind.as_str(), std::str::from_utf8(data).unwrap())).collect();
            assert_eq!(events, wanted, "in parts of {size}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = Parser::default();
        let part = vec![b'x'; EVENT_BYTES_MAX / 2];
        assert!(parser.feed(&part).is_ok() && parser.feed(&part).is_ok());
        assert!(parser.feed(b"x").is_err());
    }
}
