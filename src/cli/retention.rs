//! `retention run`: what has been kept for long enough is removed now and not at the next minute, or only counted. Owns that a
//! run goes on until nothing is left for it, as the daemon answers after a while with what it has done so far.

use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::client::Target;
use super::{Failure, TRY_AGAIN, print};

/// What a run removes, as the daemon names it and as it is told.
const KINDS: [(&str, &str); 4] = [
    ("events", "events"),
    ("attempts", "attempts"),
    ("dead_letters", "dead letters"),
    ("idempotency_keys", "idempotency keys"),
];
/// The daemon says after 20 s how far it is; counting reads what it counts.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Subcommand)]
pub(super) enum Retention {
    /// Remove what has been kept for long enough: now, and with other limits where some are named.
    Run(Run),
}

#[derive(Args)]
pub(super) struct Run {
    /// How long events are kept, such as 7d or 12h. Without it, as with all of these, as the configuration says.
    #[arg(long, value_name = "AGE")]
    events: Option<String>,
    /// How long attempts are kept.
    #[arg(long, value_name = "AGE")]
    attempts: Option<String>,
    /// How long dead letters are kept.
    #[arg(long, value_name = "AGE")]
    dead_letters: Option<String>,
    /// Bytes of the store that may be in use.
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Only count what would go at most.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Retention {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let Self::Run(run) = self;
        run.run()
    }
}

impl Run {
    fn run(&self) -> Result<(), Failure> {
        let client = self.target.client()?.patient(PATIENCE);
        let body = self.body();
        let mut all = Account::default();
        loop {
            let answer = client.ask(Method::POST, "/admin/retention", body.clone(), &[])?.json()?;
            let moved = all.add(&answer);
            let complete = answer["complete"] == true;
            if complete || !moved {
                all.tell(self.dry_run, complete, self.json)?;
                let why = "what is left waits until the backup that is being made has ended; run this again then";
                return if complete { Ok(()) } else { Err(Failure::new(TRY_AGAIN, why)) };
            }
            eprintln!("{} so far", all.text());
        }
    }

    fn body(&self) -> String {
        let mut body = Map::new();
        let ages = [("events", &self.events), ("attempts", &self.attempts), ("dead_letters", &self.dead_letters)];
        for (member, given) in ages {
            body.extend(given.as_ref().map(|given| (member.to_owned(), json!(given))));
        }
        body.extend(self.max_bytes.map(|bytes| ("max_bytes".to_owned(), json!(bytes))));
        if self.dry_run {
            body.insert("dry_run".to_owned(), json!(true));
        }
        Value::from(body).to_string()
    }
}

/// What was removed, or would be.
#[derive(Default)]
struct Account {
    counts: [u64; KINDS.len()],
    bytes: u64,
}

impl Account {
    /// Adds what one answer tells; false: that was nothing.
    fn add(&mut self, answer: &Value) -> bool {
        let number = |member: &str| answer[member].as_u64().unwrap_or(0);
        let mut moved = false;
        for (count, (member, _)) in self.counts.iter_mut().zip(KINDS) {
            *count += number(member);
            moved |= number(member) > 0;
        }
        self.bytes += number("bytes");
        moved
    }

    fn text(&self) -> String {
        let parts = self.counts.iter().zip(KINDS).map(|(count, (_, name))| format!("{count} {name}"));
        format!("{}, {}", parts.collect::<Vec<_>>().join(", "), ByteSize(self.bytes))
    }

    fn tell(&self, dry_run: bool, complete: bool, as_json: bool) -> Result<(), Failure> {
        if as_json {
            let mut shown: Map<String, Value> =
                self.counts.iter().zip(KINDS).map(|(count, (member, _))| (member.to_owned(), json!(count))).collect();
            shown.insert("bytes".to_owned(), json!(self.bytes));
            shown.insert("dry_run".to_owned(), json!(dry_run));
            shown.insert("complete".to_owned(), json!(complete));
            return print::json(&Value::from(shown));
        }
        let before = if dry_run { "would go at most" } else { "removed" };
        print::line(&format!("{before}: {}", self.text()))
    }
}
