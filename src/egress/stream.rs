//! The other way out: down a stream that a receiver without a public address holds open (`webhookd listen`). Owns which
//! streams are open, what went down one and is not answered yet, and since when nobody has held one.
//!
//! A webhook whose URL is `STREAM_URL` has a stream in place of a target. Invariants: a request goes down the stream of its own
//! webhook and of no other; one client at a time holds a stream, the newest; an answer counts for the one request whose number,
//! which can't be guessed, it names; and when the stream ends, whatever waits for an answer from it is told so at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::answer;
use super::connect::failure;
use crate::clock::{Clock, Millis};
use crate::entropy::Entropy;
use crate::limits::STREAM_IN_FLIGHT_MAX;
use crate::model::attempt::{Class, Exchange, Failure};
use crate::model::event::Event;
use crate::model::id::{AttemptNumber, WebhookNo};
use crate::model::webhook::Webhook;

/// What the client of a stream says of a request that it passed on.
#[derive(Debug)]
pub enum Answer {
    /// The local receiver answered. The body as far as it was read; `Retry-After` as it was sent.
    Status { status: StatusCode, body: Vec<u8>, retry_after: Option<HeaderValue> },
    /// It did not.
    Failed { class: Class, detail: String },
}

/// A signed request, as it goes down the stream.
#[derive(Clone, Copy)]
pub struct Signed<'a> {
    pub event: &'a Event,
    pub number: AttemptNumber,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

#[derive(Serialize)]
struct Frame<'a> {
    delivery: &'a str,
    event: String,
    r#type: &'a str,
    attempt: AttemptNumber,
    timeout_ms: u64,
    method: &'static str,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a str,
}

/// All streams.
pub struct Streams {
    clock: Clock,
    entropy: Entropy,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<WebhookNo, Arc<Line>>,
    /// Streams that nobody holds, since when.
    away: HashMap<WebhookNo, Millis>,
    /// The daemon stops: nobody gets a stream any more.
    closed: bool,
}

/// One client's hold on a stream.
struct Line {
    remote: Option<SocketAddr>,
    /// `None`: it has ended.
    ends: Mutex<Option<Ends>>,
}

struct Ends {
    requests: mpsc::Sender<Bytes>,
    waiting: HashMap<String, oneshot::Sender<Answer>>,
}

/// What a client holds: requests come out of it. Dropping it ends the stream.
pub struct Held {
    streams: Arc<Streams>,
    webhook: WebhookNo,
    line: Arc<Line>,
    requests: mpsc::Receiver<Bytes>,
}

impl Streams {
    #[must_use]
    pub fn new(clock: Clock, entropy: Entropy) -> Arc<Self> {
        Arc::new(Self { clock, entropy, state: Mutex::default() })
    }

    /// Takes note of a stream that nobody holds yet.
    pub fn expect(&self, webhook: WebhookNo) {
        self.lock().away.insert(webhook, self.clock.now_ms());
    }

    /// Gives a client hold of a webhook's stream; whoever held it before has it no more.
    #[must_use]
    pub fn hold(self: &Arc<Self>, webhook: WebhookNo, remote: Option<SocketAddr>) -> Held {
        let (sender, requests) = mpsc::channel(STREAM_IN_FLIGHT_MAX as usize);
        let ends = Ends { requests: sender, waiting: HashMap::new() };
        let line = Arc::new(Line { remote, ends: Mutex::new(Some(ends)) });
        let mut state = self.lock();
        let before = if state.closed {
            Some(line.clone())
        } else {
            state.away.remove(&webhook);
            state.open.insert(webhook, line.clone())
        };
        drop(state);
        if let Some(before) = before {
            before.end();
        }
        Held { streams: self.clone(), webhook, line, requests }
    }

    /// Whether deliveries of a webhook wait for a client to hold its stream.
    #[must_use]
    pub fn is_away(&self, webhook: &Webhook) -> bool {
        webhook.is_stream() && !self.lock().open.contains_key(&webhook.no)
    }

    /// Streams that nobody has held for `grace`.
    #[must_use]
    pub fn overdue(&self, grace: Duration) -> Vec<WebhookNo> {
        let grace_ms = Millis::try_from(grace.as_millis()).unwrap_or(Millis::MAX);
        let before = self.clock.now_ms().saturating_sub(grace_ms);
        self.lock().away.iter().filter(|(_, since)| **since <= before).map(|(no, _)| *no).collect()
    }

    /// A webhook is gone: its stream ends.
    pub fn forget(&self, webhook: WebhookNo) {
        let mut state = self.lock();
        state.away.remove(&webhook);
        let line = state.open.remove(&webhook);
        drop(state);
        if let Some(line) = line {
            line.end();
        }
    }

