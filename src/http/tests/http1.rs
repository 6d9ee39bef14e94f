//! HTTP/1.1 as nobody should send it, byte for byte.

use super::*;

/// A request is answered so, and its connection given up.
async fn assert_closed_with(wanted: u16, server: &Server, request: &str) {
    let answer = server.exchange(request).await;
    assert_eq!(status(&answer), wanted, "{request}{answer}");
    assert!(answer.contains("connection: close"), "{request}{answer}");
}

#[tokio::test]
async fn a_no_host_or_two_are_400_and_closed() {
    let server = Server::plain(patient());
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    ] {
        assert_closed_with(400, &server, request).await;
    }
    assert_eq!(status(&server.exchange("GET / HTTP/1.0\r\n\r\n").await), 200);
    server.assert_serves().await;
}

#[tokio::test]
async fn a_two_lengths_are_400_and_closed() {
    let server = Server::plain(patient());
    for lengths in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\ncontent-length: 0",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, identity",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{lengths}\r\n\r\n0\r\n\r\n");
        let answer = server.exchange(&request).await;
        assert_eq!(status(&answer), 400, "{request}{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{request}{answer}");
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn a_line_feed_alone_ends_no_line_of_a_head() {
    let server = Server::plain(patient());
    for request in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\n\n",
    ] {
        assert_closed_with(400, &server, request).await;
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn a_two_lengths_are_seen_on_a_later_request_too() {
    let server = Server::plain(patient());
    let first = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    let second = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let third = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = server.exchange(format!("{first}{second}{third}{first}")).await;
    assert_eq!(answer.matches("200 OK").count(), 2, "{answer}");
    assert_eq!(answer.matches("400 Bad Request").count(), 1, "{answer}");
    assert!(answer.contains("\r\n\r\nbody") && answer.contains("\r\n\r\nx"), "{answer}");
}

#[tokio::test]
async fn a_101_headers_and_70_kb_are_431() {
    let server = Server::plain(patient());
    let many: String = (0..100).map(|n| format!("x-{n}: a\r\n")).collect();
    let long = "a".repeat(70_000);
    for request in [
        format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nx: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", &long[..20_000]),
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", &long[..65_400]),
    ] {
        let answer = server.exchange(&request).await;
        assert_eq!(status(&answer), 431, "{}… {answer}", &request[..60]);
    }
    let bearable: String = (0..98).map(|n| format!("x-{n}: a\r\n")).collect();
    let answer = server.exchange(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{bearable}\r\n")).await;
    assert_eq!(status(&answer), 200, "{answer}");
    server.assert_serves().await;
}

#[tokio::test]
async fn a_paths_in_doubt_are_404() {
    let server = Server::plain(patient());
    for path in ["//v1", "/v1/../admin", "/v1/%2e%2e/admin", "/v1/%00", "/v1%2fevents", "/.", "/a\\b"] {
        let answer = server.exchange(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(status(&answer), 404, "{path} {answer}");
    }
}

#[tokio::test]
async fn a_silence_and_dripping_heads_are_closed() {
    let server = Server::plain(limits());
    let mut silent = server.connect().await;
    assert_eq!(read_to_end(&mut silent).await, "");
    let mut dripping = server.connect().await;
    let closed = timeout(HANG, async {
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x')) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if dripping.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    });
    closed.await.expect("a dripping head is borne");
    assert_eq!(server.echo.0.entered.load(Ordering::SeqCst), 0);
    server.assert_serves().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_second_head_has_its_own_limit() {
    let server = Server::plain(Limits { keep_alive_idle: Duration::from_secs(600), ..limits() });
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_some(&mut stream).await), 200);
    stream.write_all(b"GET / HTTP/1.1\r\nHost").await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");

    let server = Server::plain(Limits { header_timeout: Duration::from_secs(600), ..limits() });
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_some(&mut stream).await), 200);
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408() {
    let server = Server::plain(limits());
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ] {
        assert_closed_with(408, &server, request).await;
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn a_broken_chunk_is_400() {
    let server = Server::plain(patient());
    let answer = server.exchange("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhel").await;
    assert_eq!(status(&answer), 400, "{answer}");
    server.assert_serves().await;
}

#[tokio::test]
async fn p_a_body_over_the_limit_is_413() {
    let server = Server::plain(patient());
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    let chunk = format!("200\r\n{}\r\n", "x".repeat(512));
    for request in [
        format!("{head}Content-Length: 1001\r\n\r\n"),
        format!("{head}Content-Length: 300000\r\n\r\n{}", "x".repeat(300_000)),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(400)),
    ] {
        let answer = server.exchange(&request).await;
        assert_eq!(status(&answer), 413, "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    let whole = format!("{head}Connection: close\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1_000));
    assert_eq!(status(&server.exchange(&whole).await), 200);
}

#[tokio::test]
async fn p_ten_gigabytes_announced_are_refused_without_go_ahead() {
    let server = Server::plain(patient());
    let expect =
        |length: u64| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n");
    let answer = server.exchange(expect(10_000_000_000)).await;
    assert_eq!(status(&answer), 413, "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");

    let mut stream = server.connect().await;
    stream.write_all(expect(5).as_bytes()).await.unwrap();
    assert_eq!(status(&read_some(&mut stream).await), 100);
    stream.write_all(b"hello").await.unwrap();
    assert!(read_some(&mut stream).await.ends_with("hello"));
}

#[tokio::test]
async fn what_is_not_http_is_closed() {
    let server = Server::plain(patient());
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\0\r\n\r\n"] {
        let answer = server.exchange(garbage).await;
        assert!(matches!(status(&answer), 0 | 400), "{answer}");
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn answers_stream_and_know_their_peer() {
    let server = Server::plain(patient());
    let answer = server.exchange("GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("streamed"), "{answer}");
    let answer = server.exchange("GET /peer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("addr: Some(127.0.0.1") && answer.contains("tls: false"), "{answer}");
}

#[tokio::test]
async fn a_unix_socket_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let socket = listen::unix(&path, 1).unwrap().remove(0);
    let server = Server::on(socket, SocketAddr::from(([127, 0, 0, 1], 0)), patient(), None);
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /peer HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.contains("addr: None") && answer.contains("unix: true"), "{answer}");
    server.drain().await;
}
