//! One exchange with a receiver. Owns the deadline over all of it and what its end is called; sends a request at most once:
//! again only when hyper hands it back unsent. Never follows a redirect.
//!
//! Signing and headers are the caller's; what follows from an [`Exchange`] is `retry`'s.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::HOST;
use http::uri::Uri;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::Full;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::answer::{self, Read};
use super::connect::{Connect, Dialler, Phase, describe, failure};
use super::guard::{PublicAddr, Rules};
use super::pool::{Connection, Lease, Pool};
use super::resolve::Resolve;
use super::target::Target;
use super::tls::{TlsError, client_config};
use crate::clock::{Clock, Millis};
use crate::model::attempt::{Class, Exchange, Failure};

/// What can be set about going out.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What may be connected to.
    pub rules: Rules,
    /// PEM file of certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Addresses to send from, in turn, by family; the system's choice when empty.
    pub source_addresses: Vec<IpAddr>,
}

/// Why settings can't be used.
#[derive(Debug, Error)]
pub enum EgressError {
    /// The trust in receivers can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The way out. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Egress(Arc<Inner>);

struct Inner {
    dialler: ArcSwap<Dialler>,
    resolver: Arc<dyn Resolve>,
    /// In TCP's place.
    connect: Option<Arc<dyn Connect>>,
    clock: Clock,
    open: Arc<AtomicUsize>,
    /// Numbers the settings: a connection is used under the number that it was made under, and no other.
    generations: AtomicU64,
}

impl Egress {
    /// Sets up the way out. `clock` is what dates in answers are compared with.
    ///
    /// # Errors
    /// An [`EgressError`] when the settings can't be used.
    pub fn build(settings: Settings, resolver: Arc<dyn Resolve>, clock: Clock) -> Result<Self, EgressError> {
        Self::build_over(None, settings, resolver, clock)
    }

    /// `build` with something in TCP's place.
    ///
    /// # Errors
    /// As `build`.
    pub fn build_over(
        connect: Option<Arc<dyn Connect>>,
        settings: Settings,
        resolver: Arc<dyn Resolve>,
        clock: Clock,
    ) -> Result<Self, EgressError> {
        let open = Arc::new(AtomicUsize::new(0));
        let dialler = ArcSwap::from_pointee(dialler(settings, connect.clone(), 0, &open)?);
        Ok(Self(Arc::new(Inner { dialler, resolver, connect, clock, open, generations: AtomicU64::new(0) })))
    }

    /// Takes new settings. No exchange that starts after this uses a connection made under the old ones, and idle ones are
    /// closed; exchanges under way finish on the connection that they have.
    ///
    /// # Errors
    /// An [`EgressError`]; the old settings stay, whole.
    pub fn replace(&self, settings: Settings) -> Result<(), EgressError> {
        let generation = self.0.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let dialler = dialler(settings, self.0.connect.clone(), generation, &self.0.open)?;
        let old = self.0.dialler.swap(Arc::new(dialler));
        old.replaced.tell();
        Ok(())
    }

    /// The rules in force, for `Target::parse`.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.0.dialler.load().rules)
    }

    /// Connections open at this moment, in use or kept.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// POSTs `body` to `target` and reads the answer; all of it within `timeout`. Dropping the future drops the connection
    /// with it. `headers` carry no `Host` and no framing (`Content-Length`, `Transfer-Encoding`): those are set here.
    pub async fn exchange(
        &self,
        pool: &Pool,
        target: &Target,
        headers: HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Exchange {
        let started = Instant::now();
        let deadline = started + timeout;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers;
        // One place for it, which the futures below refer to: each that took it along would be moved about with it.
        let (mut request, mut seen) = (Some(request), Seen::default());
        let call = Call { egress: self, pool, target, started, deadline };
        let failed = match timeout_at(deadline, call.run(&mut request, &mut seen)).await {
            Ok(Ok(())) => None,
            Ok(Err(failed)) => Some(failed),
            Err(_) => {
                let detail = format!("timed out after {timeout:?} while {}", seen.phase.as_str());
                Some(failure(seen.phase.timeout_class(), detail))
            }
        };
        seen.into_exchange(failed)
    }
}

pub(super) fn dialler(
    settings: Settings,
    connect: Option<Arc<dyn Connect>>,
    generation: u64,
    open: &Arc<AtomicUsize>,
) -> Result<Dialler, EgressError> {
    let tls = TlsConnector::from(client_config(settings.ca_file.as_deref())?);
    Ok(Dialler {
        rules: Arc::new(settings.rules),
        tls,
        source_addresses: settings.source_addresses,
        connect,
        generation,
        replaced: Arc::default(),
        turn: AtomicUsize::new(0),
        open: Arc::clone(open),
    })
}

/// What is known of an exchange so far; outlives the future that the deadline cuts off.
#[derive(Default)]
struct Seen {
    phase: Phase,
    remote: Option<SocketAddr>,
    status: Option<StatusCode>,
    retry_after_ms: Option<Millis>,
    excerpt: Vec<u8>,
}

impl Seen {
    fn into_exchange(self, failed: Option<Failure>) -> Exchange {
        // A status that is a failure is the answer, whatever became of the body behind it: 410 means gone.
        let failure = self.status.and_then(answer::status_failure).or(failed);
        Exchange {
            failure,
            status: self.status.map(|status| status.as_u16()),
            retry_after_ms: self.retry_after_ms,
            remote: self.remote,
            excerpt: answer::printable(self.excerpt),
        }
    }
}

/// One exchange under way.
struct Call<'a> {
    egress: &'a Egress,
    pool: &'a Pool,
    target: &'a Target,
    started: Instant,
    deadline: Instant,
}

