//! From a request to its answer: route, credentials, body, then the route's own function. Owns the order of these steps,
//! which decides what a stranger can learn: an unknown path before a missing key, a missing key before a bad body.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode};
use serde::Serialize;

use super::access::{Begun, Seen};
use super::answers::Answers;
use super::audit::Privacy;
use super::auth::{self, Caller, Credentials};
use super::body::{Budget, Held, read_body};
use super::control::Control;
use super::dialect::{lemon, omnia, onemetric, vibe};
use super::origin::{self, REQUEST_ID, RequestIds};
use super::problem::{Form, Problem};
use super::query::Query;
use super::route::{Access, Action, Body, Found, Route, Table, form_near, is_socket};
use super::server::{Handler, Peer, Reply};
use super::{
    admin, audit, backup, deadletters, events, hygiene, jobs, lookup, openapi, operate, reply, retention, stats,
    streams,
};
use crate::model::id::TenantNo;
use crate::service::{Asker, Service};
use crate::store::op::{Guard, Mark};

pub use super::route::Surface;

/// A body that describes a webhook, a key or a tenant: 256 filters of 128 bytes, 32 headers of 4 KiB, and room.
const SMALL_BODY_BYTES: usize = 256 * 1024;
/// A test's body is as large as an event's, and a little for what is around it.
const WRAPPING_BYTES: usize = 1_024;

/// The API, on every listener; cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    service: Arc<Service>,
    control: Control,
    table: Table,
    ids: RequestIds,
    ready: Arc<AtomicBool>,
    body_timeout: Duration,
    bodies: Budget,
    answers: Answers,
    /// What comes in where the operator does: a flood at the public doors takes no room from it.
    operators_bodies: Budget,
}

/// The API on one kind of listener, for one worker: what `server::serve` hands requests to. Each request holds it, and each worker
/// has its own to hold: the holders of one would be counted on several cores at once.
#[derive(Clone)]
pub struct Door(Arc<Way>);

struct Way {
    api: Api,
    surface: Surface,
    worker: Option<usize>,
}

impl Handler for Door {
    fn call(&self, request: Request<hyper::body::Incoming>, peer: Peer) -> impl Future<Output = Reply> + Send {
        self.0.api.handle(self.0.worker, self.0.surface, peer, request)
    }

    fn is_proxy(&self, ip: IpAddr) -> bool {
        origin::is_trusted(ip, &self.0.api.0.service.settings())
    }
}

/// A request that was let in, as its route's function sees it.
pub struct Call<'a> {
    pub service: &'a Arc<Service>,
    pub control: &'a Control,
    /// On whose behalf the service changes something.
    pub asker: &'a Asker,
    pub caller: &'a Caller,
    pub peer: &'a Peer,
    /// The path's parameter.
    pub id: &'a str,
    pub query: Query<'a>,
    pub headers: &'a HeaderMap,
    pub body: &'a Bytes,
}

impl Call<'_> {
    /// The tenant that the request is about.
    ///
    /// # Errors
    /// See `Caller::tenant`.
    pub fn tenant(&self) -> Result<TenantNo, Problem> {
        self.caller.tenant(self.service, &self.query)
    }
}

impl Api {
    /// `control`: who answers for the process. `ready`: what `/readyz` tells. `body_timeout`: for the whole of a request's body.
    #[must_use]
    pub fn new(service: Arc<Service>, control: Control, ready: Arc<AtomicBool>, body_timeout: Duration) -> Self {
        let (table, ids) = (Table::new(), RequestIds::new(service.entropy()));
        let shown = service.metrics().request_bodies.clone();
        let (operators_bodies, bodies) = (Budget::new(shown.apart()), Budget::new(shown));
        Self(Arc::new(Inner {
            service,
            control,
            table,
            ids,
            ready,
            body_timeout,
            bodies,
            answers: Answers::default(),
            operators_bodies,
        }))
    }

    /// What listeners of one kind hand their requests to, on one worker if it is one's.
    #[must_use]
    pub fn door(&self, surface: Surface, worker: Option<usize>) -> Door {
        Door(Arc::new(Way { api: self.clone(), surface, worker }))
    }

