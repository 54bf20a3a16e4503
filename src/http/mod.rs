//! The only place that knows HTTP: what is served where, and what stands before it.
//!
//! ```text
//! connection ─► observe ─► gate ─► routes ─► events, publish, health …
//! ```
//!
//! A response whose body is a stream leaves the HTTP library: see [`server`] and [`writer`].

pub(crate) mod access;
mod activity;
pub mod alarm;
pub mod app;
pub mod body;
mod certificate;
pub(crate) mod closed;
mod connections;
pub(crate) mod console;
pub mod drain;
mod events;
mod expiry;
mod h1;
mod h2;
mod handshake;
pub(crate) mod health;
mod malformed;
mod ndjson;
pub(crate) mod orders;
mod patience;
mod poll;
mod presence;
pub mod problem;
mod publish;
pub mod query;
mod refusal;
pub mod reload;
pub mod server;
mod sockets;
pub mod sse;
pub mod stream;
pub mod streams;
mod subscription;
pub(crate) mod survey;
mod ticket;
pub mod tls;
pub mod wire;
pub mod writer;
pub mod ws;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use self::{
    app::App,
    body::Body,
    problem::{Code, Problem},
};
use crate::{admin, auth::Identity, config::Config, layers};

pub(crate) use refusal::{Head as RequestHead, Refusable};

/// Which of the two listeners a request came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Subscribers and publishers.
    Public,
    /// Operators.
    Admin,
}

impl Listener {
    /// As it stands in log lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Admin => "admin",
        }
    }
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The address of the client, which a trusted proxy may have named.
    pub address: IpAddr,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// It speaks TLS.
    pub(crate) secure: bool,
    /// On this machine, with nobody in between, and meaning this machine.
    pub local: bool,
    /// Who it is, as far as its credentials prove it.
    pub(crate) identity: Arc<Identity>,
    /// The id of the request, taken or made.
    pub request_id: Arc<str>,
    /// Ends the connection, where a stream has no other way to.
    pub kill: Option<CancellationToken>,
}

/// A route: its path, of which one part may be `{anything}`, and the methods that it allows.
struct Route {
    path: &'static str,
    allow: &'static str,
}

impl Route {
    /// What stands in the place of `{anything}`; nothing where there is no such place. None: it is another path.
    fn matches<'p>(&self, path: &'p str) -> Option<&'p str> {
        let Some((before, rest)) = self.path.split_once('{') else {
            return (self.path == path).then_some("");
        };
        let after = rest.split_once('}').map_or("", |(_, after)| after);
        let part = path.strip_prefix(before)?.strip_suffix(after)?;
        Some(part).filter(|part| !part.is_empty())
    }
}

const fn route(path: &'static str, allow: &'static str) -> Route {
    Route { path, allow }
}

const PUBLIC: [Route; 10] = [
    route("/events", "GET, HEAD, OPTIONS"),
    route("/ws", "GET, OPTIONS"),
    route("/poll", "GET, HEAD, OPTIONS"),
    route("/presence", "GET, HEAD, OPTIONS"),
    route("/publish", "POST, OPTIONS"),
    route("/ticket", "POST, OPTIONS"),
    route(connections::TOKEN, "POST, OPTIONS"),
    route("/health", "GET, HEAD, OPTIONS"),
    route("/health/live", "GET, HEAD, OPTIONS"),
    route("/health/ready", "GET, HEAD, OPTIONS"),
];

/// On the public listener, where the settings want it.
const CONSOLE: [Route; 3] = [
    route(console::PAGE, "GET, HEAD, OPTIONS"),
    route(console::CLIENT, "GET, HEAD, OPTIONS"),
    route(console::ASSET, "GET, HEAD, OPTIONS"),
];

const ADMIN: [Route; 14] = [
    route("/metrics", "GET, HEAD, OPTIONS"),
    route("/stats", "GET, HEAD, OPTIONS"),
    route("/config", "GET, HEAD, OPTIONS"),
    route(admin::RELOAD, "POST, OPTIONS"),
    route(admin::topics::TOPICS, "GET, HEAD, OPTIONS"),
    route(admin::topics::TOPIC, "GET, HEAD, DELETE, OPTIONS"),
    route(admin::connections::CONNECTIONS, "GET, HEAD, OPTIONS"),
    route(admin::connections::CONNECTION, "DELETE, OPTIONS"),
    route(admin::events::EVENT, "GET, HEAD, OPTIONS"),
    route(admin::log_level::LOG_LEVEL, "GET, HEAD, PUT, OPTIONS"),
    route(admin::drain::DRAIN, "POST, OPTIONS"),
    route("/health", "GET, HEAD, OPTIONS"),
    route("/health/live", "GET, HEAD, OPTIONS"),
    route("/health/ready", "GET, HEAD, OPTIONS"),
];

/// The service of a listener: layers around routes. Every refusal has become a response.
pub(crate) type Stack =
    BoxCloneSyncService<Request<Incoming>, Response<Body>, std::convert::Infallible>;

