//! Receivers that answer, misbehave, or say nothing: what each comes to.

use super::*;
use crate::limits::{EXCERPT_BYTES, RESPONSE_BYTES_MAX};

#[tokio::test]
async fn a_2xx_is_success_and_the_request_is_what_was_asked_for() {
    let receiver = Receiver::answering("HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\nhe\tlo").await;
    let exchange = post(&egress(), &Pool::default(), &receiver.url(), LONG).await;
    let expected = Exchange {
        failure: None,
        status: Some(202),
        retry_after_ms: None,
        remote: Some(receiver.addr),
        excerpt: "he lo".to_owned(),
    };
    assert_eq!(exchange, expected);
    let request = receiver.requests().remove(0);
    assert!(request.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nWebhook-Id: evt_1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nHost: {}\r\n", receiver.addr)), "{request}");
    assert!(request.ends_with(BODY), "{request}");
    assert!(!request.to_ascii_lowercase().contains("accept-encoding"), "{request}");
}

#[tokio::test]
async fn statuses_have_their_class() {
    let table = [
        (204, None),
        (299, None),
        (300, Some(Class::Redirect)),
        (301, Some(Class::Redirect)),
        (302, Some(Class::Redirect)),
        (304, Some(Class::Redirect)),
        (307, Some(Class::Redirect)),
        (308, Some(Class::Redirect)),
        (400, Some(Class::Status)),
        (410, Some(Class::Status)),
        (500, Some(Class::Status)),
        (503, Some(Class::Status)),
        (599, Some(Class::Status)),
    ];
    for (status, expected) in table {
        let receiver =
            Receiver::answering(format!("HTTP/1.1 {status} X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n")).await;
        let exchange = post(&egress(), &Pool::default(), &receiver.url(), LONG).await;
        assert_eq!((exchange.status, class(&exchange)), (Some(status), expected), "{exchange:?}");
        assert!(expected.is_none() || detail(&exchange).contains(&status.to_string()), "{exchange:?}");
        assert_eq!(receiver.requests().len(), 1, "{status} was followed");
    }
}

#[tokio::test]
async fn retry_after_is_read_from_429_and_503() {
    let table = [
        (429, "7", Some(7_000)),
        (503, "7", Some(7_000)),
        (500, "7", None),
        (200, "7", None),
        (429, "Sun, 06 Nov 1994 08:49:37 GMT", Some(7_000)),
        (429, "-1", None),
        (429, "999999999999999999999999", Some(24 * 3_600 * 1_000)),
        (429, "tomorrow", None),
    ];
    for (status, value, expected) in table {
        let answer = format!("HTTP/1.1 {status} X\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n");
        let receiver = Receiver::answering(answer).await;
        let exchange = post(&egress(), &Pool::default(), &receiver.url(), LONG).await;
        assert_eq!(exchange.retry_after_ms, expected, "{status} {value}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_failure() {
    let many = "X: y\r\n".repeat(101);
    let large = format!("X: {}\r\n", "y".repeat(70_000));
    let answers = [
        "garbage\r\n\r\n".to_owned(),
        "HTTP/1.1 abc OK\r\n\r\n".to_owned(),
        "HTTP/1.1 99 X\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.6\r\n".to_owned(),
        "\0\0\0\0\0\0\0\0\0\0\0\0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
        format!("HTTP/1.1 200 OK\r\n{large}\r\n"),
    ];
    for answer in answers {
        let shown: String = answer.chars().take(40).collect();
        let receiver = Receiver::answering(answer).await;
        let exchange = post(&egress(), &Pool::default(), &receiver.url(), LONG).await;
        assert_eq!(class(&exchange), Some(Class::Protocol), "{shown:?}: {exchange:?}");
        assert_eq!((exchange.status, receiver.requests().len()), (None, 1), "{shown:?}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_is_a_protocol_failure() {
    let closing = Receiver::start(|mut peer| async move {
        peer.request().await;
    })
    .await;
    let resetting = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.reset();
    })
    .await;
    let half_headers = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Le").await;
    })
    .await;
    let half_body = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    })
    .await;
    for receiver in [&closing, &resetting, &half_headers, &half_body] {
        let exchange = post(&egress(), &Pool::default(), &receiver.url(), LONG).await;
        assert_eq!(class(&exchange), Some(Class::Protocol), "{exchange:?}");
        assert_eq!((receiver.accepts(), exchange.remote), (1, Some(receiver.addr)));
    }
    // The status was read, and the answer behind it was no success.
    let exchange = post(&egress(), &Pool::default(), &half_body.url(), LONG).await;
    assert_eq!((exchange.status, exchange.excerpt.as_str()), (Some(200), "half"));
}

