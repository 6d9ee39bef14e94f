//! `POST /admin/backup`: a copy of the store, streamed while it serves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;

use super::call::Call;
use super::problem::Problem;
use super::server::{Reply, ReplyBody};
use crate::service::backup::Pieces;

/// `POST /admin/backup`
pub async fn backup(call: &Call<'_>) -> Result<Reply, Problem> {
    let pieces = call.service.backup(call.asker).await?;
    let mut reply = Response::new(ReplyBody::Stream(UnsyncBoxBody::new(Stream(pieces))));
    *reply.status_mut() = StatusCode::OK;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(reply)
}

/// Pieces as a body: one that ends with an error is cut off, and seen to be.
struct Stream(Pieces);

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
