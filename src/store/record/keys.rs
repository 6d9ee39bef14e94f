//! Access keys as they are written to disk: the token as its hash, what signs requests sealed.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{read, to_bytes};
use crate::clock::Millis;
use crate::model::id::{KeyId, TenantNo};
use crate::model::key::{Key, Role};
use crate::model::secret::Secret;
use crate::store::StoreError;
use crate::store::seal::Sealer;

#[derive(Serialize, Deserialize)]
struct KeyRecord {
    role: Role,
    tenant: Option<TenantNo>,
    name: Option<String>,
    publish: bool,
    token_hash: [u8; 32],
    /// Sealed.
    secret_key: Vec<u8>,
    created_ms: Millis,
    expires_ms: Option<Millis>,
    cidrs: Vec<String>,
    revoked_ms: Option<Millis>,
}

pub fn write_key(key: &Key, sealer: &Sealer) -> Vec<u8> {
    to_bytes(&KeyRecord {
        role: key.role,
        tenant: key.tenant,
        name: key.name.clone(),
        publish: key.publish,
        token_hash: key.token_hash,
        secret_key: sealer.seal(&key.id.0, key.secret_key.expose().as_bytes().to_vec()),
        created_ms: key.created_ms,
        expires_ms: key.expires_ms,
        cidrs: key.cidrs.iter().map(IpNet::to_string).collect(),
        revoked_ms: key.revoked_ms,
    })
}

/// The same key, sealed with another one.
///
/// # Errors
/// As `read_key`.
pub fn reseal_key(id: KeyId, bytes: &[u8], old: &Sealer, new: &Sealer) -> Result<Vec<u8>, StoreError> {
    let record: KeyRecord = read(bytes)?;
    let secret_key = new.seal(&id.0, old.open(&id.0, &record.secret_key)?);
    Ok(to_bytes(&KeyRecord { secret_key, ..record }))
}

/// # Errors
/// `StoreError::Damaged`.
pub fn read_key(id: KeyId, bytes: &[u8], sealer: &Sealer) -> Result<Key, StoreError> {
    let record: KeyRecord = read(bytes)?;
    let secret_key = String::from_utf8(sealer.open(&id.0, &record.secret_key)?)
        .map_err(|_| StoreError::Damaged("a key's secret does not read"))?;
    let cidrs = record.cidrs.iter().map(|cidr| cidr.parse()).collect::<Result<Vec<IpNet>, _>>();
    Ok(Key {
        id,
        role: record.role,
        tenant: record.tenant,
        name: record.name,
        publish: record.publish,
        token_hash: record.token_hash,
        secret_key: Secret::new(secret_key),
        created_ms: record.created_ms,
        expires_ms: record.expires_ms,
        cidrs: cidrs.map_err(|_| StoreError::Damaged("a key's network does not read"))?,
        revoked_ms: record.revoked_ms,
    })
}
