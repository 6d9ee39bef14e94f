//! Promise 10: a damaged store is refused or reads with what is intact; it never panics, never starts empty.
//!
//! redb asserts its own structure in debug builds and panics there on a damaged page; such panics are caught and counted
//! here, and there are none of ours. `FLIPS` sets how many damages are tried.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use webhookd::clock::Clock;
use webhookd::entropy::Entropy;
use webhookd::store::open::{self, OpenError, Place};
use webhookd::store::page::EventQuery;
use webhookd::store::recover::recover;
use webhookd::store::seal::KeyFileError;
use webhookd::store::writer::Parts;

use crate::chance::Chance;
use crate::drafts;
use crate::world::RETENTION_MS;

const EVENTS: u64 = 120;

fn place(folder: &Path) -> Place {
    Place { state_dir: folder.to_owned(), key_file: None, cache_bytes: 1 << 20 }
}

/// A closed store with some events in it.
fn make(folder: &Path) -> Place {
    let place = place(folder);
    let entropy = Entropy::seeded(5);
    let (db, shared) = open::open(&place, &entropy).unwrap();
    let clock = Clock::manual(1_700_000_000_000);
    let mut engine =
        recover(db, shared, &clock, open::open_wal(&place.wal_file()).unwrap(), RETENTION_MS).unwrap().engine;
    engine.set_flush_at(50);
    let setup = [drafts::put_tenant("acme"), drafts::create_webhook(1, [1; 16], &["*"])];
    engine.apply(&setup).unwrap();
    for number in 0..EVENTS / 4 {
        let drafts = (0..4).map(|i| drafts::draft(1, "ping", data(number * 4 + i)));
        let accept = drafts::accept(drafts.collect(), Some([number as u8; 16]));
        engine.apply(&[webhookd::store::op::Op::Accept(accept)]).unwrap();
    }
    place
}

fn data(number: u64) -> Bytes {
    Bytes::from(format!("{{\"n\":{number}}}"))
}

/// What came of opening a damaged store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Refused,
    /// It opened and says of some of its content that it is damaged.
    Damaged,
    /// It opened and gives other bytes than were accepted: nothing checks the inside of a value.
    Altered,
    Whole,
}

/// Opens and reads everything; `Err` names what must not be.
fn look(place: &Place) -> Result<Came, String> {
    let clock = Clock::manual(1_700_000_000_000);
    let parts = match Parts::open(place, &Entropy::seeded(6), &clock, &Arc::default(), RETENTION_MS) {
        Ok(parts) => parts,
        Err(OpenError::Refused { .. }) => return Ok(Came::Refused),
        Err(other) => return Err(format!("not refused but: {other}")),
    };
    let (next_event, _) = parts.recovered.engine.heads();
    if next_event == 1 {
        return Err("it starts empty".to_owned());
    }
    let shared = &parts.shared;
    let view = shared.view().map_err(|error| error.to_string())?;
    let (mut count, mut intact) = (0, true);
    let scanned = view.scan_events(1, |event| {
        intact &= event.data == Some(data(count)) && event.seq == count + 1 && event.matched == [1];
        count += 1;
        true
    });
    let query = EventQuery { tenant: 1, ascending: true, limit: 1_000, ..EventQuery::default() };
    let page = shared.events_page(&query);
    match (scanned, page) {
        (Ok(()), Ok(page)) if count == EVENTS && page.items.len() as u64 == EVENTS => {
            Ok(if intact { Came::Whole } else { Came::Altered })
        }
        (Ok(()), Ok(page)) => Err(format!("silently {count} events, {} listed", page.items.len())),
        _ => Ok(Came::Damaged),
    }
}

#[derive(Debug, Default)]
struct Count {
    refused: u64,
    damaged: u64,
    altered: u64,
    whole: u64,
    panicked_in_redb: u64,
    silent: u64,
}

/// The panic hook is the process's: one test at a time has it.
static HOOK: Mutex<()> = Mutex::new(());

/// Damages a closed store many times; each damage is given to `look` in a folder of its own.
fn damage_many(count: u64, mut damage: impl FnMut(&mut Chance, &mut Vec<u8>)) -> Count {
    let _alone = HOOK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let place = make(folder.path());
    let image = fs::read(place.store_file()).unwrap();
    let mut counts = Count::default();
    let place_of_panic = Arc::new(Mutex::new(String::new()));
    let seen = place_of_panic.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        *seen.lock().unwrap() = info.location().map_or_else(String::new, |l| l.to_string());
    }));
    let mut wrong = Vec::new();
    let mut places = std::collections::BTreeMap::<String, u64>::new();
    for seed in 0..count {
        let mut chance = Chance::new(seed);
        let mut damaged = image.clone();
        damage(&mut chance, &mut damaged);
        fs::write(place.store_file(), &damaged).unwrap();
        match catch_unwind(AssertUnwindSafe(|| look(&place))) {
            Ok(Ok(Came::Refused)) => counts.refused += 1,
            Ok(Ok(Came::Damaged)) => counts.damaged += 1,
            Ok(Ok(Came::Altered)) => counts.altered += 1,
            Ok(Ok(Came::Whole)) => counts.whole += 1,
            Ok(Err(why)) if why.starts_with("silently") => counts.silent += 1,
            Ok(Err(why)) => wrong.push(format!("damage {seed}: {why}")),
            Err(_) => {
                let place = place_of_panic.lock().unwrap().clone();
                if place.contains("/redb-") {
                    counts.panicked_in_redb += 1;
                    let short = place.rsplit("/redb-").next().unwrap_or_default().to_owned();
                    *places.entry(short).or_default() += 1;
                } else {
                    wrong.push(format!("damage {seed}: a panic at {place}"));
                }
            }
        }
    }
    std::panic::set_hook(before);
    println!("{counts:?}, panics {places:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    counts
}

