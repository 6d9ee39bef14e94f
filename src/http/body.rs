//! Reads the body of a request, within a size, a time, and what all bodies together may take.
//!
//! Invariant: never more than the limit (and the frame that passes it) is held, a length over the limit is refused before
//! the peer is told to go on, and what is returned is complete. All bodies that are being read or held, until their requests
//! are answered, keep to one [`Budget`]: what counts is what came, not what was announced, so that who announces much and
//! sends nothing takes nothing from others. What a body means is left to the dialects.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt as _;
use thiserror::Error;
use tokio::time::timeout;

use crate::limits::{REQUEST_BODIES_BYTES_MAX, REQUEST_BODY_SMALL, SLICED_FROM, SLOW_BODY_AFTER, SLOW_BODY_LOOK_EVERY};
use crate::metrics::RequestBodies;

/// When a client that was turned away for want of room may come again.
const RETRY_AFTER_S: u64 = 1;

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    #[error("the body is larger than {max} bytes")]
    TooLarge { max: usize },
    #[error("the body did not arrive in time")]
    Late,
    #[error("the body ended early or was malformed")]
    Broken,
    #[error("the bodies of other requests leave no room for this one now; try again")]
    Overloaded,
}

impl BodyError {
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "payload_too_large",
            Self::Late => "request_timeout",
            Self::Broken => "bad_request",
            Self::Overloaded => "overloaded",
        }
    }

    /// Whether to answer with `Connection: close`: always, the rest of the body is still on its way.
    #[must_use]
    pub fn close(self) -> bool {
        true
    }

    /// When it may be worth sending it again.
    #[must_use]
    pub fn retry_after_s(self) -> Option<u64> {
        (self == Self::Overloaded).then_some(RETRY_AFTER_S)
    }
}

/// What the bodies of all requests may take together.
///
/// Small bodies find room where large ones don't: a quarter is kept for them. And when half is taken, bodies that are slow to
/// come are given up: otherwise a few that never end would turn everybody away.
#[derive(Default)]
pub struct Budget {
    shown: RequestBodies,
}

impl Budget {
    /// What is taken is counted in `shown`, and the gauge there is the count.
    #[must_use]
    pub fn new(shown: RequestBodies) -> Self {
        Self { shown }
    }

    /// A body's part of it, nothing yet. `body_max`: the largest body that there may be; two of them fit, whatever it is.
    #[must_use]
    pub fn part(&self, body_max: usize) -> Part<'_> {
        Part { budget: self, total: REQUEST_BODIES_BYTES_MAX.max(body_max.saturating_mul(2)), bytes: 0 }
    }

    fn held(&self) -> usize {
        usize::try_from(self.shown.held.get()).unwrap_or(0)
    }
}

/// What one body takes; given back on drop.
pub struct Part<'a> {
    budget: &'a Budget,
    total: usize,
    bytes: usize,
}

impl Part<'_> {
    /// How much may be taken in all by the time that a body of this size is there.
    fn room(&self, bytes: usize) -> usize {
        if bytes <= REQUEST_BODY_SMALL { self.total } else { self.total / 4 * 3 }
    }

    /// Whether a body of this length would fit now; takes nothing.
    fn admit(&self, announced: Option<u64>) -> Result<(), BodyError> {
        let announced = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        if self.budget.held().saturating_add(announced) > self.room(announced) {
            return Err(self.refuse());
        }
        Ok(())
    }

    fn grow(&mut self, by: usize) -> Result<(), BodyError> {
        let (bytes, held) = (self.bytes + by, &self.budget.shown.held);
        let before = held.inc_by(signed(by));
        self.bytes = bytes;
        if before.saturating_add(signed(by)) > signed(self.room(bytes)) {
            return Err(self.refuse());
        }
        Ok(())
    }

    fn is_scarce(&self) -> bool {
        self.budget.held() > self.total / 2
    }

    fn refuse(&self) -> BodyError {
        self.budget.shown.refused.inc();
        BodyError::Overloaded
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.shown.held.dec_by(signed(self.bytes));
        }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A whole body, and its part of the budget for as long as it is kept.
#[derive(Default)]
pub struct Held<'a> {
    pub bytes: Bytes,
    _part: Option<Part<'a>>,
}

/// Reads a body of at most `max` bytes within `limit`. `content_length` is what the headers announced. A body in one frame
/// is returned as it is, without a copy: it is then a part of the connection's read buffer, and keeps that alive.
///
/// # Errors
/// 413 for too much, 408 for too late, 400 for a body that is not whole, 503 when there is no room for it.
pub async fn read_body<B>(
    body: B,
    content_length: Option<u64>,
    max: usize,
    limit: Duration,
    part: Part<'_>,
) -> Result<Held<'_>, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    if content_length.is_some_and(|length| length > max as u64) {
        return Err(BodyError::TooLarge { max });
    }
    if body.is_end_stream() {
        return Ok(Held::default());
    }
    part.admit(content_length)?;
    let announced = content_length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
    let mut reading = Reading { body, max, announced, first: Bytes::new(), rest: Vec::new(), part };
    // Most are there already, and need no timer.
    if let Poll::Ready(read) = poll_fn(|cx| Poll::Ready(pin!(reading.read_on()).poll(cx))).await {
        return read.map(|()| reading.whole());
    }
    let (mut left, mut turn) = (limit, SLOW_BODY_AFTER);
    loop {
        turn = turn.min(left);
        if let Ok(read) = timeout(turn, reading.read_on()).await {
            return read.map(|()| reading.whole());
        }
        left -= turn;
        if left.is_zero() {
            return Err(BodyError::Late);
        }
        if reading.part.is_scarce() {
            return Err(reading.part.refuse());
        }
        turn = SLOW_BODY_LOOK_EVERY;
    }
}

