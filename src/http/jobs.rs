//! Jobs at the API: dead letters redriven and purged by filter, what a webhook has missed recovered, and how that goes. The same
//! for a tenant (`/v1`) and for the operator across tenants (`/admin`).
//!
//! Unknown members are errors here on every route: a misspelt filter would be none, and mean everything.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::call::Call;
use super::cursor::Listing;
use super::json::{self, Member};
use super::problem::Problem;
use super::reply;
use super::route::Action;
use super::server::Reply;
use super::show::{PageJson, Pagination};
use crate::clock::Millis;
use crate::model::event::is_event_type;
use crate::model::id::{BROADCAST, JobId, TenantId, TenantNo, WebhookId, WebhookNo};
use crate::model::job::{Job, JobState, Letters, Only, Recover, Task};
use crate::model::time::millis_z;
use crate::service::Service;
use crate::service::jobs::JobQuery;

/// What an audit record says of a request that only counted.
const COUNTED: &str = "dry_run";

/// Which dead letters, and what for.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LettersBody<'a> {
    #[serde(borrow)]
    tenant: Member<'a>,
    #[serde(borrow)]
    webhook: Member<'a>,
    #[serde(borrow)]
    r#type: Member<'a>,
    #[serde(borrow)]
    since: Member<'a>,
    #[serde(borrow)]
    until: Member<'a>,
    #[serde(borrow)]
    all: Member<'a>,
    #[serde(borrow)]
    dry_run: Member<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RecoverBody<'a> {
    #[serde(borrow)]
    since: Member<'a>,
    #[serde(borrow)]
    until: Member<'a>,
    #[serde(borrow)]
    only: Member<'a>,
    #[serde(borrow)]
    activate: Member<'a>,
    #[serde(borrow)]
    dry_run: Member<'a>,
}

/// What is asked for.
struct Asked {
    tenant: TenantNo,
    task: Task,
    activate: bool,
    dry_run: bool,
}

#[derive(Serialize)]
struct CountJson {
    count: u64,
}

#[derive(Serialize)]
struct OneJson<'a> {
    job: JobJson<'a>,
}

#[derive(Serialize)]
struct JobJson<'a> {
    id: String,
    kind: &'static str,
    state: &'static str,
    total: u64,
    done: u64,
    skipped: u64,
    failed: u64,
    /// Why it failed.
    reason: Option<&'static str>,
    /// On `/admin` only: whose, `*` for everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    webhook: Option<String>,
    r#type: Option<&'a str>,
    since: Option<String>,
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    only: Option<&'static str>,
    created_at: String,
    updated_at: String,
    ended_at: Option<String>,
}

impl<'a> JobJson<'a> {
    fn new(service: &Service, job: &'a Job, whose: bool) -> Self {
        let (kind, only, since_ms, until_ms) = match &job.task {
            Task::Redrive(of) | Task::Purge(of) => (of.kind.as_deref(), None, of.since_ms, of.until_ms),
            Task::Recover(of) => (None, Some(of.only.as_str()), of.since_ms, of.until_ms),
            Task::Erase(_) => (None, None, None, None),
        };
        let id_of = |no: TenantNo| service.tenant_no(no).map(|tenant| tenant.id.to_string());
        let tenant = match &job.task {
            Task::Erase(of) => Some(of.id.to_string()),
            _ if job.tenant == BROADCAST => Some("*".to_owned()),
            _ => id_of(job.tenant),
        };
        // One that was deleted since has no name any more.
        let webhook = job.task.webhook().and_then(|no| service.webhook_no(no));
        Self {
            id: job.id.to_string(),
            kind: job.task.as_str(),
            state: job.state.as_str(),
            total: job.total,
            done: job.done,
            skipped: job.skipped,
            failed: job.failed,
            reason: job.state.reason(),
            tenant: tenant.filter(|_| whose),
            webhook: webhook.map(|webhook| webhook.id.to_string()),
            r#type: kind,
            since: since_ms.map(millis_z),
            until: until_ms.map(millis_z),
            only,
            created_at: millis_z(job.created_ms),
            updated_at: millis_z(job.changed_ms),
            ended_at: (job.state != JobState::Running).then(|| millis_z(job.changed_ms)),
        }
    }
}

/// Does what one of these routes asks.
pub async fn perform(action: Action, call: &Call<'_>) -> Result<Reply, Problem> {
    match action {
        Action::RedriveMany => redrive(call).await,
        Action::PurgeMany => purge(call).await,
        Action::Recover => recover(call).await,
        Action::JobList => list(call).await,
        Action::JobSee => see(call, false).await,
        Action::JobCancel => cancel(call, false).await,
        Action::AllRedrive => redrive_any(call).await,
        Action::AllPurge => purge_any(call).await,
        Action::AnyRecover => recover_any(call).await,
        Action::AllJobs => list_any(call).await,
        Action::AnyJobSee => see(call, true).await,
        Action::AnyJobCancel => cancel(call, true).await,
        _ => Err(Problem::not_found()),
    }
}