/// Builds the stack of a listener, from the outside in.
pub(crate) fn stack(app: &Arc<App>, listener: Listener) -> Stack {
    let routes = Routes {
        app: app.clone(),
        listener,
    };
    // Whatever is refused further in is still seen, counted and given a request id.
    let observe = layers::ObserveLayer::new(app.clone());
    // Before any route: a stranger must not even find out what there is.
    let gate = layers::GateLayer::new(app.clone(), listener);
    BoxCloneSyncService::new(observe.layer(gate.layer(routes)))
}

/// The routes of a listener.
#[derive(Clone)]
struct Routes {
    app: Arc<App>,
    listener: Listener,
}

fn routes(listener: Listener, config: &Config) -> impl Iterator<Item = &'static Route> {
    let (routes, besides): (&[Route], &[Route]) = match listener {
        Listener::Public if config.console() => (&PUBLIC, &CONSOLE),
        Listener::Public => (&PUBLIC, &[]),
        Listener::Admin => (&ADMIN, &[]),
    };
    routes.iter().chain(besides)
}

fn find<'p>(
    listener: Listener,
    config: &Config,
    path: &'p str,
) -> Option<(&'static Route, &'p str)> {
    routes(listener, config).find_map(|route| Some((route, route.matches(path)?)))
}

/// The name of a request's route, for metrics and logs.
pub(crate) fn route_name(path: &str) -> &'static str {
    PUBLIC
        .iter()
        .chain(&CONSOLE)
        .chain(&ADMIN)
        .find(|route| route.matches(path).is_some())
        .map_or("other", |route| route.path)
}

impl Service<Request<Incoming>> for Routes {
    type Response = Response<Body>;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Response<Body>, Problem>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let Self { app, listener } = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let path = parts.uri.path();
            let caller = parts
                .extensions
                .get::<Caller>()
                .expect("the observing layer has put it there");
            // A preflight shows no credentials (Fetch, 4.8), and changes nothing.
            let asks = parts.method == Method::OPTIONS;
            if listener == Listener::Admin && admin::is_guarded(path) && !asks {
                admin::guard(caller)?;
            }
            let config = app.config();
            let Some((route, rest)) = find(listener, &config, path) else {
                let there: Vec<&str> = routes(listener, &config).map(|route| route.path).collect();
                return Err(Problem::new(
                    Code::NotFound,
                    format!(
                        "there is no such route here, there are {}",
                        there.join(", ")
                    ),
                ));
            };
            if !route.allow.split(", ").any(|method| method == parts.method) {
                let problem = Problem::new(
                    Code::MethodNotAllowed,
                    format!("{} allows {}", route.path, route.allow),
                );
                return Err(Problem {
                    allow: Some(route.allow),
                    ..problem
                });
            }
            if parts.method == Method::OPTIONS {
                return Ok(layers::options(route.allow));
            }
            match route.path {
                "/events" => {
                    events::get(
                        &app,
                        &parts.method,
                        &parts.headers,
                        parts.uri.query(),
                        caller,
                    )
                    .await
                }
                "/ws" => ws::get(&app, &parts, caller).await,
                "/poll" => {
                    poll::get(
                        &app,
                        &parts.method,
                        &parts.headers,
                        parts.uri.query(),
                        caller,
                    )
                    .await
                }
                "/publish" => {
                    publish::post(&app, &parts.headers, parts.uri.query(), body, caller).await
                }
                "/presence" => presence::get(&app, parts.uri.query(), caller).await,
                "/ticket" => ticket::post(&app, caller).await,
                connections::TOKEN => connections::renew(&app, caller, rest).await,
                console::PAGE | console::CLIENT | console::ASSET => {
                    console::get(path, &parts.headers)
                }
                "/health" => Ok(health::report(&app).await),
                "/health/live" => Ok(health::live()),
                "/health/ready" => Ok(health::ready(&app)),
                "/metrics" => admin::metrics(&app),
                "/config" => Ok(admin::config(&app)),
                admin::RELOAD => admin::reload(&app, caller).await,
                admin::topics::TOPICS => admin::topics::list(&app, parts.uri.query()).await,
                admin::topics::TOPIC if parts.method == Method::DELETE => {
                    admin::topics::delete_topic(&app, caller, rest).await
                }
                admin::topics::TOPIC => admin::topics::show(&app, rest).await,
                admin::connections::CONNECTIONS => {
                    admin::connections::list(&app, parts.uri.query()).await
                }
                admin::connections::CONNECTION => {
                    admin::connections::close(&app, caller, rest).await
                }
                admin::events::EVENT => admin::events::explain(&app, rest, parts.uri.query()).await,
                admin::log_level::LOG_LEVEL if parts.method == Method::PUT => {
                    admin::log_level::set(caller, body).await
                }
                admin::log_level::LOG_LEVEL => admin::log_level::show(),
                admin::drain::DRAIN => Ok(admin::drain::drain(&app, caller)),
                _ => admin::stats(&app, parts.uri.query()).await,
            }
        })
    }
}

/// Sends one request through a stack.
pub(crate) async fn serve(stack: Stack, request: Request<Incoming>) -> Response<Body> {
    match stack.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