    /// Ends all streams, for good.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let open = std::mem::take(&mut state.open);
        drop(state);
        open.values().for_each(|line| line.end());
    }

    /// Sends a request down a webhook's stream and waits for what its client says of it, `timeout` at most.
    pub async fn exchange(&self, webhook: WebhookNo, signed: Signed<'_>, timeout: Duration) -> Exchange {
        let line = self.lock().open.get(&webhook).cloned();
        let remote = line.as_ref().and_then(|line| line.remote);
        let answered = match line {
            Some(line) => tokio::time::timeout(timeout, self.ask(&line, signed, timeout)).await,
            None => Ok(Err(failure(Class::Connect, "nobody holds the stream"))),
        };
        let answer = answered.unwrap_or_else(|_| {
            let detail = format!("timed out after {timeout:?} while waiting for the stream's client");
            Err(failure(Class::Timeout, detail))
        });
        let blank = Exchange { failure: None, status: None, retry_after_ms: None, remote, excerpt: String::new() };
        match answer {
            Ok(Answer::Status { status, body, retry_after }) => {
                let headers = retry_after.map(|value| (RETRY_AFTER, value)).into_iter().collect();
                Exchange {
                    failure: answer::status_failure(status),
                    status: Some(status.as_u16()),
                    retry_after_ms: answer::retry_after_ms(status, &headers, &self.clock),
                    excerpt: answer::printable(answer::first(&body)),
                    ..blank
                }
            }
            Ok(Answer::Failed { class, detail }) => {
                let detail = format!("behind the stream: {}", answer::printable(detail.into_bytes()));
                Exchange { failure: Some(failure(class, detail)), ..blank }
            }
            Err(failure) => Exchange { failure: Some(failure), ..blank },
        }
    }

    async fn ask(&self, line: &Line, signed: Signed<'_>, timeout: Duration) -> Result<Answer, Failure> {
        let ended = || failure(Class::Connect, "the stream ended before an answer came up it");
        let delivery = hex::encode(self.entropy.bytes::<16>());
        let frame = frame(&delivery, signed, timeout)?;
        let (sender, answer) = oneshot::channel();
        let _asked = Asked { line, delivery: &delivery };
        let requests = line.ask(&delivery, sender).ok_or_else(ended)?;
        requests.send(frame).await.map_err(|_| ended())?;
        // Nothing of this attempt keeps the stream open.
        drop(requests);
        answer.await.map_err(|_| ended())
    }

    /// Takes an answer. False: nothing waits for it, any more perhaps.
    #[must_use]
    pub fn answer(&self, webhook: WebhookNo, delivery: &str, answer: Answer) -> bool {
        let line = self.lock().open.get(&webhook).cloned();
        let waiting = line.and_then(|line| line.ends().as_mut()?.waiting.remove(delivery));
        waiting.is_some_and(|waiting| waiting.send(answer).is_ok())
    }

    fn left(&self, webhook: WebhookNo, line: &Arc<Line>) {
        let mut state = self.lock();
        if state.open.get(&webhook).is_some_and(|open| Arc::ptr_eq(open, line)) {
            state.open.remove(&webhook);
            state.away.insert(webhook, self.clock.now_ms());
        }
        drop(state);
        line.end();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Notes that an answer is waited for, and gives the way down.
    fn ask(&self, delivery: &str, answer: oneshot::Sender<Answer>) -> Option<mpsc::Sender<Bytes>> {
        let mut ends = self.ends();
        let ends = ends.as_mut()?;
        ends.waiting.insert(delivery.to_owned(), answer);
        Some(ends.requests.clone())
    }

    fn end(&self) {
        *self.ends() = None;
    }

    fn ends(&self) -> MutexGuard<'_, Option<Ends>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that is waited for; when that is over, whatever comes is late.
struct Asked<'a> {
    line: &'a Line,
    delivery: &'a str,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(ends) = self.line.ends().as_mut() {
            ends.waiting.remove(self.delivery);
        }
    }
}

impl Held {
    /// The next request, as JSON; `None` when the stream has ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.requests.poll_recv(cx)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.streams.left(self.webhook, &self.line);
    }
}

fn frame(delivery: &str, signed: Signed<'_>, timeout: Duration) -> Result<Bytes, Failure> {
    let Signed { event, number, headers, body } = signed;
    let unfit = || failure(Class::Protocol, "the request can't go down a stream: it is no text");
    let headers =
        headers.iter().map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value.as_bytes()).ok()?)));
    let frame = Frame {
        delivery,
        event: event.id.to_string(),
        r#type: &event.kind,
        attempt: number,
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        method: "POST",
        headers: headers.collect::<Option<_>>().ok_or_else(unfit)?,
        body: std::str::from_utf8(body).map_err(|_| unfit())?,
    };
    serde_json::to_vec(&frame).map(Bytes::from).map_err(|_| unfit())
}
