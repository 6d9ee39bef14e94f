//! The API as its clients see it: requests through `Api::handle` on a real store, with a dispatcher that only answers.

mod access;
mod audit;
mod backup;
mod changes;
mod dead;
mod dialects;
mod erase;
mod events;
mod explain;
mod foreign;
mod halt;
mod idempotency;
mod jobs;
mod listings;
mod lookup;
mod matrix;
mod metrics;
mod news;
mod operate;
mod origin;
mod publishing;
mod registering;
mod requests;
mod signed;
mod stats;
mod streams;
mod told;
mod webhooks;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use sha2::Sha256;

use super::origin::REQUEST_ID;
use super::server::{Peer, Reply, ReplyBody};
use super::{Api, Surface};
use crate::catalogue::{Catalogue, EventType};
use crate::clock::{Clock, Millis};
use crate::dispatch::glance::Glance;
use crate::egress::stream::Streams;
use crate::entropy::Entropy;
use crate::metrics::Metrics;
use crate::model::attempt::{Attempt, Class, Verdict};
use crate::model::event::Event;
use crate::model::id::{AttemptNumber, EventId, JobId, Seq, WebhookId, WebhookNo};
use crate::model::pause::Scope;
use crate::model::webhook::{InactiveReason, Webhook};
use crate::service::{BoxFuture, Dispatching, Parts, Service, Settings};
use crate::store::inbox::{Answer, Waiter};
use crate::store::op::{Effects, Op, Outcome, RowKey};
use crate::store::open::Place;
use crate::store::writer::{self, Downstream, Store};

const START: Millis = 1_700_000_000_000;
const URL: &str = "https://hooks.example.com/in";

/// Answers whoever waits, at once.
struct Answering;

impl Downstream for Answering {
    fn committed(&self, _: Effects, answers: Vec<(Waiter, Answer)>) {
        for (waiter, answer) in answers {
            // A test that no longer waits is no concern.
            let _ = waiter.sender.send(answer);
        }
    }

    fn reopened(&self) {}
}

/// Shows what it is told to, and answers tests with the status it is told to.
struct Fake {
    glance: Mutex<Glance>,
    status: Mutex<u16>,
    clock: Clock,
}

impl Dispatching for Fake {
    fn glance(&self, _: WebhookNo, _: Seq) -> Glance {
        *self.glance.lock().unwrap()
    }

    fn test(&self, webhook: Arc<Webhook>, event: Arc<Event>) -> BoxFuture<Attempt> {
        let status = *self.status.lock().unwrap();
        let mut attempt = attempt(&event, webhook.no, 1, self.clock.wall_ms());
        attempt.status = Some(status);
        attempt.class = (status != 200).then_some(Class::Status);
        attempt.verdict = if status == 200 { Verdict::Delivered } else { Verdict::Single };
        Box::pin(async move { attempt })
    }

    fn look_again(&self, _: WebhookNo) {}

    fn expect_well(&self, _: &Scope) {}
}

/// A failed attempt with nothing following from it.
fn attempt(event: &Event, webhook: WebhookNo, number: u32, at_ms: Millis) -> Attempt {
    Attempt {
        event: event.seq,
        webhook,
        number: AttemptNumber::new(number).unwrap(),
        previous: 0,
        at_ms,
        duration_ms: 12,
        class: Some(Class::Status),
        status: Some(500),
        error: "status 500".to_owned(),
        remote: Some("203.0.113.7:443".parse().unwrap()),
        excerpt: "oops".to_owned(),
        verdict: Verdict::Single,
    }
}

struct World {
    api: Api,
    service: Arc<Service>,
    store: Store,
    clock: Clock,
    fake: Arc<Fake>,
    streams: Arc<Streams>,
    ready: Arc<AtomicBool>,
    /// An admin's, a publisher's, and two tenants' tokens.
    admin: String,
    publisher: String,
    acme: String,
    beta: String,
    /// What the next attempts on record do to their webhook.
    deactivate: Mutex<Option<InactiveReason>>,
    _dir: tempfile::TempDir,
}

/// A key as its holder has it.
struct Holder {
    id: String,
    token: String,
    secret_key: String,
}

impl Holder {
    /// The headers of Vibe's signed form.
    fn sign(&self, method: &str, path: &str, body: &str, at_s: u64) -> [(&'static str, String); 3] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret_key.as_bytes()).unwrap();
        mac.update(format!("{method}{path}{body}{at_s}").as_bytes());
        let signature = hex::encode(mac.finalize().into_bytes());
        [("x-api-key", self.id.clone()), ("x-timestamp", at_s.to_string()), ("x-signature", signature)]
    }
}

/// An answer, read.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    id: String,
}

