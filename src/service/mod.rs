//! What a caller can ask of the daemon, without HTTP words: publish, subscribe, inspect, dead letters, access.
//!
//! Owns the rules on what is asked; every change goes through the store's writer and is durable before its function
//! returns. Who asks is settled above, by `http::auth`; how an answer looks, by the dialects. Deliveries and attempts are
//! left to dispatch, which is reached through `Dispatching` only.

pub mod access;
mod asker;
pub mod audit;
pub mod backup;
pub mod deadletter;
mod error;
pub mod explain;
mod field;
mod figures;
pub mod halt;
pub mod inspect;
pub mod jobs;
pub mod overview;
pub mod publish;
mod rate;
pub mod retention;
pub mod room;
pub mod settings;
pub mod stats;
pub mod stream;
pub mod subscribe;
mod trials;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::{ArcSwap, Guard};

use crate::clock::{Clock, Millis};
use crate::dispatch::glance::Glance;
use crate::egress::stream::Streams;
use crate::entropy::Entropy;
use crate::metrics::Metrics;
use crate::model::attempt::Attempt;
use crate::model::event::Event;
use crate::model::id::{Seq, WebhookNo};
use crate::model::pause::Scope;
use crate::model::webhook::Webhook;
use crate::store::retention::Sweep;
use crate::store::writer::Store;

pub use asker::Asker;
pub use error::{Error, shown, unknown_tenant};
pub use settings::Settings;

/// A future that was put on the heap, so that a trait object can return it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the service needs of the dispatcher.
pub trait Dispatching: Send + Sync + 'static {
    /// What can be seen of a webhook's lane, and of one delivery in it.
    fn glance(&self, webhook: WebhookNo, event: Seq) -> Glance;
    /// One signed attempt at once, with the verdict `Delivered` or `Single`; the webhook may be inactive. Putting it on
    /// record is the service's.
    fn test(&self, webhook: Arc<Webhook>, event: Arc<Event>) -> BoxFuture<Attempt>;
    /// What the webhook's deliveries waited for is there.
    fn look_again(&self, webhook: WebhookNo);
    /// Somebody asks for deliveries that failed: their receivers are probed at once where they are not tried otherwise.
    fn expect_well(&self, scope: &Scope);
}

/// What a service is made of.
pub struct Parts {
    pub store: Store,
    pub settings: Settings,
    pub clock: Clock,
    pub entropy: Entropy,
    pub dispatch: Arc<dyn Dispatching>,
    pub streams: Arc<Streams>,
    pub metrics: Arc<Metrics>,
    /// Its length is among the figures.
    pub store_file: PathBuf,
}

pub struct Service {
    store: Store,
    settings: ArcSwap<Settings>,
    clock: Clock,
    entropy: Entropy,
    dispatch: Arc<dyn Dispatching>,
    streams: Arc<Streams>,
    metrics: Arc<Metrics>,
    store_file: PathBuf,
    started_ms: Millis,
    /// How far the wall clock was ahead of schedule time at the start.
    clock_lead_ms: i64,
    rates: rate::Rates,
    /// Where the next run of retention goes on; held while one runs.
    sweep: tokio::sync::Mutex<Sweep>,
    room: room::Gauge,
    /// A run of retention should not wait for its minute.
    wanted: tokio::sync::Notify,
    /// Bytes in use when the last one ended.
    swept_to: AtomicU64,
    desk: jobs::Desk,
    trials: trials::Trials,
}

impl Service {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let signed = |ms: Millis| i64::try_from(ms).unwrap_or(i64::MAX);
        Self {
            store: parts.store,
            settings: ArcSwap::from_pointee(parts.settings),
            started_ms: parts.clock.now_ms(),
            clock_lead_ms: signed(parts.clock.wall_ms()) - signed(parts.clock.now_ms()),
            clock: parts.clock,
            entropy: parts.entropy,
            dispatch: parts.dispatch,
            streams: parts.streams,
            metrics: parts.metrics,
            store_file: parts.store_file,
            rates: rate::Rates::default(),
            sweep: tokio::sync::Mutex::default(),
            room: room::Gauge::default(),
            wanted: tokio::sync::Notify::default(),
            swept_to: AtomicU64::new(0),
            desk: jobs::Desk::default(),
            trials: trials::Trials::default(),
        }
    }

    /// The settings in force; keep the guard for one question only.
    #[must_use]
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Takes over new settings: what is asked from now on is judged by them.
    pub fn reload(&self, settings: Settings) {
        self.store.shared().set_idempotency_ms(settings.retention.idempotency_ms);
        self.settings.store(Arc::new(settings));
        self.wanted.notify_one();
    }

    #[must_use]
    pub fn entropy(&self) -> &Entropy {
        &self.entropy
    }

    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}
