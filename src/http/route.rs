//! The one table of routes, all dialects visible at once: what may be asked, by whom, on which listener, how large a body
//! may be, and in whose form an error is told. `Action` names what is done; `call` does it.
//!
//! Invariant: nothing is answered that has no row here, but for 404, 405 and what `hygiene` refuses. Every row is described in
//! `docs/openapi.json`; a test of `openapi` says what is missing there.

use std::collections::BTreeMap;

use http::Method;
use matchit::Router;

use super::problem::Form;
use super::server::Peer;

/// Which kind of listener a request came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    Public,
    /// The admin socket, and the admin listener.
    Admin,
    Metrics,
}

/// Whose keys open a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No key is asked for.
    Open,
    /// Every key.
    Any,
    /// Publishers, and tenant keys with the right to publish.
    Publish,
    /// Tenant keys for their own tenant, admins for the one they name.
    Tenant,
    Admin,
}

/// How large a body may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// None is read.
    None,
    /// As one published event.
    Event,
    Batch,
    /// Anything that describes a webhook or key.
    Small,
}

/// On which listeners a route is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    Everywhere,
    /// On the public listeners and on the admin's.
    Api,
    Admin,
    AdminAndMetrics,
}

impl Where {
    #[must_use]
    pub fn holds(self, surface: Surface) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Api => surface != Surface::Metrics,
            Self::Admin => surface == Surface::Admin,
            Self::AdminAndMetrics => surface != Surface::Public,
        }
    }
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Health,
    Ready,
    OpenApi,
    Metrics,
    Publish,
    PublishBatch,
    Events,
    Event,
    Explain,
    Resend,
    EventTypes,
    IpRanges,
    Cancel,
    LemonCreate,
    LemonList,
    LemonSee,
    LemonChange,
    LemonDelete,
    LemonRotate,
    LemonTest,
    LemonAttempts,
    LemonDeliveries,
    Stats,
    LemonPause,
    LemonResume,
    StreamOpen,
    StreamAnswer,
    DeadLetters,
    Redrive,
    DropDead,
    RedriveMany,
    PurgeMany,
    Recover,
    JobList,
    JobSee,
    JobCancel,
    OmniaCreate,
    OmniaList,
    OmniaSee,
    OmniaDelete,
    VibeCreate,
    VibeList,
    VibeSee,
    VibeChange,
    VibeDelete,
    VibeTest,
    OneMetricRegister,
    TenantPut,
    TenantSee,
    TenantList,
    TenantDelete,
    KeyCreate,
    KeyList,
    KeyRevoke,
    AuditList,
    PauseList,
    Pause,
    Resume,
    Overview,
    AllWebhooks,
    AllAttempts,
    AllRedrive,
    AllPurge,
    AnyRecover,
    AllJobs,
    AnyJobSee,
    AnyJobCancel,
    Reload,
    ConfigSee,
    LogSet,
    Retention,
    Backup,
}

#[derive(Debug)]
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub form: Form,
    pub access: Access,
    pub body: Body,
    pub on: Where,
    pub action: Action,
}

macro_rules! routes {
    ($($method:ident $path:literal $form:ident $access:ident $body:ident $on:ident => $action:ident;)+) => {
        /// Every route.
        pub static ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            path: $path,
            form: Form::$form,
            access: Access::$access,
            body: Body::$body,
            on: Where::$on,
            action: Action::$action,
        }),+];
    };
}

