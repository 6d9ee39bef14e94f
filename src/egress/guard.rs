//! The address policy. Owns the decision which addresses and ports may be connected to, and is the only maker of
//! [`PublicAddr`]: who holds one holds an address that was judged, and nothing else can be dialled.
//!
//! An IPv6 address that carries an IPv4 address inside is judged by what it carries. Which spelling of a URL leads to an
//! address is `target`'s concern; which addresses a name has is `resolve`'s.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What may be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Refuse `http://` targets.
    pub require_https: bool,
    /// Addresses that are let through although the policy would refuse them. Matches an address as it is written and the
    /// IPv4 address it carries. Has no say in ports.
    pub allow: Vec<IpNet>,
    /// Ports that are never connected to, whatever `allow` says.
    pub denied_ports: Vec<u16>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { require_https: true, allow: Vec::new(), denied_ports: DENIED_PORTS.to_vec() }
    }
}

impl Rules {
    /// Whether `allow` lets any loopback address through; names of this machine are targets only then.
    #[must_use]
    pub fn allows_loopback(&self) -> bool {
        let v4 = IpNet::V4(LOOPBACK_V4);
        let v6 = IpNet::V6(LOOPBACK_V6);
        self.allow.iter().any(|net| [v4, v6].iter().any(|own| net.contains(own) || own.contains(net)))
    }

    /// Whether `allow` lets the address through that clouds give to their metadata service; names of it are targets only then.
    pub(super) fn allows_metadata(&self) -> bool {
        self.allows(IpAddr::V4(METADATA_V4))
    }

    fn allows(&self, ip: IpAddr) -> bool {
        self.allow.iter().any(|net| net.contains(&ip))
    }
}

/// An address that the policy lets through. There is no other way to make one than [`check_addr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublicAddr(SocketAddr);

