//! The access log: one line for each request, in one schema. Owns what stands there, and that nothing secret does: the route's
//! pattern and never the path or the query as they were sent, ids and never tokens.

use std::time::Instant;

use http::Method;
use http_body::Body as _;

use super::route::Route;
use super::server::{Peer, Reply, ReplyBody};
use crate::model::id::{KeyId, TenantNo};
use crate::service::Service;

/// The target of its lines: written whatever `log.level` says, where `log.access` is on.
pub const TARGET: &str = "access";

/// What is found out of a request while it is answered.
#[derive(Default)]
pub struct Seen {
    pub route: Option<&'static Route>,
    pub key: Option<KeyId>,
    /// Whose own the key is.
    pub tenant: Option<TenantNo>,
}

/// A request that began.
pub struct Begun {
    pub at: Instant,
    pub method: Method,
    pub peer: Peer,
}

impl Begun {
    /// Writes the line of a request that is answered. Of a stream the length is not known: it is written when it begins.
    pub fn write(&self, id: &[u8], seen: &Seen, reply: &Reply, service: &Service) {
        let bytes = match reply.body() {
            ReplyBody::Whole(body) => body.size_hint().exact(),
            ReplyBody::Stream(_) => None,
        };
        let tenant = seen.tenant.and_then(|no| service.tenant_no(no));
        tracing::info!(
            target: TARGET,
            request = str::from_utf8(id).unwrap_or_default(),
            peer = self.peer.addr.map(tracing::field::display),
            // Of what is no method the text is the client's.
            method = if seen.route.is_some() { self.method.as_str() } else { known(&self.method) },
            route = seen.route.map(|route| route.path),
            status = reply.status().as_u16(),
            bytes,
            duration_us = u64::try_from(self.at.elapsed().as_micros()).unwrap_or(u64::MAX),
            tenant = tenant.as_ref().map(|tenant| tenant.id.as_str()),
            key = seen.key.map(tracing::field::display),
            "request"
        );
    }
}

fn known(method: &Method) -> &str {
    let all = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    if all.contains(method) { method.as_str() } else { "other" }
}
