//! Retention at its steady state: what the store's file takes while as much goes as comes, against what is live in it, and what
//! deliveries notice of it. The daemon keeps its bound by itself. In one store, which is thrown away.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Figures, Load, Site, head, number, tell, tell_one};
use crate::children::Helper;
use crate::daemon::Daemon;
use crate::disk;
use crate::options::Options;

/// So many times the volume that retention keeps is published.
const TURNS: u64 = 4;
/// Seconds in which that volume is published once.
const TURN_S: u64 = 50;
/// Seconds between two lines of figures.
const LINE_S: u64 = 10;
/// Time for one more run.
const LAST_RUN: Duration = Duration::from_secs(3);
/// Bytes on disk of an event with its attempt, of which the bound is made.
const EVENT_BYTES: u64 = 750;
/// An event stays for as long as its idempotency key might be remembered.
const KEPT: &str = "\n[retention]\nidempotency = \"1s\"\n";
const MIB: f64 = 1024.0 * 1024.0;

pub fn measure(options: &Options) {
    let publishers = *options.publishers.last().expect("a number of publishers");
    let site = Site::empty(1);
    let mut receiver = site.receive(0, 1);
    let max_bytes = options.count * EVENT_BYTES;
    let mut daemon =
        Daemon::open(&site.folder, options.permits, false, &format!("{KEPT}max_bytes = \"{max_bytes} B\"\n"));
    daemon.publisher();
    let token = daemon.tenant("bench");
    daemon.subscribe(&token, "", &site.url(0), "*");
    let rush =
        |receiver: &mut Helper| Load::new(&daemon, options, publishers, 1, &[]).run(&daemon, receiver, options.seconds);
    let before = rush(&mut receiver);
    let rate = options.count / TURN_S;
    println!("\nat most {:.0} MiB in use, {rate} events/s", mib(max_bytes));
    turn_over(options, &site, &daemon, rate);
    let file = site.state().join("webhookd.redb");
    let (allocated, length) = disk::file_bytes(&file);
    // As much as can be: what comes in between two looks at the volume, each second, is a larger part of it.
    let beside = rush(&mut receiver);
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
    // So that what came last is within the bound as well.
    std::thread::sleep(LAST_RUN);
    let everything = json!({"max_bytes": 0, "dry_run": true});
    let left = number(&daemon.admin("POST", "/admin/retention", &everything), "events");
    let held = number(&store(&daemon), "used_bytes");
    drop(daemon);
    let (after, _) = disk::file_bytes(&file);
    compact(&site);
    let (live, _) = disk::file_bytes(&file);
    tell_one("live MiB: the store's file after compacting it", mib(live));
    tell_one("MiB in use, as the daemon counts", held / MIB);
    tell_one("allocated MiB of the file", mib(allocated));
    tell_one("length MiB of the file", mib(length));
    tell_one("events left", left);
    tell_one("allocated bytes for each of them with its attempt", allocated as f64 / left);
    tell_one("allocated against live", allocated as f64 / live as f64);
    tell_one("the same after the rush", after as f64 / live as f64);
    tell_one("length against live", length as f64 / live as f64);
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

/// Publishes the volume several times over, while retention takes away what is too much.
fn turn_over(options: &Options, site: &Site, daemon: &Daemon, rate: u64) {
    let mut load = Load::new(daemon, options, 64, 1, &[("--rate", rate.to_string())]);
    load.publisher.ask("start");
    println!("{:>10}{:>12}{:>12}{:>12}", "events", "length", "allocated", "in use");
    let (mut acked, file) = (0.0, site.state().join("webhookd.redb"));
    let started = Instant::now();
    while acked < (options.count * TURNS) as f64 {
        std::thread::sleep(Duration::from_secs(LINE_S));
        acked = number(&load.publisher.ask("mark"), "acked");
        let (allocated, length) = disk::file_bytes(&file);
        let used = number(&store(daemon), "used_bytes") / MIB;
        println!("{acked:>10}{:>12.1}{:>12.1}{used:>12.1}", mib(length), mib(allocated));
    }
    load.publisher.ask("stop");
    println!("{:.0} events/s were published", acked / started.elapsed().as_secs_f64());
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
