//! Kept connections: when they are used again, when they are not, and that no request is ever sent twice.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::egress::guard::check_addr;
use crate::egress::pool::{About, Connection, Lease, OpenGuard, Sender};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_kept_connection_carries_the_next_exchange() {
    let receiver = Receiver::answering(OK).await;
    let (egress, pool) = (egress(), Pool::default());
    for _ in 0..20 {
        assert_eq!(post(&egress, &pool, &receiver.url(), LONG).await.failure, None);
        assert_eq!(pool.idle(), 1);
    }
    assert_eq!((receiver.accepts(), receiver.requests().len()), (1, 20));
    assert_eq!(egress.open_connections(), 1);
    drop(pool);
    eventually("the connection is closed", || egress.open_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_connections_are_never_shared_over_http1() {
    let receiver = Receiver::start(|mut peer| async move {
        while let Some(request) = peer.request().await {
            tokio::task::yield_now().await;
            let body = request.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned();
            peer.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        }
    })
    .await;
    let (egress, pool) = (egress(), Arc::new(Pool::default()));
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..8 {
        let (egress, pool, url) = (egress.clone(), Arc::clone(&pool), receiver.url());
        tasks.spawn(async move {
            let target = Target::parse(&url, &loopback_rules()).unwrap();
            for n in 0..100 {
                let body = format!("{lane}-{n}");
                let sent = Bytes::from(body.clone());
                let exchange = egress.exchange(&pool, &target, HeaderMap::new(), sent, LONG).await;
                assert_eq!((exchange.failure, exchange.excerpt), (None, body));
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(receiver.requests().len(), 800);
    assert!(receiver.accepts() <= 40, "{} connections for 8 at a time", receiver.accepts());
}

#[tokio::test]
async fn a_connection_that_the_receiver_ends_is_not_kept() {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let receiver = Receiver::answering(answer).await;
        let (egress, pool) = (egress(), Pool::default());
        for _ in 0..3 {
            assert_eq!(post(&egress, &pool, &receiver.url(), LONG).await.failure, None);
        }
        assert_eq!((receiver.accepts(), receiver.requests().len()), (3, 3));
    }
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_is_dialled_again_without_a_duplicate() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say(OK).await;
    })
    .await;
    let (egress, pool) = (egress(), Pool::default());
    for _ in 0..20 {
        assert_eq!(post(&egress, &pool, &receiver.url(), LONG).await.failure, None);
        eventually("the end is seen", || egress.open_connections() == 0).await;
    }
    assert_eq!((receiver.accepts(), receiver.requests().len()), (20, 20));
}

#[tokio::test]
async fn a_request_that_is_handed_back_unsent_is_sent_on_a_new_connection_once() {
    let receiver = Receiver::answering(OK).await;
    let (egress, pool) = (egress(), Pool::default());
    let target = Target::parse(&receiver.url(), &loopback_rules()).unwrap();
    // A connection that takes the request into its queue and ends before it touches it.
    let (io, _other_end) = tokio::io::duplex(1_024);
    let (sender, mut drive) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    let end = Arc::new(Notify::new());
    let ended = Arc::clone(&end);
    let drive = async move {
        poll_fn(|context| Poll::Ready(Pin::new(&mut drive).poll(context).is_ready())).await;
        ended.notified().await;
        drop(drive);
    };
    let addr = check_addr(&loopback_rules(), receiver.addr).unwrap();
    let about = About::new(target.endpoint().clone(), addr, 0);
    let open = OpenGuard::new(&Arc::default());
    let connection = Connection::start(Sender::Http1(sender), about, open, drive, CancellationToken::new());
    pool.put(Lease::new(connection), true);
    assert_eq!(pool.idle(), 1);
    tokio::task::yield_now().await;

    let url = receiver.url();
    let (exchange, ()) = tokio::join!(post(&egress, &pool, &url, LONG), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(receiver.accepts(), 0, "the kept connection was tried first");
        end.notify_one();
    });
    assert_eq!(exchange.failure, None);
    assert_eq!((receiver.accepts(), receiver.requests().len()), (1, 1));
    assert!(receiver.requests()[0].ends_with(BODY));
}

#[tokio::test]
async fn a_request_that_was_sent_on_a_kept_connection_is_never_sent_again() {
    let receiver = Receiver::start(|mut peer| async move {
        if peer.number == 0 {
            peer.request().await;
            peer.say(OK).await;
            peer.request().await;
        } else if peer.request().await.is_some() {
            peer.say(OK).await;
        }
    })
    .await;
    let (egress, pool) = (egress(), Pool::default());
    assert_eq!(post(&egress, &pool, &receiver.url(), LONG).await.failure, None);
    let exchange = post(&egress, &pool, &receiver.url(), LONG).await;
    assert_eq!(class(&exchange), Some(Class::Protocol), "{exchange:?}");
    assert_eq!((receiver.accepts(), receiver.requests().len()), (1, 2));
    assert_eq!(post(&egress, &pool, &receiver.url(), LONG).await.failure, None);
    assert_eq!((receiver.accepts(), receiver.requests().len()), (2, 3));
}

#[tokio::test]
async fn a_kept_connection_serves_its_own_endpoint_only() {
    let (one, other) = (Receiver::answering(OK).await, Receiver::answering(OK).await);
    let (egress, pool) = (egress(), Pool::default());
    assert_eq!(post(&egress, &pool, &one.url(), LONG).await.failure, None);
    assert_eq!(post(&egress, &pool, &other.url(), LONG).await.failure, None);
    assert_eq!((one.requests().len(), other.requests().len()), (1, 1));
    assert_eq!(pool.idle(), 1);
    // The same port under another name is another endpoint.
    let by_name = format!("http://localhost:{}/", other.addr.port());
    assert_eq!(post(&egress, &pool, &by_name, LONG).await.failure, None);
    assert_eq!(other.accepts(), 2);
}

#[tokio::test]
async fn an_old_connection_is_not_used_again() {
    let receiver = Receiver::answering(OK).await;
    let (egress, pool) = (egress(), Pool::default());
    assert_eq!(post(&egress, &pool, &receiver.url(), LONG).await.failure, None);
    let endpoint = Target::parse(&receiver.url(), &loopback_rules()).unwrap().endpoint().clone();
    let later = tokio::time::Instant::now() + crate::limits::CONNECTION_AGE_MAX;
    assert!(pool.take(&endpoint, 0, later).await.is_none());
    assert_eq!(pool.idle(), 0);
    eventually("the connection is closed", || egress.open_connections() == 0).await;
}

#[tokio::test]
async fn new_rules_close_idle_connections_and_are_asked_again() {
    let receiver = Receiver::answering(OK).await;
    let (egress, pool) = (egress(), Pool::default());
    assert_eq!(post(&egress, &pool, &receiver.url(), LONG).await.failure, None);
    egress.replace(settings()).unwrap();
    assert_eq!(post(&egress, &pool, &receiver.url(), LONG).await.failure, None);
    assert_eq!(receiver.accepts(), 2);
    eventually("the old connection is closed", || egress.open_connections() == 1).await;

    let strict = Rules { require_https: false, ..Rules::default() };
    egress.replace(Settings { rules: strict.clone(), ..Settings::default() }).unwrap();
    eventually("idle connections are closed", || egress.open_connections() == 0).await;
    assert_eq!(*egress.rules(), strict);
    let exchange = post(&egress, &pool, &receiver.url(), LONG).await;
    assert_eq!(class(&exchange), Some(Class::Forbidden), "{exchange:?}");
    assert_eq!(receiver.accepts(), 2);

    egress.replace(Settings { ca_file: Some("/nonexistent.pem".into()), ..settings() }).unwrap_err();
    assert_eq!(*egress.rules(), strict);
}

#[tokio::test]
async fn an_exchange_under_way_outlives_new_rules() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        peer.say(OK).await;
        peer.gone().await;
    })
    .await;
    let (egress, pool) = (egress(), Pool::default());
    let url = receiver.url();
    let (exchange, ()) = tokio::join!(post(&egress, &pool, &url, LONG), async {
        eventually("the request is there", || receiver.requests().len() == 1).await;
        egress.replace(settings()).unwrap();
    });
    assert_eq!(exchange.failure, None);
    assert_eq!(pool.idle(), 0);
    eventually("the connection is closed", || egress.open_connections() == 0).await;
}