#[tokio::test]
async fn a_failed_status_stands_even_when_its_body_breaks_or_hangs() {
    let breaking = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 410 Gone\r\nContent-Length: 100\r\n\r\nhalf").await;
    })
    .await;
    let hanging = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 410 Gone\r\nContent-Length: 100\r\n\r\nhalf").await;
        peer.gone().await;
    })
    .await;
    for (receiver, timeout) in [(&breaking, LONG), (&hanging, SHORT)] {
        let exchange = post(&egress(), &Pool::default(), &receiver.url(), timeout).await;
        assert_eq!((class(&exchange), exchange.status), (Some(Class::Status), Some(410)), "{exchange:?}");
    }
}

#[tokio::test]
async fn nobody_listening_is_a_connect_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let exchange = post(&egress(), &Pool::default(), &format!("http://{addr}/"), LONG).await;
    assert_eq!(class(&exchange), Some(Class::Connect), "{exchange:?}");
    assert_eq!((exchange.remote, exchange.status), (Some(addr), None));
    assert!(detail(&exchange).contains(&addr.to_string()), "{exchange:?}");
}

#[tokio::test]
async fn an_endless_body_is_success_and_costs_the_connection() {
    let sent = Arc::new(AtomicUsize::new(0));
    let ended = Arc::new(AtomicUsize::new(0));
    let (count, end) = (Arc::clone(&sent), Arc::clone(&ended));
    let receiver = Receiver::start(move |mut peer| {
        let (count, end) = (Arc::clone(&count), Arc::clone(&end));
        async move {
            peer.request().await;
            peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
            while peer.stream.write_all(chunk.as_bytes()).await.is_ok() {
                count.fetch_add(0x400, Ordering::SeqCst);
            }
            end.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let (egress, pool) = (egress(), Pool::default());
    let exchange = post(&egress, &pool, &receiver.url(), LONG).await;
    assert_eq!((exchange.failure, exchange.status), (None, Some(200)));
    assert_eq!(exchange.excerpt, "x".repeat(EXCERPT_BYTES));
    eventually("the receiver sees the end", || ended.load(Ordering::SeqCst) == 1).await;
    // What the kernel buffers on both sides is beyond anyone's reach; what is read is not.
    assert!(sent.load(Ordering::SeqCst) < 32 * 1024 * 1024);
    assert_eq!(pool.idle(), 0);
    eventually("the connection is closed", || egress.open_connections() == 0).await;
}

/// A body that never ends, a KiB at a time; counts what was taken.
struct Endless(usize);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0 += 1024;
        std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(&[b'x'; 1024])))))
    }
}

#[tokio::test]
async fn reading_stops_at_the_bound() {
    use crate::egress::answer::{Read, read};
    assert_eq!(RESPONSE_BYTES_MAX, 16 * 1024);
    let (mut endless, mut excerpt) = (Endless(0), Vec::new());
    assert_eq!(read(&mut endless, &mut excerpt).await.unwrap(), Read::Enough);
    assert_eq!((endless.0, excerpt.len()), (RESPONSE_BYTES_MAX, EXCERPT_BYTES));
    let whole = http_body_util::Full::new(Bytes::from(vec![b'x'; RESPONSE_BYTES_MAX]));
    excerpt.clear();
    assert_eq!(read(whole, &mut excerpt).await.unwrap(), Read::Whole);
    assert_eq!(excerpt.len(), EXCERPT_BYTES);
}

