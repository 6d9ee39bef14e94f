//! Connections: accepted, wrapped in TLS, served over HTTP/1.1 or HTTP/2, ended in time and in good manners.
//!
//! Invariant: no connection lives without a time limit that applies to what it is doing, none that fails takes the listener or
//! another connection with it, and an accepted request is answered before a stop closes its connection, the first request of a
//! connection that was just made too. What a request means is left to the [`Handler`]; whether it is well-formed to `hygiene`.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::CONNECTION;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::gate::{ConnectionGate, IdleTicket, Pass, descriptor_cap};
use super::hygiene::HEAD_BYTES_MAX;
use super::listen::Listener;
use super::wire::{InFlight, Late, Stream, Watch, Wire};

/// Bytes of a request body that the peer of one HTTP/2 stream may send ahead of us.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same over all streams of one connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const STREAMS_MAX: u32 = 128;
/// Streams reset by the peer that wait to be seen, and by us for the peer's errors, before the connection is ended.
const RESET_STREAMS_MAX: usize = 20;
/// An HTTP/2 connection is asked for a sign of life this often.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// After an answer that leaves a request half read, what still comes is taken for this long, so that the answer arrives.
const LINGER: Duration = Duration::from_secs(1);
/// After a stop, a connection that has not had a request yet may still make its first one for this long.
const NEWCOMER_GRACE: Duration = Duration::from_secs(1);
/// A failing accept is tried again after the first of these, then slower, up to the second.
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The time limits of a connection, and how many there may be.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From accept, or from its first byte, to the end of a request's head.
    pub header_timeout: Duration,
    /// For the whole TLS handshake.
    pub handshake_timeout: Duration,
    /// For the whole body of a request; also how long a peer may take nothing of our answer.
    pub body_timeout: Duration,
    /// For the [`ConnectionGate`].
    pub max_connections: usize,
    /// How long a connection is kept after its last answer.
    pub keep_alive_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            max_connections: descriptor_cap().min(10_000),
            keep_alive_idle: Duration::from_secs(75),
        }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Absent on a unix socket. An IPv4 address is never in its mapped form.
    pub addr: Option<SocketAddr>,
    pub tls: bool,
    pub unix: bool,
}

/// An answer.
pub type Reply = http::Response<ReplyBody>;

/// The body of an answer: usually there as a whole.
pub enum ReplyBody {
    Whole(Full<Bytes>),
    Stream(UnsyncBoxBody<Bytes, io::Error>),
}

/// What answers requests. Called on the connection's task (HTTP/1.1) or on one of the stream's own (HTTP/2); dropped where it
/// stands when the peer goes away.
pub trait Handler: Clone + Send + Sync + 'static {
    fn call(&self, request: http::Request<Incoming>, peer: Peer) -> impl Future<Output = Reply> + Send;

    /// Whether who connects from this address speaks for many: then it has no share to keep to.
    fn is_proxy(&self, _: IpAddr) -> bool {
        false
    }
}

/// Accepts from `listener` until `stop`, on the runtime that it is called on. Then each connection finishes what it is
/// answering and closes; wait for that with `connections`.
pub async fn serve<H: Handler>(
    listener: Listener,
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    handler: H,
    limits: Limits,
    gate: Arc<ConnectionGate>,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    // A token of this worker's own: its connections don't meet those of other workers at one lock.
    let stop = stop.child_token();
    let server = Arc::new(Server::new(tls, handler, limits, gate, stop.clone(), connections.clone()));
    let accepting = server.accept(listener, &connections);
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = accepting => {}
    }
}

struct Server<H> {
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    handler: H,
    limits: Limits,
    gate: Arc<ConnectionGate>,
    stop: CancellationToken,
    http1: http1::Builder,
    http2: http2::Builder<Tasks>,
}

/// Runs the streams of HTTP/2 connections.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

