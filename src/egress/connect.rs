//! From a target to a connection: resolve, guard, TCP, TLS, HTTP. Owns the order of these steps; the addresses that are
//! judged are the ones that are dialled, each time anew, and the class of a failure is the step that it happened in.
//!
//! How long a connection is used is `pool`'s; the deadline over everything `client`'s.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::answer::cut;
use super::guard::{PublicAddr, Rules, check_addr, check_all};
use super::meter::Metered;
use super::pool::{About, Connection, OpenGuard, Replaced, Sender};
use super::resolve::Resolve;
use super::target::{Host, LOCALHOST, Target, is_localhost};
use super::tls::ALPN_H2;
use crate::limits::{ERROR_BYTES_MAX, RESOLVE_TIMEOUT, RESPONSE_HEADER_BYTES_MAX, RESPONSE_HEADERS_MAX};
use crate::model::attempt::{Class, Failure};

/// Where an exchange stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Resolve,
    Connect,
    Tls,
    Headers,
    Body,
}

impl Phase {
    /// What was being done, as it follows "while".
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolving the name",
            Self::Connect => "connecting",
            Self::Tls => "shaking hands over TLS",
            Self::Headers => "waiting for the response headers",
            Self::Body => "reading the response body",
        }
    }

    /// The class of running out of time here.
    pub(super) fn timeout_class(self) -> Class {
        if self == Self::Resolve { Class::Resolve } else { Class::Timeout }
    }
}

/// Something that bytes go through.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A wire that is being made.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Wire>>> + Send + 'a>>;

/// Something that connects to vetted addresses in TCP's place. Simulations have one.
pub trait Connect: Send + Sync {
    /// Connects, or fails as TCP does.
    fn connect(&self, addr: PublicAddr) -> Connecting<'_>;
}

/// A connection on which nothing is spoken yet.
enum Stream {
    Tcp(TcpStream),
    Other(Box<dyn Wire>),
}

/// What connections are made with: one generation of the settings.
pub(super) struct Dialler {
    pub(super) rules: Arc<Rules>,
    pub(super) tls: TlsConnector,
    pub(super) source_addresses: Vec<IpAddr>,
    /// In TCP's place.
    pub(super) connect: Option<Arc<dyn Connect>>,
    pub(super) generation: u64,
    /// Told when these settings are replaced.
    pub(super) replaced: Arc<Replaced>,
    /// Turns through `source_addresses`.
    pub(super) turn: AtomicUsize,
    /// Open connections, of all generations.
    pub(super) open: Arc<AtomicUsize>,
}

impl Dialler {
    /// A new connection to `target`. Keeps `phase` and `remote` up to date for whoever sets the deadline.
    pub(super) async fn dial(
        &self,
        resolver: &dyn Resolve,
        target: &Target,
        deadline: Instant,
        phase: &mut Phase,
        remote: &mut Option<SocketAddr>,
    ) -> Result<Connection, Failure> {
        *phase = Phase::Resolve;
        let addrs = self.addresses(resolver, target).await?;
        *phase = Phase::Connect;
        let (stream, addr) = self.connect(&addrs, deadline, remote).await?;
        *phase = Phase::Tls;
        let about = About::new(target.endpoint().clone(), addr, self.generation);
        match stream {
            Stream::Tcp(tcp) => self.speak(tcp, target, about).await,
            Stream::Other(wire) => self.speak(wire, target, about).await,
        }
    }

