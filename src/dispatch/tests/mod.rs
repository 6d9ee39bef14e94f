//! Dispatcher, workers, store and egress together, against receivers on the loopback. Owns the daemon in small that the
//! tests share; asserts what happened and how often, never how long it took.

mod bounds;
mod halt;
mod kept;
mod lanes;
mod life;
mod places;
mod plans;
mod trouble;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::dispatcher::{Components, Dispatcher};
use super::settings::Settings;
use super::worker::Worker;
use crate::clock::{Clock, Millis};
use crate::egress::stream::Streams;
use crate::egress::{Egress, Rules, StaticResolver};
use crate::entropy::Entropy;
use crate::metrics::Metrics;
use crate::model::event::Event;
use crate::model::id::{TenantId, WebhookId, WebhookNo};
use crate::model::webhook::{Dialect, Filter, Webhook, WebhookState};
use crate::retry::{Plans, Policy};
use crate::store::op::{Accept, Done, Draft, Op, Quota, WebhookPatch};
use crate::store::open::Place;
use crate::store::record::Standing;
use crate::store::writer::{Parts, Store};

const NOW: Millis = 1_700_000_000_000;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY_MS: Millis = 86_400_000;

/// Tries again at once, twice, and then an hour later.
fn quick() -> Policy {
    Policy { delays_ms: vec![1, 1, 3_600_000], jitter: 0.0 }
}

/// Tries again an hour later.
fn slow() -> Policy {
    Policy { delays_ms: vec![3_600_000; 3], jitter: 0.0 }
}

fn draft(tenant: u32) -> Draft {
    Draft {
        tenant,
        kind: "order.created".to_owned(),
        created_us: NOW * 1_000,
        data: Some(Bytes::from_static(b"{\"n\":1}")),
        ..Draft::default()
    }
}

/// A daemon without its HTTP side.
struct Daemon {
    store: Store,
    dispatcher: Arc<Dispatcher>,
    writer: JoinHandle<()>,
    stop: CancellationToken,
    workers: Vec<tokio::task::JoinHandle<()>>,
}

impl Daemon {
    fn open(folder: &Path, clock: &Clock, policy: Policy) -> Self {
        let place = Place { state_dir: folder.to_owned(), key_file: None, cache_bytes: 4 << 20 };
        let metrics = Arc::new(Metrics::default());
        let parts = Parts::open(&place, &Entropy::seeded(1), clock, &metrics, DAY_MS).unwrap();
        Self::start(parts, policy)
    }

    fn start(parts: Parts, policy: Policy) -> Self {
        let timeout = Some(Duration::from_secs(60));
        Self::set(parts, Settings { plans: Arc::new(Plans::with_default(policy)), timeout, ..Settings::default() })
    }

    fn set(mut parts: Parts, settings: Settings) -> Self {
        let (store, clock, metrics) = (parts.store(), parts.clock.clone(), parts.metrics.clone());
        let rules = Rules { require_https: false, allow: vec!["127.0.0.0/8".parse().unwrap()], ..Rules::default() };
        let allowed = crate::egress::Settings { rules, ..crate::egress::Settings::default() };
        let egress = Egress::build(allowed, Arc::new(StaticResolver::default()), clock.clone()).unwrap();
        let dispatcher = Dispatcher::new(Components {
            workers: 2,
            settings,
            egress,
            streams: Streams::new(clock.clone(), Entropy::seeded(3)),
            store: store.clone(),
            clock,
            entropy: Entropy::seeded(2),
            metrics,
        });
        let fresh = std::mem::take(&mut parts.recovered.fresh);
        let queued = std::mem::take(&mut parts.recovered.queued);
        let writer = store.start(parts, dispatcher.clone()).unwrap();
        let stop = CancellationToken::new();
        let worker = |index| tokio::spawn(Worker::new(index, dispatcher.clone()).run(stop.clone()));
        let workers = (0..2).map(worker).collect();
        dispatcher.resume(fresh, &queued);
        Self { store, dispatcher, writer, stop, workers }
    }

    /// Stops whatever is under way, as a crash would as far as receivers can tell; what was committed stays.
    async fn stop(self) {
        self.dispatcher.drain();
        self.stop.cancel();
        for worker in self.workers {
            worker.await.unwrap();
        }
        self.store.close();
        tokio::task::yield_now().await;
        self.writer.join().unwrap();
    }

