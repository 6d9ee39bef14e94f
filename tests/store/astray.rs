//! Look-ups among altered keys: every key of a small table's pages is altered once, in branches and in leaves, and no row that is
//! there is said not to be.

use std::ops::Bound;

use redb::{Builder, ReadableDatabase as _};
use webhookd::store::lookup;
use webhookd::store::row;
use webhookd::store::schema::FATES;

use crate::chance::Chance;
use crate::damage::{is_redbs, panicking};
use crate::disk::Disk;

const ROWS: u64 = 900;
const PAGE: usize = 4096;

/// Rows under even keys.
fn make(rows: u64) -> Disk {
    let disk = Disk::default();
    let db = Builder::new().create_with_backend(disk.handle()).unwrap();
    let txn = db.begin_write().unwrap();
    for key in (2..=2 * rows).step_by(2) {
        let value = row::seal(FATES, &key, vec![7; 100]);
        txn.open_table(FATES).unwrap().insert(key, value.as_slice()).unwrap();
    }
    txn.commit().unwrap();
    drop(db);
    disk
}

/// Where the keys of a page stand, if it is one of a tree of u64s: branches and leaves of redb 4 say what they are, and how much
/// they hold, in their first four bytes.
fn keys(image: &[u8], page: usize) -> Option<(bool, std::ops::Range<usize>)> {
    let count = usize::from(u16::from_le_bytes([image[page + 2], image[page + 3]]));
    let keys = match image[page] {
        1 if (2..=100).contains(&count) => page + 4 + 4 * count,
        2 if (2..=100).contains(&count) => page + 8 + 24 * (count + 1),
        _ => return None,
    };
    // Other trees have other keys.
    let found =
        image.get(keys..keys + 8 * count)?.chunks_exact(8).map(|key| u64::from_le_bytes(key.try_into().unwrap()));
    let rising = found.clone().is_sorted() && found.clone().all(|key| (1..=2 * ROWS).contains(&key));
    rising.then_some((image[page] == 2, keys..keys + 8 * count))
}

/// What an altered store hides: (from redb's own look-ups, from ours without a word).
fn hidden(image: &[Vec<u8>; 2], chance: &mut Chance) -> (u64, u64) {
    let db = Builder::new().create_with_backend(Disk::of(image).handle()).unwrap();
    let table = db.begin_read().unwrap().open_table(FATES).unwrap();
    let (mut plain, mut silent) = (0, 0);
    for key in (2..=2 * ROWS).step_by(2) {
        plain += u64::from(table.get(key).unwrap().is_none());
        silent += u64::from(lookup::get(&table, &FATES, &key).is_ok_and(|found| found.is_none()));
    }
    for _ in 0..40 {
        let low = 2 + chance.below(2 * ROWS - 2);
        let high = low + chance.below(2 * ROWS - low);
        let wanted: Vec<u64> = (low..=high).filter(|key| key % 2 == 0).collect();
        let (from, to) = (Bound::Included(&low), Bound::Included(&high));
        for falling in [false, true] {
            let walk = if falling {
                lookup::falling(&table, &FATES, from, to)
            } else {
                lookup::rising(&table, &FATES, from, to)
            };
            let found: Result<Vec<u64>, _> = walk.and_then(|walk| {
                walk.map(|pair| {
                    let (key, value) = pair?;
                    row::open(FATES, &key.value(), value.value())?;
                    Ok(key.value())
                })
                .collect()
            });
            let Ok(mut found) = found else { continue };
            if falling {
                found.reverse();
            }
            silent += u64::from(found != wanted);
        }
    }
    (plain, silent)
}

