//! Things to ask the store for: tenants, webhooks, events, attempts.

use std::path::Path;

use bytes::Bytes;
use webhookd::clock::Millis;
use webhookd::entropy::Entropy;
use webhookd::model::attempt::{Attempt, Class, Verdict};
use webhookd::model::audit::{Actor, Audit};
use webhookd::model::id::{AttemptNumber, JournalSeq, KeyId, Seq, TenantId, TenantNo, WebhookId, WebhookNo};
use webhookd::model::key::Role;
use webhookd::model::secret::Secret;
use webhookd::model::webhook::{Dialect, Filter, Webhook};
use webhookd::store::op::{Accept, Draft, Idempotency, Op, Outcome, Quota, RowKey};
use webhookd::store::seal::Sealer;

use crate::chance::Chance;

pub const KINDS: [&str; 4] = ["order.created", "order.paid", "user.created", "ping"];
pub const FILTERS: [&str; 7] =
    ["*", "order.*", "order.paid", "user.created", CHANNEL, "webhookd.*", "webhookd.delivery.dead"];
/// The channel that some events are announced on.
const CHANNEL: &str = "ACTIVITY";

pub fn place() -> &'static Path {
    Path::new("/simulated/webhookd.redb")
}

pub fn sealer(entropy: &Entropy) -> Sealer {
    Sealer::new([7; 32], entropy.clone())
}

pub fn put_tenant(name: &str) -> Op {
    Op::PutTenant { id: TenantId::parse(name).unwrap(), name: None, plan: None }
}

/// One of three URLs, so that some are the present one.
pub fn register_sole(tenant: TenantNo, id: [u8; 16]) -> Op {
    let draft = webhook(tenant, Dialect::OneMetric, [id[0] % 3; 16], &["*"]);
    let draft = Webhook { id: WebhookId(id), ..draft };
    Op::RegisterSole { draft: Box::new(draft), quota: Quota { of_tenant: 1_000, of_dialect: None } }
}

pub fn create_webhook(tenant: TenantNo, id: [u8; 16], filters: &[&str]) -> Op {
    let draft = Box::new(webhook(tenant, Dialect::Lemon, id, filters));
    Op::CreateWebhook { draft, quota: Quota { of_tenant: 1_000, of_dialect: None } }
}

fn webhook(tenant: TenantNo, dialect: Dialect, id: [u8; 16], filters: &[&str]) -> Webhook {
    let url = format!("https://receiver.example/{}", id[0]);
    let filters = filters.iter().map(|text| Filter::parse(text).unwrap()).collect();
    Webhook {
        dialect,
        headers: vec![("X-One".to_owned(), Secret::new("two".to_owned()))],
        ..Webhook::new(tenant, WebhookId(id), url, filters, Secret::new("whsec_x".to_owned()))
    }
}

pub fn draft(tenant: TenantNo, kind: &str, data: Bytes) -> Draft {
    Draft { tenant, kind: kind.to_owned(), created_us: 1, data: Some(data), ..Draft::default() }
}

pub fn random_draft(chance: &mut Chance, tenants: u64) -> Draft {
    let tenant = if chance.percent(10) { 0 } else { u32::try_from(chance.below(tenants)).unwrap() + 1 };
    let size = match chance.below(100) {
        0..=89 => chance.below(400),
        90..=97 => chance.below(5_000),
        _ => 20_000 + chance.below(60_000),
    };
    let tag = chance.next();
    let filler = "x".repeat(usize::try_from(size).unwrap());
    let mut draft =
        draft(tenant, chance.pick(&KINDS).unwrap(), Bytes::from(format!("{{\"tag\":{tag},\"x\":\"{filler}\"}}")));
    draft.created_us = chance.next() >> 12;
    draft.channel = chance.percent(20).then(|| CHANNEL.to_owned());
    draft.context = chance.percent(20).then(|| Bytes::from_static(b"{\"region\":\"eu\"}"));
    draft.ordering_key = chance.percent(40).then(|| format!("key-{}", chance.below(2)));
    draft.test = chance.percent(5);
    draft
}

/// The same drafts always have the same hash of their body.
pub fn accept(drafts: Vec<Draft>, key: Option<[u8; 16]>) -> Accept {
    let mut body_hash = [0; 32];
    let tags = drafts.iter().flat_map(|draft| draft.data.iter().flatten());
    tags.enumerate().for_each(|(i, byte)| body_hash[i % 32] ^= byte.rotate_left(u32::try_from(i / 32 % 8).unwrap()));
    Accept { drafts, idempotency: key.map(|hash| Idempotency { hash, body_hash }), pending_max: None }
}

/// A record of something asked for; its target is always given.
pub fn audit(chance: &mut Chance) -> Box<Audit> {
    let key = Actor::Key { id: KeyId([chance.bytes::<1>()[0]; 8]), role: Role::Tenant };
    let actor = if chance.percent(50) { key } else { Actor::Socket };
    let target = Some(format!("wbh_{}", chance.next()));
    let principal = chance.percent(30).then(|| "somebody".to_owned());
    let remote = "192.0.2.7:5555".parse().ok();
    Box::new(Audit { target, principal, remote, ..Audit::new(actor, "webhook.change") })
}

/// An attempt on a delivery and what follows from it.
pub struct Try {
    pub event: Seq,
    pub webhook: WebhookNo,
    pub number: u32,
    pub previous: JournalSeq,
    pub at_ms: Millis,
    pub row: Option<RowKey>,
    pub verdict: Verdict,
}

pub fn outcome(of: &Try) -> Outcome {
    let delivered = of.verdict == Verdict::Delivered;
    Outcome {
        attempt: Attempt {
            event: of.event,
            webhook: of.webhook,
            number: AttemptNumber::new(of.number).unwrap(),
            previous: of.previous,
            at_ms: of.at_ms,
            duration_ms: 12,
            class: (!delivered).then_some(Class::Status),
            status: Some(if delivered { 200 } else { 500 }),
            error: String::new(),
            remote: "192.0.2.1:443".parse().ok(),
            excerpt: "ok".to_owned(),
            verdict: of.verdict,
        },
        row: of.row,
        order: None,
        budget_from: 0,
        since_ms: of.at_ms,
        deactivate: None,
        test: false,
    }
}
