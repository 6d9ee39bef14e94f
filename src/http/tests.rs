//! Raw sockets against the server rooms: a small daemon with short time limits, and clients that misbehave.

mod http1;
mod http2;
mod life;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::StatusCode;
use http::header::CONNECTION;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{Budget, read_body};
use super::gate::ConnectionGate;
use super::hygiene::{self, content_length};
use super::server::{Handler, Limits, Peer, Reply, ReplyBody, serve};
use super::tls::DevAuthority;
use super::{listen, tls};

/// Nothing in these tests takes this long unless something hangs.
const HANG: Duration = Duration::from_secs(20);
/// Bodies up to here are taken.
const BODY_MAX: usize = 1_000;
const NOW_MS: u64 = 1_790_000_000_000;

/// Time limits that play no part.
fn patient() -> Limits {
    Limits {
        header_timeout: HANG * 2,
        handshake_timeout: HANG * 2,
        body_timeout: HANG * 2,
        keep_alive_idle: HANG * 2,
        ..limits()
    }
}

/// Time limits that are soon up.
fn limits() -> Limits {
    Limits {
        header_timeout: Duration::from_millis(300),
        handshake_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        max_connections: 100,
        keep_alive_idle: Duration::from_millis(600),
    }
}

/// Answers every path: `/slow` once `release` is told, `/stream` in two frames, any other with the body that it got.
#[derive(Clone)]
struct Echo(Arc<EchoState>);

struct EchoState {
    release: Notify,
    entered: AtomicUsize,
    body_timeout: Duration,
    bodies: Budget,
}

impl Handler for Echo {
    async fn call(&self, request: http::Request<Incoming>, peer: Peer) -> Reply {
        self.0.entered.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        if let Err(refusal) = hygiene::check(&parts) {
            return reply(refusal.status, refusal.code, refusal.close);
        }
        if parts.uri.path() == "/stream" {
            let frames = http_body_util::Full::new(Bytes::from_static(b"streamed")).map_err(|never| match never {});
            return http::Response::new(ReplyBody::Stream(frames.boxed_unsync()));
        }
        if parts.uri.path() == "/slow" {
            self.0.release.notified().await;
        }
        if parts.uri.path() == "/peer" {
            return reply(StatusCode::OK, format!("{peer:?}"), false);
        }
        let (length, part) = (content_length(&parts.headers), self.0.bodies.part(BODY_MAX));
        match read_body(body, length, BODY_MAX, self.0.body_timeout, part).await {
            Ok(body) => reply(StatusCode::OK, body.bytes, false),
            Err(error) => reply(error.status(), error.code(), error.close()),
        }
    }
}

fn reply(status: StatusCode, body: impl Into<Bytes>, close: bool) -> Reply {
    let mut reply = http::Response::new(ReplyBody::from(body));
    *reply.status_mut() = status;
    if close {
        reply.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("close"));
    }
    reply
}

struct Server {
    addr: SocketAddr,
    gate: Arc<ConnectionGate>,
    echo: Echo,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    fn plain(limits: Limits) -> Self {
        Self::start(limits, None)
    }

    fn start(limits: Limits, tls: Option<Arc<ArcSwap<ServerConfig>>>) -> Self {
        let socket = listen::tcp(SocketAddr::from(([127, 0, 0, 1], 0)), 1).unwrap().remove(0);
        let addr = socket.local_addr().unwrap();
        Self::on(socket, addr, limits, tls)
    }

    fn on(socket: listen::Socket, addr: SocketAddr, limits: Limits, tls: Option<Arc<ArcSwap<ServerConfig>>>) -> Self {
        let gate = ConnectionGate::new(limits.max_connections);
        let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
        let echo = Echo(Arc::new(EchoState {
            release: Notify::new(),
            entered: AtomicUsize::new(0),
            body_timeout: limits.body_timeout,
            bodies: Budget::default(),
        }));
        let listener = socket.listen().unwrap();
        let serving = serve(listener, tls, echo.clone(), limits, Arc::clone(&gate), stop.clone(), connections.clone());
        connections.spawn(serving);
        Self { addr, gate, echo, stop, connections }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends that and reads until the server closes.
    async fn exchange(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_ref()).await.unwrap();
        read_to_end(&mut stream).await
    }

    async fn assert_serves(&self) {
        let answer = self.exchange("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert_eq!(status(&answer), 200, "{answer}");
    }

    async fn entered(&self, times: usize) {
        timeout(HANG, async {
            while self.echo.0.entered.load(Ordering::SeqCst) < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    }

    /// Stops and waits until every connection is done.
    async fn drain(&self) {
        self.stop.cancel();
        self.connections.close();
        timeout(HANG, self.connections.wait()).await.expect("connections that don't end");
    }
}

/// What came until the peer closed; a reset counts as closed.
async fn read_to_end(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    timeout(HANG, async {
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..read]);
        }
    })
    .await
    .expect("a connection that isn't closed");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn read_some(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut buffer = [0; 4096];
    let read = timeout(HANG, stream.read(&mut buffer)).await.expect("no answer").unwrap();
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

/// The status of the first answer in there; 0 when there is none.
fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn authority(dir: &Path) -> DevAuthority {
    tls::dev_authority(dir, NOW_MS).unwrap()
}

fn shared(authority: &DevAuthority) -> Arc<ArcSwap<ServerConfig>> {
    tls::shared(&authority.cert, &authority.key).unwrap()
}

/// A TLS connection that trusts that authority and offers these protocols.
async fn connect_tls(addr: SocketAddr, ca: &Path, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
    wrap_tls(TcpStream::connect(addr).await?, ca, protocols).await
}

async fn wrap_tls(stream: TcpStream, ca: &Path, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
    wrap_tls_in(rustls::DEFAULT_VERSIONS, stream, ca, protocols).await
}

/// In one of these versions of TLS.
async fn wrap_tls_in(
    versions: &[&'static rustls::SupportedProtocolVersion],
    stream: TcpStream,
    ca: &Path,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(ca).unwrap().map(Result::unwrap));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(TestTime))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// The time that the certificates of these tests were made at.
#[derive(Debug)]
struct TestTime;

impl rustls::time_provider::TimeProvider for TestTime {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_millis(NOW_MS)))
    }
}
