//! `webhooks`: every tenant's, with how they do; what one has missed is `jobs`'.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::Failure;
use super::client::{Client, Target, with_query};
use super::jobs::Recover;
use super::print::{self, text};

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
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum State {
    Active,
    Inactive,
    Failing,
}

impl Webhooks {
    pub(super) fn run(&self) -> Result<(), Failure> {
        if let Some(One::Recover(recover)) = &self.command {
            return recover.run();
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

/// Webhooks of all tenants, at most `max` and a page more.
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
    let mut all = Vec::new();
    let mut path = with_query("/admin/webhooks", &[("tenant", tenant), ("state", state)]);
    loop {
        let mut page = client.get(&path)?;
        if let Value::Array(items) = page["data"].take() {
            all.extend(items);
        }
        match page["pagination"]["next_cursor"].as_str() {
            Some(next) if all.len() < max => path = with_query("/admin/webhooks", &[("cursor", Some(next))]),
            _ => return Ok(all),
        }
    }
}
