//! `/admin`: tenants, keys and pauses. Unknown members are errors here, so that a misspelt limit is not a missing one.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::call::Call;
use super::jobs;
use super::json::{self, Member};
use super::problem::Problem;
use super::reply;
use super::server::Reply;
use crate::model::id::{KeyId, OPERATOR_NO, TenantId, WebhookId};
use crate::model::key::{Key, Role, Tenant};
use crate::model::pause::Scope;
use crate::model::time::millis_z;
use crate::service::Service;
use crate::service::access::NewKey;
use crate::service::halt::{Named, Paused};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TenantBody<'a> {
    #[serde(borrow)]
    name: Member<'a>,
    #[serde(borrow)]
    plan: Member<'a>,
}

#[derive(Serialize)]
struct TenantJson<'a> {
    id: &'a str,
    name: Option<&'a str>,
    plan: Option<&'a str>,
    /// `null` for the tenant `operator`, which came with the store.
    created_at: Option<String>,
}

impl<'a> TenantJson<'a> {
    fn new(tenant: &'a Tenant) -> Self {
        Self {
            id: tenant.id.as_str(),
            name: tenant.name.as_deref(),
            plan: tenant.plan.as_deref(),
            created_at: (tenant.no != OPERATOR_NO).then(|| millis_z(tenant.created_ms)),
        }
    }
}

/// A whole list.
#[derive(Serialize)]
struct ListJson<T> {
    data: Vec<T>,
}

/// `PUT /admin/tenants/{id}`
pub async fn put_tenant(call: &Call<'_>) -> Result<Reply, Problem> {
    let body: TenantBody<'_> = json::parse_optional(call.body)?;
    let name = body.name.settable("name", "a string")?;
    let plan = body.plan.settable("plan", "a string")?;
    let id = named(call)?;
    let tenant = call.service.put_tenant(&id, name, plan, call.asker).await?;
    Ok(reply::json(StatusCode::OK, &TenantJson::new(&tenant)))
}

/// `DELETE /admin/tenants/{id}`: gone at once; a job erases what it has left. 204 when there is none, and nothing left of one.
pub async fn delete_tenant(call: &Call<'_>) -> Result<Reply, Problem> {
    let id = named(call)?;
    Ok(match call.service.erase_tenant(&id, call.asker).await? {
        Some(job) => jobs::one(call, StatusCode::ACCEPTED, &job, true),
        None => reply::empty(StatusCode::NO_CONTENT),
    })
}

/// The tenant's id in the path.
fn named(call: &Call<'_>) -> Result<TenantId, Problem> {
    let rule = "a tenant's id is 1 to 64 of a-z, 0-9, '_' and '-', and starts with a letter or digit";
    TenantId::parse(call.id).ok_or_else(|| Problem::invalid(rule))
}

/// `GET /admin/tenants/{id}`
pub fn see_tenant(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.service.tenant(call.id).map_err(|_| Problem::not_found())?;
    Ok(reply::json(StatusCode::OK, &TenantJson::new(&tenant)))
}

/// `GET /admin/tenants`
pub fn list_tenants(call: &Call<'_>) -> Reply {
    let tenants = call.service.tenants();
    let data = tenants.iter().map(|tenant| TenantJson::new(tenant)).collect();
    reply::json(StatusCode::OK, &ListJson::<TenantJson<'_>> { data })
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KeyBody<'a> {
    #[serde(borrow)]
    role: Member<'a>,
    #[serde(borrow)]
    tenant: Member<'a>,
    #[serde(borrow)]
    name: Member<'a>,
    #[serde(borrow)]
    publish: Member<'a>,
    #[serde(borrow)]
    expires_at: Member<'a>,
    #[serde(borrow)]
    cidrs: Member<'a>,
}

impl KeyBody<'_> {
    fn read(&self) -> Result<NewKey, Problem> {
        let role: Option<String> = self.role.read("role", "a string")?;
        let known = [Role::Admin, Role::Publisher, Role::Tenant];
        let role = known.into_iter().find(|known| role.as_deref() == Some(known.as_str()));
        let tenant = self.tenant.text("tenant")?;
        let unknown = || Problem::from(crate::service::unknown_tenant());
        Ok(NewKey {
            role: role.ok_or_else(|| Problem::invalid("role must be admin, publisher or tenant"))?,
            tenant: tenant.map(|id| TenantId::parse(&id).ok_or_else(unknown)).transpose()?,
            name: self.name.read("name", "a string")?,
            publish: self.publish.read("publish", "true or false")?.unwrap_or(false),
            expires_us: self.expires_at.moment("expires_at")?,
            cidrs: self.cidrs.read("cidrs", "an array of networks such as 10.0.0.0/8")?.unwrap_or_default(),
        })
    }
}