#[test]
fn g10_no_altered_key_hides_a_row() {
    let chance = &mut Chance::new(11);
    let whole = make(ROWS).images();
    assert_eq!(hidden(&whole, chance), (0, 0));
    let (mut of_branches, mut of_leaves) = (0, 0);
    for page in (0..whole[0].len()).step_by(PAGE) {
        let Some((is_branch, keys)) = keys(&whole[0], page) else { continue };
        for place in keys.step_by(if is_branch { 5 } else { 127 }) {
            let mut altered = whole.clone();
            altered[0][place] ^= 1 << chance.below(8);
            let (plain, silent) = hidden(&altered, chance);
            assert_eq!(silent, 0, "altered at {place}, branch: {is_branch}");
            *if is_branch { &mut of_branches } else { &mut of_leaves } += u64::from(plain > 0);
        }
    }
    println!("alterations that hide rows from redb: {of_branches} in branches, {of_leaves} in leaves");
    assert!(of_branches > 20 && of_leaves > 20, "{of_branches} in branches, {of_leaves} in leaves");
}

/// Reads a whole table: how many rows come. `None`: damage is told, by us or, in a build with its assertions, by a panic of redb.
fn read_whole(image: &[Vec<u8>; 2]) -> Option<usize> {
    let read = panicking(|| {
        let db = Builder::new().create_with_backend(Disk::of(image).handle()).unwrap();
        let table = db.begin_read().unwrap().open_table(FATES).unwrap();
        let walk = lookup::whole(&table, &FATES).ok()?;
        walk.map(|pair| pair.ok().map(|_| 1)).sum()
    });
    read.unwrap_or_else(|place| {
        assert!(is_redbs(&place), "a panic at {place}");
        None
    })
}

#[test]
fn g10_a_table_that_is_read_whole_misses_no_leaf() {
    let whole = make(ROWS).images();
    assert_eq!(read_whole(&whole), usize::try_from(ROWS).ok());
    let of = |branch| {
        let pages = (0..whole[0].len()).step_by(PAGE);
        pages.filter(|page| keys(&whole[0], *page).is_some_and(|(is, _)| is == branch)).collect::<Vec<_>>()
    };
    let (mut emptied, mut led) = (0, 0);
    for leaf in of(false) {
        let mut altered = whole.clone();
        altered[0][leaf + 2..leaf + 4].copy_from_slice(&[0, 0]);
        assert_eq!(read_whole(&altered), None, "the leaf at {leaf} says that it is empty");
        emptied += 1;
    }
    for branch in of(true) {
        let children = usize::from(u16::from_le_bytes([whole[0][branch + 2], whole[0][branch + 3]])) + 1;
        let number = |child: usize| branch + 8 + 16 * children + 8 * child;
        for child in 0..children {
            for other in (0..children).filter(|other| *other != child) {
                let mut altered = whole.clone();
                let (to, from) = (number(child), number(other));
                altered[0].copy_within(from..from + 8, to);
                assert_eq!(read_whole(&altered), None, "child {child} of {branch} leads to the place of {other}");
                led += 1;
            }
        }
    }
    println!("{emptied} leaves emptied, {led} led to in another's place");
    assert!(emptied > 10 && led > 100, "{emptied} emptied, {led} led elsewhere");
}

#[test]
fn g10_a_leaf_that_says_it_is_empty_is_not_an_empty_table() {
    let mut image = make(4).images();
    let pages = (0..image[0].len()).step_by(PAGE);
    let leaves: Vec<usize> = pages.filter(|page| keys(&image[0], *page).is_some()).collect();
    assert!(!leaves.is_empty());
    for page in leaves {
        image[0][page + 2] ^= 4;
    }
    let db = Builder::new().create_with_backend(Disk::of(&image).handle()).unwrap();
    let table = db.begin_read().unwrap().open_table(FATES).unwrap();
    assert!(table.get(2).unwrap().is_none(), "redb takes it for empty");
    assert!(lookup::get(&table, &FATES, &2).is_err());
    for (low, high) in [(1, 9), (3, 3)] {
        let (low, high) = (Bound::Included(&low), Bound::Included(&high));
        assert!(lookup::rising(&table, &FATES, low, high).unwrap().next().unwrap().is_err());
        assert!(lookup::falling(&table, &FATES, low, high).unwrap().next().unwrap().is_err());
    }
    assert!(lookup::rising(&table, &FATES, Bound::Unbounded, Bound::Unbounded).unwrap().next().unwrap().is_err());
}
