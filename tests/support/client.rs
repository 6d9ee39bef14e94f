//! A small blocking HTTP/1.1 client over hyper: TCP, unix socket, TLS with a given authority. One connection a request,
//! or one kept; never retries, never follows, so that a test sees exactly what came back.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::{Authority, RUNTIME, SOON};

/// Where a request goes, and what it always carries.
#[derive(Clone)]
pub struct Client {
    target: Target,
    headers: Vec<(String, String)>,
}

#[derive(Clone)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Tls { address: SocketAddr, name: ServerName<'static>, config: Arc<rustls::ClientConfig> },
}

/// What came back.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Nothing came back: whether the request was carried out is not known, unless no connection was made.
#[derive(Debug)]
pub enum Failed {
    NotConnected(String),
    Unknown(String),
}

impl Client {
    pub fn tcp(address: SocketAddr) -> Self {
        Self { target: Target::Tcp(address), headers: Vec::new() }
    }

    pub fn unix(path: &Path) -> Self {
        Self { target: Target::Unix(path.to_owned()), headers: Vec::new() }
    }

    /// Speaks TLS to `address`, expects a certificate of `authority` for `name`.
    pub fn tls(address: SocketAddr, name: &str, authority: &Authority) -> Self {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        Self { target: Target::Tls { address, name, config: authority.client() }, headers: Vec::new() }
    }

    /// The same client, with one more header on every request.
    #[must_use]
    pub fn header(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    /// The same client, for a daemon at another address.
    #[must_use]
    pub fn at(&self, address: SocketAddr) -> Self {
        Self { target: Target::Tcp(address), headers: self.headers.clone() }
    }

    #[must_use]
    pub fn bearer(&self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Bytes::new())
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], Bytes::new())
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], body.to_string())
    }

    pub fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[], body.to_string())
    }

    pub fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send("PATCH", path, &[], body.to_string())
    }

    /// One request over a connection of its own; fails the test when nothing comes back.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let answer = self.try_send(method, path, headers, body);
        answer.unwrap_or_else(|failed| panic!("{method} {path}: {failed:?}"))
    }

    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Failed> {
        self.open()?.send(method, path, headers, body)
    }

    /// A connection that is kept over several requests.
    pub fn open(&self) -> Result<Kept, Failed> {
        // The time-out is made inside the runtime, as it has to be.
        let connected = RUNTIME.block_on(async { tokio::time::timeout(SOON, connect(&self.target)).await });
        let sender = connected.map_err(|late| Failed::NotConnected(late.to_string()))?.map_err(Failed::NotConnected)?;
        Ok(Kept { client: self.clone(), sender })
    }

    /// Writes `bytes` as they are over TCP and reads what comes back, until it closes or is silent for `patience`.
    pub fn raw(&self, bytes: &[u8], patience: Duration) -> String {
        let Target::Tcp(address) = &self.target else { panic!("raw bytes go over TCP only") };
        let mut stream = std::net::TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(patience)).expect("a time-out");
        stream.write_all(bytes).expect("a server that reads");
        let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            got.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8_lossy(&got).into_owned()
    }
}

/// One kept connection.
pub struct Kept {
    client: Client,
    sender: SendRequest<Full<Bytes>>,
}

impl Kept {
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Failed> {
        let body = body.into();
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        let given = self.client.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut typed = body.is_empty();
        for (name, value) in given.chain(headers.iter().copied()) {
            typed |= name.eq_ignore_ascii_case("content-type");
            request = request.header(name, value);
        }
        if !typed {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(body)).expect("a request");
        let sender = &mut self.sender;
        let exchange = async {
            sender.ready().await.map_err(|error| error.to_string())?;
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        let done = RUNTIME.block_on(async { tokio::time::timeout(SOON, exchange).await });
        done.map_err(|late| Failed::Unknown(late.to_string()))?.map_err(Failed::Unknown)
    }
}

async fn connect(target: &Target) -> Result<SendRequest<Full<Bytes>>, String> {
    match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            speak(stream).await
        }
        Target::Unix(path) => speak(UnixStream::connect(path).await.map_err(|error| error.to_string())?).await,
        Target::Tls { address, name, config } => {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            let connector = TlsConnector::from(config.clone());
            speak(connector.connect(name.clone(), stream).await.map_err(|error| error.to_string())?).await
        }
    }
}

async fn speak<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    RUNTIME.spawn(connection);
    Ok(sender)
}

impl Answer {
    /// Fails the test unless the status is `status`.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, when it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Debug for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {:?} {}", self.status, self.headers, self.text())
    }
}
