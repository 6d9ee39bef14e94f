//! The watermark against a naive set of open deliveries.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::store::fresh::Fresh;

proptest! {
    #[test]
    fn the_watermark_is_the_oldest_open_event(
        groups in prop::collection::vec((prop::collection::vec(0_u32..3, 0..4), prop::collection::vec(any::<usize>(), 0..5)), 1..40)
    ) {
        let mut fresh = Fresh::new(1, 1);
        let mut open: BTreeSet<(u64, u32)> = BTreeSet::new();
        let (mut next_event, mut next_journal) = (1_u64, 1_u64);
        // Where the journal stood when each event was accepted: nothing about it can stand lower.
        let mut earliest = vec![];
        for (events, resolved) in groups {
            fresh.point(next_event, next_journal);
            let journal_before = next_journal;
            for pick in resolved {
                let Some(delivery) = open.iter().nth(pick % open.len().max(1)).copied() else { continue };
                open.remove(&delivery);
                prop_assert!(fresh.resolve(delivery.0, delivery.1));
                next_journal += 1;
            }
            for deliveries in events {
                open.extend((0..deliveries).map(|webhook| (next_event, webhook)));
                fresh.push(0..deliveries);
                earliest.push(journal_before);
                next_event += 1;
            }
            let mark = fresh.mark(9);
            let oldest = open.first().map_or(next_event, |(event, _)| *event);
            prop_assert_eq!(mark.event, oldest);
            prop_assert_eq!(mark.at_ms, 9);
            if let Some(journal) = earliest.get(oldest as usize - 1) {
                prop_assert!(mark.journal <= *journal, "records about event {} may stand at {}, mark says {}", oldest, journal, mark.journal);
            }
            for event in 1..next_event {
                prop_assert_eq!(fresh.is_open(event), open.range((event, 0)..(event + 1, 0)).next().is_some());
            }
            prop_assert_eq!((fresh.len(), fresh.is_empty()), (open.len() as u64, open.is_empty()));
            for webhook in 0..3 {
                prop_assert_eq!(fresh.count_of(webhook), open.iter().filter(|(_, of)| *of == webhook).count() as u64);
            }
        }
    }
}