/// `POST /v1/dead-letters/redrive`
async fn redrive(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let (letters, dry_run, _) = letters(call, Some(tenant))?.1;
    answer(call, Asked { tenant, task: Task::Redrive(letters), activate: false, dry_run }, false).await
}

/// `POST /v1/dead-letters/purge`
async fn purge(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let (letters, dry_run, all) = letters(call, Some(tenant))?.1;
    let task = purging(letters, all)?;
    answer(call, Asked { tenant, task, activate: false, dry_run }, false).await
}

/// `POST /admin/dead-letters/redrive`
async fn redrive_any(call: &Call<'_>) -> Result<Reply, Problem> {
    let (tenant, (letters, dry_run, _)) = letters(call, None)?;
    answer(call, Asked { tenant, task: Task::Redrive(letters), activate: false, dry_run }, true).await
}

/// `POST /admin/dead-letters/purge`
async fn purge_any(call: &Call<'_>) -> Result<Reply, Problem> {
    let (tenant, (letters, dry_run, all)) = letters(call, None)?;
    let task = purging(letters, all || tenant != BROADCAST)?;
    answer(call, Asked { tenant, task, activate: false, dry_run }, true).await
}

/// `POST /v1/webhooks/{id}/recover`
async fn recover(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let id = WebhookId::parse(call.id).ok_or_else(Problem::not_found)?;
    let webhook = call.service.webhook_of(tenant, id)?.no;
    answer(call, recovery(call, tenant, webhook)?, false).await
}

/// `POST /admin/webhooks/{id}/recover`
async fn recover_any(call: &Call<'_>) -> Result<Reply, Problem> {
    let id = WebhookId::parse(call.id).ok_or_else(Problem::not_found)?;
    let webhook = call.service.webhook_by_id(id)?;
    answer(call, recovery(call, webhook.tenant, webhook.no)?, true).await
}

/// Whose and which dead letters, whether they are only counted, and whether all of them are meant. `own`: the tenant that
/// asks; otherwise the operator does, for everybody or for a tenant that is named.
fn letters(call: &Call<'_>, own: Option<TenantNo>) -> Result<(TenantNo, (Letters, bool, bool)), Problem> {
    let body: LettersBody<'_> = json::parse_optional(call.body)?;
    // `null` is no way to leave it out here: it would mean everybody's.
    let named = match body.tenant.settable::<String>("tenant", "a string")? {
        Some(None) => return Err(Problem::invalid("tenant must be a string")),
        given => given.flatten(),
    };
    let tenant = match (own, named) {
        (Some(tenant), None) => tenant,
        (Some(_), Some(_)) => return Err(Problem::invalid("tenant is not a member of this")),
        (None, Some(id)) => call.service.tenant(&id)?.no,
        (None, None) => BROADCAST,
    };
    let webhook = match body.webhook.text("webhook")? {
        Some(text) => {
            let id = WebhookId::parse(&text).ok_or_else(Problem::not_found)?;
            let found = if tenant == BROADCAST {
                call.service.webhook_by_id(id)?
            } else {
                call.service.webhook_of(tenant, id)?
            };
            Some(found.no)
        }
        None => None,
    };
    let kind: Option<String> = body.r#type.read("type", "a string")?;
    if kind.as_deref().is_some_and(|kind| !is_event_type(kind)) {
        return Err(Problem::invalid("type must be an event type: 1 to 128 of letters, digits, '_', '.' and '-'"));
    }
    let (since_ms, until_ms) = span(body.since, body.until)?;
    let letters = Letters { webhook, kind, since_ms, until_ms };
    Ok((tenant, (letters, flag(body.dry_run, "dry_run")?, flag(body.all, "all")?)))
}

/// What is thrown away is gone: everything only when that is said.
fn purging(letters: Letters, all: bool) -> Result<Task, Problem> {
    if letters == Letters::default() && !all {
        return Err(Problem::invalid(
            "all must be true to purge every dead letter; or name webhook, type, since or until",
        ));
    }
    Ok(Task::Purge(letters))
}

fn recovery(call: &Call<'_>, tenant: TenantNo, webhook: WebhookNo) -> Result<Asked, Problem> {
    let body: RecoverBody<'_> = json::parse_optional(call.body)?;
    let only = match body.only.text("only")?.as_deref() {
        None => Only::Unarrived,
        Some("failed") => Only::Failed,
        Some("missing") => Only::Missing,
        Some("all") => Only::All,
        Some(_) => return Err(Problem::invalid("only must be failed, missing or all; without it: failed and missing")),
    };
    let (since_ms, until_ms) = span(body.since, body.until)?;
    Ok(Asked {
        tenant,
        task: Task::Recover(Recover { webhook, only, since_ms, until_ms }),
        activate: flag(body.activate, "activate")?,
        dry_run: flag(body.dry_run, "dry_run")?,
    })
}

