//! Large answers on their way to clients. Owns what they may take together while their clients don't take them.
//!
//! Invariant: the bytes of large answers that are made and not yet handed to the kernel keep to `limits::ANSWERS_BYTES_MAX`,
//! however many clients ask and don't read. How long one client may take is `wire`'s to know.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Response;
use http_body::Body as _;
use http_body_util::Full;

use super::server::{Reply, ReplyBody};
use crate::limits::{ANSWER_SMALL, ANSWERS_BYTES_MAX};

/// What all of them take now.
#[derive(Default)]
pub struct Answers(Arc<AtomicUsize>);

/// The bytes of one, counted until the last of them is gone.
struct Held {
    bytes: Bytes,
    all: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Answers {
    /// Counts an answer; `None` when there is no room for it now.
    #[must_use]
    pub fn hold(&self, reply: Reply) -> Option<Reply> {
        let (parts, body) = reply.into_parts();
        let body = match body {
            ReplyBody::Whole(whole) if whole.size_hint().lower() > ANSWER_SMALL as u64 => {
                let held = Held { bytes: taken(whole), all: self.0.clone() };
                let before = self.0.fetch_add(held.bytes.len(), Ordering::Relaxed);
                if before > 0 && before.saturating_add(held.bytes.len()) > ANSWERS_BYTES_MAX {
                    return None;
                }
                ReplyBody::from(Bytes::from_owner(held))
            }
            other => other,
        };
        Some(Response::from_parts(parts, body))
    }
}

/// What is in it: such a body is ready at once, and one frame.
fn taken(mut whole: Full<Bytes>) -> Bytes {
    match Pin::new(&mut whole).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::http::reply;

    fn reply(bytes: usize) -> Reply {
        reply::whole(StatusCode::OK, "text/plain", vec![7; bytes])
    }

    #[test]
    fn large_answers_keep_to_what_they_may_take_and_give_it_back() {
        let answers = Answers::default();
        let largest = answers.hold(reply(ANSWERS_BYTES_MAX * 2)).unwrap();
        assert!(answers.hold(reply(ANSWER_SMALL + 1)).is_none(), "one too large for all of it goes alone");
        assert!(answers.hold(reply(ANSWER_SMALL)).is_some(), "small ones always find room");
        let ReplyBody::Whole(body) = largest.into_body() else { panic!("a stream") };
        let bytes = taken(body);
        assert!(bytes.len() == ANSWERS_BYTES_MAX * 2 && bytes.iter().all(|byte| *byte == 7));
        let part = bytes.slice(..1);
        drop(bytes);
        assert!(answers.hold(reply(ANSWER_SMALL + 1)).is_none(), "some of it is not sent yet");
        drop(part);
        let all: Vec<_> = (0..4).map(|_| answers.hold(reply(ANSWERS_BYTES_MAX / 4))).collect();
        assert!(all.iter().all(Option::is_some) && answers.hold(reply(ANSWER_SMALL + 1)).is_none());
        drop(all);
        assert_eq!(answers.0.load(Ordering::Relaxed), 0);
    }
}
