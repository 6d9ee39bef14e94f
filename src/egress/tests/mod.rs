//! The way out against real sockets: receivers on the loopback that misbehave at the level of bytes. Owns the receivers and
//! what the tests share; asserts no wall-clock figure, only what happened.

mod agreement;
mod kept;
mod names;
mod receivers;
mod secure;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Egress, Pool, Resolve, Rules, Settings, StaticResolver, Target};
use crate::clock::Clock;
use crate::model::attempt::{Class, Exchange};

/// Long enough for a machine under load, for what should come at once.
const LONG: Duration = Duration::from_secs(20);
/// For exchanges that are meant to run into it.
const SHORT: Duration = Duration::from_millis(300);
const NOW_MS: u64 = 784_111_770_000;
const BODY: &str = "{\"n\":1}";

/// Plain HTTP to the loopback is allowed, and nothing else that is not public.
fn loopback_rules() -> Rules {
    Rules { require_https: false, allow: vec!["127.0.0.0/8".parse().unwrap()], ..Rules::default() }
}

fn settings() -> Settings {
    Settings { rules: loopback_rules(), ..Settings::default() }
}

fn egress() -> Egress {
    egress_with(settings(), StaticResolver::default())
}

fn egress_with(settings: Settings, resolver: impl Resolve + 'static) -> Egress {
    Egress::build(settings, Arc::new(resolver), Clock::manual(NOW_MS)).unwrap()
}

async fn post(egress: &Egress, pool: &Pool, url: &str, timeout: Duration) -> Exchange {
    // Under generous rules: what the client refuses is the matter of these tests.
    let rules = Rules { allow: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()], ..loopback_rules() };
    let target = Target::parse(url, &rules).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", HeaderValue::from_static("evt_1"));
    egress.exchange(pool, &target, headers, Bytes::from_static(BODY.as_bytes()), timeout).await
}

fn class(exchange: &Exchange) -> Option<Class> {
    exchange.failure.as_ref().map(|failure| failure.class)
}

fn detail(exchange: &Exchange) -> &str {
    exchange.failure.as_ref().map_or("", |failure| &failure.detail)
}

/// A receiver on the loopback that does with each connection what its script says.
struct Receiver {
    addr: SocketAddr,
    accepts: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    async fn start<F, Done>(script: F) -> Self
    where
        F: Fn(Peer) -> Done + Send + 'static,
        Done: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepts = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (count, record) = (Arc::clone(&accepts), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(script(Peer { stream, number, requests: Arc::clone(&record) }));
            }
        });
        Self { addr, accepts, requests }
    }

    /// Answers every request on every connection with the same bytes.
    async fn answering(answer: impl Into<String>) -> Self {
        let answer: Arc<str> = answer.into().into();
        Self::start(move |mut peer| {
            let answer = Arc::clone(&answer);
            async move {
                while peer.request().await.is_some() {
                    peer.say(&answer).await;
                }
            }
        })
        .await
    }

    fn url(&self) -> String {
        format!("http://{}/hook?a=b", self.addr)
    }

    fn accepts(&self) -> usize {
        self.accepts.load(Ordering::SeqCst)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// The receiver's end of one connection.
struct Peer {
    stream: TcpStream,
    /// Counted from 0.
    number: usize,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    /// Reads one request to the end of its body and records it; `None` when the connection ends first.
    async fn request(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4_096];
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap_or("0");
                if body.len() >= length.parse().unwrap() {
                    self.requests.lock().unwrap().push(text.clone());
                    return Some(text);
                }
            }
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            }
        }
    }

    async fn say(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes()).await;
    }

    /// Waits for the other end to go away.
    async fn gone(&mut self) {
        let mut chunk = [0; 4_096];
        while matches!(self.stream.read(&mut chunk).await, Ok(read) if read > 0) {}
    }

    /// Closes with a reset instead of an orderly end.
    fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// Waits until something is so; fails the test when it never is.
async fn eventually(what: &str, so: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}
