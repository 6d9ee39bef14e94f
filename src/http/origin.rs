//! Where a request comes from, and what it is called: the address of the client behind a trusted proxy, and the request's id.
//!
//! Invariant: an address that a client can choose is believed of nobody: of what stands in the header only the part is read that
//! trusted proxies have written, from the right, up to the first address that is no trusted proxy's. Who connects from elsewhere is
//! the client, whatever its headers say.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName, HeaderValue};

use super::hygiene;
use super::server::Peer;
use crate::entropy::Entropy;
use crate::limits::REQUEST_ID_MAX;
use crate::service::settings::{ClientHeader, Settings};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whether a proxy of ours is there.
#[must_use]
pub fn is_trusted(ip: IpAddr, settings: &Settings) -> bool {
    settings.trusted_proxies.iter().any(|net| net.contains(&ip))
}

/// The peer with the address of the client that a trusted proxy speaks for.
#[must_use]
pub fn client(peer: Peer, headers: &HeaderMap, settings: &Settings) -> Peer {
    let trusted = |ip| is_trusted(ip, settings);
    let Some(direct) = peer.addr.filter(|addr| trusted(addr.ip())) else { return peer };
    let (name, read): (_, fn(&str) -> Option<SocketAddr>) = match settings.client_header {
        ClientHeader::XForwardedFor => (X_FORWARDED_FOR, address),
        ClientHeader::Forwarded => (FORWARDED, forwarded_for),
    };
    let mut found = direct;
    for line in headers.get_all(name).iter().rev() {
        // What is no text was written by nobody that we trust.
        let Ok(line) = line.to_str() else { break };
        for hop in line.rsplit(',') {
            let Some(addr) = read(hop.trim()) else { return Peer { addr: Some(found), ..peer } };
            found = addr;
            if !trusted(addr.ip()) {
                return Peer { addr: Some(found), ..peer };
            }
        }
    }
    Peer { addr: Some(found), ..peer }
}

/// An address with or without a port; IPv6 in brackets where it has one, as proxies write it.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    let with_port = text.parse::<SocketAddr>().ok();
    let addr = with_port.or_else(|| Some(SocketAddr::new(text.parse().ok().or_else(bare)?, 0)))?;
    Some(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
}

/// The `for` of one hop (RFC 7239 §4); names that hide an address are none.
fn forwarded_for(hop: &str) -> Option<SocketAddr> {
    let mut values = hop.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    });
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    address(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// Names requests: each by what its client calls it, where that is sane, and otherwise by a number that is given once.
pub struct RequestIds {
    next: AtomicU64,
}

impl RequestIds {
    #[must_use]
    pub fn new(entropy: &Entropy) -> Self {
        Self { next: AtomicU64::new(u64::from_le_bytes(entropy.bytes())) }
    }

    /// A request's id.
    #[must_use]
    pub fn of(&self, headers: &HeaderMap) -> HeaderValue {
        let mut given = hygiene::values(headers, REQUEST_ID);
        match (given.next(), given.next()) {
            (Some(id), None) if is_sane(id.as_bytes()) => id.clone(),
            _ => self.fresh(),
        }
    }

    /// One-to-one with a counter, and not to be read as one: how many requests there are is nobody's business.
    fn fresh(&self) -> HeaderValue {
        let mut mixed = self.next.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        // SplitMix64's finalizer.
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mut text = [0; 16];
        // The buffer has the length that sixteen digits take.
        let written = hex::encode_to_slice((mixed ^ (mixed >> 31)).to_be_bytes(), &mut text);
        debug_assert!(written.is_ok());
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("none"))
    }
}