impl PublicAddr {
    /// The address to dial.
    #[must_use]
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for PublicAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why an address is not connected to; its `Display` names rule and address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The port is one of [`Rules::denied_ports`].
    Port(u16),
    /// The address is not a global unicast one.
    Address {
        ip: IpAddr,
        /// The range that it falls into, such as `loopback (127.0.0.0/8)`.
        rule: &'static str,
        /// The form in which `ip` carries another address, and that address, when the rule speaks of that one.
        carried: Option<(&'static str, Ipv4Addr)>,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port} is not allowed (egress.denied_ports)"),
            Self::Address { ip, rule, carried: None } => write!(f, "address {ip} is not allowed: {rule}"),
            Self::Address { ip, rule, carried: Some((form, inner)) } => {
                write!(f, "address {ip} is not allowed: {form} form of {inner}: {rule}")
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// Judges one address with its port.
///
/// # Errors
/// A [`Refusal`] when the port is denied or the address is not global unicast and not in [`Rules::allow`].
pub fn check_addr(rules: &Rules, addr: SocketAddr) -> Result<PublicAddr, Refusal> {
    check_port(rules, addr.port())?;
    let ip = addr.ip();
    match ip {
        _ if rules.allows(ip) => {}
        IpAddr::V4(v4) => check_v4(v4).map_err(|rule| Refusal::Address { ip, rule, carried: None })?,
        IpAddr::V6(v6) => check_v6(rules, v6)?,
    }
    // The mapped form is dialled as what it is, and a scope or flow label never leaves this room.
    Ok(PublicAddr(SocketAddr::new(ip.to_canonical(), addr.port())))
}

/// Judges all addresses of a name: one that is refused refuses the name, so that no answer can mix its way in.
///
/// # Errors
/// The first [`Refusal`].
pub fn check_all(rules: &Rules, addrs: &[SocketAddr]) -> Result<Vec<PublicAddr>, Refusal> {
    addrs.iter().map(|addr| check_addr(rules, *addr)).collect()
}

/// Judges a port alone, for a target whose addresses are not known yet.
///
/// # Errors
/// [`Refusal::Port`] when it is denied.
pub fn check_port(rules: &Rules, port: u16) -> Result<(), Refusal> {
    if rules.denied_ports.contains(&port) { Err(Refusal::Port(port)) } else { Ok(()) }
}

fn check_v4(ip: Ipv4Addr) -> Result<(), &'static str> {
    // A linear walk: two dozen comparisons on a path that is about to open a connection.
    REFUSED_V4.iter().find(|(net, _)| net.contains(&ip)).map_or(Ok(()), |(_, rule)| Err(rule))
}

fn check_v6(rules: &Rules, ip: Ipv6Addr) -> Result<(), Refusal> {
    for (form, inner) in carried(ip).into_iter().flatten() {
        if rules.allows(IpAddr::V4(inner)) {
            return Ok(());
        }
        check_v4(inner).map_err(|rule| Refusal::Address { ip: IpAddr::V6(ip), rule, carried: Some((form, inner)) })?;
    }
    if ip.to_ipv4_mapped().is_some() || NAT64.contains(&ip) {
        return Ok(());
    }
    let refused = |rule| Err(Refusal::Address { ip: IpAddr::V6(ip), rule, carried: None });
    if let Some((_, rule)) = REFUSED_V6.iter().find(|(net, _)| net.contains(&ip)) {
        return refused(rule);
    }
    if GLOBAL_V6.contains(&ip) { Ok(()) } else { refused("not global unicast (outside 2000::/3)") }
}

/// The IPv4 addresses that an IPv6 address carries, with the name of the form. Teredo carries two: server and client.
fn carried(ip: Ipv6Addr) -> [Option<(&'static str, Ipv4Addr)>; 2] {
    let bits = ip.to_bits();
    let v4 = |shift: u32| Ipv4Addr::from_bits(u32::try_from((bits >> shift) & 0xffff_ffff).unwrap_or_default());
    if ip.is_unspecified() || ip.is_loopback() {
        [None, None]
    } else if ip.to_ipv4_mapped().is_some() {
        [Some(("IPv4-mapped", v4(0))), None]
    } else if COMPATIBLE.contains(&ip) {
        [Some(("IPv4-compatible", v4(0))), None]
    } else if NAT64.contains(&ip) || NAT64_LOCAL.contains(&ip) {
        [Some(("NAT64", v4(0))), None]
    } else if SIX_TO_FOUR.contains(&ip) {
        [Some(("6to4", v4(80))), None]
    } else if TEREDO.contains(&ip) {
        // RFC 4380 §4: the client's address is stored with every bit turned over.
        [Some(("Teredo", Ipv4Addr::from_bits(!v4(0).to_bits()))), Some(("Teredo", v4(64)))]
    } else {
        [None, None]
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, d: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix)
}

const fn host_v6([a, b, c, d, e, f, g, h]: [u16; 8]) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), 128)
}

/// Where nearly every cloud has its metadata service.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const LOOPBACK_V4: Ipv4Net = v4(127, 0, 0, 0, 8);
const LOOPBACK_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);
const COMPATIBLE: Ipv6Net = v6(0, 0, 0, 0, 96);
/// RFC 6052: the well-known prefix, always with the IPv4 address in the last 32 bits.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 0, 96);
/// RFC 8215. Where the IPv4 address stands depends on the site, so a harmless reading of the last 32 bits proves nothing:
/// judged by them for the message, and refused in any case.
const NAT64_LOCAL: Ipv6Net = v6(0x64, 0xff9b, 1, 0, 48);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 0, 0, 16);
const TEREDO: Ipv6Net = v6(0x2001, 0, 0, 0, 32);
/// IANA has assigned global unicast from here only (RFC 4291 §2.4, the IPv6 address space registry).
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 0, 0, 3);

