//! A receiver inside the test, on 127.0.0.1, plain or TLS. It records every request as it was sent and answers as it is
//! told to, also in ways in which no HTTP library would: hanging, resetting, dripping, never ending.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Authority, Certificate, RUNTIME, poll};

/// One request, as it came over the wire.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// In order, with the case in which they were sent.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// When its last byte was read.
    pub at: Instant,
    /// Which connection it came over, counted from 0.
    pub connection: usize,
    /// Which request of this receiver it is, counted from 0.
    pub number: usize,
}

impl Request {
    /// The value of the first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What a receiver does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Answers.
    Full { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// Keeps the connection open and says nothing.
    Hang,
    /// Closes with a TCP reset.
    Reset,
    /// Closes without an answer.
    Close,
    /// Says `bytes`, one each time that `every` has gone by, and begins again.
    Drip { bytes: Vec<u8>, every: Duration },
    /// Answers 200 with a body that does not end.
    Endless,
    /// Writes these bytes and closes.
    Raw(Vec<u8>),
    /// Waits, then does the other.
    After(Duration, Box<Self>),
}

impl Reply {
    pub fn ok() -> Self {
        Self::status(200)
    }

    pub fn status(status: u16) -> Self {
        Self::Full { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn redirect(status: u16, to: &str) -> Self {
        Self::status(status).header("Location", to)
    }

    /// The same answer with one more header; only for `Full`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Full { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// The same answer with another body; only for `Full`.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        if let Self::Full { body, .. } = &mut self {
            *body = bytes.into();
        }
        self
    }

    /// The same, later.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self::After(wait, Box::new(self))
    }
}

type Behaviour = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

pub struct Receiver {
    shared: Arc<Shared>,
    address: SocketAddr,
    scheme: &'static str,
    accepting: JoinHandle<()>,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<Request>>,
    /// Off for tests under load, whose behaviour keeps its own books.
    records: bool,
    count: AtomicUsize,
    connections: AtomicUsize,
    ended: AtomicUsize,
    in_hand: AtomicUsize,
    in_hand_most: AtomicUsize,
}

impl Receiver {
    /// A receiver that answers 200 to everything.
    pub fn ok() -> Self {
        Self::with(|_| Reply::ok())
    }

    pub fn with(behaviour: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Arc::new(behaviour), None, true)
    }

    /// A receiver that counts but does not keep requests.
    pub fn forgetful(behaviour: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Arc::new(behaviour), None, false)
    }

    /// A receiver that speaks TLS and answers 200.
    pub fn tls(authority: &Authority, certificate: Certificate) -> Self {
        let acceptor = TlsAcceptor::from(authority.server_config(certificate));
        Self::start(Arc::new(|_: &Request| Reply::ok()), Some(acceptor), true)
    }

    fn start(behaviour: Behaviour, tls: Option<TlsAcceptor>, records: bool) -> Self {
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(behaviour),
            requests: Mutex::default(),
            records,
            count: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            in_hand: AtomicUsize::new(0),
            in_hand_most: AtomicUsize::new(0),
        });
        let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = RUNTIME.block_on(listening).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let accepting = RUNTIME.spawn(accept(listener, tls, shared.clone()));
        Self { shared, address, scheme, accepting }
    }

    /// Behaves like this from now on.
    pub fn set(&self, behaviour: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        *lock(&self.shared.behaviour) = Arc::new(behaviour);
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// All requests so far, in the order in which they were read.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// How many requests there were.
    pub fn count(&self) -> usize {
        self.shared.count.load(Ordering::SeqCst)
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until every connection has ended: all that a dead process had sent is read. One that the kernel took for us and
    /// that was not accepted yet is given a moment.
    pub fn hangs_up(&self, within: Duration) {
        std::thread::sleep(Duration::from_millis(20));
        let ended = poll(within, || (self.shared.ended.load(Ordering::SeqCst) == self.connections()).then_some(()));
        assert!(ended.is_some(), "connections of a dead process last");
    }

    /// The most requests that waited for their answer at one time.
    pub fn in_hand_most(&self) -> usize {
        self.shared.in_hand_most.load(Ordering::SeqCst)
    }

    /// Waits until there were `count` requests, for at most `within`; fails the test with what there was.
    #[track_caller]
    pub fn wait_for(&self, count: usize, within: Duration) -> Vec<Request> {
        let enough = poll(within, || (self.count() >= count).then_some(()));
        let requests = self.requests();
        if enough.is_none() {
            let seen: Vec<_> = requests.iter().map(|request| (&request.path, request.header("webhook-id"))).collect();
            panic!("{} requests of {count} within {within:?}: {seen:?}", self.count());
        }
        requests
    }

    /// Waits for `pause` and fails the test when there are not exactly `count` requests by then.
    #[track_caller]
    pub fn stays_at(&self, count: usize, pause: Duration) {
        std::thread::sleep(pause);
        assert_eq!(self.count(), count, "requests: {:?}", self.requests());
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Dropped with this task, and with it all connections.
    let mut serving = tokio::task::JoinSet::new();
    loop {
        while serving.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        drop(stream.set_nodelay(true));
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        let (shared, tls) = (shared.clone(), tls.clone());
        serving.spawn(async move {
            let served = match tls {
                None => serve(stream, &shared, number).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, &shared, number).await,
                    Err(error) => Err(error),
                },
            };
            // A connection that breaks is the sender's affair; what a test wants to know stands in the requests.
            drop(served);
            shared.ended.fetch_add(1, Ordering::SeqCst);
        });
    }
}

