//! `POST /admin/retention`: a run of retention at once, with other limits where the body names some; or what it would remove.

use http::StatusCode;
use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::{Deserialize, Serialize};

use super::call::Call;
use super::json::{self, Member, Whole};
use super::problem::Problem;
use super::reply;
use super::server::Reply;
use crate::clock::Millis;
use crate::service::retention::Retention;
use crate::store::op::Retained;
use crate::store::retention::Counted;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    events: Member<'a>,
    #[serde(borrow)]
    attempts: Member<'a>,
    #[serde(borrow)]
    dead_letters: Member<'a>,
    #[serde(borrow)]
    max_bytes: Member<'a>,
    #[serde(borrow)]
    dry_run: Member<'a>,
}

impl Body<'_> {
    /// The limits in force, with those that are named here instead.
    fn limits(&self, own: Retention) -> Result<Retention, Problem> {
        let max_bytes = self.max_bytes.settable::<Whole>("max_bytes", "a number of bytes, or null for no bound")?;
        let max_bytes = max_bytes.map(|bytes| bytes.map(|bytes| bytes.0));
        Ok(Retention {
            events_ms: age(self.events, "events")?.unwrap_or(own.events_ms),
            attempts_ms: age(self.attempts, "attempts")?.unwrap_or(own.attempts_ms),
            dead_letters_ms: age(self.dead_letters, "dead_letters")?.unwrap_or(own.dead_letters_ms),
            max_bytes: max_bytes.unwrap_or(own.max_bytes),
            ..own
        })
    }
}

fn age(member: Member<'_>, name: &str) -> Result<Option<Millis>, Problem> {
    let Some(text) = member.text(name)? else { return Ok(None) };
    let read = |text: &str| -> Option<Millis> {
        let span: Span = text.parse().ok()?;
        let fixed = span.get_years() == 0 && span.get_months() == 0;
        let duration: SignedDuration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok().filter(|_| fixed)?;
        Millis::try_from(duration.as_millis()).ok()
    };
    let rule = || Problem::invalid(format!("{name} must be a duration such as \"30d\" or \"12h\""));
    read(&text).map(Some).ok_or_else(rule)
}

#[derive(Serialize)]
struct RunJson {
    dry_run: bool,
    /// False: there is more, and the next run goes on with it.
    complete: bool,
    events: u64,
    attempts: u64,
    dead_letters: u64,
    idempotency_keys: u64,
    bytes: u64,
}

/// `POST /admin/retention`
pub async fn run(call: &Call<'_>) -> Result<Reply, Problem> {
    let body: Body<'_> = json::parse_optional(call.body)?;
    let limits = body.limits(call.service.settings().retention)?;
    let dry_run = body.dry_run.read("dry_run", "true or false")?.unwrap_or(false);
    let shown = if dry_run {
        let Counted { events, journal, bytes, dead_letters, idempotency } =
            call.service.count_retention(limits).await?;
        RunJson {
            dry_run,
            complete: true,
            events,
            attempts: journal,
            dead_letters,
            idempotency_keys: idempotency,
            bytes,
        }
    } else {
        let run = call.service.run_retention(limits).await?;
        let Retained { events, journal, bytes, dead_letters, idempotency, .. } = run.removed;
        let complete = run.complete;
        RunJson { dry_run, complete, events, attempts: journal, dead_letters, idempotency_keys: idempotency, bytes }
    };
    Ok(reply::json(StatusCode::OK, &shown))
}
