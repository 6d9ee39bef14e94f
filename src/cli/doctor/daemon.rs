//! What `doctor` asks the daemon that runs: whether it answers and serves, its clock, its configuration against the file,
//! webhooks that fail, dead letters, jobs, backups.

use std::path::PathBuf;

use serde_json::Value;

use super::Findings;
use crate::cli::Failure;
use crate::cli::client::Client;
use crate::cli::pause;
use crate::cli::print::{self, text};
use crate::cli::status::is_ready;
use crate::cli::webhooks::{State, list};
use crate::clock::Millis;
use crate::config::{Entry, Loaded, Origin, Place};
use crate::store::open::KEY_FILE;

/// The wall clock may be moved by this much without a word, in seconds.
const CLOCK_MOVED_MAX_S: u64 = 5;
/// A webhook with as many failures in a row is told of: one alone is everyday life.
const FAILURES_TOLD_MIN: u64 = 5;
/// Webhooks that are told of one by one.
const WEBHOOKS_TOLD_MAX: usize = 20;
/// Pauses that are told of one by one.
const PAUSES_TOLD_MAX: usize = 20;
/// Jobs that are told of.
const JOBS_TOLD_MAX: usize = 20;
/// A delivery that could have been made is this late, in seconds, only when something holds it up.
const OVERDUE_MAX_S: u64 = 300;

/// The newest backup may be this old without a word.
const BACKUP_AGE_MAX_MS: Millis = 7 * 86_400_000;

/// The key file of the daemon that runs, if one does.
pub(in crate::cli) fn key_file(client: &Client) -> Option<PathBuf> {
    let running = client.get("/admin/config").ok()?;
    let of = |name: &str| {
        let setting = running["data"].as_array()?.iter().find(|one| one["key"] == name)?["value"].as_str()?;
        // A TOML string of one line is one of JSON's.
        serde_json::from_str::<String>(setting).ok().map(PathBuf::from)
    };
    of("secrets.key_file").filter(|named| named.is_absolute()).or_else(|| Some(of("state_dir")?.join(KEY_FILE)))
}

/// Asks everything; the first question that gets no answer is the last.
pub(super) fn look(client: &Client, loaded: Option<&Loaded>, findings: &mut Findings) {
    findings.look_at("daemon");
    if let Err(failure) = ask(client, loaded, findings) {
        let mend = if client.is_local() {
            "systemctl status webhookd, and journalctl -u webhookd for why it ended"
        } else {
            "see where WEBHOOKD_URL leads, and what WEBHOOKD_TOKEN may do"
        };
        findings.problem("daemon", failure.message, mend);
    }
}

fn ask(client: &Client, loaded: Option<&Loaded>, findings: &mut Findings) -> Result<(), Failure> {
    let stats = client.get("/admin/stats")?;
    findings.look_at("store");
    if !is_ready(client)? {
        findings.problem("daemon", "it runs but is not ready", "journalctl -u webhookd tells what it waits for");
    }
    clock(&stats, findings);
    room(&stats["store"], findings);
    configuration(client, &stats, loaded, findings)?;
    deliveries(&stats, findings);
    pauses(client, findings)?;
    webhooks(client, findings)?;
    jobs(client, findings)?;
    backup(&stats, findings);
    Ok(())
}

fn clock(stats: &Value, findings: &mut Findings) {
    findings.look_at("clock");
    let moved_s = stats["clock_moved_seconds"].as_i64().unwrap_or(0);
    if moved_s.unsigned_abs() > CLOCK_MOVED_MAX_S {
        let (way, by) = (if moved_s > 0 { "forward" } else { "back" }, print::span(moved_s.unsigned_abs()));
        let what = format!("the wall clock was moved {by} {way} since the daemon started; receivers see its time");
        findings.note("clock", what, "timedatectl tells whether it is synchronised now");
    }
}

fn room(store: &Value, findings: &mut Findings) {
    findings.look_at("room");
    let size = |name: &str| bytesize::ByteSize(store[name].as_u64().unwrap_or(0));
    match store["full"].as_str() {
        Some("budget") => {
            let (used, budget) = (size("used_bytes"), size("disk_budget_bytes"));
            let what = format!("the store uses {used} of its disk budget of {budget}: publishing is answered with 503");
            let mend = "raise store.disk_budget, or set retention.max_bytes below it, then webhookd reload";
            findings.problem("room", what, mend);
        }
        Some(_) => {
            let what =
                format!("the store's disk has {} left: publishing is answered with 503", size("disk_free_bytes"));
            findings.problem("room", what, "make room on it, or shorten retention and run webhookd reload");
        }
        None => {}
    }
}

fn configuration(
    client: &Client,
    stats: &Value,
    loaded: Option<&Loaded>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    if stats["last_reload"] == "refused" {
        let what = "the last reload was refused; the daemon goes on with what it had";
        findings.problem("configuration", what, "webhookd check tells why; then webhookd reload");
    }
    let running = client.get("/admin/config")?;
    let running = running["data"].as_array().map_or(&[][..], Vec::as_slice);
    let waiting: Vec<String> =
        running.iter().filter(|one| one["after_restart"].is_string()).map(|one| text(&one["key"])).collect();
    if !waiting.is_empty() {
        let what = format!("{} changed and waits for a restart", waiting.join(", "));
        findings.note("configuration", what, "systemctl restart webhookd");
    }
    let Some(loaded) = loaded else { return Ok(()) };
    let changed: Vec<String> = loaded.entries().iter().filter_map(|entry| changed(entry, running)).collect();
    if !changed.is_empty() {
        let what = format!("the file says something else than what runs: {}", changed.join(", "));
        findings.note("configuration", what, "webhookd reload takes the file over");
    }
    Ok(())
}