impl<H: Handler> Server<H> {
    fn new(
        tls: Option<Arc<ArcSwap<ServerConfig>>>,
        handler: H,
        limits: Limits,
        gate: Arc<ConnectionGate>,
        stop: CancellationToken,
        connections: TaskTracker,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        // The watch keeps the time of heads and of idle connections, see `wire`.
        http1.timer(TokioTimer::new()).header_read_timeout(None);
        http1.max_header_size(HEAD_BYTES_MAX).max_buf_size(HEAD_BYTES_MAX);
        http1.half_close(false).keep_alive(true).pipeline_flush(false);
        let mut http2 = http2::Builder::new(Tasks(connections));
        http2.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(limits.header_timeout);
        http2
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX));
        http2.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        http2.max_pending_accept_reset_streams(RESET_STREAMS_MAX).max_local_error_reset_streams(RESET_STREAMS_MAX);
        Self { tls, handler, limits, gate, stop, http1, http2 }
    }

    async fn accept(self: &Arc<Self>, listener: Listener, connections: &TaskTracker) {
        let mut trouble = AcceptTrouble::default();
        loop {
            match listener.accept().await {
                Ok((stream, addr)) => {
                    trouble.backoff = Duration::ZERO;
                    let peer = Peer { addr, tls: self.tls.is_some(), unix: matches!(stream, Stream::Unix(_)) };
                    let from = addr.map(|addr| addr.ip()).filter(|ip| !self.handler.is_proxy(*ip));
                    if let Some(pass) = self.gate.enter(from).await {
                        connections.spawn(Arc::clone(self).connection(stream, peer, pass));
                    }
                }
                Err(error) => trouble.survive(&error, &self.gate).await,
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: Stream, peer: Peer, pass: Pass) {
        let leave = Arc::new(Notify::new());
        let ticket = self.gate.idles(&pass, &leave);
        let (stream, is_http2) = match (&self.tls, stream) {
            (Some(tls), Stream::Tcp(stream)) => {
                let handshake = TlsAcceptor::from(tls.load_full()).accept(stream);
                let handshake = timeout(self.limits.handshake_timeout, handshake);
                let done = tokio::select! {
                    biased;
                    () = self.newcomers_leave() => return,
                    () = leave.notified() => return,
                    done = handshake => done,
                };
                let Ok(Ok(stream)) = done else {
                    self.gate.count_handshake_error();
                    debug!(peer = ?peer.addr, reason = ?done.err().map_or("failed", |_| "timeout"), "TLS handshake");
                    return;
                };
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                (Stream::Tls(Box::new(stream)), is_http2)
            }
            (_, stream) => (stream, false),
        };
        let watch = Watch::new();
        let wire = Wire::new(stream, Arc::clone(&watch), !is_http2);
        let service = self.service(&watch, peer, is_http2);
        let parting = Parting { watch, pass, leave, ticket: Some(ticket), requests: 0, said: false };
        if is_http2 {
            let mut connection = self.http2.serve_connection(TokioIo::new(wire), service);
            self.drive(&mut connection, http2::Connection::graceful_shutdown, parting).await;
        } else {
            let mut connection = self.http1.serve_connection(TokioIo::new(wire), service);
            if self.drive(&mut connection, http1::Connection::graceful_shutdown, parting).await {
                linger(connection.into_parts().io.into_inner()).await;
            }
        }
    }

    fn service(
        &self,
        watch: &Arc<Watch>,
        peer: Peer,
        is_http2: bool,
    ) -> impl HttpService<Incoming, Future: Send + 'static, ResBody = Tracked, Error = Infallible> + Send + 'static + use<H>
    {
        let (handler, watch) = (self.handler.clone(), Arc::clone(watch));
        service_fn(move |mut request: http::Request<Incoming>| {
            let (mut in_flight, number) = watch.begin();
            if let Some(doubt) = watch.doubt(number) {
                request.extensions_mut().insert(doubt);
            }
            let handler = handler.clone();
            async move {
                let mut reply = handler.call(request, peer).await;
                if is_http2 {
                    reply.headers_mut().remove(CONNECTION);
                    in_flight.owe(true);
                }
                Ok::<_, Infallible>(reply.map(|body| Tracked { body, in_flight, is_http2 }))
            }
        })
    }

    /// Ready a moment after the stop. Whoever has connected before it believes to be served: with a socket that outlives the
    /// daemon, closing on a client before its first request is the only way to turn one away.
    async fn newcomers_leave(&self) {
        self.stop.cancelled().await;
        sleep(NEWCOMER_GRACE).await;
    }

    /// Runs a connection to its end, or until its time is up; then it is to be dropped, and this is false.
    async fn drive<C>(&self, connection: &mut C, farewell: fn(Pin<&mut C>), mut parting: Parting) -> bool
    where
        C: Future<Output = hyper::Result<()>> + Unpin,
    {
        let leave = Arc::clone(&parting.leave);
        let (mut stopped, mut leaving) = (pin!(self.stop.cancelled()), pin!(leave.notified()));
        let mut silent = pin!(self.newcomers_leave());
        let mut alarm = pin!(sleep_until(Instant::now() + self.limits.header_timeout));
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(cx) {
                    if let Err(error) = ended {
                        debug!(%error, "connection");
                    }
                    return Poll::Ready(true);
                }
                parting.note_work();
                let mut next = parting.in_time(&self.gate, &self.limits, alarm.as_mut(), cx);
                let met = |parting: &Parting| parting.watch.requests() > 0;
                if !parting.said
                    && stopped.as_mut().poll(cx).is_ready()
                    && (met(&parting) || silent.as_mut().poll(cx).is_ready())
                {
                    next = Poll::Ready(Late::Farewell);
                }
                if !parting.said && parting.ticket.is_some() && leaving.as_mut().poll(cx).is_ready() {
                    next = Poll::Ready(if parting.watch.requests() == 0 { Late::Drop } else { Late::Farewell });
                }
                match next {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Late::Drop) => return Poll::Ready(false),
                    Poll::Ready(Late::Farewell) => {
                        parting.said = true;
                        parting.watch.part();
                        farewell(Pin::new(&mut *connection));
                    }
                }
            }
        })
        .await
    }
}

