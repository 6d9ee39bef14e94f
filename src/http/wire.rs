//! The bytes of one accepted connection, whatever it runs on, and a watch over what it is doing.
//!
//! Invariant: from a [`Watch`] it can be told at any time until when the connection may go on without a sign of life. hyper
//! has one time limit for a head, a silent and an idle connection alike, and sets a timer for each request; the watch has
//! one for each, and costs a request one clock reading. Acting on it is left to `server`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::framing::Framing;
use super::hygiene::Doubt;
use super::server::Limits;
use crate::limits::ANSWER_RATE_MIN;

/// What a listener hands over.
pub enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// A stream under watch.
pub struct Wire {
    stream: Stream,
    watch: Arc<Watch>,
    framing: Option<Framing>,
    ended: bool,
}

/// What a connection is doing. Written by its bytes and its requests, read by the task that drives it.
pub struct Watch {
    started: Instant,
    /// Requests that were handed to the handler.
    requests: AtomicU64,
    /// Requests whose answer isn't wholly handed to hyper yet.
    active: AtomicUsize,
    /// When the last answer was done.
    idle_since: AtomicU64,
    /// When the head that is under way began; [`NEVER`] when none is.
    head_since: AtomicU64,
    /// Since when the peer has taken nothing of what we have for it; [`NEVER`] when nothing waits.
    blocked_since: AtomicU64,
    /// How long it did so before, and how much it has taken, since it last had nothing to ask: who takes a little now and then
    /// has not for ever either.
    blocked_before: AtomicU64,
    taken: AtomicU64,
    /// Answers over HTTP/2 whose next bytes are there and that the peer has opened no window for, and when one last moved. The
    /// socket takes all that is written then, so that `blocked_since` sees nothing of it.
    owed: AtomicUsize,
    owed_since: AtomicU64,
    /// The first request that is in doubt; 0 when there was none.
    doubted: AtomicU64,
    /// Whether that is for a line feed without a carriage return.
    bare: AtomicBool,
    /// When we began to close it; [`NEVER`] until then.
    parting_since: AtomicU64,
}

const NEVER: u64 = u64::MAX;

/// A request that is being answered; over when the answer's body is dropped.
pub struct InFlight {
    watch: Arc<Watch>,
    owed: bool,
}

/// What to do when a connection's time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// It owes us something: drop it.
    Drop,
    /// It only has nothing to ask: say goodbye.
    Farewell,
}

impl Watch {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            requests: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(NEVER),
            blocked_since: AtomicU64::new(NEVER),
            blocked_before: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            owed: AtomicUsize::new(0),
            owed_since: AtomicU64::new(0),
            doubted: AtomicU64::new(0),
            bare: AtomicBool::new(false),
            parting_since: AtomicU64::new(NEVER),
        })
    }

    /// Notes that a request begins. Returns it with its number, from 1.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> (InFlight, u64) {
        if self.active.fetch_add(1, Relaxed) == 0 {
            self.blocked_before.store(0, Relaxed);
            self.taken.store(0, Relaxed);
        }
        let number = self.requests.fetch_add(1, Relaxed) + 1;
        (InFlight { watch: Arc::clone(self), owed: false }, number)
    }

    /// What there is in doubt about the request of that number.
    #[must_use]
    pub fn doubt(&self, number: u64) -> Option<Doubt> {
        let doubt = || if self.bare.load(Relaxed) { Doubt::BareLineFeed } else { Doubt::BothLengths };
        (self.doubted.load(Relaxed) == number).then(doubt)
    }

    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed) > 0
    }

    /// Until when the connection may go on as it is, and what happens then; `None` while we are at work for it.
    #[must_use]
    pub fn deadline(&self, limits: &Limits) -> Option<(Instant, Late)> {
        let at = |since: u64, limit: Duration| self.started + Duration::from_nanos(since) + limit;
        let blocked = self.blocked_since.load(Relaxed);
        if blocked != NEVER {
            return Some((at(blocked, self.patience(limits)), Late::Drop));
        }
        if self.owed.load(Relaxed) > 0 {
            return Some((at(self.owed_since.load(Relaxed), limits.body_timeout), Late::Drop));
        }
        if self.is_active() {
            return None;
        }
        let idle = self.idle_since.load(Relaxed);
        let parting = self.parting_since.load(Relaxed);
        if parting != NEVER {
            return Some((at(parting.max(idle), limits.header_timeout), Late::Drop));
        }
        let head = self.head_since.load(Relaxed);
        if head != NEVER {
            // A head that came while we were answering gets its whole time from then on.
            return Some((at(head.max(idle), limits.header_timeout), Late::Drop));
        }
        match self.requests() {
            0 => Some((at(0, limits.header_timeout), Late::Drop)),
            _ => Some((at(idle, limits.keep_alive_idle), Late::Farewell)),
        }
    }

    /// For how long a peer may now take nothing: the whole limit, less as it takes less than it has to on average.
    fn patience(&self, limits: &Limits) -> Duration {
        let earned = Duration::from_millis(self.taken.load(Relaxed).saturating_mul(1_000) / ANSWER_RATE_MIN);
        let used = Duration::from_nanos(self.blocked_before.load(Relaxed));
        (limits.body_timeout + earned).saturating_sub(used).min(limits.body_timeout)
    }

    /// Notes that goodbye was said.
    pub fn part(&self) {
        self.parting_since.store(self.now(), Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(NEVER - 1)
    }

    fn note_head(&self, framing: &Framing) {
        match (framing.in_head(), self.head_since.load(Relaxed) == NEVER) {
            (true, true) => self.head_since.store(self.now(), Relaxed),
            (false, false) => self.head_since.store(NEVER, Relaxed),
            _ => {}
        }
        if let Some((number, doubt)) = framing.doubt() {
            self.bare.store(doubt == Doubt::BareLineFeed, Relaxed);
            self.doubted.store(number, Relaxed);
        }
    }

    fn note_progress<T>(&self, written: &Poll<T>) {
        let since = self.blocked_since.load(Relaxed);
        match (written.is_pending(), since != NEVER) {
            (true, false) => self.blocked_since.store(self.now(), Relaxed),
            (false, true) => {
                self.blocked_before.fetch_add(self.now().saturating_sub(since), Relaxed);
                self.blocked_since.store(NEVER, Relaxed);
            }
            _ => {}
        }
    }

    fn note_written(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.taken.fetch_add(*bytes as u64, Relaxed);
        }
        self.note_progress(written);
    }
}

