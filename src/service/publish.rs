//! Publishing. Owns the rules on events that are not the store's: who may publish for whom, types, rates, sizes.
//!
//! Invariant: what is returned is durable (a `Receipt` comes from the writer after its commit), and a refusal leaves nothing
//! behind, no idempotency record either.

use std::borrow::Cow;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::error::{Error, invalid_field, shown, unknown_tenant};
use super::{Asker, Service, Settings};
use crate::catalogue::EventType;
use crate::limits::{BATCH_EVENTS_MAX, IDEMPOTENCY_KEY_MAX, JSON_DEPTH_MAX, ORDERING_KEY_MAX, SLICED_FROM};
use crate::model::event::{OPERATOR, RESERVED_PREFIX, is_event_type};
use crate::model::id::{BROADCAST, KeyId, TenantNo};
use crate::render::{depth_ok, opens};
use crate::store::op::{Accept, Done, Draft, Idempotency, Op, Receipt};
use crate::store::registry::Registry;

/// Whose events a caller may publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// Anybody's, and broadcasts.
    Any,
    /// One tenant's own.
    Tenant(TenantNo),
}

/// An event as it was asked for. `data`, `context` and `user` are the text of JSON objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Publish<'a> {
    pub kind: Cow<'a, str>,
    /// `*` for everybody's.
    pub tenant: Option<Cow<'a, str>>,
    pub created_us: Option<u64>,
    pub ordering_key: Option<Cow<'a, str>>,
    pub data: Option<&'a str>,
    pub context: Option<&'a str>,
    pub user: Option<&'a str>,
}

/// One request to publish.
pub struct Request<'a> {
    pub by: Publisher,
    /// What is charged for it; `None`: nothing is.
    pub key: Option<KeyId>,
    pub idempotency_key: Option<&'a [u8]>,
    /// As it was sent: what a repetition must equal.
    pub body: &'a Bytes,
    pub batch: bool,
    pub events: Vec<Publish<'a>>,
    pub asker: &'a Asker,
}

impl Request<'_> {
    /// Whether the body nests no deeper than it may. Most bodies are cleared by counting, at a fraction of the scan's time: where
    /// nothing opens outside the events' parts but what holds them, only their own depth counts, which is less than what they open.
    fn is_shallow(&self) -> bool {
        let mut outside = opens(self.body);
        if outside <= JSON_DEPTH_MAX {
            return true;
        }
        let (around, mut most) = (if self.batch { 3 } else { 1 }, 0);
        for part in self.events.iter().flat_map(|event| [event.data, event.context, event.user]).flatten() {
            let within = opens(part.as_bytes());
            outside = outside.saturating_sub(within);
            most = most.max(within);
        }
        let holders = self.events.len() + around - 1;
        (outside == holders && most + around <= JSON_DEPTH_MAX) || depth_ok(self.body, JSON_DEPTH_MAX)
    }
}

impl Service {
    /// Accepts all events of the request, or none.
    ///
    /// # Errors
    /// Whatever rule the request breaks, or that the store can't say that it is durable.
    pub async fn publish(&self, request: Request<'_>) -> Result<Receipt, Error> {
        if let Some(full) = self.is_full() {
            return Err(full.into());
        }
        let accept = {
            let settings = self.settings();
            if !request.is_shallow() {
                return Err(Error::Malformed("the body is nested deeper than 128 levels"));
            }
            if !(1..=BATCH_EVENTS_MAX).contains(&request.events.len()) {
                return Err(invalid_field("events must hold 1 to 1000 events"));
            }
            let idempotency = idempotency(&request)?;
            let now_us = self.clock.wall_us();
            let drafts = {
                let registry = self.store.shared().registry();
                let mut drafting = Drafting::new(&settings, &registry, &request, now_us);
                let mut drafts = Vec::with_capacity(request.events.len());
                for (i, event) in request.events.iter().enumerate() {
                    let draft = drafting.draft(event);
                    drafts.push(draft.map_err(|error| if request.batch { within(i, error) } else { error })?);
                }
                drafts
            };
            if let (Some(rate), Some(key)) = (settings.publish_rate, request.key) {
                let taken = self.rates.take(key, rate, drafts.len(), self.clock.now_ms());
                taken.map_err(|retry_after_s| Error::RateLimited { retry_after_s })?;
            }
            Accept { drafts, idempotency, pending_max: settings.pending_per_tenant }
        };
        let count = accept.drafts.len();
        match self.submit(Op::Accept(accept), request.asker).await? {
            Done::Accepted(receipt) => {
                if !receipt.replayed() {
                    self.metrics.events_accepted.inc_by(count as u64);
                }
                Ok(receipt)
            }
            _ => Err(Error::Internal),
        }
    }
}

