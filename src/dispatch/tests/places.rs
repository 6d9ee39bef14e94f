//! What attempts that start together hold in common, while what they were started by changes.

use super::*;
use crate::dispatch::attempt;
use crate::dispatch::gate::Gate;
use crate::dispatch::lane::Next;
use crate::dispatch::places::{Departure, Places};
use crate::dispatch::settings::Plan;

fn open(folder: &Path) -> Daemon {
    let place = Place { state_dir: folder.to_owned(), key_file: None, cache_bytes: 4 << 20 };
    let parts = Parts::open(&place, &Entropy::seeded(1), &Clock::system(), &Arc::default(), DAY_MS).unwrap();
    let plans = Arc::new(Plans::with_default(slow()));
    let one_each = Settings { plans, max_in_flight_per_webhook: 1, max_in_flight_per_host: 1, ..Settings::default() };
    Daemon::set(parts, one_each)
}

#[tokio::test]
async fn places_go_back_where_they_were_taken() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = open(folder.path());
    let (receiver, elsewhere) = (Receiver::start(0).await, Receiver::start(204).await);
    let (moves, waits) = (daemon.webhook("moves", &receiver).await, daemon.webhook("waits", &receiver).await);
    daemon.publish(moves, 1).await;
    eventually("the one place of that host is taken", || receiver.count() == 1).await;
    daemon.publish(waits, 1).await;
    daemon.patch(moves, WebhookPatch { url: Some(elsewhere.url()), ..WebhookPatch::default() }).await;
    receiver.set(204);
    eventually("who waited for it has it", || receiver.count() == 2).await;
    daemon.settled().await;
    daemon.stop().await;
}

#[tokio::test]
async fn each_place_goes_back_once() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = open(folder.path());
    let receiver = Receiver::start(204).await;
    let no = daemon.webhook("acme", &receiver).await;
    let cell = daemon.dispatcher.cell_or_new(no).unwrap();
    let gate = Arc::new(Gate::new(5));
    let rules = Rules { require_https: false, allow: vec!["127.0.0.0/8".parse().unwrap()], ..Rules::default() };
    let webhook = cell.lane().plan.webhook.clone();
    let plan = Arc::new(Plan::new(webhook, None, &Settings::default(), &rules, |_, _| gate.clone(), NOW));
    let worker = Worker::new(0, daemon.dispatcher.clone());
    let departure = Arc::new(Departure { worker, cell, plan, changes: 0 });
    let enter = || (0..9).filter(|_| Gate::enter([Some(&gate), None], &daemon.dispatcher.all, no)).count();
    assert_eq!(enter(), 5);
    let mut taken: Vec<Places> = (0..5).map(|_| Places::taken(departure.clone())).collect();
    taken[1].give_back();
    drop(taken.pop());
    assert_eq!(enter(), 2);
    Places::give_all_back(taken.iter_mut());
    drop(taken);
    assert_eq!(enter(), 3);
    daemon.stop().await;
}

#[tokio::test]
async fn what_is_changed_between_start_and_attempt_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = open(folder.path());
    let (receiver, elsewhere) = (Receiver::start(204).await, Receiver::start(204).await);
    let no = daemon.webhook("acme", &receiver).await;
    let cell = daemon.dispatcher.cell_or_new(no).unwrap();
    let start = |event| {
        cell.lane().push_fresh(event, None);
        let (mut lane, changes) = (cell.lane(), cell.changes());
        let plan = lane.plan.clone();
        let Next::Start(work) = lane.next(&mut plan.doors(&daemon.dispatcher.all), false, NOW) else {
            panic!("it waits")
        };
        drop(lane);
        let worker = Worker::new(0, daemon.dispatcher.clone());
        (work, Places::taken(Arc::new(Departure { worker, cell: cell.clone(), plan, changes })))
    };
    // Nobody hears of an event of this tenant: it is put into the lane by hand.
    let id = TenantId::parse("nobody").unwrap();
    let Done::Tenant(nobody) = daemon.ask(Op::PutTenant { id, name: None, plan: None }).await else {
        panic!("no tenant")
    };
    let event = daemon.publish(nobody.no, 1).await[0].seq;
    let (work, places) = start(event);
    daemon.patch(no, WebhookPatch { url: Some(elsewhere.url()), ..WebhookPatch::default() }).await;
    attempt::run(work, places).await;
    assert_eq!((receiver.count(), elsewhere.count()), (0, 1), "it went where the webhook was");
    daemon.stop().await;
}
