//! Names to addresses. Owns the seam ([`Resolve`]) and the system's resolver behind it; never blocks a thread, and never
//! holds a caller longer than `limits::RESOLVE_TIMEOUT`. Judges nothing: that is `guard`'s, on whatever comes out of here.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::target::{LOCALHOST, is_localhost};
use crate::limits::RESOLVE_TIMEOUT;

/// The addresses of a name, or why there are none, for people.
pub type Answer = Result<Vec<IpAddr>, String>;

/// Something that knows the addresses of names. Tests script it.
pub trait Resolve: Send + Sync {
    /// All addresses of a name, of both families. An empty list counts as an error.
    fn resolve<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;
}

/// The machine's resolver: `/etc/hosts`, then the name servers of `/etc/resolv.conf`, with a cache that follows TTLs.
pub struct SystemResolver {
    /// `None` while the system's configuration can't be read: each look-up tries again, so that a machine whose network
    /// comes up late needs no restart.
    resolver: ArcSwapOption<TokioResolver>,
    permits: Semaphore,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemResolver {
    /// Reads the system's configuration. Never fails: without one, names fail to resolve and the daemon runs.
    #[must_use]
    pub fn new() -> Self {
        let this = Self { resolver: ArcSwapOption::empty(), permits: Semaphore::new(LOOKUPS_MAX) };
        if let Err(error) = this.reload() {
            tracing::warn!(error, "no names can be resolved until the resolver's configuration is readable");
        }
        this
    }

    /// With name servers of the caller's choice.
    ///
    /// # Errors
    /// When the resolver can't be built from them.
    pub fn with_config(config: ResolverConfig, options: ResolverOpts) -> Result<Self, String> {
        let resolver = build(config, options)?;
        Ok(Self { resolver: ArcSwapOption::from_pointee(resolver), permits: Semaphore::new(LOOKUPS_MAX) })
    }

    /// Reads the system's configuration again and forgets what was cached; keeps the old one when that fails.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn reload(&self) -> Result<(), String> {
        let (config, options) = read_system_conf().map_err(|error| format!("/etc/resolv.conf: {error}"))?;
        self.resolver.store(Some(build(config, options)?.into()));
        Ok(())
    }

    async fn look_up(&self, name: &str) -> Answer {
        if is_localhost(name) {
            return Ok(LOCALHOST.to_vec());
        }
        let deadline = Instant::now() + RESOLVE_TIMEOUT;
        let too_late = |_| format!("{name}: no answer within {RESOLVE_TIMEOUT:?}");
        let _permit = timeout_at(deadline, self.permits.acquire())
            .await
            .map_err(|_| format!("{name}: too many look-ups are waiting for an answer"))?
            .map_err(|error| error.to_string())?;
        if self.resolver.load().is_none() {
            self.reload()?;
        }
        let Some(resolver) = self.resolver.load_full() else {
            return Err("no resolver is configured".to_owned());
        };
        let found = timeout_at(deadline, resolver.lookup_ip(qualified(name)?)).await.map_err(too_late)?;
        Ok(found.map_err(|error| format!("{name}: {error}"))?.iter().collect())
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        Box::pin(self.look_up(name))
    }
}

/// A name with a dot is taken as complete: a search list would ask for it under foreign suffixes first, several
/// look-ups for one, and let the answer depend on the machine.
fn qualified(name: &str) -> Result<Name, String> {
    let mut parsed = Name::from_ascii(name).map_err(|error| format!("{name}: {error}"))?;
    if name.contains('.') {
        parsed.set_fqdn(true);
    }
    Ok(parsed)
}

fn build(config: ResolverConfig, mut options: ResolverOpts) -> Result<TokioResolver, String> {
    // Both families at once: all records are judged, so a name can't show the guard half of its addresses.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // The system's 5 s a try would spend the whole time on the first name server that is silent.
    options.timeout = options.timeout.min(TRY_TIMEOUT);
    options.attempts = options.attempts.max(2);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|error| format!("resolver: {error}"))
}

/// Look-ups under way at once; each may hold two sockets.
const LOOKUPS_MAX: usize = 256;
/// One question to one name server; three of them fit into `RESOLVE_TIMEOUT`.
const TRY_TIMEOUT: Duration = Duration::from_millis(600);
const _: () = assert!(TRY_TIMEOUT.as_millis() * 3 < RESOLVE_TIMEOUT.as_millis());

/// A resolver that answers from a script, for tests: each name has a list of answers, given in turn, the last one for ever.
/// A name without a script never gets an answer.
#[derive(Default)]
pub struct StaticResolver {
    answers: Mutex<HashMap<String, VecDeque<Answer>>>,
}

impl StaticResolver {
    /// Adds the answer that `name` gets after those it already has.
    #[must_use]
    pub fn with(self, name: &str, answer: Result<&[IpAddr], &str>) -> Self {
        let answer = answer.map(<[IpAddr]>::to_vec).map_err(str::to_owned);
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(name.to_owned())
            .or_default()
            .push_back(answer);
        self
    }

    fn next(&self, name: &str) -> Option<Answer> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let script = answers.get_mut(name)?;
        if script.len() > 1 { script.pop_front() } else { script.front().cloned() }
    }
}

impl Resolve for StaticResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        let answer = self.next(name);
        Box::pin(async move {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }
}
