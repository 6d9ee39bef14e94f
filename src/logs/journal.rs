//! Lines for systemd's journal by its native protocol: each with its fields, so that `journalctl WEBHOOK_ID=…` finds what there is
//! about one webhook. Owns what fields are called, and that whoever logs is held up by the journal for a moment at most.
//!
//! A line is one datagram of `NAME=value` lines (systemd.io/JOURNAL_NATIVE_PROTOCOL). A value with a line break in it goes with its
//! length, so that no value can pretend to be a field.

use std::fmt::{Debug, Write as _};
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

const SOCKET: &str = "/run/systemd/journal/socket";
/// What systemd sets to the device and inode of the stream that it has made of a service's outputs.
const STREAM: &str = "JOURNAL_STREAM";
/// A journal that takes nothing for this long loses the line.
const PATIENCE: Duration = Duration::from_millis(100);
/// No datagram is longer: the kernel would not take it. The text of a line is cut first.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// The journal, as a layer.
pub(super) struct Journal {
    socket: UnixDatagram,
    lost: AtomicU64,
}

/// Whether standard error is the journal's.
#[must_use]
pub(super) fn is_ours() -> bool {
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    let stream = std::env::var(STREAM).unwrap_or_default();
    let (device, inode) = stream.split_once(':').unwrap_or_default();
    device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino)
}

impl Journal {
    /// Connects to the journal of this machine.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(Path::new(SOCKET))?;
        Self::over(socket)
    }

    fn over(socket: UnixDatagram) -> io::Result<Self> {
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, lost: AtomicU64::new(0) })
    }

    /// Sends a line; once more to a journal that has made its socket anew.
    fn try_send(&self, line: &[u8]) -> io::Result<usize> {
        let sent = self.socket.send(line);
        match &sent {
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotConnected) => {
                self.socket.connect(Path::new(SOCKET))?;
                self.socket.send(line)
            }
            _ => sent,
        }
    }

    fn send(&self, line: &[u8]) {
        if self.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let mut told = Line::new(Level::WARN, module_path!());
            told.text = format!("the journal did not take {lost} lines in time; they are lost");
            if self.socket.send(&told.finish()).is_err() {
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::new(*event.metadata().level(), event.metadata().target());
        event.record(&mut line);
        self.send(&line.finish());
    }
}

/// A line that is being written.
struct Line {
    fields: Vec<u8>,
    /// What is told, and every field for whoever reads without asking for fields.
    text: String,
    more: String,
}

impl Line {
    fn new(level: Level, target: &str) -> Self {
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            _ => "7",
        };
        let mut line = Self { fields: Vec::with_capacity(512), text: String::new(), more: String::new() };
        line.put("PRIORITY", priority);
        line.put("SYSLOG_IDENTIFIER", "webhookd");
        line.put("TARGET", target);
        line
    }

    fn put(&mut self, name: &str, value: &str) {
        self.fields.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.fields.push(b'\n');
            self.fields.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.fields.push(b'=');
        }
        self.fields.extend_from_slice(value.as_bytes());
        self.fields.push(b'\n');
    }

    fn field(&mut self, field: &Field, value: &str, is_number: bool) {
        let name = field.name();
        if name == "message" {
            value.clone_into(&mut self.text);
            return;
        }
        // Into a string nothing fails.
        let _ = write!(self.more, " {name}={value}");
        if self.fields.len() + value.len() <= LINE_BYTES_MAX / 2 {
            self.put(&called(name, is_number), value);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.text) + &self.more;
        text.truncate(text.floor_char_boundary(LINE_BYTES_MAX / 2));
        self.put("MESSAGE", &text);
        self.fields
    }
}

