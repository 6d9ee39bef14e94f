//! Cursors: where a listing goes on, with the filters it began with, sealed with the store's key.
//!
//! Invariant: one opens only for the listing that it was made for, of the tenant or webhook that it was made for. So it does
//! not show positions in the logs, which count what all tenants do; and one that was changed, or is another listing's or
//! another tenant's, is answered as any nonsense is.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Serialize, de::DeserializeOwned};

use super::problem::Problem;
use crate::service::Service;

/// A listing of one owner: a tenant's events, a webhook's attempts.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    pub name: &'static str,
    /// The store's number of the tenant or webhook, whichever the listing is of; 0 where it is nobody's.
    pub owner: u32,
}

impl Listing {
    /// A cursor for the page that begins at `place`.
    pub fn cursor<T: Serialize>(self, service: &Service, place: &T) -> String {
        let plain = serde_json::to_vec(place).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(service.store().shared().sealer().seal(self.purpose().as_bytes(), plain))
    }

    /// Reads what `cursor` wrote for the same listing.
    ///
    /// # Errors
    /// 422.
    pub fn place<T: DeserializeOwned>(self, service: &Service, cursor: &str) -> Result<T, Problem> {
        let sealed = URL_SAFE_NO_PAD.decode(cursor).ok();
        let open = |sealed: Vec<u8>| service.store().shared().sealer().open(self.purpose().as_bytes(), &sealed).ok();
        let place = sealed.and_then(open).and_then(|plain| serde_json::from_slice(&plain).ok());
        place.ok_or_else(|| Problem::invalid("cursor is not one of this listing"))
    }

    fn purpose(self) -> String {
        format!("cursor {} {}", self.name, self.owner)
    }
}
