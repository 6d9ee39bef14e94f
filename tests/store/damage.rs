//! Promise 10: a damaged store is refused, or gives what is intact and tells whoever reads the rest; it never gives other bytes
//! than were written, never panics, never starts empty.
//!
//! redb panics on pages that make no sense; that is taken for damage here as by the daemon, and there are no panics of ours.
//! `FLIPS` sets how many damages of each kind are tried.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use webhookd::clock::Clock;
use webhookd::entropy::Entropy;
use webhookd::store::check as store_check;
use webhookd::store::open::{self, OpenError, Place};
use webhookd::store::recover::recover;
use webhookd::store::row;
use webhookd::store::schema::{FORMAT, META, meta};
use webhookd::store::seal::KeyFileError;
use webhookd::store::writer::Parts;

use crate::chance::{Chance, each_of, seeds};
use crate::check::check;
use crate::disk::Disk;
use crate::drafts;
use crate::world::{RETENTION_MS, World, files, open_log, open_on};

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

/// What came of a damaged store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    /// It was not opened.
    Refused,
    /// It opened, and whoever reads what is damaged is told.
    Told,
    /// Everything that was acknowledged is there, as it was.
    Whole,
}

/// The panic hook is the process's: one test at a time has it.
static HOOK: Mutex<()> = Mutex::new(());

/// Runs `work` and gives where it panicked, if it did.
pub(crate) fn panicking<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let _alone = HOOK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let place = Arc::new(Mutex::new(String::new()));
    let (seen, before) = (place.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        let mut place = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A destructor of redb panics in the wake of its panic: the daemon ends, and says why (`cli::last_words`).
        if is_redbs(&place) && info.payload_as_str() == Some("panic in a destructor during cleanup") {
            std::process::exit(ENDED);
        }
        if place.is_empty() {
            *place = info.location().map_or_else(|| "nowhere".to_owned(), |location| location.to_string());
        }
    }));
    let done = catch_unwind(AssertUnwindSafe(work));
    std::panic::set_hook(before);
    done.map_err(|_| place.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
}

/// A panic of redb is taken for damage by whoever reads for the daemon; one of ours is a bug.
pub(crate) fn is_redbs(place: &str) -> bool {
    place.contains("/redb-")
}

/// Opens a damaged store, holds everything against what should be there, and closes it again. `Err`: something was altered,
/// missing or added, and nobody was told.
fn look(world: &World, disk: &Disk) -> Result<Came, String> {
    let (came, closed) = look_once(world, disk)?;
    // The writer outlives a close that redb panics in; the next start finds what that has left.
    if closed { Ok(came) } else { Ok(came.min(look_once(world, disk)?.0)) }
}

fn look_once(world: &World, disk: &Disk) -> Result<(Came, bool), String> {
    let opened = panicking(|| {
        let db = open_on(disk, 1 << 20)?;
        let shared = open::admit(&db, drafts::place(), drafts::sealer(&world.entropy)).map_err(|e| e.to_string())?;
        let recovered =
            recover(db, shared.clone(), &Clock::manual(world.clock.now_ms()), open_log(disk)?, RETENTION_MS);
        recovered.map(|recovered| (recovered.engine, shared)).map_err(|error| error.to_string())
    });
    let (engine, shared) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(_)) => return Ok((Came::Refused, true)),
        Err(place) if is_redbs(&place) => return Ok((Came::Refused, true)),
        Err(place) => return Err(format!("a panic at {place}")),
    };
    let came = match panicking(|| check(&shared, &world.model, &mut world.chance.clone())) {
        Ok(Ok(())) => Came::Whole,
        Ok(Err(why)) if why.contains("the store is damaged") => Came::Told,
        Ok(Err(why)) => return Err(why),
        Err(place) if is_redbs(&place) => Came::Told,
        Err(place) => return Err(format!("a panic at {place}")),
    };
    match panicking(|| drop((engine, shared))) {
        Ok(()) => Ok((came, true)),
        Err(place) if is_redbs(&place) => Ok((came, false)),
        Err(place) => Err(format!("a panic at {place}")),
    }
}

/// Whether `webhookd store check` calls it clean.
fn is_called_clean(world: &World, disk: &Disk) -> Result<bool, String> {
    let sealer = drafts::sealer(&world.entropy);
    let checked = panicking(|| store_check::check(&files(disk), drafts::place(), &sealer, 1 << 20, &mut |_, _, _| {}));
    match checked {
        Ok(report) => Ok(report.is_ok_and(|report| report.is_clean())),
        Err(place) => Err(format!("webhookd store check panics at {place}")),
    }
}

