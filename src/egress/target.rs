//! Targets: what a webhook's URL means. Owns the reading of URL text; one parser (`url`) serves the guard and the client, and
//! every text that parsers are known to disagree about is refused, so that what was judged is what is connected to.
//!
//! A [`Target`] is judged as far as its text goes: literal addresses and ports. The addresses of a name are judged by
//! `connect`, each time it dials.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::HeaderValue;
use http::uri::{PathAndQuery, Uri};
use thiserror::Error;
use url::Url;

use super::guard::{Refusal, Rules, check_addr, check_port};
use crate::limits::{ECHO_BYTES_MAX, URL_BYTES_MAX};
use crate::model::attempt::{Class, Failure};

/// Where a URL points to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name in lower-case ASCII (IDNA applied), as written otherwise: a trailing dot stays.
    Name(String),
    /// A literal address, whatever spelling it had.
    Ip(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// Scheme, host and port: what a connection is made to, and the only thing that it may be used for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Whether TLS is spoken.
    pub https: bool,
    pub host: Host,
    pub port: u16,
}

/// A URL that may be delivered to, as far as its text can tell.
#[derive(Clone, Debug)]
pub struct Target {
    url: Url,
    endpoint: Endpoint,
    authority: HeaderValue,
    path_and_query: PathAndQuery,
    absolute: Uri,
}

/// Why a URL is refused. `Display` names the rule and echoes at most 64 bytes of the URL.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    /// The text is no URL, or one that parsers read differently.
    #[error("url is not valid: {0}")]
    Invalid(String),
    /// The port is denied.
    #[error("url is refused: {0}")]
    Port(Refusal),
    /// `http` while TLS is required.
    #[error("url is refused: https is required (egress.require_https)")]
    HttpsRequired,
    /// A literal address that is not let through.
    #[error("url is refused: {0}")]
    Address(Refusal),
    /// `localhost` in any form while no loopback address is let through.
    #[error("url is refused: {0} is a name of this machine: loopback (127.0.0.0/8)")]
    Localhost(String),
    /// A name under which clouds give out their machines' credentials, while its address is not let through.
    #[error("url is refused: {0} is a name of the cloud metadata service (169.254.169.254)")]
    Metadata(String),
}

impl TargetError {
    /// The code of the wire contract.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_url",
            Self::Port(_) => "port_forbidden",
            Self::HttpsRequired => "https_required",
            Self::Address(_) | Self::Localhost(_) | Self::Metadata(_) => "target_forbidden",
        }
    }

    /// What an attempt records when the rules have come to refuse a URL that was registered under others.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure { class: Class::Forbidden, detail: self.to_string() }
    }
}

impl From<Refusal> for TargetError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Port(_) => Self::Port(refusal),
            Refusal::Address { .. } => Self::Address(refusal),
        }
    }
}

impl Target {
    /// Reads a URL and judges it under `rules`: at registration, and again before every attempt.
    ///
    /// # Errors
    /// A [`TargetError`]; the text is judged before the rules, so a broken URL is `invalid_url` whatever it points to.
    pub fn parse(text: &str, rules: &Rules) -> Result<Self, TargetError> {
        let authority = check_text(text)?;
        check_written_port(authority)?;
        let url = Url::parse(text).map_err(|error| invalid(error.to_string()))?;
        let https = url.scheme() == "https";
        let host = match url.host() {
            // No name server knows such a name, and programs differ in what they make of `127.0.0.1..`.
            Some(url::Host::Domain(name)) if has_empty_label(name) => {
                return Err(invalid("the host is missing or has an empty label"));
            }
            Some(url::Host::Domain(name)) => Host::Name(name.to_owned()),
            Some(url::Host::Ipv4(ip)) => Host::Ip(ip.into()),
            Some(url::Host::Ipv6(ip)) => Host::Ip(ip.into()),
            _ => return Err(invalid("the host is missing")),
        };
        let port = url.port_or_known_default().unwrap_or(if https { 443 } else { 80 });
        let endpoint = Endpoint { https, host, port };
        judge(&endpoint, rules)?;
        Self::assemble(url, endpoint)
    }

    fn assemble(url: Url, endpoint: Endpoint) -> Result<Self, TargetError> {
        let authority = match url.port() {
            Some(port) => format!("{}:{port}", endpoint.host),
            None => endpoint.host.to_string(),
        };
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let path_and_query = PathAndQuery::from_maybe_shared(path).map_err(|error| invalid(error.to_string()))?;
        let absolute = Uri::builder()
            .scheme(url.scheme())
            .authority(authority.as_str())
            .path_and_query(path_and_query.clone())
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        let authority = HeaderValue::try_from(authority).map_err(|error| invalid(error.to_string()))?;
        Ok(Self { url, endpoint, authority, path_and_query, absolute })
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether TLS is spoken.
    #[must_use]
    pub fn https(&self) -> bool {
        self.endpoint.https
    }

    /// Name or address, as it is resolved and as it stands in certificates.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.endpoint.host
    }

