//! What can be done to a server with frames of HTTP/2, byte for byte: each either ends the connection or costs its time limit, and
//! nobody else notices.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::support::{Authority, Daemon, SOON};
use super::{ENEMY, Ground, HARDLY, at_share, connect_from};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `GET https://a/`, and the same with POST, as static table entries; the path is `/`.
const GET: &[u8] = &[0x82, 0x87, 0x84, 0x41, 1, b'a'];
const POST: &[u8] = &[0x83, 0x87, 0x84, 0x41, 1, b'a'];
/// `GET https://a/openapi.json`: an answer of many kilobytes.
const GET_LARGE: &[u8] = b"\x82\x87\x41\x01a\x04\x0d/openapi.json";

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A connection that has said hello, with these settings.
fn hello(address: SocketAddr, authority: &Authority, settings: &[u8]) -> Stream {
    let config = Arc::new(authority.client_for(&[b"h2"]));
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(config, name).expect("a client");
    let mut stream = StreamOwned::new(connection, connect_from(ENEMY, address));
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, settings));
    stream.write_all(&bytes).expect("a server that reads");
    stream
}

/// Sends pieces until the server has had enough, or there are no more. Reads nothing meanwhile.
fn pour(stream: &mut Stream, pieces: impl Iterator<Item = Vec<u8>>) -> bool {
    let mut batch = Vec::new();
    for piece in pieces {
        batch.extend(piece);
        if batch.len() > 32 * 1024 && stream.write_all(&std::mem::take(&mut batch)).is_err() {
            return true;
        }
    }
    stream.write_all(&batch).is_err()
}

/// Reads until the server closes; how many bytes came. Fails when it does not.
fn closes(stream: &mut Stream, within: Duration) -> usize {
    let started = Instant::now();
    let (mut buffer, mut read) = ([0; 16 * 1024], 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => read += count,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("not closed after {:?}", started.elapsed());
            }
            Ok(_) | Err(_) => return read,
        }
        assert!(started.elapsed() < within, "not closed after {:?}", started.elapsed());
    }
}

/// Stream numbers of a client.
fn odd() -> impl Iterator<Item = u32> {
    (1_u32..).step_by(2)
}

fn rapid_reset() -> Vec<Vec<u8>> {
    let reset = |id| {
        [frame(HEADERS, END_STREAM | END_HEADERS, id, GET), frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
    };
    odd().take(20_000).map(reset).collect()
}

/// A head that never ends: in large pieces, and in none.
fn continuations(payload: usize, count: usize) -> Vec<Vec<u8>> {
    // A literal header without indexing whose value fills the frame.
    let mut block = Vec::new();
    while block.len() + 128 < payload {
        block.extend([0x00, 1, b'x', 100]);
        block.extend([b'y'; 100]);
    }
    let first = frame(HEADERS, END_STREAM, 1, GET);
    std::iter::once(first).chain((0..count).map(|_| frame(CONTINUATION, 0, 1, &block))).collect()
}

/// One long header in the table, and heads that name it again and again: few bytes that unfold to many.
fn header_bomb() -> Vec<Vec<u8>> {
    let mut block = GET.to_vec();
    block.extend([0x40, 1, b'x', 0x7f, 0x80 | 0x21, 0x1e]);
    block.extend(vec![b'y'; 127 + 0x21 + (0x1e << 7)]);
    block.extend(vec![0xbe; 8_000]);
    odd().take(50).map(|id| frame(HEADERS, END_STREAM | END_HEADERS, id, &block)).collect()
}

fn ten_thousand_streams() -> Vec<Vec<u8>> {
    odd().take(10_000).map(|id| frame(HEADERS, END_HEADERS, id, POST)).collect()
}

fn empty_data() -> Vec<Vec<u8>> {
    let open = frame(HEADERS, END_HEADERS, 1, POST);
    std::iter::once(open).chain((0..200_000).map(|_| frame(DATA, 0, 1, &[]))).collect()
}

fn wide_windows() -> Vec<Vec<u8>> {
    (0..3).map(|_| frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())).collect()
}

/// One connection's: whatever is poured, it has an end. Whether that came before all was said.
fn flood(ground: &Ground, frames: &[Vec<u8>]) -> bool {
    let mut stream = hello(ground.tls, &ground.authority, &[]);
    let ended = pour(&mut stream, frames.iter().cloned());
    closes(&mut stream, SOON);
    ended
}

#[test]
fn a_floods_of_frames_end_their_connection_and_the_others_are_served() {
    let quick = Daemon::builder().set("server.header_timeout", "\"2s\"").set("server.body_timeout", "\"2s\"");
    let ground = Ground::new(quick);
    let calm = ground.served_meanwhile(|| std::thread::sleep(Duration::from_millis(500)));
    let before = ground.rss_kib();
    let settings: Vec<_> = (0..300_000).map(|_| frame(SETTINGS, 0, 0, &[])).collect();
    let pings: Vec<_> = (0..200_000).map(|_| frame(PING, 0, 0, &[7; 8])).collect();
    let floods = [
        ("rapid reset", rapid_reset()),
        ("large continuations", continuations(16_000, 2_000)),
        ("small continuations", continuations(0, 200_000)),
        ("header bomb", header_bomb()),
        ("settings", settings),
        ("pings", pings),
        ("ten thousand streams", ten_thousand_streams()),
        ("empty data", empty_data()),
        ("windows beyond the limit", wide_windows()),
    ];
    for (name, frames) in floods {
        let (mut ended, started) = (0, Instant::now());
        let took = ground.served_meanwhile(|| {
            std::thread::scope(|scope| {
                let floods: Vec<_> = (0..4).map(|_| scope.spawn(|| flood(&ground, &frames))).collect();
                ended = floods.into_iter().map(|flood| flood.join().expect("an end")).filter(|ended| *ended).count();
            });
        });
        let (p99, rss) = (at_share(&took, 0.99), ground.rss_kib());
        println!(
            "{name}: {ended} of 4 cut short, over after {:?}, others p99 {p99:?}, RSS {rss} KiB",
            started.elapsed()
        );
        assert!(p99 < HARDLY, "{name}: the others wait {p99:?}; calm: {:?}", at_share(&calm, 0.99));
        assert!(rss < before + 96 * 1024, "{name}: {rss} KiB after {before}");
    }
}

#[test]
fn a_window_that_is_never_opened_holds_no_answer_for_ever() {
    let quick = Daemon::builder().set("server.header_timeout", "\"1s\"").set("server.body_timeout", "\"2s\"");
    let ground = Ground::new(quick);
    let before = ground.rss_kib();
    ground.served_meanwhile(|| {
        let mut streams: Vec<Stream> = (0..20)
            .map(|_| {
                // SETTINGS_INITIAL_WINDOW_SIZE of 0.
                let mut stream = hello(ground.tls, &ground.authority, &[0, 4, 0, 0, 0, 0]);
                let asked = odd().take(100).map(|id| frame(HEADERS, END_STREAM | END_HEADERS, id, GET_LARGE));
                pour(&mut stream, asked);
                stream
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        let held = ground.rss_kib();
        assert!(held < before + 96 * 1024, "2,000 answers that nobody takes: {held} KiB after {before}");
        for stream in &mut streams {
            let read = closes(stream, SOON);
            assert!(read < 100_000, "{read} bytes through a closed window");
        }
    });
}
