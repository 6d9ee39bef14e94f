//! How many lanes stay in memory.

use super::*;

const KEPT: usize = 4;

#[tokio::test]
async fn beyond_those_that_are_kept_a_lane_goes_when_it_has_nothing_to_do() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let place = Place { state_dir: folder.path().to_owned(), key_file: None, cache_bytes: 4 << 20 };
    let parts = Parts::open(&place, &Entropy::seeded(1), &clock, &Arc::default(), DAY_MS).unwrap();
    let plans = Arc::new(Plans::with_default(slow()));
    let daemon = Daemon::set(parts, Settings { plans, lanes_kept: KEPT, ..Settings::default() });
    let (good, bad) = (Receiver::start(204).await, Receiver::start(500).await);
    let failing = daemon.webhook("failing", &bad).await;
    let mut others = Vec::new();
    for count in 0..12 {
        others.push(daemon.webhook(&format!("t{count}"), &good).await);
    }
    daemon.publish(failing, 1).await;
    eventually("it has failed", || daemon.standing(failing).started == 1).await;
    // Twice, so that lanes come back.
    for turn in 1..3 {
        for no in &others {
            daemon.publish(*no, 3).await;
        }
        eventually("all are delivered", || good.count() == turn * others.len() * 3).await;
        daemon.settled().await;
    }
    eventually("those that are done have gone", || daemon.dispatcher.lanes() <= KEPT).await;
    assert!(daemon.dispatcher.cell(failing).is_some(), "its retry would be forgotten");
    assert!(good.times().values().all(|times| *times == 1));
    daemon.stop().await;
}
