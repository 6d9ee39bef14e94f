//! Who asks. The only maker of a `Caller`: nothing reaches the service without one.
//!
//! Three forms (contract §2): a bearer token; a token in `X-API-Key`; Vibe's signed form, where `X-API-Key` is a key's id
//! and `X-Signature` an HMAC over method, path, body and time. Every credential that does not open gets the same answer.

use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::hygiene;
use super::problem::Problem;
use super::query::Query;
use super::route::Access;
use super::server::Peer;
use crate::limits::SIGNATURE_TOLERANCE_S;
use crate::model::id::{KeyId, TenantNo};
use crate::model::key::{Key, Role};
use crate::service::publish::Publisher;
use crate::service::{Error, Service};
use crate::store::op::Mark;

/// A token longer than this is none of ours.
const TOKEN_BYTES_MAX: usize = 256;
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const SIGNATURE: HeaderName = HeaderName::from_static("x-signature");
const TIMESTAMP: HeaderName = HeaderName::from_static("x-timestamp");

/// Someone who was recognised.
pub struct Caller {
    role: Role,
    /// `None`: whoever may open the admin socket.
    key: Option<Arc<Key>>,
}

/// What a request shows to be recognised by.
pub enum Credentials<'a> {
    None,
    Token(&'a str),
    Signed(Signed<'a>),
    /// Two at once, or one that is not to be read.
    Doubtful,
}

/// Vibe's signed form.
pub struct Signed<'a> {
    key: KeyId,
    /// As it was sent, which is what was signed.
    timestamp: &'a str,
    timestamp_s: u64,
    signature: [u8; 32],
}

impl Signed<'_> {
    /// What tells this request from every other one that is signed.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let digest = Sha256::new().chain_update(self.key.0).chain_update(self.signature).finalize();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Mark { minute: u32::try_from(self.timestamp_s / 60).unwrap_or(u32::MAX), hash }
    }
}

impl Caller {
    /// The caller on the admin socket: being able to open it is the right.
    pub(super) fn of_socket() -> Self {
        Self { role: Role::Admin, key: None }
    }

    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The key that was shown, if it was one.
    #[must_use]
    pub fn key(&self) -> Option<KeyId> {
        self.key.as_ref().map(|key| key.id)
    }

    /// The tenant whose own the key is, if it is one's.
    #[must_use]
    pub fn own_tenant(&self) -> Option<TenantNo> {
        self.key.as_ref().and_then(|key| key.tenant)
    }

    /// Whether the caller's role is among those of a route.
    ///
    /// # Errors
    /// 403.
    pub fn check(&self, access: Access) -> Result<(), Problem> {
        let publishes = self.key.as_ref().is_some_and(|key| key.publish);
        let allowed = match (access, self.role) {
            (Access::Open | Access::Any, _) | (_, Role::Admin) => true,
            (Access::Publish, Role::Publisher) | (Access::Tenant, Role::Tenant) => true,
            (Access::Publish, Role::Tenant) => publishes,
            (Access::Tenant, Role::Publisher) | (Access::Admin, Role::Publisher | Role::Tenant) => false,
        };
        allowed.then_some(()).ok_or_else(|| Problem::forbidden("this key may not do that"))
    }

    /// Whose events the caller may publish.
    ///
    /// # Errors
    /// 403.
    pub fn publisher(&self) -> Result<Publisher, Problem> {
        self.check(Access::Publish)?;
        Ok(match self.own_tenant() {
            Some(tenant) if self.role == Role::Tenant => Publisher::Tenant(tenant),
            _ => Publisher::Any,
        })
    }

    /// The tenant that the request is about: the key's own, or the one that an admin names with `?tenant=`.
    ///
    /// # Errors
    /// 422 when an admin names none, or one that is unknown; 403 when a tenant names another.
    pub fn tenant(&self, service: &Service, query: &Query<'_>) -> Result<TenantNo, Problem> {
        let named = query.one("tenant")?;
        match self.own_tenant() {
            Some(own) if self.role == Role::Tenant => {
                let is_own = |named| service.tenant_no(own).is_some_and(|tenant| tenant.id.as_str() == named);
                if named.is_some_and(|named| !is_own(named)) {
                    return Err(Problem::forbidden("this key is for its own tenant only"));
                }
                Ok(own)
            }
            _ => match named {
                Some(named) => Ok(service.tenant(named).map_err(|error: Error| Problem::from(error))?.no),
                None => Err(Problem::invalid("tenant is required: name it with ?tenant=")),
            },
        }
    }
}