    /// From a connection to one that speaks HTTP.
    async fn speak<I>(&self, io: I, target: &Target, about: About) -> Result<Connection, Failure>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if !target.https() {
            return self.http1(io, about).await;
        }
        let tls = self.shake_hands(io, target.host()).await?;
        if tls.get_ref().1.alpn_protocol() == Some(ALPN_H2) {
            self.http2(tls, about).await
        } else {
            self.http1(tls, about).await
        }
    }

    /// All addresses of the target, every one of them vetted.
    pub(super) async fn addresses(&self, resolver: &dyn Resolve, target: &Target) -> Result<Vec<PublicAddr>, Failure> {
        let at_port = |ip: IpAddr| SocketAddr::new(ip, target.port());
        let found = match target.host() {
            Host::Ip(ip) => vec![at_port(*ip)],
            Host::Name(name) if is_localhost(name) => return self.localhost(target.port()),
            Host::Name(name) => {
                let ips = timeout(RESOLVE_TIMEOUT, resolver.resolve(name))
                    .await
                    .map_err(|_| failure(Class::Resolve, format!("{name}: no answer within {RESOLVE_TIMEOUT:?}")))?
                    .map_err(|reason| failure(Class::Resolve, reason))?;
                if ips.is_empty() {
                    return Err(failure(Class::Resolve, format!("{name}: no addresses")));
                }
                ips.into_iter().map(at_port).collect()
            }
        };
        check_all(&self.rules, &found).map_err(|refusal| failure(Class::Forbidden, refusal.to_string()))
    }

    /// This machine needs no name server, and its two addresses are no answer that someone could mix: those that the rules
    /// allow are used.
    fn localhost(&self, port: u16) -> Result<Vec<PublicAddr>, Failure> {
        let judged = LOCALHOST.map(|ip| check_addr(&self.rules, SocketAddr::new(ip, port)));
        let allowed: Vec<PublicAddr> = judged.iter().filter_map(|verdict| verdict.ok()).collect();
        match judged[0] {
            Err(refusal) if allowed.is_empty() => Err(failure(Class::Forbidden, refusal.to_string())),
            _ => Ok(allowed),
        }
    }

    /// The addresses one after the other, each with its share of the time that is left.
    async fn connect(
        &self,
        addrs: &[PublicAddr],
        deadline: Instant,
        remote: &mut Option<SocketAddr>,
    ) -> Result<(Stream, PublicAddr), Failure> {
        let addrs = &addrs[..addrs.len().min(ADDRESSES_MAX)];
        let mut reasons = String::new();
        let mut refused = false;
        for (addr, left) in addrs.iter().zip((1..=addrs.len()).rev()) {
            *remote = Some(addr.get());
            let dialled = if left == 1 {
                // The last one has the rest, and the deadline over everything is the only timer it needs.
                self.open(*addr).await
            } else {
                let now = Instant::now();
                let share = deadline.saturating_duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
                timeout_at(now + share, self.open(*addr)).await.unwrap_or_else(|late| Err(late.into()))
            };
            match dialled {
                Ok(stream) => return Ok((stream, *addr)),
                Err(error) => {
                    refused |= error.kind() != io::ErrorKind::TimedOut;
                    let comma = if reasons.is_empty() { "" } else { ", " };
                    // Writing to a String can't fail.
                    let _ = write!(reasons, "{comma}{addr}: {error}");
                }
            }
        }
        Err(failure(if refused { Class::Connect } else { Class::Timeout }, reasons))
    }

    /// The only place that connects. What it takes has been vetted.
    async fn open(&self, addr: PublicAddr) -> io::Result<Stream> {
        if let Some(connect) = &self.connect {
            return connect.connect(addr).await.map(Stream::Other);
        }
        let addr = addr.get();
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if !self.source_addresses.is_empty() {
            let source = self.source_for(addr.ip()).ok_or_else(|| {
                io::Error::new(io::ErrorKind::AddrNotAvailable, "egress.source_addresses has none of this family")
            })?;
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Stream::Tcp(stream))
    }

    fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        let of_family = || self.source_addresses.iter().filter(|source| source.is_ipv4() == remote.is_ipv4());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        of_family().nth(turn % of_family().count().max(1)).copied()
    }

    async fn shake_hands<I>(&self, io: I, host: &Host) -> Result<TlsStream<I>, Failure>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.clone())
                .map_err(|error| failure(Class::Tls, format!("{name} can't stand in a certificate: {error}")))?,
            Host::Ip(ip) => ServerName::from(*ip),
        };
        self.tls.connect(name, io).await.map_err(|error| failure(Class::Tls, describe(&error)))
    }

    async fn http1<I>(&self, io: I, about: About) -> Result<Connection, Failure>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, drive) = http1::Builder::new()
            .title_case_headers(true)
            .max_header_size(RESPONSE_HEADER_BYTES_MAX)
            .max_buf_size(RESPONSE_HEADER_BYTES_MAX)
            .handshake(TokioIo::new(Metered::new(io, about.meter())))
            .await
            .map_err(|error| failure(Class::Protocol, describe(&error)))?;
        Ok(Connection::start(Sender::Http1(sender), about, OpenGuard::new(&self.open), drive, self.replaced.clone()))
    }

    async fn http2<I>(&self, io: I, about: About) -> Result<Connection, Failure>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tasks = CancellationToken::new();
        let guard = tasks.clone().drop_guard();
        let (sender, drive) = http2::Builder::new(TiedTasks(tasks))
            .timer(TokioTimer::new())
            .keep_alive_interval(H2_PING_INTERVAL)
            .keep_alive_timeout(H2_PING_TIMEOUT)
            .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
            .max_header_list_size(u32::try_from(RESPONSE_HEADER_BYTES_MAX).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(Metered::new(io, about.meter())))
            .await
            .map_err(|error| failure(Class::Protocol, describe(&error)))?;
        let drive = async move {
            let _guard = guard;
            drive.await
        };
        Ok(Connection::start(Sender::Http2(sender), about, OpenGuard::new(&self.open), drive, self.replaced.clone()))
    }
}

/// hyper's HTTP/2 half runs in tasks of its own: they end with the connection's driver, however that ends.
#[derive(Clone)]
struct TiedTasks(CancellationToken);

impl<F> Executor<F> for TiedTasks
where
    F: Future + Send + 'static,
{
    fn execute(&self, task: F) {
        let tied_to = self.0.clone();
        tokio::spawn(async move {
            tied_to.run_until_cancelled(task).await;
        });
    }
}

pub(super) fn failure(class: Class, detail: impl Into<String>) -> Failure {
    Failure { class, detail: cut(detail.into(), ERROR_BYTES_MAX) }
}

/// An error with what lies under it, for people; a layer that only repeats the one above it is left out.
pub(super) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

/// Addresses of one name that are tried in one exchange; all of them are judged.
const ADDRESSES_MAX: usize = 4;
/// An HTTP/2 peer that is silent while exchanges wait is given up after interval and time-out.
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What a receiver may send before it is read: room for one bounded body each, and no more than HTTP/2's own minimum for all.
const H2_STREAM_WINDOW_BYTES: u32 = 32 * 1024;
const H2_CONNECTION_WINDOW_BYTES: u32 = 65_535;
// hyper's own bound on the number of headers, which costs no allocation as long as it is not set.
const _: () = assert!(RESPONSE_HEADERS_MAX == 100);
