//! More than the daemon can do: the excess is turned away quickly and told when to come again, the accepted are durable, and what
//! gets done is hardly less than at the peak.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::support::{Daemon, SOON, Stage, poll, publisher_key, text};
use super::{ENEMY, Ground, HARDLY, alone, at_share, connect_from, rss_kib};

/// What 32 MiB of bodies may cost as they are read, parsed, put on record and answered, with what the store keeps of them in its cache.
const RSS_MOST_KIB: u64 = 192 * 1024;

/// What came of a run.
#[derive(Debug, Default)]
struct Run {
    accepted: usize,
    turned_away: usize,
    /// Without an answer: what became of it is not known.
    cut_off: usize,
    /// How long the answers took, in order of size.
    accepting: Vec<Duration>,
    turning_away: Vec<Duration>,
    /// The answer to the newest that was accepted, of each publisher.
    newest: Vec<Bytes>,
}

impl Run {
    fn rate(&self, within: Duration) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let accepted = self.accepted as f64;
        accepted / within.as_secs_f64()
    }

    fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.turned_away += other.turned_away;
        self.cut_off += other.cut_off;
        self.accepting.extend(other.accepting);
        self.turning_away.extend(other.turning_away);
        self.newest.extend(other.newest);
    }

    /// Counts another's events with its own; how long its answers took is its own matter.
    fn count(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.cut_off += other.cut_off;
        self.newest.clone_from(&other.newest);
    }

    fn note(&mut self, head: &http::response::Parts, body: &Bytes, took: Duration) {
        match head.status.as_u16() {
            201 => {
                self.accepted += 1;
                self.accepting.push(took);
                self.newest.clear();
                self.newest.push(body.clone());
            }
            429 | 503 => {
                let after = head.headers.get("retry-after").and_then(|value| value.to_str().ok());
                assert!(after.is_some_and(|after| after.parse::<u64>().is_ok()), "{head:?} {body:?}");
                self.turned_away += 1;
                self.turning_away.push(took);
            }
            _ => panic!("{head:?} {body:?}"),
        }
    }
}