routes! {
    GET    "/healthz"                         Lemon Open    None  Everywhere => Health;
    GET    "/readyz"                          Lemon Open    None  Everywhere => Ready;
    GET    "/openapi.json"                    Lemon Open    None  Api        => OpenApi;
    GET    "/metrics"                         Admin Admin   None  AdminAndMetrics => Metrics;

    POST   "/v1/events"                       Lemon Publish Event Api => Publish;
    POST   "/v1/events/batch"                 Lemon Publish Batch Api => PublishBatch;
    GET    "/v1/events"                       Lemon Tenant  None  Api => Events;
    GET    "/v1/events/{id}"                  Lemon Tenant  None  Api => Event;
    GET    "/v1/events/{id}/explain"          Lemon Tenant  None  Api => Explain;
    POST   "/v1/events/{id}/resend"           Lemon Tenant  Small Api => Resend;
    DELETE "/v1/events/{id}/deliveries"       Lemon Tenant  None  Api => Cancel;

    GET    "/v1/event-types"                  Lemon Any     None  Api => EventTypes;
    GET    "/v1/ip-ranges"                    Lemon Tenant  None  Api => IpRanges;

    POST   "/v1/webhooks"                     Lemon Tenant  Small Api => LemonCreate;
    GET    "/v1/webhooks"                     Lemon Tenant  None  Api => LemonList;
    GET    "/v1/webhooks/{id}"                Lemon Tenant  None  Api => LemonSee;
    PATCH  "/v1/webhooks/{id}"                Lemon Tenant  Small Api => LemonChange;
    DELETE "/v1/webhooks/{id}"                Lemon Tenant  None  Api => LemonDelete;
    POST   "/v1/webhooks/{id}/rotate-secret"  Lemon Tenant  None  Api => LemonRotate;
    POST   "/v1/webhooks/{id}/test"           Lemon Tenant  Event Api => LemonTest;
    GET    "/v1/webhooks/{id}/attempts"       Lemon Tenant  None  Api => LemonAttempts;
    GET    "/v1/webhooks/{id}/deliveries"     Lemon Tenant  None  Api => LemonDeliveries;
    GET    "/v1/webhooks/{id}/stats"          Lemon Tenant  None  Api => Stats;
    POST   "/v1/webhooks/{id}/pause"          Lemon Tenant  None  Api => LemonPause;
    POST   "/v1/webhooks/{id}/resume"         Lemon Tenant  None  Api => LemonResume;

    POST   "/v1/streams"                      Lemon Tenant  Small Api => StreamOpen;
    POST   "/v1/streams/{id}/answers"         Lemon Tenant  Small Api => StreamAnswer;

    GET    "/v1/dead-letters"                 Lemon Tenant  None  Api => DeadLetters;
    POST   "/v1/dead-letters/{id}/redrive"    Lemon Tenant  None  Api => Redrive;
    DELETE "/v1/dead-letters/{id}"            Lemon Tenant  None  Api => DropDead;

    POST   "/v1/dead-letters/redrive"         Lemon Tenant  Small Api => RedriveMany;
    POST   "/v1/dead-letters/purge"           Lemon Tenant  Small Api => PurgeMany;
    POST   "/v1/webhooks/{id}/recover"        Lemon Tenant  Small Api => Recover;
    GET    "/v1/jobs"                         Lemon Tenant  None  Api => JobList;
    GET    "/v1/jobs/{id}"                    Lemon Tenant  None  Api => JobSee;
    DELETE "/v1/jobs/{id}"                    Lemon Tenant  None  Api => JobCancel;

    POST   "/v3/webhooks"                     Omnia Tenant  Small Api => OmniaCreate;
    GET    "/v3/webhooks"                     Omnia Tenant  None  Api => OmniaList;
    GET    "/v3/webhooks/{id}"                Omnia Tenant  None  Api => OmniaSee;
    DELETE "/v3/webhooks/{id}"                Omnia Tenant  None  Api => OmniaDelete;
    POST   "/api/v3/webhooks"                 Omnia Tenant  Small Api => OmniaCreate;
    GET    "/api/v3/webhooks"                 Omnia Tenant  None  Api => OmniaList;
    GET    "/api/v3/webhooks/{id}"            Omnia Tenant  None  Api => OmniaSee;
    DELETE "/api/v3/webhooks/{id}"            Omnia Tenant  None  Api => OmniaDelete;

    POST   "/api/v1/webhooks"                 Vibe  Tenant  Small Api => VibeCreate;
    GET    "/api/v1/webhooks"                 Vibe  Tenant  None  Api => VibeList;
    POST   "/api/v1/webhooks/test"            Vibe  Tenant  Event Api => VibeTest;
    GET    "/api/v1/webhooks/{id}"            Vibe  Tenant  None  Api => VibeSee;
    PUT    "/api/v1/webhooks/{id}"            Vibe  Tenant  Small Api => VibeChange;
    DELETE "/api/v1/webhooks/{id}"            Vibe  Tenant  None  Api => VibeDelete;

    POST   "/api/webhook/register"            OneMetric Tenant Small Api => OneMetricRegister;

    GET    "/admin/tenants"                   Admin Admin   None  Admin => TenantList;
    PUT    "/admin/tenants/{id}"              Admin Admin   Small Admin => TenantPut;
    GET    "/admin/tenants/{id}"              Admin Admin   None  Admin => TenantSee;
    DELETE "/admin/tenants/{id}"              Admin Admin   None  Admin => TenantDelete;
    POST   "/admin/keys"                      Admin Admin   Small Admin => KeyCreate;
    GET    "/admin/keys"                      Admin Admin   None  Admin => KeyList;
    DELETE "/admin/keys/{id}"                 Admin Admin   None  Admin => KeyRevoke;
    GET    "/admin/audit"                     Admin Admin   None  Admin => AuditList;
    GET    "/admin/pause"                     Admin Admin   None  Admin => PauseList;
    POST   "/admin/pause"                     Admin Admin   Small Admin => Pause;
    POST   "/admin/resume"                    Admin Admin   Small Admin => Resume;
    GET    "/admin/stats"                     Admin Admin   None  Admin => Overview;
    GET    "/admin/webhooks"                  Admin Admin   None  Admin => AllWebhooks;
    GET    "/admin/attempts"                  Admin Admin   None  Admin => AllAttempts;
    POST   "/admin/dead-letters/redrive"      Admin Admin   Small Admin => AllRedrive;
    POST   "/admin/dead-letters/purge"        Admin Admin   Small Admin => AllPurge;
    POST   "/admin/webhooks/{id}/recover"     Admin Admin   Small Admin => AnyRecover;
    GET    "/admin/jobs"                      Admin Admin   None  Admin => AllJobs;
    GET    "/admin/jobs/{id}"                 Admin Admin   None  Admin => AnyJobSee;
    DELETE "/admin/jobs/{id}"                 Admin Admin   None  Admin => AnyJobCancel;
    POST   "/admin/reload"                    Admin Admin   None  Admin => Reload;
    GET    "/admin/config"                    Admin Admin   None  Admin => ConfigSee;
    PUT    "/admin/log"                       Admin Admin   Small Admin => LogSet;
    POST   "/admin/retention"                 Admin Admin   Small Admin => Retention;
    POST   "/admin/backup"                    Admin Admin   None  Admin => Backup;
}