/// What a field is called in the journal. Some lines know a webhook or an event by its id, some by the store's number.
fn called(name: &str, is_number: bool) -> String {
    match (name, is_number) {
        ("webhook", false) => "WEBHOOK_ID".to_owned(),
        ("webhook", true) => "WEBHOOK_NO".to_owned(),
        ("event", false) => "EVENT_ID".to_owned(),
        ("event", true) => "EVENT_SEQ".to_owned(),
        ("request", _) => "REQUEST_ID".to_owned(),
        ("key", _) => "KEY_ID".to_owned(),
        // Names that begin with an underscore are the journal's own.
        _ => name.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).to_ascii_uppercase().replace('.', "_"),
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, &format!("{value:?}"), false);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value, false);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, &value.to_string(), true);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, &value.to_string(), true);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// The fields of a datagram, as the journal reads them.
    fn read(mut datagram: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        while !datagram.is_empty() {
            let end = datagram.iter().position(|byte| *byte == b'\n').unwrap();
            let (line, rest) = (&datagram[..end], &datagram[end + 1..]);
            match line.iter().position(|byte| *byte == b'=') {
                Some(at) => {
                    fields.push((text(&line[..at]), text(&line[at + 1..])));
                    datagram = rest;
                }
                None => {
                    let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                    fields.push((text(line), text(&rest[8..8 + length])));
                    assert_eq!(rest[8 + length], b'\n');
                    datagram = &rest[9 + length..];
                }
            }
        }
        fields
    }

    fn logged(log: impl FnOnce()) -> Vec<(String, String)> {
        let (near, far) = UnixDatagram::pair().unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal::over(near).unwrap());
        tracing::subscriber::with_default(subscriber, log);
        let mut datagram = vec![0; 1 << 20];
        let length = far.recv(&mut datagram).unwrap();
        read(&datagram[..length])
    }

    fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let mut named = fields.iter().filter(|(field, _)| field == name);
        let found = named.next().map(|(_, value)| value.as_str());
        assert!(named.next().is_none(), "{name} twice in {fields:?}");
        found
    }

    #[test]
    fn a_line_has_its_fields_and_says_them_too() {
        let fields = logged(|| {
            tracing::warn!(webhook = %"wbh_1", event = %"evt_1", tenant = "acme", status = 500_u16, n = -1, "it failed");
        });
        for (name, value) in [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "webhookd"),
            ("WEBHOOK_ID", "wbh_1"),
            ("EVENT_ID", "evt_1"),
            ("TENANT", "acme"),
            ("STATUS", "500"),
            ("N", "-1"),
            ("MESSAGE", "it failed webhook=wbh_1 event=evt_1 tenant=acme status=500 n=-1"),
        ] {
            assert_eq!(field(&fields, name), Some(value), "{fields:?}");
        }
        assert!(field(&fields, "TARGET").is_some_and(|target| target.contains("journal")));
        let fields = logged(|| tracing::error!(webhook = 7_u64, event = 9_u64, request = "r", key = %"key_1", "x"));
        let names = ["WEBHOOK_NO", "EVENT_SEQ", "REQUEST_ID", "KEY_ID"].map(|name| field(&fields, name));
        assert_eq!(names, [Some("7"), Some("9"), Some("r"), Some("key_1")]);
    }

    #[test]
    fn no_value_is_taken_for_a_field() {
        let forged = "x\nPRIORITY=0\nWEBHOOK_ID=wbh_other\n";
        let fields = logged(|| tracing::info!(error = forged, "{forged}"));
        assert_eq!((field(&fields, "PRIORITY"), field(&fields, "WEBHOOK_ID")), (Some("6"), None));
        assert_eq!(field(&fields, "ERROR"), Some(forged));
    }

    #[test]
    fn a_line_is_never_longer_than_the_journal_takes() {
        let long = "ü".repeat(1 << 20);
        let fields = logged(|| tracing::info!(error = long, webhook = %"wbh_1", "long"));
        assert_eq!((field(&fields, "ERROR"), field(&fields, "WEBHOOK_ID")), (None, Some("wbh_1")));
        assert!(field(&fields, "MESSAGE").is_some_and(|text| text.len() <= LINE_BYTES_MAX / 2));
    }

    #[test]
    fn a_journal_that_takes_nothing_holds_nobody_up_and_is_told_what_it_lost() {
        let (near, far) = UnixDatagram::pair().unwrap();
        let journal = Journal::over(near).unwrap();
        let line = || Line::new(Level::INFO, "t").finish();
        let mut sent = 0;
        while journal.lost.load(Ordering::Relaxed) < 2 {
            journal.send(&line());
            sent += 1;
        }
        let mut datagram = vec![0; 4_096];
        for _ in 0..sent - 2 {
            far.recv(&mut datagram).unwrap();
        }
        journal.send(&line());
        far.recv(&mut datagram).unwrap();
        let length = far.recv(&mut datagram).unwrap();
        assert!(field(&read(&datagram[..length]), "MESSAGE").is_some_and(|text| text.contains("2 lines")));
        assert_eq!(journal.lost.load(Ordering::Relaxed), 0);
    }
}