async fn connect(to: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = tokio::net::TcpStream::connect(to).await.expect("a connection");
    stream.set_nodelay(true).expect("an option");
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

/// One publisher, who asks again as soon as it is answered, and over another connection where one was closed on it.
async fn ask(to: SocketAddr, token: String, body: Bytes, over: Arc<AtomicBool>) -> Run {
    let (mut run, mut sender) = (Run::default(), connect(to).await);
    while !over.load(Ordering::Relaxed) {
        if sender.ready().await.is_err() {
            sender = connect(to).await;
            continue;
        }
        let request = Request::post("/v1/events").header("host", "a").header("authorization", &token);
        let request = request.header("content-type", "application/json");
        let asked = Instant::now();
        let answer = sender.send_request(request.body(Full::new(body.clone())).expect("a request")).await;
        let Ok(answer) = answer else {
            run.cut_off += 1;
            continue;
        };
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("its body").to_bytes();
        run.note(&head, &body, asked.elapsed());
        if head.status != 201 {
            // As asked to, though sooner than asked for.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    run
}

/// Many publishers at once.
fn publish(to: SocketAddr, token: &str, publishers: usize, body: &Bytes, within: Duration) -> Run {
    let runtime = Runtime::new().expect("a runtime");
    let over = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..publishers)
        .map(|_| runtime.spawn(ask(to, format!("Bearer {token}"), body.clone(), Arc::clone(&over))))
        .collect();
    std::thread::sleep(within);
    over.store(true, Ordering::Relaxed);
    let mut all = Run::default();
    for task in tasks {
        let ended = runtime.block_on(async { tokio::time::timeout(SOON, task).await });
        all.add(ended.expect("an end").expect("a publisher"));
    }
    all.accepting.sort();
    all.turning_away.sort();
    all
}

/// How long each part of a check goes on; longer by `OVERLOAD_SECONDS`.
fn span() -> Duration {
    Duration::from_secs(std::env::var("OVERLOAD_SECONDS").map_or(2, |seconds| seconds.parse().expect("a number")))
}

fn figure(stage: &Stage, name: &str) -> usize {
    let metrics = stage.daemon.admin().get("/metrics").expect(200).text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

#[test]
fn g17_more_publishers_than_capacity_get_nearly_as_much_done() {
    let _alone = alone();
    let mut stage = Stage::start(Daemon::builder());
    let token = publisher_key(&stage.daemon).token;
    let event = Bytes::from(json!({"type": "order.created", "tenant": "acme", "data": {"n": 1}}).to_string());
    let to = stage.daemon.address();
    let mut all = Run::default();
    let mut run = |publishers: usize, within: Duration| {
        let run = publish(to, &token, publishers, &event, within);
        all.count(&run);
        run
    };
    run(64, Duration::from_millis(500));
    // As many publishers as get the most done, so that neither too few nor too many pass for the peak.
    let brief = span().min(Duration::from_secs(10));
    let tried = [64, 128, 256].map(|publishers| (run(publishers, brief).accepted, publishers));
    let (_, publishers) = tried.into_iter().max().expect("a peak");
    let mut best = 0.0_f64;
    for round in 0..4 {
        let peak = run(publishers, brief).rate(brief);
        for (times, within) in [(2, brief), (5, span())] {
            let over = run(publishers * times, within);
            let (rate, p99) = (over.rate(within), at_share(&over.accepting, 0.99));
            println!(
                "round {round}: {peak:.0}/s of {publishers} publishers, {rate:.0}/s of {times} times as many: {:.2}; \
                 within {p99:?} (p99), {} turned away",
                rate / peak,
                over.turned_away
            );
            assert!(p99 < Duration::from_secs(5), "the accepted wait {p99:?}");
            assert_eq!(over.cut_off, 0, "{over:?}");
            if times == 2 {
                best = best.max(rate / peak);
            }
        }
        if best >= 0.9 {
            break;
        }
    }
    assert!(best >= 0.9, "at best {best:.2} of the peak");
    let known = all.accepted..=all.accepted + all.cut_off;
    let counted = figure(&stage, "webhookd_events_accepted_total");
    assert!(counted > 0 && known.contains(&counted), "{counted} counted, of {known:?}");
    stage.daemon.kill9();
    stage.daemon.start();
    are_there(&stage, &all);
}

/// Durable: each 201 is there after a crash. They are counted by the store, as there may be millions; the newest, which a crash
/// would take first, are asked for.
fn are_there(stage: &Stage, all: &Run) {
    let stats = stage.daemon.admin().get("/admin/stats").expect(200).json();
    let stored = stats["events"]["accepted"].as_u64().and_then(|stored| usize::try_from(stored).ok());
    let stored = stored.unwrap_or_else(|| panic!("no count in {stats}"));
    println!("{} accepted, {} cut off, {stored} stored, {} looked up", all.accepted, all.cut_off, all.newest.len());
    assert!(
        (all.accepted..=all.accepted + all.cut_off).contains(&stored),
        "{} accepted, {stored} stored",
        all.accepted
    );
    assert!(!all.newest.is_empty());
    let mut connection = stage.owner.open().expect("a connection");
    for answer in &all.newest {
        let accepted: Value = serde_json::from_slice(answer).expect("JSON");
        let path = format!("/v1/events/{}", text(&accepted, "id"));
        connection.send("GET", &path, &[], Bytes::new()).expect("an answer").expect(200);
    }
    let listed = stage.owner.get("/v1/events?limit=1").expect(200).json();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");
}

/// How many events of this type are listed, all pages of them.
fn listed(stage: &Stage, kind: &str) -> usize {
    let (mut cursor, mut listed) = (String::new(), 0);
    loop {
        let page = stage.owner.get(&format!("/v1/events?limit=100&type={kind}{cursor}")).expect(200).json();
        listed += page["data"].as_array().map_or(0, Vec::len);
        match page["pagination"]["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return listed,
        }
    }
}

fn large_event() -> Bytes {
    let large = "x".repeat(250_000);
    Bytes::from(json!({"type": "large", "tenant": "acme", "data": {"text": large}}).to_string())
}

#[test]
fn g17_large_bodies_share_a_bound_small_ones_pass_and_what_was_accepted_is_durable() {
    let _alone = alone();
    // The allocator keeps what is freed for a second, here another 130 MiB: what is looked at is what the daemon holds.
    let daemon = Daemon::builder().env("MIMALLOC_PURGE_DELAY", "10");
    let mut stage = Stage::start(daemon);
    let token = publisher_key(&stage.daemon).token;
    let (to, before) = (stage.daemon.address(), rss_kib(stage.daemon.pid()));
    let small = Bytes::from(json!({"type": "small", "tenant": "acme"}).to_string());
    let (run, beside, rss) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| publish(to, &token, 1, &small, span()));
        let run = publish(to, &token, 256, &large_event(), span());
        (run, beside.join().expect("a publisher"), rss_kib(stage.daemon.pid()))
    });
    println!(
        "{} accepted, {} turned away, {} cut off, {} small ones beside; RSS {before} and {rss} KiB",
        run.accepted, run.turned_away, run.cut_off, beside.accepted
    );
    assert!(run.accepted > 0 && run.turned_away > 0, "64 MB at a time, of which half fits at most");
    assert!(beside.accepted > 0 && beside.turned_away + beside.cut_off == 0, "small ones find room: {beside:?}");
    let (slow, late) = (at_share(&run.accepting, 0.99), at_share(&run.turning_away, 0.99));
    assert!(slow < SOON && late < Duration::from_secs(5), "the accepted wait {slow:?}, the others {late:?}");
    assert!(rss < before + RSS_MOST_KIB, "{rss} KiB after {before}");
    let refused = figure(&stage, "webhookd_http_request_bodies_refused_total");
    assert!((run.turned_away..=run.turned_away + run.cut_off).contains(&refused), "{refused} counted");
    let all_given_back = || (figure(&stage, "webhookd_http_request_bodies_bytes") == 0).then_some(());
    assert!(poll(SOON, all_given_back).is_some(), "{} bytes", figure(&stage, "webhookd_http_request_bodies_bytes"));
    stage.daemon.kill9();
    stage.daemon.start();
    assert_eq!(listed(&stage, "small"), beside.accepted);
    let listed = listed(&stage, "large");
    let known = run.accepted..=run.accepted + run.cut_off;
    assert!(known.contains(&listed), "each 201 is there after kill -9, and nothing that was turned away: {listed}");
}

