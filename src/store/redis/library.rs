//! The function library: loaded where it is missing, and what a fresh connection is told first.

use super::{
    Shared,
    link::{Link, LinkError},
    resp::{Request, Value},
};
use crate::event::EventId;

/// The functions; their contract stands in the file.
pub const SOURCE: &str = include_str!("functions.lua");
/// The version of [`SOURCE`], which the file states, too.
const VERSION: i64 = 2;

/// Loads the library where it is missing or older. A newer one stays: it belongs to replicas that are already newer.
pub(super) async fn load(link: &mut Link) -> Result<(), LinkError> {
    let version = Request::read_function("tidegate_version", &[]);
    let load = match link.ask(&version).await {
        Ok(Value::Number(version)) if version >= VERSION => return Ok(()),
        Ok(_) => Request::new("FUNCTION")
            .arg("LOAD")
            .arg("REPLACE")
            .arg(SOURCE),
        Err(LinkError::Refused(text)) if is_missing(&text) => load_missing(),
        Err(error) => return Err(error),
    };
    tracing::info!(version = VERSION, "loading the function library into Redis");
    match link.ask(&load).await {
        // Another replica was faster.
        Err(LinkError::Refused(text)) if text.contains("already exists") => Ok(()),
        loaded => loaded.map(|_| ()),
    }
}

/// Loads the library if it is missing.
pub(super) fn load_missing() -> Request {
    Request::new("FUNCTION").arg("LOAD").arg(SOURCE)
}

/// Whether an error says that the library is not there: the call has done nothing then.
pub(super) fn is_missing(error: &str) -> bool {
    error.contains("Function not found")
}

/// Makes the log where there is none, and sees to it that ids lie above everything that this replica has seen. Returns the
/// birth of the log, which the replica has then nothing more to say about.
pub(super) async fn begin(link: &mut Link, shared: &Shared) -> Result<EventId, LinkError> {
    let (init, number) = init_request(shared);
    let mut born = link.ask(&init).await?;
    shared.settings.written(number);
    if let Some(raise) = raise_request(shared) {
        born = link.ask(&raise).await?;
    }
    birth(&born).ok_or(LinkError::Unexpected)
}

/// The birth that `tidegate_init` and `tidegate_raise` answer with.
pub(super) fn birth(reply: &Value) -> Option<EventId> {
    reply.array()?.first()?.text()?.parse().ok()
}

/// The call that makes the log and writes the settings, and the number of these: [`Settings::written`] is told of it.
///
/// [`Settings::written`]: super::settings::Settings::written
pub(super) fn init_request(shared: &Shared) -> (Request, u64) {
    let keys = &shared.keys;
    let highest = shared.seen.lock().highest;
    let settings = shared.settings.now();
    let init = Request::function("tidegate_init", &[&keys.meta, &keys.last, &keys.heads])
        .arg(highest.to_string())
        .arg(&*settings.retention)
        .arg(&*settings.limits)
        // Only once: a replica of an older configuration that reconnects must not undo what a newer one wrote.
        .arg(if settings.unwritten { "replace" } else { "" });
    (init, settings.number)
}

/// None: this replica has seen nothing.
pub(super) fn raise_request(shared: &Shared) -> Option<Request> {
    let seen = *shared.seen.lock();
    if seen.born.is_none() && seen.highest == EventId::ZERO {
        return None;
    }
    let keys = &shared.keys;
    let raise = Request::function("tidegate_raise", &[&keys.meta, &keys.last, &keys.heads]);
    let born = seen.born.map_or_else(String::new, |born| born.to_string());
    let raise = raise.arg(seen.highest.to_string()).arg(born);
    Some(raise.arg(seen.confirmed.to_string()))
}

/// Asks how the server is set up.
pub(super) fn info_request() -> Request {
    Request::new("INFO").arg("memory")
}

/// What an operator should know about a server that answers so. Managed ones may not tell, which is nothing to warn of.
pub(super) fn warnings_of(info: &Value) -> Vec<String> {
    let policy = info
        .text()
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("maxmemory_policy:"))
        .unwrap_or("noeviction");
    if policy == "noeviction" {
        return Vec::new();
    }
    vec![format!(
        "maxmemory-policy is {policy}, so Redis may delete events and last ids at will: set it to noeviction"
    )]
}