#[tokio::test]
async fn silence_runs_into_the_deadline_and_names_the_phase() {
    let silent = Receiver::start(|mut peer| async move { peer.gone().await }).await;
    let dripping = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\n").await;
        while peer.stream.write_all(b"X: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let slow_body = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
        while peer.stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for (receiver, phase) in [(&silent, "headers"), (&dripping, "headers"), (&slow_body, "body")] {
        let egress = egress();
        let pool = Pool::default();
        let exchange = post(&egress, &pool, &receiver.url(), SHORT).await;
        assert_eq!(class(&exchange), Some(Class::Timeout), "{exchange:?}");
        assert!(detail(&exchange).starts_with("timed out after 300ms while "), "{exchange:?}");
        assert!(detail(&exchange).contains(phase), "{exchange:?}");
        eventually("the connection is closed", || egress.open_connections() == 0).await;
        assert_eq!((pool.idle(), receiver.accepts()), (0, 1));
    }
}

#[tokio::test]
async fn a_receiver_that_never_reads_holds_nothing_after_the_deadline() {
    let receiver = Receiver::start(|peer| async move {
        let _held = peer;
        std::future::pending::<()>().await;
    })
    .await;
    let egress = egress();
    let target = Target::parse(&receiver.url(), &loopback_rules()).unwrap();
    let body = Bytes::from(vec![b'x'; 32 * 1024 * 1024]);
    let exchange = egress.exchange(&Pool::default(), &target, HeaderMap::new(), body, SHORT).await;
    assert_eq!(class(&exchange), Some(Class::Timeout), "{exchange:?}");
    eventually("the connection is closed", || egress.open_connections() == 0).await;
}

#[tokio::test]
async fn compressed_bodies_are_not_decoded() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x08ab";
    let receiver = Receiver::answering(answer).await;
    let exchange = post(&egress(), &Pool::default(), &receiver.url(), LONG).await;
    assert_eq!((exchange.failure, exchange.excerpt.as_str()), (None, "\u{fffd}\u{fffd}ab"));
}

#[tokio::test]
async fn source_addresses_are_used_by_family() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await;
        let from = peer.stream.peer_addr().unwrap().ip().to_string();
        peer.say(&format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{from}")).await;
    })
    .await;
    let sources = ["127.0.0.2", "::1", "127.0.0.3"].map(|ip| ip.parse().unwrap()).to_vec();
    let egress = egress_with(Settings { source_addresses: sources, ..settings() }, StaticResolver::default());
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(post(&egress, &Pool::default(), &receiver.url(), LONG).await.excerpt);
    }
    seen.sort();
    assert_eq!(seen, ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]);
    let v6_only = Settings { source_addresses: vec!["::1".parse().unwrap()], ..settings() };
    let exchange =
        post(&egress_with(v6_only, StaticResolver::default()), &Pool::default(), &receiver.url(), LONG).await;
    assert_eq!(class(&exchange), Some(Class::Connect), "{exchange:?}");
}

#[tokio::test]
async fn interim_answers_without_end_break_the_connection() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let receiver = Receiver::start(move |mut peer| {
        let count = Arc::clone(&count);
        async move {
            peer.request().await;
            let early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100);
            while peer.stream.write_all(&early).await.is_ok() {
                count.fetch_add(early.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let (egress, pool) = (egress(), Pool::default());
    let exchange = post(&egress, &pool, &receiver.url(), LONG).await;
    assert_eq!(class(&exchange), Some(Class::Protocol), "{exchange:?}");
    assert!(detail(&exchange).contains("sent more than an answer may have"), "{exchange:?}");
    eventually("the connection is closed", || egress.open_connections() == 0).await;
    // What the kernel buffers on both sides is beyond anyone's reach.
    assert!(sent.load(Ordering::SeqCst) < 16 * 1024 * 1024);
    // A few of them are nothing out of the ordinary, on a kept connection too.
    let answer =
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(500) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let receiver = Receiver::answering(&answer).await;
    for _ in 0..40 {
        assert_eq!(post(&egress, &pool, &receiver.url(), LONG).await.failure, None);
    }
    assert_eq!(receiver.accepts(), 1);
}
