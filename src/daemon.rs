//! The daemon as a whole: built, bound, running, drained. Owns the order in which parts start and stop.
//!
//! Each worker is a thread with a runtime of its own, a listener on the same addresses (SO_REUSEPORT) and the lanes that
//! belong to it; one more thread administers, so that its answers stay quick while the workers are busy; the store has its
//! writer. Stopping goes the other way: no new connections, requests under way end, attempts under way end, their outcomes
//! are written, the writer closes the store.

mod upkeep;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::{Config, Loaded};
use crate::dispatch::dispatcher::{Components, Dispatcher};
use crate::dispatch::worker::Worker;
use crate::egress::resolve::SystemResolver;
use crate::egress::stream::Streams;
use crate::egress::{Egress, EgressError};
use crate::entropy::Entropy;
use crate::http::call::{Api, Surface};
use crate::http::control::Control;
use crate::http::gate::ConnectionGate;
use crate::http::listen::{self, ListenError, Socket};
use crate::http::server::{self, Limits};
use crate::http::tls;
use crate::metrics::Metrics;
use crate::model::attempt::Attempt;
use crate::model::event::Event;
use crate::model::id::{Seq, WebhookNo};
use crate::model::pause::Scope;
use crate::model::webhook::Webhook;
use crate::service::{self, BoxFuture, Dispatching, Service};
use crate::settings;
use crate::store::open::{OpenError, Place};
use crate::store::writer::{Parts, Store};
use crate::systemd::{HandoverError, Listening, Purpose};

/// Requests that are under way when the daemon stops get this long.
const REQUESTS_GRACE: Duration = Duration::from_secs(10);
/// Attempts that are under way when the daemon stops get this long: more than the longest time-out.
const ATTEMPTS_GRACE: Duration = Duration::from_secs(65);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// A schema of the catalogue.
    #[error("{0}")]
    Catalogue(String),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Handover(#[from] HandoverError),
    #[error(
        "the API's socket (server.listen or webhookd.socket) speaks TLS, and there is no certificate; name one with \
         server.tls.cert and server.tls.key"
    )]
    NoCertificate,
    #[error("a thread can't be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Everything made, nothing listening yet.
pub struct Built {
    pub config: Config,
    pub clock: Clock,
    pub service: Arc<Service>,
    pub dispatcher: Arc<Dispatcher>,
    pub egress: Egress,
    pub resolver: Arc<SystemResolver>,
    pub tls: Option<Arc<ArcSwap<ServerConfig>>>,
    pub metrics: Arc<Metrics>,
    store: Store,
    parts: Parts,
    ready: Arc<AtomicBool>,
}

/// Makes all parts from a configuration; opens the store.
///
/// # Errors
/// See `StartError`.
pub fn build(loaded: &Loaded) -> Result<Built, StartError> {
    let config = loaded.config.clone();
    let (clock, entropy, metrics) = (Clock::system(), Entropy::system(), Arc::new(Metrics::default()));
    let tls = match config.server.tls.pair() {
        Some((cert, key)) => Some(tls::shared(cert, key)?),
        None => None,
    };
    let (catalogue, plans) = (settings::catalogue(&config).map_err(StartError::Catalogue)?, settings::plans(&config));
    let resolver = Arc::new(SystemResolver::new());
    let egress = Egress::build(settings::egress(&config), resolver.clone(), clock.clone())?;
    let place = Place {
        state_dir: config.state_dir.clone(),
        key_file: config.secrets.key_file.clone(),
        cache_bytes: usize::try_from(config.store.cache).unwrap_or(usize::MAX),
    };
    let idempotency_ms = settings::millis(config.retention.idempotency);
    let parts = Parts::open(&place, &entropy, &clock, &metrics, idempotency_ms)?;
    let (store, streams) = (parts.store(), Streams::new(clock.clone(), entropy.clone()));
    let dispatcher = Dispatcher::new(Components {
        workers: workers(&config),
        settings: settings::dispatch(&config, plans.clone()),
        egress: egress.clone(),
        streams: streams.clone(),
        store: store.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        metrics: metrics.clone(),
    });
    let service = Arc::new(Service::new(service::Parts {
        store: store.clone(),
        settings: settings::service(&config, catalogue, plans, egress.rules()),
        clock: clock.clone(),
        entropy,
        dispatch: Arc::new(Bridge(dispatcher.clone())),
        streams,
        metrics: metrics.clone(),
        store_file: place.store_file(),
    }));
    service.expect_streams();
    Ok(Built {
        config,
        clock,
        service,
        dispatcher,
        egress,
        resolver,
        tls,
        metrics,
        store,
        parts,
        ready: Arc::default(),
    })
}

