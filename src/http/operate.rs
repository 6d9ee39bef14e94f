//! `/admin` for whoever runs the daemon: its figures, its configuration, webhooks and attempts of all tenants. Nothing in
//! these answers is secret: the configuration names files and holds no key, webhooks come without theirs.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::call::Call;
use super::control::{Ask, Configured, NotDone, Setting};
use super::cursor::Listing;
use super::json::{self, Member};
use super::problem::Problem;
use super::reply;
use super::server::Reply;
use super::show::{AttemptJson, PageJson, Pagination};
use crate::model::id::{JournalSeq, TenantId, TenantNo, WebhookId, WebhookNo};
use crate::model::time::millis_z;
use crate::model::webhook::{Filter, WebhookState};
use crate::service::overview::{Overview, TailQuery, Tailed, Which};
use crate::service::room::Full;
use crate::service::subscribe::Seen;

#[derive(Serialize)]
struct OverviewJson {
    version: &'static str,
    now: String,
    started_at: String,
    uptime_seconds: u64,
    /// Seconds that the wall clock was moved by since the start.
    clock_moved_seconds: i64,
    tenants: usize,
    webhooks: WebhooksJson,
    deliveries: DeliveriesJson,
    events: EventsJson,
    store: StoreJson,
    last_reload: &'static str,
}

#[derive(Serialize)]
struct WebhooksJson {
    active: usize,
    inactive: usize,
    failing: usize,
}

#[derive(Serialize)]
struct DeliveriesJson {
    queued: u64,
    in_flight: i64,
    dead: u64,
    oldest_due_at: Option<String>,
    overdue_seconds: u64,
}

#[derive(Serialize)]
struct EventsJson {
    accepted: u64,
    open: u64,
}

#[derive(Serialize)]
struct StoreJson {
    bytes: Option<u64>,
    taken_bytes: u64,
    used_bytes: u64,
    disk_budget_bytes: Option<u64>,
    disk_free_bytes: u64,
    /// Why publishing is refused.
    full: Option<&'static str>,
    oldest_event_seconds: Option<u64>,
    last_backup_at: Option<String>,
}

impl OverviewJson {
    fn new(seen: &Overview) -> Self {
        let Overview { webhooks, .. } = seen;
        Self {
            version: env!("CARGO_PKG_VERSION"),
            now: millis_z(seen.now_ms),
            started_at: millis_z(seen.started_ms),
            uptime_seconds: seen.now_ms.saturating_sub(seen.started_ms) / 1_000,
            clock_moved_seconds: seen.clock_moved_ms / 1_000,
            tenants: seen.tenants,
            webhooks: WebhooksJson { active: webhooks.active, inactive: webhooks.inactive, failing: webhooks.failing },
            deliveries: DeliveriesJson {
                queued: seen.queued,
                in_flight: seen.in_flight,
                dead: seen.dead,
                oldest_due_at: seen.oldest_due_ms.map(millis_z),
                overdue_seconds: seen.overdue_ms / 1_000,
            },
            events: EventsJson { accepted: seen.accepted, open: seen.open_events },
            store: StoreJson {
                bytes: seen.store_bytes,
                taken_bytes: seen.room.taken,
                used_bytes: seen.room.used,
                disk_budget_bytes: seen.disk_budget,
                disk_free_bytes: seen.room.disk_free,
                full: seen.room.full.map(Full::as_str),
                oldest_event_seconds: seen.oldest_event_ms.map(|age_ms| age_ms / 1_000),
                last_backup_at: seen.last_backup_ms.map(millis_z),
            },
            last_reload: if seen.reload_ok { "ok" } else { "refused" },
        }
    }
}

/// `GET /admin/stats`
pub async fn overview(call: &Call<'_>) -> Result<Reply, Problem> {
    Ok(reply::json(StatusCode::OK, &OverviewJson::new(&call.service.overview().await?)))
}

