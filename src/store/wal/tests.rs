//! The write-ahead log over a file in memory: what is read back, what is torn, what is damaged.

use std::sync::Arc;

use redb::backends::InMemoryBackend;

use super::*;

const CAPACITY: u64 = 4_096;

/// A file that outlives the log that was opened on it.
#[derive(Clone, Debug)]
struct Kept(Arc<InMemoryBackend>);

impl StorageBackend for Kept {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

fn kept() -> Kept {
    Kept(Arc::new(InMemoryBackend::new()))
}

fn open(file: &Kept) -> Wal {
    let mut wal = Wal::open(Box::new(file.clone()), CAPACITY).unwrap();
    wal.fill().unwrap();
    wal
}

fn at(tag: u64, next: u64) -> Position {
    Position { tag, next, clean: false }
}

#[test]
fn what_was_appended_is_read_from_where_the_store_stands() {
    let file = kept();
    assert!(!Wal::open(Box::new(file.clone()), CAPACITY).unwrap().is_whole());
    let mut wal = open(&file);
    wal.begin(7).unwrap();
    for content in ["one", "two", "three"] {
        wal.append(content.as_bytes()).unwrap();
    }
    let wal = open(&file);
    assert!(wal.is_whole());
    assert_eq!(wal.read(at(7, 0)).unwrap(), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    assert_eq!(wal.read(at(7, 2)).unwrap(), [b"three".to_vec()]);
    assert_eq!(wal.read(at(7, 3)).unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(wal.read(at(8, 0)).unwrap(), Vec::<Vec<u8>>::new());
    for clean in [false, true] {
        let older = wal.read(Position { clean, ..at(6, 0) });
        assert!(matches!(older, Err(StoreError::Damaged(OLDER))), "{older:?}");
    }
}

#[test]
fn a_new_stretch_hides_what_an_older_one_left_behind() {
    let file = kept();
    let mut wal = open(&file);
    wal.begin(1).unwrap();
    for _ in 0..9 {
        wal.append(b"old").unwrap();
    }
    wal.begin(2).unwrap();
    wal.append(b"new").unwrap();
    assert_eq!(wal.read(at(2, 0)).unwrap(), [b"new".to_vec()]);
    assert_eq!(wal.position(), at(2, 1));
}

#[test]
fn a_torn_record_at_the_end_is_none_and_one_before_others_is_damage() {
    for torn in 0..3_u64 {
        for byte in [0, 9, 17, 21, HEADER_BYTES as u64] {
            let file = kept();
            let mut wal = open(&file);
            wal.begin(3).unwrap();
            let mut starts = Vec::new();
            for content in ["one", "two", "six"] {
                starts.push(wal.offset);
                wal.append(content.as_bytes()).unwrap();
            }
            let place = starts[torn as usize] + byte;
            let mut was = [0];
            file.read(place, &mut was).unwrap();
            file.write(place, &[was[0] ^ 0x40]).unwrap();
            let read = wal.read(at(3, 0));
            assert!(matches!(read, Err(StoreError::Damaged(_))), "{torn} {byte}");
            // A power cut tears what was not synced, and then there is no mark.
            file.write(wal.offset, &[0; HEADER_BYTES]).unwrap();
            let read = wal.read(at(3, 0));
            match torn {
                2 => assert_eq!(read.unwrap(), [b"one".to_vec(), b"two".to_vec()], "{byte}"),
                _ => assert!(matches!(read, Err(StoreError::Damaged(_))), "{torn} {byte}"),
            }
        }
    }
}

#[test]
fn a_front_that_does_not_read_at_all_is_damage_and_a_torn_one_is_not() {
    let file = kept();
    let mut wal = open(&file);
    assert_eq!(wal.read(at(0, 0)).unwrap(), Vec::<Vec<u8>>::new());
    wal.begin(4).unwrap();
    wal.append(b"one").unwrap();
    for tag in 5..9 {
        wal.begin(tag).unwrap();
        wal.append(b"one").unwrap();
        let mut front = [0; FRONT_BYTES];
        file.read(0, &mut front).unwrap();
        for place in [0, PLACE_BYTES] {
            file.write(place as u64, &[0x55; 5]).unwrap();
            assert_eq!(wal.read(at(tag, 0)).unwrap(), [b"one".to_vec()]);
            let next = Position { clean: true, ..at(tag - 2, 0) };
            assert!(matches!(wal.read(next), Err(StoreError::Damaged(OLDER))), "one of them tells");
            file.write(0, &front).unwrap();
        }
        file.write(0, &[0; FRONT_BYTES]).unwrap();
        assert!(matches!(wal.read(at(tag, 0)), Err(StoreError::Damaged(FRONTLESS))));
        assert!(wal.read(Position { clean: true, ..at(tag, 0) }).is_ok());
        file.write(0, &front).unwrap();
    }
}

#[test]
fn it_says_when_it_is_full() {
    let mut wal = open(&kept());
    wal.begin(1).unwrap();
    assert!(wal.is_empty());
    while wal.has_room(100) {
        wal.append(&[1; 100]).unwrap();
    }
    assert_eq!(wal.next, (CAPACITY - FRONT_BYTES as u64) / (100 + HEADER_BYTES as u64));
    assert!(!wal.is_empty());
    assert_eq!(wal.read(at(1, 0)).unwrap().len() as u64, wal.next);
}

#[test]
fn a_position_reads_as_it_was_written() {
    for position in [at(u64::MAX, 5), Position { clean: true, ..at(1, 0) }] {
        assert_eq!(Position::read(&position.to_bytes()).unwrap(), position);
    }
    assert!(Position::read(&[0; 16]).is_err());
}
