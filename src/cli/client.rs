//! How commands talk to a daemon: one request at a time over the administration socket, or over TCP to `WEBHOOKD_URL` with
//! `WEBHOOKD_TOKEN`. Owns what is told when nobody answers, and which exit code an answer means.
//!
//! Nothing is sent twice: a command that gets no answer says that it does not know what became of its request.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

use super::{Failure, NO, SYSTEM, TRY_AGAIN, UNREACHABLE};
use crate::config;
use crate::egress::tls::client_config;
use crate::model::secret::Secret;

const URL: &str = "WEBHOOKD_URL";
const TOKEN: &str = "WEBHOOKD_TOKEN";
/// For a connection and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a request and its answer, unless the command says otherwise.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// No answer that a command asks for is larger.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Which daemon a command talks to.
#[derive(Args)]
pub(super) struct Target {
    /// The configuration that names the daemon's administration socket. Without it: $WEBHOOKD_URL with $WEBHOOKD_TOKEN if set,
    /// otherwise the socket of the usual configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Whose something is, for what belongs to a tenant, and which daemon has it.
#[derive(Args)]
pub(super) struct Whose {
    /// The tenant that it belongs to. Not needed with a key of that tenant.
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Whose {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.target.client()
    }

    /// A path of the tenant's.
    pub(super) fn path(&self, path: &str) -> String {
        with_query(path, &[("tenant", self.tenant.as_deref())])
    }
}

/// A daemon that can be asked.
pub(super) struct Client {
    runtime: Runtime,
    place: Place,
    token: Option<Secret>,
    timeout: Duration,
}

enum Place {
    Socket(PathBuf),
    Url(Url),
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Target {
    pub(super) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    pub(super) fn client(&self) -> Result<Client, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(SYSTEM, format!("no runtime: {error}")))?;
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let (place, token) = match variable(URL).filter(|_| self.config.is_none()) {
            Some(text) => (Place::Url(read_url(&text)?), variable(TOKEN).map(Secret::new)),
            None => (Place::Socket(config::admin_socket(self.config.as_deref(), config::environment())), None),
        };
        Ok(Client { runtime, place, token, timeout: ANSWER_TIMEOUT })
    }
}

fn read_url(text: &str) -> Result<Url, Failure> {
    let rule = || Failure::usage(format!("{URL} must be an http or https URL such as https://127.0.0.1:8443"));
    let url = Url::parse(text).map_err(|_| rule())?;
    let fits = matches!(url.scheme(), "http" | "https") && url.has_host() && matches!(url.path(), "" | "/");
    if fits && url.username().is_empty() && url.password().is_none() { Ok(url) } else { Err(rule()) }
}