/// The events of one request on their way to the store. Those of a batch are much alike: what was found out for one is not looked up
/// for the next.
struct Drafting<'a> {
    settings: &'a Settings,
    registry: &'a Registry,
    by: Publisher,
    body: &'a Bytes,
    now_us: u64,
    /// The tenant that the last event named, if it did, and who that is.
    owner: Option<(Option<&'a str>, Owner)>,
    /// The type of the last one.
    kind: Option<(&'a str, Option<&'a EventType>)>,
}

/// Whose an event is.
#[derive(Clone, Copy)]
struct Owner {
    no: TenantNo,
    /// Nothing is delivered for it: its events are gone from memory with their answer.
    is_alone: bool,
}

impl<'a> Drafting<'a> {
    fn new(settings: &'a Settings, registry: &'a Registry, request: &Request<'a>, now_us: u64) -> Self {
        Self { settings, registry, by: request.by, body: request.body, now_us, owner: None, kind: None }
    }

    fn draft(&mut self, event: &'a Publish<'_>) -> Result<Draft, Error> {
        // Whose it is comes first: a key that may not publish there learns nothing else.
        let owner = self.owner(event.tenant.as_deref())?;
        let kind = event.kind.as_ref();
        let known = self.known(kind)?;
        if let Some(schema) = known.and_then(|known| known.schema.as_ref()) {
            let fits = schema.check(event.data);
            fits.map_err(|error| Error::Invalid { code: "schema_mismatch", message: error.to_string() })?;
        }
        if event.ordering_key.as_ref().is_some_and(|key| !(1..=ORDERING_KEY_MAX).contains(&key.len())) {
            return Err(invalid_field("ordering_key must have 1 to 255 bytes"));
        }
        let part = |part: Option<&str>| part.map(|text| kept(self.body, text, owner.is_alone));
        Ok(Draft {
            tenant: owner.no,
            kind: kind.to_owned(),
            channel: known.and_then(|known| known.omnia_channel.clone()),
            created_us: event.created_us.unwrap_or(self.now_us),
            ordering_key: event.ordering_key.as_deref().map(str::to_owned),
            data: part(event.data),
            context: part(event.context),
            user: part(event.user),
            test: false,
        })
    }

    fn owner(&mut self, named: Option<&'a str>) -> Result<Owner, Error> {
        if let Some((_, owner)) = self.owner.filter(|(last, _)| *last == named) {
            return Ok(owner);
        }
        let no = tenant_of(self.registry, self.by, named)?;
        let owner = Owner { no, is_alone: no != BROADCAST && self.registry.webhooks_of(no).next().is_none() };
        self.owner = Some((named, owner));
        Ok(owner)
    }