/// The table, ready to be asked.
pub struct Table {
    /// Path → its routes, by method.
    router: Router<Vec<&'static Route>>,
}

/// What the table says to a request.
pub enum Found<'a> {
    Route {
        route: &'static Route,
        /// The path's one parameter, empty where it has none.
        id: &'a str,
    },
    /// The path exists, for these methods.
    WrongMethod {
        form: Form,
        allow: String,
    },
    Nothing,
}

impl Table {
    /// # Panics
    /// When two rows of the table contradict each other; a test builds it.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the table is fixed, and a test builds it")]
    pub fn new() -> Self {
        let mut by_path: BTreeMap<&'static str, Vec<&'static Route>> = BTreeMap::new();
        for route in ROUTES {
            by_path.entry(route.path).or_default().push(route);
        }
        let mut router = Router::new();
        for (path, routes) in by_path {
            router.insert(path, routes).expect("paths that do not contradict each other");
        }
        Self { router }
    }

    #[must_use]
    pub fn find<'a>(&self, surface: Surface, method: &Method, path: &'a str) -> Found<'a> {
        let Ok(matched) = self.router.at(path) else { return Found::Nothing };
        let here = || matched.value.iter().filter(|route| route.on.holds(surface));
        // What can be read can be asked about.
        let wanted = if *method == Method::HEAD { &Method::GET } else { method };
        if let Some(route) = here().find(|route| route.method == *wanted) {
            return Found::Route { route, id: matched.params.get("id").unwrap_or_default() };
        }
        let Some(any) = here().next() else { return Found::Nothing };
        let named = |method: &'static Method| if *method == Method::GET { "GET, HEAD" } else { method.as_str() };
        let allow = here().map(|route| named(&route.method)).collect::<Vec<_>>().join(", ");
        Found::WrongMethod { form: any.form, allow }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// In whose form an error is told about a path that has no route: that of the listener's routes which begin most like it.
#[must_use]
pub fn form_near(surface: Surface, path: &str) -> Form {
    let alike = |route: &Route| route.path.split('/').zip(path.split('/')).take_while(|(a, b)| a == b).count();
    // The first of the nearest; every path begins with the same empty segment.
    let near = ROUTES.iter().filter(|route| route.on.holds(surface) && alike(route) > 1);
    near.rev().max_by_key(|route| alike(route)).map_or(Form::Lemon, |route| route.form)
}

/// Whether the way in is itself the right to administer.
#[must_use]
pub fn is_socket(surface: Surface, peer: &Peer) -> bool {
    surface == Surface::Admin && peer.unix
}