/// A body as far as it has come.
struct Reading<'a, B> {
    body: B,
    max: usize,
    announced: usize,
    first: Bytes,
    rest: Vec<u8>,
    part: Part<'a>,
}

impl<'a, B: Body<Data = Bytes> + Unpin> Reading<'a, B> {
    /// Reads to the end. Can be dropped and called again.
    async fn read_on(&mut self) -> Result<(), BodyError> {
        while let Some(frame) = self.body.frame().await {
            let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
            if data.len() > self.max - self.first.len().max(self.rest.len()) {
                return Err(BodyError::TooLarge { max: self.max });
            }
            self.part.grow(data.len())?;
            if self.first.is_empty() && self.rest.is_empty() {
                self.first = data;
                continue;
            }
            self.make_room(data.len());
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
            self.rest.extend_from_slice(&data);
        }
        Ok(())
    }

    /// Twice what came at most, whatever was announced: memory is for those who send. Where that is enough for all of it, exactly
    /// that: the last part is then not the first that is copied once more.
    fn make_room(&mut self, more: usize) {
        let came = self.first.len() + self.rest.len() + more;
        if came > self.rest.capacity() {
            let wanted = self.announced.clamp(came, 2 * came);
            self.rest.reserve_exact(wanted - self.rest.len());
        }
    }

    fn whole(mut self) -> Held<'a> {
        let bytes = self.rest.len();
        if bytes >= SLICED_FROM && self.rest.capacity() - bytes > bytes / 4 {
            // An event may be a slice of it and stay for long.
            self.rest.shrink_to_fit();
        }
        let bytes = if self.rest.is_empty() { self.first } else { self.rest.into() };
        Held { bytes, _part: Some(self.part) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use std::pin::Pin;
    use std::task::Context;

    /// Frames in a row; `None` is a break.
    struct Frames(Vec<Option<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = ();

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, ()>>> {
            if self.0.is_empty() {
                return Poll::Ready(None);
            }
            Poll::Ready(Some(self.0.remove(0).map(http_body::Frame::data).ok_or(())))
        }
    }

    struct Never;

    impl Body for Never {
        type Data = Bytes;
        type Error = ();

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, ()>>> {
            Poll::Pending
        }
    }

    const LIMIT: Duration = Duration::from_millis(50);

    fn frames(parts: &[&'static str]) -> Frames {
        Frames(parts.iter().map(|part| Some(Bytes::from_static(part.as_bytes()))).collect())
    }

    async fn read<B>(body: B, length: Option<u64>) -> Result<Bytes, BodyError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let budget = Budget::default();
        let read = read_body(body, length, 5, LIMIT, budget.part(5)).await.map(|held| held.bytes);
        assert_eq!(budget.held(), 0, "all is given back");
        read
    }

    #[tokio::test]
    async fn one_frame_is_not_copied() {
        let bytes = Bytes::from_static(b"hello");
        assert_eq!(read(Full::new(bytes.clone()), Some(5)).await.unwrap().as_ptr(), bytes.as_ptr());
        assert_eq!(read(Full::new(Bytes::new()), None).await, Ok(Bytes::new()));
    }

    #[tokio::test]
    async fn frames_are_joined_up_to_the_limit() {
        assert_eq!(read(frames(&["a", "bc", "", "de"]), None).await.unwrap(), "abcde");
        assert_eq!(read(frames(&["a", "bc", "def"]), None).await, Err(BodyError::TooLarge { max: 5 }));
        assert_eq!(read(frames(&["abcdef"]), None).await, Err(BodyError::TooLarge { max: 5 }));
    }

    #[tokio::test]
    async fn memory_is_for_what_came_and_exact_where_the_end_is_in_sight() {
        for (announced, wanted) in [(100, 100), (1_000, 200), (usize::MAX, 200)] {
            let budget = Budget::default();
            let body = Frames(vec![Some(Bytes::from_static(&[1; 20])); 5]);
            let part = budget.part(0);
            let mut reading = Reading { body, max: 1_000, announced, first: Bytes::new(), rest: Vec::new(), part };
            reading.read_on().await.unwrap();
            assert_eq!((reading.rest.len(), reading.rest.capacity()), (100, wanted), "{announced} announced");
        }
    }

    #[tokio::test]
    async fn an_announced_length_is_refused_unread() {
        assert_eq!(read(Frames(vec![None]), Some(6)).await, Err(BodyError::TooLarge { max: 5 }));
    }

    #[tokio::test]
    async fn broken_and_late_bodies_are_refused() {
        assert_eq!(read(Frames(vec![None]), None).await, Err(BodyError::Broken));
        assert_eq!(read(Never, None).await, Err(BodyError::Late));
    }

    const MIB: usize = 1 << 20;

    /// Reads a body of so many bytes, in frames as they come from a socket.
    async fn hold(budget: &Budget, bytes: usize) -> Result<Held<'_>, BodyError> {
        let frame = Bytes::from(vec![b'x'; REQUEST_BODY_SMALL.min(bytes)]);
        let parts = (0..bytes / frame.len()).map(|_| Some(frame.clone())).collect();
        read_body(Frames(parts), None, bytes, LIMIT, budget.part(8 * MIB)).await
    }