/// How many workers a configuration means.
#[must_use]
pub fn workers(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.server.workers.unwrap_or_else(cores).max(1)
}

/// All sockets open, nobody served yet.
pub struct Bound {
    built: Built,
    public: Vec<Door>,
    admin: Vec<Door>,
    /// The addresses of the public TCP listeners, as they came out.
    pub addresses: Vec<(SocketAddr, bool)>,
    pub admin_socket: PathBuf,
}

/// One address, with a socket for each thread that serves it.
struct Door {
    sockets: Vec<Socket>,
    tls: bool,
    surface: Surface,
}

impl Built {
    /// Opens the sockets. Those that were handed over take the place of what is configured for their purpose.
    ///
    /// # Errors
    /// When an address can't be listened on.
    pub fn bind(self, handed: Vec<(Purpose, Listening)>) -> Result<Bound, StartError> {
        let workers = workers(&self.config);
        let mut handed = Handed::sort(handed, workers)?;
        if self.tls.is_none() && !(handed.api.is_empty() && self.config.server.listen.is_empty()) {
            return Err(StartError::NoCertificate);
        }
        let mut addresses: Vec<_> = handed.api.iter().filter_map(|door| Some((door.address()?, true))).collect();
        let mut public = std::mem::take(&mut handed.api);
        let server = &self.config.server;
        let own = if public.is_empty() { server.listen.as_slice() } else { &[] };
        let listens = own.iter().map(|addr| (*addr, true));
        for (addr, tls) in listens.chain(server.plaintext_listen.iter().map(|addr| (*addr, false))) {
            let sockets = listen::tcp(addr, workers)?;
            addresses.push((sockets.first().and_then(Socket::local_addr).unwrap_or(addr), tls));
            public.push(Door { sockets, tls, surface: Surface::Public });
        }
        let admin_socket = self.config.admin.socket.clone();
        let metrics = self.config.metrics.listen.filter(|_| handed.metrics.is_empty());
        let mut admin = handed.admin;
        if admin.is_empty() {
            let sockets = listen::unix(&admin_socket, 1)?;
            admin.push(Door { sockets, tls: false, surface: Surface::Admin });
        }
        admin.append(&mut handed.metrics);
        for (addr, surface) in [(self.config.admin.listen, Surface::Admin), (metrics, Surface::Metrics)] {
            if let Some(addr) = addr {
                admin.push(Door { sockets: listen::tcp(addr, 1)?, tls: false, surface });
            }
        }
        Ok(Bound { built: self, public, admin, addresses, admin_socket })
    }
}

impl Door {
    fn address(&self) -> Option<SocketAddr> {
        self.sockets.first().and_then(Socket::local_addr)
    }
}

/// Doors made of the sockets that were handed over.
#[derive(Default)]
struct Handed {
    api: Vec<Door>,
    admin: Vec<Door>,
    metrics: Vec<Door>,
}

