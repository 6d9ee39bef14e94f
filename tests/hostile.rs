//! The daemon among enemies: clients that are slow, silent, huge or malformed, and receivers that lie, drip and bomb. What is looked
//! at each time is how the others fare meanwhile, and what it costs.
//!
//! Figures rather than a check come from the release build on a machine that does nothing else:
//!
//!     HOSTILE_EVENTS=2000 HOSTILE_RATIO=1.5 OVERLOAD_SECONDS=60 cargo test --release --test hostile -- --nocapture

mod support;

#[path = "hostile/clients.rs"]
mod clients;
#[path = "hostile/http2.rs"]
mod http2;
#[path = "hostile/overload.rs"]
mod overload;
#[path = "hostile/receivers.rs"]
mod receivers;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Authority, Builder, Certificate, Client, SOON, Stage, free_port};
use tempfile::TempDir;

/// Where enemies come from; all others come from 127.0.0.1.
const ENEMY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// How long an honest client may wait while others do their worst. Far more than it takes: what is meant is that nobody waits for
/// a hostile one's time limit.
const HARDLY: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });

/// The tests load the machine and look at times: one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A daemon that also listens over TLS.
struct Ground {
    _alone: MutexGuard<'static, ()>,
    stage: Stage,
    tls: SocketAddr,
    authority: Authority,
    _folder: TempDir,
}

impl Ground {
    fn new(builder: Builder) -> Self {
        let alone = alone();
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let authority = Authority::new();
        let (chain, key) = authority.issue(Certificate::Good);
        let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert_file, chain).expect("writing the certificate");
        std::fs::write(&key_file, key).expect("writing the key");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&key_file, mode).expect("a mode");
        let tls = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let builder = builder.set("server.listen", format!("[\"{tls}\"]"));
        let builder = builder.set_text("server.tls.cert", cert_file.to_string_lossy());
        let stage = Stage::start(builder.set_text("server.tls.key", key_file.to_string_lossy()));
        Self { _alone: alone, stage, tls, authority, _folder: folder }
    }

    fn rss_kib(&self) -> u64 {
        rss_kib(self.stage.daemon.pid())
    }

    /// Asks, as an honest client does, while `hostile` runs: publishes over a kept connection, and over a new one with TLS. Every
    /// answer has to be there; gives how long each took, in order of size.
    fn served_meanwhile(&self, hostile: impl FnOnce()) -> Vec<Duration> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let honest = scope.spawn(|| {
                let secure = Client::tls(self.tls, "localhost", &self.authority);
                let mut kept = self.stage.publisher.open().expect("a connection");
                let event = json!({"type": "honest", "tenant": "acme"}).to_string();
                let mut took = Vec::new();
                while !over.load(Ordering::SeqCst) || took.len() < 20 {
                    let asked = Instant::now();
                    kept.send("POST", "/v1/events", &[], event.clone()).expect("an answer").expect(201);
                    secure.get("/healthz").expect(200);
                    took.push(asked.elapsed());
                    std::thread::sleep(Duration::from_millis(5));
                }
                took.sort();
                took
            });
            // Also when it fails: the other would ask for ever.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(hostile));
            over.store(true, Ordering::SeqCst);
            let took = honest.join().expect("an honest client that is served");
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic);
            }
            took
        })
    }
}

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A connection from the enemy's address.
fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("an address of this machine");
    socket.connect(&to.into()).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    stream.set_write_timeout(Some(SOON)).expect("a time-out");
    stream
}

/// The value at a share of a sorted list.
fn at_share(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}
