//! Deliveries that are pending for a receiver that is gone: memory, what another receiver notices, how long a start takes
//! after a kill with nothing cached, and how fast it goes once the receiver is back.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Figures, Load, Site, fill, head, is_filled, median, memory, number, set_filled, tell, tell_one, watch};
use crate::children::{self, Helper};
use crate::daemon::Daemon;
use crate::options::Options;

/// Ports of the healthy receiver and of the one that is gone.
const HEALTHY: usize = 0;
const GONE: usize = 1;
/// Probes each second, so that the one who comes back is not waited for.
const PROBES: &str = "\n[circuit]\nprobe_first = \"1s\"\nprobe_max = \"1s\"\n";
const DRAIN_BEGINS_WITHIN: Duration = Duration::from_secs(30);

pub fn measure(options: &Options) {
    let site = Site::large(options, 2);
    if !is_filled(&site.folder) {
        pile_up(options, &site);
    }
    if options.fill {
        return;
    }
    let publishers = *options.publishers.last().expect("a number of publishers");
    let bare = Site::empty(2);
    let (mut receiver, mut bare_receiver) = (site.receive(HEALTHY, GONE), bare.receive(HEALTHY, GONE));
    let without = open(options, &bare, true);
    let fresh = Load::new(&without, options, publishers, 1, &[]).run(&without, &mut bare_receiver, options.seconds);
    let with = open(options, &site, false);
    let idle_mib = rss(&with);
    let rate = half(&fresh);
    let (mut control, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        control.push(paced(options, &without, &mut bare_receiver, rate));
        beside.push(paced(options, &with, &mut receiver, rate));
    }
    let pending = number(&with.admin("GET", "/admin/stats", &json!(null))["deliveries"], "queued");
    head(&format!("{pending} deliveries pending, {rate} events/s for a healthy receiver"));
    for (name, figure) in [
        ("received p50 ms", (|f| f.received_p50_ms) as fn(&Figures) -> f64),
        ("received p99 ms", |f| f.received_p99_ms),
        ("201 p99 ms", |f| f.acked_p99_ms),
        ("RSS highest MiB", |f| f.hwm_mib),
        ("machine taken by others %", |f| f.others_percent),
    ] {
        tell(name, median(&control, figure), median(&beside, figure));
    }
    tell_one("RSS idle MiB", idle_mib);
    let scraped = Instant::now();
    with.scrape();
    tell_one("a scrape of /metrics, ms", scraped.elapsed().as_secs_f64() * 1e3);
    drop(without);
    restart(options, &site, with, rate);
    drain(options, &site, &fresh);
}

fn pile_up(options: &Options, site: &Site) {
    let mut daemon = Daemon::open(&site.folder, options.permits, false, PROBES);
    daemon.publisher();
    for (tenant, at) in [("bench", HEALTHY), ("gone", GONE)] {
        let token = daemon.tenant(tenant);
        daemon.subscribe(&token, "", &site.url(at), "*");
    }
    fill(&daemon, options, "gone", options.count);
    eprintln!("filled: {}", memory(&daemon));
    std::thread::sleep(Duration::from_secs(2));
    set_filled(&site.folder);
}

fn open(options: &Options, site: &Site, is_new: bool) -> Daemon {
    let mut daemon = Daemon::open(&site.folder, options.permits, false, PROBES);
    daemon.idle();
    daemon.publisher();
    if is_new {
        let token = daemon.tenant("bench");
        daemon.subscribe(&token, "", &site.url(HEALTHY), "*");
    }
    daemon
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn half(fresh: &Figures) -> u64 {
    (fresh.events_per_s / 2.0) as u64
}

fn paced(options: &Options, daemon: &Daemon, receiver: &mut Helper, rate: u64) -> Figures {
    let more = [("--rate", rate.to_string())];
    Load::new(daemon, options, 64, 1, &more).run(daemon, receiver, options.seconds)
}

/// Kills it while it is busy, empties the page cache, and starts it again.
fn restart(options: &Options, site: &Site, daemon: Daemon, rate: u64) {
    let mut load = Load::new(&daemon, options, 64, 1, &[("--rate", rate.to_string())]);
    load.publisher.ask("start");
    std::thread::sleep(Duration::from_secs(1));
    // The publisher goes first: it does not like to see the daemon end.
    drop(load);
    drop(daemon);
    let is_cold = children::empty_page_cache();
    let begun = Instant::now();
    let mut daemon = Daemon::open(&site.folder, options.permits, false, PROBES);
    let ready = begun.elapsed();
    daemon.publisher();
    let event = json!({"type": "bench.event", "tenant": "bench", "data": {}});
    let (status, answer) = daemon.ask("POST", "/v1/events", &daemon.publisher_token, &event);
    assert_eq!(status, 201, "publishing after a kill: {answer}");
    let cache = if is_cold { "cold cache" } else { "warm cache: it can't be emptied here" };
    tell_one(&format!("s from kill -9 to ready, {cache}"), ready.as_secs_f64());
    tell_one("s to the first 201 (with a key made before)", begun.elapsed().as_secs_f64());
    daemon.idle();
    tell_one("RSS MiB after that", rss(&daemon));
}

/// The receiver comes back.
fn drain(options: &Options, site: &Site, fresh: &Figures) {
    let daemon = open(options, site, false);
    let mut receiver = site.receive(GONE, GONE + 1);
    let begun = Instant::now();
    while number(&receiver.ask("look"), "count") < 1_000.0 {
        assert!(begun.elapsed() < DRAIN_BEGINS_WITHIN, "nothing is delivered to the receiver that came back");
        std::thread::sleep(Duration::from_millis(50));
    }
    tell_one("s until deliveries go out again", begun.elapsed().as_secs_f64());
    std::thread::sleep(Duration::from_secs(1));
    let figures = watch(&daemon, &mut receiver, None, options.seconds);
    tell(
        "deliveries/s, fresh without a backlog and from the backlog",
        fresh.deliveries_per_s,
        figures.deliveries_per_s,
    );
    tell("CPU µs/delivery", fresh.cpu_us, figures.cpu_us);
    tell("RSS highest MiB", fresh.hwm_mib, figures.hwm_mib);
    tell("machine taken by others %", fresh.others_percent, figures.others_percent);
}

#[allow(clippy::cast_precision_loss)]
fn rss(daemon: &Daemon) -> f64 {
    children::memory_kib(daemon.process.pid()).0 as f64 / 1024.0
}