impl Handed {
    fn sort(sockets: Vec<(Purpose, Listening)>, workers: usize) -> Result<Self, ListenError> {
        let mut sorted = Self::default();
        for (purpose, socket) in sockets {
            let socket = match socket {
                Listening::Tcp(socket) => Socket::Tcp(socket),
                Listening::Unix(socket) => Socket::Unix(socket),
            };
            let (doors, surface, workers) = match purpose {
                Purpose::Api => (&mut sorted.api, Surface::Public, workers),
                Purpose::Admin => (&mut sorted.admin, Surface::Admin, 1),
                Purpose::Metrics => (&mut sorted.metrics, Surface::Metrics, 1),
            };
            let sockets = listen::inherited(socket, workers)?;
            doors.push(Door { sockets, tls: purpose == Purpose::Api, surface });
        }
        Ok(sorted)
    }
}

/// The daemon at work.
pub struct Running {
    pub config: ArcSwap<Config>,
    pub service: Arc<Service>,
    pub dispatcher: Arc<Dispatcher>,
    pub egress: Egress,
    pub resolver: Arc<SystemResolver>,
    pub tls: Option<Arc<ArcSwap<ServerConfig>>>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    store: Store,
    ready: Arc<AtomicBool>,
    /// No more connections.
    closing: CancellationToken,
    /// Workers end.
    ending: CancellationToken,
    requests: TaskTracker,
    threads: Vec<JoinHandle<()>>,
    writer: JoinHandle<()>,
    upkeep: tokio::task::JoinHandle<()>,
    admin: Runtime,
}

impl Bound {
    /// Starts everything. What is asked over the API of the process as a whole goes to `control`.
    ///
    /// # Errors
    /// When a thread or runtime can't be started.
    pub fn run(self, control: Control) -> Result<Running, StartError> {
        let Self { built, public, admin, .. } = self;
        let Built { config, clock, service, dispatcher, egress, resolver, tls, metrics, store, mut parts, ready } =
            built;
        let fresh = std::mem::take(&mut parts.recovered.fresh);
        let queued = std::mem::take(&mut parts.recovered.queued);
        let writer = store.start(parts, dispatcher.clone())?;
        let (closing, ending, requests) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let limits = settings::server_limits(&config);
        let api = Api::new(service.clone(), control, ready.clone(), limits.body_timeout);
        let gate = ConnectionGate::counted(limits.max_connections, metrics.connections.clone());
        let served = Served {
            api,
            tls: tls.clone(),
            limits: limits.clone(),
            gate,
            closing: closing.clone(),
            requests: requests.clone(),
        };
        let mut threads = Vec::new();
        let count = workers(&config);
        let mut doors: Vec<Vec<(Socket, bool, Surface)>> = (0..count).map(|_| Vec::new()).collect();
        for door in public {
            for (worker, socket) in door.sockets.into_iter().enumerate() {
                doors[worker % count].push((socket, door.tls, door.surface));
            }
        }
        for (index, doors) in doors.into_iter().enumerate() {
            let (served, worker, ending) = (served.clone(), Worker::new(index, dispatcher.clone()), ending.clone());
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || {
                runtime.block_on(async move {
                    served.open(doors, Some(index));
                    worker.run(ending).await;
                });
            })?);
        }
        let admin = served.administer(admin)?;
        let (upkeep, jobs) =
            (upkeep::keep_up(service.clone(), closing.clone()), work(service.clone(), closing.clone()));
        let upkeep = admin.spawn(async move {
            tokio::join!(upkeep, jobs);
        });
        dispatcher.resume(fresh, &queued);
        ready.store(true, Ordering::Release);
        let config = ArcSwap::from_pointee(config);
        Ok(Running {
            config,
            service,
            dispatcher,
            egress,
            resolver,
            tls,
            metrics,
            clock,
            store,
            ready,
            closing,
            ending,
            requests,
            threads,
            writer,
            upkeep,
            admin,
        })
    }
}

impl Running {
    /// The runtime of the administering thread.
    #[must_use]
    pub fn admin(&self) -> &Runtime {
        &self.admin
    }

