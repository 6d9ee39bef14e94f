//! Many subscriptions of many tenants, the events spread over them, against one. Each event is for one subscription.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::{Figures, Load, Site, head, is_filled, median, set_filled, tell, tell_one};
use crate::children;
use crate::daemon::Daemon;
use crate::options::Options;
use crate::publisher::{SUBSCRIPTIONS_EACH, spread_names};

/// Receivers that the subscriptions name in turn, and the one subscription alone.
const RECEIVERS: usize = 10;
/// Who makes subscriptions at the same time: they share commits.
const MAKERS: u64 = 16;

pub fn measure(options: &Options) {
    let site = Site::large(options, RECEIVERS);
    let count = options.count.next_multiple_of(SUBSCRIPTIONS_EACH);
    if !is_filled(&site.folder) {
        let mut daemon = Daemon::open(&site.folder, options.permits, false, "");
        daemon.publisher();
        subscribe(&daemon, &site, count);
        set_filled(&site.folder);
    }
    if options.fill {
        return;
    }
    for &publishers in &options.publishers {
        let (mut one, mut many, mut idle_mib) = (Vec::new(), Vec::new(), 0.0);
        for _ in 0..options.rounds {
            one.push(alone(options, publishers));
            let (figures, mib) = spread(options, &site, count, publishers);
            many.push(figures);
            idle_mib = mib;
        }
        head(&format!("{count} subscriptions of {} tenants, {publishers} publishers", count / SUBSCRIPTIONS_EACH));
        for (name, figure) in [
            ("deliveries/s", (|f| f.deliveries_per_s) as fn(&Figures) -> f64),
            ("CPU µs/delivery", |f| f.cpu_us),
            ("received p50 ms", |f| f.received_p50_ms),
            ("received p99 ms", |f| f.received_p99_ms),
            ("RSS MiB", |f| f.rss_mib),
            ("RSS highest MiB", |f| f.hwm_mib),
            ("machine taken by others %", |f| f.others_percent),
        ] {
            tell(name, median(&one, figure), median(&many, figure));
        }
        tell_one("RSS idle MiB, right after the start", idle_mib);
    }
}

/// Makes all tenants and subscriptions.
fn subscribe(daemon: &Daemon, site: &Site, count: u64) {
    let admin = daemon.admin("POST", "/admin/keys", &json!({"role": "admin"}));
    let token = admin["token"].as_str().expect("a token");
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..MAKERS {
            scope.spawn(|| {
                loop {
                    let tenant = next.fetch_add(1, Ordering::Relaxed);
                    if tenant >= count / SUBSCRIPTIONS_EACH {
                        return;
                    }
                    let (name, _) = spread_names(tenant, 0);
                    daemon.admin("PUT", &format!("/admin/tenants/{name}"), &json!({}));
                    for at in 0..SUBSCRIPTIONS_EACH {
                        let url = site.url(usize::try_from(at).expect("a small number") % RECEIVERS);
                        daemon.subscribe(token, &format!("?tenant={name}"), &url, &spread_names(tenant, at).1);
                    }
                }
            });
        }
    });
}

fn alone(options: &Options, publishers: usize) -> Figures {
    let site = Site::empty(1);
    let mut receiver = site.receive(0, 1);
    let address = ([127, 0, 0, 1], site.ports[0]).into();
    let daemon = Daemon::start(&site.folder, &[address], options.permits, false);
    Load::new(&daemon, options, publishers, 1, &[]).run(&daemon, &mut receiver, options.seconds)
}

fn spread(options: &Options, site: &Site, count: u64, publishers: usize) -> (Figures, f64) {
    let mut receiver = site.receive(0, RECEIVERS);
    let mut daemon = Daemon::open(&site.folder, options.permits, false, "");
    daemon.idle();
    daemon.publisher();
    let (idle_kib, _) = children::memory_kib(daemon.process.pid());
    let mut load = Load::new(&daemon, options, publishers, 1, &[("--spread", count.to_string())]);
    // Once around, so that every subscription has been delivered to.
    (load.run(&daemon, &mut receiver, options.seconds), idle_kib as f64 / 1024.0)
}
