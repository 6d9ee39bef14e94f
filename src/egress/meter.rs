//! How much a receiver may say. Owns the allowance of a connection: each exchange adds to it, every byte that is read takes from
//! it, and a connection that has none left is broken.
//!
//! hyper bounds heads and headers, `answer` what is read of a body. What neither sees is what may come before an answer and beside
//! it: interim answers (1xx) without end over HTTP/1.1, settings and pings over HTTP/2. Taking those in until the deadline would
//! cost a worker's time, and so everybody's deliveries.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::{EXCHANGE_BYTES_MAX, EXCHANGES_BYTES_MAX};

/// What is left of a connection's allowance, in bytes.
pub(super) struct Meter(AtomicUsize);

impl Meter {
    /// Room for what comes before the first exchange.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(EXCHANGE_BYTES_MAX)))
    }

    /// Adds what one exchange may take. What earlier ones left over counts up to a bound.
    pub(super) fn grant(&self) {
        let add = |left: usize| Some((left + EXCHANGE_BYTES_MAX).min(EXCHANGES_BYTES_MAX));
        // Never fails: the closure always has a value.
        let _ = self.0.fetch_update(Relaxed, Relaxed, add);
    }

    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// A stream that stops reading when its meter says so.
pub(super) struct Metered<I> {
    io: I,
    meter: Arc<Meter>,
}

impl<I> Metered<I> {
    pub(super) fn new(io: I, meter: Arc<Meter>) -> Self {
        Self { io, meter }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Metered<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buffer);
        if this.meter.take(buffer.filled().len() - before) {
            return polled;
        }
        Poll::Ready(Err(io::Error::other("the receiver sent more than an answer may have")))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Metered<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
