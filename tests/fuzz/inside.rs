//! Parsers, fed directly: URLs, secrets and signatures, the configuration, stored records, what receivers answer.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use webhookd::clock::Clock;
use webhookd::config;
use webhookd::egress::guard::check_addr;
use webhookd::egress::{
    self, Connect, Connecting, Egress, Host, Pool, PublicAddr, Rules, StaticResolver, Target, Wire,
};
use webhookd::entropy::Entropy;
use webhookd::limits::{EXCERPT_BYTES, RETRY_AFTER_MAX};
use webhookd::model::id::KeyId;
use webhookd::model::secret::Secret;
use webhookd::sign;
use webhookd::store::block;
use webhookd::store::log::Log;
use webhookd::store::record::{self, Entry, Standing};
use webhookd::store::seal::Sealer;

use crate::mutate::fuzz;

const NOW_S: u64 = 1_700_000_000;

#[test]
fn g20_url_policy() {
    let corpus: &[&[u8]] = &[
        b"https://receiver.example/hook?x=1",
        b"http://127.0.0.1:8080/",
        b"https://0x7f.1/",
        b"https://2130706433/",
        b"https://[::ffff:169.254.169.254]/",
        b"https://[64:ff9b::7f00:1]/a/b",
        b"https://xn--bcher-kva.example:8443/",
        b"https://user:pass@1.1.1.1/",
        b"https://1.1.1.1%2f@127.0.0.1/",
        b"https://LOCALHOST./",
        b"https://\xe2\x91\xa0.\xe2\x91\xa0.\xe2\x91\xa0.\xe2\x91\xa0/",
    ];
    let rules = Rules::default();
    fuzz("url policy", corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(target) = Target::parse(text, &rules) else { return };
        if let Host::Ip(ip) = target.host() {
            let addr = std::net::SocketAddr::new(*ip, target.port());
            assert!(check_addr(&rules, addr).is_ok(), "a refused address was let through: {ip}");
        }
        // What is dialled and what is said in `Host` are one place, whoever reads it.
        let said: http::uri::Authority = target.authority().to_str().expect("text").parse().expect("an authority");
        assert_eq!(said.port_u16().unwrap_or(if target.https() { 443 } else { 80 }), target.port());
        let bare = said.host().trim_start_matches('[').trim_end_matches(']');
        assert_eq!(bare.parse::<IpAddr>().ok(), if let Host::Ip(ip) = target.host() { Some(*ip) } else { None });
        let again = Target::parse(target.url(), &rules).expect("what was accepted is accepted again");
        assert_eq!((again.host(), again.port()), (target.host(), target.port()));
    });
}

#[test]
fn g20_signatures_and_secrets() {
    let corpus: &[&[u8]] = &[
        b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1a,x",
        b"t=1700000000,v1=3523dcc0013f08dfa1855772441107330218793f399d7452bd3ff2159c6e0285",
        b"0000000000000000000000000000000000000000000000000000000000000000",
    ];
    fuzz("signatures and secrets", corpus, |input| {
        let text = String::from_utf8_lossy(input).into_owned();
        let _ = sign::secret_valid(&text);
        let secret = Secret::new(text.clone());
        let own = Secret::new("a secret that nobody guesses".to_owned());
        let now = NOW_S.to_string();
        assert!(sign::verify_standard(&own, "evt_1", &now, &text, b"{}", NOW_S, 300).is_err());
        assert!(sign::verify_lemon(&own, &text, b"{}", NOW_S, 300).is_err());
        assert!(sign::verify_vibe(&own, &text, b"{}").is_err());
        let _ = sign::verify_standard(&secret, "evt_1", &text, "v1,eA==", b"{}", NOW_S, 300);
    });
}

