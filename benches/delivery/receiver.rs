//! The receivers of all runs: one thread, one epoll loop, any number of ports. Owns the count of deliveries and the time
//! from publish to receipt; answers 200 to every request as cheaply as can be, so that what is measured is the sender.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use memchr::memmem;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::{ServerConfig, ServerConnection};
use serde_json::json;

use crate::histogram::Histogram;
use crate::wire::Wire;
use crate::{children, options, tls, wall_us};

/// What marks the time of sending in a body; 16 digits of microseconds follow.
pub const SENT_MARK: &[u8] = b"\"sent_us\":";
pub const SENT_DIGITS: usize = 16;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const WORD: Token = Token(usize::MAX);
const BUFFER_BYTES: usize = 16 * 1024;

pub fn main(arguments: &[String]) {
    // Where a store is used again, the ports are those of its webhooks.
    let ports: Vec<u16> = match options::after(arguments, "--at") {
        Some(list) => list.split(',').map(|port| port.parse().expect("a port")).collect(),
        None => vec![0; options::number_after(arguments, "--ports")],
    };
    let config = options::after(arguments, "--tls").map(|folder| tls::server(Path::new(folder)));
    let mut poll = Poll::new().expect("an epoll");
    let waker = Waker::new(poll.registry(), WORD).expect("a waker");
    let (words, heard) = channel();
    children::listen(move |word| {
        words.send(word).expect("a loop that runs");
        waker.wake().expect("a loop that runs");
    });
    let listeners = ports.iter().enumerate().map(|(at, port)| listen(&poll, at, *port)).collect::<Vec<_>>();
    let ports = listeners.iter().map(|listener| listener.local_addr().expect("an address").port()).collect::<Vec<_>>();
    children::say(&json!({ "ports": ports }));
    let mut sink = Sink {
        listeners,
        connections: Vec::new(),
        config,
        tally: Tally { count: 0, latency: Histogram::new(), sent_at: 0 },
    };
    let mut events = Events::with_capacity(1024);
    loop {
        if let Err(error) = poll.poll(&mut events, None) {
            assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "polling: {error}");
        }
        for event in &events {
            match event.token() {
                WORD => sink.answer(&heard),
                Token(at) if at < sink.listeners.len() => sink.accept(at, &poll),
                Token(at) => sink.serve(at - sink.listeners.len()),
            }
        }
    }
}

fn listen(poll: &Poll, at: usize, port: u16) -> TcpListener {
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).expect("a free port");
    poll.registry().register(&mut listener, Token(at), Interest::READABLE).expect("registering");
    listener
}

struct Sink {
    listeners: Vec<TcpListener>,
    connections: Vec<Option<Connection>>,
    config: Option<Arc<ServerConfig>>,
    tally: Tally,
}

struct Tally {
    count: u64,
    latency: Histogram,
    /// Where the time of sending stood in the last body: it mostly stands there again.
    sent_at: usize,
}

impl Sink {
    fn answer(&mut self, heard: &Receiver<String>) {
        while let Ok(word) = heard.try_recv() {
            let tally = &mut self.tally;
            let (p50_us, p99_us) = (tally.latency.quantile_us(0.5), tally.latency.quantile_us(0.99));
            children::say(&json!({"at_us": wall_us(), "count": tally.count, "p50_us": p50_us, "p99_us": p99_us}));
            if word == "mark" {
                tally.latency.clear();
            }
        }
    }

    fn accept(&mut self, at: usize, poll: &Poll) {
        while let Ok((mut stream, _)) = self.listeners[at].accept() {
            let free = self.connections.iter().position(Option::is_none).unwrap_or(self.connections.len());
            if free == self.connections.len() {
                self.connections.push(None);
            }
            let token = Token(self.listeners.len() + free);
            poll.registry().register(&mut stream, token, Interest::READABLE).expect("registering");
            drop(stream.set_nodelay(true));
            let tls = self.config.clone().map(|config| ServerConnection::new(config).expect("a TLS state").into());
            let buffer = vec![0; BUFFER_BYTES];
            self.connections[free] = Some(Connection { wire: Wire::new(stream, tls), buffer, filled: 0 });
        }
    }

    fn serve(&mut self, at: usize) {
        let Some(connection) = self.connections[at].as_mut() else { return };
        if connection.readable(&mut self.tally).is_none() {
            self.connections[at] = None;
        }
    }
}

struct Connection {
    wire: Wire,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Reads what is there and answers every whole request. `None` when the connection is over.
    fn readable(&mut self, tally: &mut Tally) -> Option<()> {
        loop {
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.filled * 2, 0);
            }
            let room = self.buffer.len() - self.filled;
            let read = match self.wire.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return None,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Some(()),
                Err(_) => return None,
            };
            self.filled += read;
            let answers = self.take_requests(tally);
            for _ in 0..answers {
                self.wire.write_all(ANSWER).ok()?;
            }
            // A read that did not fill the buffer has emptied the socket: the next one is announced.
            if read < room && !self.wire.is_tls() {
                return Some(());
            }
        }
    }

    /// Takes all whole requests from the front of the buffer; how many there were.
    fn take_requests(&mut self, tally: &mut Tally) -> usize {
        let (mut start, mut answers) = (0, 0);
        while let Some((head, body)) = request(&self.buffer[start..self.filled]) {
            tally.count += 1;
            answers += 1;
            if let Some(sent_us) = sent_us(&self.buffer[start + head..start + head + body], &mut tally.sent_at) {
                tally.latency.record(wall_us().saturating_sub(sent_us));
            }
            start += head + body;
        }
        self.buffer.copy_within(start..self.filled, 0);
        self.filled -= start;
        answers
    }
}

/// Lengths of head and body of the first request, once it is whole.
fn request(bytes: &[u8]) -> Option<(usize, usize)> {
    const NAME: &[u8] = b"content-length:";
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let mut line = 0;
    let mut body = 0;
    while let Some(end) = memchr::memchr(b'\n', &bytes[line..head]) {
        let text = &bytes[line..line + end];
        if text.len() > NAME.len() && text[..NAME.len()].eq_ignore_ascii_case(NAME) {
            body = digits(text[NAME.len()..].trim_ascii())?;
            break;
        }
        line += end + 1;
    }
    assert!(body > 0, "a delivery without Content-Length: {}", String::from_utf8_lossy(&bytes[..head]));
    let body = usize::try_from(body).expect("a length that fits");
    (bytes.len() >= head + body).then_some((head, body))
}

fn sent_us(body: &[u8], sent_at: &mut usize) -> Option<u64> {
    if body.get(*sent_at..*sent_at + SENT_MARK.len()) != Some(SENT_MARK) {
        *sent_at = memmem::find(body, SENT_MARK)?;
    }
    let from = *sent_at + SENT_MARK.len();
    digits(body.get(from..from + SENT_DIGITS)?)
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0_u64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0')))
}