/// The tenant that a listing is narrowed to.
fn named_tenant(call: &Call<'_>) -> Result<Option<TenantNo>, Problem> {
    let named = call.query.one("tenant")?;
    Ok(named.map(|id| call.service.tenant(id)).transpose()?.map(|tenant| tenant.no))
}

/// Where a listing of all webhooks goes on, and what it leaves out.
#[derive(Serialize, Deserialize)]
struct Place {
    after: WebhookNo,
    tenant: Option<TenantNo>,
    state: Option<String>,
}

#[derive(Serialize)]
struct WebhookJson<'a> {
    id: String,
    tenant: &'a str,
    dialect: &'static str,
    url: &'a str,
    events: Vec<String>,
    state: &'static str,
    inactive_reason: Option<&'static str>,
    inactive_since: Option<String>,
    failures: u32,
    failing_since: Option<String>,
    last_success_at: Option<String>,
    queued: u64,
    dead: u64,
}

impl<'a> WebhookJson<'a> {
    fn new(tenant: &'a TenantId, seen: &'a Seen) -> Self {
        let (webhook, standing) = (&*seen.webhook, &seen.standing);
        let (state, reason, since) = match webhook.state {
            WebhookState::Active => ("active", None, None),
            WebhookState::Inactive { reason, since } => ("inactive", Some(reason.as_str()), Some(since)),
            WebhookState::Deleted { at } => ("deleted", None, Some(at)),
        };
        Self {
            id: webhook.id.to_string(),
            tenant: tenant.as_str(),
            dialect: webhook.dialect.as_str(),
            url: &webhook.url,
            events: webhook.filters.iter().map(Filter::text).collect(),
            state,
            inactive_reason: reason,
            inactive_since: since.map(millis_z),
            failures: standing.failures,
            failing_since: standing.failing_since_ms.map(millis_z),
            last_success_at: seen.standing.last_success_ms.map(millis_z),
            queued: standing.waiting + standing.started,
            dead: standing.dead,
        }
    }
}

const ALL_WEBHOOKS: Listing = Listing { name: "all-webhooks", owner: 0 };
const ALL_ATTEMPTS: Listing = Listing { name: "all-attempts", owner: 0 };

/// `GET /admin/webhooks`
pub async fn webhooks(call: &Call<'_>) -> Result<Reply, Problem> {
    let limit = call.query.limit()?;
    let place = match call.query.one("cursor")? {
        Some(text) => ALL_WEBHOOKS.place(call.service, text)?,
        None => Place { after: 0, tenant: named_tenant(call)?, state: call.query.one("state")?.map(str::to_owned) },
    };
    let which = match place.state.as_deref() {
        None => Which::All,
        Some("active") => Which::Active,
        Some("inactive") => Which::Inactive,
        Some("failing") => Which::Failing,
        Some(_) => return Err(Problem::invalid("state must be active, inactive or failing")),
    };
    let (page, next) = call.service.webhooks_of_all(place.tenant, which, place.after, limit).await?;
    let next_cursor = next.map(|after| ALL_WEBHOOKS.cursor(call.service, &Place { after, ..place }));
    let data = page.iter().map(|(tenant, seen)| WebhookJson::new(tenant, seen)).collect();
    Ok(reply::json(StatusCode::OK, &PageJson { data, pagination: Pagination { next_cursor } }))
}

#[derive(Serialize)]
struct TailedJson<'a> {
    tenant: &'a str,
    r#type: &'a str,
    #[serde(flatten)]
    attempt: AttemptJson<'a>,
}

impl<'a> TailedJson<'a> {
    fn new(tailed: &'a Tailed) -> Self {
        Self {
            tenant: tailed.tenant.as_str(),
            r#type: &tailed.kind,
            attempt: AttemptJson::new(tailed.event, tailed.webhook, &tailed.attempt),
        }
    }
}