#[test]
fn g20_configuration() {
    let shipped = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("webhookd.toml")).expect("a file");
    let uncommented: String =
        String::from_utf8_lossy(&shipped).lines().map(|line| format!("{}\n", line.trim_start_matches('#'))).collect();
    let corpus: &[&[u8]] = &[
        b"[server]\nlisten = [\"127.0.0.1:8443\"]\nheader_timeout = \"3s\"\n",
        b"[plans.quick]\ndelays = [\"1s\", \"1m\"]\njitter = 0.2\n",
        b"[[event_types]]\nname = \"order.created\"\nomnia_channel = \"ORDERS\"\n",
        b"[retention]\nevents = \"30d\"\nmax_bytes = \"1GiB\"\n[egress]\nallow = [\"10.0.0.0/8\"]\n",
        uncommented.as_bytes(),
        &shipped,
    ];
    fuzz("configuration", corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        match config::load_text(Path::new("webhookd.toml"), text, std::iter::empty()) {
            Ok(loaded) => drop(loaded.check(NOW_S * 1_000)),
            Err(problems) => assert!(!problems.to_string().is_empty()),
        }
    });
}

#[test]
fn g20_stored_records() {
    let entropy = Entropy::seeded(1);
    let sealer = Sealer::new([7; 32], entropy);
    let standing = record::to_bytes(&Standing::default());
    let died = Entry::Queued { event: 7, webhook: 3, previous: 1, due_ms: 99 };
    let entry = record::to_bytes(&died);
    let event = {
        let mut out = Vec::new();
        let event = webhookd::model::event::Event {
            seq: 7,
            id: webhookd::model::id::EventId([9; 16]),
            tenant: 1,
            kind: "order.created".to_owned(),
            channel: None,
            accepted_ms: 5,
            created_us: 6,
            ordering_key: Some("key".to_owned()),
            data: Some(Bytes::from_static(b"{\"n\":1}")),
            context: None,
            user: None,
            matched: vec![1, 2, 300],
            test: false,
        };
        record::write_event(&mut out, &event);
        out
    };
    let corpus: &[&[u8]] = &[&standing, &entry, &event, b"", &[0xff; 64]];
    fuzz("stored records", corpus, |input| {
        let _ = record::read::<Entry>(input);
        let _ = record::read::<Standing>(input);
        let _ = record::read_event(7, input);
        let _ = record::is_matched(input, 2);
        let _ = record::read_event_name(input);
        let _ = record::read_order(input);
        let _ = record::read_webhook(1, 1, input, &sealer);
        let _ = record::read_tenant(1, input);
        let _ = record::read_key(KeyId([1; 8]), input, &sealer);
        for log in [Log::Events, Log::Journal] {
            if let Ok(block) = block::read(log, 1, input) {
                block.records().for_each(drop);
            }
        }
    });
}

/// Answers every request with the same bytes and hangs up.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Vec<u8>>>);

impl Connect for Script {
    fn connect(&self, _: PublicAddr) -> Connecting<'_> {
        let bytes = self.0.lock().expect("bytes").clone();
        Box::pin(async move {
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let mut request = [0; 4_096];
                let _ = theirs.read(&mut request).await;
                let _ = theirs.write_all(&bytes).await;
            });
            Ok(Box::new(ours) as Box<dyn Wire>)
        })
    }
}

#[test]
fn g20_what_receivers_answer_and_retry_after() {
    let corpus: &[&[u8]] = &[
        b"HTTP/1.1 429 X\r\nRetry-After: 120\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 503 X\r\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 X\r\nRetry-After: -1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1/\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let rules = || Rules { require_https: false, ..Rules::default() };
    let target = Target::parse("http://1.1.1.1/hook", &rules()).expect("a target");
    let script = Script::default();
    let egress = runtime.block_on(async {
        let settings = egress::Settings { rules: rules(), ..egress::Settings::default() };
        let clock = Clock::of_runtime(NOW_S * 1_000);
        Egress::build_over(Some(Arc::new(script.clone())), settings, Arc::new(StaticResolver::default()), clock)
    });
    let egress = egress.expect("a way out");
    fuzz("what receivers answer", corpus, |input| {
        *script.0.lock().expect("bytes") = input.to_vec();
        let (pool, body) = (Pool::default(), Bytes::from_static(b"{}"));
        let exchange =
            runtime.block_on(egress.exchange(&pool, &target, HeaderMap::new(), body, Duration::from_secs(5)));
        assert!(exchange.excerpt.len() <= EXCERPT_BYTES * 4);
        assert!(exchange.retry_after_ms.is_none_or(|after| u128::from(after) <= RETRY_AFTER_MAX.as_millis()));
        let is_success = exchange.status.is_some_and(|status| (200..300).contains(&status));
        assert!(is_success || exchange.failure.is_some(), "{exchange:?}");
    });
}
