//! `jobs`, `dead-letters` and `webhooks recover`: what is asked for many deliveries at once, and how it goes. Owns that a job
//! goes on in the daemon whether anybody waits for it here or not.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Map, Value, json};

use super::client::{Client, Target, segment, with_query};
use super::inspect;
use super::print::{self, span, text};
use super::{Failure, NO};

/// How often a job that is waited for is looked at, and told of.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const TELL_EVERY: Duration = Duration::from_secs(2);

#[derive(Subcommand)]
pub(super) enum Jobs {
    /// List jobs, the newest first.
    List(List),
    /// Show one job.
    Show(Show),
    /// Cancel a job; what it has done stays.
    Cancel(Cancel),
}

#[derive(Args)]
pub(super) struct List {
    /// Only this tenant's; `*`: those across tenants.
    #[arg(long)]
    tenant: Option<String>,
    /// Only these.
    #[arg(long, value_enum)]
    state: Option<State>,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    Running,
    Done,
    Cancelled,
    Failed,
}

#[derive(Args)]
pub(super) struct Show {
    /// Its id, `job_…`.
    id: String,
    /// Wait until it has ended, and tell how it goes; exit code 1 unless it is done then.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Cancel {
    /// Its id, `job_…`.
    id: String,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
pub(super) enum DeadLetters {
    /// List a tenant's dead letters, the newest first.
    List(inspect::DeadLetters),
    /// Try dead letters again: all that the filter leaves, of all tenants unless one is named.
    Redrive(Letters),
    /// Throw dead letters away: all that the filter leaves, of all tenants unless one is named.
    Purge(Purge),
}

#[derive(Args)]
pub(super) struct Letters {
    /// Of this tenant only.
    #[arg(long)]
    tenant: Option<String>,
    /// Of this webhook only.
    #[arg(long)]
    webhook: Option<String>,
    /// Of this event type only.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct Purge {
    #[command(flatten)]
    letters: Letters,
    /// Everything, of all tenants: without a filter this has to be said.
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
pub(super) struct Recover {
    /// The webhook's id.
    id: String,
    /// Only the dead letters (failed), only what it did not get while it was inactive (missing), or also what was delivered,
    /// once more (all). Without it: failed and missing.
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Make it active first, so that nothing falls between what is recovered and what is delivered by itself.
    #[arg(long)]
    activate: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum Only {
    Failed,
    Missing,
    All,
}

/// What all of these take.
#[derive(Args)]
struct Common {
    /// From this time on, such as 2030-01-01T00:00:00Z: by death, or for recover by acceptance.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only count.
    #[arg(long)]
    dry_run: bool,
    /// Wait until the job has ended, and tell how it goes; exit code 1 unless it is done then.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Jobs {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(),
            Self::Show(show) => {
                let client = show.target.client()?;
                if show.wait {
                    return wait(&client, &show.id, show.json);
                }
                let job = see(&client, &show.id)?;
                if show.json { print::json(&job) } else { table(&[job]) }
            }
            Self::Cancel(cancel) => {
                let path = format!("/admin/jobs/{}", segment(&cancel.id));
                let mut answer = cancel.target.client()?.ask(Method::DELETE, &path, "", &[])?.json()?;
                let job = answer["job"].take();
                if cancel.json { print::json(&job) } else { table(&[job]) }
            }
        }
    }
}

impl List {
    fn run(&self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let state = self.state.map(|state| match state {
            State::Running => "running",
            State::Done => "done",
            State::Cancelled => "cancelled",
            State::Failed => "failed",
        });
        let all = list(&client, self.tenant.as_deref(), state)?;
        if self.json { print::json(&Value::from(all)) } else { table(&all) }
    }
}

impl DeadLetters {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(),
            Self::Redrive(letters) => letters.run("/admin/dead-letters/redrive", false),
            Self::Purge(purge) => purge.letters.run("/admin/dead-letters/purge", purge.all),
        }
    }
}

impl Letters {
    fn run(&self, path: &str, all: bool) -> Result<(), Failure> {
        let mut body = Map::new();
        for (member, given) in [("tenant", &self.tenant), ("webhook", &self.webhook), ("type", &self.kind)] {
            body.extend(given.as_ref().map(|given| (member.to_owned(), json!(given))));
        }
        if all {
            body.insert("all".to_owned(), json!(true));
        }
        self.common.start(path, body)
    }
}