    async fn ask(&self, op: Op) -> Done {
        self.store.submit(op, Some(1)).await.unwrap()
    }

    /// A webhook of a tenant of its own.
    async fn webhook(&self, name: &str, receiver: &Receiver) -> WebhookNo {
        let id = TenantId::parse(name).unwrap();
        let Done::Tenant(tenant) = self.ask(Op::PutTenant { id, name: None, plan: None }).await else {
            panic!("no tenant")
        };
        let draft = Webhook {
            id: WebhookId(Entropy::system().bytes()),
            url: receiver.url(),
            ..Webhook::sample(tenant.no, vec![Filter::All])
        };
        let quota = Quota { of_tenant: 10, of_dialect: None };
        let Done::Webhook(webhook) = self.ask(Op::CreateWebhook { draft: Box::new(draft), quota }).await else {
            panic!("no webhook")
        };
        assert_eq!(webhook.no, tenant.no, "the tests count on one webhook a tenant");
        webhook.no
    }

    async fn publish(&self, tenant: u32, count: usize) -> Vec<Arc<Event>> {
        let accept = Accept { drafts: vec![draft(tenant); count], ..Accept::default() };
        let Done::Accepted(receipt) = self.ask(Op::Accept(accept)).await else { panic!("not accepted") };
        receipt.events().to_vec()
    }

    async fn patch(&self, no: WebhookNo, patch: WebhookPatch) {
        self.ask(Op::UpdateWebhook { no, patch: Box::new(patch) }).await;
    }

    fn standing(&self, no: WebhookNo) -> Standing {
        self.store.shared().view().unwrap().standing(no).unwrap()
    }

    fn rows(&self, no: WebhookNo) -> u64 {
        let standing = self.standing(no);
        standing.waiting + standing.started
    }

    async fn settled(&self) {
        eventually("nothing is under way", || self.dispatcher.in_flight() == 0).await;
    }
}

/// A request as a receiver saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    id: String,
    attempt: u32,
}

/// A receiver that answers with the status that it is set to; 0: it keeps everybody waiting.
#[derive(Clone)]
struct Receiver {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    status: Arc<AtomicU16>,
    changed: watch::Sender<()>,
}

impl Receiver {
    async fn start(status: u16) -> Self {
        Self::with(status, |_| {}).await
    }

    /// `before` is called for each request before it is answered.
    async fn with(status: u16, before: impl Fn(&Seen) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            addr: listener.local_addr().unwrap(),
            seen: Arc::default(),
            status: Arc::new(AtomicU16::new(status)),
            changed: watch::channel(()).0,
        };
        let (shared, before) = (receiver.clone(), Arc::new(before));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, before) = (shared.clone(), before.clone());
                tokio::spawn(async move { shared.serve(stream, &*before).await });
            }
        });
        receiver
    }

    async fn serve(self, mut stream: TcpStream, before: &(dyn Fn(&Seen) + Send + Sync)) {
        let mut changed = self.changed.subscribe();
        while let Some(head) = read_request(&mut stream).await {
            let header = |name: &str| {
                head.lines().find_map(|line| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)))
            };
            let seen = Seen {
                id: header("webhook-id").unwrap().1.to_owned(),
                attempt: header("webhook-attempt").unwrap().1.parse().unwrap(),
            };
            self.seen.lock().unwrap().push(seen.clone());
            before(&seen);
            let mut status = self.status.load(Ordering::SeqCst);
            while status == 0 && changed.changed().await.is_ok() {
                status = self.status.load(Ordering::SeqCst);
            }
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn set(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
        self.changed.send_replace(());
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.addr)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// How often each event came.
    fn times(&self) -> HashMap<String, usize> {
        self.seen().into_iter().fold(HashMap::new(), |mut times, seen| {
            *times.entry(seen.id).or_default() += 1;
            times
        })
    }
}

/// Reads one request; gives its head.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4_096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap_or("0");
            if body.len() >= length.parse().unwrap() {
                return Some(head.to_owned());
            }
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    }
}

/// Waits until something is so; fails the test when it never is.
async fn eventually(what: &str, so: impl Fn() -> bool) {
    for _ in 0..6_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}