    /// How many workers serve and deliver.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.threads.len()
    }

    /// The store's handle.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether a thread that must run has ended.
    #[must_use]
    pub fn failed_thread(&self) -> Option<&str> {
        let worker = self.threads.iter().find(|thread| thread.is_finished()).and_then(|thread| thread.thread().name());
        let writer = || self.writer.is_finished().then_some("writer");
        worker.or_else(writer).or_else(|| self.upkeep.is_finished().then_some("upkeep"))
    }

    /// Stops in order; gives false when attempts had to be cut off, which are then tried again at the next start.
    #[must_use]
    pub fn drain(self) -> bool {
        self.ready.store(false, Ordering::Release);
        self.closing.cancel();
        self.dispatcher.end_streams();
        self.requests.close();
        let requests = self.requests.clone();
        let waited = self.admin.block_on(async move { tokio::time::timeout(REQUESTS_GRACE, requests.wait()).await });
        if waited.is_err() {
            tracing::warn!("requests were still under way; their connections are cut");
        }
        self.dispatcher.drain();
        let deadline = Instant::now() + ATTEMPTS_GRACE;
        while self.dispatcher.in_flight() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let clean = self.dispatcher.in_flight() == 0;
        self.store.close();
        let written = self.writer.join().is_ok();
        self.ending.cancel();
        for thread in self.threads {
            // A worker that panicked has said so already.
            let _ = thread.join();
        }
        self.admin.shutdown_timeout(Duration::from_secs(1));
        clean && written
    }
}

/// What every listener is served with.
#[derive(Clone)]
struct Served {
    api: Api,
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    limits: Limits,
    gate: Arc<ConnectionGate>,
    closing: CancellationToken,
    requests: TaskTracker,
}

impl Served {
    /// Serves the administration's listeners on a thread of their own, with connections of their own.
    fn administer(self, doors: Vec<Door>) -> std::io::Result<Runtime> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("admin").enable_all().build()?;
        let doors = doors.into_iter().flat_map(|door| {
            let (tls, surface) = (door.tls, door.surface);
            door.sockets.into_iter().map(move |socket| (socket, tls, surface))
        });
        {
            let _inside = runtime.enter();
            let gate = self.gate.beside(settings::ADMIN_CONNECTIONS_MAX);
            Self { gate, ..self }.open(doors.collect(), None);
        }
        Ok(runtime)
    }

    /// Serves these sockets on the runtime this is called on.
    fn open(&self, doors: Vec<(Socket, bool, Surface)>, worker: Option<usize>) {
        for (socket, secure, surface) in doors {
            let listener = match socket.listen() {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(%error, "a listener can't be served");
                    continue;
                }
            };
            let tls = if secure { self.tls.clone() } else { None };
            let door = self.api.door(surface, worker);
            let (gate, closing) = (self.gate.clone(), self.closing.clone());
            let (limits, requests) = (self.limits.clone(), self.requests.clone());
            tokio::spawn(server::serve(listener, tls, door, limits, gate, closing, requests));
        }
    }
}

/// Takes the jobs that run further, step by step, until the daemon stops; where they stand is in the store.
async fn work(service: Arc<Service>, closing: CancellationToken) {
    loop {
        let rest = service.step_jobs().await;
        tokio::select! {
            () = closing.cancelled() => return,
            () = service.rest(rest) => {}
        }
    }
}

/// The dispatcher as the service sees it.
struct Bridge(Arc<Dispatcher>);

impl Dispatching for Bridge {
    fn glance(&self, webhook: WebhookNo, event: Seq) -> crate::dispatch::glance::Glance {
        self.0.glance(webhook, event)
    }

    fn test(&self, webhook: Arc<Webhook>, event: Arc<Event>) -> BoxFuture<Attempt> {
        let dispatcher = self.0.clone();
        Box::pin(async move { dispatcher.test(webhook, event).await })
    }

    fn look_again(&self, webhook: WebhookNo) {
        self.0.look_again(webhook);
    }

    fn expect_well(&self, scope: &Scope) {
        self.0.expect_well(scope);
    }
}

/// Lifts the soft limit on open files to the hard one: connections in both directions need descriptors.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        // Under systemd it is, and raising it is not allowed there either.
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit on open files can't be raised");
    }
}
