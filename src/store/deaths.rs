//! Reading dead letters: one by its delivery, a tenant's in the order of dying. Owns how the two tables vouch for each other.
//!
//! Invariant: neither table has checksums, and no dead letter is given, or said not to be there, that the other table or its
//! webhook's owner contradicts.

use std::ops::Bound;

use redb::{ReadOnlyTable, ReadTransaction};

use super::StoreError;
use super::lookup::{self, Vouch};
use super::schema::{DEAD, DEAD_OF};
use super::view::{self, Shared, View};
use crate::model::id::{JournalSeq, Seq, TenantNo, WebhookNo};

/// A dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub webhook: WebhookNo,
    pub event: Seq,
    /// The journal record of its death; its place in the listing.
    pub death: JournalSeq,
}

/// Both tables of one snapshot.
pub(super) struct Deaths<'a> {
    pub dead: ReadOnlyTable<(u32, u64), (u32, u64)>,
    pub dead_of: ReadOnlyTable<(u32, u64), u64>,
    txn: &'a ReadTransaction,
    shared: &'a Shared,
}

/// Rows of `DEAD`, by `DEAD_OF` and by whose webhook it is.
impl Vouch<(u32, u64), (u32, u64)> for Deaths<'_> {
    fn vouch(&self, key: &(u32, u64), (webhook, event): &(u32, u64)) -> Result<(), StoreError> {
        match self.dead_of.get((*webhook, *event))? {
            Some(death) if death.value() == key.1 && self.owner(*webhook)? == Some(key.0) => Ok(()),
            _ => Err(StoreError::DamagedAt { table: "dead".to_owned(), place: format!("{key:?}") }),
        }
    }
}

/// Rows of `DEAD_OF`, by `DEAD`.
impl Vouch<(u32, u64), u64> for Deaths<'_> {
    fn vouch(&self, key: &(u32, u64), death: &u64) -> Result<(), StoreError> {
        let letter = self.owner(key.0)?.map(|tenant| self.dead.get((tenant, *death))).transpose()?.flatten();
        match letter {
            Some(letter) if letter.value() == *key => Ok(()),
            _ => Err(StoreError::DamagedAt { table: "dead_of".to_owned(), place: format!("{key:?}") }),
        }
    }
}

impl<'a> Deaths<'a> {
    pub(super) fn of(txn: &'a ReadTransaction, shared: &'a Shared) -> Result<Self, StoreError> {
        Ok(Self { dead: txn.open_table(DEAD)?, dead_of: txn.open_table(DEAD_OF)?, txn, shared })
    }

    /// Whose webhook it is. A deleted one is on record for as long as a dead letter of it is.
    fn owner(&self, webhook: WebhookNo) -> Result<Option<TenantNo>, StoreError> {
        let live = self.shared.registry().webhook(webhook).map(|webhook| webhook.tenant);
        if live.is_some() {
            return Ok(live);
        }
        let deleted = view::webhook_at(self.txn, self.shared, webhook, Seq::MAX)?;
        Ok(deleted.map(|webhook| webhook.tenant))
    }

    /// The journal record of a death.
    pub(super) fn of_delivery(&self, webhook: WebhookNo, event: Seq) -> Result<Option<JournalSeq>, StoreError> {
        let key = (webhook, event);
        let Some(found) = lookup::get(&self.dead_of, self, &key)? else { return Ok(None) };
        Vouch::<(u32, u64), u64>::vouch(self, &key, &found.value())?;
        Ok(Some(found.value()))
    }
}

impl View<'_> {
    /// Whether a delivery is a dead letter: the journal record of its death.
    ///
    /// # Errors
    /// When the store fails.
    pub fn death_of(&self, webhook: WebhookNo, event: Seq) -> Result<Option<JournalSeq>, StoreError> {
        Deaths::of(&self.txn, self.shared)?.of_delivery(webhook, event)
    }

    /// A tenant's dead letters below `before`, newest first, while `each` wants more.
    ///
    /// # Errors
    /// When the store or `each` fails.
    pub fn scan_dead(
        &self,
        tenant: TenantNo,
        before: JournalSeq,
        mut each: impl FnMut(DeadLetter) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let deaths = Deaths::of(&self.txn, self.shared)?;
        let (low, high) = ((tenant, 0), (tenant, before));
        for found in lookup::falling(&deaths.dead, &deaths, Bound::Included(&low), Bound::Excluded(&high))? {
            let (key, value) = found?;
            Vouch::<(u32, u64), (u32, u64)>::vouch(&deaths, &key.value(), &value.value())?;
            let (webhook, event) = value.value();
            if !each(DeadLetter { webhook, event, death: key.value().1 })? {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backup::tests::Filled;
    use crate::store::op::Op;

    #[test]
    fn g10_no_altered_owner_of_a_dead_letter_hides_it() {
        let mut filled = Filled::new();
        let (shared, db) = (filled.shared.clone(), filled.engine.db.clone());
        let death = shared.view().unwrap().death_of(1, 1).unwrap().unwrap();
        let altered = |number: u32| number | 1 << 27;
        for is_deleted in [false, true] {
            if is_deleted {
                filled.engine.apply(&[Op::DeleteWebhook { no: 1 }]).unwrap();
            }
            let listed = || {
                let mut found = Vec::new();
                let each = |letter: DeadLetter| {
                    found.push(letter.death);
                    Ok(true)
                };
                shared.view().unwrap().scan_dead(1, JournalSeq::MAX, each).map(|()| found)
            };
            let known = || shared.view().unwrap().death_of(1, 1);
            assert_eq!((listed().unwrap(), known().unwrap()), (vec![death], Some(death)));
            let moved = |dead: [(u32, u64); 2], dead_of: [(u32, u64); 2]| {
                let txn = db.begin_write().unwrap();
                let mut table = txn.open_table(DEAD).unwrap();
                table.remove(dead[0]).unwrap().unwrap();
                table.insert(dead[1], (1, 1)).unwrap();
                drop(table);
                let mut table = txn.open_table(DEAD_OF).unwrap();
                table.remove(dead_of[0]).unwrap().unwrap();
                table.insert(dead_of[1], death).unwrap();
                drop(table);
                txn.commit().unwrap();
            };
            let (dead, dead_of) = ((1, death), (1, 1));
            let (foreign, unknown) = ((altered(1), death), (altered(1), 1));
            shared.view().unwrap();
            moved([dead, foreign], [dead_of, dead_of]);
            assert!(listed().unwrap_err().is_damage(), "deleted: {is_deleted}");
            moved([foreign, dead], [dead_of, unknown]);
            assert!(known().unwrap_err().is_damage(), "deleted: {is_deleted}");
            moved([dead, dead], [unknown, dead_of]);
        }
    }
}
