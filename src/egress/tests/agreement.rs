//! Readers of a URL agree: `url`, the guard, the connector and the C library find the same host and the same address, or the
//! text is refused. Seeded; proptest prints the seed of what fails.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::egress::client::dialler;
use crate::egress::connect::Dialler;
use crate::egress::guard::check_addr;
use crate::egress::resolve::Answer;
use crate::egress::target::{Host, LOCALHOST, is_localhost};

/// Gives every name this address, and notes what it was asked.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);

#[derive(Default)]
struct Witness(Mutex<Vec<String>>);

impl Resolve for Witness {
    fn resolve<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        self.0.lock().unwrap().push(name.to_owned());
        Box::pin(async { Ok(vec![PUBLIC.into()]) })
    }
}

/// A dialler under these rules; made once, as it reads the system's certificates.
fn made(rules: &Rules) -> Dialler {
    dialler(Settings { rules: rules.clone(), ..Settings::default() }, None, 0, &Arc::default()).unwrap()
}

static GENEROUS: LazyLock<(Rules, Dialler)> = LazyLock::new(|| {
    let allow = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let rules = Rules { allow, denied_ports: vec![], ..loopback_rules() };
    let dialler = made(&rules);
    (rules, dialler)
});

static STRICT: LazyLock<(Rules, Dialler)> = LazyLock::new(|| {
    let rules = Rules { require_https: false, denied_ports: vec![], ..Rules::default() };
    let dialler = made(&rules);
    (rules, dialler)
});

/// What the connector would dial, and the names that it would ask for.
fn dialled(target: &Target, dialler: &Dialler) -> (Result<Vec<SocketAddr>, String>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let witness = Witness::default();
    let found = runtime.block_on(dialler.addresses(&witness, target));
    let found = found.map(|all| all.into_iter().map(|addr| addr.get()).collect()).map_err(|failure| failure.detail);
    (found, witness.0.into_inner().unwrap())
}

/// Parses under generous rules; whatever is in the text is to be read.
fn read(url: &str) -> Result<Target, TestCaseError> {
    Target::parse(url, &GENEROUS.0).map_err(|error| TestCaseError::fail(format!("{url}: {error}")))
}

/// That the target's text, its dial and its address are judged alike under strict rules.
fn judged_alike(url: &str, target: &Target, addr: SocketAddr) -> Result<(), TestCaseError> {
    let verdict = check_addr(&STRICT.0, addr);
    prop_assert_eq!(Target::parse(url, &STRICT.0).is_ok(), verdict.is_ok(), "{}", url);
    prop_assert_eq!(dialled(target, &STRICT.1).0.err(), verdict.err().map(|refusal| refusal.to_string()), "{}", url);
    Ok(())
}

/// One number as the parts of an IPv4 address in text: how many parts, and the base of each.
fn spelled(ip: u32, parts: usize, bases: [u8; 4]) -> String {
    let shown = |value: u32, base: u8| match base {
        0 => format!("{value}"),
        1 => format!("0{value:o}"),
        2 => format!("0x{value:x}"),
        _ => format!("0X{value:08X}"),
    };
    let mut texts = Vec::new();
    for (part, base) in bases.into_iter().take(parts).enumerate() {
        let last = part + 1 == parts;
        let shift = 24 - 8 * u32::try_from(part).unwrap();
        // The last part holds all that is left.
        let value = if last { ip & (u32::MAX >> (8 * part)) } else { (ip >> shift) & 0xff };
        texts.push(shown(value, base));
    }
    texts.join(".")
}

/// Digits in forms that are folded to ASCII ones on the way.
fn disguised(text: &str, how: u8) -> String {
    let wide = |c: char| char::from_u32(u32::from(c) - 0x20 + 0xff00).unwrap_or(c);
    match how {
        0 => text.chars().map(|c| if c.is_ascii_digit() { wide(c) } else { c }).collect(),
        1 => text.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        2 => text.replace('.', "。"),
        3 => format!("{text}."),
        _ => text.to_owned(),
    }
}