/// The key, if the file sets it to something that the daemon has not taken over. Variables of this shell are not the
/// daemon's.
fn changed(entry: &Entry, running: &[Value]) -> Option<String> {
    let Origin::Set(Place::File { .. }) = entry.origin else { return None };
    let theirs = running.iter().find(|one| one["key"] == entry.key.as_str())?;
    let known = [&theirs["value"], &theirs["after_restart"]].iter().any(|value| **value == entry.value.as_str());
    (!known).then(|| entry.key.clone())
}

fn deliveries(stats: &Value, findings: &mut Findings) {
    findings.look_at("dead letters");
    let deliveries = &stats["deliveries"];
    let dead = deliveries["dead"].as_u64().unwrap_or(0);
    if dead > 0 {
        let what = format!("{dead} deliveries are in the dead letters");
        let mend =
            "webhookd dead-letters list --tenant … shows a tenant's; webhookd dead-letters redrive tries them again";
        findings.note("dead letters", what, mend);
    }
    findings.look_at("queue");
    let overdue_s = deliveries["overdue_seconds"].as_u64().unwrap_or(0);
    if overdue_s > OVERDUE_MAX_S {
        let what =
            format!("the oldest of {} queued deliveries is due for {}", deliveries["queued"], print::span(overdue_s));
        findings.note("queue", what, "webhookd webhooks --state failing shows whose; webhookd tail what comes of them");
    }
}

/// A pause lasts until somebody remembers it. The owner's own wish is no trouble.
fn pauses(client: &Client, findings: &mut Findings) -> Result<(), Failure> {
    findings.look_at("pauses");
    let pauses = pause::list(client)?;
    let ours = pauses.as_array().into_iter().flatten().filter(|pause| pause["by"] == "operator");
    for (told, one) in ours.enumerate() {
        if told == PAUSES_TOLD_MAX {
            findings.note("pauses", "there are more", "webhookd pauses");
            break;
        }
        let ((what, option), since) = (pause::named(one), text(&one["since"]));
        findings.note("pauses", format!("paused since {since}: {what}"), format!("webhookd resume {option}"));
    }
    Ok(())
}

fn webhooks(client: &Client, findings: &mut Findings) -> Result<(), Failure> {
    findings.look_at("webhooks");
    let failing = list(client, None, Some(State::Failing), WEBHOOKS_TOLD_MAX)?;
    let failing: Vec<&Value> =
        failing.iter().filter(|one| one["failures"].as_u64() >= Some(FAILURES_TOLD_MIN)).collect();
    for webhook in failing.iter().take(WEBHOOKS_TOLD_MAX) {
        let [id, tenant, url, since] = ["id", "tenant", "url", "failing_since"].map(|name| text(&webhook[name]));
        let what = format!("{id} of {tenant} ({url}) has failed {} times in a row since {since}", webhook["failures"]);
        findings.problem("webhooks", what, format!("webhookd tail --webhook {id} --failed shows why"));
    }
    // The owner's own wish is no trouble.
    let inactive = list(client, None, Some(State::Inactive), WEBHOOKS_TOLD_MAX)?;
    let stopped: Vec<&Value> = inactive.iter().filter(|one| one["inactive_reason"] != "owner").collect();
    for webhook in stopped.iter().take(WEBHOOKS_TOLD_MAX) {
        let [id, tenant, url, since, reason] =
            ["id", "tenant", "url", "inactive_since", "inactive_reason"].map(|name| text(&webhook[name]));
        let what = format!("{id} of {tenant} ({url}) was made inactive at {since} ({reason})");
        let mend = format!("when its receiver is well: webhookd webhooks recover {id} --activate");
        findings.problem("webhooks", what, mend);
    }
    if failing.len().max(stopped.len()) > WEBHOOKS_TOLD_MAX {
        findings.note(
            "webhooks",
            "there are more",
            "webhookd webhooks --state failing; webhookd webhooks --state inactive",
        );
    }
    Ok(())
}

fn jobs(client: &Client, findings: &mut Findings) -> Result<(), Failure> {
    findings.look_at("jobs");
    for job in crate::cli::jobs::list(client, None, Some("failed"))?.iter().take(JOBS_TOLD_MAX) {
        let [id, kind, done, total] = ["id", "kind", "done", "total"].map(|name| text(&job[name]));
        match job["reason"].as_str() {
            // Nothing is left to be done for a webhook that is gone.
            Some("webhook_deleted") => {}
            reason => {
                let reason = reason.unwrap_or_default();
                let what = format!("job {id} ({kind}) failed with {done} of {total} done: {reason}");
                findings.problem("jobs", what, "journalctl -u webhookd tells what does not read; restore a backup");
            }
        }
    }
    Ok(())
}

/// A backup that the daemon made is on record; copies of a store that was stopped are not.
fn backup(stats: &Value, findings: &mut Findings) {
    findings.look_at("backup");
    let mend = "webhookd backup --to FILE; and apart from it keep a copy of the key file that it names";
    let [made, now] = [&stats["store"]["last_backup_at"], &stats["now"]].map(|at| parse_ms(&text(at)));
    match (made, now) {
        (Some(made), Some(now)) if now.saturating_sub(made) > BACKUP_AGE_MAX_MS => {
            let age = print::span(now.saturating_sub(made) / 1_000);
            findings.note("backup", format!("the newest backup is {age} old"), mend);
        }
        (Some(_), _) => {}
        (None, _) => findings.note("backup", "nothing has ever been backed up", mend),
    }
}

fn parse_ms(text: &str) -> Option<Millis> {
    let at: jiff::Timestamp = text.parse().ok()?;
    Millis::try_from(at.as_millisecond()).ok()
}
