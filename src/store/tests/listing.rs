//! What stands in memory of the listings stays bounded, also when each of the newest events is another webhook's.

use crate::clock::Clock;
use crate::model::attempt::{Attempt, Verdict};
use crate::model::id::{AttemptNumber, Seq, TenantId, WebhookId, WebhookNo};
use crate::model::webhook::{Filter, Webhook};
use crate::store::failing_disk::Disk;
use crate::store::op::{Accept, Draft, Op, Outcome, Quota};
use crate::store::recover::recover;

/// Each wants a type of its own.
const WEBHOOKS: u32 = 1_024;
/// Events that are accepted, and delivered, in one group.
const GROUP: usize = 64;
const GROUPS: usize = 96;
const FLUSH_AT: usize = 512;

fn webhook(no: WebhookNo) -> Op {
    let draft =
        Webhook { id: WebhookId(u128::from(no).to_be_bytes()), ..Webhook::sample(1, vec![Filter::Exact(kind(no))]) };
    Op::CreateWebhook { draft: Box::new(draft), quota: Quota { of_tenant: 2_000, of_dialect: None } }
}

fn kind(no: WebhookNo) -> String {
    format!("kind.{no}")
}

fn accept(no: WebhookNo) -> Op {
    let draft = Draft { tenant: 1, kind: kind(no), ..Draft::default() };
    Op::Accept(Accept { drafts: vec![draft], ..Accept::default() })
}

fn delivered(event: Seq, webhook: WebhookNo, at_ms: u64) -> Op {
    let attempt = Attempt {
        event,
        webhook,
        number: AttemptNumber::MIN,
        previous: 0,
        at_ms,
        duration_ms: 3,
        class: None,
        status: Some(200),
        error: String::new(),
        remote: None,
        excerpt: String::new(),
        verdict: Verdict::Delivered,
    };
    let rest =
        Outcome { attempt, row: None, order: None, budget_from: 0, since_ms: at_ms, deactivate: None, test: false };
    Op::Outcome(Box::new(rest))
}

#[test]
fn listings_keep_pace_when_each_event_is_another_webhooks() {
    let (clock, disk) = (Clock::manual(1_700_000_000_000), Disk::default());
    let parts = disk.parts(&clock);
    let (mut engine, shared) = (parts.recovered.engine, parts.shared);
    let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
    engine.apply(&[tenant]).unwrap();
    engine.apply(&(1..=WEBHOOKS).map(webhook).collect::<Vec<_>>()).unwrap();
    engine.set_flush_at(FLUSH_AT);
    let mut owners = (1..=WEBHOOKS).cycle();
    let (mut event, mut gathered_max) = (1, 0);
    let mut newest = vec![0_u64; WEBHOOKS as usize + 1];
    for group in 0..GROUPS {
        let of: Vec<WebhookNo> = owners.by_ref().take(GROUP).collect();
        engine.apply(&of.iter().map(|no| accept(*no)).collect::<Vec<_>>()).unwrap();
        let at_ms = 1_700_000_000_000 + group as u64;
        let outcomes = (event..).zip(&of).map(|(event, no)| delivered(event, *no, at_ms)).collect::<Vec<_>>();
        engine.apply(&outcomes).unwrap();
        of.iter().for_each(|no| newest[*no as usize] = at_ms);
        event += GROUP as u64;
        gathered_max = gathered_max.max(shared.tails().len());
    }
    assert!(gathered_max < 4 * FLUSH_AT, "{gathered_max} entries have gathered");
    assert!(shared.tails().bases().0 > event / 2, "hardly anything was brought to disk");

    // What a start finds is the same, from the lists or from what was written of how each webhook stands.
    let (db, _) = engine.into_files();
    let again = recover(db, shared.clone(), &clock, disk.wal().unwrap(), 1).unwrap();
    assert!(shared.tails().len() < 4 * FLUSH_AT && again.fresh.is_empty());
    let view = shared.view().unwrap();
    for no in 1..=WEBHOOKS {
        assert_eq!(view.standing(no).unwrap().last_success_ms, Some(newest[no as usize]), "webhook {no}");
    }
}
