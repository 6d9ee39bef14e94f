//! The disk by itself: what synced appends cost here, and what a folder takes up.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use crate::histogram::Histogram;

const APPENDS: usize = 500;
const APPEND_BYTES: usize = 4096;

/// p50 and p99 of appending 4 KiB and `fdatasync`, in microseconds, in `folder`.
pub fn synced_append_us(folder: &Path) -> (u64, u64) {
    let path = folder.join("append.probe");
    let mut file = File::create(&path).expect("a file for the disk probe");
    let block = [0x5a_u8; APPEND_BYTES];
    let mut histogram = Histogram::new();
    for _ in 0..APPENDS {
        let started = Instant::now();
        file.write_all(&block).expect("an append");
        file.sync_data().expect("a sync");
        histogram.record(u64::try_from(started.elapsed().as_micros()).expect("microseconds fit"));
    }
    std::fs::remove_file(&path).expect("removing the disk probe");
    (histogram.quantile_us(0.5), histogram.quantile_us(0.99))
}

/// Appends of `bytes` with `fdatasync` in a second, one after the other for `seconds`, in `folder`.
pub fn synced_appends_per_s(folder: &Path, bytes: usize, seconds: f64) -> f64 {
    let path = folder.join("append.log");
    let mut file = File::create(&path).expect("a file for the raw log");
    let block = vec![0x5a_u8; bytes];
    let (started, mut appends) = (Instant::now(), 0_u64);
    while started.elapsed().as_secs_f64() < seconds {
        file.write_all(&block).expect("an append");
        file.sync_data().expect("a sync");
        appends += 1;
    }
    let per_s = appends as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(&path).expect("removing the raw log");
    per_s
}

/// Bytes that a file has allocated, and its length.
pub fn file_bytes(path: &Path) -> (u64, u64) {
    let metadata = std::fs::metadata(path).expect("the file");
    (metadata.blocks() * 512, metadata.len())
}

/// Bytes that all files below `folder` have allocated, and their lengths.
pub fn usage_bytes(folder: &Path) -> (u64, u64) {
    let (mut allocated, mut length) = (0, 0);
    let Ok(entries) = std::fs::read_dir(folder) else { return (0, 0) };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            let below = usage_bytes(&entry.path());
            allocated += below.0;
            length += below.1;
        } else if metadata.is_file() {
            allocated += metadata.blocks() * 512;
            length += metadata.len();
        }
    }
    (allocated, length)
}