    /// Answers a request. `worker` names the worker whose task this is, if it is one's.
    pub async fn handle<B>(&self, worker: Option<usize>, surface: Surface, peer: Peer, request: Request<B>) -> Reply
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let (parts, body) = request.into_parts();
        let inner = &*self.0;
        let (peer, begun) = {
            let settings = inner.service.settings();
            let peer = origin::client(peer, &parts.headers, &settings);
            (peer, settings.access_log.then(|| Begun { at: Instant::now(), method: parts.method.clone(), peer }))
        };
        let (id, mut seen) = (inner.ids.of(&parts.headers), Seen::default());
        let mut reply = match inner.find(surface, &parts) {
            Ok((route, id)) => {
                seen.route = Some(route);
                let call = Incoming { worker, surface, peer: &peer, parts: &parts, route, id };
                let answer = inner.answer(call, body, &mut seen).await;
                answer.unwrap_or_else(|problem| problem.reply(route.form))
            }
            Err((form, problem)) => problem.reply(form),
        };
        let form = seen.route.map_or(Form::Lemon, |route| route.form);
        if parts.method == Method::GET {
            // What was changed is told in any case.
            reply = inner.answers.hold(reply).unwrap_or_else(|| Problem::unread().reply(form));
        }
        if parts.method == Method::HEAD {
            reply = reply::headless(reply);
        }
        inner.service.metrics().count_request(reply.status().as_u16());
        if reply.status() == StatusCode::INTERNAL_SERVER_ERROR {
            // What went wrong was said where it did; this is how it is found for whoever reports the answer.
            let route = seen.route.map(|route| route.path);
            tracing::error!(request = id.to_str().unwrap_or_default(), route, "a request was answered with 500");
        }
        if let Some(begun) = begun {
            begun.write(id.as_bytes(), &seen, &reply, &inner.service);
        }
        reply.headers_mut().insert(REQUEST_ID, id);
        reply
    }
}

/// A request on its way to its route's function.
struct Incoming<'a> {
    worker: Option<usize>,
    surface: Surface,
    peer: &'a Peer,
    parts: &'a Parts,
    route: &'static Route,
    id: &'a str,
}

/// A request that was let in: who sends it, what it holds, and what it leaves so that it is not sent twice.
struct Entrant<'a> {
    caller: Caller,
    /// Until the answer is there, so that its part of the budget is as well.
    body: Held<'a>,
    mark: Option<Mark>,
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