/// What decides when a connection has to go.
struct Parting {
    watch: Arc<Watch>,
    pass: Pass,
    leave: Arc<Notify>,
    /// Held while the connection is without a request, apart from the first moments after one.
    ticket: Option<IdleTicket>,
    /// Requests that there had been when the ticket was taken.
    requests: u64,
    said: bool,
}

impl Parting {
    fn note_work(&mut self) {
        if self.ticket.is_some() && self.watch.requests() != self.requests {
            self.ticket = None;
        }
    }

    /// Ready when time is up. The alarm is moved ahead when needed and otherwise left to ring for nothing, which is rare.
    fn in_time(
        &mut self,
        gate: &Arc<ConnectionGate>,
        limits: &Limits,
        mut alarm: Pin<&mut tokio::time::Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Late> {
        if let Some((due, _)) = self.watch.deadline(limits)
            && due < alarm.deadline()
        {
            alarm.as_mut().reset(due);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let deadline = self.watch.deadline(limits);
            if let Some((due, late)) = deadline
                && due <= now
            {
                return Poll::Ready(late);
            }
            if self.ticket.is_none() && !self.watch.is_active() {
                self.ticket = Some(gate.idles(&self.pass, &self.leave));
                self.requests = self.watch.requests();
            }
            let tick = now + limits.header_timeout;
            alarm.as_mut().reset(deadline.map_or(tick, |(due, _)| due.min(tick)));
        }
        Poll::Pending
    }
}

/// Takes, for a moment, what the peer still sends: closing at once would reset the connection under the answer.
async fn linger(mut wire: Wire) {
    if !wire.is_mid_message() {
        return;
    }
    let drained = timeout(LINGER, async {
        wire.shutdown().await?;
        let mut scrap = [0; 4096];
        while wire.read(&mut scrap).await? > 0 {}
        io::Result::Ok(())
    });
    // Either way the connection is over.
    drop(drained.await);
}

/// Accepting failed: descriptors or memory are used up, or a peer left early.
#[derive(Default)]
struct AcceptTrouble {
    backoff: Duration,
    logged: Option<Instant>,
    unlogged: u64,
}

impl AcceptTrouble {
    async fn survive(&mut self, error: &io::Error, gate: &ConnectionGate) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        gate.count_accept_error();
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return;
        }
        self.unlogged += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= Duration::from_secs(1)) {
            warn!(%error, times = self.unlogged, open = gate.open(), "accepting a connection failed; trying again");
            self.logged = Some(Instant::now());
            self.unlogged = 0;
        }
        gate.shed_one();
        self.backoff = (self.backoff * 2).clamp(ACCEPT_BACKOFF.0, ACCEPT_BACKOFF.1);
        sleep(self.backoff).await;
    }
}

/// An answer's body that tells the watch when it is over.
struct Tracked {
    body: ReplyBody,
    in_flight: InFlight,
    is_http2: bool,
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let polled = match &mut this.body {
            ReplyBody::Whole(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
            }
            ReplyBody::Stream(body) => Pin::new(body).poll_frame(cx),
        };
        if this.is_http2 {
            this.in_flight.owe(polled.is_ready());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            ReplyBody::Whole(body) => body.is_end_stream(),
            ReplyBody::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            ReplyBody::Whole(body) => body.size_hint(),
            ReplyBody::Stream(body) => body.size_hint(),
        }
    }
}

impl<T: Into<Bytes>> From<T> for ReplyBody {
    fn from(bytes: T) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn f_accepting_that_fails_is_tried_again_ever_more_slowly() {
        let gate = ConnectionGate::new(8);
        let mut trouble = AcceptTrouble::default();
        let used_up = io::Error::from_raw_os_error(24);
        let mut waited = Vec::new();
        for _ in 0..8 {
            let before = Instant::now();
            trouble.survive(&used_up, &gate).await;
            waited.push(before.elapsed().as_millis());
        }
        assert_eq!(waited, [20, 40, 80, 160, 320, 640, 1000, 1000]);
        let before = Instant::now();
        trouble.survive(&io::ErrorKind::ConnectionAborted.into(), &gate).await;
        assert_eq!((before.elapsed(), gate.accept_errors()), (Duration::ZERO, 9), "a peer that left is none of ours");
    }
}
