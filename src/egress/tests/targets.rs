//! Every spelling of a URL that is refused or accepted, and that what was judged is what is connected to.

use proptest::prelude::*;

use super::*;

fn code(url: &str, rules: &Rules) -> &'static str {
    match Target::parse(url, rules) {
        Ok(_) => "ok",
        Err(error) => {
            assert!(error.to_string().len() < 300, "{error}");
            error.code()
        }
    }
}

#[test]
fn every_spelling_of_an_inner_target_is_forbidden() {
    let hosts = [
        "127.0.0.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f.1",
        "0x7F000001",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "127.0.1",
        "%31%32%37.0.0.1",
        "①②⑦.0.0.1",
        "１２７．０．０．１",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "169.254.169.254",
        "0xa9fea9fe",
        "100.64.0.1",
        "198.18.0.1",
        "0.0.0.0",
        "0",
        "[::]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "localhost",
        "LOCALHOST",
        "LOCALHOST.",
        "localhost.",
        "a.localhost",
        "a.b.LocalHost.",
        "ｌocalhost",
        "168.63.129.16",
        "0xa83f8110",
        "100.100.100.200",
        "192.0.0.192",
        "metadata.google.internal",
        "Metadata.Google.Internal.",
        "metadata%2egoogle%2einternal",
        "metadata.goog",
        "metadata",
        "instance-data",
    ];
    for host in hosts {
        for url in [format!("http://{host}/"), format!("https://{host}:8443/x?y=z"), format!("https://{host}")] {
            assert_eq!(code(&url, &Rules::default()), "target_forbidden", "{url}");
        }
    }
    let message = Target::parse("https://0x7f.1/", &Rules::default()).unwrap_err().to_string();
    assert!(message.contains("127.0.0.1") && message.contains("loopback (127.0.0.0/8)"), "{message}");
    let message = Target::parse("https://A.localhost/", &Rules::default()).unwrap_err().to_string();
    assert!(message.contains("a.localhost") && message.contains("loopback"), "{message}");
}

#[test]
fn broken_urls_are_invalid() {
    let long = format!("https://example.com/{}", "a".repeat(2_084 - 20));
    let table = [
        "",
        "example.com",
        "/path",
        "//example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "unix:/run/x.sock",
        "https:",
        "https://",
        "https:///example.com/",
        "https:/example.com/",
        "https:example.com/",
        "https://?x",
        "https://./",
        "https://user@example.com/",
        "https://user:pass@example.com/",
        "https://@example.com/",
        "https://:@example.com/",
        "https://example.com@127.0.0.1/",
        "https://example.com/#fragment",
        "https://example.com/#",
        "https://example.com#@127.0.0.1/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:99999999999/",
        "https://example.com:/",
        "https://example.com:443x/",
        "https://example.com:-1/",
        "https://example.com:４４３/",
        "https://exa\tmple.com/",
        "https://example.com/\r\nX: y",
        "https://example.com/\n",
        " https://example.com/",
        "https://example.com/ ",
        "https://example.com/a b",
        "https://example.com/\u{7f}",
        "https://example.com/\0",
        "https://example.com/\u{a0}",
        "https://example.com\\@127.0.0.1/",
        "https://127.0.0.1\\.example.com/",
        "https:\\\\example.com\\",
        "https://exa%00mple.com/",
        "https://exa mple.com/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://256.0.0.1/",
        "https://1.2.3.4.5/",
        "https://xn--a/",
        "https://127.0.0.1../",
        "https://.example.com/",
        "https://a..example.com/",
        "https://../",
        &long,
    ];
    for url in table {
        assert_eq!(code(url, &Rules::default()), "invalid_url", "{url:?}");
    }
}

#[test]
fn ports_and_schemes_have_their_own_codes() {
    let rules = Rules::default();
    assert_eq!(code("https://example.com:25/", &rules), "port_forbidden");
    assert_eq!(code("http://127.0.0.1:25/", &rules), "port_forbidden");
    assert_eq!(code("https://example.com:6379/", &rules), "port_forbidden");
    assert_eq!(code("http://example.com/", &rules), "https_required");
    assert_eq!(code("HTTP://example.com/", &rules), "https_required");
    let plain = Rules { require_https: false, ..Rules::default() };
    assert_eq!(code("http://example.com/", &plain), "ok");
    assert_eq!(code("http://127.0.0.1/", &plain), "target_forbidden");
}