fn inner_and_any() -> impl Strategy<Value = u32> {
    let inner =
        [0x7f00_0001, 0xa9fe_a9fe, 0xa83f_8110, 0x6464_64c8, 0xc000_00c0, 0x0a00_0001, 0xc0a8_0001, 0, u32::MAX];
    prop_oneof![proptest::sample::select(inner.to_vec()), any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn g13_every_reader_of_an_ipv4_address_reads_the_same(
        ip in inner_and_any(), parts in 1_usize..=4, bases in any::<[u8; 4]>(), how in 0_u8..8, port in 1_u16..,
    ) {
        let bases = bases.map(|base| base % 4);
        let expected = IpAddr::V4(Ipv4Addr::from_bits(ip));
        let text = spelled(ip, parts, bases);
        // The C library needs no name server for these, and what it reads is what curl and most programs would connect to.
        let libc = (text.as_str(), port).to_socket_addrs().unwrap().next().unwrap();
        prop_assert_eq!(libc, SocketAddr::new(expected, port), "{}", text);
        let url = format!("http://{}:{port}/", disguised(&text, how));
        let target = read(&url)?;
        prop_assert_eq!(target.host(), &Host::Ip(expected), "{}", &url);
        let (found, asked) = dialled(&target, &GENEROUS.1);
        prop_assert_eq!((found, asked), (Ok(vec![SocketAddr::new(expected, port)]), vec![]), "{}", &url);
        judged_alike(&url, &target, SocketAddr::new(expected, port))?;
    }

    #[test]
    fn g13_every_reader_of_an_ipv6_address_reads_the_same(ip in any::<[u16; 8]>(), kept in any::<u8>(), form in 0_u8..4) {
        // Groups of zeros, as addresses have them.
        let ip: [u16; 8] = std::array::from_fn(|at| if kept >> at & 1 == 1 { ip[at] } else { 0 });
        let ip = Ipv6Addr::from(ip);
        let groups = ip.segments().map(|group| format!("{group:04X}")).join(":");
        let tail = Ipv4Addr::from_bits(u32::try_from(ip.to_bits() & 0xffff_ffff).unwrap());
        let text = match form {
            0 => ip.to_string(),
            1 => groups,
            2 => format!("{}:{tail}", &groups[..29]),
            _ => groups.to_lowercase().replace(":0000", ":0"),
        };
        let url = format!("http://[{text}]:8080/");
        let target = read(&url)?;
        prop_assert_eq!(target.host(), &Host::Ip(ip.into()), "{}", &url);
        let dialling = SocketAddr::new(IpAddr::V6(ip).to_canonical(), 8080);
        prop_assert_eq!(dialled(&target, &GENEROUS.1), (Ok(vec![dialling]), vec![]), "{}", &url);
        judged_alike(&url, &target, SocketAddr::new(ip.into(), 8080))?;
    }

    #[test]
    fn g13_what_is_asked_for_is_the_host_that_was_judged(
        text in prop_oneof![
            "https?://[a-zA-Z0-9.@:%\\[\\]_~!$&'()*+,;=/?#\\\\-]{1,40}",
            "https?://[a-zß。①٠\u{ad}\u{200d}.:0-9%\\-]{1,30}(/[a-z@:?]{0,8})?",
            "http://(localhost|127\\.0\\.0\\.1|0x7f\\.1|a\\.test)[.@:%#?/\\\\]{1,3}(8\\.8\\.8\\.8|a\\.test|localhost)?",
        ],
    ) {
        let Ok(target) = Target::parse(&text, &GENEROUS.0) else { return Ok(()) };
        let (found, asked) = dialled(&target, &GENEROUS.1);
        let at_port = |ip: IpAddr| SocketAddr::new(ip.to_canonical(), target.port());
        match target.host() {
            Host::Ip(ip) => prop_assert_eq!((found, asked), (Ok(vec![at_port(*ip)]), vec![]), "{}", text),
            Host::Name(name) if is_localhost(name) => {
                prop_assert_eq!((found, asked), (Ok(LOCALHOST.map(at_port).to_vec()), vec![]), "{}", text);
            }
            Host::Name(name) => {
                prop_assert_eq!((found, asked), (Ok(vec![at_port(PUBLIC.into())]), vec![name.clone()]), "{}", text);
                // No program that is asked for the name may take it for an address: those of the C library would.
                let hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                let is_hex = |label: &str| label.strip_prefix("0x").is_some_and(hex);
                let numeric = |label: &str| is_hex(label) || label.bytes().all(|byte| byte.is_ascii_digit());
                let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
                prop_assert!(last.is_empty() || !numeric(last), "{}: {}", text, name);
            }
        }
    }
}
