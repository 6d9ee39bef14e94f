//! `webhooks`: every tenant's, with how they do; and one: what waits for it, how it did, whether it takes a test. What one has missed is
//! `jobs`'.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;

use super::client::{Client, Target, Whose, segment, with_query};
use super::inspect::more;
use super::jobs::Recover;
use super::print::{self, text};
use super::{Failure, NO};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Webhooks {
    #[command(subcommand)]
    command: Option<One>,
    /// Only this tenant's.
    #[arg(long)]
    tenant: Option<String>,
    /// Only these; failing: active, and the newest attempt failed.
    #[arg(long, value_enum)]
    state: Option<State>,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum One {
    /// Queue what a webhook has not got: dead letters, and what it missed while it was inactive.
    Recover(Recover),
    /// List what is pending for a webhook, what is due first at the top.
    Pending(Pending),
    /// Sum up how a webhook did.
    Stats(Stats),
    /// Send a webhook one test event at once, also when it is inactive or paused; exit code 1 when its receiver does not take it.
    Test(Test),
}

#[derive(Args)]
struct Pending {
    /// The webhook's id.
    id: String,
    /// At most this many.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    whose: Whose,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Stats {
    /// The webhook's id.
    id: String,
    /// From this time on, such as 2030-01-01T00:00:00Z. Without it the last 24 hours.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    #[command(flatten)]
    whose: Whose,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Test {
    /// The webhook's id.
    id: String,
    #[command(flatten)]
    whose: Whose,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A test takes as long as its receiver may, 60 s at most, and waits for those before it.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum State {
    Active,
    Inactive,
    Failing,
}

impl Webhooks {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Some(One::Recover(recover)) => return recover.run(),
            Some(One::Pending(pending)) => return pending.run(),
            Some(One::Stats(stats)) => return stats.run(),
            Some(One::Test(test)) => return test.run(),
            None => {}
        }
        let client = self.target.client()?;
        let all = list(&client, self.tenant.as_deref(), self.state, usize::MAX)?;
        if self.json {
            return print::json(&Value::from(all));
        }
        let row = |webhook: &Value| {
            let state = match (&webhook["inactive_reason"], webhook["failures"].as_u64()) {
                (Value::String(reason), _) => format!("inactive ({reason})"),
                (_, Some(failures @ 1..)) => format!("failing ({failures} in a row)"),
                _ => text(&webhook["state"]),
            };
            let [id, tenant, queued, dead, success, url] =
                ["id", "tenant", "queued", "dead", "last_success_at", "url"].map(|name| text(&webhook[name]));
            vec![id, tenant, state, queued, dead, success, url]
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        let headings = ["WEBHOOK", "TENANT", "STATE", "QUEUED", "DEAD", "LAST SUCCESS", "URL"];
        print::table(&headings, &rows, "no webhooks")
    }
}

/// A path below a tenant's webhook.
fn of(whose: &Whose, id: &str, rest: &str) -> String {
    whose.path(&format!("/v1/webhooks/{}/{rest}", segment(id)))
}

impl Pending {
    fn run(&self) -> Result<(), Failure> {
        let path = with_query(&of(&self.whose, &self.id, "deliveries"), &[("state", Some("pending"))]);
        let (all, is_more) = self.whose.client()?.list(&path, self.limit)?;
        if self.json {
            return print::json(&Value::from(all));
        }
        let row = |delivery: &Value| {
            ["event", "type", "attempts", "next_attempt_at"].map(|name| text(&delivery[name])).to_vec()
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        print::table(&["EVENT", "TYPE", "ATTEMPTS", "NEXT ATTEMPT"], &rows, "nothing is pending")?;
        more(is_more)
    }
}

impl Stats {
    fn run(&self) -> Result<(), Failure> {
        let path = with_query(&of(&self.whose, &self.id, "stats"), &[("since", self.since.as_deref())]);
        let stats = self.whose.client()?.get(&path)?;
        if self.json {
            return print::json(&stats);
        }
        let from = match stats["complete"].as_bool() {
            Some(false) => format!("{} (there were too many before)", text(&stats["from"])),
            _ => text(&stats["since"]),
        };
        let share = |share: f64| format!(", {:.2} % of them", share * 100.0);
        let share = stats["success_rate"].as_f64().map_or(String::new(), share);
        let [p50, p95, p99] = ["p50", "p95", "p99"].map(|name| text(&stats["duration_ms"][name]));
        let oldest = match stats["oldest_pending_at"].as_str() {
            Some(at) => format!(", the oldest since {at}"),
            None => String::new(),
        };
        for (name, value) in [
            ("since", from),
            ("attempts", text(&stats["attempts"])),
            ("delivered", format!("{}{share}", stats["delivered"])),
            ("failed", text(&stats["failed"])),
            ("took", if p50.is_empty() { "-".to_owned() } else { format!("p50 {p50}, p95 {p95}, p99 {p99} ms") }),
            ("pending", format!("{}{oldest}", stats["pending"])),
            ("dead letters", text(&stats["dead"])),
        ] {
            print::line(&format!("  {name:14}{}", print::plain(&value)))?;
        }
        Ok(())
    }
}

impl Test {
    fn run(&self) -> Result<(), Failure> {
        let answer = self.whose.client()?.patient(PATIENCE);
        let answer = answer.ask(Method::POST, &of(&self.whose, &self.id, "test"), "", &[])?.json()?;
        let is_taken = answer["success"] == true;
        if self.json {
            print::json(&answer)?;
        } else {
            let came_to = match answer["error"].as_str() {
                Some(error) => print::plain(error),
                None => text(&answer["statusCode"]),
            };
            let verdict = if is_taken { "delivered" } else { "failed" };
            print::line(&format!("{verdict}: {came_to}, {} ms", answer["durationMs"]))?;
        }
        if is_taken { Ok(()) } else { Err(Failure::told(NO)) }
    }
}

/// Webhooks of all tenants, at most `max`.
pub(super) fn list(
    client: &Client,
    tenant: Option<&str>,
    state: Option<State>,
    max: usize,
) -> Result<Vec<Value>, Failure> {
    let state = state.map(|state| match state {
        State::Active => "active",
        State::Inactive => "inactive",
        State::Failing => "failing",
    });
    Ok(client.list(&with_query("/admin/webhooks", &[("tenant", tenant), ("state", state)]), max)?.0)
}