fn flips() -> u64 {
    std::env::var("FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(250)
}

#[test]
fn g10_flipped_bytes_are_refused_or_harmless() {
    damage_many(flips(), |chance, image| {
        // Half of them where the file is used at all: its end is zeros.
        let used = image.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        for _ in 0..=chance.below(3) {
            let at = chance.index(used);
            image[at] ^= 1 << chance.below(8);
        }
    });
}

#[test]
fn g10_overwritten_pages_are_refused_or_harmless() {
    damage_many(flips() / 2, |chance, image| {
        let used = image.iter().rposition(|byte| *byte != 0).unwrap_or(0) / 4096 + 1;
        let page = chance.index(used) * 4096;
        let fill = if chance.percent(50) { 0 } else { 0xff };
        image[page..page + 4096].fill(fill);
    });
}

#[test]
fn g10_a_store_without_its_log_is_refused_unless_it_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    let place = make(folder.path());
    let opened = || {
        let clock = Clock::manual(1_700_000_000_000);
        Parts::open(&place, &Entropy::seeded(6), &clock, &Arc::default(), RETENTION_MS)
    };
    let log = fs::read(place.wal_file()).unwrap();
    for cut in [0, log.len() / 2] {
        fs::write(place.wal_file(), &log[..cut]).unwrap();
        // The second time too: what is missing must not be made up by the first.
        for _ in 0..2 {
            let Err(OpenError::Refused { why, .. }) = opened() else { panic!("it opened with {cut} bytes of its log") };
            assert!(why.contains("webhookd.wal"), "{why}");
        }
    }
    fs::write(place.wal_file(), &log).unwrap();
    let mut parts = opened().unwrap();
    assert_eq!(parts.recovered.engine.heads().0, EVENTS + 1);
    parts.recovered.engine.checkpoint(true).unwrap();
    drop(parts);
    fs::remove_file(place.wal_file()).unwrap();
    assert_eq!(opened().unwrap().recovered.engine.heads().0, EVENTS + 1);
}

#[test]
fn g10_a_truncated_file_is_refused() {
    let counts = damage_many(flips() / 5, |chance, image| {
        let length = 1 + chance.index(image.len() - 1);
        image.truncate(length);
    });
    assert_eq!(counts.whole, 0, "{counts:?}");
}

#[test]
fn g10_an_empty_or_foreign_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let place = make(folder.path());
    for content in [&b""[..], b"hello", &[0; 8192]] {
        fs::write(place.store_file(), content).unwrap();
        let refused = open::open(&place, &Entropy::seeded(6)).err().unwrap();
        assert!(matches!(refused, OpenError::Refused { .. }), "{refused}");
        assert_eq!(fs::read(place.store_file()).unwrap(), content);
    }
}

#[test]
fn g10_a_wrong_missing_or_open_key_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = make(folder.path());
    let key_file = place.key_file();
    let key = fs::read(&key_file).unwrap();
    let refused = || open::open(&place, &Entropy::seeded(6)).err().unwrap();

    fs::write(&key_file, "ab".repeat(32)).unwrap();
    let error = refused();
    assert!(matches!(&error, OpenError::Refused { why, .. } if why.contains("another key")), "{error}");
    fs::write(&key_file, "no key").unwrap();
    assert!(matches!(refused(), OpenError::Key(KeyFileError::Malformed(_))));
    fs::write(&key_file, &key).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(refused(), OpenError::Key(KeyFileError::Open(_))));
    fs::remove_file(&key_file).unwrap();
    assert!(matches!(refused(), OpenError::Key(KeyFileError::Read { .. })));
    assert!(!key_file.exists(), "no new key for an old store");

    fs::write(&key_file, &key).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(look(&place), Ok(Came::Whole));
}

#[test]
fn g10_a_store_in_use_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let place = make(folder.path());
    let first = open::open(&place, &Entropy::seeded(6)).unwrap();
    let second = open::open(&place, &Entropy::seeded(7)).err().unwrap();
    assert!(matches!(second, OpenError::Locked(_)), "{second}");
    drop(first);
    assert_eq!(look(&place), Ok(Came::Whole));
}
