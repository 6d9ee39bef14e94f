//! The API's own description, `/openapi.json`. Owns how it is served; what it says stands in `docs/openapi.json`, is part of
//! the binary, and is held to the route table by the tests here.

use std::sync::LazyLock;

use http::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use sha2::{Digest as _, Sha256};

use super::reply;
use super::server::Reply;

const DOCUMENT: &str = include_str!("../../docs/openapi.json");

static TAG: LazyLock<String> = LazyLock::new(|| format!("\"{}\"", hex::encode(&Sha256::digest(DOCUMENT)[..16])));

/// `GET /openapi.json`: the document, or 304 for who has it already.
pub fn document(headers: &HeaderMap) -> Reply {
    let mut reply = if is_known(headers) {
        reply::empty(StatusCode::NOT_MODIFIED)
    } else {
        reply::whole(StatusCode::OK, "application/json", DOCUMENT)
    };
    if let Ok(tag) = HeaderValue::from_str(&TAG) {
        reply.headers_mut().insert(ETAG, tag);
    }
    reply
}

/// Whether the tag is among those that the client has.
fn is_known(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',').map(str::trim));
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == *TAG)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::Method;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::http::problem::Form;
    use crate::http::route::{Access, Action, Body, ROUTES, Route};

    fn parsed() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    fn object(value: &Value) -> &Map<String, Value> {
        value.as_object().unwrap()
    }

    /// What a reference of the document leads to; the value itself if it is none.
    fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        let Some(path) = value["$ref"].as_str() else { return value };
        let pointer = path.strip_prefix('#').unwrap_or_else(|| panic!("{path} leads elsewhere"));
        document.pointer(pointer).unwrap_or_else(|| panic!("{path} leads nowhere"))
    }

    /// The operation of a route, with the parameters of its path.
    fn operation<'a>(document: &'a Value, route: &Route) -> (&'a Value, Vec<&'a Value>) {
        let item = &document["paths"][route.path];
        let operation = &item[route.method.as_str().to_ascii_lowercase()];
        let lists = [&item["parameters"], &operation["parameters"]].into_iter().filter_map(Value::as_array);
        (operation, lists.flatten().map(|parameter| resolved(document, parameter)).collect())
    }

    /// The statuses of refusals that every route of this kind can give.
    fn refusals(route: &Route) -> BTreeSet<u16> {
        let mut all = BTreeSet::from([400, 431]);
        if route.access != Access::Open {
            all.extend([401, 403, 500, 503]);
        }
        // Whoever asks for a tenant's own may name it wrongly; lemon's data privacy headers may be wrong on each of its routes.
        let named = route.access == Access::Tenant || route.body != Body::None;
        let lenient = matches!(route.form, Form::Omnia | Form::OneMetric);
        if route.access != Access::Open && !lenient && (named || route.form == Form::Lemon) {
            all.insert(422);
        }
        if route.path.contains("{id}") {
            all.insert(404);
        }
        if !matches!(route.method, Method::GET | Method::DELETE) {
            // Where no body is wanted, one that was signed is read all the same.
            all.extend([408, 413]);
            all.extend((route.body != Body::None).then_some(415));
        }
        if route.access == Access::Publish {
            all.insert(429);
        }
        all
    }

    #[test]
    fn it_describes_the_routes_and_nothing_else() {
        let document = parsed();
        let told = |method: &str, path: &str| format!("{} {path}", method.to_ascii_uppercase());
        let mut described = BTreeSet::new();
        for (path, item) in object(&document["paths"]) {
            let methods = object(item).keys().filter(|member| *member != "parameters");
            described.extend(methods.map(|method| told(method, path)));
        }
        let routes: BTreeSet<_> = ROUTES.iter().map(|route| told(route.method.as_str(), route.path)).collect();
        let missing: Vec<_> = routes.difference(&described).collect();
        let invented: Vec<_> = described.difference(&routes).collect();
        assert!(missing.is_empty(), "docs/openapi.json does not describe {missing:?}");
        assert!(invented.is_empty(), "docs/openapi.json describes what is no route: {invented:?}");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn every_operation_tells_each_status_in_its_form() {
        let document = parsed();
        for route in ROUTES {
            let told = format!("{} {}", route.method, route.path);
            let (operation, _) = operation(&document, route);
            let mut successes = Vec::new();
            let mut refused = BTreeSet::new();
            for (status, response) in object(&operation["responses"]) {
                let status: u16 = status.parse().unwrap();
                if status < 400 {
                    successes.push(status);
                    continue;
                }
                refused.insert(status);
                let expected = format!("#/components/responses/{:?}.{status}", route.form);
                assert_eq!(response["$ref"], expected, "{told}");
            }
            assert!(matches!(successes[..], [200..=204] | [200, 202 | 304] | [202, 204]), "{told}: {successes:?}");
            let missing: Vec<_> = refusals(route).difference(&refused).copied().collect();
            assert!(missing.is_empty(), "{told} may also answer {missing:?}");
            if route.body == Body::None {
                assert!(!refused.contains(&415), "{told} reads no body");
            }
        }
    }

    #[test]
    fn every_operation_tells_who_may_ask_and_with_what() {
        let document = parsed();
        for route in ROUTES {
            let told = format!("{} {}", route.method, route.path);
            let (operation, parameters) = operation(&document, route);
            let roles = match route.access {
                Access::Open => json!([]),
                Access::Any | Access::Publish => json!(["publisher", "tenant", "admin"]),
                Access::Tenant => json!(["tenant", "admin"]),
                Access::Admin => json!(["admin"]),
            };
            let expected = match route.access {
                Access::Open => json!([]),
                _ => json!([{"bearer": roles}, {"token": roles}, {"keyId": roles, "timestamp": [], "signature": []}]),
            };
            let security = operation.get("security").unwrap_or(&document["security"]);
            assert_eq!(*security, expected, "{told}");
            let has = |name: &str, place: &str| {
                parameters.iter().any(|parameter| parameter["name"] == name && parameter["in"] == place)
            };
            let privacy = route.form == Form::Lemon && route.access != Access::Open;
            assert_eq!(has("id", "path"), route.path.contains("{id}"), "{told}: id");
            assert_eq!(has("LMG-Data-Privacy-Access-Principal", "header"), privacy, "{told}");
            assert_eq!(has("LMG-Data-Privacy-Access-Justification", "header"), privacy, "{told}");
            // Where we send from is the same for everybody.
            let of_a_tenant = route.access == Access::Tenant && route.action != Action::IpRanges;
            let lists = [Action::AuditList, Action::AllWebhooks, Action::AllAttempts, Action::AllJobs];
            let filtered = lists.contains(&route.action);
            assert_eq!(has("tenant", "query"), of_a_tenant || filtered, "{told}: tenant");
            assert_eq!(operation.get("requestBody").is_some(), route.body != Body::None, "{told}: body");
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_part_is_used() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    members.values().for_each(|member| references(member, found));
                }
                _ => {}
            }
        }
        let document = parsed();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for path in &found {
            resolved(&document, &json!({"$ref": path}));
        }
        for kind in ["parameters", "headers", "responses", "schemas"] {
            for name in object(&document["components"][kind]).keys() {
                let path = format!("#/components/{kind}/{name}");
                assert!(found.contains(&path), "{path} is used nowhere");
            }
        }
    }

    #[test]
    fn who_has_it_already_gets_no_copy() {
        let asked = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
            document(&headers)
        };
        let first = document(&HeaderMap::new());
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        for known in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let again = asked(&known);
            assert_eq!((again.status().as_u16(), &again.headers()[ETAG]), (304, &first.headers()[ETAG]), "{known}");
        }
        assert_eq!((first.status().as_u16(), asked("\"x\"").status().as_u16()), (200, 200));
    }
}
