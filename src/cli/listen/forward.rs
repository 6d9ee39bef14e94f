//! Passes deliveries on to the local receiver: the headers and the body as they came, so that signatures hold. Owns where that may
//! be: on this machine over plain HTTP, elsewhere over TLS only.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use url::{Host, Url};

use super::super::Failure;
use super::super::client::secure;
use crate::limits::{EXCERPT_BYTES, RESPONSE_BYTES_MAX};

/// A time-out that the daemon did not tell.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The way to the local receiver.
pub(super) struct Forward {
    url: Url,
    host: HeaderValue,
}

/// What the local receiver did with a delivery.
pub(super) struct Answer {
    /// As the daemon wants it told; without the delivery.
    pub(super) json: Value,
    pub(super) took: Duration,
}

/// Why there was no answer.
struct Unanswered {
    class: &'static str,
    error: String,
}

impl Forward {
    pub(super) fn new(text: &str) -> Result<Self, Failure> {
        let rule = "--forward-to must be a URL: http://127.0.0.1:… on this machine, or https";
        let url = Url::parse(text).map_err(|_| Failure::usage(rule))?;
        let here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip).to_canonical().is_loopback(),
            None => false,
        };
        let fits = url.has_host() && (url.scheme() == "https" || (url.scheme() == "http" && here));
        if !fits || !url.username().is_empty() || url.password().is_some() {
            return Err(Failure::usage(rule));
        }
        let host = HeaderValue::from_str(&url[url::Position::BeforeHost..url::Position::AfterPort]);
        Ok(Self { host: host.map_err(|_| Failure::usage(rule))?, url })
    }

    /// Passes a delivery on, once.
    pub(super) async fn pass_on(&self, delivery: &Value) -> Answer {
        let started = Instant::now();
        let timeout = delivery["timeout_ms"].as_u64().map_or(TIMEOUT, Duration::from_millis);
        let done = tokio::time::timeout(timeout, self.exchange(delivery)).await;
        let done = done.unwrap_or_else(|_| {
            Err(Unanswered { class: "timeout", error: format!("the local receiver took longer than {timeout:?}") })
        });
        let json = done.unwrap_or_else(|Unanswered { class, error }| json!({"class": class, "error": error}));
        Answer { json, took: started.elapsed() }
    }

    async fn exchange(&self, delivery: &Value) -> Result<Value, Unanswered> {
        let request = self.request(delivery).ok_or_else(|| broken("the delivery can't be passed on"))?;
        let host = self.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let address = (host, self.url.port_or_known_default().unwrap_or(80));
        let unreachable = |error: std::io::Error| Unanswered { class: "connect", error: error.to_string() };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        if self.url.scheme() == "https" {
            let stream = secure(host, stream).await.map_err(|error| Unanswered { class: "tls", error })?;
            return speak(stream, request).await;
        }
        speak(stream, request).await
    }

    fn request(&self, delivery: &Value) -> Option<Request<Full<Bytes>>> {
        let path = &self.url[url::Position::BeforePath..url::Position::AfterQuery];
        let body = Bytes::from(delivery["body"].as_str()?.to_owned());
        let mut request = Request::post(path).body(Full::new(body)).ok()?;
        let headers = request.headers_mut();
        for pair in delivery["headers"].as_array()? {
            let name = HeaderName::try_from(pair[0].as_str()?).ok()?;
            headers.append(name, HeaderValue::from_str(pair[1].as_str()?).ok()?);
        }
        headers.insert(HOST, self.host.clone());
        Some(request)
    }
}

async fn speak<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Value, Unanswered>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // As the daemon writes names to receivers.
    let handshake = http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(&error.to_string()))?;
    // It ends with the sender; what goes wrong on it comes back with the answer.
    let connection = tokio::spawn(async move { drop(connection.await) });
    let reply = sender.send_request(request).await.map_err(|error| broken(&error.to_string()))?;
    let (head, mut body) = reply.into_parts();
    let (mut excerpt, mut read) = (Vec::new(), 0);
    while read < RESPONSE_BYTES_MAX
        && let Some(frame) = body.frame().await
    {
        let data = frame.map_err(|error| broken(&error.to_string()))?.into_data().unwrap_or_default();
        read += data.len();
        excerpt.extend_from_slice(&data[..data.len().min(EXCERPT_BYTES - excerpt.len())]);
    }
    connection.abort();
    let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    Ok(json!({"status": head.status.as_u16(), "body": String::from_utf8_lossy(&excerpt), "retry_after": retry_after}))
}

fn broken(error: &str) -> Unanswered {
    Unanswered { class: "protocol", error: error.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_machine() {
        for good in ["http://localhost:3000/in?x=1", "http://127.0.0.1/", "http://[::1]:1/", "https://a.example/"] {
            assert!(Forward::new(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost:3000", "http://a.example/", "http://10.0.0.1/", "ftp://localhost/", "https://a:b@c/"]
        {
            assert!(Forward::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_delivery_is_passed_on_as_it_came() {
        let forward = Forward::new("http://localhost:3000/in?x=1").unwrap();
        let delivery = json!({"body": "{\"a\": 0.10}", "headers": [["webhook-id", "evt"], ["x-a", "1"], ["x-a", "2"]]});
        let request = forward.request(&delivery).unwrap();
        assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("POST", "/in?x=1"));
        assert_eq!(
            (&request.headers()["host"], &request.headers()["webhook-id"]),
            (&"localhost:3000".parse().unwrap(), &"evt".parse().unwrap())
        );
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
        assert!(forward.request(&json!({"headers": []})).is_none());
    }
}