#[derive(Serialize)]
struct KeyJson<'a> {
    id: String,
    role: &'static str,
    tenant: Option<String>,
    name: Option<&'a str>,
    publish: bool,
    created_at: String,
    expires_at: Option<String>,
    cidrs: Vec<String>,
    revoked_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_key: Option<&'a str>,
}

impl<'a> KeyJson<'a> {
    fn new(service: &Service, key: &'a Key) -> Self {
        let tenant = key.tenant.and_then(|no| service.tenant_no(no));
        Self {
            id: key.id.to_string(),
            role: key.role.as_str(),
            tenant: tenant.map(|tenant| tenant.id.to_string()),
            name: key.name.as_deref(),
            publish: key.publish || key.role == Role::Publisher,
            created_at: millis_z(key.created_ms),
            expires_at: key.expires_ms.map(millis_z),
            cidrs: key.cidrs.iter().map(ToString::to_string).collect(),
            revoked_at: key.revoked_ms.map(millis_z),
            token: None,
            secret_key: None,
        }
    }
}

/// `POST /admin/keys`: the one answer that holds a token.
pub async fn create_key(call: &Call<'_>) -> Result<Reply, Problem> {
    let new = json::parse::<KeyBody<'_>>(call.body)?.read()?;
    let made = call.service.create_key(new, call.asker).await?;
    let shown = KeyJson {
        token: Some(made.token.expose()),
        secret_key: Some(made.key.secret_key.expose()),
        ..KeyJson::new(call.service, &made.key)
    };
    Ok(reply::secret_json(StatusCode::CREATED, &shown))
}

/// `GET /admin/keys`
pub fn list_keys(call: &Call<'_>) -> Reply {
    let keys = call.service.keys();
    let data = keys.iter().map(|key| KeyJson::new(call.service, key)).collect();
    reply::json(StatusCode::OK, &ListJson::<KeyJson<'_>> { data })
}

/// `DELETE /admin/keys/{id}`
pub async fn revoke_key(call: &Call<'_>) -> Result<Reply, Problem> {
    let id = KeyId::parse(call.id).ok_or_else(Problem::not_found)?;
    call.service.revoke_key(id, call.asker).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// What is to be paused or resumed: one of these, or everything.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PauseBody<'a> {
    #[serde(borrow)]
    tenant: Member<'a>,
    #[serde(borrow)]
    host: Member<'a>,
    #[serde(borrow)]
    webhook: Member<'a>,
}

impl PauseBody<'_> {
    fn read(&self) -> Result<Named, Problem> {
        // `null` is no way to leave one out here: it would mean everything.
        let named = |member: Member<'_>, name: &str| match member.settable::<String>(name, "a string")? {
            Some(None) => Err(Problem::invalid(format!("{name} must be a string"))),
            given => Ok(given.flatten()),
        };
        match (named(self.tenant, "tenant")?, named(self.host, "host")?, named(self.webhook, "webhook")?) {
            (None, None, None) => Ok(Named::Everything),
            (Some(tenant), None, None) => Ok(Named::Tenant(tenant)),
            (None, Some(host), None) => Ok(Named::Host(host)),
            (None, None, Some(id)) => Ok(Named::Webhook(WebhookId::parse(&id).ok_or_else(Problem::not_found)?)),
            _ => Err(Problem::invalid("tenant, host and webhook: name one of them, or none for everything")),
        }
    }
}

#[derive(Serialize)]
struct PausedJson<'a> {
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<String>,
    by: &'static str,
    since: String,
}

impl<'a> PausedJson<'a> {
    fn new(paused: &'a Paused) -> Self {
        let (scope, by, host) = match &paused.scope {
            Scope::Everything => ("everything", "operator", None),
            Scope::Tenant(_) => ("tenant", "operator", None),
            Scope::Host(host) => ("host", "operator", Some(host.as_str())),
            Scope::Webhook(_) => ("webhook", "operator", None),
            Scope::Own(_) => ("webhook", "tenant", None),
        };
        let tenant = paused.tenant.as_ref().map(TenantId::as_str);
        Self {
            scope,
            tenant,
            host,
            webhook: paused.webhook.map(|id| id.to_string()),
            by,
            since: millis_z(paused.since_ms),
        }
    }
}

/// `GET /admin/pause`: what is paused now.
pub fn list_paused(call: &Call<'_>) -> Reply {
    let paused = call.service.paused();
    let data = paused.iter().map(PausedJson::new).collect();
    reply::json(StatusCode::OK, &ListJson::<PausedJson<'_>> { data })
}

/// `POST /admin/pause` and `/admin/resume`: answered with what is paused then.
pub async fn pause(call: &Call<'_>, paused: bool) -> Result<Reply, Problem> {
    let named = json::parse_optional::<PauseBody<'_>>(call.body)?.read()?;
    call.service.pause(named, paused, call.asker).await?;
    Ok(list_paused(call))
}
