//! Wires in memory, and the receivers at their other ends: good, slow, failing, silent, lying and hanging up. What a
//! receiver does is drawn from the ledger's chance, in the order in which requests come.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::sleep;
use webhookd::clock::{Clock, Millis};
use webhookd::egress::{Connect, Connecting, PublicAddr, Wire};
use webhookd::model::id::EventId;

use crate::ledger::{Ledger, Mood, Request};

const WIRE_BYTES: usize = 64 * 1024;

pub struct Net {
    pub ledger: Ledger,
    pub clock: Clock,
}

/// What a receiver does with a request.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Status(u16),
    /// Seconds that it asks for.
    Later(u16, u64),
    Garbage,
    HangUp,
    Silence,
    /// A 200 whose body never ends.
    Endless,
}

impl Connect for Net {
    fn connect(&self, _: PublicAddr) -> Connecting<'_> {
        let (ledger, clock) = (self.ledger.clone(), self.clock.clone());
        Box::pin(async move {
            let start = clock.now_ms();
            let (luck, delay) = {
                let mut book = ledger.lock();
                if book.is_calm { (99, 0) } else { (book.chance.below(100), book.chance.below(30)) }
            };
            sleep(Duration::from_millis(delay)).await;
            match luck {
                0..=1 => return Err(io::ErrorKind::ConnectionRefused.into()),
                2 => std::future::pending::<()>().await,
                _ => {}
            }
            let (ours, theirs) = tokio::io::duplex(WIRE_BYTES);
            tokio::spawn(Receiver { stream: theirs, ledger, clock, start: Some(start) }.serve());
            Ok(Box::new(ours) as Box<dyn Wire>)
        })
    }
}

struct Receiver {
    stream: DuplexStream,
    ledger: Ledger,
    clock: Clock,
    /// When the exchange began that made the connection, for the first request on it.
    start: Option<Millis>,
}

impl Receiver {
    async fn serve(mut self) {
        while let Some(text) = self.read().await {
            let now = self.clock.now_ms();
            let start = self.start.take().unwrap_or(now);
            // What the daemon reports of itself has no tag.
            let Some(request) = parse(&text, start, now) else {
                if self.stream.write_all(&status(200, None)).await.is_err() {
                    return;
                }
                continue;
            };
            let held = self.ledger.arrive(&request);
            let (answer, delay) = self.choose(&request);
            // The sender may give up meanwhile.
            let mut byte = [0];
            let given_up = tokio::select! {
                biased;
                _ = self.stream.read(&mut byte) => true,
                () = sleep(delay) => false,
            };
            let done = !given_up && self.answer(answer, &request).await;
            drop(held);
            if given_up {
                self.ledger.failed(&request, self.clock.now_ms(), 0);
            }
            if !done {
                return;
            }
        }
    }

    /// Answers; says whether the connection stays.
    async fn answer(&mut self, answer: Answer, request: &Request) -> bool {
        let now = self.clock.now_ms();
        match answer {
            Answer::Status(code) if code < 300 => self.ledger.delivered(request),
            Answer::Endless => self.ledger.delivered(request),
            Answer::Later(_, seconds) => self.ledger.failed(request, now, seconds * 1_000),
            _ => self.ledger.failed(request, now, 0),
        }
        let bytes = match answer {
            Answer::Status(code) => status(code, None),
            Answer::Later(code, seconds) => status(code, Some(seconds)),
            Answer::Garbage => b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec(),
            Answer::HangUp | Answer::Silence => return false,
            Answer::Endless => {
                let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for _ in 0..40 {
                    bytes.extend_from_slice(b"400\r\n");
                    bytes.extend_from_slice(&[b'x'; 0x400]);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes
            }
        };
        let sent = self.stream.write_all(&bytes).await.is_ok();
        sent && matches!(answer, Answer::Status(_) | Answer::Later(..))
    }

    fn choose(&self, request: &Request) -> (Answer, Duration) {
        let mut book = self.ledger.lock();
        let mood = book.hooks.get(&request.label).map_or(Mood::Good, |hook| hook.mood);
        let delay = Duration::from_millis(book.chance.below(400));
        let luck = book.chance.below(100);
        let seconds = 1 + book.chance.below(3_000);
        let answer = match (mood, luck) {
            (Mood::Good, _) => Answer::Status(200),
            (Mood::Broken, _) => Answer::Status(500),
            (Mood::Failing, 0..=89) => Answer::Status(500),
            (Mood::Failing, 90..=94) => Answer::Later(503, seconds),
            (Mood::Failing, _) => Answer::Status(410),
            (Mood::Silent, _) if book.is_calm => Answer::Silence,
            (Mood::Silent, 0..=89) => Answer::Silence,
            (_, 0..=54) => Answer::Status(204),
            (_, 55..=64) => Answer::Status(404),
            (_, 65..=74) => Answer::Later(429, seconds),
            (_, 75..=79) => Answer::Garbage,
            (_, 80..=86) => Answer::HangUp,
            (_, 87..=92) => Answer::Silence,
            _ => Answer::Endless,
        };
        if matches!(answer, Answer::Status(410)) {
            book.hooks.get_mut(&request.label).unwrap().touched = true;
        }
        (answer, if matches!(answer, Answer::Silence) { Duration::from_secs(86_400) } else { delay })
    }

    async fn read(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4_096];
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
                if body.len() >= length.parse().unwrap() {
                    return Some(text);
                }
            }
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            }
        }
    }
}

fn status(code: u16, retry_after: Option<u64>) -> Vec<u8> {
    let later = retry_after.map_or(String::new(), |seconds| format!("Retry-After: {seconds}\r\n"));
    format!("HTTP/1.1 {code} X\r\n{later}Content-Length: 2\r\n\r\nok").into_bytes()
}

fn parse(text: &str, start: Millis, now: Millis) -> Option<Request> {
    let path = text.split(' ').nth(1).unwrap();
    let (label, version) = path.strip_prefix("/w").unwrap().split_once("/v").unwrap();
    let id = text.lines().find_map(|line| line.strip_prefix("Webhook-Id: ")).unwrap();
    let number = text.lines().find_map(|line| line.strip_prefix("Webhook-Attempt: ")).unwrap();
    let tag = text.split_once("\"tag\":")?.1;
    let digits = tag.find(|c: char| !c.is_ascii_digit()).unwrap();
    Some(Request {
        label: label.parse().unwrap(),
        version: version.parse().unwrap(),
        tag: tag[..digits].parse().unwrap(),
        id: EventId::parse(id).unwrap(),
        number: number.parse().unwrap(),
        start,
        now,
    })
}
