//! A life of the daemon in paused time: store, writer, dispatcher and workers as tasks of one runtime, above a disk in
//! memory. Owns what a life begins with and how it ends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redb::Builder;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use webhookd::clock::{Clock, Millis};
use webhookd::dispatch::dispatcher::{Components, Dispatcher};
use webhookd::dispatch::settings::Settings;
use webhookd::dispatch::worker::Worker;
use webhookd::egress::stream::Streams;
use webhookd::egress::{self, Egress, Rules, StaticResolver};
use webhookd::entropy::Entropy;
use webhookd::metrics::Metrics;
use webhookd::retry::Plans;
use webhookd::store::open::{self, OpenError};
use webhookd::store::recover::recover;
use webhookd::store::seal::Sealer;
use webhookd::store::spool::{self, Spool};
use webhookd::store::wal::Wal;
use webhookd::store::writer::{Parts, Store};

use crate::chance::Chance;
use crate::disk::Disk;
use crate::ledger::{Ledger, Repeats};
use crate::net::Net;

const WORKERS: usize = 2;
const CACHE_BYTES: usize = 1 << 20;
/// So little that it is full after some groups.
const WAL_BYTES: u64 = 8 << 10;
pub const RETENTION_MS: Millis = 86_400_000;
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// What outlives the daemon.
pub struct World {
    pub seed: u64,
    pub chance: Chance,
    pub disk: Disk,
    pub folder: tempfile::TempDir,
    pub ledger: Ledger,
    /// What the machine's clock says.
    pub wall_ms: Millis,
    pub lives: u64,
}

