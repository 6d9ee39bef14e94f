//! What happens in a life: publishers publish and ask again, owners and operators register, change, pause, rotate, delete,
//! redrive, resend and cancel, the disk fails for a while, the machine's clock jumps.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use webhookd::model::id::{Seq, TenantId, WebhookId};
use webhookd::model::pause::Scope;
use webhookd::model::secret::Secret;
use webhookd::model::webhook::{Filter, Webhook};
use webhookd::store::StoreError;
use webhookd::store::inbox::{Answer, SubmitError};
use webhookd::store::op::{Accept, Done, Draft, Idempotency, Op, Quota, SecretChange, WebhookPatch};

use crate::chance::Chance;
use crate::disk::{Call, Fault, Trouble};
use crate::ledger::{Label, Mood, Tag};
use crate::town::Life;

pub const TENANTS: u32 = 3;
const HOSTS: u64 = 4;
pub const DAY_MS: u64 = 86_400_000;

/// What a tenant of this name is numbered.
pub async fn found(life: &Life) {
    for no in 1..=TENANTS {
        let id = TenantId::parse(&format!("tenant-{no}")).unwrap();
        let done = life.store.submit(Op::PutTenant { id, name: None, plan: None }, None).await.unwrap();
        assert!(matches!(done, Done::Tenant(tenant) if tenant.no == no));
    }
}

/// Publishes under a tag; whoever calls need not wait.
pub async fn publish(life: &Life, tag: Tag, tenant: u32, key: Option<u8>, once: bool) -> bool {
    let known = life.ledger.lock().facts.get(&tag).and_then(|fact| fact.accepted);
    let draft = draft(tag, tenant, key);
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&tag.to_le_bytes());
    let idempotency = once.then_some(Idempotency { hash, body_hash: [0; 32] });
    let accept = Accept { drafts: vec![draft], idempotency, pending_max: None };
    life.ledger.lock().publish(tag, tenant, key, once);
    let answer = life.store.submit(Op::Accept(accept), Some(tag as usize % 2)).await;
    let mut book = life.ledger.lock();
    let line = format!("published {tag} at {}: {}", life.clock.now_ms(), answer.is_ok());
    book.note(line);
    let event = match answer {
        Ok(Done::Accepted(receipt)) => receipt.events()[0].clone(),
        Err(SubmitError::Store(StoreError::Unavailable(_))) => return false,
        other => panic!("{other:?}"),
    };
    let found = Some((event.id, event.seq));
    book.tally.acknowledged += 1;
    if known.is_some() && known != found {
        book.breach(format!("{tag} became another event: {known:?}, {found:?}"));
    }
    let fact = book.facts.get_mut(&tag).unwrap();
    (fact.accepted, fact.acknowledged) = (found, true);
    true
}

impl Life {
    /// Many events of a tenant at once.
    pub async fn backlog(&self, tenant: u32, count: Tag) {
        (0..count).for_each(|tag| self.ledger.lock().publish(tag, tenant, None, false));
        let drafts = (0..count).map(|tag| draft(tag, tenant, None)).collect();
        self.ask(Op::Accept(Accept { drafts, ..Accept::default() })).await.unwrap();
    }

    /// A moment's doings.
    pub async fn act(self: &std::rc::Rc<Self>, chance: &mut Chance, tags: &mut Tag) {
        match chance.below(100) {
            0..=59 => self.publishers(chance, tags),
            60..=69 => self.register(chance).await,
            70..=89 => self.owners(chance).await,
            90..=92 => self.trouble(chance),
            93..=94 => {
                self.jump(chance);
            }
            95 => self.moods(chance),
            _ => sleep(Duration::from_secs(chance.below(1_200))).await,
        }
    }

    /// The machine's clock is set, by up to 400 days.
    pub fn jump(&self, chance: &mut Chance) {
        let to = 1_700_000_000_000 + chance.below(800 * DAY_MS) - 400 * DAY_MS;
        self.ledger.lock().tally.jumps += 1;
        self.clock.step_wall_to(to);
    }

    fn publishers(self: &std::rc::Rc<Self>, chance: &mut Chance, tags: &mut Tag) {
        let lost: Vec<Tag> = {
            let book = self.ledger.lock();
            book.facts.iter().filter(|(_, fact)| fact.once && !fact.acknowledged).map(|(tag, _)| *tag).collect()
        };
        if let Some(tag) = chance.pick(&lost).copied() {
            let (tenant, key) = {
                let book = self.ledger.lock();
                (book.facts[&tag].tenant, book.facts[&tag].key)
            };
            let life = self.clone();
            tokio::task::spawn_local(async move { publish(&life, tag, tenant, key, true).await });
        }
        for _ in 0..1 + chance.below(4) {
            *tags += 1;
            let (tag, tenant) = (*tags, 1 + u32::try_from(chance.below(u64::from(TENANTS))).unwrap());
            let key = chance.percent(30).then(|| u8::try_from(chance.below(2)).unwrap());
            let (life, once) = (self.clone(), chance.percent(70));
            tokio::task::spawn_local(async move { publish(&life, tag, tenant, key, once).await });
        }
    }