/// `GET /admin/attempts`: what was put on record behind the cursor, oldest first. There always is a next cursor, from which a
/// follower goes on; without one it begins with what comes from now on.
pub async fn attempts(call: &Call<'_>) -> Result<Reply, Problem> {
    let webhook = |text: &str| WebhookId::parse(text).ok_or_else(|| Problem::invalid("webhook must be a webhook's id"));
    let only_failed = match call.query.one("outcome")? {
        None => false,
        Some("failed") => true,
        Some(_) => return Err(Problem::invalid("outcome must be failed, or left out")),
    };
    let after = |text: &str| ALL_ATTEMPTS.place::<JournalSeq>(call.service, text);
    let query = TailQuery {
        tenant: named_tenant(call)?,
        webhook: call.query.one("webhook")?.map(webhook).transpose()?,
        only_failed,
        after: call.query.one("cursor")?.map(after).transpose()?,
        limit: call.query.limit()?,
    };
    let tail = call.service.tail(query).await?;
    let next_cursor = Some(ALL_ATTEMPTS.cursor(call.service, &tail.next));
    let data = tail.items.iter().map(TailedJson::new).collect();
    Ok(reply::json(StatusCode::OK, &PageJson { data, pagination: Pagination { next_cursor } }))
}

fn stopping() -> Problem {
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the daemon is stopping");
    Problem { retry_after_s: Some(1), ..problem }
}

#[derive(Serialize)]
struct ReloadedJson {
    reloaded: bool,
    restart_needed: Vec<&'static str>,
}

/// `POST /admin/reload`: answered when all of it is in force, or nothing.
pub async fn reload(call: &Call<'_>) -> Result<Reply, Problem> {
    let guard = call.asker.take();
    match call.control.ask(|answer| Ask::Reload(guard, answer)).await.ok_or_else(stopping)? {
        Ok(done) => {
            let shown = ReloadedJson { reloaded: true, restart_needed: done.restart_needed };
            Ok(reply::json(StatusCode::OK, &shown))
        }
        Err(NotDone::Unrecorded(error)) => Err(error.into()),
        Err(NotDone::Refused(why)) => {
            let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "configuration_refused", why);
            Err(problem)
        }
    }
}

#[derive(Serialize)]
struct ConfigJson<'a> {
    file: Option<&'a str>,
    data: Vec<SettingJson<'a>>,
}

#[derive(Serialize)]
struct SettingJson<'a> {
    key: &'a str,
    value: &'a str,
    origin: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_restart: Option<&'a str>,
}

impl<'a> SettingJson<'a> {
    fn new(setting: &'a Setting) -> Self {
        let Setting { key, value, origin, after_restart } = setting;
        Self { key, value, origin, after_restart: after_restart.as_deref() }
    }
}

/// `GET /admin/config`
pub async fn config(call: &Call<'_>) -> Result<Reply, Problem> {
    let Configured { file, settings } = call.control.ask(Ask::Config).await.ok_or_else(stopping)?;
    let data = settings.iter().map(SettingJson::new).collect();
    Ok(reply::json(StatusCode::OK, &ConfigJson { file: file.as_deref(), data }))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LogBody<'a> {
    #[serde(borrow)]
    level: Member<'a>,
}

#[derive(Serialize)]
struct LogJson<'a> {
    level: &'a str,
}

/// `PUT /admin/log`: until the next reload or restart.
pub async fn log(call: &Call<'_>) -> Result<Reply, Problem> {
    let level: String = json::parse::<LogBody<'_>>(call.body)?.level.required("level", "a string such as \"debug\"")?;
    let (asked, guard) = (level.clone(), call.asker.take());
    let set = call.control.ask(|answer| Ask::Log(asked, guard, answer)).await.ok_or_else(stopping)?;
    match set {
        Ok(()) => Ok(reply::json(StatusCode::OK, &LogJson { level: &level })),
        Err(NotDone::Unrecorded(error)) => Err(error.into()),
        Err(NotDone::Refused(rule)) => Err(Problem::invalid(format!("level {rule}"))),
    }
}