fn span(since: Member<'_>, until: Member<'_>) -> Result<(Option<Millis>, Option<Millis>), Problem> {
    let moment = |member: Member<'_>, name: &str| Ok::<_, Problem>(member.moment(name)?.map(|us| us / 1_000));
    Ok((moment(since, "since")?, moment(until, "until")?))
}

fn flag(member: Member<'_>, name: &str) -> Result<bool, Problem> {
    Ok(member.read(name, "true or false")?.unwrap_or(false))
}

/// Counts, or begins.
async fn answer(call: &Call<'_>, asked: Asked, whose: bool) -> Result<Reply, Problem> {
    let Asked { tenant, task, activate, dry_run } = asked;
    if dry_run {
        let count = call.service.count(tenant, &task).await?;
        call.asker.came_to(COUNTED);
        return Ok(reply::json(StatusCode::OK, &CountJson { count }));
    }
    let job = call.service.start_job(tenant, task, activate, call.asker).await?;
    Ok(one(call, StatusCode::ACCEPTED, &job, whose))
}

/// An answer with one job; `whose`: its tenant is named.
pub(super) fn one(call: &Call<'_>, status: StatusCode, job: &Job, whose: bool) -> Reply {
    reply::json(status, &OneJson { job: JobJson::new(call.service, job, whose) })
}

/// Where a listing of jobs goes on, and what it leaves out.
#[derive(Serialize, Deserialize)]
struct Place {
    before: JobId,
    tenant: Option<TenantNo>,
    /// The name of a tenant that may be there no more: its erasures, too.
    erased: Option<TenantId>,
    state: Option<String>,
}

/// `GET /v1/jobs`
async fn list(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    page(call, Listing { name: "jobs", owner: tenant }, (Some(tenant), None), false).await
}

/// `GET /admin/jobs`
async fn list_any(call: &Call<'_>) -> Result<Reply, Problem> {
    let whose = match call.query.one("tenant")? {
        Some("*") => (Some(BROADCAST), None),
        // One that was deleted is known by its erasure alone; without that, nobody is.
        Some(name) => match (call.service.tenant(name), TenantId::parse(name)) {
            (Ok(tenant), id) => (Some(tenant.no), id),
            (Err(_), Some(id)) if call.service.is_erased(&id).await? => (None, Some(id)),
            (Err(error), _) => return Err(error.into()),
        },
        None => (None, None),
    };
    page(call, Listing { name: "all jobs", owner: 0 }, whose, true).await
}

/// `tenant`: whose jobs, by number and by the name of one that was deleted.
async fn page(
    call: &Call<'_>,
    listing: Listing,
    tenant: (Option<TenantNo>, Option<TenantId>),
    whose: bool,
) -> Result<Reply, Problem> {
    let limit = call.query.limit()?;
    let place = match call.query.one("cursor")? {
        Some(text) => listing.place(call.service, text)?,
        None => {
            let state = call.query.one("state")?;
            if state.is_some_and(|state| !["running", "done", "cancelled", "failed"].contains(&state)) {
                return Err(Problem::invalid("state must be running, done, cancelled or failed"));
            }
            let (tenant, erased) = tenant;
            Place { before: JobId([u8::MAX; 16]), tenant, erased, state: state.map(str::to_owned) }
        }
    };
    let Place { before, tenant, erased, state } = place;
    let query = JobQuery { tenant, erased: erased.clone(), state: state.clone(), before, limit };
    let (jobs, next) = call.service.jobs(query).await?;
    let next_cursor = next.map(|before| listing.cursor(call.service, &Place { before, tenant, erased, state }));
    let data = jobs.iter().map(|job| JobJson::new(call.service, job, whose)).collect();
    Ok(reply::json(StatusCode::OK, &PageJson { data, pagination: Pagination { next_cursor } }))
}

/// `GET /v1/jobs/{id}` and `/admin/jobs/{id}`
async fn see(call: &Call<'_>, any: bool) -> Result<Reply, Problem> {
    let (tenant, id) = named(call, any)?;
    let job = call.service.job(tenant, id).await?;
    Ok(one(call, StatusCode::OK, &job, any))
}

/// `DELETE /v1/jobs/{id}` and `/admin/jobs/{id}`
async fn cancel(call: &Call<'_>, any: bool) -> Result<Reply, Problem> {
    let (tenant, id) = named(call, any)?;
    let job = call.service.cancel_job(tenant, id, call.asker).await?;
    Ok(one(call, StatusCode::OK, &job, any))
}

/// Whose job it has to be, and its id.
fn named(call: &Call<'_>, any: bool) -> Result<(Option<TenantNo>, JobId), Problem> {
    let tenant = if any { None } else { Some(call.tenant()?) };
    Ok((tenant, JobId::parse(call.id).ok_or_else(Problem::not_found)?))
}