#[test]
fn names_of_inner_services_need_their_address_allowed() {
    let rules = Rules { require_https: false, allow: vec!["127.0.0.0/8".parse().unwrap()], ..Rules::default() };
    for url in ["http://localhost:9000/", "http://127.0.0.1:9000/", "http://127.1:9000/", "https://a.localhost/"] {
        assert_eq!(code(url, &rules), "ok", "{url}");
    }
    assert_eq!(code("http://[::1]:9000/", &rules), "target_forbidden");
    assert_eq!(code("http://metadata.google.internal/", &rules), "target_forbidden");
    let rules = Rules { allow: vec!["169.254.0.0/16".parse().unwrap()], ..rules };
    assert_eq!(code("http://metadata.google.internal/", &rules), "ok");
    assert_eq!(code("https://metadata.google.internal.example.com/", &Rules::default()), "ok");
}

#[test]
fn a_target_knows_its_parts() {
    let target = Target::parse("HTTPS://EXAMPLE.com:443/a/../b?x=1&y=%20", &Rules::default()).unwrap();
    assert!(target.https());
    assert_eq!(target.host(), &Host::Name("example.com".to_owned()));
    assert_eq!(target.port(), 443);
    assert_eq!(target.authority(), "example.com");
    assert_eq!(target.path_and_query().as_str(), "/b?x=1&y=%20");
    assert_eq!(target.url(), "https://example.com/b?x=1&y=%20");
    assert_eq!(target.absolute().to_string(), "https://example.com/b?x=1&y=%20");

    let target = Target::parse("https://[2606:4700::1111]:8443", &Rules::default()).unwrap();
    assert_eq!(target.authority(), "[2606:4700::1111]:8443");
    assert_eq!(target.path_and_query().as_str(), "/");
    assert_eq!(target.port(), 8_443);

    let target = Target::parse("https://bücher.example/ü?ö={}|\"", &Rules::default()).unwrap();
    assert_eq!(target.host(), &Host::Name("xn--bcher-kva.example".to_owned()));
    assert!(target.path_and_query().as_str().is_ascii());

    let longest = format!("https://example.com/{}", "a".repeat(2_083 - 20));
    assert_eq!(code(&longest, &Rules::default()), "ok");
}

#[test]
fn messages_echo_little() {
    let url = format!("{}://example.com/", "x".repeat(1_000));
    let message = Target::parse(&url, &Rules::default()).unwrap_err().to_string();
    assert!(!message.contains(&"x".repeat(65)), "{message}");
    let url = format!("https://example.com:{}/", "1".repeat(1_000));
    let message = Target::parse(&url, &Rules::default()).unwrap_err().to_string();
    assert!(!message.contains(&"1".repeat(65)), "{message}");
    let url = format!("https://{}.localhost/", "y".repeat(60));
    let message = Target::parse(&url, &Rules::default()).unwrap_err().to_string();
    assert!(message.contains('…') && message.contains("loopback"), "{message}");
}

/// Pieces that parsers stumble over, strung together.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("https://"),
        Just("http:"),
        Just("//"),
        Just("/"),
        Just("@"),
        Just(":"),
        Just("443"),
        Just("8080"),
        Just("#"),
        Just("?"),
        Just("."),
        Just("%2e"),
        Just("%40"),
        Just("%5c"),
        Just("["),
        Just("]"),
        Just("::1"),
        Just("::ffff:"),
        Just("127.0.0.1"),
        Just("8.8.8.8"),
        Just("0x7f"),
        Just("1"),
        Just("localhost"),
        Just("example.com"),
        Just("。"),
        Just("ß"),
        Just("\u{ad}"),
        Just("a=b"),
        Just(";"),
        Just("{}"),
        Just("'"),
        Just("-"),
        Just("_"),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("https://{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn what_was_judged_is_what_is_connected_to(text in prop_oneof![pieces(), any::<String>()]) {
        let rules = Rules { require_https: false, ..Rules::default() };
        let Ok(target) = Target::parse(&text, &rules) else { return Ok(()) };
        let host = target.host().to_string();
        // What goes on the wire names the host that was judged.
        prop_assert_eq!(target.absolute().host(), Some(host.as_str()));
        let authority = target.authority().to_str().unwrap();
        let with_port = format!("{host}:{}", target.port());
        prop_assert!([host.as_str(), with_port.as_str()].contains(&authority), "{}", authority);
        // Reading the normal form again changes nothing.
        let again = Target::parse(target.url(), &rules).unwrap();
        prop_assert_eq!(again.endpoint(), target.endpoint());
        prop_assert_eq!(again.url(), target.url());
        if let Host::Ip(ip) = target.host() {
            prop_assert!(check_addr(&rules, SocketAddr::new(*ip, target.port())).is_ok());
        }
        // A second parser, given the text as it came, finds the same host or none, for hosts that need no reading.
        if let Ok(other) = text.parse::<Uri>() && let Some(seen) = other.host() && let Host::Name(name) = target.host()
            && !seen.contains('%')
        {
            prop_assert_eq!(seen.to_ascii_lowercase(), name.clone());
        }
    }
}
