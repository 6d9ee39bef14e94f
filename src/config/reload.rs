//! Which changes of the configuration need a restart. Owns that list.
//!
//! Invariant: whatever is not listed here can be applied to a running daemon. Leaves applying it to the daemon.

use super::settings::Config;

/// The keys that differ between the two and only take effect with a restart; empty when a reload applies everything.
#[must_use]
pub fn reload_scope(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs = [
        ("state_dir", old.state_dir != new.state_dir),
        ("server.listen", old.server.listen != new.server.listen),
        ("server.plaintext_listen", old.server.plaintext_listen != new.server.plaintext_listen),
        ("server.workers", old.server.workers != new.server.workers),
        ("admin.socket", old.admin.socket != new.admin.socket),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("metrics.listen", old.metrics.listen != new.metrics.listen),
        ("store.cache", old.store.cache != new.store.cache),
        ("secrets.key_file", old.key_file() != new.key_file()),
        ("log.format", old.log.format != new.log.format),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
