//! The daemon's figures, as `/metrics` shows them. Owns those that are counted when somebody asks: what stands in the store, how
//! large it is, since when we run. All others are counted where they happen.

use std::sync::Arc;

use super::Service;
use super::overview::sum_up;
use crate::metrics::{OfWebhook, OwnLabels, PendingLabels, WebhookLabels};
use crate::model::webhook::Webhook;
use crate::store::StoreError;
use crate::store::view::Shared;

impl Service {
    /// Everything in the OpenMetrics text form. While the store can't be read, its figures stay as they were.
    pub async fn figures(&self) -> String {
        let metrics = &self.metrics;
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (tenants, webhooks, jobs) = {
            let registry = self.store.shared().registry();
            let webhooks = registry.webhooks().cloned().collect::<Vec<_>>();
            (registry.tenants().len() as u64, webhooks, registry.jobs().count() as u64)
        };
        metrics.jobs_running.set(gauge(jobs));
        let active = webhooks.iter().filter(|webhook| webhook.is_active()).count() as u64;
        let inactive = webhooks.len() as u64 - active;
        metrics.tenants.set(gauge(tenants));
        for (state, count) in [("active", active), ("inactive", inactive)] {
            metrics.webhooks.get_or_create(&WebhookLabels { state }).set(gauge(count));
        }
        let (file, streams) = (self.store_file.clone(), self.streams.clone());
        let mut first = webhooks.clone();
        first.sort_unstable_by_key(|webhook| webhook.no);
        first.truncate(self.settings().metrics_webhooks);
        let now_ms = self.clock.now_ms();
        let read = move |shared: &Shared| {
            let bytes = std::fs::metadata(file).map(|file| file.len());
            let due_ms = sum_up(shared, &webhooks, &streams)?.oldest_due_ms;
            let view = shared.view()?;
            let oldest_event_ms = view.oldest_event_age_ms(shared.age().at(now_ms))?;
            let times = (due_ms, oldest_event_ms, view.last_backup()?);
            Ok::<_, StoreError>((shared.totals()?, bytes.ok(), times, own(shared, &first)?))
        };
        let mut webhooks = Vec::new();
        if let Ok((totals, bytes, (due_ms, oldest_event_ms, last_backup_ms), own)) = self.store.read(read).await {
            webhooks = own;
            let pending = [
                ("fresh", totals.fresh),
                ("waiting", totals.waiting),
                ("started", totals.started),
                ("held", totals.held),
            ];
            for (state, count) in pending {
                metrics.pending.get_or_create(&PendingLabels { state }).set(gauge(count));
            }
            metrics.dead_letters.set(gauge(totals.dead));
            let age_ms = due_ms.map_or(0, |due| now_ms.saturating_sub(due));
            metrics.oldest_due_seconds.set(age_ms as f64 / 1_000.0);
            metrics.room.oldest_event_seconds.set(oldest_event_ms.unwrap_or(0) as f64 / 1_000.0);
            metrics.last_backup_seconds.set(last_backup_ms.unwrap_or(0) as f64 / 1_000.0);
            if let Some(bytes) = bytes {
                metrics.store_bytes.set(gauge(bytes));
            }
        }
        let up_ms = self.clock.now_ms().saturating_sub(self.started_ms);
        metrics.uptime_seconds.set(up_ms as f64 / 1_000.0);
        metrics.text(&webhooks)
    }
}

/// How these webhooks stand, each by itself.
fn own(shared: &Shared, webhooks: &[Arc<Webhook>]) -> Result<Vec<OfWebhook>, StoreError> {
    let view = shared.view()?;
    let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let of = |webhook: &Arc<Webhook>| {
        let standing = view.standing(webhook.no)?;
        let tenant = shared.registry().tenant(webhook.tenant).map(|tenant| tenant.id.to_string());
        Ok(OfWebhook {
            labels: OwnLabels { webhook: webhook.id.to_string(), tenant: tenant.unwrap_or_default() },
            pending: gauge(standing.pending()),
            dead: gauge(standing.dead),
            failures: i64::from(standing.failures),
            last_success_seconds: standing.last_success_ms.unwrap_or(0) as f64 / 1_000.0,
        })
    };
    webhooks.iter().map(of).collect()
}
