//! What owners change of their webhooks: the model's part about it, and changes of secrets and headers, drawn by themselves so that
//! a seed's other draws stay as they are.

use std::collections::BTreeMap;

use webhookd::clock::Millis;
use webhookd::model::id::WebhookNo;
use webhookd::model::secret::Secret;
use webhookd::model::webhook::{Filter, Webhook};
use webhookd::store::op::{Op, Refusal, SecretChange, WebhookPatch};

use crate::chance::Chance;
use crate::model::{Expected, Hook, Life, Model};
use crate::news::Health;
use crate::world::World;

/// What deliveries of a webhook depend on besides its URL, its secrets in plain text: they are no secrets here.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub filters: Vec<Filter>,
    pub headers: Vec<(String, String)>,
    /// Newest first, and until when each counts.
    pub secrets: Vec<(String, Option<Millis>)>,
}

fn plain(headers: &[(String, Secret)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
}

impl Settings {
    pub fn of(webhook: &Webhook) -> Self {
        let secrets = webhook.secrets.iter().map(|old| (old.secret.expose().to_owned(), old.until));
        Self { filters: webhook.filters.clone(), headers: plain(&webhook.headers), secrets: secrets.collect() }
    }

    fn change(&mut self, patch: &WebhookPatch, now: Millis) {
        self.filters = patch.filters.clone().unwrap_or(self.filters.clone());
        self.headers = patch.headers.as_deref().map_or_else(|| self.headers.clone(), plain);
        match &patch.secret {
            None => {}
            Some(SecretChange::Replace(new)) => self.secrets = vec![(new.expose().to_owned(), None)],
            Some(SecretChange::Rotate { new, old_until }) => {
                // None gets longer than it had.
                let until = |until: Option<Millis>| until.unwrap_or(*old_until).min(*old_until);
                let left = self.secrets.iter().filter(|(_, until)| until.is_none_or(|until| until > now));
                let left = left.map(|(old, ends)| (old.clone(), Some(until(*ends))));
                self.secrets = std::iter::once((new.expose().to_owned(), None)).chain(left).collect();
            }
        }
    }
}

impl Model {
    pub fn create(&mut self, draft: &Webhook) -> Result<Expected, Refusal> {
        if !self.knows(draft.tenant) {
            return Err(Refusal::UnknownTenant);
        }
        let no = u32::try_from(self.hooks.len()).unwrap() + 1;
        let hook = Hook {
            id: draft.id,
            tenant: draft.tenant,
            dialect: draft.dialect,
            settings: Settings::of(draft),
            life: Life::Active,
            url: draft.url.clone(),
            versions: BTreeMap::new(),
            filters_at: BTreeMap::new(),
            health: Health::default(),
        };
        self.hooks.insert(no, hook);
        self.version(no);
        Ok(Expected::Webhook(no))
    }

    pub fn update(&mut self, no: WebhookNo, patch: &WebhookPatch) -> Result<Expected, Refusal> {
        if !self.live(no) {
            return Err(Refusal::NotFound);
        }
        let now = self.now;
        let hook = self.hooks.get_mut(&no).unwrap();
        hook.url = patch.url.clone().unwrap_or(hook.url.clone());
        hook.settings.change(patch, now);
        match patch.active {
            Some(true) => {
                if hook.life == Life::Inactive {
                    hook.health.forget_failures();
                }
                hook.life = Life::Active;
            }
            Some(false) => hook.life = Life::Inactive,
            None => {}
        }
        self.version(no);
        Ok(Expected::Webhook(no))
    }

    pub fn set_life(&mut self, no: WebhookNo, life: Life) {
        self.hooks.get_mut(&no).unwrap().life = life;
        self.version(no);
    }

    fn version(&mut self, no: WebhookNo) {
        let from = self.heads().0;
        let hook = self.hooks.get_mut(&no).unwrap();
        hook.versions.insert(from, (hook.life, hook.url.clone()));
        hook.filters_at.insert(from, hook.settings.filters.clone());
    }
}

impl World {
    /// From here on owners change secrets and headers too. What else happens is drawn as it would be without.
    pub fn rotating(mut self, seed: u64) -> Self {
        self.turns = Some(Chance::new(seed ^ 0x5ec2_e700));
        self
    }

    /// A change of secrets or headers somewhere in the group. The old secrets count for hours, for days, or no longer.
    pub fn rotate(&mut self, ops: &mut Vec<Op>) {
        let Some(turns) = &mut self.turns else { return };
        let live: Vec<WebhookNo> = self.model.hooks.keys().copied().filter(|no| self.model.live(*no)).collect();
        if !turns.percent(20) {
            return;
        }
        let Some(no) = turns.pick(&live).copied() else { return };
        let mut secret = || Secret::new(format!("whsec_{}", turns.next()));
        let (new, value) = (secret(), secret());
        let overlap = [0, 4_000, 7_200_000, 172_800_000][turns.index(4)];
        let secret = match turns.below(10) {
            0 => None,
            1 => Some(SecretChange::Replace(new)),
            _ => Some(SecretChange::Rotate { new, old_until: self.clock.now_ms() + overlap }),
        };
        self.tally.rotations += u64::from(secret.is_some());
        let reheads = secret.is_none() || turns.percent(20);
        let headers = reheads.then(|| vec![("X-Two".to_owned(), value)]);
        let patch = WebhookPatch { secret, headers, ..WebhookPatch::default() };
        ops.insert(turns.index(ops.len() + 1), Op::UpdateWebhook { no, patch: Box::new(patch) });
    }
}
