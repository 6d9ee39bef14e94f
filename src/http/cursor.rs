//! Cursors: where a listing goes on, with the filters it began with, as text that means nothing to a client.
//!
//! Nothing in one is trusted: it says where to read on and what to leave out, never whose.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Serialize, de::DeserializeOwned};

use super::problem::Problem;

/// `listing` names the listing, so that no cursor is taken for another one's.
pub fn write<T: Serialize>(listing: &str, place: &T) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&(listing, place)).unwrap_or_default())
}

/// Reads what `write` wrote for the same listing.
///
/// # Errors
/// 422.
pub fn read<T: DeserializeOwned>(listing: &str, text: &str) -> Result<T, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let read = bytes.and_then(|bytes| serde_json::from_slice::<(String, T)>(&bytes).ok());
    let place = read.filter(|(name, _)| name == listing).map(|(_, place)| place);
    place.ok_or_else(|| Problem::invalid("cursor is not one of this listing"))
}
