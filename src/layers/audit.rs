//! The audit log: who was not let in, and why.

use crate::http::{
    Caller,
    problem::{Code, Problem},
};

/// Writes a line for a refusal that an operator may want to look into; others are the client's own business.
pub(super) fn refused(caller: &Caller, route: &'static str, problem: &Problem) {
    let (event, outcome, message) = match problem.code {
        Code::Unauthorized if problem.outdated => {
            ("auth_expired", "FAILED", "credentials are out of date")
        }
        Code::Unauthorized if problem.shown => ("auth_failed", "FAILED", "authentication failed"),
        Code::Unauthorized => ("auth_missing", "DENIED", "credentials are missing"),
        Code::Forbidden => ("forbidden", "DENIED", "access denied"),
        Code::AddressForbidden => ("address_refused", "DENIED", "address refused"),
        Code::OriginForbidden => ("origin_refused", "DENIED", "origin refused"),
        Code::HostForbidden | Code::ProxiedInDevelopment => {
            ("host_refused", "DENIED", "host refused")
        }
        Code::RateLimited => ("rate_limited", "BLOCKED", "rate limit hit"),
        Code::AddressLimit | Code::SubjectLimit | Code::ConnectionLimit | Code::MemoryLimit => {
            ("connection_refused", "BLOCKED", "connection limit hit")
        }
        _ => return,
    };
    tracing::warn!(
        target: "audit",
        event,
        outcome,
        code = problem.code.as_str(),
        request_id = &*caller.request_id,
        address = %caller.address,
        subject = caller.identity.subject().map(|subject| &**subject),
        route,
        detail = problem.detail,
        "{message}"
    );
}
