//! Refuses requests that hyper lets through and that no honest client sends: those whose recipient, length or path can be
//! read in two ways.
//!
//! Invariant: what passes names one host at most, has one length, and a path that means the same to everyone that reads it.
//! Pure: bytes are counted and compared, nothing is changed. How a refusal looks is left to the routes, by dialect.

use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

/// Bytes of a request's head: request line and headers together. hyper answers 431 itself above this.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Headers of a request. hyper answers 431 itself above this over HTTP/1.1, where it is its built-in limit.
pub const HEADERS_MAX: usize = 100;
/// Bytes of a path with its query: the longest legitimate one carries a cursor and a handful of filters.
pub const TARGET_BYTES_MAX: usize = 16 * 1024;

/// Put among a request's extensions when somebody in between might have read another request in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It came with both `Content-Length` and `Transfer-Encoding`.
    BothLengths,
    /// A line of its head ended without a carriage return.
    BareLineFeed,
}

/// Why a request is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: &'static str,
    /// Whether the connection can't be trusted any more: answer with `Connection: close`.
    pub close: bool,
}

/// Looks at a request before anything else does.
///
/// # Errors
/// 400 for a recipient or length in doubt, 431 for a head too large, 404 for a path in doubt.
pub fn check(parts: &Parts) -> Result<(), Refusal> {
    check_length(parts)?;
    check_host(parts)?;
    if parts.headers.len() > HEADERS_MAX {
        return Err(too_large("more than 100 headers"));
    }
    if parts.uri.path_and_query().is_some_and(|target| target.as_str().len() > TARGET_BYTES_MAX) {
        return Err(too_large("the path is longer than 16 KiB"));
    }
    if is_plain(parts.uri.path()) {
        return Ok(());
    }
    Err(Refusal { status: StatusCode::NOT_FOUND, code: "not_found", message: "no such route", close: false })
}

/// The values of a header, in the order they came. A request has few headers: looking at each takes less than finding one.
pub fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &HeaderValue> {
    headers.iter().filter(move |(other, _)| **other == name).map(|(_, value)| value)
}

/// What `Content-Length` says, if it says it once and well.
#[must_use]
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = values(headers, CONTENT_LENGTH);
    let value = values.next()?.as_bytes();
    if values.any(|other| other.as_bytes() != value) || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn check_length(parts: &Parts) -> Result<(), Refusal> {
    match parts.extensions.get() {
        Some(Doubt::BothLengths) => return Err(doubtful("Content-Length together with Transfer-Encoding")),
        Some(Doubt::BareLineFeed) => return Err(doubtful("a line of the head ends without a carriage return")),
        None => {}
    }
    if values(&parts.headers, CONTENT_LENGTH).next().is_some() && content_length(&parts.headers).is_none() {
        return Err(doubtful("Content-Length is not one number"));
    }
    Ok(())
}

fn check_host(parts: &Parts) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT {
        return Err(doubtful("CONNECT is for proxies, which this is not"));
    }
    let mut hosts = values(&parts.headers, HOST);
    let host = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err(doubtful("more than one Host"));
    }
    let Some(host) = host else {
        return if parts.version == Version::HTTP_11 { Err(doubtful("no Host")) } else { Ok(()) };
    };
    if !host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(byte)) {
        return Err(doubtful("Host is not a host"));
    }
    match parts.uri.authority() {
        Some(target) if !same_host(target.as_str(), host, &parts.uri) => Err(doubtful("Host differs from the target")),
        _ => Ok(()),
    }
}

/// A port that goes without saying may be left out on either side.
fn same_host(target: &str, host: &[u8], uri: &Uri) -> bool {
    let port: &[u8] = if uri.scheme_str() == Some("https") { b":443" } else { b":80" };
    let bare = |name| <[u8]>::strip_suffix(name, port).unwrap_or(name).to_ascii_lowercase();
    target.as_bytes().eq_ignore_ascii_case(host) || bare(target.as_bytes()) == bare(host)
}

/// Rooted, no empty or dotted segment, nothing escaped that means something to a path.
fn is_plain(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    if rest.bytes().any(|byte| byte <= b' ' || byte == b'\\' || byte == 0x7f) || has_meaning_escaped(rest.as_bytes()) {
        return false;
    }
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        if matches!(segment, "." | "..") || (segment.is_empty() && !last) {
            return false;
        }
    }
    true
}