    /// The port, also when the URL leaves it to the scheme.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.endpoint.port
    }

    /// The value of the `Host` header: with the port when it is not the scheme's own.
    #[must_use]
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// What stands in the request line of HTTP/1.1.
    #[must_use]
    pub fn path_and_query(&self) -> &PathAndQuery {
        &self.path_and_query
    }

    /// The whole as HTTP/2 takes it.
    pub(super) fn absolute(&self) -> &Uri {
        &self.absolute
    }

    /// The URL in its normal form.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_str()
    }
}

/// Whether there is nothing between two dots of a name, or before its first; one dot at its end is its root.
fn has_empty_label(name: &str) -> bool {
    name.strip_suffix('.').unwrap_or(name).split('.').any(str::is_empty)
}

/// Whether a name means this machine by RFC 6761 §6.3, whatever a resolver says.
#[must_use]
pub fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = name.rsplit('.').next().unwrap_or(name);
    label.eq_ignore_ascii_case("localhost")
}

/// Whether a cloud's machines know their metadata service by this name. Its address would be refused when it is resolved;
/// refused here, the owner is told at registration, and what the name resolves to outside of a cloud makes no difference.
fn is_metadata(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    METADATA_NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Google Cloud's names, with the short one that its search list completes, and those of Amazon's EC2.
const METADATA_NAMES: [&str; 5] =
    ["metadata.google.internal", "metadata.goog", "metadata", "instance-data.ec2.internal", "instance-data"];

/// The addresses that `localhost` has.
pub(super) const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The rules that need no address but the one in the text.
fn judge(endpoint: &Endpoint, rules: &Rules) -> Result<(), TargetError> {
    check_port(rules, endpoint.port)?;
    match &endpoint.host {
        Host::Ip(ip) => {
            check_addr(rules, SocketAddr::new(*ip, endpoint.port))?;
        }
        Host::Name(name) if is_localhost(name) && !rules.allows_loopback() => {
            return Err(TargetError::Localhost(cut(name)));
        }
        Host::Name(name) if is_metadata(name) && !rules.allows_metadata() => {
            return Err(TargetError::Metadata(cut(name)));
        }
        Host::Name(_) => {}
    }
    // Last, so that an inner target is named as what it is, whatever scheme it was written with.
    if rules.require_https && !endpoint.https {
        return Err(TargetError::HttpsRequired);
    }
    Ok(())
}

/// Refuses what `url` would quietly repair. Returns the authority as written.
fn check_text(text: &str) -> Result<&str, TargetError> {
    if text.is_empty() {
        return Err(invalid("it is empty"));
    }
    if text.len() > URL_BYTES_MAX {
        return Err(invalid(format!("it is longer than {URL_BYTES_MAX} bytes")));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(invalid("control characters and white space are not allowed"));
    }
    if text.contains('\\') {
        return Err(invalid("a backslash is not allowed"));
    }
    if text.contains('#') {
        return Err(invalid("a fragment is not allowed"));
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(invalid("the scheme is missing"));
    };
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err(invalid(format!("the scheme \"{}\" is not https or http", cut(scheme))));
    }
    let Some(rest) = rest.strip_prefix("//") else {
        return Err(invalid("\"//\" is missing after the scheme"));
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.is_empty() {
        return Err(invalid("the host is missing"));
    }
    if authority.contains('@') {
        return Err(invalid("user-info is not allowed"));
    }
    Ok(authority)
}

/// `url` takes an empty port for none, and reports one beyond 65535 as it does any other text.
fn check_written_port(authority: &str) -> Result<(), TargetError> {
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    let Some((_, port)) = after_host.split_once(':') else { return Ok(()) };
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid("the port is not a number"));
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(invalid(format!("the port {} is not in 1 to 65535", cut(port)))),
        Ok(_) => Ok(()),
    }
}

fn invalid(rule: impl Into<String>) -> TargetError {
    TargetError::Invalid(rule.into())
}

/// The part of the input that a message may show.
fn cut(text: &str) -> String {
    if text.len() <= ECHO_BYTES_MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(ECHO_BYTES_MAX - '…'.len_utf8())])
}

#[cfg(test)]
#[path = "tests/targets.rs"]
mod tests;
