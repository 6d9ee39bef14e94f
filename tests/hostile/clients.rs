//! Clients that hold on: to places, to handshakes, to bodies that never come.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::support::{Daemon, SOON, poll, tenant_key};
use super::{ENEMY, Ground, HARDLY, at_share, connect_from};

/// Lets this process have as many descriptors as it may.
fn descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20);
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum }).expect("one's own limit");
    most
}

/// Reads until the server closes, in whatever manner; how many bytes came. Fails when it does not.
fn ends(stream: &mut TcpStream) -> usize {
    let (mut buffer, mut read) = ([0; 4096], 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => read += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server does not close: {error}");
            }
            Ok(_) | Err(_) => return read,
        }
    }
}

#[test]
fn a_one_address_does_not_take_all_places() {
    let slow = Daemon::builder().set("server.body_timeout", "\"30s\"").set("server.max_connections", "64");
    let ground = Ground::new(slow);
    let token = tenant_key(&ground.stage.daemon, "acme").token;
    let address = ground.stage.daemon.address();
    let began = format!(
        "POST /v1/webhooks HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\n{{"
    );
    // Each of them is at work, as far as can be told: its body is on its way.
    let crowd: Vec<TcpStream> = (0..128)
        .map(|_| {
            let mut stream = connect_from(ENEMY, address);
            drop(stream.write_all(began.as_bytes()));
            stream
        })
        .collect();
    let started = Instant::now();
    let took = ground.served_meanwhile(|| std::thread::sleep(Duration::from_secs(2)));
    let p99 = at_share(&took, 0.99);
    println!("48 of 64 places are held with bodies that don't come; others p99 {p99:?}");
    assert!(p99 < HARDLY, "the others wait {p99:?}");
    assert!(started.elapsed() < Duration::from_secs(15), "they were served before the crowd's time was up");
    drop(crowd);
}

#[test]
fn a_half_handshakes_hold_nobody_up() {
    let ground = Ground::new(Daemon::builder().set("server.handshake_timeout", "\"1s\""));
    // The first bytes of a ClientHello.
    let began = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let took = ground.served_meanwhile(|| {
        let mut halves: Vec<TcpStream> = (0..400).map(|_| connect_from(ENEMY, ground.tls)).collect();
        for (number, stream) in halves.iter_mut().enumerate() {
            stream.write_all(&began[..number % began.len()]).expect("a server that reads");
        }
        for stream in &mut halves {
            // An alert or nothing, and the end.
            ends(stream);
        }
    });
    let p99 = at_share(&took, 0.99);
    println!("400 half handshakes; others p99 {p99:?}");
    assert!(p99 < HARDLY, "the others wait {p99:?}");
}

/// What noise is made of.
const PIECES: [&[u8]; 14] = [
    b"GET / HTTP/1.1\r\n",
    b"POST /v1/events HTTP/1.1\r\n",
    b"Host: a\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"\r\n",
    b"\n",
    b"\0",
    b"ffffffffffffffff\r\n",
    b"-1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b" \t: \xff\xfe",
];

#[test]
fn a_noise_of_every_kind_is_answered_or_closed_and_the_others_are_served() {
    let limited = Daemon::builder().set("server.header_timeout", "\"1s\"").set("server.handshake_timeout", "\"1s\"");
    let ground = Ground::new(limited);
    let before = ground.rss_kib();
    let seed: u64 = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("a number"));
    println!("SEED={seed}");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
    let mut chance = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let noises: Vec<Vec<u8>> = (0..400)
        .map(|_| {
            let count = chance() % 12;
            let mut bytes: Vec<u8> =
                (0..count).flat_map(|_| PIECES[chance() as usize % PIECES.len()].to_vec()).collect();
            bytes.extend((0..chance() % 64).map(|_| chance() as u8));
            bytes
        })
        .collect();
    let took = ground.served_meanwhile(|| {
        for (number, noise) in noises.iter().enumerate() {
            let to = if number % 4 == 0 { ground.tls } else { ground.stage.daemon.address() };
            let mut stream = connect_from(ENEMY, to);
            drop(stream.write_all(noise));
            drop(stream.shutdown(std::net::Shutdown::Write));
            let answered = ends(&mut stream);
            assert!(answered < 64 * 1024, "{answered} bytes in answer to {noise:?}");
        }
    });
    assert!(at_share(&took, 0.99) < HARDLY, "the others wait {took:?}");
    // Whoever leaves a head unfinished and keeps the connection is not waited for either, after an answer no more than before.
    let unfinished =
        |noise: &&Vec<u8>| !noise.is_empty() && !noise.windows(2).any(|pair| pair == b"\n\r" || pair == b"\n\n");
    // Most of the noise is refused as it comes: these heads are right, as far as they go.
    let right = [b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ".to_vec(), b"GET / HTTP/1.1\r\n".to_vec(), b"G".to_vec()];
    let heads = right.iter().cycle().take(12).chain(noises.iter().filter(unfinished));
    let mut kept: Vec<TcpStream> = Vec::new();
    for (number, noise) in heads.take(90).enumerate() {
        let to = if number % 3 == 0 { ground.tls } else { ground.stage.daemon.address() };
        let mut stream = connect_from(ENEMY, to);
        if number % 3 == 2 {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").expect("a server that reads");
            assert!(stream.read(&mut [0; 512]).expect("an answer") > 0);
        }
        drop(stream.write_all(noise));
        kept.push(stream);
    }
    assert!(kept.len() > 60, "{} of them", kept.len());
    let written = Instant::now();
    for stream in &mut kept {
        ends(stream);
    }
    let took = written.elapsed();
    assert!(took < Duration::from_secs(4), "the last of them was closed after {took:?}");
    let rss = ground.rss_kib();
    assert!(rss < before + 32 * 1024, "{rss} KiB after {before}");
}

#[test]
fn g08_five_thousand_idle_connections_cost_little() {
    let count = if descriptors() >= 16_000 { 5_000 } else { 400 };
    let patient = Daemon::builder().set("server.max_connections", "8000").set("server.header_timeout", "\"60s\"");
    let ground = Ground::new(patient.descriptors(20_000.min(u32::try_from(descriptors()).unwrap_or(u32::MAX))));
    let (address, before) = (ground.stage.daemon.address(), ground.rss_kib());
    let silent: Vec<TcpStream> = (0..count).map(|_| connect_from(ENEMY, address)).collect();
    let shown = || {
        let metrics = ground.stage.daemon.admin().get("/metrics").expect(200).text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("webhookd_http_connections "));
        line.and_then(|value| value.parse::<usize>().ok()).unwrap_or_else(|| panic!("no figure in {metrics}"))
    };
    assert!(poll(SOON, || (shown() >= count).then_some(())).is_some(), "{} of {count} are open", shown());
    let quiet = ground.rss_kib();
    // And after a request each, as kept connections are.
    for mut stream in &silent {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").expect("a server that reads");
    }
    for mut stream in &silent {
        assert!(stream.read(&mut [0; 512]).expect("an answer") > 0);
    }
    let used = ground.rss_kib();
    let each = |rss: u64| (rss.saturating_sub(before)) * 1024 / count as u64;
    println!(
        "{count} connections: {} bytes each in silence, {} after a request; RSS {used} KiB",
        each(quiet),
        each(used)
    );
    assert!(each(quiet) < 24 * 1024 && each(used) < 24 * 1024, "{before}, {quiet}, {used} KiB");
    let took = ground.served_meanwhile(|| {});
    assert!(at_share(&took, 0.99) < HARDLY, "the others wait {took:?}");
}