    pub async fn register(&self, chance: &mut Chance) {
        let tenant = 1 + u32::try_from(chance.below(u64::from(TENANTS))).unwrap();
        let host = u8::try_from(chance.below(HOSTS)).unwrap();
        self.register_at(tenant, host, chance.bytes()).await;
    }

    pub async fn register_at(&self, tenant: u32, host: u8, id: [u8; 16]) -> Label {
        let label = self.ledger.lock().hook(tenant, host);
        let draft = Webhook::new(
            tenant,
            WebhookId(id),
            url(host, label, 0),
            vec![Filter::All],
            Secret::new("a secret of a test".to_owned()),
        );
        let quota = Quota { of_tenant: 1_000, of_dialect: None };
        let answer = self.ask(Op::CreateWebhook { draft: Box::new(draft), quota }).await;
        let mut book = self.ledger.lock();
        let since = book.moment();
        let hook = book.hooks.get_mut(&label).unwrap();
        hook.since = since;
        if let Some(Done::Webhook(webhook)) = answer {
            hook.no = Some(webhook.no);
        }
        label
    }

    async fn ask(&self, op: Op) -> Option<Done> {
        let line = format!("{op:?}");
        let answer: Answer = self.store.submit(op, None).await;
        self.ledger.lock().note(format!("{line} at {}: {}", self.clock.now_ms(), answer.is_ok()));
        match answer {
            Ok(done) => Some(done),
            Err(SubmitError::Refused(_) | SubmitError::Store(StoreError::Unavailable(_))) => None,
            Err(other) => panic!("{other}"),
        }
    }

    async fn owners(&self, chance: &mut Chance) {
        let live: Vec<(Label, u32)> = {
            let book = self.ledger.lock();
            let live = book.hooks.iter().filter(|(_, hook)| hook.deleted_at.is_none());
            live.filter_map(|(label, hook)| Some((*label, hook.no?))).collect()
        };
        let Some((label, no)) = chance.pick(&live).copied() else { return };
        match chance.below(100) {
            0..=9 => self.delete(label, no).await,
            10..=29 => self.change_url(label, no).await,
            30..=39 => {
                let new = Secret::new(format!("another secret {}", chance.next()));
                let old_until = self.clock.now_ms() + chance.below(2 * DAY_MS);
                let secret = Some(SecretChange::Rotate { new, old_until });
                let patch = Box::new(WebhookPatch { secret, ..WebhookPatch::default() });
                self.ask(Op::UpdateWebhook { no, patch }).await;
            }
            40..=49 => {
                self.ledger.lock().hooks.get_mut(&label).unwrap().touched = true;
                let active = Some(chance.percent(70));
                let patch = Box::new(WebhookPatch { active, ..WebhookPatch::default() });
                self.ask(Op::UpdateWebhook { no, patch }).await;
            }
            50..=69 => self.pause(chance.percent(40), label, no).await,
            70..=79 => self.cancel(chance, &live).await,
            _ => self.revive(chance, label, no).await,
        }
    }

    async fn delete(&self, label: Label, no: u32) {
        self.ledger.lock().hooks.get_mut(&label).unwrap().touched = true;
        if self.ask(Op::DeleteWebhook { no }).await.is_some() {
            let now = self.clock.now_ms();
            self.ledger.lock().hooks.get_mut(&label).unwrap().deleted_at = Some(now);
        }
    }

    async fn change_url(&self, label: Label, no: u32) {
        let (host, version) = {
            let mut book = self.ledger.lock();
            let hook = book.hooks.get_mut(&label).unwrap();
            hook.versions += 1;
            (hook.host, hook.versions)
        };
        let patch = Box::new(WebhookPatch { url: Some(url(host, label, version)), ..WebhookPatch::default() });
        if self.ask(Op::UpdateWebhook { no, patch }).await.is_some() {
            let now = self.clock.now_ms();
            self.ledger.lock().hooks.get_mut(&label).unwrap().version = (version, now);
        }
    }

    pub async fn pause(&self, paused: bool, label: Label, no: u32) {
        let since = |at| self.ledger.lock().hooks.get_mut(&label).unwrap().paused_since = at;
        // From the asking on it may go on.
        let before = self.ledger.lock().hooks[&label].paused_since;
        since(None);
        let done = self.ask(Op::Pause { scope: Scope::Own(no), paused }).await;
        if paused && done.is_some() {
            since(before.or(Some(self.clock.now_ms())));
        }
    }

