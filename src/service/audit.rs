//! The audit log as it is read, and how long it, the marks of signed requests and pauses that are over are kept.

use super::Service;
use super::error::Error;
use crate::clock::Millis;
use crate::limits::{AUDIT_LOOKED_AT_MAX, FAILING_FOR_MS, MARK_KEPT_S, TIDY_ROWS_MAX};
use crate::model::audit::Audit;
use crate::model::webhook::Filter;
use crate::store::StoreError;
use crate::store::op::{Op, Tidy};
use crate::store::page::Page;
use crate::store::view::Shared;

/// Which records, newest first.
pub struct AuditQuery {
    pub tenant: Option<String>,
    /// One action, or all below a prefix.
    pub action: Option<Filter>,
    /// Wall time, both included.
    pub since_ms: Option<Millis>,
    pub until_ms: Option<Millis>,
    /// Go on below this number.
    pub before: u64,
    pub limit: usize,
}

impl Service {
    /// A page of the audit log: records with their numbers.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn audit(&self, query: AuditQuery) -> Result<Page<(u64, Audit)>, Error> {
        Ok(self.store.read(move |shared| page(shared, &query)).await?)
    }

    /// Removes what has served its time, in small steps.
    ///
    /// # Errors
    /// When the store fails; the rest is left for the next time.
    pub async fn tidy(&self) -> Result<(), Error> {
        let wall_ms = self.clock.wall_ms();
        let minute = wall_ms / 1_000 / 60;
        let tidy = Tidy {
            marks_before: u32::try_from(minute.saturating_sub(MARK_KEPT_S / 60)).unwrap_or(u32::MAX),
            audit_before_ms: self.clock.now_ms().saturating_sub(self.settings().audit_kept_ms),
            // Time under a pause is left out of what makes a webhook failing, and of no longer time than that.
            pauses_before_ms: wall_ms.saturating_sub(FAILING_FOR_MS),
            max: TIDY_ROWS_MAX,
        };
        while self.store.read(move |shared| shared.is_untidy(tidy)).await? {
            self.store.submit(Op::Tidy(tidy), None).await?;
        }
        self.end_streams().await
    }
}

fn page(shared: &Shared, query: &AuditQuery) -> Result<Page<(u64, Audit)>, StoreError> {
    let view = shared.view()?;
    let (mut items, mut next, mut last, mut looked_at) = (Vec::new(), None, None, 0);
    view.scan_audit(query.before, |number, audit| {
        // Schedule time falls from record to record, so everything further on is older by it.
        if query.since_ms.is_some_and(|since| audit.at_ms < since && audit.since_ms < since) {
            return Ok(false);
        }
        if items.len() >= query.limit || looked_at >= AUDIT_LOOKED_AT_MAX {
            next = last;
            return Ok(false);
        }
        looked_at += 1;
        last = Some(number);
        if is_wanted(&audit, query) {
            items.push((number, audit));
        }
        Ok(true)
    })?;
    Ok(Page { items, next })
}

fn is_wanted(audit: &Audit, query: &AuditQuery) -> bool {
    query.tenant.as_ref().is_none_or(|tenant| audit.tenant.as_ref() == Some(tenant))
        && query.action.as_ref().is_none_or(|filter| filter.matches(&audit.action, None))
        && query.since_ms.is_none_or(|since| audit.at_ms >= since)
        && query.until_ms.is_none_or(|until| audit.at_ms <= until)
}
