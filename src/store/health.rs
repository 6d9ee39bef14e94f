//! When each webhook last had a success. Owns finding that again at start-up.
//!
//! A success alone is not worth a row of its own, so the newest stand in memory, with the readers, until something else of
//! the webhook is written or the listings are flushed. What was not written stands in the part of the journal that start-up
//! reads for the listings anyhow.

use redb::ReadableTable;

use super::StoreError;
use super::log::{self, Log};
use super::numbers::ByWebhook;
use super::record;
use crate::clock::Millis;
use crate::model::attempt::{Attempt, Verdict};
use crate::model::id::{JournalSeq, Seq};

/// The successes of a stretch of the journal, as far as one of them may be a webhook's newest.
#[derive(Default)]
pub(super) struct Successes(ByWebhook<Vec<Success>>);

struct Success {
    event: Seq,
    previous: JournalSeq,
    at_ms: Millis,
}

impl Successes {
    /// Takes the next record of the journal.
    pub fn see(&mut self, attempt: &Attempt) {
        if attempt.verdict == Verdict::Delivered {
            let of = self.0.entry(attempt.webhook).or_default();
            if attempt.previous != 0 {
                // Certainly none of a test: those before it matter no more.
                of.clear();
            }
            of.push(Success { event: attempt.event, previous: attempt.previous, at_ms: attempt.at_ms });
        }
    }

    /// The newest of each webhook; tests don't count. A test's event matches nobody, and its attempt has none before it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn newest(self, events: &impl ReadableTable<u64, &'static [u8]>) -> Result<ByWebhook<Millis>, StoreError> {
        let mut newest = ByWebhook::default();
        for (webhook, of) in self.0 {
            for success in of.into_iter().rev() {
                let event = success.event;
                let matched =
                    || log::get(Log::Events, events, event, |bytes| Ok(record::read_event(event, bytes)?.matched));
                if success.previous != 0 || matched()?.is_some_and(|matched| matched.contains(&webhook)) {
                    newest.insert(webhook, success.at_ms);
                    break;
                }
            }
        }
        Ok(newest)
    }
}