/// A stream whose TCP socket can be reached.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn socket(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

async fn serve(mut stream: impl Wire, shared: &Shared, connection: usize) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(mut request) = read_request(&mut stream, &mut buffer, connection).await? {
        let behaviour = lock(&shared.behaviour).clone();
        {
            let mut requests = lock(&shared.requests);
            request.number = shared.count.load(Ordering::SeqCst);
            if shared.records {
                requests.push(request.clone());
            }
            shared.count.fetch_add(1, Ordering::SeqCst);
        }
        let in_hand = InHand::new(shared);
        let mut reply = behaviour(&request);
        while let Reply::After(wait, then) = reply {
            tokio::time::sleep(wait).await;
            reply = *then;
        }
        let keep = answer(&mut stream, &request, reply).await?;
        drop(in_hand);
        if !keep {
            break;
        }
    }
    stream.shutdown().await
}

/// Counts a request that waits for its answer.
struct InHand<'a>(&'a Shared);

impl<'a> InHand<'a> {
    fn new(shared: &'a Shared) -> Self {
        let now = shared.in_hand.fetch_add(1, Ordering::SeqCst) + 1;
        shared.in_hand_most.fetch_max(now, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Does what the reply says; whether the connection goes on.
async fn answer(stream: &mut impl Wire, request: &Request, reply: Reply) -> std::io::Result<bool> {
    match reply {
        Reply::Full { status, headers, body } => {
            let mut head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            let close = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            stream.write_all(&[head.as_bytes(), b"\r\n", &body].concat()).await?;
            stream.flush().await?;
            return Ok(!close);
        }
        Reply::Hang => wait_for_end(stream).await?,
        Reply::Reset => SockRef::from(stream.socket()).set_linger(Some(Duration::ZERO))?,
        Reply::Close => {}
        Reply::Drip { bytes, every } => loop {
            for byte in &bytes {
                stream.write_all(std::slice::from_ref(byte)).await?;
                stream.flush().await?;
                tokio::time::sleep(every).await;
            }
        },
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            let chunk = [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Reply::Raw(bytes) => {
            stream.write_all(&bytes).await?;
            stream.flush().await?;
        }
        Reply::After(..) => unreachable!("waited for by the caller"),
    }
    Ok(false)
}

async fn wait_for_end(stream: &mut impl Wire) -> std::io::Result<()> {
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// The next request from `buffer` and `stream`; `None` at the end of the connection.
async fn read_request(
    stream: &mut impl Wire,
    buffer: &mut Vec<u8>,
    connection: usize,
) -> std::io::Result<Option<Request>> {
    loop {
        if let Some((mut request, head)) = parse_head(buffer, connection)? {
            assert!(request.header("transfer-encoding").is_none(), "a delivery has a Content-Length: {request:?}");
            let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            while buffer.len() < head + length {
                if stream.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            request.body = buffer[head..head + length].to_vec();
            request.at = Instant::now();
            buffer.drain(..head + length);
            return Ok(Some(request));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// The head of a request and its length, once it is whole.
fn parse_head(bytes: &[u8], connection: usize) -> std::io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(bytes).map_err(std::io::Error::other)? else {
        return Ok(None);
    };
    let headers = parsed.headers.iter();
    let headers = headers.map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()));
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: parsed.path.unwrap_or_default().to_owned(),
        headers: headers.collect(),
        body: Vec::new(),
        at: Instant::now(),
        connection,
        number: 0,
    };
    Ok(Some((request, length)))
}
