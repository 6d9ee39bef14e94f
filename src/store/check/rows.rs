//! Every block and every row by itself: does its checksum hold, does what is in it read? Needs nothing but the tables, so it
//! names each place of a store that can't be opened otherwise.

use redb::{Key, ReadTransaction, ReadableTable, ReadableTableMetadata, Value};

use super::{Report, Tell, careful};
use crate::model::audit::Audit;
use crate::model::job::Job;
use crate::model::pause::Pause;
use crate::store::StoreError;
use crate::store::listing::FateRow;
use crate::store::log::{self, Log};
use crate::store::ordering::Place;
use crate::store::record::{self, Entry, QueueRow, Remembered, Standing};
use crate::store::row::{self, Rows};
use crate::store::schema::{
    AUDIT, BY_TENANT, BY_WEBHOOK, DEAD, DEAD_OF, FATES, IDEMPOTENCY, JOBS, KEPT_EVENTS, KEPT_JOURNAL, KEYS, MARKS,
    META, ORDERING, PAUSES, QUEUE, STANDING, TENANTS, WEBHOOKS,
};

type Read = Result<(), StoreError>;

/// Looks at all tables.
pub(super) fn check(txn: &ReadTransaction, report: &mut Report, tell: &mut Tell<'_>) {
    rows(txn, META, report, tell, |_| Ok(()));
    blocks(txn, Log::Events, report, tell, |seq, bytes| record::read_event(seq, bytes).map(drop));
    blocks(txn, Log::Journal, report, tell, |_, bytes| record::read::<Entry>(bytes).map(drop));
    rows(txn, QUEUE, report, tell, |bytes| record::read::<QueueRow>(bytes).map(drop));
    rows(txn, ORDERING, report, tell, |bytes| record::read::<Place>(bytes).map(drop));
    rows(txn, STANDING, report, tell, |bytes| record::read::<Standing>(bytes).map(drop));
    plain(txn, DEAD, report, tell);
    plain(txn, DEAD_OF, report, tell);
    rows(txn, IDEMPOTENCY, report, tell, |bytes| record::read::<Remembered>(bytes).map(drop));
    rows(txn, WEBHOOKS, report, tell, |_| Ok(()));
    rows(txn, TENANTS, report, tell, |_| Ok(()));
    rows(txn, KEYS, report, tell, |_| Ok(()));
    rows(txn, PAUSES, report, tell, |bytes| record::read::<Pause>(bytes).map(drop));
    rows(txn, JOBS, report, tell, |bytes| record::read::<Job>(bytes).map(drop));
    rows(txn, MARKS, report, tell, |_| Ok(()));
    rows(txn, AUDIT, report, tell, |bytes| record::read::<Audit>(bytes).map(drop));
    rows(txn, BY_TENANT, report, tell, |bytes| record::read::<Vec<u64>>(bytes).map(drop));
    rows(txn, BY_WEBHOOK, report, tell, |bytes| record::read::<Vec<u64>>(bytes).map(drop));
    rows(txn, FATES, report, tell, |bytes| record::read::<Vec<FateRow>>(bytes).map(drop));
    rows(txn, KEPT_EVENTS, report, tell, |bytes| record::read_event(0, kept(bytes)?).map(drop));
    rows(txn, KEPT_JOURNAL, report, tell, |bytes| record::read::<Entry>(kept(bytes)?).map(drop));
}

/// The record of a row that keeps one: its age stands before it.
fn kept(bytes: &[u8]) -> Result<&[u8], StoreError> {
    bytes.get(8..).ok_or(StoreError::Damaged("a kept record is cut short"))
}

fn rows<K: Key>(
    txn: &ReadTransaction,
    definition: Rows<K>,
    report: &mut Report,
    tell: &mut Tell<'_>,
    decode: impl Fn(&[u8]) -> Read,
) {
    let name = redb::TableHandle::name(&definition).to_owned();
    each(txn, definition, &name, report, tell, |key, value, report| {
        let read = row::open(definition, &key, value).and_then(&decode);
        if let Err(error) = read {
            report.found(&name, format!("{key:?}"), without_place(&error));
        }
    });
}

/// Rows without a checksum: that they can be walked is all there is to see.
fn plain<K: Key, V: Value>(
    txn: &ReadTransaction,
    definition: redb::TableDefinition<'static, K, V>,
    report: &mut Report,
    tell: &mut Tell<'_>,
) {
    let name = redb::TableHandle::name(&definition).to_owned();
    each(txn, definition, &name, report, tell, |_, _, _| {});
}

fn blocks(
    txn: &ReadTransaction,
    log: Log,
    report: &mut Report,
    tell: &mut Tell<'_>,
    decode: impl Fn(u64, &[u8]) -> Read,
) {
    let mut expected = None;
    each(txn, log.table(), log.name(), report, tell, |first, bytes, report| {
        if let Some(expected) = expected.filter(|expected| *expected != first) {
            report.found(log.name(), format!("{expected}"), format!("the records up to {first} are missing"));
        }
        expected = None;
        match log::block_at(log, first, bytes) {
            Err(_) => report.found(log.name(), first, "the block is not as it was written"),
            Ok(block) => {
                let mut next = first;
                for record in block.records() {
                    let read = record.map_err(|_| StoreError::Damaged("the record is not as it was written"));
                    if let Err(error) = read.and_then(|record| decode(next, record)) {
                        report.found(log.name(), next, without_place(&error));
                    }
                    next += 1;
                }
                expected = Some(next);
            }
        }
    });
}

/// Walks a table; what redb itself stumbles over is a finding of the table.
fn each<K: Key, V: Value>(
    txn: &ReadTransaction,
    definition: redb::TableDefinition<'static, K, V>,
    name: &str,
    report: &mut Report,
    tell: &mut Tell<'_>,
    mut see: impl FnMut(K::SelfType<'_>, V::SelfType<'_>, &mut Report),
) {
    let walked = careful(|| {
        let table = txn.open_table(definition)?;
        let mut seen = 0;
        for found in table.iter()? {
            let (key, value) = found?;
            see(key.value(), value.value(), report);
            seen += 1;
            tell.step(name, seen, || table.len().unwrap_or(0));
        }
        if table.len()? != seen {
            return Err(StoreError::Damaged("it holds another number of rows than it says"));
        }
        Ok(())
    });
    if let Err(error) = walked {
        report.found(name, "", without_place(&error));
    }
}

fn without_place(error: &StoreError) -> String {
    match error {
        StoreError::DamagedAt { .. } => "it is not as it was written".to_owned(),
        StoreError::Damaged(what) => (*what).to_owned(),
        other => other.to_string(),
    }
}
