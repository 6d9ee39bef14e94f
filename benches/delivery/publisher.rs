//! The publisher of all runs: one thread, one epoll loop, N kept connections, each of which sends its next request, an event
//! or a batch of them, when the last one is acknowledged, or at a rate. Owns the count of acknowledged events and the time that an
//! acknowledgement takes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::{ClientConfig, ClientConnection};
use serde_json::json;

use crate::histogram::Histogram;
use crate::receiver::{SENT_DIGITS, SENT_MARK};
use crate::wire::Wire;
use crate::{children, options, tls, wall_us};

const WORD: Token = Token(usize::MAX);
/// How long answers are waited for after the last request.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

pub fn main(arguments: &[String]) {
    let address: SocketAddr =
        options::after(arguments, "--address").and_then(|text| text.parse().ok()).expect("--address IP:PORT");
    let connections = options::number_after(arguments, "--connections");
    let template = Template::new(address, arguments);
    let config = options::after(arguments, "--tls").map(|folder| tls::client(Path::new(folder)));
    let poll = Poll::new().expect("an epoll");
    let waker = Waker::new(poll.registry(), WORD).expect("a waker");
    let open = |at| Connection::open(address, config.as_ref(), at, &poll);
    let connections = (0..connections).map(open).collect::<Vec<_>>();
    let (words, heard) = channel();
    children::listen(move |word| {
        words.send(word).expect("a loop that runs");
        waker.wake().expect("a loop that runs");
    });
    children::say(&json!({"ready": true}));
    let mut load = Load::new(connections, template, arguments);
    let mut poll = poll;
    let mut events = Events::with_capacity(1024);
    let mut stopping: Option<Instant> = None;
    loop {
        let wait = stopping.map(|_| Duration::from_millis(20)).or(load.pace.as_ref().map(|_| Duration::from_millis(1)));
        if let Err(error) = poll.poll(&mut events, wait) {
            assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "polling: {error}");
        }
        load.keep_pace();
        for event in &events {
            if event.token() != WORD {
                load.serve(event.token().0);
                continue;
            }
            match heard.try_recv().as_deref() {
                Ok("start") => load.start(),
                Ok("stop") => {
                    load.running = false;
                    stopping = Some(Instant::now());
                }
                Ok(_) => load.say(),
                Err(_) => {}
            }
        }
        if stopping.is_some_and(|since| load.in_flight() == 0 || since.elapsed() > LAST_ANSWERS) {
            stopping = None;
            load.say();
        }
    }
}

/// The request as bytes, with the places in it that differ from one to the next.
struct Template {
    bytes: Vec<u8>,
    /// In each of its events.
    sent_at: Vec<usize>,
    events: u64,
    spread: Option<Spread>,
}

/// Events go to so many subscriptions in turn, `SUBSCRIPTIONS_EACH` of one tenant, each with a type of its own.
struct Spread {
    subscriptions: u64,
    sent: u64,
    tenant_at: usize,
    type_at: usize,
}

/// Apart from each other in the order of sending; no divisor of their number.
const STRIDE: u64 = 7_919;
/// Subscriptions of one tenant, told apart by the last digit of the type.
pub const SUBSCRIPTIONS_EACH: u64 = 10;
const TENANT_DIGITS: usize = 6;

/// The tenant of that number, and the type that its subscription of that number is for.
pub fn spread_names(tenant: u64, subscription: u64) -> (String, String) {
    (format!("t{tenant:0TENANT_DIGITS$}"), format!("bench.event.{subscription}"))
}

