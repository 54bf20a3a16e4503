//! The outermost layer: gives a request its id, counts it, writes its access log line, and turns refusals into responses.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header::HOST};
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{
    client_addr::{Forwarding, resolve},
    origin::open_to,
};
use crate::{
    auth::Identity,
    config::Config,
    http::{
        Caller, Refusable, RequestHead,
        app::App,
        body::Body,
        problem::{Code, Problem},
        route_name,
        server::{HEADER_BYTES, Peer, URL_BYTES},
    },
    telemetry::{
        metrics::RequestLabels,
        shown_path,
        traces::{RequestEnd, RequestTrace},
    },
};

/// The header that carries the id of a request, both ways.
const REQUEST_ID: &str = "x-request-id";

/// Wraps a service in [`Observe`].
#[derive(Clone)]
pub(crate) struct ObserveLayer {
    app: Arc<App>,
    often: Arc<Often>,
    /// Whoever has not shown anything yet.
    anonymous: Arc<Identity>,
}

/// What is counted thousands of times a second is not looked up each time.
type Often = [(RequestLabels, Histogram); 2];

impl ObserveLayer {
    pub(crate) fn new(app: Arc<App>) -> Self {
        let often = [("POST", "/publish"), ("GET", "/events")].map(|(method, route)| {
            let labels = RequestLabels {
                method,
                route,
                status: 200,
            };
            let histogram = app.metrics.requests(&labels);
            (labels, histogram)
        });
        Self {
            app,
            often: Arc::new(often),
            anonymous: Arc::new(Identity::anonymous()),
        }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            app: self.app.clone(),
            often: self.often.clone(),
            anonymous: self.anonymous.clone(),
            inner,
        }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Observe<S> {
    app: Arc<App>,
    often: Arc<Often>,
    anonymous: Arc<Identity>,
    inner: S,
}

impl<S, B> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Problem>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let started = Instant::now();
        let (app, often) = (self.app.clone(), self.often.clone());
        let peer = request.extensions().get::<Peer>().cloned();
        let config = app.config();
        let request_id = taken(&config, request.headers())
            .unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()).into());
        let method = method_name(request.method());
        let route = route_name(request.uri().path());
        let trace = RequestTrace::begin(request.headers(), span_name(method, route));
        let path = (route == "other").then(|| shown(&config, request.uri().path()));
        let head = RequestHead {
            method: request.method(),
            version: request.version(),
            headers: request.headers(),
            query: request.uri().query(),
            owned: peer.as_ref().is_some_and(|peer| peer.kill.is_none()),
        };
        let refusable = Refusable::of(&app, config.limits.refuse_as, route, &head);
        let peer_address = peer
            .as_ref()
            .map_or_else(|| ([0, 0, 0, 0], 0).into(), |peer| peer.address);
        let address = client(&config, peer_address, request.headers());
        request.extensions_mut().insert(Caller {
            address,
            peer: peer_address,
            secure: peer.as_ref().is_some_and(|peer| peer.secure),
            local: false,
            identity: self.anonymous.clone(),
            request_id: request_id.clone(),
            kill: peer.and_then(|peer| peer.kill),
        });
        let answer = match unfit(&request) {
            Some(problem) => Err(problem),
            None => Ok(self.inner.call(request)),
        };
        Box::pin(async move {
            let answer = match answer {
                Ok(answer) => trace.scope(answer).await,
                Err(problem) => Err(problem),
            };
            let code = answer.as_ref().err().map(|problem| problem.code.as_str());
            let mut response = answer.unwrap_or_else(|problem| {
                let as_stream =
                    refusable.and_then(|refusable| refusable.response(&problem, &request_id));
                app.metrics
                    .refused(problem.code.as_str(), as_stream.is_some());
                let mut response = as_stream.unwrap_or_else(|| problem.response(&request_id));
                open_to(response.headers_mut(), problem.open_to.as_ref());
                response
            });
            let status = response.status().as_u16();
            if let Ok(value) = HeaderValue::from_str(&request_id) {
                response.headers_mut().insert(REQUEST_ID, value);
            }
            let elapsed = started.elapsed();
            let labels = RequestLabels {
                method,
                route,
                status,
            };
            match often.iter().find(|(often, _)| *often == labels) {
                Some((_, histogram)) => histogram.observe(elapsed.as_secs_f64()),
                None => app.metrics.requests(&labels).observe(elapsed.as_secs_f64()),
            }
            let duration_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
            tracing::info!(target: "access", request_id = &*request_id, %address, method, route, path, status, duration_us, code, trace_id = trace.id(), "request");
            trace.end(&RequestEnd {
                method,
                route,
                status,
                code,
                request_id: &request_id,
            });
            Ok(response)
        })
    }
}

/// The address of the client. Somebody who names one without being trusted to is warned of once: mostly it is a proxy that
/// `server.trusted_proxies` forgot, and all its clients share its limits.
fn client(config: &Config, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
    static WARNED: AtomicBool = AtomicBool::new(false);
    let (address, forwarding) = resolve(peer.ip(), headers, &config.server.trusted_proxies);
    if let Forwarding::Ignored(header) = forwarding
        && !config.development()
        && !WARNED.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(%peer, header, "a forwarding header came from an address that is not in server.trusted_proxies: it is ignored, now and from here on");
    }
    address
}

/// Requests of these routes are worth a span.
fn span_name(method: &str, route: &str) -> Option<&'static str> {
    match (method, route) {
        ("POST", "/publish") => Some("POST /publish"),
        ("GET", "/events") => Some("GET /events"),
        _ => None,
    }
}

/// The path of a request for which there is no route, without what could be a credential.
fn shown(config: &Config, path: &str) -> String {
    let secrets: Vec<&str> = config
        .secrets()
        .filter(|secret| !secret.is_empty())
        .collect();
    shown_path(path, |part| {
        secrets.iter().any(|secret| part.contains(secret))
    })
}

/// The id that the client or a proxy gave the request, if it is fit for a log line.
fn taken(config: &Config, headers: &HeaderMap) -> Option<Arc<str>> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    // Somebody may have pasted a token into the wrong header.
    (plain && config.secrets().all(|secret| secret != id)).then(|| id.into())
}

fn method_name(method: &Method) -> &'static str {
    const NAMES: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    NAMES
        .into_iter()
        .find(|name| method == name)
        .unwrap_or("other")
}

/// What is wrong with a request, whichever route it is for.
fn unfit<B>(request: &Request<B>) -> Option<Problem> {
    let names_host = request.headers().contains_key(HOST) || request.uri().authority().is_some();
    if request.version() == Version::HTTP_11 && !names_host {
        let detail = "an HTTP/1.1 request has a Host header (RFC 9112, 3.2)";
        return Some(Problem::new(Code::RequestMalformed, detail));
    }
    let url = request
        .uri()
        .path_and_query()
        .map_or(0, |url| url.as_str().len());
    if url > URL_BYTES {
        return Some(Problem::new(
            Code::UrlTooLarge,
            format!("the URL has {url} bytes, the limit is {URL_BYTES}"),
        ));
    }
    let headers: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    (headers > HEADER_BYTES).then(|| {
        Problem::new(
            Code::HeaderTooLarge,
            format!("the header fields have {headers} bytes, the limit is {HEADER_BYTES}"),
        )
    })
}
