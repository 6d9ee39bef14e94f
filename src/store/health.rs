//! When each webhook last had a success. Owns finding that again at start-up.
//!
//! A success alone is not worth a row of its own, so the newest stand in memory, with the readers, until something else of
//! the webhook is written or the listings are flushed. What was not written stands in the part of the journal that start-up
//! reads for the listings anyhow. Retention writes it before it removes an event that this part speaks of (`retain`).

use std::collections::HashSet;

use redb::ReadTransaction;

use super::StoreError;
use super::log::{self, Log};
use super::numbers::ByWebhook;
use super::record;
use crate::clock::Millis;
use crate::model::attempt::{Attempt, Verdict};
use crate::model::id::{JournalSeq, Seq, WebhookNo};

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
            // Room for one: where there are many webhooks most of them have no more.
            let of = self.0.entry(attempt.webhook).or_insert_with(|| Vec::with_capacity(1));
            if attempt.previous != 0 {
                // Certainly none of a test: those before it matter no more.
                of.clear();
            }
            of.push(Success { event: attempt.event, previous: attempt.previous, at_ms: attempt.at_ms });
        }
    }

    /// Whether any is of this webhook.
    pub fn is_of(&self, webhook: WebhookNo) -> bool {
        self.0.contains_key(&webhook)
    }

    /// The newest of each webhook; tests don't count. A test's event matches nobody, and its attempt has none before it. Where
    /// retention has removed the event, the row of the webhook was written then, or later. `matched`: whom the events from
    /// `from` on matched, which were read anyhow; a look-up for each of 100,000 webhooks takes seconds.
    ///
    /// # Errors
    /// When the store fails.
    pub fn newest(
        self,
        txn: &ReadTransaction,
        from: Seq,
        matched: &HashSet<(Seq, WebhookNo)>,
    ) -> Result<ByWebhook<Millis>, StoreError> {
        let mut newest = ByWebhook::default();
        for (webhook, of) in self.0 {
            for success in of.into_iter().rev() {
                let event = success.event;
                let find = |bytes: &[u8]| Ok(record::read_event(event, bytes)?.matched.contains(&webhook));
                let counts = match success.previous {
                    0 if event >= from => Some(matched.contains(&(event, webhook))),
                    0 => log::find(txn, Log::Events, event, find)?,
                    _ => Some(true),
                };
                if counts == Some(true) {
                    newest.insert(webhook, success.at_ms);
                }
                if counts != Some(false) {
                    break;
                }
            }
        }
        Ok(newest)
    }
}