/// Whether an id may be repeated in answers and logs.
fn is_sane(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: &str = "x-forwarded-for";

    fn settings(trusted: &[&str], client_header: ClientHeader) -> Settings {
        let trusted_proxies = trusted.iter().map(|net| net.parse().unwrap()).collect();
        Settings { trusted_proxies, client_header, ..Settings::default() }
    }

    fn from(direct: &str, lines: &[(&'static str, &str)], settings: &Settings) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let peer = Peer { addr: Some(SocketAddr::new(direct.parse().unwrap(), 4)), tls: true, unix: false };
        let found = client(peer, &headers, settings);
        assert_eq!((found.tls, found.unix), (true, false));
        found.addr.unwrap().to_string()
    }

    #[test]
    fn only_what_trusted_proxies_wrote_is_read() {
        let trusting = settings(&["10.0.0.0/8", "fd00::/8"], ClientHeader::XForwardedFor);
        for (direct, line, client) in [
            ("10.0.0.1", "198.51.100.7", "198.51.100.7:0"),
            ("10.0.0.1", "198.51.100.7:99", "198.51.100.7:99"),
            ("10.0.0.1", "2001:db8::7", "[2001:db8::7]:0"),
            ("10.0.0.1", "[2001:db8::7]", "[2001:db8::7]:0"),
            ("10.0.0.1", "[2001:db8::7]:99", "[2001:db8::7]:99"),
            ("10.0.0.1", "::ffff:198.51.100.7", "198.51.100.7:0"),
            ("10.0.0.1", "198.51.100.7, 10.0.0.2,fd00::1", "198.51.100.7:0"),
            // What the client has put in front is not believed.
            ("10.0.0.1", "127.0.0.1, 10.9.9.9, 198.51.100.7, 10.0.0.2", "198.51.100.7:0"),
            ("10.0.0.1", "1.1.1.1, ::ffff:10.0.0.3, 10.0.0.2", "1.1.1.1:0"),
            ("10.0.0.1", "10.0.0.9, 10.0.0.2", "10.0.0.9:0"),
            ("10.0.0.1", "198.51.100.7, nonsense, 10.0.0.2", "10.0.0.2:0"),
            ("10.0.0.1", "198.51.100.7,", "10.0.0.1:4"),
            ("10.0.0.1", "unknown", "10.0.0.1:4"),
            ("10.0.0.1", "198.51.100.7 10.0.0.2", "10.0.0.1:4"),
            ("10.0.0.1", "ü", "10.0.0.1:4"),
            ("10.0.0.1", "", "10.0.0.1:4"),
            // Who is no trusted proxy speaks for itself alone.
            ("198.51.100.8", "198.51.100.7", "198.51.100.8:4"),
            ("198.51.100.8", "10.0.0.1", "198.51.100.8:4"),
        ] {
            assert_eq!(from(direct, &[(X, line)], &trusting), client, "{direct} {line}");
        }
        let lines = [(X, "203.0.113.1"), (X, "198.51.100.7, 10.0.0.3"), (X, "10.0.0.2")];
        assert_eq!(from("10.0.0.1", &lines, &trusting), "198.51.100.7:0", "the lines are one list");
        assert_eq!(
            from("10.0.0.1", &[("forwarded", "for=198.51.100.7")], &trusting),
            "10.0.0.1:4",
            "one header counts"
        );
        let nobody = settings(&[], ClientHeader::XForwardedFor);
        assert_eq!(from("10.0.0.1", &[(X, "198.51.100.7")], &nobody), "10.0.0.1:4");
        let socket = Peer { addr: None, tls: false, unix: true };
        let mut headers = HeaderMap::new();
        headers.insert(X, HeaderValue::from_static("198.51.100.7"));
        assert_eq!(client(socket, &headers, &settings(&["0.0.0.0/0"], ClientHeader::XForwardedFor)), socket);
    }

    #[test]
    fn forwarded_is_read_as_the_standard_writes_it() {
        let trusting = settings(&["10.0.0.0/8"], ClientHeader::Forwarded);
        for (line, client) in [
            ("for=198.51.100.7", "198.51.100.7:0"),
            ("For=\"198.51.100.7:47011\";proto=https;by=10.0.0.1", "198.51.100.7:47011"),
            ("proto=https; for=\"[2001:db8::7]:4711\"", "[2001:db8::7]:4711"),
            ("for=203.0.113.1, for=198.51.100.7, for=10.0.0.2", "198.51.100.7:0"),
            ("for=198.51.100.7, for=_hidden", "10.0.0.1:4"),
            ("for=unknown", "10.0.0.1:4"),
            ("by=10.0.0.1", "10.0.0.1:4"),
            ("for=198.51.100.7;for=198.51.100.8", "10.0.0.1:4"),
        ] {
            assert_eq!(from("10.0.0.1", &[("forwarded", line)], &trusting), client, "{line}");
        }
        assert_eq!(from("10.0.0.1", &[(X, "198.51.100.7")], &trusting), "10.0.0.1:4", "one header counts");
    }

    #[test]
    fn a_sane_id_is_kept_and_no_two_that_are_made_are_the_same() {
        let ids = RequestIds::new(&Entropy::seeded(5));
        let of = |given: &[&str]| {
            let mut headers = HeaderMap::new();
            for id in given {
                headers.append(REQUEST_ID, HeaderValue::from_str(id).unwrap());
            }
            ids.of(&headers).to_str().unwrap().to_owned()
        };
        let long = "x".repeat(REQUEST_ID_MAX);
        for good in ["a", "0190d5f2-a1b2-7c3d-8e4f-5a6b7c8d9e0f", "Root=1-67891233-abcdef", long.as_str()] {
            assert_eq!(of(&[good]), good);
        }
        let longer = "x".repeat(REQUEST_ID_MAX + 1);
        let mut made = std::collections::BTreeSet::new();
        for bad in [&[][..], &[""], &["a b"], &["a\tb"], &["<b>"], &["a", "a"], &[longer.as_str()]] {
            let id = of(bad);
            assert!(id.len() == 16 && !bad.contains(&id.as_str()), "{bad:?}: {id}");
            made.insert(id);
        }
        made.extend((0..10_000).map(|_| of(&[])));
        assert_eq!(made.len(), 10_007);
    }
}
