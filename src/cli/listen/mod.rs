//! `listen`: receive on a machine without a public address. Holds a stream open to the daemon, passes each delivery on to a local
//! URL as it came, and reports what the local receiver answered, which becomes the attempt's outcome.
//!
//! The stream has a webhook of its own, deleted when this ends. When the connection breaks it is made again and goes on with the
//! same webhook, as long as the daemon keeps that.

mod forward;
mod sse;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::task::JoinSet;

use self::forward::{Answer, Forward};
use self::sse::Parser;
use super::client::{Answer as Reply, Client, Target, segment, with_query};
use super::print::{self, text};
use super::{Failure, NO, SYSTEM, TRY_AGAIN, UNREACHABLE};
use crate::clock::Clock;
use crate::limits::STREAM_SIGN_EVERY;
use crate::model::time::millis_z;

/// A stream that has been silent for this long is dead: two signs of life are missing.
const SILENCE_MAX: Duration = Duration::from_secs(3 * STREAM_SIGN_EVERY.as_secs());
/// For an answer of the daemon.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two tries to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// No refusal is longer.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, ValueEnum)]
enum DialectName {
    Lemon,
    Omnia,
    Vibe,
    Onemetric,
}

#[derive(Args)]
pub(super) struct Listen {
    /// Where deliveries go: http on this machine, or https.
    #[arg(long, value_name = "URL")]
    forward_to: String,
    /// Which event types, as order.updated,position.*; otherwise all.
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    events: Vec<String>,
    /// Whose events. Not needed with a tenant's own token.
    #[arg(long)]
    tenant: Option<String>,
    /// Whose body and signatures; otherwise lemon's.
    #[arg(long, value_enum)]
    dialect: Option<DialectName>,
    /// A file with the secret to sign with; otherwise a new one is made and shown.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Go on with the webhook of a listener that was killed less than a minute ago: its secret stays.
    #[arg(long, value_name = "WEBHOOK", conflicts_with_all = ["events", "dialect", "secret_file"])]
    resume: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// How a stream came to its end.
enum Ended {
    /// It can be gone on with.
    Broken(String),
    /// Nothing to be done.
    Refused(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        match failure.code {
            UNREACHABLE | TRY_AGAIN => Self::Broken(failure.message),
            _ => Self::Refused(failure),
        }
    }
}

/// A listener at work.
struct Listener<'a> {
    asked: &'a Listen,
    client: &'a Client,
    forward: Arc<Forward>,
    clock: Clock,
    /// The webhook, once there is one.
    webhook: Option<String>,
    /// The connection that answers go over.
    answers: Option<SendRequest<Full<Bytes>>>,
}

impl Listen {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let forward = Arc::new(Forward::new(&self.forward_to)?);
        let client = self.target.client()?;
        let (clock, webhook) = (Clock::system(), self.resume.clone());
        let mut listener = Listener { asked: self, client: &client, forward, clock, webhook, answers: None };
        client.runtime().block_on(async {
            let mut signals = signal_hook_tokio::Signals::new([SIGINT, SIGTERM])
                .map_err(|error| Failure::new(SYSTEM, format!("signals can't be taken: {error}")))?;
            let asked_to_stop = std::future::poll_fn(|cx| {
                use futures_core::Stream as _;
                std::pin::Pin::new(&mut signals).poll_next(cx)
            });
            tokio::select! {
                ended = listener.listen() => ended,
                _ = asked_to_stop => listener.stop().await,
            }
        })
    }

    fn path(&self, path: &str) -> String {
        with_query(path, &[("tenant", self.tenant.as_deref())])
    }

    /// What is asked for: a new stream, or one to go on with.
    fn body(&self, webhook: Option<&str>) -> Result<Value, Failure> {
        if let Some(webhook) = webhook {
            return Ok(json!({"stream": webhook}));
        }
        let mut body = json!({});
        if !self.events.is_empty() {
            body["events"] = json!(self.events);
        }
        if let Some(name) = self.dialect.and_then(|dialect| dialect.to_possible_value()) {
            body["dialect"] = json!(name.get_name());
        }
        if let Some(path) = &self.secret_file {
            body["secret"] = json!(super::signing::secret_of(path)?.expose());
        }
        Ok(body)
    }
}