/// A running daemon.
pub struct Life {
    pub store: Store,
    pub dispatcher: Arc<Dispatcher>,
    pub clock: Clock,
    pub ledger: Ledger,
    pub disk: Disk,
    writer: JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl World {
    pub fn new(seed: u64, ledger: Ledger) -> Self {
        let world = Self {
            seed,
            chance: Chance::new(seed),
            disk: Disk::default(),
            folder: tempfile::tempdir().unwrap(),
            ledger,
            wall_ms: 1_700_000_000_000,
            lives: 0,
        };
        let db = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(world.disk.handle()).unwrap();
        let entropy = Entropy::seeded(seed);
        open::initialise(&db, &sealer(&entropy), &entropy).unwrap();
        world
    }

    /// Runs one life on a runtime of its own; whatever still runs when `live` ends is gone with it.
    pub fn live<T>(&mut self, repeats: Repeats, live: impl AsyncFnOnce(&mut Chance, Life) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        self.ledger.lock().begin(repeats);
        self.lives += 1;
        let mut chance = self.chance.clone();
        let done = runtime.block_on(async {
            let life = self.start();
            let clock = life.clock.clone();
            let done = live(&mut chance, life).await;
            self.wall_ms = clock.wall_ms();
            done
        });
        drop(runtime);
        self.chance = chance;
        self.ledger.lock().shared = None;
        done
    }

    fn start(&self) -> Life {
        let clock = Clock::of_runtime(self.wall_ms);
        let entropy = Entropy::seeded(self.seed.wrapping_mul(1_000).wrapping_add(self.lives));
        let parts = self.parts(&clock, &entropy);
        let store = parts.inline_store();
        self.ledger.lock().adopt(parts.shared.clone());
        self.run(parts, store, clock, entropy)
    }

    fn parts(&self, clock: &Clock, entropy: &Entropy) -> Parts {
        let open = |disk: &Disk| {
            if disk.is_in_use() {
                return Err(OpenError::Locked("simulated".into()));
            }
            let failed = |why: String| OpenError::Disk { path: "simulated".into(), why };
            let db = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(disk.handle());
            let wal = Wal::open(Box::new(disk.log()), WAL_BYTES).map_err(|error| failed(error.to_string()))?;
            Ok::<_, OpenError>((db.map_err(|error| failed(error.to_string()))?, wal))
        };
        let (db, wal) = open(&self.disk).unwrap();
        let db = Arc::new(db);
        let shared = open::admit(&db, Path::new("simulated"), sealer(entropy)).unwrap();
        let mut recovered = recover(db, shared.clone(), clock, wal, RETENTION_MS).unwrap();
        let (spool, found) = Spool::open(self.folder.path()).unwrap();
        spool::replay(&mut recovered, &shared, &found).unwrap();
        spool.clear().unwrap();
        let disk = self.disk.clone();
        Parts {
            recovered,
            shared,
            spool: Some(Arc::new(spool)),
            reopen: Box::new(move || open(&disk)),
            clock: clock.clone(),
            metrics: Arc::new(Metrics::default()),
        }
    }

    fn run(&self, mut parts: Parts, store: Store, clock: Clock, entropy: Entropy) -> Life {
        let settings = {
            let book = self.ledger.lock();
            Settings {
                plans: Arc::new(Plans::with_default(book.policy.clone())),
                timeout: Some(TIMEOUT),
                max_in_flight_per_webhook: book.permits,
                max_in_flight_per_host: book.permits_of_host,
                max_in_flight_per_tenant: book.permits_of_tenant,
                max_in_flight: book.permits_of_all,
                // Lanes come and go all the time.
                lanes_kept: 2,
                ..Settings::default()
            }
        };
        let rules = Rules { require_https: false, ..Rules::default() };
        let net = Net { ledger: self.ledger.clone(), clock: clock.clone() };
        let egress = Egress::build_over(
            Some(Arc::new(net)),
            egress::Settings { rules, ..egress::Settings::default() },
            Arc::new(StaticResolver::default()),
            clock.clone(),
        );
        let dispatcher = Dispatcher::new(Components {
            workers: WORKERS,
            settings,
            egress: egress.unwrap(),
            streams: Streams::new(clock.clone(), entropy.clone()),
            store: store.clone(),
            clock: clock.clone(),
            entropy,
            metrics: parts.metrics.clone(),
        });
        let fresh = std::mem::take(&mut parts.recovered.fresh);
        let queued = std::mem::take(&mut parts.recovered.queued);
        let (of_writer, downstream) = (store.clone(), dispatcher.clone());
        let writer = tokio::spawn(async move { of_writer.run_inline(parts, downstream).await });
        let stop = CancellationToken::new();
        let worker = |index| tokio::spawn(Worker::new(index, dispatcher.clone()).run(stop.clone()));
        let workers = (0..WORKERS).map(worker).collect();
        dispatcher.resume(fresh, &queued);
        let (ledger, disk) = (self.ledger.clone(), self.disk.clone());
        Life { store, dispatcher, clock, ledger, disk, writer, workers, stop }
    }

    /// The power goes: what was not synced may be lost, in the spool as well.
    pub fn power_cut(&mut self) {
        self.disk.power_cut(&mut self.chance);
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let kept = self.chance.index(bytes.len() + 1);
            bytes.truncate(kept);
            if kept > 0 && self.chance.percent(30) {
                let at = self.chance.index(kept);
                bytes[at] ^= 1 + u8::try_from(self.chance.below(255)).unwrap();
            }
            std::fs::write(&path, bytes).unwrap();
        }
    }

    pub fn hold(&self) {
        let book = self.ledger.lock();
        if let (false, Some(path)) = (book.breaches.is_empty(), std::env::var_os("TRACE")) {
            std::fs::write(path, book.trace.join("\n")).unwrap();
        }
        assert!(book.breaches.is_empty(), "{:#?}", &book.breaches[..book.breaches.len().min(5)]);
    }
}

impl Life {
    /// A stop as SIGTERM asks for it: what is under way ends first.
    pub async fn stop(self) {
        self.dispatcher.drain();
        for _ in 0..600 {
            if self.dispatcher.in_flight() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.dispatcher.in_flight(), 0, "attempts do not end");
        self.stop.cancel();
        for worker in self.workers {
            worker.await.unwrap();
        }
        self.store.close();
        self.writer.await.unwrap();
    }
}

fn sealer(entropy: &Entropy) -> Sealer {
    Sealer::new([7; 32], entropy.clone())
}
