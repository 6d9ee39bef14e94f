//! The black-box tests' own tools, tried on each other: what they report is what happened.

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{
    Authority, Certificate, Client, Failed, Receiver, Reply, SOON, free_port, python_receiver, signature, unix_seconds,
};

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_receiver_records_what_was_sent_and_answers_as_told() {
    let receiver = Receiver::with(|request| match request.number {
        0 => Reply::status(503).header("Retry-After", "7").body("busy"),
        _ => Reply::ok().after(Duration::from_millis(100)),
    });
    let client = Client::tcp(receiver.address()).bearer("token");
    let mut kept = client.open().expect("a connection");
    let first = kept.send("POST", "/a?b=c", &[("x-test", "1")], "{}").expect("an answer");
    assert_eq!((first.status, first.header("retry-after"), first.text().as_str()), (503, Some("7"), "busy"));
    let started = Instant::now();
    kept.send("GET", "/", &[], "").expect("an answer").expect(200);
    assert!(started.elapsed() >= Duration::from_millis(100));
    let requests = receiver.wait_for(2, SOON);
    assert_eq!((requests[0].method.as_str(), requests[0].path.as_str()), ("POST", "/a?b=c"));
    assert_eq!((requests[0].header("X-Test"), requests[0].header("authorization")), (Some("1"), Some("Bearer token")));
    assert_eq!(requests[0].text(), "{}");
    assert_eq!((requests[1].connection, receiver.connections()), (0, 1));
    client.get("/").expect(200);
    assert_eq!(receiver.connections(), 2);
}

#[test]
fn a_receiver_misbehaves_on_request() {
    let receiver = Receiver::ok();
    let client = Client::tcp(receiver.address());
    let raw = |reply: Reply| {
        receiver.set(move |_| reply.clone());
        client.raw(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", SHORT)
    };
    assert_eq!(raw(Reply::Close), "");
    assert_eq!(raw(Reply::Hang), "");
    assert_eq!(raw(Reply::Raw(b"nonsense".to_vec())), "nonsense");
    let every = Duration::from_millis(50);
    assert!(raw(Reply::Raw(b"HTTP/1.1 204 No\r\n\r\n".to_vec())).starts_with("HTTP/1.1 204"));
    for reply in [Reply::Reset, Reply::Close] {
        receiver.set(move |_| reply.clone());
        assert!(matches!(client.try_send("GET", "/", &[], ""), Err(Failed::Unknown(_))));
    }
    receiver.set(move |_| Reply::Drip { bytes: b"HTTP/1.1 200 OK\r\n".to_vec(), every });
    let mut stream = std::net::TcpStream::connect(receiver.address()).expect("a connection");
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("a receiver that reads");
    let mut dripped = [0; 4];
    std::io::Read::read_exact(&mut stream, &mut dripped).expect("four bytes");
    assert_eq!(&dripped, b"HTTP");
    receiver.set(|_| Reply::Endless);
    let mut stream = std::net::TcpStream::connect(receiver.address()).expect("a connection");
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("a receiver that reads");
    let mut plenty = vec![0; 1 << 20];
    std::io::Read::read_exact(&mut stream, &mut plenty).expect("a megabyte");
    let closed = Client::tcp(([127, 0, 0, 1], free_port()).into());
    assert!(matches!(closed.try_send("GET", "/", &[], ""), Err(Failed::NotConnected(_))));
}

#[test]
fn a_tls_receiver_shows_the_certificate_that_was_asked_for() {
    let authority = Authority::new();
    for (certificate, good) in
        [(Certificate::Good, true), (Certificate::Expired, false), (Certificate::WrongName, false)]
    {
        let receiver = Receiver::tls(&authority, certificate);
        let answer = Client::tls(receiver.address(), "localhost", &authority).try_send("GET", "/", &[], "");
        assert_eq!(answer.is_ok(), good, "{certificate:?}: {answer:?}");
        assert_eq!(receiver.count(), usize::from(good));
        let stranger = Client::tls(receiver.address(), "localhost", &Authority::new()).try_send("GET", "/", &[], "");
        assert!(matches!(stranger, Err(Failed::NotConnected(_))), "{stranger:?}");
    }
}

#[test]
fn the_python_receivers_accept_good_signatures_and_refuse_bad_ones() {
    let body = r#"{"event":"order.updated","data":{"a":1}}"#;
    let flask = python_receiver("flask_seed.py", &[("WEBHOOK_SECRET", "your_webhook_secret")]);
    let client = Client::tcp(flask.address());
    let sign = |secret| signature::vibe(secret, body.as_bytes());
    client.send("POST", "/webhook", &[("x-webhook-signature", &sign("another"))], body).expect(401);
    client.send("POST", "/webhook", &[("x-webhook-signature", &sign("your_webhook_secret"))], body).expect(200);
    assert_eq!(flask.wait_for(1, SOON), [json!({"handled": "order.updated", "data": {"a": 1}})]);

    for secret in
        ["0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
    {
        let python = python_receiver("standard_webhooks.py", &[("SECRET", secret)]);
        let client = Client::tcp(python.address());
        let now = unix_seconds();
        let time = now.to_string();
        let lemon = signature::lemon(secret, now, body.as_bytes());
        for (signed, status) in [("another body", 401), (body, 200)] {
            let standard = signature::standard(secret, "evt_1", &time, signed.as_bytes());
            let headers = [
                ("webhook-id", "evt_1"),
                ("webhook-timestamp", &time),
                ("webhook-signature", &standard),
                ("lmg-signature", &lemon),
            ];
            client.send("POST", "/", &headers, body).expect(status);
        }
        let accepted = python.wait_for(1, SOON);
        assert_eq!((&accepted[0]["lemon"], &accepted[0]["lemon_markets"]), (&json!(true), &json!(false)));
    }
}