#[tokio::test]
async fn an_answer_before_the_request_was_read_does_not_block_the_next() {
    let receiver = Receiver::start(|mut peer| async move {
        if peer.number == 0 {
            peer.say("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await;
            std::future::pending::<()>().await;
        }
        while peer.request().await.is_some() {
            peer.say(OK).await;
        }
    })
    .await;
    let (egress, pool) = (egress(), Pool::default());
    let target = Target::parse(&receiver.url(), &loopback_rules()).unwrap();
    let body = Bytes::from(vec![b'x'; 32 * 1024 * 1024]);
    let exchange = egress.exchange(&pool, &target, HeaderMap::new(), body, LONG).await;
    assert_eq!(exchange.status, Some(413), "{exchange:?}");
    assert_eq!(post(&egress, &pool, &receiver.url(), LONG).await.failure, None);
    eventually("the stuck connection is closed", || egress.open_connections() == 1).await;
}

#[tokio::test]
async fn the_future_of_an_exchange_stays_small() {
    let (egress, pool) = (egress(), Pool::default());
    let target = Target::parse("http://127.0.0.1:9/", &loopback_rules()).err();
    assert!(target.is_some(), "port 9 is denied");
    let target = Target::parse("http://127.0.0.1:9999/", &loopback_rules()).unwrap();
    let exchange = egress.exchange(&pool, &target, HeaderMap::new(), Bytes::new(), LONG);
    let bytes = std::mem::size_of_val(&exchange);
    assert!(bytes < 4_096, "{bytes} bytes");
}