    async fn cancel(&self, chance: &mut Chance, live: &[(Label, u32)]) {
        let known = self.known();
        let Some((tag, seq)) = chance.pick(&known).copied() else { return };
        self.ledger.lock().facts.get_mut(&tag).unwrap().cancelled = true;
        self.ask(Op::Cancel { event: seq, webhooks: live.iter().map(|(_, no)| *no).collect() }).await;
    }

    /// A dead letter is redriven or thrown away, or an event sent once more.
    async fn revive(&self, chance: &mut Chance, label: Label, no: u32) {
        if let Some(op) = self.revival(chance, label, no) {
            self.ask(op).await;
        }
    }

    fn revival(&self, chance: &mut Chance, label: Label, no: u32) -> Option<Op> {
        let known = self.known();
        let (tag, seq) = chance.pick(&known).copied()?;
        let died = {
            let view = self.store.shared().view().ok()?;
            let dead = known.iter().find(|(_, seq)| view.death_of(no, *seq).is_ok_and(|death| death.is_some()));
            dead.copied()
        };
        let mut book = self.ledger.lock();
        match died {
            Some((tag, event)) if chance.percent(70) => {
                book.revived.insert((label, tag));
                Some(Op::Redrive { webhook: no, event })
            }
            Some((tag, event)) => {
                book.facts.get_mut(&tag).unwrap().cancelled = true;
                Some(Op::DropDead { webhook: no, event })
            }
            None if book.facts[&tag].tenant != book.hooks[&label].tenant => None,
            None => {
                book.revived.insert((label, tag));
                Some(Op::Resend { event: seq, webhooks: vec![no] })
            }
        }
    }

    fn known(&self) -> Vec<(Tag, Seq)> {
        let book = self.ledger.lock();
        book.facts.iter().filter_map(|(tag, fact)| Some((*tag, fact.accepted?.1))).collect()
    }

    /// The disk fails: once, or until it is mended.
    fn trouble(&self, chance: &mut Chance) {
        let kinds: [(&'static [Call], Trouble, bool); 5] = [
            (&[Call::Write], Trouble::Broken, false),
            (&[Call::Write, Call::SetLength], Trouble::Full, false),
            (&[Call::Write, Call::SetLength, Call::Sync], Trouble::Full, true),
            (&[Call::Sync], Trouble::Broken, false),
            (&[Call::Sync], Trouble::Forgotten, false),
        ];
        let (calls, trouble, lasting) = *chance.pick(&kinds).unwrap();
        self.ledger.lock().tally.faults += 1;
        self.disk.set_fault(Some(Fault { calls, nth: chance.below(6), trouble, lasting }));
        let (disk, after) = (self.disk.clone(), Duration::from_millis(chance.below(20_000)));
        tokio::spawn(async move {
            sleep(after).await;
            disk.set_fault(None);
        });
    }

    fn moods(&self, chance: &mut Chance) {
        let mut book = self.ledger.lock();
        for hook in book.hooks.values_mut() {
            hook.mood = *chance.pick(&[Mood::Good, Mood::Flaky, Mood::Failing, Mood::Silent]).unwrap();
        }
    }
}

/// Receivers are well again, what is paused goes on, what is inactive is active. To be done again now and then: to a webhook
/// that failed when the clock leapt by days, those are days of failing, and the next refused connection is one too many.
pub async fn heal(life: &Life) {
    life.disk.set_fault(None);
    let hooks: Vec<(Label, u32)> = {
        let mut book = life.ledger.lock();
        book.hooks.values_mut().for_each(|hook| hook.mood = Mood::Good);
        // Also those whose registration was never answered.
        let registry = life.store.shared().registry();
        let label = |url: &str| url.split("/w").nth(1)?.split('/').next()?.parse().ok();
        let mut live: Vec<_> = registry.webhooks().map(|webhook| (label(&webhook.url).unwrap(), webhook.no)).collect();
        live.sort_unstable();
        live
    };
    for (label, no) in hooks {
        life.pause(false, label, no).await;
        if life.store.shared().registry().webhook(no).is_some_and(|webhook| webhook.is_active()) {
            continue;
        }
        let patch = Box::new(WebhookPatch { active: Some(true), ..WebhookPatch::default() });
        life.ask(Op::UpdateWebhook { no, patch }).await;
    }
}

fn draft(tag: Tag, tenant: u32, key: Option<u8>) -> Draft {
    Draft {
        tenant,
        kind: "order.created".to_owned(),
        created_us: 1,
        ordering_key: key.map(|key| format!("key-{key}")),
        data: Some(Bytes::from(format!("{{\"tag\":{tag}}}"))),
        ..Draft::default()
    }
}

fn url(host: u8, label: Label, version: u32) -> String {
    format!("http://1.1.1.{host}/w{label}/v{version}")
}
