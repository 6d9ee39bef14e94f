//! Reads the body of a request, within a size and a time.
//!
//! Invariant: never more than the limit (and the frame that passes it) is held, a length over the limit is refused before
//! the peer is told to go on, and what is returned is complete. What a body means is left to the dialects.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt as _;
use thiserror::Error;
use tokio::time::timeout;

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    #[error("the body is larger than {max} bytes")]
    TooLarge { max: usize },
    #[error("the body did not arrive in time")]
    Late,
    #[error("the body ended early or was malformed")]
    Broken,
}

impl BodyError {
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }

    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "payload_too_large",
            Self::Late => "request_timeout",
            Self::Broken => "bad_request",
        }
    }

    /// Whether to answer with `Connection: close`: always, the rest of the body is still on its way.
    #[must_use]
    pub fn close(self) -> bool {
        true
    }
}

/// Reads a body of at most `max` bytes within `limit`. `content_length` is what the headers announced. A body in one frame
/// is returned as it is, without a copy: it is then a part of the connection's read buffer, and keeps that alive.
///
/// # Errors
/// 413 for too much, 408 for too late, 400 for a body that is not whole.
pub async fn read_body<B>(body: B, content_length: Option<u64>, max: usize, limit: Duration) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    if content_length.is_some_and(|length| length > max as u64) {
        return Err(BodyError::TooLarge { max });
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    timeout(limit, collect(body, content_length, max)).await.unwrap_or(Err(BodyError::Late))
}

async fn collect<B>(mut body: B, content_length: Option<u64>, max: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if data.len() > max - first.len().max(rest.len()) {
            return Err(BodyError::TooLarge { max });
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                let announced = content_length.and_then(|length| usize::try_from(length).ok());
                rest.reserve(announced.unwrap_or(0).max(first.len() + data.len()));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use std::pin::Pin;
    use std::task::{Context, Poll};

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

    #[tokio::test]
    async fn one_frame_is_not_copied() {
        let bytes = Bytes::from_static(b"hello");
        let read = read_body(Full::new(bytes.clone()), Some(5), 5, LIMIT).await.unwrap();
        assert_eq!(read.as_ptr(), bytes.as_ptr());
        assert_eq!(read_body(Full::new(Bytes::new()), None, 5, LIMIT).await, Ok(Bytes::new()));
    }

    #[tokio::test]
    async fn frames_are_joined_up_to_the_limit() {
        assert_eq!(read_body(frames(&["a", "bc", "", "d"]), None, 4, LIMIT).await.unwrap(), "abcd");
        assert_eq!(read_body(frames(&["a", "bc", "de"]), None, 4, LIMIT).await, Err(BodyError::TooLarge { max: 4 }));
        assert_eq!(read_body(frames(&["abcde"]), None, 4, LIMIT).await, Err(BodyError::TooLarge { max: 4 }));
    }

    #[tokio::test]
    async fn an_announced_length_is_refused_unread() {
        let refused = read_body(Frames(vec![None]), Some(6), 5, LIMIT).await;
        assert_eq!(refused, Err(BodyError::TooLarge { max: 5 }));
    }

    #[tokio::test]
    async fn broken_and_late_bodies_are_refused() {
        assert_eq!(read_body(Frames(vec![None]), None, 5, LIMIT).await, Err(BodyError::Broken));
        assert_eq!(read_body(Never, None, 5, LIMIT).await, Err(BodyError::Late));
    }
}
