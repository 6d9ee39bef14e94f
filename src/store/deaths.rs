//! Reading dead letters: one by its delivery, a tenant's in the order of dying. Owns how the two tables vouch for each other.
//!
//! Invariant: neither table has checksums, and no dead letter is given, or said not to be there, that the other table
//! contradicts.

use std::ops::Bound;

use redb::{ReadOnlyTable, ReadTransaction};

use super::StoreError;
use super::lookup::{self, Vouch};
use super::schema::{DEAD, DEAD_OF};
use super::view::{Shared, View};
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
    shared: &'a Shared,
}

/// Rows of `DEAD`, by `DEAD_OF` and by whose webhook it is, unless that is gone.
impl Vouch<(u32, u64), (u32, u64)> for Deaths<'_> {
    fn vouch(&self, key: &(u32, u64), (webhook, event): &(u32, u64)) -> Result<(), StoreError> {
        let owner = self.shared.registry().webhook(*webhook).map(|webhook| webhook.tenant);
        match self.dead_of.get((*webhook, *event))? {
            Some(death) if death.value() == key.1 && owner.is_none_or(|tenant| tenant == key.0) => Ok(()),
            _ => Err(StoreError::DamagedAt { table: "dead".to_owned(), place: format!("{key:?}") }),
        }
    }
}

/// Rows of `DEAD_OF`, by `DEAD`; whose webhook is gone says nothing of its tenant.
impl Vouch<(u32, u64), u64> for Deaths<'_> {
    fn vouch(&self, key: &(u32, u64), death: &u64) -> Result<(), StoreError> {
        let Some(tenant) = self.shared.registry().webhook(key.0).map(|webhook| webhook.tenant) else { return Ok(()) };
        match self.dead.get((tenant, *death))? {
            Some(letter) if letter.value() == *key => Ok(()),
            _ => Err(StoreError::DamagedAt { table: "dead_of".to_owned(), place: format!("{key:?}") }),
        }
    }
}

impl<'a> Deaths<'a> {
    pub(super) fn of(txn: &ReadTransaction, shared: &'a Shared) -> Result<Self, StoreError> {
        Ok(Self { dead: txn.open_table(DEAD)?, dead_of: txn.open_table(DEAD_OF)?, shared })
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