impl Template {
    fn new(address: SocketAddr, arguments: &[String]) -> Self {
        let token = options::after(arguments, "--token").unwrap_or("none");
        let (bytes, events) =
            (options::number_after(arguments, "--bytes"), options::number_after(arguments, "--batch"));
        let subscriptions = options::after(arguments, "--spread").map(|text| text.parse::<u64>().expect("--spread N"));
        let tenant = options::after(arguments, "--tenant").unwrap_or("bench").to_owned();
        let (tenant, kind) = subscriptions.map_or((tenant, "bench.event".to_owned()), |_| spread_names(0, 0));
        let zeros = "0".repeat(SENT_DIGITS);
        let mark = String::from_utf8_lossy(SENT_MARK);
        let open = format!(r#"{{"type":"{kind}","tenant":"{tenant}","data":{{{mark}{zeros},"padding":""#);
        let padding = bytes.checked_sub(open.len() + 3).expect("--bytes is too small for an event");
        let event = format!("{open}{}\"}}}}", "x".repeat(padding));
        let (path, body) = if events == 1 {
            ("/v1/events", event)
        } else {
            ("/v1/events/batch", format!(r#"{{"events":[{}]}}"#, vec![event; events].join(",")))
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let behind = |text: &str| head.len() + body.find(text).expect("a place in the body") + text.len();
        let spread = subscriptions.map(|subscriptions| Spread {
            subscriptions,
            sent: 0,
            tenant_at: behind(&tenant) - TENANT_DIGITS,
            type_at: behind(&kind) - 1,
        });
        let sent_at = body.match_indices(mark.as_ref()).map(|(at, _)| head.len() + at + mark.len()).collect();
        Self { bytes: format!("{head}{body}").into_bytes(), sent_at, events: events as u64, spread }
    }

    fn stamp(&mut self, now_us: u64) -> &[u8] {
        for at in &self.sent_at {
            digits(&mut self.bytes[*at..at + SENT_DIGITS], now_us);
        }
        if let Some(spread) = &mut self.spread {
            let subscription = spread.sent * STRIDE % spread.subscriptions;
            spread.sent += 1;
            let tenant = &mut self.bytes[spread.tenant_at..spread.tenant_at + TENANT_DIGITS];
            digits(tenant, subscription / SUBSCRIPTIONS_EACH);
            digits(&mut self.bytes[spread.type_at..=spread.type_at], subscription % SUBSCRIPTIONS_EACH);
        }
        &self.bytes
    }
}

fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
    }
}

struct Load {
    connections: Vec<Connection>,
    template: Template,
    latency: Histogram,
    /// Events sent since the start, and how many are to be.
    sent: u64,
    total: u64,
    acked: u64,
    refused: u64,
    running: bool,
    pace: Option<Pace>,
}

/// So many requests a second, whoever has nothing to do sending them.
struct Pace {
    per_s: f64,
    started: Instant,
    sent: u64,
    idle: Vec<usize>,
}

impl Load {
    fn new(connections: Vec<Connection>, template: Template, arguments: &[String]) -> Self {
        let number = |flag| options::after(arguments, flag).map(|text| text.parse::<u64>().expect("a number"));
        let pace = number("--rate").map(|per_s| Pace {
            per_s: per_s as f64,
            started: Instant::now(),
            sent: 0,
            idle: Vec::new(),
        });
        let total = number("--total").unwrap_or(u64::MAX);
        let latency = Histogram::new();
        Self { connections, template, latency, sent: 0, total, acked: 0, refused: 0, running: false, pace }
    }

    fn start(&mut self) {
        self.running = true;
        if let Some(pace) = &mut self.pace {
            (pace.started, pace.sent, pace.idle) = (Instant::now(), 0, Vec::new());
        }
        (0..self.connections.len()).for_each(|at| self.go_on(at));
        children::say(&json!({"started": true}));
    }

    /// A connection has nothing to do.
    fn go_on(&mut self, at: usize) {
        if !self.running || self.sent >= self.total {
            return;
        }
        match &mut self.pace {
            Some(pace) => pace.idle.push(at),
            None => self.send(at),
        }
    }

    fn send(&mut self, at: usize) {
        self.sent += self.template.events;
        self.connections[at].send(&mut self.template);
    }

    fn keep_pace(&mut self) {
        while let Some(pace) = self.pace.as_mut().filter(|_| self.running) {
            let due = (pace.started.elapsed().as_secs_f64() * pace.per_s) as u64;
            let Some(at) = pace.idle.pop_if(|_| pace.sent < due) else { return };
            pace.sent += 1;
            self.send(at);
        }
    }

    fn in_flight(&self) -> usize {
        self.connections.iter().filter(|connection| connection.sent_us.is_some()).count()
    }

    /// Says how it went since it was last asked.
    fn say(&mut self) {
        children::say(&json!({
            "at_us": wall_us(), "acked": self.acked, "refused": self.refused, "in_flight": self.in_flight(),
            "p50_us": self.latency.quantile_us(0.5), "p99_us": self.latency.quantile_us(0.99),
        }));
        self.latency.clear();
    }

    fn serve(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        let Some(status) = connection.readable() else { return };
        let sent_us = connection.sent_us.take().expect("an answer to a request");
        if status == 201 {
            self.acked += self.template.events;
            self.latency.record(wall_us().saturating_sub(sent_us));
        } else {
            if self.refused == 0 {
                eprintln!("refused with {status}");
            }
            self.refused += 1;
        }
        self.go_on(at);
    }
}

struct Connection {
    wire: Wire,
    buffer: Vec<u8>,
    filled: usize,
    sent_us: Option<u64>,
}

impl Connection {
    fn open(address: SocketAddr, config: Option<&Arc<ClientConfig>>, at: usize, poll: &Poll) -> Self {
        let mut stream = std::net::TcpStream::connect(address).expect("something that listens");
        stream.set_nodelay(true).expect("no delay");
        let tls = config.map(|config| {
            let name = address.ip().into();
            let mut tls = ClientConnection::new(config.clone(), name).expect("a TLS state");
            while tls.is_handshaking() {
                tls.complete_io(&mut stream).expect("a handshake");
            }
            tls.into()
        });
        stream.set_nonblocking(true).expect("no blocking");
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(at), Interest::READABLE).expect("registering");
        Self { wire: Wire::new(stream, tls), buffer: vec![0; 16 * 1024], filled: 0, sent_us: None }
    }

    fn send(&mut self, template: &mut Template) {
        let now_us = wall_us();
        self.sent_us = Some(now_us);
        self.wire.write_all(template.stamp(now_us)).expect("a connection that takes events");
    }

    /// Reads what is there; the status once the answer is whole.
    fn readable(&mut self) -> Option<u16> {
        loop {
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.filled * 2, 0);
            }
            match self.wire.read(&mut self.buffer[self.filled..]) {
                Ok(0) => {
                    panic!("closed while publishing, after {:?}", String::from_utf8_lossy(&self.buffer[..self.filled]))
                }
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(error) => panic!("reading an acknowledgement: {error}"),
            }
            if let Some((status, length)) = answer(&self.buffer[..self.filled]) {
                assert_eq!(length, self.filled, "more than one answer to one request");
                self.filled = 0;
                return Some(status);
            }
        }
    }
}

/// Status and whole length of the answer, once it is whole.
fn answer(bytes: &[u8]) -> Option<(u16, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).expect("an answer in HTTP/1.1") else { return None };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.expect("an acknowledgement with Content-Length").value;
    let length: usize = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok()).expect("a length");
    (bytes.len() >= head + length).then_some((response.code.unwrap_or(0), head + length))
}