impl Got {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// Status and code in one, for tables.
    #[track_caller]
    fn told(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["code"].as_str().unwrap_or_default().to_owned())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl World {
    async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { state_dir: dir.path().to_owned(), key_file: None, cache_bytes: 4 << 20 };
        let (entropy, clock, metrics) = (Entropy::seeded(7), Clock::manual(START), Arc::new(Metrics::default()));
        let parts = writer::Parts::open(&place, &entropy, &clock, &metrics, 24 * 3_600_000).unwrap();
        let store = parts.store();
        store.start(parts, Arc::new(Answering)).unwrap();
        let fake = Arc::new(Fake { glance: Mutex::default(), status: Mutex::new(200), clock: clock.clone() });
        let streams = Streams::new(clock.clone(), Entropy::seeded(11));
        let parts = Parts {
            store: store.clone(),
            settings,
            clock: clock.clone(),
            entropy,
            dispatch: fake.clone(),
            streams: streams.clone(),
            metrics,
            store_file: place.store_file(),
        };
        let service = Arc::new(Service::new(parts));
        let ready = Arc::new(AtomicBool::new(true));
        let api = Api::new(service.clone(), operate::answering(service.clone()), ready.clone(), Duration::from_secs(5));
        let mut world = Self {
            api,
            service,
            store,
            clock,
            fake,
            streams,
            ready,
            admin: String::new(),
            publisher: String::new(),
            acme: String::new(),
            beta: String::new(),
            deactivate: Mutex::default(),
            _dir: dir,
        };
        for tenant in ["acme", "beta"] {
            assert_eq!(world.socket("PUT", &format!("/admin/tenants/{tenant}"), "").await.status, 200);
        }
        world.admin = world.key(json!({"role": "admin"})).await;
        world.publisher = world.key(json!({"role": "publisher"})).await;
        world.acme = world.key(json!({"role": "tenant", "tenant": "acme"})).await;
        world.beta = world.key(json!({"role": "tenant", "tenant": "beta", "publish": true})).await;
        world
    }

    /// A new key's token.
    async fn key(&self, body: Value) -> String {
        self.holder(body).await.token
    }

    /// A new key.
    async fn holder(&self, body: Value) -> Holder {
        let got = self.socket("POST", "/admin/keys", &body.to_string()).await;
        assert_eq!(got.status, 201, "{:?}", got.body);
        let text = |name: &str| got.json()[name].as_str().unwrap().to_owned();
        Holder { id: text("id"), token: text("token"), secret_key: text("secret_key") }
    }

    /// A request over TCP with these headers, on the listener that has the path.
    async fn with_headers<'a>(
        &self,
        method: &str,
        path: &str,
        body: &str,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Got {
        let mut request = Request::builder().method(method).uri(path).header("host", "d");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let admins = path.starts_with("/admin/") || path == "/metrics";
        let surface = if admins { Surface::Admin } else { Surface::Public };
        self.send(surface, peer(), request.body(Full::from(body.to_owned())).unwrap()).await
    }

    /// A request that is signed now.
    async fn signed(&self, holder: &Holder, method: &str, path: &str, body: &str) -> Got {
        let headers = holder.sign(method, path, body, self.clock.wall_ms() / 1_000);
        self.with_headers(method, path, body, headers.iter().map(|(name, value)| (*name, value.as_str()))).await
    }

    /// The audit log through a query, newest first.
    async fn audit(&self, query: &str) -> Vec<Value> {
        let got = self.socket("GET", &format!("/admin/audit{query}"), "").await;
        assert_eq!(got.status, 200, "{:?}", got.body);
        got.json()["data"].as_array().unwrap().clone()
    }

    /// A request on the admin socket.
    async fn socket(&self, method: &str, path: &str, body: &str) -> Got {
        let peer = Peer { addr: None, tls: false, unix: true };
        let request = Request::builder().method(method).uri(path).header("host", "d");
        self.send(Surface::Admin, peer, request.body(Full::from(body.to_owned())).unwrap()).await
    }

    /// A request on a public listener.
    async fn call(&self, method: &str, path: &str, token: &str, body: impl Into<Bytes>) -> Got {
        self.call_with(method, path, token, body, &[]).await
    }

