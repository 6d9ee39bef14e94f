//! The operator is heard while the data plane is jammed: every public connection taken, workers at full load, new clients waiting.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{Client, Daemon, Stage, publisher_key};

const CONNECTIONS: usize = 16;
const ASKED: usize = 100;
/// What a machine that does other things too may add.
const SLACK: Duration = Duration::from_millis(100);
/// A change waits for the groups before its own, each of thousands of events here: 82 ms seen.
const WRITE_SLACK: Duration = Duration::from_secs(1);

/// How long questions take that only read, and such that wait for the store: the 95th of a hundred of each.
fn p95(admin: &Client) -> (Duration, Duration) {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for n in 0..ASKED {
        let started = Instant::now();
        admin.get("/admin/tenants").expect(200);
        reads.push(started.elapsed());
        // Fewer: each waits for a group that holds thousands of events.
        if n % 5 != 0 {
            continue;
        }
        let started = Instant::now();
        admin.put("/admin/tenants/acme", &json!({"name": format!("name {n}")})).expect(200);
        writes.push(started.elapsed());
    }
    let at_95 = |mut took: Vec<Duration>| {
        took.sort_unstable();
        took[took.len() * 95 / 100]
    };
    (at_95(reads), at_95(writes))
}

#[test]
fn g_admin_answers_stay_quick_while_the_data_plane_is_jammed() {
    // Otherwise one address could not take all.
    let builder = Daemon::builder().set("server.workers", "1").set("server.trusted_proxies", "[\"127.0.0.1/32\"]");
    let stage = Stage::start(builder.set("server.max_connections", CONNECTIONS.to_string()));
    let key = publisher_key(&stage.daemon);
    let (address, admin) = (stage.daemon.address(), stage.daemon.admin());
    let idle = p95(&admin);
    let (over, published) = (AtomicBool::new(false), AtomicU64::new(0));
    let jammed = std::thread::scope(|scope| {
        // Half of the connections hold a request whose body never comes.
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nHost: d\r\nAuthorization: Bearer {}\r\nContent-Length: 9\r\n\r\n",
            key.token
        );
        let held: Vec<TcpStream> = (0..CONNECTIONS / 2)
            .map(|_| {
                let mut stream = TcpStream::connect(address).expect("a connection");
                stream.write_all(head.as_bytes()).expect("a head");
                stream
            })
            .collect();
        // The others publish as fast as they can.
        for _ in held.len()..CONNECTIONS {
            let client = stage.daemon.client().bearer(&key.token);
            let (over, published) = (&over, &published);
            scope.spawn(move || {
                let mut kept = client.open().expect("a connection");
                let body =
                    json!({"events": vec![json!({"type": "a", "tenant": "acme", "data": {"x": "y".repeat(900)}}); 1_000]});
                while !over.load(Ordering::Relaxed) {
                    let answer = kept.send("POST", "/v1/events/batch", &[], body.to_string()).expect("an answer");
                    published.fetch_add(u64::from(answer.status == 201), Ordering::Relaxed);
                }
            });
        }
        while published.load(Ordering::Relaxed) < 20 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let before = published.load(Ordering::Relaxed);
        let turned = stage.daemon.client().raw(b"GET /readyz HTTP/1.1\r\nHost: d\r\n\r\n", Duration::from_secs(1));
        let jammed = p95(&admin);
        let after = published.load(Ordering::Relaxed);
        over.store(true, Ordering::Relaxed);
        assert!(!turned.contains("200 OK"), "it was not jammed: {turned}");
        assert!(after > before, "nothing was published meanwhile");
        drop(held);
        jammed
    });
    println!("admin p95 of reads and writes: idle {idle:?}, jammed {jammed:?}");
    assert!(jammed.0 <= idle.0 * 10 + SLACK, "reads: idle {idle:?}, jammed {jammed:?}");
    assert!(jammed.1 <= idle.1 * 10 + WRITE_SLACK, "writes: idle {idle:?}, jammed {jammed:?}");
}