/// The IANA IPv4 special-purpose address registry without its globally reachable entries, multicast, and what clouds answer on
/// from the inside: the one public address among those, and the others by name. Narrow rules stand before the ranges that contain them.
const REFUSED_V4: &[(Ipv4Net, &str)] = &[
    (Ipv4Net::new_assert(METADATA_V4, 32), "cloud metadata service (169.254.169.254)"),
    (v4(168, 63, 129, 16, 32), "Azure wire server (168.63.129.16)"),
    (v4(100, 100, 100, 200, 32), "Alibaba Cloud metadata service (100.100.100.200)"),
    (v4(192, 0, 0, 192, 32), "Oracle Cloud metadata service (192.0.0.192)"),
    (v4(169, 254, 170, 2, 32), "AWS container credentials (169.254.170.2)"),
    (v4(169, 254, 170, 23, 32), "AWS container credentials (169.254.170.23)"),
    (v4(169, 254, 42, 42, 32), "Scaleway metadata service (169.254.42.42)"),
    (v4(0, 0, 0, 0, 8), "this network (0.0.0.0/8)"),
    (v4(10, 0, 0, 0, 8), "private (10.0.0.0/8)"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT (100.64.0.0/10)"),
    (LOOPBACK_V4, "loopback (127.0.0.0/8)"),
    (v4(169, 254, 0, 0, 16), "link-local (169.254.0.0/16)"),
    (v4(172, 16, 0, 0, 12), "private (172.16.0.0/12)"),
    (v4(192, 0, 0, 0, 24), "IETF protocol assignments (192.0.0.0/24)"),
    (v4(192, 0, 2, 0, 24), "documentation (192.0.2.0/24)"),
    (v4(192, 88, 99, 0, 24), "6to4 relay anycast (192.88.99.0/24)"),
    (v4(192, 168, 0, 0, 16), "private (192.168.0.0/16)"),
    (v4(198, 18, 0, 0, 15), "benchmarking (198.18.0.0/15)"),
    (v4(198, 51, 100, 0, 24), "documentation (198.51.100.0/24)"),
    (v4(203, 0, 113, 0, 24), "documentation (203.0.113.0/24)"),
    (v4(224, 0, 0, 0, 4), "multicast (224.0.0.0/4)"),
    (v4(255, 255, 255, 255, 32), "limited broadcast (255.255.255.255)"),
    (v4(240, 0, 0, 0, 4), "reserved (240.0.0.0/4)"),
];

/// The IANA IPv6 special-purpose address registry, in the same way. 2001::/23 is refused although a few anycast services
/// inside it are reachable: none of them receives webhooks.
const REFUSED_V6: &[(Ipv6Net, &str)] = &[
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "unspecified (::)"),
    (LOOPBACK_V6, "loopback (::1)"),
    (host_v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]), "AWS metadata service (fd00:ec2::254)"),
    (host_v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23]), "AWS container credentials (fd00:ec2::23)"),
    (host_v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]), "Google Cloud metadata server (fd20:ce::254)"),
    (host_v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]), "Scaleway metadata service (fd00:42::42)"),
    (host_v6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe]), "OpenStack metadata service (fe80::a9fe:a9fe)"),
    (COMPATIBLE, "IPv4-compatible (::/96)"),
    (NAT64_LOCAL, "local-use NAT64 (64:ff9b:1::/48)"),
    (v6(0x100, 0, 0, 0, 64), "discard-only (100::/64)"),
    (v6(0x100, 0, 0, 1, 64), "dummy prefix (100:0:0:1::/64)"),
    (TEREDO, "Teredo (2001::/32)"),
    (v6(0x2001, 0, 0, 0, 23), "IETF protocol assignments (2001::/23)"),
    (v6(0x2001, 0xdb8, 0, 0, 32), "documentation (2001:db8::/32)"),
    (v6(0x3fff, 0, 0, 0, 20), "documentation (3fff::/20)"),
    (v6(0x5f00, 0, 0, 0, 16), "segment routing (5f00::/16)"),
    (v6(0xfc00, 0, 0, 0, 7), "unique local (fc00::/7)"),
    (v6(0xfe80, 0, 0, 0, 10), "link-local (fe80::/10)"),
    (v6(0xfec0, 0, 0, 0, 10), "site-local (fec0::/10)"),
    (v6(0xff00, 0, 0, 0, 8), "multicast (ff00::/8)"),
];

