//! What is said where a panic can't be outlived. Owns the panic hook of the process.
//!
//! redb panics on a page that makes no sense; that is caught and told as damage. Where one of its destructors panics in the wake of
//! that, Rust ends the process, and nothing can catch it. Invariant: such an end names the store and what to do, and has the
//! exit code of a refused store, with which nobody starts the daemon again in vain.

use std::cell::Cell;
use std::panic::{Location, PanicHookInfo};
use std::path::PathBuf;

/// What Rust says when a destructor panics while another panic is under way: nothing follows but the end.
const THE_END: &str = "panic in a destructor during cleanup";

/// Whether the source at `location` is redb's.
pub(super) fn is_redbs(location: &Location<'_>) -> bool {
    location.file().contains("/redb-")
}

/// From here on a panic that can't be outlived and comes from where `is_its` says ends the process with `code` and a word about `store`.
pub(super) fn prepare(store: PathBuf, code: u8, is_its: fn(&Location<'_>) -> bool) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        if is_the_end(info, is_its) {
            eprintln!(
                "webhookd: {} is damaged: a page in it makes no sense, and nothing goes on with it; restore it from a backup",
                store.display()
            );
            std::process::exit(i32::from(code));
        }
    }));
}

/// Whether the panic that led to this end is one of `is_its`: the last one of this thread before it.
fn is_the_end(info: &PanicHookInfo<'_>, is_its: fn(&Location<'_>) -> bool) -> bool {
    thread_local! {
        static IS_ITS: Cell<bool> = const { Cell::new(false) };
    }
    if info.payload_as_str() == Some(THE_END) {
        return IS_ITS.get();
    }
    IS_ITS.set(info.location().is_some_and(is_its));
    false
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    struct Panics;

    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("a page makes no sense, again");
        }
    }

    fn is_here(location: &Location<'_>) -> bool {
        location.file() == file!()
    }

    fn is_nowhere(_: &Location<'_>) -> bool {
        false
    }

    /// In a process of its own, which it ends: the test starts itself there.
    const WHOSE: &str = "WHOSE_PANIC";

    fn panic_in_a_destructor(whose: &str) {
        prepare(PathBuf::from("/srv/webhookd.redb"), 78, if whose == "redb's" { is_here } else { is_nowhere });
        let caught = std::panic::catch_unwind(|| panic!("one that is caught is no end"));
        assert!(caught.is_err());
        let _panics = Panics;
        panic!("a page makes no sense");
    }

    #[test]
    fn g10_a_panic_that_nothing_catches_is_told_as_damage() {
        if let Ok(whose) = std::env::var(WHOSE) {
            return panic_in_a_destructor(&whose);
        }
        let end = |whose: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            let test = "cli::last_words::tests::g10_a_panic_that_nothing_catches_is_told_as_damage";
            let output = command.args(["--exact", test, "--nocapture"]).env(WHOSE, whose).output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (code, told) = end("redb's");
        assert_eq!(code, Some(78), "{told}");
        assert!(told.contains("webhookd: /srv/webhookd.redb is damaged") && told.contains("restore it"), "{told}");
        let (code, told) = end("ours");
        assert_eq!(code, None, "a fault of ours is a crash: {told}");
        assert!(!told.contains("is damaged"), "{told}");
    }
}