/// Finds out what a request shows.
pub fn credentials(headers: &HeaderMap) -> Credentials<'_> {
    let authorization = single(headers, AUTHORIZATION);
    let api_key = single(headers, API_KEY);
    let signature = single(headers, SIGNATURE);
    match (authorization, api_key, signature) {
        (Ok(None), Ok(None), Ok(None)) => Credentials::None,
        (Ok(Some(value)), Ok(None), Ok(None)) => bearer(value).map_or(Credentials::Doubtful, Credentials::Token),
        (Ok(None), Ok(Some(token)), Ok(None)) => Credentials::Token(token),
        (Ok(None), Ok(Some(key)), Ok(Some(signature))) => {
            signed(headers, key, signature).map_or(Credentials::Doubtful, Credentials::Signed)
        }
        _ => Credentials::Doubtful,
    }
}

/// Recognises a token.
///
/// # Errors
/// 401; 403 from an address that the key is not for.
pub fn by_token(service: &Service, token: &str, peer: &Peer) -> Result<Caller, Problem> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Problem::unauthorized());
    }
    admit(service, service.key_by_token(token), peer)
}

/// Whether a signed request is worth reading its body for: its key exists and its time is near.
///
/// # Errors
/// 401.
pub fn worth_reading(service: &Service, signed: &Signed<'_>) -> Result<(), Problem> {
    let near = signed.timestamp_s.abs_diff(service.clock().wall_ms() / 1_000) <= SIGNATURE_TOLERANCE_S;
    (near && service.key_by_id(signed.key).is_some()).then_some(()).ok_or_else(Problem::unauthorized)
}

/// Recognises a signed request. Whether it was accepted before is not looked at here.
///
/// # Errors
/// 401; 403 from an address that the key is not for.
pub fn by_signature(
    service: &Service,
    signed: &Signed<'_>,
    parts: &Parts,
    body: &[u8],
    peer: &Peer,
) -> Result<Caller, Problem> {
    worth_reading(service, signed)?;
    let key = service.key_by_id(signed.key).ok_or_else(Problem::unauthorized)?;
    let secret = key.secret_key.expose().as_bytes();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|_| Problem::unauthorized())?;
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    for part in [parts.method.as_str().as_bytes(), target.as_bytes(), body, signed.timestamp.as_bytes()] {
        mac.update(part);
    }
    mac.verify_slice(&signed.signature).map_err(|_| Problem::unauthorized())?;
    admit(service, Some(key), peer)
}

fn admit(service: &Service, key: Option<Arc<Key>>, peer: &Peer) -> Result<Caller, Problem> {
    let key = key.filter(|key| key.expires_ms.is_none_or(|expires| service.clock().wall_ms() < expires));
    let key = key.ok_or_else(Problem::unauthorized)?;
    let here = |peer: &Peer| peer.addr.is_some_and(|addr| key.cidrs.iter().any(|net| net.contains(&addr.ip())));
    if !key.cidrs.is_empty() && !here(peer) {
        return Err(Problem::forbidden("this key may not be used from this address"));
    }
    Ok(Caller { role: key.role, key: Some(key) })
}

/// A header's value, once and readable.
fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, ()> {
    let mut values = hygiene::values(headers, name);
    let first = values.next().map(HeaderValue::to_str).transpose().map_err(|_| ())?;
    if values.next().is_some() { Err(()) } else { Ok(first) }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn signed<'a>(headers: &'a HeaderMap, key: &str, signature: &str) -> Option<Signed<'a>> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(signature, &mut bytes).ok()?;
    let timestamp = single(headers, TIMESTAMP).ok()??;
    let digits = timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let timestamp_s = timestamp.parse().ok().filter(|_| digits)?;
    Some(Signed { key: KeyId::parse(key)?, timestamp, timestamp_s, signature: bytes })
}