/// Whether `%` stands before anything but two digits that name a harmless byte: not a control, dot, slash or backslash.
fn has_meaning_escaped(path: &[u8]) -> bool {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    path.iter().enumerate().filter(|(_, byte)| **byte == b'%').any(|(at, _)| {
        let (Some(high), Some(low)) = (digit(path.get(at + 1)), digit(path.get(at + 2))) else { return true };
        matches!(high * 16 + low, 0x00..=0x1f | 0x2e | 0x2f | 0x5c | 0x7f)
    })
}

fn doubtful(message: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, code: "bad_request", message, close: true }
}

fn too_large(message: &'static str) -> Refusal {
    Refusal { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, code: "headers_too_large", message, close: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn status(parts: &Parts) -> u16 {
        check(parts).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn paths() {
        for good in
            ["/", "/v1/events", "/v1/events/", "/v1/a.b", "/v1/...", "/v1/%41%20", "/v1/x?next=../%2e%2e//", "/v1/.a"]
        {
            assert_eq!(status(&parts("GET", good, &[("host", "a")])), 200, "{good}");
        }
        let bad = [
            "//v1",
            "/v1//x",
            "/v1/../admin",
            "/v1/..",
            "/.",
            "/v1/%2e%2e/admin",
            "/v1/%2E%2e",
            "/v1/.%2e/",
            "/v1/a%2fb",
            "/v1/a%2Fb",
            "/v1/%00",
            "/v1/%0d%0a",
            "/v1/%5c",
            "/v1/%",
            "/v1/%2",
            "/v1/%zz",
            "/v1/%7f",
            "/a//",
        ];
        for bad in bad {
            assert_eq!(status(&parts("GET", bad, &[("host", "a")])), 404, "{bad}");
        }
        assert_eq!(status(&parts("OPTIONS", "*", &[("host", "a")])), 404);
    }

    #[test]
    fn hosts() {
        assert_eq!(status(&parts("GET", "/", &[])), 400);
        assert_eq!(status(&parts("GET", "/", &[("host", "a"), ("host", "a")])), 400);
        assert_eq!(status(&parts("GET", "/", &[("host", "a b")])), 400);
        assert_eq!(status(&parts("GET", "/", &[("host", "u@a")])), 400);
        for good in ["a", "a:80", "[::1]:8443", "127.0.0.1", ""] {
            assert_eq!(status(&parts("GET", "/", &[("host", good)])), 200, "{good}");
        }
        assert_eq!(status(&parts("GET", "http://a/x", &[("host", "b")])), 400);
        assert_eq!(status(&parts("GET", "http://u@a/x", &[("host", "a")])), 400);
        for (target, host) in
            [("http://A/x", "a"), ("http://a:80/x", "a"), ("https://a/x", "A:443"), ("http://a:81/", "a:81")]
        {
            assert_eq!(status(&parts("GET", target, &[("host", host)])), 200, "{target}");
        }
        assert_eq!(status(&parts("CONNECT", "a:80", &[("host", "a:80")])), 400);
        let mut old = parts("GET", "/", &[]);
        old.version = Version::HTTP_10;
        assert_eq!(status(&old), 200);
    }

    #[test]
    fn lengths() {
        let refused = |headers: &[(&str, &str)]| status(&parts("POST", "/", headers));
        assert_eq!(refused(&[("host", "a"), ("content-length", "5")]), 200);
        assert_eq!(refused(&[("host", "a"), ("content-length", "5"), ("content-length", "6")]), 400);
        assert_eq!(refused(&[("host", "a"), ("content-length", "+5")]), 400);
        for doubt in [Doubt::BothLengths, Doubt::BareLineFeed] {
            let mut doubted = parts("POST", "/", &[("host", "a")]);
            doubted.extensions.insert(doubt);
            let refusal = check(&doubted).unwrap_err();
            assert!(refusal.close && refusal.status == 400);
        }
    }

    #[test]
    fn sizes() {
        let many: Vec<(String, String)> = (0..100).map(|n| (format!("x-{n}"), String::new())).collect();
        let mut headers: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        headers.push(("host", "a"));
        assert_eq!(status(&parts("GET", "/", &headers)), 431);
        headers.remove(0);
        assert_eq!(status(&parts("GET", "/", &headers)), 200);
        let long = format!("/{}", "a".repeat(TARGET_BYTES_MAX));
        assert_eq!(status(&parts("GET", &long, &[("host", "a")])), 431);
    }
}
