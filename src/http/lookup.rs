//! What is the same for every caller: the catalogue of event types, and the addresses that deliveries come from.

use http::StatusCode;
use ipnet::IpNet;
use serde::Serialize;
use serde_json::value::RawValue;

use super::call::Call;
use super::reply;
use super::server::Reply;
use crate::catalogue::EventType;

#[derive(Serialize)]
struct TypesJson<'a> {
    data: Vec<TypeJson<'a>>,
}

#[derive(Serialize)]
struct TypeJson<'a> {
    name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    omnia_channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a RawValue>,
}

impl<'a> TypeJson<'a> {
    fn new(known: &'a EventType) -> Self {
        Self {
            name: &known.name,
            description: &known.description,
            omnia_channel: known.omnia_channel.as_deref(),
            schema: known.schema.as_ref().map(crate::catalogue::Schema::text),
        }
    }
}

/// `GET /v1/event-types`
pub fn event_types(call: &Call<'_>) -> Reply {
    let settings = call.service.settings();
    let data = settings.catalogue.types().iter().map(TypeJson::new).collect();
    reply::json(StatusCode::OK, &TypesJson { data })
}

#[derive(Serialize)]
struct RangesJson {
    data: Vec<String>,
    determined_by: &'static str,
    description: &'static str,
}

/// `GET /v1/ip-ranges`
pub fn ip_ranges(call: &Call<'_>) -> Reply {
    let mut sources: Vec<_> = call.service.settings().source_addresses.iter().map(|ip| ip.to_canonical()).collect();
    sources.sort_unstable();
    sources.dedup();
    let (determined_by, description) = if sources.is_empty() {
        ("system", "deliveries come from any address of this host: the system chooses one for each connection")
    } else {
        ("egress.source_addresses", "deliveries come from these addresses only")
    };
    let data = sources.into_iter().map(|ip| IpNet::from(ip).to_string()).collect();
    reply::json(StatusCode::OK, &RangesJson { data, determined_by, description })
}