impl Listener<'_> {
    async fn listen(&mut self) -> Result<(), Failure> {
        let (mut backoff, mut told) = (BACKOFF.0, false);
        loop {
            let before = self.webhook.is_some();
            let why = match self.follow(&mut told).await {
                Ended::Broken(why) if before || self.webhook.is_some() => why,
                Ended::Broken(why) => return Err(Failure::new(UNREACHABLE, why)),
                Ended::Refused(failure) => return Err(failure),
            };
            if told {
                (told, backoff) = (false, BACKOFF.0);
            }
            eprintln!("webhookd: {}; connecting again", print::plain(&why));
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// Holds the stream until it ends. `told`: that it has begun.
    async fn follow(&mut self, told: &mut bool) -> Ended {
        match self.hold(told).await {
            Ok(ended) | Err(ended) => ended,
        }
    }

    async fn hold(&mut self, told: &mut bool) -> Result<Ended, Ended> {
        let path = self.asked.path("/v1/streams");
        let body = self.asked.body(self.webhook.as_deref())?.to_string();
        let mut sender = self.client.connect_in_time().await?;
        let request = self.client.request(Method::POST, &path, body.into(), &[])?;
        let reply = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
        let reply = reply.map_err(|_| Ended::Broken("the daemon does not answer".to_owned()))?.map_err(broken)?;
        let (head, mut body) = reply.into_parts();
        if !head.status.is_success() {
            let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await.map(|body| body.to_bytes());
            return Err(self.refused(&path, &Reply { status: head.status, body: body.unwrap_or_default() }));
        }
        let (mut parser, mut under_way) = (Parser::default(), JoinSet::new());
        loop {
            tokio::select! {
                frame = tokio::time::timeout(SILENCE_MAX, body.frame()) => {
                    let frame = frame.map_err(|_| Ended::Broken("the stream went silent".to_owned()))?;
                    let Some(frame) = frame else { return Ok(Ended::Broken("the stream ended".to_owned())) };
                    let data = frame.map_err(broken)?.into_data().unwrap_or_default();
                    for (kind, data) in parser.feed(&data).map_err(Ended::Broken)? {
                        let data: Value = serde_json::from_slice(&data).map_err(|_| strange())?;
                        match kind.as_str() {
                            "stream" => {
                                *told = true;
                                self.begin(&data)?;
                            }
                            "delivery" => {
                                let forward = self.forward.clone();
                                under_way.spawn(async move {
                                    let answer = forward.pass_on(&data).await;
                                    (data, answer)
                                });
                            }
                            _ => {}
                        }
                    }
                }
                Some(done) = under_way.join_next() => {
                    let (delivery, answer) = done.map_err(|_| Ended::Broken("passing a delivery on failed".to_owned()))?;
                    self.report(&delivery, &answer).await?;
                }
            }
        }
    }

    fn refused(&self, path: &str, reply: &Reply) -> Ended {
        let gone = matches!(reply.status, StatusCode::NOT_FOUND | StatusCode::CONFLICT);
        match &self.webhook {
            Some(webhook) if gone => {
                let why =
                    "has ended: nobody held its stream for a minute, or it was deleted. Listen again for a new one";
                Ended::Refused(Failure::new(NO, format!("the webhook {} {why}", print::plain(webhook))))
            }
            _ => self.client.refusal(path, reply).into(),
        }
    }

    /// Tells what the stream is.
    fn begin(&mut self, begun: &Value) -> Result<(), Failure> {
        let id = text(&begun["id"]);
        self.webhook = Some(id.clone());
        if self.asked.json {
            return print::line(&json!({"listening": begun}).to_string());
        }
        let types = text(&begun["events"]);
        let (dialect, to) = (text(&begun["dialect"]), &self.asked.forward_to);
        print::line(&print::plain(&format!("listening: {id} ({dialect}) for {types}, forwarding to {to}")))?;
        match begun["signature_secret"].as_str() {
            Some(secret) if self.asked.secret_file.is_none() => {
                print::line(&format!("secret: {}", print::plain(secret)))
            }
            _ => Ok(()),
        }
    }

    /// Tells the daemon and the terminal what became of a delivery.
    async fn report(&mut self, delivery: &Value, answer: &Answer) -> Result<(), Ended> {
        let webhook = self.webhook.clone().unwrap_or_default();
        let path = self.asked.path(&format!("/v1/streams/{}/answers", segment(&webhook)));
        let mut body = answer.json.clone();
        body["delivery"] = delivery["delivery"].clone();
        let reply = self.post(&path, body.to_string().into()).await?;
        if !reply.status.is_success() {
            return Err(self.refused(&path, &reply));
        }
        let recorded = reply.json()?["recorded"] == true;
        let [event, kind, attempt] = ["event", "type", "attempt"].map(|name| text(&delivery[name]));
        let ms = answer.took.as_millis();
        let at = millis_z(self.clock.wall_ms());
        let line = if self.asked.json {
            json!({"at": at, "event": event, "type": kind, "attempt": delivery["attempt"], "duration_ms": ms,
                "status": body["status"], "error": body["error"], "recorded": recorded})
            .to_string()
        } else {
            let came_to = if body["error"].is_null() { text(&body["status"]) } else { text(&body["error"]) };
            let late = if recorded { "" } else { ", too late to count" };
            print::plain(&format!("{at} {kind} {event} #{attempt} {ms} ms {came_to}{late}"))
        };
        Ok(print::line(&line)?)
    }

    /// Asks over the connection that is kept for answers; over a new one when that is gone. An answer may be told twice: it
    /// counts once.
    async fn post(&mut self, path: &str, body: Bytes) -> Result<Reply, Ended> {
        if let Some(mut kept) = self.answers.take()
            && kept.ready().await.is_ok()
            && let Ok(reply) = self.exchange(&mut kept, path, body.clone()).await
        {
            self.answers = Some(kept);
            return Ok(reply);
        }
        let mut new = self.client.connect_in_time().await?;
        let reply = self.exchange(&mut new, path, body).await?;
        self.answers = Some(new);
        Ok(reply)
    }

    async fn exchange(&self, to: &mut SendRequest<Full<Bytes>>, path: &str, body: Bytes) -> Result<Reply, Ended> {
        let request = self.client.request(Method::POST, path, body, &[])?;
        let exchange = async {
            let (head, body) = to.send_request(request).await.map_err(broken)?.into_parts();
            let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await;
            let body = body.map_err(|error| Ended::Broken(error.to_string()))?.to_bytes();
            Ok(Reply { status: head.status, body })
        };
        let done = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
        done.unwrap_or_else(|_| Err(Ended::Broken("the daemon does not answer".to_owned())))
    }

    /// Deletes the webhook: whoever listens no more wants nothing.
    async fn stop(&self) -> Result<(), Failure> {
        let Some(webhook) = &self.webhook else { return Ok(()) };
        let path = self.asked.path(&format!("/v1/webhooks/{}", segment(webhook)));
        let mut sender = self.client.connect_in_time().await?;
        let request = self.client.request(Method::DELETE, &path, Bytes::new(), &[])?;
        let done = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
        // It ends by itself soon when this went wrong.
        match done {
            Ok(Ok(reply)) if reply.status().is_success() => Ok(()),
            _ => Err(Failure::new(UNREACHABLE, format!("{webhook} could not be deleted; it ends within two minutes"))),
        }
    }
}

fn broken(error: hyper::Error) -> Ended {
    Ended::Broken(format!("the connection broke: {error}"))
}

fn strange() -> Ended {
    Ended::Refused(Failure::new(UNREACHABLE, "what came down the stream is not from this daemon: it is not JSON"))
}
