//! The audit log at the API: what a request leaves in it, and `GET /admin/audit`. Owns which requests are on record, and
//! that what is on record names things and quotes nothing but lemon's two data privacy headers.
//!
//! Every change is on record, and every request on lemon's routes that carries those headers, whatever it does and whatever
//! comes of it, unless it was turned away unheard (too fast, or too much at a time): what is to spare the store may not
//! write to it. Publishing is no change in this sense: what was published stands in the event log.

use std::net::SocketAddr;

use http::header::HeaderName;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::auth::Caller;
use super::call::Call;
use super::cursor::Listing;
use super::hygiene;
use super::problem::Problem;
use super::query::Query;
use super::reply;
use super::route::{Access, Action, Route};
use super::server::{Peer, Reply};
use super::show::{PageJson, Pagination, delivery_id, parse_delivery_id};
use crate::limits::AUDIT_TEXT_MAX;
use crate::model::audit::{Actor, Audit};
use crate::model::id::{EventId, JobId, KeyId, TenantId, WebhookId};
use crate::model::key::Role;
use crate::model::time::millis_z;
use crate::model::webhook::Filter;
use crate::service::Service;
use crate::service::audit::AuditQuery;

/// Each with its name as the vendor writes it.
const PRINCIPAL: (HeaderName, &str) =
    (HeaderName::from_static("lmg-data-privacy-access-principal"), "LMG-Data-Privacy-Access-Principal");
const JUSTIFICATION: (HeaderName, &str) =
    (HeaderName::from_static("lmg-data-privacy-access-justification"), "LMG-Data-Privacy-Access-Justification");

/// lemon's data privacy headers: on whose behalf personal data is looked at, and why.
#[derive(Default)]
pub struct Privacy {
    principal: Option<String>,
    justification: Option<String>,
}

impl Privacy {
    /// Reads the headers.
    ///
    /// # Errors
    /// 400 when one is `required` and missing, 422 when one is not to be recorded.
    pub fn read(headers: &HeaderMap, required: bool) -> Result<Self, Problem> {
        let [principal, justification] = [PRINCIPAL, JUSTIFICATION].map(|name| text(headers, name, required));
        Ok(Self { principal: principal?, justification: justification? })
    }

    #[must_use]
    pub fn is_given(&self) -> bool {
        self.principal.is_some() || self.justification.is_some()
    }
}

fn text(headers: &HeaderMap, (key, name): (HeaderName, &str), required: bool) -> Result<Option<String>, Problem> {
    let mut values = hygiene::values(headers, key);
    let value = values.next().map_or(&b""[..], http::HeaderValue::as_bytes);
    if values.next().is_some() {
        return Err(Problem::invalid(format!("{name} stands there twice")));
    }
    if value.is_empty() {
        let missing =
            || Problem::new(StatusCode::BAD_REQUEST, "data_privacy_header_missing", format!("{name} is required"));
        return if required { Err(missing()) } else { Ok(None) };
    }
    let fits = |text: &&str| text.chars().count() <= AUDIT_TEXT_MAX && !text.chars().any(char::is_control);
    let read = std::str::from_utf8(value).ok().filter(fits);
    let rule = || Problem::invalid(format!("{name} may have 256 characters of UTF-8, no control characters"));
    read.map(|text| Some(text.to_owned())).ok_or_else(rule)
}

/// Whether a request that was refused in this way is on record, if it carries lemon's headers.
#[must_use]
pub fn is_heard(problem: &Problem) -> bool {
    problem.status != StatusCode::TOO_MANY_REQUESTS && !problem.status.is_server_error()
}

/// What a request leaves in the audit log, if it leaves anything. The store adds what its change was about.
pub fn draft(
    service: &Service,
    caller: &Caller,
    peer: &Peer,
    route: &Route,
    id: &str,
    query: &Query<'_>,
    privacy: Privacy,
) -> Option<Box<Audit>> {
    // What answers a delivery stands in its attempt.
    let elsewhere = route.access == Access::Publish || route.action == Action::StreamAnswer;
    let changes = route.method != Method::GET && !elsewhere;
    if !changes && !privacy.is_given() {
        return None;
    }
    let actor = caller.key().map_or(Actor::Socket, |id| Actor::Key { id, role: caller.role() });
    let own = || Some(service.tenant_no(caller.own_tenant()?)?.id.to_string());
    let named = || Some(TenantId::parse(query.one("tenant").ok()??)?.to_string());
    Some(Box::new(Audit {
        remote: peer.addr,
        method: Some(route.method.to_string()),
        path: Some(route.path.to_owned()),
        tenant: own().or_else(named),
        target: target(id),
        principal: privacy.principal,
        justification: privacy.justification,
        ..Audit::new(actor, name(route.action))
    }))
}

/// The path's parameter, if it is an id: a webhook's in its first spelling, whichever its dialect has. What is none may be
/// anything, a token pasted in the wrong place too, and is left out.
fn target(text: &str) -> Option<String> {
    let webhook = || WebhookId::parse(text).map(|id| id.to_string());
    let delivery = || parse_delivery_id(text).map(|(event, webhook)| delivery_id(event, webhook));
    let event = || EventId::parse(text).map(|id| id.to_string());
    let key = || KeyId::parse(text).map(|id| id.to_string());
    let job = || JobId::parse(text).map(|id| id.to_string());
    webhook().or_else(delivery).or_else(event).or_else(key).or_else(job)
}

