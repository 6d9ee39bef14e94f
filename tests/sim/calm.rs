//! Worlds in which nothing is saturated: then every attempt is made at its time, whatever clocks say and however often the
//! daemon starts, and nobody's backlog is felt by anybody else.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use webhookd::clock::Millis;
use webhookd::retry::Policy;

use crate::acts::{TENANTS, found, publish};
use crate::chance::{Chance, each_seed, on_two_cores, seeds, told};
use crate::disk::{Call, Fault, Trouble};
use crate::ledger::{Ledger, Mood, Repeats};
use crate::town::{Life, World};

const LATE_MAX_MS: Millis = 1_000;
const HOUR: Duration = Duration::from_secs(3_600);
/// How long a disk fails, and how soon after that events are taken in again: promised.
const OUTAGE: Duration = Duration::from_secs(600);
const BACK_WITHIN: Duration = Duration::from_secs(5);

fn calm(seed: u64, policy: Policy) -> (Ledger, World) {
    let ledger = Ledger::new(seed, policy);
    ledger.lock().is_calm = true;
    (ledger.clone(), World::new(seed, ledger))
}

/// A webhook of a tenant; as long as there are few, at a host of its own.
async fn hook(life: &Life, tenant: u32, mood: Mood) -> u32 {
    let number = life.ledger.lock().hooks.len();
    let host = u8::try_from(number % 250).unwrap();
    let label = life.register_at(tenant, host, (number as u128 + 1).to_be_bytes()).await;
    life.ledger.lock().hooks.get_mut(&label).unwrap().mood = mood;
    label
}

/// Every wait between two attempts of a delivery lies in the band of its policy, and no attempt is more than a second late.
/// Gives how many waits there were.
fn waits_are_kept(ledger: &Ledger, policy: &Policy) -> usize {
    let book = ledger.lock();
    let mut series: BTreeMap<_, Vec<(Millis, Option<Millis>)>> = BTreeMap::new();
    for (request, failed) in &book.seen {
        series.entry((request.label, request.tag)).or_default().push((request.now, *failed));
    }
    let mut waits = 0;
    for (delivery, attempts) in series {
        for (number, pair) in attempts.windows(2).enumerate() {
            let delay = policy.delays_ms[number] as f64;
            let wait = (pair[1].0 - pair[0].1.unwrap()) as f64;
            let least = delay * (1.0 - policy.jitter) - 1.0;
            let most = delay * (1.0 + policy.jitter) + LATE_MAX_MS as f64;
            assert!(
                (least..=most).contains(&wait),
                "{delivery:?}: {wait} ms after attempt {}, not {delay}",
                number + 1
            );
            waits += 1;
        }
    }
    waits
}

/// Of each of three tenants, every webhook gets every event: 2,790 deliveries at work at once, which share their hours.
const WEBHOOKS: u32 = 310;
const EVENTS: u32 = 3;

/// A world in which everything fails for good, over all of a schedule's days and some starts; gives how many waits there were.
fn all_fail(seed: u64, policy: &Policy) -> usize {
    let (ledger, mut world) = calm(seed, policy.clone());
    {
        // Nobody waits for a place.
        let mut book = ledger.lock();
        (book.permits_of_host, book.permits_of_tenant, book.permits_of_all) = (10_000, 10_000, 10_000);
    }
    let mut hours = 0;
    while hours < 24 * 5 {
        let first = hours == 0;
        world.live(Repeats::Permits, async |chance, life| {
            if first {
                found(&life).await;
                for number in 0..WEBHOOKS * TENANTS {
                    hook(&life, 1 + number % TENANTS, Mood::Broken).await;
                }
                for tag in 0..EVENTS * TENANTS {
                    publish(&life, u64::from(tag), 1 + tag % TENANTS, None, false).await;
                }
            }
            let span = 1 + chance.below(40);
            hours += span;
            sleep(HOUR * u32::try_from(span).unwrap()).await;
            // Not in the middle of an attempt: that would be repeated, and counted twice here.
            while life.dispatcher.in_flight() > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        });
        world.hold();
        world.disk.kill();
    }
    let (made, deliveries) = (ledger.lock().seen.len(), (WEBHOOKS * TENANTS * EVENTS) as usize);
    assert_eq!(ledger.lock().deliveries(), deliveries);
    assert_eq!(made, (policy.delays_ms.len() + 1) * deliveries, "attempts of deliveries that fail for good");
    waits_are_kept(&ledger, policy)
}

