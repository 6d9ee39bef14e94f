//! A store with many events, each with its attempt, against an empty one: deliveries a second, bytes on disk, and how long
//! pages take while others publish.

use std::time::Instant;

use super::pages::{self, Read100};
use super::{Figures, Load, Site, WARM_UP, fill, head, is_filled, median, middle, number, set_filled, tell, tell_one};
use crate::children::{self, Helper};
use crate::daemon::Daemon;
use crate::disk;
use crate::options::Options;

/// Shares of the commits whose time is told. About one in a hundred is a checkpoint.
const COMMITS: [f64; 3] = [0.5, 0.99, 0.999];

pub fn measure(options: &Options) {
    let site = Site::large(options, 1);
    let mut receiver = site.receive(0, 1);
    if !is_filled(&site.folder) {
        grow(options, &site, &mut receiver);
    }
    if options.fill {
        return;
    }
    let publishers = *options.publishers.last().expect("a number of publishers");
    let (mut empty, mut grown, mut idle_mib) = (Vec::new(), Vec::new(), 0.0);
    let (mut commits, mut commits_grown) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let (figures, times) = on_empty(options, publishers);
        empty.push(figures);
        commits.push(times);
        let daemon = open(options, &site);
        idle_mib = daemon.idle_rss_kib as f64 / 1024.0;
        grown.push(Load::new(&daemon, options, publishers, 1, &[]).run(&daemon, &mut receiver, options.seconds));
        commits_grown.push(COMMITS.map(|share| daemon.commit_ms(share)));
    }
    head(&format!("a store of {} events and their attempts, {publishers} publishers", options.count));
    for (name, figure) in [
        ("deliveries/s", (|f| f.deliveries_per_s) as fn(&Figures) -> f64),
        ("CPU µs/delivery", |f| f.cpu_us),
        ("received p99 ms", |f| f.received_p99_ms),
        ("RSS highest MiB", |f| f.hwm_mib),
        ("machine taken by others %", |f| f.others_percent),
    ] {
        tell(name, median(&empty, figure), median(&grown, figure));
    }
    for (at, share) in COMMITS.iter().enumerate() {
        let middle = |of: &[[f64; 3]]| middle(of.iter().map(|times| times[at]).collect());
        tell(&format!("commit ms, {:.1} % within", share * 100.0), middle(&commits), middle(&commits_grown));
    }
    tell_one("RSS idle MiB", idle_mib);
    let peak = median(&grown, |f| f.events_per_s);
    let daemon = open(options, &site);
    for read in read(options, &daemon, &mut receiver, peak / 2.0) {
        tell_one(&format!("{} p50 ms ({} pages)", read.path, read.pages), read.p50_ms);
        tell_one(&format!("{} p99 ms", read.path), read.p99_ms);
    }
    restart(options, &site, daemon);
}

/// Kills it and starts it again with nothing cached.
fn restart(options: &Options, site: &Site, daemon: Daemon) {
    drop(daemon);
    let is_cold = children::empty_page_cache();
    let begun = Instant::now();
    let _daemon = Daemon::open(&site.folder, options.permits, false, "");
    let cache = if is_cold { "cold cache" } else { "warm cache: it can't be emptied here" };
    tell_one(&format!("s from kill -9 to ready, {cache}"), begun.elapsed().as_secs_f64());
}

fn grow(options: &Options, site: &Site, receiver: &mut Helper) {
    let address = ([127, 0, 0, 1], site.ports[0]).into();
    let daemon = Daemon::start(&site.folder, &[address], options.permits, false);
    let before = disk::usage_bytes(&site.state());
    fill(&daemon, options, "bench", options.count);
    while number(&receiver.ask("look"), "count") < options.count as f64 {
        std::thread::sleep(WARM_UP);
    }
    // What the write-ahead log holds is taken in when nothing happens.
    std::thread::sleep(WARM_UP);
    let after = disk::usage_bytes(&site.state());
    tell_one("bytes on disk an event with its attempt, allocated", (after.0 - before.0) as f64 / options.count as f64);
    tell_one("the same by the lengths of the files", (after.1 - before.1) as f64 / options.count as f64);
    set_filled(&site.folder);
}

fn open(options: &Options, site: &Site) -> Daemon {
    let mut daemon = Daemon::open(&site.folder, options.permits, false, "");
    daemon.idle();
    daemon.publisher();
    daemon
}

fn on_empty(options: &Options, publishers: usize) -> (Figures, [f64; 3]) {
    let site = Site::empty(1);
    let mut receiver = site.receive(0, 1);
    let address = ([127, 0, 0, 1], site.ports[0]).into();
    let daemon = Daemon::start(&site.folder, &[address], options.permits, false);
    let figures = Load::new(&daemon, options, publishers, 1, &[]).run(&daemon, &mut receiver, options.seconds);
    (figures, COMMITS.map(|share| daemon.commit_ms(share)))
}

/// Pages of events and of attempts, from the newest and from the oldest on, while others publish at this rate.
fn read(options: &Options, daemon: &Daemon, receiver: &mut Helper, per_s: f64) -> Vec<Read100> {
    let token = daemon.tenant("bench");
    let (_, webhooks) = daemon.ask("GET", "/v1/webhooks", &token, &serde_json::Value::Null);
    let webhook = webhooks["data"][0]["id"].as_str().expect("a webhook");
    let attempts = format!("/v1/webhooks/{webhook}/attempts?");
    let more = [("--rate", (per_s as u64).to_string())];
    let mut load = Load::new(daemon, options, 64, 1, &more);
    let listings = [("events, newest first", "/v1/events?"), ("events, oldest first", "/v1/events?sort=asc&")];
    let listings = listings.into_iter().chain([("attempts, newest first", attempts.as_str())]);
    let address = daemon.address;
    let mut all = Vec::new();
    for (name, path) in listings {
        let figures = std::thread::scope(|scope| {
            let reader = scope.spawn(|| pages::read(address, &token, name, path, options.seconds + 1.0));
            let figures = load.run(daemon, receiver, options.seconds);
            all.push(reader.join().expect("a reader"));
            figures
        });
        eprintln!(
            "{name}: {:.0} events/s meanwhile, received p99 {:.2} ms",
            figures.events_per_s, figures.received_p99_ms
        );
    }
    all
}