/// Damages of one world.
const OF_ONE_WORLD: u64 = 10;
/// Worlds that were met: a close that redb panics in; a single's name altered; a dead letter with another tenant.
const MET: [u64; 3] = [527, 1_089, 10_441];
/// The number of the damage that a process begins with.
const FROM: &str = "DAMAGE_FROM";
/// The exit code of a process that redb has ended.
const ENDED: i32 = 78;

/// Damages stores of many worlds, closed and killed, and looks what comes of it. In a process of its own: some end it, and the next
/// one goes on behind such a damage.
fn damage_many<D: Fn(&mut Chance, &mut [Vec<u8>; 2])>(name: &str, count: u64, damage: D) -> BTreeMap<Came, u64> {
    if let Ok(from) = std::env::var(FROM) {
        damage_from(from.parse().unwrap(), name, count, damage);
        std::process::exit(0);
    }
    // The test is the one that the closure stands in.
    let test = std::any::type_name::<D>().trim_start_matches("store::").trim_end_matches("::{{closure}}");
    let (mut counts, mut done, mut ended) = (BTreeMap::new(), 0, 0);
    loop {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", test, "--nocapture"]).env(FROM, format!("{done}"));
        let output = process.output().unwrap();
        let [told, why] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        for came in [Came::Refused, Came::Told, Came::Whole] {
            let number = told.lines().filter(|line| *line == format!("damage: {came:?}")).count() as u64;
            if number > 0 {
                *counts.entry(came).or_insert(0) += number;
                done += number;
            }
        }
        match output.status.code() {
            Some(0) => break,
            Some(ENDED) => {
                *counts.entry(Came::Refused).or_insert(0) += 1;
                (done, ended) = (done + 1, ended + 1);
            }
            _ => panic!("{test}, damage {done} ({}): {told}{why}", output.status),
        }
    }
    println!("{name}: {counts:?}; {ended} of those refused ended the process");
    assert_eq!(done, worlds(count).len() as u64 * OF_ONE_WORLD, "damages");
    counts
}

fn worlds(count: u64) -> Vec<u64> {
    let mut worlds = seeds(count.div_ceil(OF_ONE_WORLD));
    if worlds.len() > 1 {
        worlds.extend(MET);
    }
    worlds
}

fn damage_from(from: u64, name: &str, count: u64, damage: impl Fn(&mut Chance, &mut [Vec<u8>; 2])) {
    let mut done = 0;
    each_of(name, worlds(count), |seed| {
        let mut world = World::new(seed.wrapping_add(5_000_000), false);
        for _ in 0..40 {
            world.step().unwrap();
        }
        if let Some(mut engine) = world.engine.take()
            && seed % 2 == 0
        {
            engine.checkpoint(true).unwrap();
        }
        // Redb makes what is committed durable as it is let go of: the killed ones differ from the closed ones in what they say.
        drop(world.shared.take().unwrap().view().unwrap());
        let images = world.disk.images();
        for number in 0..OF_ONE_WORLD {
            let mut damaged = images.clone();
            damage(&mut world.chance, &mut damaged);
            done += 1;
            if done <= from {
                continue;
            }
            let came =
                look(&world, &Disk::of(&damaged)).unwrap_or_else(|why| panic!("damage {number}: silently {why}"));
            let clean =
                is_called_clean(&world, &Disk::of(&damaged)).unwrap_or_else(|why| panic!("damage {number}: {why}"));
            assert!(!clean || came == Came::Whole, "damage {number}: {came:?}, and webhookd store check finds nothing");
            println!("damage: {came:?}");
        }
    });
}