#[test]
fn g17_slow_bodies_give_way_when_room_is_scarce() {
    let ground = Ground::new(Daemon::builder());
    let stage = &ground.stage;
    let (token, to) = (publisher_key(&stage.daemon).token, stage.daemon.address());
    // Each is short of its last byte. 20 MB find room, and are more than half of what there is.
    let body = large_event();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let started = Instant::now();
    let took = ground.served_meanwhile(|| {
        let mut crowd: Vec<TcpStream> = (0..80)
            .map(|_| {
                let mut stream = connect_from(ENEMY, to);
                drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..body.len() - 1])));
                stream
            })
            .collect();
        let held = || figure(stage, "webhookd_http_request_bodies_bytes");
        let half = webhookd::limits::REQUEST_BODIES_BYTES_MAX / 2;
        assert!(poll(SOON, || (held() > half).then_some(())).is_some(), "they hold {} bytes", held());
        assert!(poll(SOON, || (held() <= half).then_some(())).is_some(), "{} bytes are still held", held());
        // Then one that means it is let in, long before their time is up.
        let honest = || (stage.publisher.send("POST", "/v1/events", &[], body.clone()).status == 201).then_some(());
        assert!(poll(SOON, honest).is_some());
        let told = crowd.iter_mut().filter_map(|stream| {
            stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
            let mut answer = [0; 256];
            let length = stream.read(&mut answer).ok()?;
            Some(String::from_utf8_lossy(&answer[..length]).into_owned())
        });
        let told: Vec<String> = told.collect();
        let overloaded = told.iter().filter(|answer| answer.starts_with("HTTP/1.1 503")).count();
        assert!(overloaded > 0 && told.iter().all(|answer| answer.starts_with("HTTP/1.1 503")), "{told:?}");
        assert!(told.iter().all(|answer| answer.to_lowercase().contains("retry-after: 1\r\n")), "{told:?}");
        println!("{overloaded} of {} slow ones gave way", crowd.len());
    });
    println!("others p99 {:?}, {:?} in all", at_share(&took, 0.99), started.elapsed());
    assert!(at_share(&took, 0.99) < HARDLY, "the others wait {took:?}");
}

#[test]
fn g17_who_is_too_fast_is_turned_away_and_gets_its_rate() {
    const RATE: f64 = 400.0;
    let _alone = alone();
    let stage = Stage::start(Daemon::builder().set("limits.publish_rate", "400"));
    let token = publisher_key(&stage.daemon).token;
    let event = Bytes::from(json!({"type": "order.created", "tenant": "acme"}).to_string());
    let run = publish(stage.daemon.address(), &token, 64, &event, span());
    let share = run.rate(span()) / RATE;
    println!("{:.0}/s of {RATE} allowed, {} turned away", run.rate(span()), run.turned_away);
    // A bucket's first fill comes on top.
    assert!((0.9..2.1).contains(&share), "{share:.2} of what is allowed");
    assert!(run.turned_away > 0);
    let quick = at_share(&run.turning_away, 0.99);
    assert!(quick < Duration::from_secs(1), "turned away within {quick:?}");
}