#[test]
fn g05_the_whole_schedule_is_kept_across_restarts() {
    let policy = Policy::standard();
    let waits = on_two_cores(&seeds(4), |seed| told("g05", seed, || all_fail(seed, &policy)));
    let waits: usize = waits.iter().sum();
    println!("{waits} waits of up to a day, each in its band and at most {LATE_MAX_MS} ms late");
}

#[test]
fn g11_jumps_of_the_clock_lose_burst_and_stall_nothing() {
    let policy = Policy { delays_ms: vec![5_000, 60_000, 600_000], jitter: 0.2 };
    let mut jumps = 0;
    each_seed("g11", 10, |seed| {
        let (ledger, mut world) = calm(seed, policy.clone());
        world.live(Repeats::None, async |chance, life| {
            found(&life).await;
            let broken = hook(&life, 1, Mood::Broken).await;
            let good = hook(&life, 2, Mood::Good).await;
            // Few enough that the circuit stays closed for first attempts.
            for tag in 0..4 {
                publish(&life, tag, 1, None, false).await;
            }
            for tag in 100..150 {
                life.jump(chance);
                let asked = life.clock.now_ms();
                publish(&life, tag, 2, None, false).await;
                sleep(Duration::from_millis(LATE_MAX_MS)).await;
                let came: Vec<Millis> = {
                    let book = life.ledger.lock();
                    book.seen.iter().filter(|(seen, _)| seen.tag == tag).map(|(seen, _)| seen.now - asked).collect()
                };
                assert!(came.len() == 1 && came[0] <= LATE_MAX_MS, "{tag} came after {came:?}");
                sleep(Duration::from_millis(chance.below(40_000))).await;
            }
            let book = life.ledger.lock();
            let of = |label| book.seen.iter().filter(|(seen, _)| seen.label == label).count();
            assert_eq!((of(broken), of(good)), (16, 50));
        });
        world.hold();
        waits_are_kept(&ledger, &policy);
        jumps += ledger.lock().tally.jumps;
    });
    println!("{jumps} jumps");
}

#[test]
fn g02_what_only_the_spool_knows_is_not_repeated() {
    let policy = Policy { delays_ms: vec![5_000], jitter: 0.2 };
    let mut only_spooled = 0;
    each_seed("g02", 20, |seed| {
        let (_, mut world) = calm(seed, policy.clone());
        world.live(Repeats::None, async |chance, life| {
            found(&life).await;
            hook(&life, 1, Mood::Good).await;
            life.backlog(1, 40).await;
            // The disk takes nothing in from now on, so no outcome is committed; permits come back all the same.
            let everything = &[Call::Write, Call::SetLength, Call::Sync];
            life.disk.set_fault(Some(Fault { calls: everything, nth: 0, trouble: Trouble::Full, lasting: true }));
            sleep(Duration::from_millis(1_000 + chance.below(3_000))).await;
            let delivered = life.ledger.lock().delivered.len();
            assert!(delivered > 6, "permits do not come back: {delivered} delivered");
            only_spooled += delivered;
        });
        world.hold();
        world.disk.kill();
        world.disk.set_fault(None);
        world.live(Repeats::Permits, async |_, life| {
            sleep(Duration::from_secs(60)).await;
            assert_eq!(life.ledger.lock().delivered.len(), 40);
            life.stop().await;
        });
        world.hold();
    });
    println!("{only_spooled} deliveries stood in the spool only");
}