/// How many damages are tried of each kind: `FLIPS`.
fn flips(default: u64) -> u64 {
    std::env::var("FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Where a file is used: its end is zeros.
fn used(image: &[u8]) -> usize {
    image.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1
}

#[test]
fn g10_flipped_bytes_are_told_or_harmless() {
    damage_many("g10 flips", flips(300), |chance, [store, _]| {
        let used = used(store);
        for _ in 0..=chance.below(3) {
            store[chance.index(used)] ^= 1 << chance.below(8);
        }
    });
}

#[test]
fn g10_flips_in_the_header_are_told_or_harmless() {
    damage_many("g10 header", flips(100), |chance, [store, _]| {
        store[chance.index(320)] ^= 1 << chance.below(8);
    });
}

#[test]
fn g10_overwritten_pages_are_told_or_harmless() {
    damage_many("g10 pages", flips(100), |chance, [store, _]| {
        let pages = used(store).div_ceil(4096);
        let page = chance.index(pages) * 4096;
        match chance.index(3) {
            0 => store[page..page + 4096].fill(0),
            1 => store[page..page + 4096].fill(0xff),
            _ => store[page..page + 4096].fill_with(|| chance.bytes::<1>()[0]),
        }
    });
}

#[test]
fn g10_a_truncated_file_is_refused() {
    let counts = damage_many("g10 truncation", flips(100), |chance, [store, _]| {
        store.truncate(1 + chance.index(used(store) - 1));
    });
    assert_eq!(counts.get(&Came::Whole), None, "{counts:?}");
}

#[test]
fn g10_flips_in_the_log_are_refused_or_harmless() {
    let counts = damage_many("g10 log flips", flips(200), |chance, [_, log]| {
        // Half of them where the newest records stand.
        let used = used(log);
        let from = if chance.percent(50) { used.saturating_sub(200) } else { 0 };
        for _ in 0..=chance.below(2) {
            log[from + chance.index(used - from)] ^= 1 << chance.below(8);
        }
    });
    assert!(counts.contains_key(&Came::Refused) && !counts.contains_key(&Came::Told), "{counts:?}");
}

#[test]
fn g10_a_truncated_log_is_refused_unless_the_store_was_closed() {
    let counts = damage_many("g10 log truncation", flips(100), |chance, [_, log]| {
        log.truncate(chance.index(log.len()));
    });
    let halves = [Came::Refused, Came::Whole].map(|came| counts.get(&came).copied().unwrap_or(0) > 0);
    assert!(halves == [true, true] && counts.len() == 2, "{counts:?}");
}

fn opened(place: &Place) -> Result<Parts, OpenError> {
    let clock = Clock::manual(1_700_000_000_000);
    Parts::open(place, &Entropy::seeded(6), &clock, &Arc::default(), RETENTION_MS)
}

#[test]
fn g10_a_store_without_its_log_is_refused_unless_it_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    let place = make(folder.path());
    let log = fs::read(place.wal_file()).unwrap();
    for cut in [0, log.len() / 2] {
        fs::write(place.wal_file(), &log[..cut]).unwrap();
        // The second time too: what is missing must not be made up by the first.
        for _ in 0..2 {
            let Err(OpenError::Refused { why, .. }) = opened(&place) else {
                panic!("it opened with {cut} bytes of its log")
            };
            assert!(why.contains("webhookd.wal"), "{why}");
        }
    }
    fs::write(place.wal_file(), &log).unwrap();
    let mut parts = opened(&place).unwrap();
    assert_eq!(parts.recovered.engine.heads().0, EVENTS + 1);
    parts.recovered.engine.checkpoint(true).unwrap();
    drop(parts);
    fs::remove_file(place.wal_file()).unwrap();
    assert_eq!(opened(&place).unwrap().recovered.engine.heads().0, EVENTS + 1);
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
    assert_eq!(opened(&place).unwrap().recovered.engine.heads().0, EVENTS + 1);
}

#[test]
fn g10_a_newer_format_is_refused_with_the_version_that_opens_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = make(folder.path());
    let put = |format: u64, version: &str| {
        let db = redb::Database::open(place.store_file()).unwrap();
        let txn = db.begin_write().unwrap();
        for (name, value) in [(meta::FORMAT, &format.to_le_bytes()[..]), (meta::VERSION, version.as_bytes())] {
            let row = row::seal(META, &name, value.to_vec());
            txn.open_table(META).unwrap().insert(name, row.as_slice()).unwrap();
        }
        txn.commit().unwrap();
    };
    put(FORMAT + 1, "7.3.1");
    let Err(OpenError::Refused { why, .. }) = opened(&place) else { panic!("it opened") };
    let parts = [format!("format {}", FORMAT + 1), format!("reads format {FORMAT}"), "run webhookd 7.3.1".to_owned()];
    assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    put(FORMAT, "0.1.0");
    assert!(opened(&place).is_ok());
}

#[test]
fn g10_a_store_in_use_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let place = make(folder.path());
    let first = open::open(&place, &Entropy::seeded(6)).unwrap();
    let second = open::open(&place, &Entropy::seeded(7)).err().unwrap();
    assert!(matches!(second, OpenError::Locked(_)), "{second}");
    drop(first);
    assert_eq!(opened(&place).unwrap().recovered.engine.heads().0, EVENTS + 1);
}
