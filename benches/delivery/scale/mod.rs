//! How it grows: the daemon with something large in it against the daemon without, in turns, in one run. Owns the stores that
//! are large, and how a load on one is measured; what is measured is in the module of each scenario.
//!
//! Making a large store takes minutes: with `--store` it is made once, in a run of its own (`--fill`), and used again. Its webhooks
//! have the ports that its first receivers got, which stand beside it.

mod grown;
mod pages;
mod pending;
mod spread;
mod steady;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::children::{self, Helper};
use crate::daemon::Daemon;
use crate::options::{Options, Scenario};

const WARM_UP: Duration = Duration::from_secs(1);
/// Events in a request while a store is filled, and connections that fill it.
const FILL_BATCH: usize = 1_000;
const FILL_CONNECTIONS: usize = 4;

pub fn measure(options: &Options, scenario: Scenario) {
    match scenario {
        Scenario::Spread => spread::measure(options),
        Scenario::Pending => pending::measure(options),
        Scenario::Grown => grown::measure(options),
        Scenario::Steady => steady::measure(options),
    }
}

/// A folder for a store, and the ports of the receivers that its webhooks name.
struct Site {
    folder: PathBuf,
    ports: Vec<u16>,
    _temporary: Option<TempDir>,
}

impl Site {
    /// The one with the large store: kept where the options say so.
    fn large(options: &Options, ports: usize) -> Self {
        let Some(folder) = &options.store else { return Self::empty(ports) };
        fs::create_dir_all(folder).expect("the folder of --store");
        let noted = folder.join("ports");
        let ports = match fs::read_to_string(&noted) {
            Ok(text) => text.split(',').map(|port| port.parse().expect("a port")).collect(),
            Err(_) => free_ports(ports),
        };
        fs::write(&noted, list(&ports)).expect("noting the ports");
        Self { folder: folder.clone(), ports, _temporary: None }
    }

