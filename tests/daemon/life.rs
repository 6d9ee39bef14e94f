//! A daemon that runs: what each listener answers, and how it does with few descriptors.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use super::support::{Client, Daemon, Failed, SOON, free_port, key, poll};

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
