//! Whose the files are that a command makes in a state folder. Owns that what root did there for a service belongs to the
//! service's user afterwards, as the folder does: systemd gives a whole folder over only when the folder itself is another's.

use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;

use super::{Failure, SYSTEM};

/// Gives the files of a state folder to whom the folder belongs. Only root can, and only for root it makes a difference.
pub(super) fn hand_over(folder: &Path) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    hand_over_as_root(folder).map_err(|error| {
        let path = folder.display();
        let advice = format!("it is done, but the service may not open it; run: chown --reference={path} {path}/*");
        Failure::new(SYSTEM, format!("the files in {path} can't be given to its owner: {error}; {advice}"))
    })
}

fn hand_over_as_root(folder: &Path) -> io::Result<()> {
    let owner = std::fs::metadata(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Of the entry itself, here and below: nothing is followed out of a folder that is not root's.
        let now = entry.metadata()?;
        if now.is_file() && (now.uid(), now.gid()) != (owner.uid(), owner.gid()) {
            lchown(entry.path(), Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}
