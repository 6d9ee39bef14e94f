//! A daemon that runs: what each listener answers, how it stops under load, and how it does with few descriptors.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::support::{Client, Daemon, Failed, Receiver, Reply, SOON, Stage, free_port, key, poll, text};

#[test]
fn health_is_told_everywhere_and_metrics_only_where_they_belong() {
    let [admin, metrics] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let builder = Daemon::builder().set("admin.listen", format!("\"{admin}\""));
    let daemon = builder.set("metrics.listen", format!("\"{metrics}\"")).start();
    let token = key(&daemon, &json!({"role": "admin"})).token;
    let (public, socket) = (daemon.client(), daemon.admin());
    let (admin, metrics) = (Client::tcp(admin), Client::tcp(metrics));
    for client in [&public, &socket, &admin, &metrics] {
        for path in ["/healthz", "/readyz"] {
            client.get(path).expect(200);
        }
    }
    for client in [&socket, &metrics, &admin.bearer(&token)] {
        let answer = client.get("/metrics").expect(200);
        assert!(answer.text().contains("webhookd_events_accepted_total 0"), "{answer:?}");
        assert!(answer.text().ends_with("# EOF\n"));
    }
    admin.get("/metrics").expect(401);
    public.get("/metrics").expect(404);
    public.bearer(&token).get("/metrics").expect(404);
    public.bearer(&token).get("/admin/tenants").expect(404);
    metrics.get("/v1/webhooks").expect(404);
    metrics.bearer(&token).get("/admin/tenants").expect(404);
}

#[test]
fn sigterm_under_load_ends_with_0_and_a_restart_repeats_nothing() {
    const PUBLISHERS: usize = 3;
    let mut stage = Stage::start(Daemon::builder());
    let receiver = Receiver::with(|_| Reply::ok().after(Duration::from_millis(20)));
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    let (acknowledged, stopped) = (Mutex::new(HashSet::new()), AtomicBool::new(false));
    let publisher = stage.publisher.clone();
    let publish = || {
        let event = json!({"type": "order.created", "tenant": "acme"}).to_string();
        while !stopped.load(Ordering::SeqCst) {
            let Ok(mut kept) = publisher.open() else { continue };
            while let Ok(answer) = kept.send("POST", "/v1/events", &[], event.clone()) {
                let id = text(&answer.expect(201).json(), "id");
                acknowledged.lock().expect("a list").insert(id);
            }
        }
    };
    let status = std::thread::scope(|scope| {
        for _ in 0..PUBLISHERS {
            scope.spawn(publish);
        }
        receiver.wait_for(100, SOON);
        let status = stage.daemon.term();
        stopped.store(true, Ordering::SeqCst);
        status
    });
    assert_eq!(status.code(), Some(0));
    let arrived = receiver.count();
    stage.daemon.start();
    let acknowledged = acknowledged.into_inner().expect("a list");
    assert!(acknowledged.len() > arrived, "a backlog was left: {} of {}", arrived, acknowledged.len());
    let count = |receiver: &Receiver| {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for request in receiver.requests() {
            *counts.entry(request.header("webhook-id").expect("an id").to_owned()).or_default() += 1;
        }
        counts
    };
    let mut counts = HashMap::new();
    let all = poll(3 * SOON, || {
        counts = count(&receiver);
        acknowledged.iter().all(|id| counts.contains_key(id)).then_some(())
    });
    let missing = acknowledged.iter().filter(|id| !counts.contains_key(*id)).count();
    assert!(all.is_some(), "{missing} of {} were lost", acknowledged.len());
    std::thread::sleep(Duration::from_millis(300));
    let repeated: Vec<_> = count(&receiver).into_iter().filter(|(_, times)| *times > 1).collect();
    assert!(repeated.is_empty(), "repeated: {repeated:?}");
}

/// Processor time that the daemon has used, in clock ticks of 10 ms.
fn ticks(daemon: &Daemon) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("a process");
    let after_name = stat.rsplit_once(')').expect("a name").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    [11, 12].iter().map(|field| fields[*field].parse::<u64>().expect("a number")).sum()
}

#[test]
fn f_with_64_descriptors_and_120_connections_it_answers_and_does_not_spin() {
    let mut daemon = Daemon::builder().set("server.header_timeout", "\"3s\"").descriptors(64).start();
    let crowd: Vec<TcpStream> =
        (0..120).map(|_| TcpStream::connect(daemon.address()).expect("a place in the queue")).collect();
    std::thread::sleep(Duration::from_millis(300));
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("a process").count();
    assert!((40..=64).contains(&open), "{open} descriptors: the crowd is larger than what is left for it");
    let before = ticks(&daemon);
    for _ in 0..10 {
        daemon.admin().get("/healthz").expect(200);
        std::thread::sleep(Duration::from_millis(100));
    }
    let used = ticks(&daemon) - before;
    assert!(used < 50, "{used} ticks of about 100: it spins; its log:\n{}", daemon.log());
    let public = poll(SOON, || match daemon.client().try_send("GET", "/healthz", &[], "") {
        Ok(answer) => Some(answer.status),
        Err(Failed::NotConnected(_) | Failed::Unknown(_)) => None,
    });
    assert_eq!(public, Some(200), "its turn comes while the crowd is there");
    drop(crowd);
    daemon.client().get("/readyz").expect(200);
    assert!(daemon.term().success());
}

#[test]
fn a_log_that_is_no_terminal_is_json_unless_text_is_asked_for() {
    for (format, json) in [("auto", true), ("json", true), ("text", false)] {
        let mut daemon = Daemon::builder().set_text("log.format", format).start();
        assert!(daemon.term().success());
        let log = daemon.log();
        assert!(log.lines().count() >= 3, "{log}");
        for line in log.lines() {
            assert_eq!(serde_json::from_str::<serde_json::Value>(line).is_ok(), json, "{format}: {line}");
        }
    }
}
