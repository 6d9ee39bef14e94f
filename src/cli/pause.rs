//! `pause`, `resume` and `pauses`: what the operator holds up, and lets go. Owns that everything has to be said: a command cut short
//! never stops more than it names.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, Target};
use super::print::{self, text};

/// What is paused or resumed: one of these.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// All deliveries.
    #[arg(long)]
    everything: bool,
    /// Those of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Those to this host, on all ports, or on one: hooks.example.com, hooks.example.com:8443.
    #[arg(long)]
    host: Option<String>,
    /// Those of this webhook.
    #[arg(long)]
    webhook: Option<String>,
}

#[derive(Args)]
pub(super) struct Pause {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Pauses {
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Pause {
    /// Tells what is paused then.
    pub(super) fn run(&self, path: &str) -> Result<(), Failure> {
        let What { everything: _, tenant, host, webhook } = &self.what;
        let body = match (tenant, host, webhook) {
            (Some(tenant), ..) => json!({"tenant": tenant}),
            (_, Some(host), _) => json!({"host": host}),
            (.., Some(webhook)) => json!({"webhook": webhook}),
            (None, None, None) => json!({}),
        };
        let mut answer = self.target.client()?.ask(Method::POST, path, body.to_string(), &[])?.json()?;
        tell(answer["data"].take(), self.json)
    }
}

impl Pauses {
    pub(super) fn run(&self) -> Result<(), Failure> {
        tell(list(&self.target.client()?)?, self.json)
    }
}

/// What is paused, as the daemon lists it.
pub(super) fn list(client: &Client) -> Result<Value, Failure> {
    Ok(client.get("/admin/pause")?["data"].take())
}

/// What a pause stops, in words, and the option that names it.
pub(super) fn named(pause: &Value) -> (String, String) {
    match pause["scope"].as_str().unwrap_or_default() {
        scope @ ("tenant" | "host" | "webhook") => {
            let name = text(&pause[scope]);
            (format!("{scope} {name}"), format!("--{scope} {name}"))
        }
        scope => (scope.to_owned(), format!("--{scope}")),
    }
}

fn tell(pauses: Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return print::json(&pauses);
    }
    let row = |pause: &Value| vec![named(pause).0, text(&pause["by"]), text(&pause["since"])];
    let rows: Vec<_> = pauses.as_array().into_iter().flatten().map(row).collect();
    print::table(&["PAUSED", "BY", "SINCE"], &rows, "nothing is paused")
}
