//! Tenants and access keys. A token and a secret key are shown once, at creation; the store keeps the token's hash.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::error::{Error, invalid_field, shown, unknown_tenant};
use super::{Asker, Service};
use crate::model::event::OPERATOR;
use crate::model::id::{KeyId, OPERATOR_NO, TenantId, TenantNo};
use crate::model::key::{Key, Role, Tenant};
use crate::model::secret::Secret;
use crate::store::op::{Done, Op};

/// Every token begins with this.
const TOKEN_PREFIX: &str = "whd_";
const NAME_CHARS_MAX: usize = 256;
const CIDRS_MAX: usize = 64;

/// A key that is asked for.
pub struct NewKey {
    pub role: Role,
    /// For the role `Tenant`, and only for it.
    pub tenant: Option<TenantId>,
    pub name: Option<String>,
    pub publish: bool,
    /// Microseconds, wall time.
    pub expires_us: Option<u64>,
    pub cidrs: Vec<IpNet>,
}

impl NewKey {
    /// A tenant's key that may do nothing special; the rest is the caller's to fill in.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let name = Some(name.to_owned());
        Self { role: Role::Tenant, tenant: None, name, publish: false, expires_us: None, cidrs: Vec::new() }
    }
}

/// A key and the token that opens it, for this once.
pub struct Made {
    pub key: Arc<Key>,
    pub token: Secret,
}

/// What a token is looked up by.
#[must_use]
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Service {
    /// Makes a key.
    ///
    /// # Errors
    /// The rule that a member breaks.
    pub async fn create_key(&self, new: NewKey, asker: &Asker) -> Result<Made, Error> {
        let role = new.role;
        let tenant = match (role, &new.tenant) {
            (Role::Tenant, Some(id)) => Some(self.tenant(id.as_str())?.no),
            (Role::Tenant, None) => return Err(invalid_field("tenant is required for this role")),
            (_, Some(_)) => return Err(invalid_field("tenant goes with the role tenant only")),
            (_, None) => None,
        };
        if new.publish && role == Role::Admin {
            return Err(invalid_field("publish goes with the roles tenant and publisher only"));
        }
        if new.publish && tenant == Some(OPERATOR_NO) {
            return Err(reserved("publish: only the daemon publishes for the tenant operator"));
        }
        let created_ms = self.clock.wall_ms();
        let expires_ms = new.expires_us.map(|us| us / 1_000);
        if expires_ms.is_some_and(|expires| expires <= created_ms) {
            return Err(invalid_field("expires_at is in the past"));
        }
        let token = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.entropy.bytes::<32>()));
        let key = Key {
            id: KeyId(self.entropy.bytes()),
            role,
            tenant,
            name: new.name.map(|name| named("name", name)).transpose()?,
            publish: new.publish,
            token_hash: token_hash(&token),
            secret_key: Secret::new(hex::encode(self.entropy.bytes::<32>())),
            created_ms,
            expires_ms,
            cidrs: Some(new.cidrs)
                .filter(|nets| nets.len() <= CIDRS_MAX)
                .ok_or_else(|| invalid_field("cidrs may have 64 members"))?,
            revoked_ms: None,
        };
        match self.submit(Op::CreateKey(Box::new(key)), asker).await? {
            Done::Key(key) => Ok(Made { key, token: Secret::new(token) }),
            _ => Err(Error::Internal),
        }
    }

    /// Takes a key back, at once.
    ///
    /// # Errors
    /// Not found, already revoked ones too.
    pub async fn revoke_key(&self, id: KeyId, asker: &Asker) -> Result<(), Error> {
        self.submit(Op::RevokeKey(id), asker).await?;
        Ok(())
    }

    /// All keys, revoked ones too, oldest first.
    #[must_use]
    pub fn keys(&self) -> Vec<Arc<Key>> {
        self.store.shared().registry().keys()
    }

    /// Makes or changes a tenant; a member that is `None` stays as it is.
    ///
    /// # Errors
    /// The rule that a member breaks.
    pub async fn put_tenant(
        &self,
        id: &TenantId,
        name: Option<Option<String>>,
        plan: Option<Option<String>>,
        asker: &Asker,
    ) -> Result<Arc<Tenant>, Error> {
        if id.as_str() == OPERATOR {
            return Err(reserved("tenant operator is reserved"));
        }
        if let Some(Some(plan)) = &plan
            && !self.settings().plans.knows(plan)
        {
            return Err(invalid_field(format!("plan {:?} is unknown", shown(plan))));
        }
        let name = match name {
            Some(Some(name)) => Some(Some(named("name", name)?)),
            other => other,
        };
        match self.submit(Op::PutTenant { id: id.clone(), name, plan }, asker).await? {
            Done::Tenant(tenant) => Ok(tenant),
            _ => Err(Error::Internal),
        }
    }

    /// A tenant by its id.
    ///
    /// # Errors
    /// 422 `unknown_tenant`, whether it could exist or not.
    pub fn tenant(&self, id: &str) -> Result<Arc<Tenant>, Error> {
        let id = TenantId::parse(id).ok_or_else(unknown_tenant)?;
        self.store.shared().registry().tenant_by_id(&id).cloned().ok_or_else(unknown_tenant)
    }

    /// The tenant with this number.
    #[must_use]
    pub fn tenant_no(&self, no: TenantNo) -> Option<Arc<Tenant>> {
        self.store.shared().registry().tenant(no).cloned()
    }

    /// All tenants, oldest first.
    #[must_use]
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.store.shared().registry().tenants()
    }

    /// A key that is not revoked, by its token. Expiry and networks are for the caller to look at.
    #[must_use]
    pub fn key_by_token(&self, token: &str) -> Option<Arc<Key>> {
        self.store.shared().registry().key_by_hash(&token_hash(token)).cloned()
    }

    /// A key that is not revoked, by its id.
    #[must_use]
    pub fn key_by_id(&self, id: KeyId) -> Option<Arc<Key>> {
        self.store.shared().registry().key(id).filter(|key| key.revoked_ms.is_none()).cloned()
    }
}

fn reserved(message: &str) -> Error {
    Error::Invalid { code: "reserved", message: message.to_owned() }
}

fn named(member: &str, text: String) -> Result<String, Error> {
    if text.chars().count() > NAME_CHARS_MAX || text.chars().any(char::is_control) {
        return Err(invalid_field(format!("{member} may have 256 characters, no control characters")));
    }
    Ok(text)
}
