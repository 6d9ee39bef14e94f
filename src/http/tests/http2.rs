//! TLS and HTTP/2: handshakes that fail, certificates that change, streams that are reset.

use super::*;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const GOAWAY: u8 = 7;

/// Enough for a handshake on a busy machine.
fn unhurried() -> Limits {
    let limit = Duration::from_secs(1);
    Limits { header_timeout: limit, handshake_timeout: limit, ..patient() }
}

async fn post_over_http2(server: &Server, ca: &Path, body: String) -> http::Response<Bytes> {
    over_http2(server, ca, http::Request::post("https://localhost/x").body(Full::new(Bytes::from(body))).unwrap()).await
}

async fn over_http2(server: &Server, ca: &Path, request: http::Request<Full<Bytes>>) -> http::Response<Bytes> {
    let stream = connect_tls(server.addr, ca, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    connection.abort();
    http::Response::from_parts(parts, body)
}

async fn assert_serves_tls(server: &Server, ca: &Path) {
    let mut stream = connect_tls(server.addr, ca, &[]).await.unwrap();
    stream.write_all(b"GET /peer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(status(&answer) == 200 && answer.contains("tls: true"), "{answer}");
}

#[tokio::test]
async fn http2_is_served_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    let server = Server::start(patient(), Some(shared(&authority)));
    let answer = post_over_http2(&server, &authority.ca, "hello".to_owned()).await;
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"hello"[..]));
    let refused = post_over_http2(&server, &authority.ca, "x".repeat(2_000)).await;
    assert_eq!(refused.status(), 413);
    assert!(!refused.headers().contains_key(CONNECTION));
    assert_serves_tls(&server, &authority.ca).await;
}

#[tokio::test]
async fn both_versions_of_tls_carry_both_versions_of_http() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    let server = Server::start(patient(), Some(shared(&authority)));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let connect = async |protocols: &[&str]| {
            let stream = TcpStream::connect(server.addr).await.unwrap();
            let stream = wrap_tls_in(&[version], stream, &authority.ca, protocols).await.unwrap();
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            stream
        };
        let mut stream = connect(&["http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        stream.write_all(b"GET /peer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        assert_eq!(status(&read_to_end(&mut stream).await), 200, "{version:?}");
        let io = TokioIo::new(connect(&["h2"]).await);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::get("https://localhost/peer").body(Full::new(Bytes::new())).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200, "{version:?}");
        connection.abort();
    }
}

#[tokio::test]
async fn a_tls_1_1_and_plain_http_are_closed_and_the_others_served() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    let server = Server::start(unhurried(), Some(shared(&authority)));
    let answer = server.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!answer.contains("HTTP"), "{answer}");
    // A ClientHello of TLS 1.1 and nothing newer: record 3.1, version 3.2, 32 bytes of chance, no session, one cipher suite.
    let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let mut stream = server.connect().await;
    stream.write_all(&hello).await.unwrap();
    let mut alert = [0; 7];
    timeout(HANG, stream.read_exact(&mut alert)).await.unwrap().unwrap();
    assert_eq!((alert[0], alert[5]), (21, 2), "a fatal alert");
    assert_eq!(timeout(HANG, stream.read(&mut alert)).await.unwrap().unwrap_or(0), 0, "the connection goes on");
    // Neither a word nor a handshake that goes on.
    assert_eq!(server.exchange([]).await, "");
    assert_eq!(server.exchange(&hello[..20]).await, "");
    assert!(server.gate.handshake_errors() >= 4);
    assert_serves_tls(&server, &authority.ca).await;
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (authority(&folder.path().join("old")), authority(&folder.path().join("new")));
    let held = shared(&old);
    let server = Server::start(patient(), Some(Arc::clone(&held)));
    let mut kept = connect_tls(server.addr, &old.ca, &[]).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_some(&mut kept).await), 200);
    tls::reload(&held, &new.cert, &new.key).unwrap();
    assert!(connect_tls(server.addr, &old.ca, &[]).await.is_err());
    assert_serves_tls(&server, &new.ca).await;
    kept.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_some(&mut kept).await), 200);
}

