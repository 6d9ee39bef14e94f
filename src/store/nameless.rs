//! A file that has no name until it is whole. Owns the rule that who makes a file that counts leaves nothing behind when
//! killed in the middle, and never replaces one that is there.
//!
//! Where the file system can make a file without a name (`O_TMPFILE`), the kernel removes what was not finished. Elsewhere it
//! has a temporary name, which goes with this value; a kill leaves it behind then, and the next try takes its place.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// Not finished yet.
#[derive(Debug)]
pub struct Nameless {
    file: File,
    path: PathBuf,
    /// Its name for now, where it needs one.
    temporary: Option<PathBuf>,
}

impl Nameless {
    /// Makes a file, mode 0600, that is to be `path` one day.
    ///
    /// # Errors
    /// When its folder can't be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(folder_of(path), flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Self { file: file.into(), path: path.to_owned(), temporary: None }),
            // The ways in which file systems and old kernels say that they can't.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
                Self::create_named(path)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn create_named(path: &Path) -> io::Result<Self> {
        let mut name: OsString = path.file_name().unwrap_or(OsStr::new("file")).to_owned();
        name.push(".unfinished");
        let temporary = folder_of(path).join(name);
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary)?;
        Ok(Self { file, path: path.to_owned(), temporary: Some(temporary) })
    }

    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Syncs it and gives it its name; refuses to replace a file that has it.
    ///
    /// # Errors
    /// `AlreadyExists`, or when the disk fails; then nothing has the name.
    pub fn keep(self) -> io::Result<()> {
        self.file.sync_all()?;
        let from = match &self.temporary {
            Some(temporary) => temporary.clone(),
            None => PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd())),
        };
        rustix::fs::linkat(CWD, &from, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)?;
        File::open(folder_of(&self.path))?.sync_all()
    }
}

impl Drop for Nameless {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What can't be removed now is by the next try.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// The folder that a file is in.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_has_its_name_when_it_is_whole_and_replaces_nothing() {
        for create in [Nameless::create, Nameless::create_named] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store");
            drop(create(&path).unwrap());
            assert!(names(folder.path()).is_empty(), "nothing is left of what was given up");
            let made = create(&path).unwrap();
            made.file().write_all(b"whole").unwrap();
            assert!(!path.exists());
            made.keep().unwrap();
            assert_eq!(names(folder.path()), ["store"]);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let second = create(&path).unwrap();
            second.file().write_all(b"other").unwrap();
            assert_eq!(second.keep().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&path).unwrap(), b"whole");
            assert_eq!(names(folder.path()), ["store"]);
        }
    }
}
