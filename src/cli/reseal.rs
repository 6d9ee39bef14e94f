//! `reseal`: seals everything secret in the store of a daemon that is stopped with a new key. Owns what is told of the old
//! one.

use std::path::{Path, PathBuf};

use clap::Args;

use super::serve::store_code;
use super::{Failure, owner, print};
use crate::entropy::Entropy;
use crate::store::reseal::{Keys, reseal};

#[derive(Args)]
pub(super) struct Reseal {
    /// The state folder of the daemon, which must be stopped.
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// The key file that the store is sealed with, where it is not the one in the state folder.
    #[arg(long, value_name = "FILE", requires = "new_key_file")]
    old_key_file: Option<PathBuf>,
    /// The key file to seal it with: 64 hex digits, mode 0600. Without the two a new key is made in the state folder.
    #[arg(long, value_name = "FILE", requires = "old_key_file")]
    new_key_file: Option<PathBuf>,
}

impl Reseal {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let keys = match (&self.old_key_file, &self.new_key_file) {
            (Some(old), Some(new)) => Keys::Given { old: old.clone(), new: new.clone() },
            _ => Keys::Own,
        };
        let done = reseal(&self.state_dir, &keys, &Entropy::system())
            .map_err(|error| Failure::new(store_code(&error), error.to_string()))?;
        owner::hand_over(&self.state_dir)?;
        print::line(&match done.values {
            0 => "the store was sealed with the new key already".to_owned(),
            values => format!("{values} values are sealed with the new key"),
        })?;
        for line in next_steps(&keys, &self.state_dir) {
            print::line(&line)?;
        }
        Ok(())
    }
}

fn next_steps(keys: &Keys, folder: &Path) -> Vec<String> {
    let old = match keys {
        Keys::Own => folder.join("webhookd.key.old"),
        Keys::Given { old, .. } => old.clone(),
    };
    let first = match keys {
        Keys::Own => "Next, start the daemon, and copy the new key file to where you keep it.".to_owned(),
        Keys::Given { new, .. } => {
            format!("Next, let the daemon find {} where it found the old one, then start it.", new.display())
        }
    };
    let second = format!(
        "{} opens the backups made before, and nothing else: move it to where they are, and make a new backup.",
        old.display()
    );
    vec![first, second]
}