    async fn call_with(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> Got {
        let mut request = Request::builder().method(method).uri(path).header("host", "d");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(Surface::Public, peer(), request.body(Full::new(body.into())).unwrap()).await
    }

    async fn send(&self, surface: Surface, peer: Peer, request: Request<Full<Bytes>>) -> Got {
        read(self.api.handle(None, surface, peer, request).await).await
    }

    /// Publishes for a tenant; gives the event's id.
    async fn publish(&self, tenant: &str, kind: &str) -> String {
        let body = json!({"type": kind, "tenant": tenant, "data": {"n": 1}}).to_string();
        let got = self.call("POST", "/v1/events", &self.publisher, body).await;
        assert_eq!(got.status, 201, "{:?}", got.body);
        got.json()["id"].as_str().unwrap().to_owned()
    }

    /// Registers a webhook of acme; gives its id.
    async fn webhook(&self, events: &[&str]) -> String {
        let body = json!({"url": URL, "events": events}).to_string();
        let got = self.call("POST", "/v1/webhooks", &self.acme, body).await;
        assert_eq!(got.status, 201, "{:?}", got.body);
        got.json()["id"].as_str().unwrap().to_owned()
    }

    /// The store's own names of an event and a webhook.
    fn names(&self, event: &str, webhook: &str) -> (Event, WebhookNo) {
        let shared = self.store.shared();
        let event = shared.view().unwrap().event_by_id(EventId::parse(event).unwrap()).unwrap().unwrap();
        let registry = shared.registry();
        let id = WebhookId::parse(webhook).unwrap();
        let no = registry.webhooks().find(|webhook| webhook.id == id).unwrap().no;
        (event, no)
    }

    fn deactivating(&self, reason: Option<InactiveReason>) {
        *self.deactivate.lock().unwrap() = reason;
    }

    /// Takes all jobs to their end, as the daemon does.
    async fn work(&self) {
        while self.store.shared().registry().jobs().next().is_some() {
            self.service.step_jobs().await;
        }
    }

    /// Puts an attempt of a delivery on record, as dispatch would.
    async fn attempted(&self, event: &str, webhook: &str, number: u32, verdict: Verdict) {
        let (event, webhook) = self.names(event, webhook);
        let shared = self.store.shared();
        let (previous, row) = {
            let view = shared.view().unwrap();
            let newest = view.fates(event.seq).unwrap().get(&webhook).map(|fate| fate.number);
            let entry = newest.and_then(|newest| view.entry(newest).unwrap());
            let row = entry.and_then(|entry| entry.queued()).map(|(started, due_ms)| RowKey { started, due_ms });
            (newest.unwrap_or(0), row)
        };
        let mut attempt = attempt(&event, webhook, number, self.clock.wall_ms());
        attempt.previous = previous;
        attempt.verdict = verdict;
        if verdict == Verdict::Delivered {
            attempt.class = None;
            attempt.status = Some(204);
            attempt.error = String::new();
        }
        let (deactivate, since_ms) = (*self.deactivate.lock().unwrap(), self.clock.now_ms());
        let order = event.order();
        let outcome = Outcome { attempt, row, order, budget_from: 0, since_ms, deactivate, test: false };
        self.store.submit(Op::Outcome(Box::new(outcome)), None).await.unwrap();
    }
}

/// Reads an answer; of a stream, what comes at once. Without its request's id, in which all differ.
async fn read(reply: Reply) -> Got {
    let (mut parts, body) = reply.into_parts();
    let body = match body {
        ReplyBody::Whole(body) => body.collect().await.unwrap().to_bytes(),
        // Of one that has no end, its beginning.
        ReplyBody::Stream(mut body) if parts.headers["content-type"] == "text/event-stream" => {
            body.frame().await.unwrap().unwrap().into_data().unwrap()
        }
        ReplyBody::Stream(body) => body.collect().await.unwrap().to_bytes(),
    };
    let id = parts.headers.remove(REQUEST_ID).expect("every answer has its request's id");
    Got { status: parts.status, headers: parts.headers, body, id: id.to_str().unwrap().to_owned() }
}

/// A catalogue of these types, each with its channel.
fn catalogue(types: &[(&str, Option<&str>)]) -> Arc<Catalogue> {
    let known = |(name, channel): &(&str, Option<&str>)| EventType {
        name: (*name).to_owned(),
        description: format!("{name} happened"),
        omnia_channel: channel.map(str::to_owned),
        schema: None,
    };
    Arc::new(Catalogue::new(types.iter().map(known).collect()))
}

fn peer() -> Peer {
    Peer { addr: Some("198.51.100.9:5555".parse().unwrap()), tls: true, unix: false }
}

/// Runs futures side by side on this task.
async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in running.iter_mut().filter(|(_, output)| output.is_none()) {
            if let std::task::Poll::Ready(done) = future.as_mut().poll(context) {
                *output = Some(done);
            }
        }
        if running.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}
