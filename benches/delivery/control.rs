//! The control: the best bare forwarder. Two current-thread runtimes behind one port (`SO_REUSEPORT`), hyper's server, an own
//! pool of `hyper::client::conn::http1`. It reads a body, answers 201 at once and forwards the bytes; no JSON, no store.
//!
//! Each runtime keeps at most `permits` requests in flight to a receiver and as many waiting. When both are full, the 201
//! waits: so what it forwards in a second can be kept up for ever, and is comparable to what the daemon delivers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{children, options, tls};

const RUNTIMES: usize = 2;
const BACKLOG: i32 = 4096;

pub fn main(arguments: &[String]) {
    let receivers = options::after(arguments, "--receivers").expect("--receivers IP:PORT,…").to_owned();
    let permits = options::number_after(arguments, "--permits");
    let folder = options::after(arguments, "--tls").map(str::to_owned);
    children::listen(|_| {});
    let first = bind("127.0.0.1:0".parse().expect("an address"));
    let address = first.local_addr().expect("an address").as_socket().expect("an internet address");
    let sockets = std::iter::once(first).chain((1..RUNTIMES).map(|_| bind(address))).collect::<Vec<_>>();
    let threads = sockets.into_iter().map(|socket| {
        let (receivers, folder) = (receivers.clone(), folder.clone());
        std::thread::spawn(move || {
            let folder = folder.as_deref().map(Path::new);
            let acceptor = folder.map(|folder| TlsAcceptor::from(tls::server(folder)));
            let tls = folder.map(|folder| TlsConnector::from(tls::client(folder)));
            let lanes = receivers.split(',').map(|text| Lane::new(text, permits, tls.clone())).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
            runtime.block_on(serve(socket, acceptor, lanes));
        })
    });
    let threads = threads.collect::<Vec<_>>();
    children::say(&json!({"address": address.to_string()}));
    for thread in threads {
        thread.join().expect("a runtime that does not end");
    }
}

fn bind(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("SO_REUSEPORT");
    socket.set_nonblocking(true).expect("no blocking");
    socket.bind(&address.into()).expect("a free port");
    socket.listen(BACKLOG).expect("a listener");
    socket
}

async fn serve(socket: Socket, tls: Option<TlsAcceptor>, lanes: Arc<[Lane]>) {
    let listener = TcpListener::from_std(socket.into()).expect("a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let lanes = lanes.clone();
        match tls.clone() {
            None => drop(tokio::spawn(connection(stream, lanes))),
            Some(tls) => drop(tokio::spawn(async move {
                connection(tls.accept(stream).await.expect("a handshake"), lanes).await;
            })),
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, lanes: Arc<[Lane]>) {
    let service = service_fn(move |request| accept(request, lanes.clone()));
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn accept(request: Request<Incoming>, lanes: Arc<[Lane]>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.expect("a whole body").to_bytes();
    for lane in lanes.iter() {
        lane.offer(body.clone()).await;
    }
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = StatusCode::CREATED;
    Ok(answer)
}

type Sender = SendRequest<Full<Bytes>>;

/// The way to one receiver.
#[derive(Clone)]
struct Lane(Arc<LaneParts>);

struct LaneParts {
    address: SocketAddr,
    host: HeaderValue,
    tls: Option<TlsConnector>,
    permits: usize,
    /// Room for what is in flight and what waits.
    room: Semaphore,
    state: Mutex<LaneState>,
}

#[derive(Default)]
struct LaneState {
    idle: Vec<Sender>,
    open: usize,
    waiting: VecDeque<Bytes>,
}

impl Lane {
    fn new(address: &str, permits: usize, tls: Option<TlsConnector>) -> Self {
        Self(Arc::new(LaneParts {
            address: address.parse().expect("IP:PORT"),
            host: HeaderValue::from_str(address).expect("a host"),
            tls,
            permits,
            room: Semaphore::new(permits * 2),
            state: Mutex::default(),
        }))
    }

    /// Takes a body; waits while the lane is full.
    async fn offer(&self, body: Bytes) {
        self.0.room.acquire().await.expect("a lane that is open").forget();
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = state.idle.pop() {
            tokio::spawn(self.clone().forward(sender, body));
        } else if state.open < self.0.permits {
            state.open += 1;
            let lane = self.clone();
            tokio::spawn(async move {
                let sender = lane.connect().await;
                lane.forward(sender, body).await;
            });
        } else {
            state.waiting.push_back(body);
        }
    }

    async fn connect(&self) -> Sender {
        let stream = TcpStream::connect(self.0.address).await.expect("a receiver that listens");
        stream.set_nodelay(true).expect("no delay");
        let Some(tls) = &self.0.tls else {
            let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            return sender;
        };
        let stream = tls.connect(self.0.address.ip().into(), stream).await.expect("a good certificate");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        sender
    }

    /// Sends `body` and then whatever waits, over one connection.
    async fn forward(self, mut sender: Sender, mut body: Bytes) {
        loop {
            let mut request = Request::new(Full::new(body));
            *request.method_mut() = Method::POST;
            request.headers_mut().insert(HOST, self.0.host.clone());
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let answer = sender.send_request(request).await.expect("an answer");
            assert!(answer.status().is_success(), "refused: {}", answer.status());
            answer.into_body().collect().await.expect("a whole answer");
            sender.ready().await.expect("a connection that stays");
            self.0.room.add_permits(1);
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(next) = state.waiting.pop_front() else {
                state.idle.push(sender);
                return;
            };
            body = next;
        }
    }
}