    #[tokio::test]
    async fn bodies_share_what_there_is_and_small_ones_find_a_quarter() {
        let (budget, max) = (Budget::default(), REQUEST_BODIES_BYTES_MAX);
        let mut held = Vec::new();
        let refused = loop {
            match hold(&budget, 4 * MIB).await {
                Ok(body) => held.push(body),
                Err(error) => break error,
            }
        };
        assert_eq!((refused, refused.retry_after_s()), (BodyError::Overloaded, Some(1)));
        assert_eq!(
            (budget.held(), held.len()),
            (max / 4 * 3, max / 4 * 3 / (4 * MIB)),
            "none of the refused one stays"
        );
        while let Ok(small) = hold(&budget, REQUEST_BODY_SMALL).await {
            held.push(small);
        }
        assert_eq!(budget.held(), max, "small ones find what large ones don't, and no more");
        // One that is gone makes room for another.
        held.truncate(held.len() - 1);
        held.push(hold(&budget, REQUEST_BODY_SMALL).await.expect("room"));
        drop(held);
        assert_eq!(budget.held(), 0);
        assert!(hold(&budget, 4 * MIB).await.is_ok());
        assert_eq!(budget.shown.refused.get(), 2);
    }

    #[tokio::test]
    async fn what_is_announced_takes_nothing_and_is_not_begun_without_room() {
        let (budget, max) = (Budget::default(), REQUEST_BODIES_BYTES_MAX);
        let mut slow = Box::pin(read_body(Never, Some(8 << 20), 8 * MIB, LIMIT, budget.part(8 * MIB)));
        assert!(std::future::poll_fn(|context| Poll::Ready(slow.as_mut().poll(context).is_pending())).await);
        assert_eq!(budget.held(), 0, "who announces and sends nothing takes nothing");
        let half = hold(&budget, max / 2).await;
        assert!(half.is_ok());
        // Not one frame is taken: it would be a broken one.
        let (part, announced) = (budget.part(8 * MIB), u64::try_from(max / 2).unwrap());
        let refused = read_body(Frames(vec![None]), Some(announced), max, LIMIT, part).await.err();
        assert_eq!(refused, Some(BodyError::Overloaded));
    }

    #[tokio::test]
    async fn two_of_the_largest_bodies_fit_whatever_is_configured() {
        let (budget, large) = (Budget::default(), 256 * MIB);
        let part = || budget.part(large);
        let mut one = part();
        one.grow(large).unwrap();
        assert_eq!(part().grow(large / 2), Ok(()), "half of the next one may be on its way");
        assert_eq!(part().grow(large), Err(BodyError::Overloaded));
        drop(one);
        assert_eq!(budget.held(), 0);
    }

    /// One frame, and then nothing for ever.
    struct Stalled(Option<Bytes>);

    impl Body for Stalled {
        type Data = Bytes;
        type Error = ();

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, ()>>> {
            self.0.take().map_or(Poll::Pending, |frame| Poll::Ready(Some(Ok(http_body::Frame::data(frame)))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_are_given_up_when_half_is_taken_and_not_before() {
        let (budget, max) = (Budget::default(), REQUEST_BODIES_BYTES_MAX);
        let limit = SLOW_BODY_AFTER * 5;
        let stall = |bytes: usize| {
            let body = Stalled(Some(Bytes::from(vec![b'x'; bytes])));
            read_body(body, None, max, limit, budget.part(8 * MIB))
        };
        let started = tokio::time::Instant::now();
        assert_eq!(stall(max / 4).await.err(), Some(BodyError::Late), "with room enough each has its time");
        // A timer may ring a millisecond late, each time.
        let (moment, first) = (Duration::from_millis(100), started.elapsed());
        assert!(first >= limit && first < limit + moment, "{first:?}");
        let timed = || async { (stall(max / 8 * 3).await.err(), started.elapsed() - first) };
        let (one, other) = tokio::join!(timed(), timed());
        let (early, late) = if one.1 < other.1 { (one, other) } else { (other, one) };
        assert_eq!((early.0, late.0), (Some(BodyError::Overloaded), Some(BodyError::Late)), "one is enough");
        assert!(early.1 >= SLOW_BODY_AFTER && early.1 < SLOW_BODY_AFTER + moment, "{early:?}");
    }
}