impl InFlight {
    /// Notes whether it is the peer's turn to take more of the answer, or ours to have more of it.
    pub fn owe(&mut self, owed: bool) {
        if owed {
            self.watch.owed_since.store(self.watch.now(), Relaxed);
        }
        match (self.owed, owed) {
            (false, true) => _ = self.watch.owed.fetch_add(1, Relaxed),
            (true, false) => _ = self.watch.owed.fetch_sub(1, Relaxed),
            _ => {}
        }
        self.owed = owed;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.owed {
            self.owe(true);
            self.owe(false);
        }
        self.watch.idle_since.store(self.watch.now(), Relaxed);
        self.watch.active.fetch_sub(1, Relaxed);
    }
}

impl Wire {
    /// `http1`: whether to follow the messages in the bytes.
    #[must_use]
    pub fn new(stream: Stream, watch: Arc<Watch>, http1: bool) -> Self {
        Self { stream, watch, framing: http1.then(Framing::default), ended: false }
    }

    /// Whether the peer may still be sending what nobody reads. Closing then would reset the connection, and the answer that
    /// says why may be lost with it.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        !self.ended && self.framing.as_ref().is_some_and(|framing| !framing.at_rest())
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if polled.is_ready() {
            let bytes = &buffer.filled()[before..];
            this.ended |= bytes.is_empty();
            if let Some(framing) = &mut this.framing {
                framing.feed(bytes);
                this.watch.note_head(framing);
            }
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        this.watch.note_written(&polled);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        };
        this.watch.note_written(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        };
        this.watch.note_progress(&polled);
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        this.watch.note_progress(&polled);
        polled
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// For how long a peer that takes so many bytes every 25 s is waited for, at most 2,000 s.
    async fn waited_for(bytes: usize) -> Duration {
        let (watch, limits) = (Watch::new(), Limits::default());
        let (_in_flight, _) = watch.begin();
        let begun = Instant::now();
        watch.note_written(&Poll::Pending);
        while begun.elapsed() < Duration::from_secs(2_000) {
            let (due, late) = watch.deadline(&limits).unwrap();
            assert_eq!(late, Late::Drop);
            if due <= Instant::now() + Duration::from_secs(25) {
                return due - begun;
            }
            advance(Duration::from_secs(25)).await;
            watch.note_written(&Poll::Ready(Ok(bytes)));
            watch.note_written(&Poll::Pending);
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_an_answer_in_drops_is_not_waited_for_for_ever() {
        let rate = usize::try_from(ANSWER_RATE_MIN).unwrap();
        assert_eq!(waited_for(1).await, Duration::from_secs(30));
        let half = waited_for(rate * 25 / 2).await;
        assert!((30..120).contains(&half.as_secs()), "{half:?}");
        assert!(waited_for(rate * 25).await >= Duration::from_secs(2_000), "who takes enough may go on");
        // Another request of the same connection begins anew.
        let (watch, limits) = (Watch::new(), Limits::default());
        for _ in 0..3 {
            let (in_flight, _) = watch.begin();
            watch.note_written(&Poll::Pending);
            assert_eq!(watch.deadline(&limits).unwrap().0, Instant::now() + limits.body_timeout);
            advance(Duration::from_secs(29)).await;
            watch.note_written(&Poll::Ready(Ok(1)));
            drop(in_flight);
        }
    }
}
