//! The life of connections: how many, how they end, what a stop does to them.

use super::*;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const GET_SLOW: &[u8] = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_stop_finishes_what_is_asked_and_closes_what_is_idle() {
    let server = Server::plain(patient());
    let (mut silent, mut idle, mut busy) = (server.connect().await, server.connect().await, server.connect().await);
    idle.write_all(GET).await.unwrap();
    assert_eq!(status(&read_some(&mut idle).await), 200);
    busy.write_all(GET_SLOW).await.unwrap();
    server.entered(2).await;
    server.stop.cancel();
    assert_eq!(read_to_end(&mut silent).await, "");
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(TcpStream::connect(server.addr).await.is_err(), "the listener is gone");
    assert!(!server.connections.is_empty());
    server.echo.0.release.notify_one();
    let answer = read_to_end(&mut busy).await;
    assert_eq!(status(&answer), 200);
    assert!(answer.contains("connection: close"), "{answer}");
    server.drain().await;
    assert_eq!(server.gate.open(), 0);
}

#[tokio::test]
async fn a_stop_still_serves_those_who_had_just_connected() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    for tls in [None, Some(shared(&authority))] {
        let server = Server::start(patient(), tls.clone());
        let plain = server.connect().await;
        while server.gate.open() == 0 {
            tokio::task::yield_now().await;
        }
        server.stop.cancel();
        let answer = match tls {
            None => ask(plain).await,
            // The handshake begins only now.
            Some(_) => ask(wrap_tls(plain, &authority.ca, &[]).await.unwrap()).await,
        };
        assert_eq!(status(&answer), 200, "{answer}");
        server.drain().await;
    }
}

async fn ask(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> String {
    stream.write_all(GET).await.unwrap();
    read_to_end(&mut stream).await
}

#[tokio::test]
async fn a_stop_finishes_streams_too() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    let server = Server::start(patient(), Some(shared(&authority)));
    let stream = connect_tls(server.addr, &authority.ca, &["h2"]).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("https://localhost/slow").body(Full::new(Bytes::new())).unwrap();
    let answer = tokio::spawn(sender.send_request(request));
    server.entered(1).await;
    server.stop.cancel();
    server.echo.0.release.notify_one();
    assert_eq!(timeout(HANG, answer).await.unwrap().unwrap().unwrap().status(), 200);
    server.drain().await;
    timeout(HANG, connection).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn the_cap_holds_and_the_idlest_gives_way() {
    let server = Server::plain(Limits { max_connections: 3, ..patient() });
    let mut idle = server.connect().await;
    let mut busy = server.connect().await;
    busy.write_all(GET_SLOW).await.unwrap();
    server.entered(1).await;
    let mut other = server.connect().await;
    other.write_all(GET_SLOW).await.unwrap();
    server.entered(2).await;
    // The fourth finds it full: the silent one has to go, the two at work stay.
    server.assert_serves().await;
    assert_eq!(read_to_end(&mut idle).await, "");
    assert_eq!(server.gate.shed(), 1);
    let mut fourth = server.connect().await;
    fourth.write_all(GET_SLOW).await.unwrap();
    server.entered(4).await;
    // Now all are at work, so that the next waits.
    let mut waiting = server.connect().await;
    waiting.write_all(GET).await.unwrap();
    let early = timeout(Duration::from_millis(200), waiting.readable()).await;
    assert!(early.is_err() && server.gate.open() == 3);
    server.echo.0.release.notify_waiters();
    // Those that were answered are idle soon, and give way in turn.
    drop((busy, other, fourth));
    assert_eq!(status(&read_some(&mut waiting).await), 200);
}

#[tokio::test]
async fn a_flood_of_silence_does_not_shut_out_a_request() {
    let server = Server::plain(Limits { max_connections: 8, ..patient() });
    let mut flood = Vec::new();
    for _ in 0..40 {
        flood.push(server.connect().await);
    }
    server.assert_serves().await;
    assert!(server.gate.open() <= 8);
}

#[tokio::test]
async fn a_peer_that_goes_away_takes_its_request_along() {
    let server = Server::plain(patient());
    let mut stream = server.connect().await;
    stream.write_all(GET_SLOW).await.unwrap();
    server.entered(1).await;
    drop(stream);
    timeout(HANG, async {
        while server.gate.open() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_dropped() {
    let server = Server::plain(Limits { body_timeout: Duration::from_millis(300), ..patient() });
    let stream = server.connect().await;
    let socket = socket2::SockRef::from(&stream);
    socket.set_recv_buffer_size(4_096).unwrap();
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1_000));
    // Asks and asks, until the answers pile up on the server's side and it stops reading; then it is closed.
    let asking = async {
        loop {
            stream.writable().await.unwrap();
            match stream.try_write(request.as_bytes()) {
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    timeout(HANG, asking).await.expect("the answers pile up for ever");
    server.assert_serves().await;
}

#[tokio::test]
async fn workers_share_an_address_and_a_gate() {
    let sockets = listen::tcp(SocketAddr::from(([127, 0, 0, 1], 0)), 2).unwrap();
    let addr = sockets[0].local_addr().unwrap();
    let servers: Vec<Server> = sockets.into_iter().map(|socket| Server::on(socket, addr, limits(), None)).collect();
    for _ in 0..64 {
        servers[0].assert_serves().await;
    }
    assert!(servers.iter().all(|server| server.gate.accepted() > 0), "one of them gets nothing");
    for server in servers {
        server.drain().await;
    }
}