    fn empty(ports: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("delivery-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.expect("a folder");
        Self { folder: folder.path().to_owned(), ports: free_ports(ports), _temporary: Some(folder) }
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Receivers on the ports from `first` to below `end`.
    fn receive(&self, first: usize, end: usize) -> Helper {
        Helper::spawn("__receiver", &["--at".to_owned(), list(&self.ports[first..end])])
    }

    fn url(&self, at: usize) -> String {
        format!("http://127.0.0.1:{}/hook", self.ports[at])
    }
}

fn list(ports: &[u16]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn free_ports(count: usize) -> Vec<u16> {
    let free = |_| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
    // All at once, so that none is given twice.
    let held: Vec<TcpListener> = (0..count).map(free).collect();
    held.iter().map(|listener| listener.local_addr().expect("an address").port()).collect()
}

/// What publishes.
struct Load {
    publisher: Helper,
}

impl Load {
    /// `more`: the publisher's other arguments.
    fn new(daemon: &Daemon, options: &Options, connections: usize, batch: usize, more: &[(&str, String)]) -> Self {
        let mut arguments = vec!["--address".to_owned(), daemon.address.to_string()];
        arguments.extend(["--token".to_owned(), daemon.publisher_token.clone()]);
        for (name, number) in [("--connections", connections), ("--bytes", options.bytes), ("--batch", batch)] {
            arguments.extend([name.to_owned(), number.to_string()]);
        }
        arguments.extend(more.iter().flat_map(|(name, value)| [(*name).to_owned(), value.clone()]));
        Self { publisher: Helper::spawn("__publisher", &arguments) }
    }

    /// Runs for the measured time, after a second; gives what was measured.
    fn run(&mut self, daemon: &Daemon, receiver: &mut Helper, seconds: f64) -> Figures {
        self.publisher.ask("start");
        std::thread::sleep(WARM_UP);
        let figures = watch(daemon, receiver, Some(&mut self.publisher), seconds);
        self.publisher.ask("stop");
        figures
    }
}

/// What a load came to.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    deliveries_per_s: f64,
    events_per_s: f64,
    acked_p99_ms: f64,
    received_p50_ms: f64,
    received_p99_ms: f64,
    cpu_us: f64,
    others_percent: f64,
    rss_mib: f64,
    hwm_mib: f64,
}

/// Measures what goes on for so many seconds.
fn watch(daemon: &Daemon, receiver: &mut Helper, publisher: Option<&mut Helper>, seconds: f64) -> Figures {
    let pid = daemon.process.pid();
    let mut loaders = vec![receiver.pid()];
    loaders.extend(publisher.as_ref().map(|publisher| publisher.pid()));
    let cpu = || children::cpu_us(pid) + loaders.iter().map(|pid| children::cpu_us(*pid)).sum::<u64>();
    let mut publisher = publisher;
    let mut mark = || (receiver.ask("mark"), publisher.as_mut().map_or(Value::Null, |publisher| publisher.ask("mark")));
    let (from, machine, ours, own) = (mark(), children::machine_us(), cpu(), children::cpu_us(pid));
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (to, machine_after, ours_after, own_after) = (mark(), children::machine_us(), cpu(), children::cpu_us(pid));
    let between = |to: &Value, from: &Value, name: &str| number(to, name) - number(from, name);
    let elapsed_s = between(&to.0, &from.0, "at_us") / 1e6;
    let count = between(&to.0, &from.0, "count");
    let others = (machine_after.0 - machine.0).saturating_sub(ours_after - ours);
    let (rss_kib, hwm_kib) = children::memory_kib(pid);
    let acked = |name: &str| to.1[name].as_f64().unwrap_or(f64::NAN);
    Figures {
        deliveries_per_s: count / elapsed_s,
        events_per_s: (acked("acked") - from.1["acked"].as_f64().unwrap_or(f64::NAN)) / elapsed_s,
        acked_p99_ms: acked("p99_us") / 1e3,
        received_p50_ms: number(&to.0, "p50_us") / 1e3,
        received_p99_ms: number(&to.0, "p99_us") / 1e3,
        cpu_us: (own_after - own) as f64 / count,
        others_percent: 100.0 * others as f64 / (machine_after.1 - machine.1) as f64,
        rss_mib: rss_kib as f64 / 1024.0,
        hwm_mib: hwm_kib as f64 / 1024.0,
    }
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("{name} in {value}"))
}

/// Publishes so many events in batches, as fast as they are taken.
fn fill(daemon: &Daemon, options: &Options, tenant: &str, events: u64) {
    let more = [("--tenant", tenant.to_owned()), ("--total", events.to_string())];
    let mut load = Load::new(daemon, options, FILL_CONNECTIONS, FILL_BATCH, &more);
    load.publisher.ask("start");
    let mut acked = 0.0;
    while acked < events as f64 {
        std::thread::sleep(Duration::from_secs(1));
        let said = load.publisher.ask("mark");
        acked = number(&said, "acked");
        assert!(number(&said, "in_flight") > 0.0 || acked >= events as f64, "filling has ended early: {said}");
        eprint!("\rfilled {acked:.0} of {events}, {}   ", memory(daemon));
    }
    eprintln!();
}

fn memory(daemon: &Daemon) -> String {
    let (rss_kib, hwm_kib) = children::memory_kib(daemon.process.pid());
    format!("RSS {:.1} MiB, highest {:.1}", rss_kib as f64 / 1024.0, hwm_kib as f64 / 1024.0)
}

/// One line of what came out: the figure without, with, and their ratio.
fn tell(name: &str, without: f64, with: f64) {
    println!("{name:<58}{without:>12.2}{with:>12.2}{:>8.2}", with / without);
}

fn tell_one(name: &str, with: f64) {
    println!("{name:<58}{:>12}{with:>12.2}", "");
}

fn head(title: &str) {
    println!("\n{title}\n{:<58}{:>12}{:>12}{:>8}", "", "without", "with", "ratio");
}

/// The middle of what the rounds gave.
fn median(of: &[Figures], figure: impl Fn(&Figures) -> f64) -> f64 {
    middle(of.iter().map(figure).collect())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Whether this store was filled before.
fn is_filled(folder: &Path) -> bool {
    folder.join("filled").exists()
}

fn set_filled(folder: &Path) {
    fs::write(folder.join("filled"), "").expect("noting that it is filled");
}
