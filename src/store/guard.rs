//! What is written beside a change: the mark of the signature that asked for it, and its audit record. Owns both tables,
//! how they are read, and how they are emptied.
//!
//! Invariant: a mark or record stands there exactly when the op it came with was accepted, because all of it is one
//! transaction; a refused request leaves nothing. Marks are looked up inside the transaction, so twins in one group are
//! seen.

use std::ops::Bound;

use redb::{ReadableTable, WriteTransaction};

use super::StoreError;
use super::engine::{Engine, Group, put_meta};
use super::lookup;
use super::op::{Done, Guard, Mark, Op, Refusal, Tidy};
use super::registry::Change;
use super::row;
use super::schema::{AUDIT, MARKS, META, meta};
use super::view::{Shared, View};
use crate::model::audit::Audit;
use crate::model::id::{BROADCAST, TenantNo};
use crate::model::job::Task;

type Decided = Result<Result<Done, Refusal>, StoreError>;

impl Engine {
    pub(super) fn guarded(&mut self, group: &mut Group<'_>, guard: &Guard, op: &Op) -> Decided {
        if let Some(mark) = &guard.mark
            && is_marked(&group.txn().open_table(MARKS)?, mark)?
        {
            return Ok(Err(Refusal::Replayed));
        }
        let done = match self.decide(group, op)? {
            Ok(done) => done,
            refused => return Ok(refused),
        };
        if let Some(mark) = &guard.mark {
            let key = (mark.minute, &mark.hash);
            group.txn().open_table(MARKS)?.insert(key, row::seal(MARKS, &key, Vec::new()).as_slice())?;
        }
        if let Some(draft) = &guard.audit {
            let mut audit = Audit::clone(draft);
            (audit.at_ms, audit.since_ms) = (group.wall_ms, group.now);
            let (tenant, target) = self.about(&done);
            audit.tenant = tenant.or(audit.tenant);
            audit.target = audit.target.or(target);
            self.blot(&mut audit);
            append(group.txn(), &audit)?;
        }
        Ok(Ok(done))
    }

    /// The tenant and the public id of what was changed, as far as the answer tells.
    fn about(&self, done: &Done) -> (Option<String>, Option<String>) {
        let id_of = |no: TenantNo| {
            let tenant = || self.registry.tenant(no).map(|tenant| tenant.id.to_string());
            if no == BROADCAST { Some("*".to_owned()) } else { tenant() }
        };
        match done {
            Done::Accepted(receipt) => match receipt.events() {
                [] => (None, None),
                [event] => (id_of(event.tenant), Some(event.id.to_string())),
                [first, .., last] => (id_of(first.tenant), Some(format!("{}..{}", first.id, last.id))),
            },
            Done::Webhook(webhook) => (id_of(webhook.tenant), Some(webhook.id.to_string())),
            Done::Tenant(tenant) => (Some(tenant.id.to_string()), Some(tenant.id.to_string())),
            Done::Key(key) => (key.tenant.and_then(id_of), Some(key.id.to_string())),
            Done::Job(job) => match &job.task {
                Task::Erase(erase) => (Some(erase.id.to_string()), Some(erase.id.to_string())),
                _ => (id_of(job.tenant), Some(job.id.to_string())),
            },
            Done::Count(_) | Done::Retained(_) | Done::Nothing => (None, None),
        }
    }

    pub(super) fn tidy(&mut self, group: &mut Group<'_>, tidy: Tidy) -> Decided {
        let Tidy { marks_before, audit_before_ms, pauses_before_ms, max } = tidy;
        let over: Vec<_> = self.registry.pauses().ended_before(pauses_before_ms).take(max).cloned().collect();
        let mut removed = over.len();
        for scope in over {
            self.change(group, Change::Pause(scope, None));
        }
        let mut marks = group.txn().open_table(MARKS)?;
        for found in marks.extract_from_if(..(marks_before, &[0; 16]), |_, _| true)?.take(max) {
            found?;
            removed += 1;
        }
        let (mut audit, most) = (group.txn().open_table(AUDIT)?, removed + max);
        while removed < most && oldest(&audit)?.is_some_and(|oldest| oldest.since_ms < audit_before_ms) {
            audit.pop_first()?;
            removed += 1;
        }
        Ok(Ok(Done::Count(removed)))
    }
}

impl Shared {
    /// Whether `Op::Tidy` would find something to remove.
    ///
    /// # Errors
    /// When the store fails.
    pub fn is_untidy(&self, tidy: Tidy) -> Result<bool, StoreError> {
        let view = self.view()?;
        let marks = view.txn.open_table(MARKS)?;
        let old_mark = marks.first()?.is_some_and(|(key, _)| key.value().0 < tidy.marks_before);
        let record = oldest(&view.txn.open_table(AUDIT)?)?;
        let old_record = record.is_some_and(|oldest| oldest.since_ms < tidy.audit_before_ms);
        let old_pause = self.registry().pauses().ended_before(tidy.pauses_before_ms).next().is_some();
        Ok(old_mark || old_record || old_pause)
    }
}

impl View<'_> {
    /// Whether a signature was accepted before.
    ///
    /// # Errors
    /// When the store fails.
    pub fn is_marked(&self, mark: &Mark) -> Result<bool, StoreError> {
        is_marked(&self.txn.open_table(MARKS)?, mark)
    }

    /// Audit records with numbers below `before`, newest first, while `each` wants more.
    ///
    /// # Errors
    /// When the store or `each` fails.
    pub fn scan_audit(
        &self,
        before: u64,
        mut each: impl FnMut(u64, Audit) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let table = self.txn.open_table(AUDIT)?;
        for found in lookup::falling(&table, &AUDIT, Bound::Unbounded, Bound::Excluded(&before))? {
            let (number, value) = found?;
            if !each(number.value(), row::read(AUDIT, &number.value(), value.value())?)? {
                break;
            }
        }
        Ok(())
    }
}

fn is_marked(
    marks: &impl ReadableTable<(u32, &'static [u8; 16]), &'static [u8]>,
    mark: &Mark,
) -> Result<bool, StoreError> {
    let key = (mark.minute, &mark.hash);
    let Some(found) = lookup::get(marks, &MARKS, &key)? else { return Ok(false) };
    row::open(MARKS, &key, found.value()).map(|_| true)
}

fn oldest(audit: &impl ReadableTable<u64, &'static [u8]>) -> Result<Option<Audit>, StoreError> {
    audit.first()?.map(|(number, value)| row::read(AUDIT, &number.value(), value.value())).transpose()
}

/// The number of the next audit record. Numbers rise for ever: one that was given is not given again when the table has been
/// emptied since.
pub(super) fn next_audit(txn: &WriteTransaction) -> Result<u64, StoreError> {
    let table = txn.open_table(META)?;
    let Some(value) = table.get(meta::NEXT_AUDIT)? else { return Ok(1) };
    let number = row::open(META, &meta::NEXT_AUDIT, value.value())?.try_into();
    Ok(u64::from_le_bytes(number.map_err(|_| StoreError::Damaged("the count of audit records does not read"))?))
}

fn append(txn: &WriteTransaction, audit: &Audit) -> Result<(), StoreError> {
    let number = next_audit(txn)?;
    put_meta(txn, meta::NEXT_AUDIT, &(number + 1).to_le_bytes())?;
    txn.open_table(AUDIT)?.insert(number, row::write(AUDIT, &number, audit).as_slice())?;
    Ok(())
}
