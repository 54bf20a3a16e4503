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
use http::{HeaderValue, Method, Request, Response};
use tower::{Layer, Service};

use super::{
    audit,
    origin::{Policy, host, is_loopback, is_proxied, open_to},
    rate::{self, Key},
};
use crate::{
    config::Config,
    http::{
        Caller, Listener,
        app::App,
        body::Body,
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Self {
            app,
            listener,
            mut inner,
        } = self.clone();
        Box::pin(async move {
            let config = app.config();
            let route = route_name(request.uri().path());
            let open = match admit(&config, listener, &mut request) {
                Ok(open) => open,
                Err(problem) => {
                    if let Some(caller) = request.extensions().get::<Caller>() {
                        audit::refused(caller, route, &problem);
                    }
                    return Err(problem);
                }
            };
            // A refusal has to be readable, too: to a page that may not read it, it would be a network error, which ends an
            // `EventSource` for good.
            let known = known(&app, &config, listener, &mut request).await;
            let caller = request.extensions().get::<Caller>().cloned();
            let answer = match known {
                Ok(()) => inner.call(request).await,
                Err(problem) => Err(problem),
            };
            if let (Some(caller), Err(problem)) = (&caller, &answer) {
                audit::refused(caller, route, problem);
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
fn admit<B>(
    config: &Config,
    listener: Listener,
    request: &mut Request<B>,
) -> Result<Option<HeaderValue>, Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let local = !is_proxied(headers) && host(uri, headers).is_some_and(is_loopback);
    let health = uri.path() == "/health" || uri.path().starts_with("/health/");
    let policy = Policy {
        development: config.development(),
        origins: &config.cors.origins,
    };
    let caller = request.extensions().get::<Caller>();
    let address = caller.map(|caller| caller.address);
    if let Some(address) = address.filter(|_| listener == Listener::Public && !health) {
        served(config, address)?;
    }
    let open = policy.check(request.method(), uri, headers)?;
    if let Some(caller) = request.extensions_mut().get_mut::<Caller>() {
        caller.local = local && caller.address.is_loopback();
    }
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
async fn known<B>(
    app: &Arc<App>,
    config: &Config,
    listener: Listener,
    request: &mut Request<B>,
) -> Result<(), Problem> {
    let (method, path) = (request.method(), request.uri().path());
    let Some(caller) = request.extensions().get::<Caller>() else {
        return Ok(());
    };
    if listener == Listener::Public && !config.development() {
        let key = Key::address(caller.address);
        match (path, method) {
            ("/events", &Method::GET) => {
                let rate = config.limits.rate.connect;
                rate::admit(&app.rates.connect, key, rate, "limits.rate.connect")?;
            }
            ("/publish", &Method::POST) => {
                let rate = config.limits.rate.publish;
                rate::admit(&app.rates.publish, key, rate, "limits.rate.publish")?;
            }
            _ => {}
        }
    }
    Ok(())
}
