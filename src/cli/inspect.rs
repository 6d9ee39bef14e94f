//! What is on record: `explain` of an event, a tenant's dead letters, the audit log; and `cancel`, which takes back what is pending of
//! an event. Owns that a listing says when it does not show everything.

use clap::Args;
use http::Method;
use serde_json::Value;

use super::Failure;
use super::client::{Target, Whose, segment, with_query};
use super::print::{self, text};
use super::tail::came_to;

#[derive(Args)]
pub(super) struct Explain {
    /// The event's id, `evt_…`.
    id: String,
    #[command(flatten)]
    whose: Whose,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Cancel {
    /// The event's id, `evt_…`.
    id: String,
    /// Only what is pending for this webhook.
    #[arg(long)]
    webhook: Option<String>,
    #[command(flatten)]
    whose: Whose,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct DeadLetters {
    /// Only this webhook's.
    #[arg(long)]
    webhook: Option<String>,
    /// Only of this event type.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Dead from this time on, such as 2030-01-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Dead up to this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
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
pub(super) struct Audit {
    /// Only what was about this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Only this action, such as webhook.create, or key.* for all of a kind.
    #[arg(long)]
    action: Option<String>,
    /// From this time on, such as 2030-01-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// At most this many.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let path = self.whose.path(&format!("/v1/events/{}/explain", segment(&self.id)));
        let told = self.whose.client()?.get(&path)?;
        if self.json {
            return print::json(&told);
        }
        let event = &told["event"];
        let [id, kind, at] = ["id", "type", "created_at"].map(|name| text(&event[name]));
        print::line(&print::plain(&format!("{id} {kind} {at}")))?;
        print::line(&print::plain(&text(&told["summary"])))?;
        for delivery in told["deliveries"].as_array().into_iter().flatten() {
            explain(delivery)?;
        }
        Ok(())
    }
}

/// One webhook's part: a line, and one for each attempt.
fn explain(delivery: &Value) -> Result<(), Failure> {
    let [webhook, dialect, state, reason, detail] =
        ["webhook", "dialect", "state", "reason", "detail"].map(|name| text(&delivery[name]));
    let mut line = format!("  {webhook} ({dialect}) ");
    if delivery["matched"] == true {
        line.push_str(&state);
    } else {
        line.push_str(&format!("not matched ({reason})"));
    }
    if !detail.is_empty() {
        line.push_str(&format!(": {detail}"));
    }
    let waiting = &delivery["waiting_for"];
    if waiting.is_object() {
        let [what, until, rule] = ["what", "until", "rule"].map(|name| text(&waiting[name]));
        let until = if until.is_empty() { until } else { format!(" until {until}") };
        line.push_str(&format!(", waits for {what}{until}: {rule}"));
    }
    print::line(&print::plain(&line))?;
    for attempt in delivery["attempts"].as_array().into_iter().flatten() {
        let [at, number, took] = ["at", "attempt", "duration_ms"].map(|name| text(&attempt[name]));
        print::line(&print::plain(&format!("    {at} #{number} {took} ms {}", came_to(attempt))))?;
    }
    Ok(())
}

impl Cancel {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let path = self.whose.path(&format!("/v1/events/{}/deliveries", segment(&self.id)));
        let path = with_query(&path, &[("webhook", self.webhook.as_deref())]);
        let answer = self.whose.client()?.ask(Method::DELETE, &path, "", &[])?.json()?;
        if self.json { print::json(&answer) } else { print::line(&format!("cancelled: {}", answer["cancelled"])) }
    }
}

impl DeadLetters {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let filters =
            [("webhook", &self.webhook), ("type", &self.kind), ("since", &self.since), ("until", &self.until)];
        let path =
            with_query(&self.whose.path("/v1/dead-letters"), &filters.map(|(name, given)| (name, given.as_deref())));
        let (all, is_more) = self.whose.client()?.list(&path, self.limit)?;
        if self.json {
            return print::json(&Value::from(all));
        }
        let row = |letter: &Value| {
            let mut row =
                ["event", "type", "webhook", "dead_at", "reason", "attempts"].map(|name| text(&letter[name])).to_vec();
            row.push(if letter["last_attempt"].is_object() { came_to(&letter["last_attempt"]) } else { String::new() });
            row
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        let headings = ["EVENT", "TYPE", "WEBHOOK", "DIED", "WHY", "ATTEMPTS", "THE LAST"];
        print::table(&headings, &rows, "no dead letters")?;
        more(is_more)
    }
}

impl Audit {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let filters =
            [("tenant", &self.tenant), ("action", &self.action), ("since", &self.since), ("until", &self.until)];
        let path = with_query("/admin/audit", &filters.map(|(name, given)| (name, given.as_deref())));
        let (all, is_more) = self.target.client()?.list(&path, self.limit)?;
        if self.json {
            return print::json(&Value::from(all));
        }
        let members = ["at", "actor", "remote_addr", "action", "tenant", "target", "outcome"];
        let rows: Vec<_> = all.iter().map(|one| members.map(|name| text(&one[name])).to_vec()).collect();
        let headings = ["AT", "WHO", "FROM", "ACTION", "TENANT", "ABOUT", "CAME TO"];
        print::table(&headings, &rows, "nothing is on record")?;
        more(is_more)
    }
}

/// What is said below a listing that is cut.
pub(super) fn more(is_more: bool) -> Result<(), Failure> {
    if is_more { print::line("there is more: --limit") } else { Ok(()) }
}