impl Inner {
    fn find<'a>(&self, surface: Surface, parts: &'a Parts) -> Result<(&'static Route, &'a str), (Form, Problem)> {
        let path = parts.uri.path();
        hygiene::check(parts).map_err(|refusal| (form_near(surface, path), refusal.into()))?;
        match self.table.find(surface, &parts.method, path) {
            Found::Route { route, id } => Ok((route, id)),
            Found::Nothing => Err((form_near(surface, path), Problem::not_found())),
            Found::WrongMethod { form, allow } => {
                let status = StatusCode::METHOD_NOT_ALLOWED;
                let problem = Problem::new(status, "method_not_allowed", "this path does not take this method");
                Err((form, Problem { allow: Some(allow), ..problem }))
            }
        }
    }

    async fn answer<B>(&self, incoming: Incoming<'_>, body: B, seen: &mut Seen) -> Result<Reply, Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let (route, parts) = (incoming.route, incoming.parts);
        let open = route.access == Access::Open || incoming.surface == Surface::Metrics;
        if open {
            return Ok(Box::pin(self.open(route.action, &parts.headers)).await);
        }
        let Entrant { caller, body, mark } = self.let_in(&incoming, body).await?;
        (seen.key, seen.tenant) = (caller.key(), caller.own_tenant());
        if route.action == Action::Metrics {
            return Ok(Box::pin(self.open(route.action, &parts.headers)).await);
        }
        let privacy = match route.form {
            Form::Lemon => Privacy::read(&parts.headers, self.service.settings().require_data_privacy)?,
            _ => Privacy::default(),
        };
        let (query, has_reason) = (Query::parse(parts.uri.query()), privacy.is_given());
        let audit = audit::draft(&self.service, &caller, incoming.peer, route, incoming.id, &query, privacy);
        let asker = Asker::new(incoming.worker, Guard { mark, audit });
        let call = Call {
            service: &self.service,
            control: &self.control,
            asker: &asker,
            caller: &caller,
            peer: incoming.peer,
            id: incoming.id,
            query,
            headers: &parts.headers,
            body: &body.bytes,
        };
        // All but publishing is boxed: a request's state is moved about, and would be as large as the largest of them.
        let performed = match route.action {
            Action::Publish => events::publish(&call).await,
            action => Box::pin(perform(action, &call)).await,
        };
        match performed {
            Ok(reply) => {
                if !asker.is_done() {
                    Box::pin(self.service.sign_off(&asker)).await?;
                }
                Ok(reply)
            }
            Err(problem) => Err(Box::pin(self.refused(&asker, problem, has_reason)).await?),
        }
    }

    /// What is answered when a route's function refuses. Its signature is not used up, unless its twin was first, which
    /// may be why it was refused; with data privacy headers it is on record all the same.
    async fn refused(&self, asker: &Asker, problem: Problem, on_record: bool) -> Result<Problem, Problem> {
        let Some(guard) = asker.unwritten() else { return Ok(problem) };
        if let Some(mark) = guard.mark
            && !problem.status.is_server_error()
            && self.service.is_replay(mark).await?
        {
            return Ok(Problem::unauthorized());
        }
        if on_record && audit::is_heard(&problem) {
            let asker = Asker::new(None, Guard { mark: None, ..guard });
            asker.came_to(problem.code);
            self.service.sign_off(&asker).await?;
        }
        Ok(problem)
    }

    /// What needs no caller.
    async fn open(&self, action: Action, headers: &HeaderMap) -> Reply {
        match action {
            Action::OpenApi => openapi::document(headers),
            Action::Metrics => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                reply::whole(StatusCode::OK, kind, self.service.figures().await)
            }
            Action::Ready if !self.ready.load(Ordering::Acquire) => {
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "not ready");
                Problem { retry_after_s: Some(1), ..problem }.reply(Form::Lemon)
            }
            _ => reply::json(StatusCode::OK, &Status { status: "ok" }),
        }
    }

    /// Recognises the caller and reads the body: in this order, unless the body itself was signed.
    async fn let_in<B>(&self, incoming: &Incoming<'_>, body: B) -> Result<Entrant<'_>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let (service, route, peer) = (&self.service, incoming.route, incoming.peer);
        let caller = match auth::credentials(&incoming.parts.headers) {
            Credentials::None if is_socket(incoming.surface, peer) => Caller::of_socket(),
            Credentials::None | Credentials::Doubtful => return Err(Problem::unauthorized()),
            Credentials::Token(token) => auth::by_token(service, token, peer)?,
            Credentials::Signed(signed) => {
                auth::worth_reading(service, &signed)?;
                let body = Box::pin(self.read_signed(incoming, body)).await?;
                let caller = auth::by_signature(service, &signed, incoming.parts, &body.bytes, peer)?;
                caller.check(route.access)?;
                let mark = (route.method != Method::GET).then(|| signed.mark());
                // The store has the last word. Asked here too, so that who repeats what somebody else has sent uses up
                // nothing of theirs, their rate above all.
                if let Some(mark) = mark
                    && Box::pin(service.is_replay(mark)).await?
                {
                    return Err(Problem::unauthorized());
                }
                return Ok(Entrant { caller, body, mark });
            }
        };
        caller.check(route.access)?;
        Ok(Entrant { caller, body: self.read(incoming, body).await?, mark: None })
    }

    /// The body that was signed: for `GET` and `DELETE` an empty one, otherwise what was sent, also where the route has no
    /// use for it.
    async fn read_signed<B>(&self, incoming: &Incoming<'_>, body: B) -> Result<Held<'_>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let bodiless = matches!(incoming.route.method, Method::GET | Method::DELETE);
        if bodiless || incoming.route.body != Body::None {
            return self.read(incoming, body).await;
        }
        self.take(incoming, body, SMALL_BODY_BYTES).await
    }

    async fn read<B>(&self, incoming: &Incoming<'_>, body: B) -> Result<Held<'_>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let max = {
            let settings = self.service.settings();
            match incoming.route.body {
                Body::None => return Ok(Held::default()),
                Body::Small => SMALL_BODY_BYTES,
                Body::Batch => settings.batch_bytes,
                Body::Event if incoming.route.action == Action::Publish => settings.event_bytes,
                Body::Event => settings.event_bytes + WRAPPING_BYTES,
            }
        };
        check_content(&incoming.parts.headers)?;
        self.take(incoming, body, max).await
    }

    async fn take<B>(&self, incoming: &Incoming<'_>, body: B, max: usize) -> Result<Held<'_>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let budget = if incoming.surface == Surface::Admin { &self.operators_bodies } else { &self.bodies };
        let part = budget.part(self.service.settings().batch_bytes);
        let length = hygiene::content_length(&incoming.parts.headers);
        Ok(read_body(body, length, max, self.body_timeout, part).await?)
    }
}

