//! Names: what is resolved is judged, all of it, every time, and what does not resolve fails in time.

use std::net::IpAddr;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::*;
use crate::egress::SystemResolver;
use crate::limits::RESOLVE_TIMEOUT;

const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn strict() -> Settings {
    Settings { rules: Rules { require_https: false, ..Rules::default() }, ..Settings::default() }
}

#[tokio::test]
async fn a_name_is_dialled_by_its_addresses_in_turn() {
    let receiver = Receiver::answering(OK).await;
    // Nobody listens on 127.0.0.9: the next one is tried.
    let resolver = StaticResolver::default().with("hooks.test", Ok(&ips(&["127.0.0.9", "127.0.0.1"])));
    let url = format!("http://hooks.test:{}/", receiver.addr.port());
    let exchange = post(&egress_with(settings(), resolver), &Pool::default(), &url, LONG).await;
    assert_eq!((exchange.failure, exchange.remote), (None, Some(receiver.addr)));
    assert!(receiver.requests()[0].contains(&format!("\r\nHost: hooks.test:{}\r\n", receiver.addr.port())));
}

#[tokio::test]
async fn rebinding_reaches_nothing() {
    let receiver = Receiver::answering(OK).await;
    // First a public answer, as at registration; then inner ones in every form.
    let mut resolver = StaticResolver::default().with("rebind.test", Ok(&ips(&["8.8.8.8"])));
    let inner =
        ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::1", "0.0.0.0", "169.254.169.254"];
    for ip in inner {
        resolver = resolver.with("rebind.test", Ok(&ips(&[ip])));
    }
    resolver.resolve("rebind.test").await.unwrap();
    let egress = egress_with(strict(), resolver);
    let url = format!("http://rebind.test:{}/", receiver.addr.port());
    for ip in inner {
        let exchange = post(&egress, &Pool::default(), &url, LONG).await;
        assert_eq!(class(&exchange), Some(Class::Forbidden), "{ip}: {exchange:?}");
        assert_eq!(exchange.remote, None);
        assert!(detail(&exchange).contains(ip) || ip == "2002:7f00:1::", "{exchange:?}");
    }
    assert_eq!(receiver.accepts(), 0);
}

#[tokio::test]
async fn a_name_with_one_refused_address_is_refused_whole() {
    let receiver = Receiver::answering(OK).await;
    let resolver = StaticResolver::default()
        .with("mixed.test", Ok(&ips(&["127.0.0.1", "10.0.0.1"])))
        .with("mixed.test", Ok(&ips(&["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1", "::1"])));
    let egress = egress_with(settings(), resolver);
    for rule in ["private (10.0.0.0/8)", "loopback (::1)"] {
        let url = format!("http://mixed.test:{}/", receiver.addr.port());
        let exchange = post(&egress, &Pool::default(), &url, LONG).await;
        assert_eq!(class(&exchange), Some(Class::Forbidden), "{exchange:?}");
        assert!(detail(&exchange).contains(rule), "{exchange:?}");
    }
    assert_eq!(receiver.accepts(), 0);
}

#[tokio::test]
async fn literal_targets_are_judged_at_the_dial_too() {
    let receiver = Receiver::answering(OK).await;
    for host in ["127.0.0.1", "localhost", "a.localhost", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{}/", receiver.addr.port());
        let exchange = post(&egress_with(strict(), StaticResolver::default()), &Pool::default(), &url, LONG).await;
        assert_eq!(class(&exchange), Some(Class::Forbidden), "{host}: {exchange:?}");
    }
    let https_only = Rules { require_https: true, ..loopback_rules() };
    let egress = egress_with(Settings { rules: https_only, ..Settings::default() }, StaticResolver::default());
    let exchange = post(&egress, &Pool::default(), &receiver.url(), LONG).await;
    assert_eq!(class(&exchange), Some(Class::Forbidden), "{exchange:?}");
    assert_eq!(receiver.accepts(), 0);
}

#[tokio::test]
async fn localhost_is_the_loopback_without_a_name_server() {
    let receiver = Receiver::answering(OK).await;
    let url = format!("http://a.LOCALHOST:{}/", receiver.addr.port());
    let exchange = post(&egress(), &Pool::default(), &url, LONG).await;
    assert_eq!((exchange.failure, exchange.remote), (None, Some(receiver.addr)));
}

