//! Watches the files of the certificate that we show. Owns when they count as changed: once they stand still, so that a pair of which
//! only one half is written yet is not taken for a bad one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What tells one state of a file from another; a link's is that of what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    /// Device, inode, length, time of change in seconds and nanoseconds; `None`: it can't be looked at.
    state: Option<(u64, u64, u64, i64, i64)>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let state = fs::metadata(path).ok();
        let state = state.map(|file| (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
        Self { path: path.to_owned(), state }
    }
}

type Pair = [Stamp; 2];

fn look(files: (&Path, &Path)) -> Pair {
    [Stamp::of(files.0), Stamp::of(files.1)]
}

/// The files as they were when they were last read, and when they were last looked at.
#[derive(Default)]
pub struct Watched {
    read: Option<Pair>,
    seen: Option<Pair>,
}

impl Watched {
    /// These files, if any are named, as they are now: to be taken note of before they are read.
    #[must_use]
    pub fn of(files: Option<(&Path, &Path)>) -> Self {
        let mut watched = Self::default();
        if let Some(files) = files {
            watched.note(files);
        }
        watched
    }

    /// Takes note of files that are being read, or were not taken: only another change is news.
    pub fn note(&mut self, files: (&Path, &Path)) {
        let now = look(files);
        self.read = Some(now.clone());
        self.seen = Some(now);
    }

    /// Looks again. True: they have changed since they were read, and stood still since the last look.
    #[must_use]
    pub fn has_changed(&mut self, files: (&Path, &Path)) -> bool {
        let now = look(files);
        let changed = self.read.as_ref().is_some_and(|read| *read != now) && self.seen.as_ref() == Some(&now);
        self.seen = Some(now);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_counts_as_changed_once_it_stands_still() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["cert", "key", "new"].map(|name| folder.path().join(name));
        let [cert, key, new] = &paths;
        let files = (cert.as_path(), key.as_path());
        fs::write(cert, "1").unwrap();
        fs::write(key, "1").unwrap();
        let mut watched = Watched::default();
        assert!(!watched.has_changed(files) && !watched.has_changed(files), "nothing was read yet");
        watched.note(files);
        assert!(!watched.has_changed(files));
        fs::write(cert, "22").unwrap();
        assert!(!watched.has_changed(files), "the other half may be on its way");
        fs::write(key, "22").unwrap();
        assert!(!watched.has_changed(files), "it is");
        assert!(watched.has_changed(files));
        watched.note(files);
        assert!(!watched.has_changed(files) && !watched.has_changed(files), "what was not taken is not tried again");
        // Replaced by another file of the same length, as by a rename.
        fs::write(new, "33").unwrap();
        fs::rename(new, key).unwrap();
        assert!(!watched.has_changed(files) && watched.has_changed(files));
        watched.note(files);
        fs::remove_file(key).unwrap();
        assert!(!watched.has_changed(files) && watched.has_changed(files), "gone is a change too");
    }
}
