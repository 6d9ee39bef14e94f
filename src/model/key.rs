//! Access keys and tenants: who may ask for what.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::id::{KeyId, TenantId, TenantNo};
use super::secret::Secret;
use crate::clock::Millis;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Everything.
    Admin,
    /// Publishes for any tenant, reads nothing else.
    Publisher,
    /// Its tenant's own webhooks, events, attempts and dead letters.
    Tenant,
}

impl Role {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Publisher => "publisher",
            Self::Tenant => "tenant",
        }
    }
}

/// An access key. Its token exists only as a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: KeyId,
    pub role: Role,
    /// Set exactly for `Role::Tenant`.
    pub tenant: Option<TenantNo>,
    pub name: Option<String>,
    /// A tenant key that may also publish for its own tenant.
    pub publish: bool,
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// Signs requests in Vibe's form.
    pub secret_key: Secret,
    pub created_ms: Millis,
    /// Wall time.
    pub expires_ms: Option<Millis>,
    /// Empty: from anywhere.
    pub cidrs: Vec<IpNet>,
    pub revoked_ms: Option<Millis>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    pub no: TenantNo,
    pub id: TenantId,
    pub name: Option<String>,
    pub plan: Option<String>,
    pub created_ms: Millis,
}