#[tokio::test]
async fn names_that_do_not_resolve_fail_as_such() {
    let resolver =
        StaticResolver::default().with("gone.test", Err("gone.test: no such name")).with("empty.test", Ok(&[]));
    let egress = egress_with(settings(), resolver);
    let exchange = post(&egress, &Pool::default(), "http://gone.test/", LONG).await;
    assert_eq!((class(&exchange), detail(&exchange)), (Some(Class::Resolve), "gone.test: no such name"));
    let exchange = post(&egress, &Pool::default(), "http://empty.test/", LONG).await;
    assert_eq!(class(&exchange), Some(Class::Resolve), "{exchange:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_with_the_time_for_names_or_with_the_exchange_when_that_is_nearer() {
    let egress = egress_with(settings(), StaticResolver::default());
    for (timeout, least) in [(SHORT, SHORT), (LONG, RESOLVE_TIMEOUT)] {
        let started = tokio::time::Instant::now();
        let exchange = post(&egress, &Pool::default(), "http://silent.test/", timeout).await;
        assert_eq!((class(&exchange), exchange.remote), (Some(Class::Resolve), None), "{exchange:?}");
        let took = started.elapsed();
        assert!((least..least + Duration::from_millis(50)).contains(&took), "{took:?} of {timeout:?}");
    }
}

/// Each of the name servers has its time, and all of them together have no more than a name has.
#[tokio::test(start_paused = true)]
async fn the_system_resolver_gives_up_in_time_however_many_name_servers_are_silent() {
    let mut sockets = Vec::new();
    for _ in 0..6 {
        sockets.push(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    }
    let servers = sockets.iter().map(|socket| {
        let mut over_udp = ConnectionConfig::udp();
        over_udp.port = socket.local_addr().unwrap().port();
        NameServerConfig::new("127.0.0.1".parse().unwrap(), true, vec![over_udp])
    });
    let mut options = ResolverOpts::default();
    options.num_concurrent_reqs = 1;
    let config = ResolverConfig::from_name_servers(servers.collect());
    let resolver = SystemResolver::with_config(config, options).unwrap();
    let started = tokio::time::Instant::now();
    let error = resolver.resolve("silent.test").await.unwrap_err();
    let took = started.elapsed();
    assert!(took <= RESOLVE_TIMEOUT + Duration::from_millis(50), "{took:?}: {error}");
    assert!(error.contains("no answer within"), "{error}");
}

/// A name server that knows `good.test`, keeps silent about `silent.test`, fails at `broken.test`, and denies everything else.
async fn name_server() -> (SystemResolver, Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut over_udp = ConnectionConfig::udp();
    over_udp.port = socket.local_addr().unwrap().port();
    let server = NameServerConfig::new("127.0.0.1".parse().unwrap(), true, vec![over_udp]);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut bytes = [0; 4_096];
        while let Ok((read, from)) = socket.recv_from(&mut bytes).await {
            let Ok(request) = Message::from_vec(&bytes[..read]) else { continue };
            let query = request.queries[0].clone();
            let name = query.name().to_string().to_ascii_lowercase();
            record.lock().unwrap().push(format!("{} {name}", query.query_type()));
            if name == "silent.test." {
                continue;
            }
            let mut response = Message::response(request.metadata.id, request.metadata.op_code);
            response.add_query(query.clone());
            if name == "good.test." && query.query_type() == RecordType::A {
                response.add_answer(Record::from_rdata(query.name().clone(), 60, RData::A(A::new(192, 0, 2, 7))));
            } else if name == "broken.test." {
                response.metadata.response_code = ResponseCode::ServFail;
            } else if name != "good.test." {
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            let _ = socket.send_to(&response.to_vec().unwrap(), from).await;
        }
    });
    let config = ResolverConfig::from_name_servers(vec![server]);
    (SystemResolver::with_config(config, ResolverOpts::default()).unwrap(), asked)
}

#[tokio::test]
async fn the_system_resolver_answers_denies_and_gives_up() {
    let (resolver, asked) = name_server().await;
    assert_eq!(resolver.resolve("good.test").await, Ok(ips(&["192.0.2.7"])));
    assert_eq!(resolver.resolve("good.test").await, Ok(ips(&["192.0.2.7"])));
    let asked_for_a = asked.lock().unwrap().iter().filter(|query| *query == "A good.test.").count();
    assert_eq!(asked_for_a, 1, "the answer is cached");
    resolver.resolve("missing.test").await.unwrap_err();
    assert_eq!(resolver.resolve("a.LocalHost.").await, Ok(ips(&["127.0.0.1", "::1"])));

    let started = tokio::time::Instant::now();
    resolver.resolve("silent.test").await.unwrap_err();
    assert!(started.elapsed() < RESOLVE_TIMEOUT * 2);
    assert!(asked.lock().unwrap().iter().all(|query| query.ends_with(".test.")), "{asked:?}");
}

/// The runtime's clock stands while anything is to be done and jumps when nothing is: two seconds are two, on any machine.
#[tokio::test(start_paused = true)]
async fn d_names_that_are_denied_broken_or_met_with_silence_fail_within_two_seconds() {
    let (resolver, _) = name_server().await;
    let egress = egress_with(settings(), resolver);
    let mut took = Vec::new();
    for name in ["missing.test", "broken.test", "silent.test"] {
        let started = tokio::time::Instant::now();
        let exchange = post(&egress, &Pool::default(), &format!("http://{name}/"), LONG).await;
        assert_eq!((class(&exchange), exchange.remote), (Some(Class::Resolve), None), "{exchange:?}");
        assert!(detail(&exchange).contains(name), "{exchange:?}");
        took.push(started.elapsed());
    }
    assert!(took.iter().all(|took| *took <= Duration::from_secs(2)), "{took:?}");
    assert!(took[2] > Duration::from_secs(1), "silence is waited for: {took:?}");
}

#[tokio::test]
async fn a_machine_without_a_configuration_starts() {
    // Whatever this machine has: building never fails, and a look-up ends.
    let resolver = SystemResolver::new();
    let _ = resolver.resolve("localhost").await.unwrap();
}
