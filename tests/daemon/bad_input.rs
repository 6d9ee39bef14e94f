//! The `A` rows of the table of bad input, and those on the size of bodies, over real sockets and in every dialect's form: what
//! no well-behaved client sends, written byte for byte. What is refused before its path is known has no body to be in a form.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::{Daemon, SOON, Stage, tenant_key};

/// A path of each dialect, and the members of its errors: message, and code where it has one.
const FORMS: [(&str, &str, Option<&str>); 5] = [
    ("/v1/webhooks", "message", Some("code")),
    ("/v3/webhooks", "description", Some("code")),
    ("/api/v3/webhooks", "description", Some("code")),
    ("/api/v1/webhooks", "error", Some("code")),
    ("/api/webhook/register", "message", None),
];

/// An answer, as far as it came.
#[derive(Debug)]
struct Told {
    status: u16,
    head: String,
    body: String,
}

/// Writes that, as far as it is taken, and reads until the daemon closes, which it has to.
fn exchange(address: SocketAddr, request: &[u8]) -> Told {
    let mut stream = TcpStream::connect(address).expect("a connection");
    // It may have seen enough before all of it is written.
    drop(stream.write_all(request));
    read_to_end(&mut stream)
}

fn read_to_end(stream: &mut TcpStream) -> Told {
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(read @ 1..) => got.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("not closed after {got:?}"),
            Ok(_) | Err(_) => break,
        }
    }
    let text = String::from_utf8(got).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Told { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Reads an error in the form of a path's dialect: its message.
#[track_caller]
fn message(told: &Told, (path, message, code): (&str, &str, Option<&str>)) -> String {
    let body: Value = serde_json::from_str(&told.body).unwrap_or_else(|error| panic!("{path}: {error} in {told:?}"));
    assert_eq!(body.as_object().expect("an object").len(), 2, "{path}: {told:?}");
    match code {
        Some(code) => assert!(body[code].is_string(), "{path}: {told:?}"),
        None => assert_eq!(body["status"], "error", "{path}: {told:?}"),
    }
    body[message].as_str().unwrap_or_else(|| panic!("{path}: {told:?}")).to_owned()
}

#[test]
fn a_and_p_what_is_malformed_or_too_large_is_refused_in_every_form_and_closed() {
    let stage = Stage::start(Daemon::builder());
    let (address, token) = (stage.daemon.address(), tenant_key(&stage.daemon, "acme").token);
    for form in FORMS {
        let path = form.0;
        let ask = |head: &str, body: &[u8]| {
            let request = format!("POST {path} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n{head}\r\n\r\n");
            exchange(address, &[request.as_bytes(), body].concat())
        };
        for (head, names) in [
            ("X: y", "no Host"),
            ("Host: a\r\nHost: a", "more than one Host"),
            ("Host: a\r\nHost: b", "more than one Host"),
            ("Host: a b", "Host is not a host"),
            (
                "Host: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
                "Content-Length together with Transfer-Encoding",
            ),
        ] {
            let told = ask(head, b"0\r\n\r\n");
            assert_eq!(told.status, 400, "{path} {head}: {told:?}");
            assert!(told.head.contains("connection: close") && message(&told, form).contains(names), "{path} {told:?}");
        }
        for lengths in ["Content-Length: 2\r\nContent-Length: 3", "Content-Length: -1", "Transfer-Encoding: gzip"] {
            let told = ask(&format!("Host: a\r\n{lengths}"), b"{}");
            assert_eq!((told.status, told.body.as_str()), (400, ""), "{path} {lengths}: {told:?}");
        }
        let (many, long): (String, _) = ((0..99).map(|n| format!("X-{n}: a\r\n")).collect(), "a".repeat(70_000));
        for head in [format!("{many}Host: a"), format!("Host: a\r\nX: {long}")] {
            assert_eq!(ask(&head, b"{}").status, 431, "{path}");
        }
        let told = exchange(address, format!("GET {path}?{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(told.status, 431, "{path} {told:?}");
        for more in ["/../admin/keys", "/%2e%2e/admin/keys", "//x", "/%00", "/%2f", "/a\\b"] {
            let request = format!("GET {path}{more} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let told = exchange(address, request.as_bytes());
            assert_eq!(told.status, 404, "{path}{more} {told:?}");
            message(&told, form);
        }
        let told =
            exchange(address, format!("BREW {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes());
        assert!(told.status == 405 && told.head.contains("\r\nallow: post"), "{path} {told:?}");
        message(&told, form);
        // By its length: unread, and not asked for. Without one: as much as may be, and no more.
        let told = ask("Host: a\r\nContent-Length: 10000000000\r\nExpect: 100-continue", b"");
        assert_eq!(told.status, 413, "{path}: {told:?}");
        assert!(message(&told, form).contains("larger than 262144 bytes"), "{told:?}");
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000)).repeat(8);
        let told = ask("Host: a\r\nTransfer-Encoding: chunked", chunk.as_bytes());
        assert_eq!(told.status, 413, "{path}: {told:?}");
        message(&told, form);
        stage.daemon.client().get("/healthz").expect(200);
    }
    let told = exchange(address, b"GET //v1/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(told.status, 404, "{told:?}");
    let told = exchange(address, b"GET /v1/../admin/keys HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(told.status == 404 && !told.body.contains("key"), "{told:?}");
}

#[test]
fn a_who_lets_the_daemon_wait_is_closed_in_time() {
    let limits = [("server.header_timeout", "\"1s\""), ("server.body_timeout", "\"2s\"")];
    let builder = limits.iter().fold(Daemon::builder(), |builder, (key, value)| builder.set(key, *value));
    let stage = Stage::start(builder);
    let (address, token) = (stage.daemon.address(), tenant_key(&stage.daemon, "acme").token);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for form in FORMS {
            for (length, part) in [
                ("Content-Length: 100", "{\"url\":"),
                ("Transfer-Encoding: chunked", "64\r\n{\"url\":"),
                ("Content-Length: 2", ""),
            ] {
                let request = format!(
                    "POST {} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{length}\r\n\r\n{part}",
                    form.0
                );
                scope.spawn(move || {
                    let told = exchange(address, request.as_bytes());
                    assert_eq!(told.status, 408, "{request}: {told:?}");
                    assert!(
                        message(&told, form).contains("did not arrive in time")
                            && told.head.contains("connection: close")
                    );
                    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
                });
            }
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).expect("a connection");
                let head = format!("POST {} HTTP/1.1\r\nHost: a\r\nX-Slow: {}", form.0, "x".repeat(10_000));
                for byte in head.bytes() {
                    if stream.write_all(&[byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
            });
        }
        scope.spawn(move || {
            let told = read_to_end(&mut TcpStream::connect(address).expect("a connection"));
            assert_eq!((told.status, told.head.as_str()), (0, ""), "{told:?}");
            assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
        });
    });
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    stage.daemon.client().get("/healthz").expect(200);
}