impl Client {
    /// Where requests run.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The same client, with another time-out.
    pub(super) fn patient(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Whether the daemon is asked on the socket of this machine, so that its files are here too.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.place, Place::Socket(_))
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::GET, path, Bytes::new(), &[])?.json()
    }

    /// What a listing holds, page by page: at most `max`, and whether there is more.
    pub(super) fn list(&self, path: &str, max: usize) -> Result<(Vec<Value>, bool), Failure> {
        let (mut all, mut next) = (Vec::new(), path.to_owned());
        loop {
            let mut page = self.get(&next)?;
            if let Value::Array(items) = page["data"].take() {
                all.extend(items);
            }
            let cursor = page["pagination"]["next_cursor"].as_str();
            let is_more = cursor.is_some() || all.len() > max;
            match cursor {
                // The filters are in the cursor; whose listing it is stands in the path again.
                Some(cursor) if all.len() < max => next = with_query(path, &[("cursor", Some(cursor))]),
                _ => {
                    all.truncate(max);
                    return Ok((all, is_more));
                }
            }
        }
    }

    /// Asks; an answer that is no success is a failure that tells what the daemon said.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
        headers: &[(&'static str, &str)],
    ) -> Result<Answer, Failure> {
        let answer = self.try_ask(method, path, body.into(), headers)?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(path, &answer)) }
    }

    /// Asks; every answer is one.
    pub(super) fn try_ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        headers: &[(&'static str, &str)],
    ) -> Result<Answer, Failure> {
        let request = self.request(method, path, body, headers)?;
        self.runtime.block_on(async {
            let mut sender = self.connect_in_time().await?;
            let exchange = async {
                let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
                let (head, body) = answer.into_parts();
                let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
                Ok(Answer { status: head.status, body: body.to_bytes() })
            };
            let done = tokio::time::timeout(self.timeout, exchange).await;
            let done = done.unwrap_or_else(|_| Err(format!("nothing came back in {:?}", self.timeout)));
            done.map_err(|why: String| {
                Failure::new(UNREACHABLE, format!("{}: {why}; what became of the request is not known", self.name()))
            })
        })
    }

    /// Asks, and hands on what comes back piece by piece; an answer that is no success is a failure. The time-out is for each
    /// piece.
    pub(super) fn stream(
        &self,
        method: Method,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let request = self.request(method, path, Bytes::new(), &[])?;
        let lost = |why: &str| Failure::new(UNREACHABLE, format!("{}: {why}", self.name()));
        self.runtime.block_on(async {
            let connected = timeout(CONNECT_TIMEOUT, self.connect()).await;
            let mut sender = connected.map_err(|_| self.unreachable("it does not answer"))??;
            let answer = timeout(self.timeout, sender.send_request(request)).await;
            let answer = answer.map_err(|_| lost("it does not answer"))?.map_err(|error| lost(&error.to_string()))?;
            let (head, mut body) = answer.into_parts();
            if !head.status.is_success() {
                let body = timeout(self.timeout, Limited::new(body, ANSWER_BYTES_MAX).collect()).await;
                let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
                return Err(self.refusal(path, &Answer { status: head.status, body }));
            }
            while let Some(frame) = timeout(self.timeout, body.frame()).await.map_err(|_| lost("nothing more came"))? {
                let frame = frame.map_err(|error| lost(&format!("it was cut off: {error}")))?;
                if let Some(piece) = frame.data_ref() {
                    take(piece)?;
                }
            }
            Ok(())
        })
    }

    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        headers: &[(&'static str, &str)],
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let host = match &self.place {
            Place::Socket(_) => "localhost".to_owned(),
            Place::Url(url) => url[url::Position::BeforeHost..url::Position::AfterPort].to_owned(),
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes());
            let value =
                value.map_err(|_| Failure::usage(format!("{name} holds characters that no header can carry")))?;
            request = request.header(*name, value);
        }
        if let Some(token) = &self.token {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
            let mut value = value.map_err(|_| Failure::usage(format!("{TOKEN} is no token")))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request.body(Full::new(body)).map_err(|error| Failure::usage(format!("{path} can't be asked for: {error}")))
    }

    pub(super) async fn connect_in_time(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await;
        connected.map_err(|_| self.unreachable("it does not answer"))?
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let url = match &self.place {
            Place::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| self.no_socket(path, &error))?;
                return self.speak(stream).await;
            }
            Place::Url(url) => url,
        };
        let host = url.host_str().unwrap_or_default();
        let address = (host.trim_start_matches('[').trim_end_matches(']'), url.port_or_known_default().unwrap_or(443));
        let stream = TcpStream::connect(address).await.map_err(|error| self.unreachable(&error.to_string()))?;
        if url.scheme() == "http" {
            return self.speak(stream).await;
        }
        let secured = secure(address.0, stream).await.map_err(|error| self.unreachable(&error))?;
        self.speak(secured).await
    }

    async fn speak<S>(&self, stream: S) -> Result<SendRequest<Full<Bytes>>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error.to_string()))?;
        // It ends with the runtime; what goes wrong on it comes back with the answer.
        self.runtime.spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn name(&self) -> String {
        match &self.place {
            Place::Socket(path) => path.display().to_string(),
            Place::Url(url) => url.to_string(),
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::new(UNREACHABLE, format!("the daemon at {} can't be reached: {why}", self.name()))
    }

    fn no_socket(&self, path: &Path, error: &std::io::Error) -> Failure {
        let advice = match error.kind() {
            ErrorKind::PermissionDenied => "run this as root, or as a user who may open the socket",
            _ => {
                "is it running? Start it with systemctl start webhookd, or webhookd serve; --config names another \
                 configuration, WEBHOOKD_URL another daemon"
            }
        };
        Failure::new(UNREACHABLE, format!("the daemon's socket {} can't be opened: {error}; {advice}", path.display()))
    }

    /// What the daemon said when it refused, and what to do about it.
    pub(super) fn refusal(&self, path: &str, answer: &Answer) -> Failure {
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let member = ["detail", "message", "error", "description"].iter().find_map(|name| said[name].as_str());
        let said = member.map_or_else(|| answer.status.to_string(), super::print::plain);
        match answer.status {
            StatusCode::TOO_MANY_REQUESTS => {
                Failure::new(TRY_AGAIN, format!("the daemon can't do it now: {said}; try again"))
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                let said = said.trim_end_matches("; try again");
                Failure::new(
                    TRY_AGAIN,
                    format!("the daemon can't do it now: {said}; try again, and see webhookd doctor"),
                )
            }
            StatusCode::UNAUTHORIZED => Failure::new(NO, format!("{said}; {TOKEN} must hold a token that is in force")),
            StatusCode::NOT_FOUND if path.starts_with("/admin/") && !self.is_local() => {
                let advice = "the administration is on the socket and on admin.listen, not on the public listeners";
                Failure::new(
                    NO,
                    format!("{said}: either it is not there, or {URL} leads to the wrong listener; {advice}"),
                )
            }
            StatusCode::NOT_FOUND if path.starts_with("/v1/") => {
                let advice = "it has gone, was mistyped, or is another tenant's (--tenant, or the tenant's own key)";
                Failure::new(NO, format!("{said}: {advice}"))
            }
            _ => Failure::new(NO, format!("the daemon refuses: {said}")),
        }
    }
}

/// TLS to `host`, for HTTP/1.1; why not, otherwise.
pub(super) async fn secure(host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    let mut tls = (*client_config(None).map_err(|error| error.to_string())?).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(|_| "no certificate can name the host".to_owned())?;
    let secured = TlsConnector::from(std::sync::Arc::new(tls)).connect(name, stream).await;
    secured.map_err(|error| format!("{error}; SSL_CERT_FILE names another file of certificates to trust"))
}

impl Answer {
    pub(super) fn json(&self) -> Result<Value, Failure> {
        let read = serde_json::from_slice(&self.body);
        read.map_err(|_| Failure::new(UNREACHABLE, "what came back is not from this daemon: it is not JSON"))
    }
}

/// A path with a query of those parameters that are given.
pub(super) fn with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let query = query.finish();
    match (query.is_empty(), path.contains('?')) {
        (true, _) => path.to_owned(),
        (false, true) => format!("{path}&{query}"),
        (false, false) => format!("{path}?{query}"),
    }
}

/// Text as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