async fn perform(action: Action, call: &Call<'_>) -> Result<Reply, Problem> {
    match action {
        Action::Publish => events::publish(call).await,
        Action::PublishBatch => events::publish_batch(call).await,
        Action::Events => events::list(call).await,
        Action::Event => events::see(call).await,
        Action::Explain => events::explain(call).await,
        Action::Resend => events::resend(call).await,
        Action::EventTypes => Ok(lookup::event_types(call)),
        Action::IpRanges => Ok(lookup::ip_ranges(call)),
        Action::Cancel => events::cancel(call).await,
        Action::LemonCreate => lemon::create(call).await,
        Action::LemonList => lemon::list(call).await,
        Action::LemonSee => lemon::see(call).await,
        Action::LemonChange => lemon::change(call).await,
        Action::LemonDelete => lemon::delete(call).await,
        Action::LemonRotate => lemon::rotate(call).await,
        Action::LemonTest => lemon::test(call).await,
        Action::LemonAttempts => lemon::attempts(call).await,
        Action::LemonDeliveries => lemon::deliveries(call).await,
        Action::Stats => stats::stats(call).await,
        Action::LemonPause => lemon::pause(call, true).await,
        Action::LemonResume => lemon::pause(call, false).await,
        Action::StreamOpen => streams::open(call).await,
        Action::StreamAnswer => streams::answer(call),
        Action::DeadLetters => deadletters::list(call).await,
        Action::Redrive => deadletters::redrive(call).await,
        Action::DropDead => deadletters::drop_dead(call).await,
        Action::OmniaCreate => omnia::create(call).await,
        Action::OmniaList => omnia::list(call),
        Action::OmniaSee => omnia::see(call),
        Action::OmniaDelete => omnia::delete(call).await,
        Action::VibeCreate => vibe::create(call).await,
        Action::VibeList => vibe::list(call).await,
        Action::VibeSee => vibe::see(call).await,
        Action::VibeChange => vibe::change(call).await,
        Action::VibeDelete => vibe::delete(call).await,
        Action::VibeTest => vibe::test(call).await,
        Action::OneMetricRegister => onemetric::register(call).await,
        Action::TenantPut => admin::put_tenant(call).await,
        Action::TenantSee => admin::see_tenant(call),
        Action::TenantDelete => admin::delete_tenant(call).await,
        Action::TenantList => Ok(admin::list_tenants(call)),
        Action::KeyCreate => admin::create_key(call).await,
        Action::KeyList => Ok(admin::list_keys(call)),
        Action::KeyRevoke => admin::revoke_key(call).await,
        Action::AuditList => audit::list(call).await,
        Action::PauseList => Ok(admin::list_paused(call)),
        Action::Pause => admin::pause(call, true).await,
        Action::Resume => admin::pause(call, false).await,
        Action::Overview => operate::overview(call).await,
        Action::AllWebhooks => operate::webhooks(call).await,
        Action::AllAttempts => operate::attempts(call).await,
        Action::Reload => operate::reload(call).await,
        Action::ConfigSee => operate::config(call).await,
        Action::LogSet => operate::log(call).await,
        Action::Retention => retention::run(call).await,
        Action::RedriveMany | Action::PurgeMany | Action::Recover => jobs::perform(action, call).await,
        Action::AllRedrive | Action::AllPurge | Action::AnyRecover => jobs::perform(action, call).await,
        Action::JobList | Action::JobSee | Action::JobCancel => jobs::perform(action, call).await,
        Action::AllJobs | Action::AnyJobSee | Action::AnyJobCancel => jobs::perform(action, call).await,
        Action::Backup => backup::backup(call).await,
        Action::Health | Action::Ready | Action::OpenApi | Action::Metrics => Err(Problem::not_found()),
    }
}

/// A body is JSON, whether it says so, says nothing, or was sent by a plain `curl -d`; and it is not packed.
fn check_content(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |message| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message);
    let packed = |value: &http::HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if hygiene::values(headers, CONTENT_ENCODING).any(packed) {
        return Err(unsupported("Content-Encoding must be identity"));
    }
    let mut kinds = hygiene::values(headers, CONTENT_TYPE);
    let fits = |value: &http::HeaderValue| {
        if value.as_bytes() == b"application/json" {
            return true;
        }
        let text = value.to_str().unwrap_or("?").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        text == "application/json"
            || text == "application/x-www-form-urlencoded"
            || (text.contains('/') && text.ends_with("+json"))
    };
    match (kinds.next(), kinds.next()) {
        (None, _) => Ok(()),
        (Some(kind), None) if fits(kind) => Ok(()),
        _ => Err(unsupported("Content-Type must be application/json")),
    }
}
