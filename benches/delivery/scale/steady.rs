//! Retention at its steady state: what the store's file takes while as much goes as comes, against what is live in it, and what
//! deliveries notice of it. In one store, which is thrown away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Figures, Load, Site, head, number, tell, tell_one};
use crate::daemon::Daemon;
use crate::disk;
use crate::options::Options;

/// So many times the volume that retention keeps is published.
const TURNS: u64 = 4;
/// Runs of retention in the time in which that volume is published once. A minute, which it rests by itself, is as large a part of
/// ten minutes.
const RUNS_A_TURN: u64 = 10;
/// Bytes on disk of an event with its attempt, of which the bound is made.
const EVENT_BYTES: u64 = 750;
/// An event stays for as long as its idempotency key might be remembered.
const KEPT: &str = "\n[retention]\nidempotency = \"1s\"\n";
const MIB: f64 = 1024.0 * 1024.0;

pub fn measure(options: &Options) {
    let publishers = *options.publishers.last().expect("a number of publishers");
    let site = Site::empty(1);
    let mut receiver = site.receive(0, 1);
    let mut daemon = Daemon::open(&site.folder, options.permits, false, KEPT);
    daemon.publisher();
    let token = daemon.tenant("bench");
    daemon.subscribe(&token, "", &site.url(0), "*");
    let mut load = Load::new(&daemon, options, publishers, 1, &[]);
    let before = load.run(&daemon, &mut receiver, options.seconds);
    let rate = (before.events_per_s / 2.0) as u64;
    let max_bytes = options.count * EVENT_BYTES;
    println!("\nat most {:.0} MiB in use, {rate} events/s, a run every {:.1} s", mib(max_bytes), rest(options, rate));
    turn_over(options, &site, &daemon, rate, max_bytes);
    let beside = beside_retention(&daemon, &mut load, &mut receiver, options.seconds, max_bytes);
    head(&format!("retention holds {} events, {publishers} publishers", options.count));
    for (name, figure) in [
        ("deliveries/s", (|f| f.deliveries_per_s) as fn(&Figures) -> f64),
        ("CPU µs/delivery", |f| f.cpu_us),
        ("received p99 ms", |f| f.received_p99_ms),
        ("201 p99 ms", |f| f.acked_p99_ms),
        ("RSS highest MiB", |f| f.hwm_mib),
        ("machine taken by others %", |f| f.others_percent),
    ] {
        tell(name, figure(&before), figure(&beside));
    }
    // One more run, so that what came last is within the bound as well.
    retain(&daemon, max_bytes);
    std::thread::sleep(Duration::from_secs(1));
    let held = number(&store(&daemon), "used_bytes");
    drop(daemon);
    let file = site.state().join("webhookd.redb");
    let (allocated, length) = disk::file_bytes(&file);
    compact(&site);
    let (live, _) = disk::file_bytes(&file);
    tell_one("live MiB: the store's file after compacting it", mib(live));
    tell_one("MiB in use, as the daemon counts", held / MIB);
    tell_one("allocated MiB of the file", mib(allocated));
    tell_one("length MiB of the file", mib(length));
    tell_one("allocated against live", allocated as f64 / live as f64);
    tell_one("length against live", length as f64 / live as f64);
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

/// Seconds between two runs of retention.
fn rest(options: &Options, rate: u64) -> f64 {
    options.count as f64 / rate as f64 / RUNS_A_TURN as f64
}

/// Publishes the volume several times over, while retention takes away what is too much.
fn turn_over(options: &Options, site: &Site, daemon: &Daemon, rate: u64, max_bytes: u64) {
    let mut load = Load::new(daemon, options, 64, 1, &[("--rate", rate.to_string())]);
    load.publisher.ask("start");
    println!("{:>10}{:>12}{:>12}{:>12}{:>14}{:>12}", "events", "length", "allocated", "in use", "removed", "run ms");
    let (mut acked, file) = (0.0, site.state().join("webhookd.redb"));
    let started = Instant::now();
    while acked < (options.count * TURNS) as f64 {
        std::thread::sleep(Duration::from_secs_f64(rest(options, rate)));
        acked = number(&load.publisher.ask("mark"), "acked");
        let begun = Instant::now();
        let run = retain(daemon, max_bytes);
        let took_ms = begun.elapsed().as_secs_f64() * 1e3;
        let (allocated, length) = disk::file_bytes(&file);
        let used = number(&store(daemon), "used_bytes") / MIB;
        let removed = number(&run, "events");
        println!("{acked:>10}{:>12.1}{:>12.1}{used:>12.1}{removed:>14}{took_ms:>12.0}", mib(length), mib(allocated));
    }
    load.publisher.ask("stop");
    println!("{:.0} events/s were published", acked / started.elapsed().as_secs_f64());
}

/// As many as can, while retention runs without rest.
fn beside_retention(
    daemon: &Daemon,
    load: &mut Load,
    receiver: &mut crate::children::Helper,
    seconds: f64,
    max_bytes: u64,
) -> Figures {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                retain(daemon, max_bytes);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let figures = load.run(daemon, receiver, seconds);
        ended.store(true, Ordering::Relaxed);
        figures
    })
}

fn retain(daemon: &Daemon, max_bytes: u64) -> Value {
    daemon.admin("POST", "/admin/retention", &json!({"max_bytes": max_bytes}))
}

fn store(daemon: &Daemon) -> Value {
    daemon.admin("GET", "/admin/stats", &Value::Null)["store"].take()
}

fn compact(site: &Site) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_webhookd"));
    command.args(["store", "compact", "--config"]).arg(site.folder.join("webhookd.toml"));
    let output = command.output().expect("the daemon's binary");
    assert!(output.status.success(), "compacting: {}", String::from_utf8_lossy(&output.stderr));
}