/// The disk fails for ten minutes, and publishers go on asking. Gives how long after it works again one is accepted.
async fn outage(chance: &mut Chance, life: &Life, trouble: Trouble) -> Duration {
    let calls = &[Call::Write, Call::SetLength, Call::Sync];
    life.disk.set_fault(Some(Fault { calls, nth: 0, trouble, lasting: true }));
    let (failed, mut tag) = (Instant::now(), 1);
    while failed.elapsed() < OUTAGE {
        assert!(!publish(life, tag, 1, None, false).await, "{tag} was accepted on a disk that takes nothing");
        tag += 1;
        sleep(Duration::from_millis(chance.below(10_000))).await;
    }
    life.disk.set_fault(None);
    let mended = Instant::now();
    while !publish(life, tag, 1, None, false).await {
        assert!(mended.elapsed() < OUTAGE, "the store does not come back");
        tag += 1;
        sleep(Duration::from_millis(10)).await;
    }
    let took = mended.elapsed();
    sleep(Duration::from_millis(LATE_MAX_MS)).await;
    assert!(life.ledger.lock().delivered.iter().any(|(_, delivered)| *delivered == tag), "{tag} is not delivered");
    took
}

#[test]
fn g09_after_ten_minutes_of_a_failing_disk_events_are_taken_in_within_five_seconds() {
    let policy = Policy { delays_ms: vec![5_000], jitter: 0.2 };
    let mut slowest = Duration::ZERO;
    for trouble in [Trouble::Full, Trouble::Broken, Trouble::Forgotten] {
        each_seed("g09", 5, |seed| {
            let (_, mut world) = calm(seed, policy.clone());
            world.live(Repeats::None, async |chance, life| {
                found(&life).await;
                hook(&life, 1, Mood::Good).await;
                let took = outage(chance, &life, trouble).await;
                assert!(took <= BACK_WITHIN, "{trouble:?}: accepted again after {took:?}");
                slowest = slowest.max(took);
                life.stop().await;
            });
            world.hold();
        });
    }
    println!("accepted again after {slowest:?} at most");
}

#[test]
fn g07_receivers_that_hang_hold_their_tenants_share_only() {
    let policy = Policy { delays_ms: vec![60_000; 5], jitter: 0.2 };
    each_seed("g07", 20, |seed| {
        let (_, mut world) = calm(seed, policy.clone());
        world.live(Repeats::None, async |chance, life| {
            found(&life).await;
            // More than there are permits in all, each at a host of its own.
            for _ in 0..5 {
                hook(&life, 1, Mood::Silent).await;
            }
            let fresh = hook(&life, 2, Mood::Good).await;
            life.backlog(1, 400).await;
            for tag in 1_000_000..1_000_010 {
                sleep(Duration::from_millis(chance.below(1_000))).await;
                publish(&life, tag, 2, None, false).await;
                sleep(Duration::from_millis(LATE_MAX_MS)).await;
                let book = life.ledger.lock();
                let came = book.seen.iter().any(|(seen, _)| (seen.label, seen.tag) == (fresh, tag));
                assert!(came, "{tag} has not come after {LATE_MAX_MS} ms");
            }
        });
        world.hold();
    });
}

#[test]
fn g07_a_backlog_holds_nobody_elses_event_back() {
    let policy = Policy { delays_ms: vec![60_000; 5], jitter: 0.2 };
    let mut slowest = 0;
    each_seed("g07", 100, |seed| {
        let (_, mut world) = calm(seed, policy.clone());
        world.live(Repeats::None, async |chance, life| {
            found(&life).await;
            hook(&life, 1, Mood::Silent).await;
            hook(&life, 1, *chance.pick(&[Mood::Good, Mood::Broken, Mood::Silent]).unwrap()).await;
            let fresh = hook(&life, 2, Mood::Good).await;
            life.backlog(1, 400).await;
            for tag in 1_000_000..1_000_010 {
                sleep(Duration::from_millis(chance.below(4_000))).await;
                let asked = life.clock.now_ms();
                publish(&life, tag, 2, None, false).await;
                sleep(Duration::from_millis(LATE_MAX_MS)).await;
                let book = life.ledger.lock();
                let came = book.seen.iter().find(|(seen, _)| (seen.label, seen.tag) == (fresh, tag));
                let came = came.map(|(seen, _)| seen.now - asked);
                assert!(came.is_some(), "{tag} has not come after {LATE_MAX_MS} ms");
                slowest = slowest.max(came.unwrap());
            }
            let totals = life.store.shared().totals().unwrap();
            assert!(totals.waiting + totals.started + totals.fresh > 300, "the backlog was gone: {totals:?}");
        });
        world.hold();
    });
    println!("the slowest fresh event came after {slowest} ms");
}