/// A request until it is sent.
type Unsent = Option<Request<Full<Bytes>>>;

impl Call<'_> {
    async fn run(&self, request: &mut Unsent, seen: &mut Seen) -> Result<(), Failure> {
        let generation = {
            let dialler = self.egress.0.dialler.load();
            self.check(&dialler)?;
            dialler.generation
        };
        seen.phase = Phase::Connect;
        if let Some(lease) = self.pool.take(self.target.endpoint(), generation, self.started).await {
            self.send(lease, request, seen).await?;
            if request.is_none() {
                return Ok(());
            }
        }
        // Boxed: a TLS handshake's state would otherwise be moved about with every exchange that needs none.
        let made = Box::pin(self.dial(seen)).await?;
        self.send(Lease::new(made), request, seen).await?;
        match request {
            None => Ok(()),
            Some(_) => Err(failure(Class::Protocol, "the connection closed before the request was sent")),
        }
    }

    fn check(&self, dialler: &Dialler) -> Result<(), Failure> {
        if dialler.rules.require_https && !self.target.https() {
            return Err(failure(Class::Forbidden, "https is required (egress.require_https)"));
        }
        Ok(())
    }

    /// A connection of its own, under the settings that are in force now.
    async fn dial(&self, seen: &mut Seen) -> Result<Connection, Failure> {
        let dialler = self.egress.0.dialler.load_full();
        self.check(&dialler)?;
        let resolver = &*self.egress.0.resolver;
        dialler.dial(resolver, self.target, self.deadline, &mut seen.phase, &mut seen.remote).await
    }

    /// Sends the request and reads the answer, or leaves the request there when no byte of it was sent.
    async fn send(&self, mut lease: Lease, request: &mut Unsent, seen: &mut Seen) -> Result<(), Failure> {
        seen.phase = Phase::Headers;
        seen.remote = lease.addr().map(PublicAddr::get);
        if let Some(request) = request {
            self.address(request, lease.http2());
        }
        let response = match lease.send(request).await {
            Some(Ok(response)) => response,
            Some(Err(mut error)) => match error.take_message() {
                Some(unsent) => {
                    *request = Some(unsent);
                    return Ok(());
                }
                None => return Err(broken(&error.into_error(), seen.phase)),
            },
            None => return Err(failure(Class::Protocol, "the connection is gone")),
        };
        seen.phase = Phase::Body;
        seen.status = Some(response.status());
        seen.retry_after_ms = answer::retry_after_ms(response.status(), response.headers(), &self.egress.0.clock);
        match answer::read(response.into_body(), &mut seen.excerpt).await {
            Ok(Read::Whole) => {
                let current = lease.generation() == Some(self.egress.0.dialler.load().generation);
                self.pool.put(lease, current && self.egress.open_connections() <= OPEN_MAX);
                Ok(())
            }
            Ok(Read::Enough) => Ok(()),
            Err(error) => Err(broken(&error, seen.phase)),
        }
    }

    /// Says where the request goes, in the words of the protocol that carries it.
    fn address(&self, request: &mut Request<Full<Bytes>>, http2: bool) {
        if http2 {
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = self.target.absolute().clone();
            request.headers_mut().remove(HOST);
        } else {
            *request.version_mut() = Version::HTTP_11;
            *request.uri_mut() = Uri::from(self.target.path_and_query().clone());
            request.headers_mut().insert(HOST, self.target.authority().clone());
        }
    }
}

/// The connection broke, or what came over it was not HTTP.
fn broken(error: &hyper::Error, phase: Phase) -> Failure {
    failure(Class::Protocol, format!("{} while {}", describe(error), phase.as_str()))
}

/// With more connections open than this, none is kept after its exchange: descriptors are for exchanges first.
const OPEN_MAX: usize = 4_096;