/// What an action is called.
fn name(action: Action) -> &'static str {
    match action {
        Action::Health | Action::Ready | Action::OpenApi | Action::Metrics => "daemon.read",
        Action::Publish | Action::PublishBatch => "event.publish",
        Action::Events => "event.list",
        Action::Event => "event.read",
        Action::Explain => "event.explain",
        Action::Resend => "event.resend",
        Action::LemonCreate | Action::OmniaCreate | Action::VibeCreate => "webhook.create",
        Action::LemonList | Action::OmniaList | Action::VibeList => "webhook.list",
        Action::LemonSee | Action::OmniaSee | Action::VibeSee => "webhook.read",
        Action::LemonChange | Action::VibeChange => "webhook.change",
        Action::LemonDelete | Action::OmniaDelete | Action::VibeDelete => "webhook.delete",
        Action::OneMetricRegister => "webhook.register",
        Action::EventTypes => "event_type.list",
        Action::IpRanges => "ip_range.list",
        Action::LemonRotate => "webhook.rotate_secret",
        Action::LemonTest | Action::VibeTest => "webhook.test",
        Action::LemonAttempts => "webhook.attempts",
        Action::Stats => "webhook.stats",
        Action::LemonDeliveries => "webhook.deliveries",
        Action::StreamOpen => "stream.open",
        Action::StreamAnswer => "stream.answer",
        Action::DeadLetters => "dead_letter.list",
        Action::Redrive => "dead_letter.redrive",
        Action::DropDead => "dead_letter.drop",
        Action::RedriveMany | Action::AllRedrive => "dead_letter.redrive_many",
        Action::PurgeMany | Action::AllPurge => "dead_letter.purge",
        Action::Recover | Action::AnyRecover => "webhook.recover",
        Action::JobList | Action::AllJobs => "job.list",
        Action::JobSee | Action::AnyJobSee => "job.read",
        Action::JobCancel | Action::AnyJobCancel => "job.cancel",
        Action::TenantPut => "tenant.put",
        Action::TenantSee => "tenant.read",
        Action::TenantList => "tenant.list",
        Action::TenantDelete => "tenant.delete",
        Action::KeyCreate => "key.create",
        Action::KeyList => "key.list",
        Action::KeyRevoke => "key.revoke",
        Action::Cancel => "event.cancel",
        Action::LemonPause => "webhook.pause",
        Action::LemonResume => "webhook.resume",
        Action::Pause => "pause.put",
        Action::Resume => "pause.lift",
        Action::PauseList => "pause.list",
        Action::AuditList => "audit.list",
        Action::Overview => "daemon.stats",
        Action::AllWebhooks => "webhook.list",
        Action::AllAttempts => "attempt.list",
        Action::Reload => "config.reload",
        Action::ConfigSee => "config.read",
        Action::LogSet => "log.change",
        Action::Retention => "retention.run",
        Action::Backup => "backup.make",
    }
}

/// Where a listing of the audit log goes on, and what it leaves out.
#[derive(Serialize, Deserialize)]
struct Place {
    before: u64,
    tenant: Option<String>,
    action: Option<String>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
}

#[derive(Serialize)]
struct AuditJson<'a> {
    id: u64,
    at: String,
    actor: String,
    role: Option<&'static str>,
    remote_addr: Option<String>,
    action: &'a str,
    method: Option<&'a str>,
    path: Option<&'a str>,
    tenant: Option<&'a str>,
    target: Option<&'a str>,
    outcome: &'a str,
    principal: Option<&'a str>,
    justification: Option<&'a str>,
}

impl<'a> AuditJson<'a> {
    fn new(number: u64, audit: &'a Audit) -> Self {
        let (actor, role) = match audit.actor {
            Actor::Socket => ("socket".to_owned(), Some(Role::Admin)),
            Actor::Key { id, role } => (id.to_string(), Some(role)),
            Actor::Signal => ("signal".to_owned(), None),
            Actor::Daemon => ("daemon".to_owned(), None),
        };
        Self {
            id: number,
            at: millis_z(audit.at_ms),
            actor,
            role: role.map(Role::as_str),
            remote_addr: audit.remote.map(remote),
            action: &audit.action,
            method: audit.method.as_deref(),
            path: audit.path.as_deref(),
            tenant: audit.tenant.as_deref(),
            target: audit.target.as_deref(),
            outcome: &audit.outcome,
            principal: audit.principal.as_deref(),
            justification: audit.justification.as_deref(),
        }
    }
}

/// An address; without a port where a proxy told none.
fn remote(addr: SocketAddr) -> String {
    if addr.port() == 0 { addr.ip().to_string() } else { addr.to_string() }
}

/// `GET /admin/audit`
pub async fn list(call: &Call<'_>) -> Result<Reply, Problem> {
    let limit = call.query.limit()?;
    let listing = Listing { name: "audit", owner: 0 };
    let place = match call.query.one("cursor")? {
        Some(text) => listing.place(call.service, text)?,
        None => Place {
            before: u64::MAX,
            tenant: call.query.one("tenant")?.map(str::to_owned),
            action: call.query.one("action")?.map(str::to_owned),
            since_ms: call.query.moment("since")?,
            until_ms: call.query.moment("until")?,
        },
    };
    let filter = |text: &String| {
        let rule = || Problem::invalid("action must be an action's name, or the beginning of some with '.*' behind it");
        Filter::parse(text).ok_or_else(rule)
    };
    let query = AuditQuery {
        tenant: place.tenant.clone(),
        action: place.action.as_ref().map(filter).transpose()?,
        since_ms: place.since_ms,
        until_ms: place.until_ms,
        before: place.before,
        limit,
    };
    let page = call.service.audit(query).await?;
    let next_cursor = page.next.map(|before| listing.cursor(call.service, &Place { before, ..place }));
    let data = page.items.iter().map(|(number, audit)| AuditJson::new(*number, audit)).collect();
    Ok(reply::json(StatusCode::OK, &PageJson { data, pagination: Pagination { next_cursor } }))
}