/// The "bad ports" of the Fetch standard (<https://fetch.spec.whatwg.org/#port-blocking>, read 2025), followed by data
/// stores and control planes that it leaves out and that have been reached through webhooks.
const DENIED_PORTS: &[u16] = &[
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
    110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060,
    5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080, //
    138, 445, 873, 1433, 1521, 2375, 2376, 2379, 2380, 3306, 3389, 5432, 5672, 5900, 6379, 9042, 9200, 9300, 10250,
    11211, 27017,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(rules: &Rules, ip: &str) -> Result<PublicAddr, String> {
        check_addr(rules, SocketAddr::new(ip.parse().expect("an address"), 443)).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn special_addresses_are_refused_by_name() {
        let table = [
            ("0.0.0.0", "this network"),
            ("10.1.2.3", "private (10.0.0.0/8)"),
            ("100.64.0.1", "carrier-grade NAT"),
            ("100.100.100.200", "Alibaba"),
            ("127.0.0.1", "loopback (127.0.0.0/8)"),
            ("127.255.255.254", "loopback"),
            ("168.63.129.16", "Azure wire server"),
            ("169.254.169.254", "cloud metadata service"),
            ("169.254.0.1", "link-local"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("169.254.170.2", "AWS container credentials"),
            ("169.254.170.23", "AWS container credentials"),
            ("169.254.42.42", "Scaleway"),
            ("192.0.0.192", "Oracle Cloud metadata service (192.0.0.192)"),
            ("192.0.0.1", "IETF protocol"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4 relay"),
            ("192.168.0.1", "private"),
            ("198.18.0.1", "benchmarking"),
            ("198.19.255.255", "benchmarking"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.1", "documentation"),
            ("224.0.0.1", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback (::1)"),
            ("::127.0.0.1", "IPv4-compatible form of 127.0.0.1: loopback"),
            ("::8.8.8.8", "IPv4-compatible"),
            ("::ffff:127.0.0.1", "IPv4-mapped form of 127.0.0.1: loopback"),
            ("::ffff:169.254.169.254", "cloud metadata service"),
            ("::ffff:0:8.8.8.8", "outside 2000::/3"),
            ("64:ff9b::7f00:1", "NAT64 form of 127.0.0.1"),
            ("64:ff9b:1::a00:1", "NAT64 form of 10.0.0.1"),
            ("64:ff9b:1:7f00:0:100:808:808", "local-use NAT64"),
            ("100::1", "discard-only"),
            ("100:0:0:1::1", "dummy prefix"),
            ("2001:0:808:808:0:0:80ff:fffe", "Teredo form of 127.0.0.1"),
            ("2001:0:a00:1:0:0:f7f7:f7f7", "Teredo form of 10.0.0.1"),
            ("2001:0:808:808:0:0:f7f7:f7f7", "Teredo (2001::/32)"),
            ("2001:2::1", "IETF protocol assignments"),
            ("2001:db8::1", "documentation"),
            ("2002:7f00:1::1", "6to4 form of 127.0.0.1"),
            ("2002:a9fe:a9fe::", "cloud metadata service"),
            ("3fff::1", "documentation"),
            ("4000::1", "outside 2000::/3"),
            ("5f00::1", "segment routing"),
            ("fc00::1", "unique local"),
            ("fd00:ec2::254", "AWS metadata service"),
            ("fd00:ec2::23", "AWS container credentials"),
            ("fd20:ce::254", "Google Cloud metadata server"),
            ("fd00:42::42", "Scaleway"),
            ("fe80::a9fe:a9fe", "OpenStack"),
            ("::ffff:192.0.0.192", "Oracle"),
            ("64:ff9b::a83f:8110", "NAT64 form of 168.63.129.16: Azure"),
            ("fd12::1", "unique local"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
        ];
        for (ip, rule) in table {
            let message = judge(&Rules::default(), ip).expect_err(ip);
            assert!(message.contains(rule), "{ip}: {message}");
            let written: IpAddr = ip.parse().unwrap();
            assert!(message.contains(&written.to_string()), "{ip}: {message}");
        }
    }

    #[test]
    fn public_addresses_pass() {
        for ip in ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "168.63.129.17", "198.20.0.1", "2606:4700::1111"]
        {
            assert_eq!(judge(&Rules::default(), ip).unwrap().get().ip(), ip.parse::<IpAddr>().unwrap());
        }
        assert_eq!(judge(&Rules::default(), "::ffff:8.8.8.8").unwrap().get(), "8.8.8.8:443".parse().unwrap());
        assert!(judge(&Rules::default(), "64:ff9b::808:808").is_ok());
        assert!(judge(&Rules::default(), "2002:808:808::1").is_ok());
    }

    #[test]
    fn allow_matches_the_literal_and_what_it_carries_but_never_a_port() {
        let rules =
            Rules { allow: vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], ..Rules::default() };
        for ip in ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fd00::1"] {
            judge(&rules, ip).expect(ip);
        }
        for ip in ["::1", "10.0.0.1", "fc00::1", "::ffff:10.0.0.1"] {
            judge(&rules, ip).expect_err(ip);
        }
        assert_eq!(check_addr(&rules, "127.0.0.1:25".parse().unwrap()), Err(Refusal::Port(25)));
        assert!(rules.allows_loopback());
        assert!(!Rules::default().allows_loopback());
        let narrow = Rules { allow: vec!["127.0.0.1/32".parse().unwrap()], ..Rules::default() };
        assert!(narrow.allows_loopback());
        let all = Rules { allow: vec!["0.0.0.0/0".parse().unwrap()], ..Rules::default() };
        assert!(all.allows_loopback());
    }

    #[test]
    fn one_refused_address_refuses_the_name() {
        let addrs: Vec<SocketAddr> = vec!["8.8.8.8:443".parse().unwrap(), "10.0.0.1:443".parse().unwrap()];
        assert!(check_all(&Rules::default(), &addrs[..1]).is_ok());
        assert!(check_all(&Rules::default(), &addrs).is_err());
    }

    #[test]
    fn usual_webhook_ports_stay_open() {
        for port in [80, 443, 3000, 5000, 8000, 8080, 8081, 8443, 8888, 9000, 9090] {
            check_port(&Rules::default(), port).expect("allowed");
        }
        for port in [22, 25, 110, 138, 445, 465, 587, 2049, 3306, 5432, 6379, 9200, 11211, 27017] {
            check_port(&Rules::default(), port).expect_err("denied");
        }
    }

    fn spellings(inner: Ipv4Addr) -> Vec<Ipv6Addr> {
        let bits = u128::from(inner.to_bits());
        let public = 0x0808_0808_u128;
        vec![
            Ipv6Addr::from_bits(0xffff_0000_0000 | bits),
            Ipv6Addr::from_bits(bits),
            Ipv6Addr::from_bits((0x0064_ff9b << 96) | bits),
            Ipv6Addr::from_bits((0x0064_ff9b_0001 << 80) | bits),
            Ipv6Addr::from_bits((0x2002 << 112) | (bits << 80) | 1),
            Ipv6Addr::from_bits((0x2001_0000 << 96) | (public << 64) | (bits ^ 0xffff_ffff)),
            Ipv6Addr::from_bits((0x2001_0000 << 96) | (bits << 64) | (public ^ 0xffff_ffff)),
        ]
    }

    proptest! {
        #[test]
        fn no_form_carries_a_refused_address_through(rule in 0..REFUSED_V4.len(), offset in any::<u32>()) {
            let net = REFUSED_V4[rule].0;
            let inner = Ipv4Addr::from_bits(net.network().to_bits() | (offset & net.hostmask().to_bits()));
            let rules = Rules::default();
            prop_assert!(check_addr(&rules, SocketAddr::new(inner.into(), 443)).is_err());
            for outer in spellings(inner) {
                prop_assert!(check_addr(&rules, SocketAddr::new(outer.into(), 443)).is_err(), "{outer} carries {inner}");
            }
        }

        #[test]
        fn what_passes_is_what_is_dialled(bits in any::<u128>()) {
            let addr = SocketAddr::new(Ipv6Addr::from_bits(bits | (1 << 125)).into(), 443);
            if let Ok(public) = check_addr(&Rules::default(), addr) {
                prop_assert_eq!(public.get(), addr);
            }
        }
    }
}
