//! `status`: what runs, since when, and how it stands.

use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::Value;

use super::client::{Client, Target};
use super::pause;
use super::print::{self, span, text};
use super::{Failure, TRY_AGAIN};

/// Pauses that are named one by one.
const PAUSES_TOLD_MAX: usize = 3;

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let mut stats = client.get("/admin/stats")?;
        let ready = is_ready(&client)?;
        if self.json {
            stats["ready"] = ready.into();
            print::json(&stats)?;
        } else {
            let file = client.get("/admin/config")?["file"].take();
            lines(&stats, ready, &file, &paused(&client)?)?;
        }
        if ready { Ok(()) } else { Err(Failure::told(TRY_AGAIN)) }
    }
}

/// Such as `1.2 GiB, 800 MiB of it in use, of a budget of 2 GiB`.
fn room(store: &Value) -> String {
    let size = |name: &str| store[name].as_u64().map(bytesize::ByteSize);
    let Some(taken) = size("taken_bytes") else { return "unknown".to_owned() };
    let used = size("used_bytes").map_or(String::new(), |used| format!(", {used} of it in use"));
    let budget = size("disk_budget_bytes").map_or(String::new(), |budget| format!(", of a budget of {budget}"));
    let full = store["full"].as_str().map_or(String::new(), |full| format!("; FULL ({full}): publishing is refused"));
    format!("{taken}{used}{budget}{full}")
}

/// What the operator holds up; webhooks that their owners paused are theirs to know of.
fn paused(client: &Client) -> Result<String, Failure> {
    let pauses = pause::list(client)?;
    let ours = pauses.as_array().into_iter().flatten().filter(|pause| pause["by"] == "operator");
    let named: Vec<String> = ours.map(|pause| pause::named(pause).0).collect();
    Ok(match named.len() {
        0 => "nothing".to_owned(),
        1..=PAUSES_TOLD_MAX => named.join(", "),
        more => format!("{more} things: webhookd pauses"),
    })
}

/// Whether the daemon serves.
pub(super) fn is_ready(client: &Client) -> Result<bool, Failure> {
    Ok(client.try_ask(Method::GET, "/readyz", Bytes::new(), &[])?.status.is_success())
}

fn lines(stats: &Value, ready: bool, file: &Value, paused: &str) -> Result<(), Failure> {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let (webhooks, deliveries) = (&stats["webhooks"], &stats["deliveries"]);
    let state = if ready { "ready" } else { "not ready" };
    let up = span(number(&stats["uptime_seconds"]));
    print::line(&format!(
        "webhookd {}, {state}, since {} ({up})",
        text(&stats["version"]),
        text(&stats["started_at"])
    ))?;
    let overdue = match (&deliveries["oldest_due_at"], number(&deliveries["overdue_seconds"])) {
        (Value::Null, _) => String::new(),
        (at, 0) => format!(", the next due at {}", text(at)),
        (_, seconds) => format!(", the oldest due for {}", span(seconds)),
    };
    let store = room(&stats["store"]);
    let reload = match stats["last_reload"].as_str() {
        Some("refused") => "refused: the file on disk is not what runs; webhookd check says why",
        _ => "ok",
    };
    for (name, value) in [
        ("configuration", if file.is_null() { "built-in defaults".to_owned() } else { text(file) }),
        ("tenants", text(&stats["tenants"])),
        (
            "webhooks",
            format!(
                "{} active ({} failing), {} inactive",
                webhooks["active"], webhooks["failing"], webhooks["inactive"]
            ),
        ),
        ("events", format!("{} accepted, {} not finished", stats["events"]["accepted"], stats["events"]["open"])),
        ("queued", format!("{}{overdue}", deliveries["queued"])),
        ("in flight", text(&deliveries["in_flight"])),
        ("dead letters", text(&deliveries["dead"])),
        ("paused", paused.to_owned()),
        ("store", store),
        ("last reload", reload.to_owned()),
    ] {
        print::line(&format!("  {name:14}{}", print::plain(&value)))?;
    }
    Ok(())
}