#[tokio::test]
async fn a_rapid_resets_end_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    let server = Server::start(patient(), Some(shared(&authority)));
    let stream = connect_tls(server.addr, &authority.ca, &["h2"]).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(SETTINGS);
    for id in (1..2_000u32).step_by(2) {
        // `GET https://a/`, stream ended; then RST_STREAM with CANCEL.
        bytes.extend([0, 0, 6, 1, 5]);
        bytes.extend(id.to_be_bytes());
        bytes.extend([0x82, 0x87, 0x84, 0x41, 1, b'a']);
        bytes.extend([0, 0, 4, 3, 0]);
        bytes.extend(id.to_be_bytes());
        bytes.extend([0, 0, 0, 8]);
    }
    // Read while it is sent: what comes behind the end of the connection would be reset, and take the GOAWAY with it.
    let (mut reading, mut sending) = tokio::io::split(stream);
    let send = async {
        for part in bytes.chunks(1024) {
            if sending.write_all(part).await.is_err() || sending.flush().await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let mut answer = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = reading.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..read]);
        }
    };
    timeout(HANG, async { tokio::join!(send, read) }).await.expect("the connection goes on");
    let kinds = frame_kinds(&answer);
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
    assert!(server.echo.0.entered.load(Ordering::SeqCst) < 200);
    assert_serves_tls(&server, &authority.ca).await;
}

#[tokio::test]
async fn a_hygiene_holds_over_http2() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    let server = Server::start(patient(), Some(shared(&authority)));
    let get = |path: &str, headers: Vec<(String, String)>| {
        let mut request = http::Request::get(format!("https://localhost{path}"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        over_http2(&server, &authority.ca, request.body(Full::default()).unwrap())
    };
    let pairs = |count: usize, value: &str| (0..count).map(|n| (format!("x-{n}"), value.to_owned())).collect();
    assert_eq!(get("/", pairs(101, "")).await.status(), 431);
    assert_eq!(get("/", pairs(10, &"a".repeat(7_000))).await.status(), 431);
    assert_eq!(get("/v1/%2e%2e/admin", vec![]).await.status(), 404);
    assert_eq!(get("/", vec![("host".to_owned(), "other".to_owned())]).await.status(), 400);
    assert_eq!(get("/", pairs(90, "")).await.status(), 200);
}

fn frame_kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [high, middle, low, kind, rest @ ..] = bytes {
        kinds.push(*kind);
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        bytes = rest.get(5 + length..).unwrap_or_default();
    }
    kinds
}

#[tokio::test]
async fn http2_without_a_request_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    let server = Server::start(unhurried(), Some(shared(&authority)));
    for hello in [&b""[..], b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stream = connect_tls(server.addr, &authority.ca, &["h2"]).await.unwrap();
        stream.write_all(hello).await.unwrap();
        read_to_end(&mut stream).await;
    }
    assert_serves_tls(&server, &authority.ca).await;
}

#[tokio::test]
async fn an_idle_http2_connection_gets_a_farewell() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    let limits = Limits { keep_alive_idle: Duration::from_millis(300), ..patient() };
    let server = Server::start(limits, Some(shared(&authority)));
    let stream = connect_tls(server.addr, &authority.ca, &["h2"]).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("https://localhost/x").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    // The client still holds its end; the server says goodbye, without an error.
    timeout(HANG, connection).await.expect("kept for ever").unwrap().unwrap();
    assert!(sender.is_closed());
}

#[tokio::test]
async fn a_peer_that_opens_no_window_for_an_answer_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    let limits = Limits { body_timeout: Duration::from_millis(300), ..patient() };
    let server = Server::start(limits, Some(shared(&authority)));
    let stream = connect_tls(server.addr, &authority.ca, &["h2"]).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.initial_stream_window_size(0).handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("https://localhost/x").body(Full::new(Bytes::from_static(b"hello"))).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    // It answers pings and does all that keeps a connection alive, and never takes a byte of the answer.
    drop(timeout(HANG, connection).await.expect("kept for ever"));
    drop(answer);
    assert_serves_tls(&server, &authority.ca).await;
}
