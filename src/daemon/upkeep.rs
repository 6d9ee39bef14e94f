//! What the daemon does for its store by itself. Owns when: the room is measured every second, and what has served its time is
//! removed every minute, or at once when there is no room, the store is larger than it may be, or the limits are others.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::limits::ROOM_EVERY;
use crate::service::{self, Service};

/// How often what has served its time is looked for.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Looks after the room that the store has, and removes what has served its time, until the daemon stops.
pub(super) async fn keep_up(service: Arc<Service>, closing: CancellationToken) {
    tokio::select! {
        () = closing.cancelled() => {}
        () = measure_room(&service) => {}
        () = remove_old(&service) => {}
    }
}

async fn measure_room(service: &Service) {
    let mut ticks = every(ROOM_EVERY);
    loop {
        ticks.tick().await;
        match service.measure_room().await {
            Ok(seen) => service.watch_volume(&seen),
            Err(error) => tracing::debug!(%error, "the store's room is measured later"),
        }
    }
}

async fn remove_old(service: &Service) {
    let mut ticks = every(UPKEEP_INTERVAL);
    loop {
        // When there is no room, or the limits are others now, that can't wait.
        tokio::select! {
            _ = ticks.tick() => {}
            () = service.retention_wanted() => ticks.reset(),
        }
        if let Err(error) = service.tidy().await {
            tracing::warn!(%error, "what has served its time is removed later");
        }
        match service.keep_retention().await {
            // Somebody has asked for a run that is under way.
            Ok(_) | Err(service::Error::Conflict { .. }) => {}
            Err(error) => tracing::warn!(%error, "what was kept for long enough is removed later"),
        }
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
