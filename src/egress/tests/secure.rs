//! TLS: who is trusted, what a refusal says, and that nothing is sent to who is not.

use std::convert::Infallible;
use std::path::PathBuf;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A certificate authority of the test's own, on disk for `ca_file`.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server's configuration with a certificate of this authority.
    fn server(&self, names: &[&str], expired: bool, alpn: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(1999, 1, 1);
            params.not_after = rcgen::date_time_ymd(2000, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    fn egress(&self) -> Egress {
        let rules = Rules { require_https: true, ..loopback_rules() };
        let settings = Settings { rules, ca_file: Some(self.file()), ..Settings::default() };
        let ip = ["127.0.0.1".parse().unwrap()];
        egress_with(settings, StaticResolver::default().with("good.test", Ok(&ip)).with("other.test", Ok(&ip)))
    }
}

/// A receiver over TLS: HTTP/2 when that was agreed on, HTTP/1.1 otherwise. Counts handshakes that failed.
async fn secure(tls: TlsAcceptor) -> (Receiver, Arc<AtomicUsize>) {
    let failed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&failed);
    let receiver = Receiver::start(move |peer| {
        let (tls, count) = (tls.clone(), Arc::clone(&count));
        async move {
            let Ok(stream) = tls.accept(peer.stream).await else {
                count.fetch_add(1, Ordering::SeqCst);
                return;
            };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice());
            let requests = peer.requests;
            let service = service_fn(move |request: Request<Incoming>| answer(request, Arc::clone(&requests)));
            let io = TokioIo::new(stream);
            if http2 {
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = serving.serve_connection(io, service).await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            }
        }
    })
    .await;
    (receiver, failed)
}

/// Says which protocol carried the request; never answers `/hang`.
async fn answer(
    request: Request<Incoming>,
    requests: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let seen = format!("{:?} {} {:?}", request.version(), request.uri(), request.headers().get("host"));
    let hang = request.uri().path() == "/hang";
    let Ok(body) = request.into_body().collect().await else { return Ok(Response::default()) };
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    requests.lock().unwrap().push(format!("{seen} {body}"));
    if hang {
        std::future::pending::<()>().await;
    }
    Ok(Response::new(Full::new(Bytes::from(seen))))
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_configured() {
    let authority = Authority::new("trusted");
    let (receiver, _) = secure(authority.server(&["good.test"], false, &["http/1.1"])).await;
    let (egress, pool) = (authority.egress(), Pool::default());
    let port = receiver.addr.port();
    for host in ["good.test", "GOOD.test"] {
        let exchange = post(&egress, &pool, &format!("https://{host}:{port}/hook"), LONG).await;
        assert_eq!((exchange.failure, exchange.status), (None, Some(200)));
        assert!(exchange.excerpt.contains("HTTP/1.1 /hook"), "{}", exchange.excerpt);
    }
    assert_eq!(receiver.accepts(), 1);
    assert!(receiver.requests()[0].ends_with(BODY));
}

#[tokio::test]
async fn addresses_can_stand_in_certificates() {
    let authority = Authority::new("trusted");
    let (receiver, _) = secure(authority.server(&["127.0.0.1"], false, &[])).await;
    let url = format!("https://{}/", receiver.addr);
    assert_eq!(post(&authority.egress(), &Pool::default(), &url, LONG).await.failure, None);
}

#[tokio::test]
async fn bad_certificates_fail_with_their_reason_and_get_nothing() {
    let (authority, stranger) = (Authority::new("trusted"), Authority::new("stranger"));
    let table = [
        (authority.server(&["good.test"], true, &["h2"]), "expired"),
        (authority.server(&["other.test"], false, &["h2"]), "not valid for name"),
        (stranger.server(&["good.test"], false, &["http/1.1"]), "UnknownIssuer"),
    ];
    for (tls, reason) in table {
        let (receiver, failed) = secure(tls).await;
        let url = format!("https://good.test:{}/", receiver.addr.port());
        let egress = authority.egress();
        let exchange = post(&egress, &Pool::default(), &url, LONG).await;
        assert_eq!((class(&exchange), exchange.status), (Some(Class::Tls), None), "{exchange:?}");
        assert!(detail(&exchange).contains(reason), "{reason}: {exchange:?}");
        eventually("the handshake fails", || failed.load(Ordering::SeqCst) == 1).await;
        assert_eq!((receiver.accepts(), receiver.requests()), (1, vec![]));
        assert_eq!(egress.open_connections(), 0);
    }
}

#[tokio::test]
async fn what_does_not_speak_tls_is_a_tls_failure() {
    let plain = Receiver::answering("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let speaking = Receiver::start(|mut peer| async move {
        peer.say("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.gone().await;
    })
    .await;
    let closing = Receiver::start(|peer| async move { drop(peer) }).await;
    let egress = Authority::new("trusted").egress();
    for receiver in [&speaking, &closing] {
        let exchange = post(&egress, &Pool::default(), &format!("https://{}/", receiver.addr), LONG).await;
        assert_eq!(class(&exchange), Some(Class::Tls), "{exchange:?}");
    }
    let exchange = post(&egress, &Pool::default(), &format!("https://{}/", plain.addr), SHORT).await;
    assert_eq!(class(&exchange), Some(Class::Timeout), "{exchange:?}");
    assert!(detail(&exchange).ends_with("while shaking hands over TLS"), "{exchange:?}");
}

#[tokio::test]
async fn http2_is_spoken_over_one_connection_when_offered() {
    let authority = Authority::new("trusted");
    let (receiver, _) = secure(authority.server(&["good.test"], false, &["h2", "http/1.1"])).await;
    let (egress, pool) = (authority.egress(), Pool::default());
    let url = format!("https://good.test:{}/hook?a=b", receiver.addr.port());
    let first = post(&egress, &pool, &url, LONG).await;
    assert_eq!((first.failure, first.status), (None, Some(200)));
    let (a, b, c) = tokio::join!(
        post(&egress, &pool, &url, LONG),
        post(&egress, &pool, &url, LONG),
        post(&egress, &pool, &url, LONG)
    );
    assert!([a, b, c].iter().all(|exchange| exchange.failure.is_none()));
    assert_eq!(receiver.accepts(), 1);
    let expected = format!("HTTP/2.0 {url} None {BODY}");
    assert!(receiver.requests().iter().all(|seen| *seen == expected), "{:?}", receiver.requests());
    egress.replace(Settings { ca_file: Some(authority.file()), ..settings() }).unwrap();
    eventually("the connection is closed", || egress.open_connections() == 0).await;
}

#[tokio::test]
async fn an_http2_exchange_that_times_out_leaves_the_others_alone() {
    let authority = Authority::new("trusted");
    let (receiver, _) = secure(authority.server(&["good.test"], false, &["h2"])).await;
    let (egress, pool) = (authority.egress(), Pool::default());
    let base = format!("https://good.test:{}", receiver.addr.port());
    assert_eq!(post(&egress, &pool, &base, LONG).await.failure, None);
    let hang = format!("{base}/hang");
    let (longer, shorter) = tokio::join!(post(&egress, &pool, &hang, SHORT * 3), post(&egress, &pool, &hang, SHORT));
    for exchange in [longer, shorter] {
        // The first to end retires the connection, and the other one still runs to its own deadline.
        assert_eq!(class(&exchange), Some(Class::Timeout), "{exchange:?}");
    }
    assert_eq!(receiver.accepts(), 1);
    assert_eq!(post(&egress, &pool, &base, LONG).await.failure, None);
    assert_eq!(receiver.accepts(), 2);
    eventually("the old connection is closed", || egress.open_connections() == 1).await;
}
