//! The daemon's figures, as `/metrics` shows them. Owns those that are counted when somebody asks: what stands in the store, how
//! large it is, since when we run. All others are counted where they happen.

use super::Service;
use crate::metrics::{PendingLabels, WebhookLabels};
use crate::store::StoreError;
use crate::store::view::Shared;

impl Service {
    /// Everything in the OpenMetrics text form. While the store can't be read, its figures stay as they were.
    pub async fn figures(&self) -> String {
        let metrics = &self.metrics;
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (tenants, active, inactive, jobs) = {
            let registry = self.store.shared().registry();
            let active = registry.webhooks().filter(|webhook| webhook.is_active()).count() as u64;
            let inactive = registry.webhooks().count() as u64 - active;
            (registry.tenants().len() as u64, active, inactive, registry.jobs().count() as u64)
        };
        metrics.jobs_running.set(gauge(jobs));
        metrics.tenants.set(gauge(tenants));
        for (state, count) in [("active", active), ("inactive", inactive)] {
            metrics.webhooks.get_or_create(&WebhookLabels { state }).set(gauge(count));
        }
        let file = self.store_file.clone();
        let read = move |shared: &Shared| {
            let bytes = std::fs::metadata(file).map(|file| file.len());
            Ok::<_, StoreError>((shared.totals()?, bytes.ok(), shared.view()?.last_backup()?))
        };
        if let Ok((totals, bytes, last_backup_ms)) = self.store.read(read).await {
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
            metrics.last_backup_seconds.set(last_backup_ms.unwrap_or(0) as f64 / 1_000.0);
            if let Some(bytes) = bytes {
                metrics.store_bytes.set(gauge(bytes));
            }
        }
        let up_ms = self.clock.now_ms().saturating_sub(self.started_ms);
        metrics.uptime_seconds.set(up_ms as f64 / 1_000.0);
        metrics.text()
    }
}
