//! `send`: publish an event from the shell. Owns where its parts are read from; their text goes out byte for byte.

use std::io::Read as _;

use clap::Args;
use http::Method;
use serde_json::value::RawValue;

use super::client::Target;
use super::print::{self, text};
use super::{Failure, SYSTEM};

#[derive(Args)]
pub(super) struct Send {
    /// The event's type, such as order.updated.
    r#type: String,
    /// The tenant that it is for, `*` for all. Not needed with a tenant's own token.
    #[arg(long)]
    tenant: Option<String>,
    /// Its data: a JSON object, `@FILE` to read it from a file, `@-` from standard input.
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    /// Its context, given like its data.
    #[arg(long, value_name = "JSON")]
    context: Option<String>,
    /// When it happened, such as 2024-01-15T10:30:01Z; otherwise now.
    #[arg(long, value_name = "TIME")]
    created_at: Option<String>,
    /// Events with the same ordering key reach a webhook one after the other.
    #[arg(long, value_name = "KEY")]
    ordering_key: Option<String>,
    /// Sent again with the same key, the event is accepted once.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Send {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let body = self.body()?;
        let headers: Vec<(&'static str, &str)> =
            self.idempotency_key.iter().map(|key| ("idempotency-key", key.as_str())).collect();
        let event = self.target.client()?.ask(Method::POST, "/v1/events", body, &headers)?.json()?;
        if self.json {
            return print::json(&event);
        }
        let count = event["deliveries"].as_u64().unwrap_or(0);
        let deliveries = if count == 1 { "1 delivery".to_owned() } else { format!("{count} deliveries") };
        print::line(&format!("{}, {deliveries}", text(&event["id"])))
    }

    fn body(&self) -> Result<String, Failure> {
        let named = [
            ("type", Some(&self.r#type)),
            ("tenant", self.tenant.as_ref()),
            ("created_at", self.created_at.as_ref()),
            ("ordering_key", self.ordering_key.as_ref()),
        ];
        let mut members: Vec<String> = Vec::new();
        for (name, value) in named {
            members.extend(value.map(|value| format!("\"{name}\":{}", serde_json::Value::from(value.as_str()))));
        }
        for (name, given) in [("data", &self.data), ("context", &self.context)] {
            if let Some(given) = given {
                members.push(format!("\"{name}\":{}", object(name, given)?));
            }
        }
        Ok(format!("{{{}}}", members.join(",")))
    }
}

/// The text of a JSON object, from where `given` says.
fn object(name: &str, given: &str) -> Result<String, Failure> {
    let read = match given.strip_prefix('@') {
        Some("-") => {
            let mut read = String::new();
            std::io::stdin().read_to_string(&mut read).map(|_| read).map_err(|error| ("standard input", error))
        }
        Some(file) => std::fs::read_to_string(file).map_err(|error| (file, error)),
        None => Ok(given.to_owned()),
    };
    let read =
        read.map_err(|(from, error)| Failure::new(SYSTEM, format!("--{name}: {from} can't be read: {error}")))?;
    let fits = serde_json::from_str::<&RawValue>(&read).is_ok_and(|raw| raw.get().starts_with('{'));
    if fits { Ok(read) } else { Err(Failure::usage(format!("--{name} must be a JSON object"))) }
}
