//! Somebody who reads page after page while others publish. Owns one kept connection and the time that each page takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::histogram::Histogram;

/// Pages that are turned before the reader begins anew.
const TURNED: usize = 50;
/// Rest between pages: one reader, not a load of its own.
const REST: Duration = Duration::from_millis(5);

/// How long pages took.
pub struct Read100 {
    pub path: &'static str,
    pub pages: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Reads a listing for so long, page after page from its beginning, each of 100 entries.
pub fn read(address: SocketAddr, token: &str, name: &'static str, path: &str, seconds: f64) -> Read100 {
    let mut client = Client(BufReader::new(TcpStream::connect(address).expect("the daemon's port")));
    client.0.get_ref().set_nodelay(true).expect("no delay");
    let mut times = Histogram::new();
    let (started, mut pages) = (Instant::now(), 0);
    while started.elapsed().as_secs_f64() < seconds {
        let mut cursor = String::new();
        for _ in 0..TURNED {
            let begun = Instant::now();
            let page = client.get(&format!("{path}limit=100{cursor}"), token);
            times.record(u64::try_from(begun.elapsed().as_micros()).expect("microseconds fit"));
            let page: Value = serde_json::from_slice(&page).expect("a page in JSON");
            assert_eq!(page["data"].as_array().map(Vec::len), Some(100), "a whole page of {path}");
            pages += 1;
            std::thread::sleep(REST);
            let Some(next) = page["pagination"]["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
            if started.elapsed().as_secs_f64() >= seconds {
                break;
            }
        }
    }
    let ms = |share| times.quantile_us(share) as f64 / 1e3;
    Read100 { path: name, pages, p50_ms: ms(0.5), p99_ms: ms(0.99) }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn get(&mut self, path: &str, token: &str) -> Vec<u8> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).expect("a connection that takes requests");
        let (mut length, mut line, mut is_first) = (0, String::new(), true);
        loop {
            line.clear();
            self.0.read_line(&mut line).expect("an answer");
            if is_first {
                assert!(line.contains(" 200 "), "GET {path}: {line}");
                is_first = false;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a whole answer");
        body
    }
}
