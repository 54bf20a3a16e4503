//! Which pages may talk to the gateway, and in development mode who may at all.
//!
//! A page anywhere on the web can send a form-like POST to a loopback port without asking first, and a name that it controls
//! can be made to point there (DNS rebinding). So state-changing routes refuse strange origins on every listener, and
//! without auth the gateway serves nobody but this machine.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Uri,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ALLOW, HOST, ORIGIN, VARY,
    },
};

use crate::http::{
    body::Body,
    problem::{Code, Problem},
};

const EXPOSED: &str = "Tidegate-Replay, Tidegate-Refused, Retry-After, X-Request-Id, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset";
const REQUEST_HEADERS: &str = "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id, traceparent";

/// Whether a proxy is between the client and us, as far as the headers say.
pub(super) fn is_proxied(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| is_forwarding(name.as_str()))
}

/// The host that a request is for.
pub(super) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let named = uri.authority().map(http::uri::Authority::as_str);
    named.or_else(|| headers.get(HOST).and_then(|host| host.to_str().ok()))
}

/// Whether only a proxy sets this header.
fn is_forwarding(name: &str) -> bool {
    matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded-")
}

/// Lets pages of `origin` read an answer.
pub(super) fn open_to(headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(EXPOSED),
        );
    }
}

/// The answer to `OPTIONS`, which is a preflight (Fetch, 4.8) or a question for the methods of a route.
pub(crate) fn options(allow: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(allow));
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static(allow),
    );
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(REQUEST_HEADERS),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

/// Who may talk to the gateway.
pub(super) struct Policy<'a> {
    pub(super) development: bool,
    pub(super) origins: &'a [String],
    /// The connection speaks TLS, so a page of ours does, too.
    pub(super) secure: bool,
}

impl Policy<'_> {
    /// Refuses a request, or says which origin its answer is open to.
    pub(super) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, Problem> {
        let host = host(uri, headers);
        if self.development {
            local_only(uri.path(), host, headers)?;
        }
        let Some(origin) = headers.get(ORIGIN) else {
            let cross_site = headers
                .get("sec-fetch-site")
                .is_some_and(|site| site == "cross-site");
            return if cross_site && changes(method, uri) {
                Err(forbidden(
                    "a page of another site sent this request without saying which",
                ))
            } else {
                Ok(None)
            };
        };
        let text = origin.to_str().unwrap_or("null");
        let name = text.split_once("://").map(|(_, name)| name);
        let listed = self
            .origins
            .iter()
            .any(|listed| listed.eq_ignore_ascii_case(text))
            || (self.development && name.is_some_and(is_loopback));
        if listed {
            return Ok(Some(origin.clone()));
        }
        let own = name.is_some() && name == host && (!self.secure || text.starts_with("https://"));
        if !own && (self.development || changes(method, uri)) {
            return Err(forbidden(&format!(
                "pages of {} may not talk to this gateway: list it in cors.origins",
                &text.chars().take(128).collect::<String>()
            )));
        }
        Ok(None)
    }
}

fn forbidden(detail: &str) -> Problem {
    Problem::new(Code::OriginForbidden, detail)
}

/// Whether a request could change something. A WebSocket could, and no page has to ask before it opens one.
fn changes(method: &Method, uri: &Uri) -> bool {
    match *method {
        Method::OPTIONS => false,
        Method::GET | Method::HEAD => uri.path() == "/ws",
        _ => true,
    }
}

/// Development mode: requests from this machine, for this machine, without a proxy in between.
fn local_only(path: &str, host: Option<&str>, headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(host) = host.filter(|host| !is_loopback(host)) {
        let detail = format!(
            "without auth only localhost and loopback addresses are served, not {:?}: configure auth, or say auth.anonymous",
            host.chars().take(128).collect::<String>()
        );
        return Err(Problem::new(Code::HostForbidden, detail));
    }
    let watched = path == "/metrics" || path == "/health" || path.starts_with("/health/");
    let forwarding = headers.keys().find(|name| is_forwarding(name.as_str()));
    if let Some(name) = forwarding.filter(|_| !watched) {
        let detail = format!(
            "the request came through a proxy ({name}), so it may be anybody's, and no auth is configured: configure auth, or say auth.anonymous: [subscribe, publish]"
        );
        return Err(Problem::new(Code::ProxiedInDevelopment, detail));
    }
    Ok(())
}

/// Whether `host` or `host:port` is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        // An IPv6 address without brackets has no port.
        None => match host.split_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        },
    };
    let is_loopback = |address: IpAddr| address.is_loopback();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        development: bool,
        method: &Method,
        fields: &[(&'static str, &str)],
    ) -> Result<bool, Code> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, HeaderValue::from_str(value).expect("a header"));
        }
        let origins = ["https://app.example".to_owned()];
        let policy = Policy {
            development,
            origins: &origins,
            secure: false,
        };
        policy
            .check(method, &Uri::from_static("/publish"), &headers)
            .map(|cors| cors.is_some())
            .map_err(|problem| problem.code)
    }

    #[test]
    fn a_listed_origin_is_open_and_a_strange_one_changes_nothing() {
        let host = ("host", "gate.example");
        assert_eq!(
            check(
                false,
                &Method::POST,
                &[host, ("origin", "https://app.example")]
            ),
            Ok(true)
        );
        assert_eq!(
            check(
                false,
                &Method::POST,
                &[host, ("origin", "https://gate.example")]
            ),
            Ok(false)
        );
        assert_eq!(
            check(
                false,
                &Method::POST,
                &[host, ("origin", "https://evil.example")]
            ),
            Err(Code::OriginForbidden)
        );
        assert_eq!(
            check(false, &Method::POST, &[host, ("origin", "null")]),
            Err(Code::OriginForbidden)
        );
        assert_eq!(
            check(
                false,
                &Method::POST,
                &[host, ("sec-fetch-site", "cross-site")]
            ),
            Err(Code::OriginForbidden)
        );
        assert_eq!(
            check(
                false,
                &Method::GET,
                &[host, ("origin", "https://evil.example")]
            ),
            Ok(false)
        );
        assert_eq!(check(false, &Method::POST, &[host]), Ok(false));
    }

    #[test]
    fn development_mode_is_for_this_machine_alone() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:80",
            "::1",
        ] {
            assert_eq!(
                check(true, &Method::GET, &[("host", host)]),
                Ok(false),
                "{host}"
            );
        }
        for host in [
            "gate.example",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0:80",
            "",
        ] {
            assert_eq!(
                check(true, &Method::GET, &[("host", host)]),
                Err(Code::HostForbidden),
                "{host}"
            );
        }
        let host = ("host", "localhost");
        assert_eq!(
            check(true, &Method::GET, &[host, ("x-forwarded-for", "1.2.3.4")]),
            Err(Code::ProxiedInDevelopment)
        );
        assert_eq!(
            check(
                true,
                &Method::GET,
                &[host, ("origin", "http://127.0.0.1:3000")]
            ),
            Ok(true)
        );
        assert_eq!(
            check(
                true,
                &Method::GET,
                &[host, ("origin", "http://evil.example")]
            ),
            Err(Code::OriginForbidden)
        );
        assert_eq!(
            check(true, &Method::GET, &[host, ("origin", "null")]),
            Err(Code::OriginForbidden)
        );
    }
}
