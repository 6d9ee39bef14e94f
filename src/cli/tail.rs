//! `tail`: attempts of all tenants as they are put on record. It asks again and again, from where the last answer ended, so
//! nothing is missed or shown twice, however fast attempts are made.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::Failure;
use super::client::{Target, with_query};
use super::print::{self, text};

/// How long it waits when there was nothing new.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(super) struct Tail {
    /// Only this tenant's.
    #[arg(long)]
    tenant: Option<String>,
    /// Only this webhook's.
    #[arg(long)]
    webhook: Option<String>,
    /// Only those that failed.
    #[arg(long)]
    failed: bool,
    /// End after this many.
    #[arg(long, value_name = "COUNT")]
    count: Option<usize>,
    #[command(flatten)]
    target: Target,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Tail {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let outcome = self.failed.then_some("failed");
        let mut left = self.count.unwrap_or(usize::MAX);
        let mut cursor: Option<String> = None;
        while left > 0 {
            let parameters = [
                ("tenant", self.tenant.as_deref()),
                ("webhook", self.webhook.as_deref()),
                ("outcome", outcome),
                ("cursor", cursor.as_deref()),
            ];
            let page = client.get(&with_query("/admin/attempts", &parameters))?;
            for attempt in page["data"].as_array().into_iter().flatten().take(left) {
                self.show(attempt)?;
                left -= 1;
            }
            let next = page["pagination"]["next_cursor"].as_str().map(str::to_owned);
            // A page that looked at many and found none moves on all the same.
            if next == cursor || cursor.is_none() {
                std::thread::sleep(PAUSE);
            }
            cursor = next;
        }
        Ok(())
    }

    fn show(&self, attempt: &Value) -> Result<(), Failure> {
        if self.json {
            return print::line(&attempt.to_string());
        }
        let came_to = came_to(attempt);
        let next = match attempt["next_attempt_at"].as_str() {
            Some(at) => format!(", again at {at}"),
            None => String::new(),
        };
        let [at, outcome, tenant, kind, event, webhook, number, took] =
            ["at", "outcome", "tenant", "type", "event", "webhook", "attempt", "duration_ms"]
                .map(|name| text(&attempt[name]));
        let line = format!("{at} {outcome:9} {tenant} {kind} {event} {webhook} #{number} {took} ms {came_to}{next}");
        print::line(&print::plain(&line))
    }
}

/// What an attempt came to: the status, or why there is none or it is no success.
pub(super) fn came_to(attempt: &Value) -> String {
    match (attempt["status"].as_u64(), attempt["class"].as_str()) {
        (Some(status), None) => format!("{status}"),
        (_, class) => format!("{}: {}", class.unwrap_or("failed"), text(&attempt["error"])),
    }
}
