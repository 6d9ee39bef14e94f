//! How each webhook stands, as the writer needs it. Owns that a webhook of which only its newest success is to be told, as most
//! are, takes a few bytes and not the whole of a `Standing`: there may be 100,000 of them.

use super::numbers::ByWebhook;
use super::record::Standing;
use crate::clock::Millis;
use crate::model::id::WebhookNo;

#[derive(Default)]
pub struct Standings {
    /// Those of which there is more to be told.
    full: ByWebhook<Standing>,
    /// The newest success of the others. None is in both.
    quiet: ByWebhook<Millis>,
}

impl Standings {
    /// `None`: nothing was ever told of it.
    #[must_use]
    pub fn get(&self, webhook: WebhookNo) -> Option<Standing> {
        let quiet = || self.quiet.get(&webhook).map(|at_ms| succeeded(*at_ms));
        self.full.get(&webhook).copied().or_else(quiet)
    }

    pub fn insert(&mut self, webhook: WebhookNo, standing: Standing) {
        match standing.last_success_ms.filter(|at_ms| standing == succeeded(*at_ms)) {
            Some(at_ms) => {
                self.full.remove(&webhook);
                self.quiet.insert(webhook, at_ms);
            }
            None => {
                self.quiet.remove(&webhook);
                self.full.insert(webhook, standing);
            }
        }
    }

    /// Changes the one of a webhook.
    pub fn change(&mut self, webhook: WebhookNo, change: impl FnOnce(&mut Standing)) {
        let mut standing = self.get(webhook).unwrap_or_default();
        change(&mut standing);
        self.insert(webhook, standing);
    }

    pub fn remove(&mut self, webhook: WebhookNo) {
        self.full.remove(&webhook);
        self.quiet.remove(&webhook);
    }

    /// Those of which more is to be told than their newest success.
    pub fn full(&self) -> impl Iterator<Item = (WebhookNo, &Standing)> {
        self.full.iter().map(|(no, standing)| (*no, standing))
    }
}

/// How a webhook stands of which nothing but this success is to be told.
fn succeeded(at_ms: Millis) -> Standing {
    Standing { last_success_ms: Some(at_ms), ..Standing::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut standings = Standings::default();
        assert_eq!(standings.get(1), None);
        let failing = Standing { failures: 2, last_success_ms: Some(5), ..Standing::default() };
        // The last of them is one whose row on disk has to be written over.
        for standing in [failing, succeeded(7), failing, Standing::default(), succeeded(8), Standing::default()] {
            standings.insert(1, standing);
            assert_eq!(standings.get(1), Some(standing));
            assert_eq!(standings.full.len() + standings.quiet.len(), 1, "{standing:?}");
            assert_eq!(
                standings.full().count(),
                usize::from(standing.last_success_ms.is_none() || standing == failing)
            );
        }
        standings.change(1, |standing| standing.last_success_ms = Some(9));
        standings.change(2, |standing| standing.dead += 1);
        assert_eq!((standings.get(1), standings.get(2).map(|standing| standing.dead)), (Some(succeeded(9)), Some(1)));
        assert_eq!((standings.full.len(), standings.quiet.len()), (1, 1));
        standings.remove(1);
        standings.remove(2);
        assert_eq!((standings.get(1), standings.get(2)), (None, None));
    }
}
