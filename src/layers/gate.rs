//! Who gets in: every question that a request has to answer before it comes to a route, in this order.
//!
//! 1. Is its address served at all (`limits.addresses`)?
//! 2. May the page that sent it talk to us, and in development mode: is it from this machine ([`super::origin`])?
//! 3. Does its address come too often ([`super::rate`])? Before anything that costs work.
//! 4. Who is it ([`super::auth`])?
//!
//! What it may do with which topics is for the route to decide: only the route knows the topics.

use std::{
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, request::Parts};
use tower::{Layer, Service};

use super::{
    audit, auth,
    origin::{Policy, host, is_loopback, is_proxied, open_to},
    rate::{self, Key},
};
use crate::{
    admin,
    config::Config,
    http::{
        Caller, Listener,
        app::App,
        body::Body,
        console,
        problem::{Code, Problem},
        route_name,
    },
};

/// Wraps a service in [`Gate`].
#[derive(Clone)]
pub(crate) struct GateLayer {
    app: Arc<App>,
    listener: Listener,
}

impl GateLayer {
    pub(crate) fn new(app: Arc<App>, listener: Listener) -> Self {
        Self { app, listener }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        let Self { app, listener } = self.clone();
        Gate {
            app,
            listener,
            inner,
        }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Gate<S> {
    app: Arc<App>,
    listener: Listener,
    inner: S,
}

impl<S, B> Service<Request<B>> for Gate<S>
where
    B: Send + 'static,
    S: Service<Request<B>, Response = Response<Body>, Error = Problem> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Response<Body>, Problem>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self {
            app,
            listener,
            mut inner,
        } = self.clone();
        Box::pin(async move {
            let config = app.config();
            let (mut head, body) = request.into_parts();
            let route = route_name(head.uri.path());
            let mut caller = head
                .extensions
                .remove::<Caller>()
                .expect("the observing layer has put it there");
            let open = match admit(&config, listener, &head, &mut caller) {
                Ok(open) => open,
                Err(problem) => {
                    audit::refused(&caller, route, &problem);
                    return Err(problem);
                }
            };
            // A refusal has to be readable, too: to a page that may not read it, it would be a network error, which ends an
            // `EventSource` for good.
            let answer = match known(&app, &config, listener, &head, &mut caller).await {
                Ok(()) => {
                    head.extensions.insert(caller.clone());
                    inner.call(Request::from_parts(head, body)).await
                }
                Err(problem) => Err(problem),
            };
            if let Err(problem) = &answer {
                audit::refused(&caller, route, problem);
            }
            match answer {
                Ok(mut response) => {
                    open_to(response.headers_mut(), open.as_ref());
                    Ok(response)
                }
                Err(problem) => Err(Problem {
                    open_to: open,
                    ..problem
                }),
            }
        })
    }
}

/// The questions about where a request comes from. Returns the origin that its answer is open to.
fn admit(
    config: &Config,
    listener: Listener,
    head: &Parts,
    caller: &mut Caller,
) -> Result<Option<HeaderValue>, Problem> {
    let (uri, headers) = (&head.uri, &head.headers);
    if listener == Listener::Public && !is_health(uri.path()) {
        served(config, caller.address)?;
    }
    let policy = Policy {
        development: config.development(),
        origins: &config.cors.origins,
        secure: caller.secure,
    };
    let open = policy.check(&head.method, uri, headers)?;
    // A name that leads here may be a stranger's (DNS rebinding), and a proxy may speak for anybody.
    caller.local = caller.peer.ip().to_canonical().is_loopback()
        && !is_proxied(headers)
        && host(uri, headers).is_some_and(is_loopback)
        // A page that may follow topics is no operator, wherever its browser runs.
        && (config.development() || open.is_none());
    Ok(open)
}

/// Refuses an address that is not served.
fn served(config: &Config, address: IpAddr) -> Result<(), Problem> {
    let lists = &config.limits.addresses;
    let names = |list: &[crate::config::Network]| list.iter().any(|it| it.contains(address));
    if names(&lists.deny) || !(lists.allow.is_empty() || names(&lists.allow)) {
        let detail = "this address is not served here (limits.addresses)";
        return Err(Problem::new(Code::AddressForbidden, detail));
    }
    Ok(())
}

/// The questions about who sends a request, and how often.
async fn known(
    app: &App,
    config: &Config,
    listener: Listener,
    head: &Parts,
    caller: &mut Caller,
) -> Result<(), Problem> {
    let (method, path) = (&head.method, head.uri.path());
    let development = config.development();
    if listener == Listener::Public && !development {
        often(app, config, caller, method, path)?;
    }
    // Where no token could be good, everybody is served alike, and what a page shows to others does not matter. Operators may
    // have a token anyway.
    // And the console holds nothing of anybody's: a browser whose cookie is spent has to get the page where another token is
    // put in.
    let asks = match listener {
        Listener::Public => {
            let open = is_health(path) || console::is_part(path);
            config.knows_tokens() && method != Method::OPTIONS && !open
        }
        Listener::Admin => admin::is_guarded(path),
    };
    if !asks {
        return Ok(());
    }
    let Some(identity) = auth::identify(app, config, head, caller).await? else {
        return Ok(());
    };
    let key = app.rates.subject(identity.caller());
    let has_subject = identity.subject().is_some();
    caller.identity = identity;
    let rates = &config.limits.rate;
    match (path, method) {
        ("/events" | "/ws" | "/presence", &Method::GET) if has_subject => rate::admit(
            &app.rates.connect_per_subject,
            key,
            rates.connect_per_subject,
            "limits.rate.connect_per_subject",
        ),
        ("/publish", &Method::POST) if has_subject => rate::admit(
            &app.rates.publish_per_subject,
            key,
            rates.publish_per_subject,
            "limits.rate.publish_per_subject",
        ),
        _ => Ok(()),
    }
}

/// Refuses an address that comes too often.
fn often(
    app: &App,
    config: &Config,
    caller: &Caller,
    method: &Method,
    path: &str,
) -> Result<(), Problem> {
    let (rates, key) = (&config.limits.rate, Key::address(caller.address));
    match (path, method) {
        ("/poll", &Method::GET) => {
            rate::admit(&app.rates.poll, key, rates.poll, "limits.rate.poll")
        }
        ("/events" | "/ws" | "/presence", &Method::GET) => rate::admit(
            &app.rates.connect,
            key,
            rates.connect,
            "limits.rate.connect",
        ),
        ("/publish", &Method::POST) => rate::admit(
            &app.rates.publish,
            key,
            rates.publish,
            "limits.rate.publish",
        ),
        _ => Ok(()),
    }
}

fn is_health(path: &str) -> bool {
    path == "/health" || path.starts_with("/health/")
}