impl Recover {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut body = Map::new();
        let only = self.only.map(|only| match only {
            Only::Failed => "failed",
            Only::Missing => "missing",
            Only::All => "all",
        });
        body.extend(only.map(|only| ("only".to_owned(), json!(only))));
        if self.activate {
            body.insert("activate".to_owned(), json!(true));
        }
        self.common.start(&format!("/admin/webhooks/{}/recover", segment(&self.id)), body)
    }
}

impl Common {
    /// Asks for a job, or for its count.
    fn start(&self, path: &str, mut body: Map<String, Value>) -> Result<(), Failure> {
        for (member, given) in [("since", &self.since), ("until", &self.until)] {
            body.extend(given.as_ref().map(|given| (member.to_owned(), json!(given))));
        }
        if self.dry_run {
            body.insert("dry_run".to_owned(), json!(true));
        }
        // Counting a million rests as long as it reads.
        let client = self.target.client()?.patient(Duration::from_secs(600));
        let mut answer = client.ask(Method::POST, path, Value::from(body).to_string(), &[])?.json()?;
        if self.dry_run {
            let count = &answer["count"];
            return if self.json { print::json(&answer) } else { print::line(&format!("{count} deliveries")) };
        }
        began(&client, answer["job"].take(), self.wait, self.json)
    }
}

/// Tells of a job that has begun, or how it ends.
pub(super) fn began(client: &Client, job: Value, and_wait: bool, as_json: bool) -> Result<(), Failure> {
    if and_wait {
        return wait(client, &text(&job["id"]), as_json);
    }
    if as_json { print::json(&job) } else { table(&[job]) }
}

fn see(client: &Client, id: &str) -> Result<Value, Failure> {
    Ok(client.get(&format!("/admin/jobs/{}", segment(id)))?["job"].take())
}

/// Tells on standard error how a job goes, and in the end on standard output what it came to.
fn wait(client: &Client, id: &str, as_json: bool) -> Result<(), Failure> {
    let (begun, mut first, mut told) = (Instant::now(), None, None::<Instant>);
    loop {
        let job = see(client, id)?;
        if job["state"] != "running" {
            if as_json {
                print::json(&job)?;
            } else {
                table(std::slice::from_ref(&job))?;
            }
            return if job["state"] == "done" { Ok(()) } else { Err(Failure::told(NO)) };
        }
        let number = |name: &str| job[name].as_u64().unwrap_or(0);
        let (through, total) = (number("done") + number("skipped") + number("failed"), number("total"));
        let first = *first.get_or_insert(through);
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            eprintln!(
                "{id}: {through} of {total}{}",
                left(through - first, total.saturating_sub(through), begun.elapsed())
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// How long it will take if it goes on like this.
fn left(moved: u64, left: u64, took: Duration) -> String {
    match u128::from(left) * took.as_millis() / u128::from(moved.max(1)) {
        _ if moved == 0 => String::new(),
        ms => format!(", about {} left", span(u64::try_from(ms / 1_000).unwrap_or(u64::MAX))),
    }
}

/// Jobs of all tenants.
pub(super) fn list(client: &Client, tenant: Option<&str>, state: Option<&str>) -> Result<Vec<Value>, Failure> {
    Ok(client.list(&with_query("/admin/jobs", &[("tenant", tenant), ("state", state)]), usize::MAX)?.0)
}

fn table(jobs: &[Value]) -> Result<(), Failure> {
    let row = |job: &Value| {
        let state = match job["reason"].as_str() {
            Some(reason) => format!("{} ({reason})", text(&job["state"])),
            None => text(&job["state"]),
        };
        let [id, kind, tenant, webhook, done, total, began] =
            ["id", "kind", "tenant", "webhook", "done", "total", "created_at"].map(|name| text(&job[name]));
        vec![id, kind, tenant, webhook, state, done, total, began]
    };
    let rows: Vec<_> = jobs.iter().map(row).collect();
    print::table(&["JOB", "KIND", "TENANT", "WEBHOOK", "STATE", "DONE", "OF", "BEGAN"], &rows, "no jobs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_guessed_from_what_was_moved() {
        assert_eq!(left(0, 100, Duration::from_secs(5)), "");
        assert_eq!(left(50, 100, Duration::from_secs(60)), ", about 2 min left");
    }
}