    /// What the catalogue says of a type that may be published.
    fn known(&mut self, kind: &'a str) -> Result<Option<&'a EventType>, Error> {
        if let Some((_, known)) = self.kind.filter(|(last, _)| *last == kind) {
            return Ok(known);
        }
        if !is_event_type(kind) {
            return Err(invalid_field("type must be 1 to 128 of A-Z, a-z, 0-9, '_', '.' and '-'"));
        }
        if kind.starts_with(RESERVED_PREFIX) {
            return Err(Error::Invalid { code: "reserved", message: "type: webhookd.* is reserved".to_owned() });
        }
        let known = self.settings.catalogue.get(kind);
        if self.settings.strict && known.is_none() {
            let message = format!("type {} is not in the catalogue", shown(kind));
            return Err(Error::Invalid { code: "unknown_type", message });
        }
        self.kind = Some((kind, known));
        Ok(known)
    }
}

/// Text of the body for as long as its event is there: a slice where it is most of a large body, or where the event is gone with
/// its answer (`is_brief`), else a copy. A slice keeps all of the body alive, and of a small one the whole buffer that its connection is
/// read into.
fn kept(body: &Bytes, text: &str, is_brief: bool) -> Bytes {
    let from = text.as_ptr().addr().wrapping_sub(body.as_ptr().addr());
    let is_within = body.get(from..).is_some_and(|rest| rest.len() >= text.len());
    if is_within && body.len() >= SLICED_FROM && (is_brief || text.len() >= body.len() / 4 * 3) {
        body.slice(from..from + text.len())
    } else {
        Bytes::copy_from_slice(text.as_bytes())
    }
}

fn tenant_of(registry: &Registry, by: Publisher, named: Option<&str>) -> Result<TenantNo, Error> {
    match (by, named) {
        (Publisher::Tenant(own), None) => Ok(own),
        (Publisher::Tenant(own), Some(named)) => {
            let is_own = registry.tenant(own).is_some_and(|tenant| tenant.id.as_str() == named);
            is_own.then_some(own).ok_or(Error::Forbidden("this key publishes for its own tenant only"))
        }
        (Publisher::Any, None) => Err(invalid_field("tenant is required: whose event is it?")),
        (Publisher::Any, Some("*")) => Ok(BROADCAST),
        (Publisher::Any, Some(OPERATOR)) => {
            Err(Error::Invalid { code: "reserved", message: "tenant: operator is reserved".to_owned() })
        }
        (Publisher::Any, Some(named)) => {
            registry.tenant_named(named).map(|tenant| tenant.no).ok_or_else(unknown_tenant)
        }
    }
}

fn idempotency(request: &Request<'_>) -> Result<Option<Idempotency>, Error> {
    let Some(key) = request.idempotency_key else { return Ok(None) };
    if !(1..=IDEMPOTENCY_KEY_MAX).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
        return Err(invalid_field("Idempotency-Key must be 1 to 255 visible ASCII characters"));
    }
    // All who may publish for anybody share a scope; 0 is no tenant's number.
    let scope = match request.by {
        Publisher::Any => BROADCAST,
        Publisher::Tenant(no) => no,
    };
    let digest = Sha256::new().chain_update(scope.to_be_bytes()).chain_update(key).finalize();
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest[..16]);
    // The two routes read one body in two ways: the same text on the other route is another request.
    let route: &[u8] = if request.batch { b"batch\n" } else { b"" };
    let body_hash = Sha256::new().chain_update(route).chain_update(request.body).finalize().into();
    Ok(Some(Idempotency { hash, body_hash }))
}

fn within(index: usize, error: Error) -> Error {
    match error {
        Error::Invalid { code, message } => Error::Invalid { code, message: format!("events[{index}]: {message}") },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::webhook::Webhook;
    use crate::store::registry::Change;

    #[test]
    fn only_most_of_a_large_body_is_kept_as_a_slice() {
        let body = Bytes::from(format!("{}{}", "a".repeat(SLICED_FROM / 4), "b".repeat(SLICED_FROM)));
        let text = std::str::from_utf8(&body).unwrap();
        let is_slice = |body: &Bytes, text: &str| {
            let kept = kept(body, text, false);
            assert_eq!(kept, text.as_bytes());
            kept.as_ptr() == text.as_ptr()
        };
        assert!(is_slice(&body, &text[SLICED_FROM / 4..]));
        assert!(!is_slice(&body, &text[SLICED_FROM / 2..]), "it would keep twice its size");
        assert!(!is_slice(&body.slice(..SLICED_FROM - 1), &text[..SLICED_FROM - 1]), "it may be a read buffer's");
        assert!(!is_slice(&body, &"c".repeat(SLICED_FROM)), "it is none of the body's");
        assert_eq!(kept(&body, &text[..9], true).as_ptr(), text.as_ptr(), "it is gone with the answer");
    }

    #[test]
    fn only_who_has_no_webhook_is_alone() {
        let (settings, mut registry, body) = (Settings::default(), Registry::default(), Bytes::new());
        registry.apply(&Change::Webhook(Arc::new(Webhook::sample(7, Vec::new()))));
        let is_alone = |by, named| {
            let (settings, registry, body) = (&settings, &registry, &body);
            let mut drafting = Drafting { settings, registry, by, body, now_us: 0, owner: None, kind: None };
            drafting.owner(named).unwrap().is_alone
        };
        assert!(!is_alone(Publisher::Tenant(7), None));
        assert!(is_alone(Publisher::Tenant(8), None));
        assert!(!is_alone(Publisher::Any, Some("*")), "everybody may have one");
    }
}
