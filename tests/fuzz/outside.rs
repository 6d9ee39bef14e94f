//! The real binary, fed over its sockets: bodies of publishing and registering, and raw bytes in HTTP/1's place. It must
//! go on, never answer 500, and have nothing to say about panics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::mutate::fuzz;
use crate::support::{Client, Daemon, Kept, Stage, tenant, tenant_key};

/// Sends it over whatever connection there is; the status.
fn post(kept: &mut Option<Kept>, client: &Client, path: &str, body: &[u8]) -> u16 {
    for _ in 0..3 {
        let connection = kept.get_or_insert_with(|| client.open().expect("a connection"));
        match connection.send("POST", path, &[], body.to_vec()) {
            Ok(answer) => return answer.status,
            // It may close one after a refusal.
            Err(_) => *kept = None,
        }
    }
    panic!("no answer three times");
}

fn goes_on(stage: &mut Stage) {
    stage.daemon.client().get("/readyz").expect(200);
    let log = stage.daemon.log();
    assert!(!log.contains("panic"), "{log}");
    assert!(stage.daemon.term().success());
}

#[test]
fn g20_bodies_of_publishing() {
    let mut stage = Stage::start(Daemon::builder());
    let corpus: &[&[u8]] = &[
        b"{\"type\":\"order.created\",\"tenant\":\"acme\",\"data\":{\"price\":0.10,\"n\":12345678901234567890}}",
        b"{\"type\":\"a.b\",\"tenant\":\"*\",\"context\":{\"region\":\"eu\"},\"user\":{},\"ordering_key\":\"k\"}",
        b"{\"type\":\"a\",\"tenant\":\"acme\",\"created_at\":\"2024-01-15T10:30:01.123456+02:00\"}",
        b"{\"events\":[{\"type\":\"a\",\"tenant\":\"acme\"},{\"type\":\"b\",\"tenant\":\"acme\",\"data\":{\"x\":[[[]]]}}]}",
    ];
    let mut kept = None;
    let client = stage.publisher.clone();
    let mut turn = 0;
    fuzz("bodies of publishing", corpus, |input| {
        turn += 1;
        let path = if turn % 3 == 0 { "/v1/events/batch" } else { "/v1/events" };
        let status = post(&mut kept, &client, path, input);
        assert!(matches!(status, 201 | 400 | 413 | 422), "{status}");
    });
    goes_on(&mut stage);
}

#[test]
fn g20_bodies_of_registering() {
    let mut stage = Stage::start(Daemon::builder());
    tenant(&stage.daemon, "other");
    let client = stage.daemon.client().bearer(&tenant_key(&stage.daemon, "other").token);
    let corpus: &[&[u8]] = &[
        b"{\"url\":\"http://127.0.0.1:9/hook\",\"events\":[\"order.*\"],\"headers\":{\"X-A\":\"b\"},\"timeout\":\"5s\"}",
        b"{\"url\":\"https://r.example/\",\"events\":[\"*\"],\"secret\":\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\",\"active\":true}",
        b"{\"eventTypes\":[\"ACCOUNT_ACTIVITY\"],\"target\":{\"url\":\"https://r.example/\",\"headers\":{\"A\":\"b\"}}}",
        b"{\"webhook_url\":\"https://r.example/x\"}",
        b"{\"url\":\"https://r.example/\",\"events\":[\"a\"],\"rate_limit\":0.5,\"max_in_flight\":3,\"plan\":\"vibe\"}",
    ];
    let paths = ["/v1/webhooks", "/api/v1/webhooks", "/v3/webhooks", "/api/webhook/register"];
    let mut kept = None;
    let mut turn = 0;
    fuzz("bodies of registering", corpus, |input| {
        turn += 1;
        let status = post(&mut kept, &client, paths[turn % paths.len()], input);
        assert!(matches!(status, 200 | 201 | 400 | 409 | 413 | 422), "{status}");
    });
    goes_on(&mut stage);
}

#[test]
fn g20_raw_bytes_over_http1() {
    let mut stage = Stage::start(Daemon::builder().set("server.header_timeout", "\"1s\""));
    let corpus: &[&[u8]] = &[
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"OPTIONS * HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    ];
    let address = stage.daemon.address();
    fuzz("raw bytes over HTTP/1", corpus, |input| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        // Long behind the header time-out, for a machine that is busy with other things.
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        // It may close before it has read all.
        let _ = stream.write_all(input);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let is_late = |error: &std::io::Error| matches!(error.kind(), std::io::ErrorKind::WouldBlock);
        assert!(!read.as_ref().is_err_and(is_late), "it keeps a connection whose client has said all");
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.starts_with("HTTP/1.1 500"), "{text}");
    });
    goes_on(&mut stage);
}
