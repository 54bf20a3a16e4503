//! The function library: loaded where it is missing, and what a fresh connection is told first.

use super::{
    Shared,
    calls::{Calls, Effect, Function, SOURCE, is_forbidden, is_missing},
    link::{Link, LinkError},
    resp::{Request, Value},
};
use crate::event::EventId;

/// The version of [`SOURCE`], which the file states, too.
const VERSION: i64 = 3;

/// Loads the library where it is missing or older, and finds out how this server is called. A newer one stays: it belongs
/// to replicas that are already newer.
pub(super) async fn load(link: &mut Link) -> Result<(), LinkError> {
    link.calls = Calls::Functions;
    match load_functions(link).await {
        Err(LinkError::Refused(functions)) if is_forbidden(&functions) => {
            link.calls = Calls::Scripts;
            match load_scripts(link).await {
                Err(LinkError::Refused(scripts)) => {
                    Err(LinkError::NoFunctions { functions, scripts })
                }
                loaded => loaded,
            }
        }
        loaded => loaded,
    }
}

async fn load_functions(link: &mut Link) -> Result<(), LinkError> {
    let version = Request::call(Function::VERSION, [""; 0]);
    let load = match link.ask(&version).await {
        Ok(Value::Number(version)) if version >= VERSION => return Ok(()),
        Ok(_) => Request::new("FUNCTION")
            .arg("LOAD")
            .arg("REPLACE")
            .arg(SOURCE),
        Err(LinkError::Refused(text)) if is_missing(&text) => version.loading(),
        Err(error) => return Err(error),
    };
    tracing::info!(version = VERSION, "loading the function library into Redis");
    match link.ask(&load).await {
        // Another replica was faster.
        Err(LinkError::Refused(text)) if text.contains("already exists") => Ok(()),
        loaded => loaded.map(|_| ()),
    }
}

/// The server keeps scripts until it ends, or somebody takes them away. What it has it takes again.
async fn load_scripts(link: &mut Link) -> Result<(), LinkError> {
    tracing::debug!(
        version = VERSION,
        "this Redis has no functions, loading the same source as scripts"
    );
    for effect in Effect::ALL {
        link.ask(&Request::load(effect)).await?;
    }
    Ok(())
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
    let init = Request::call(Function::INIT, [&keys.meta, &keys.last, &keys.heads])
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
    let raise = Request::call(Function::RAISE, [&keys.meta, &keys.last, &keys.heads]);
    let born = seen.born.map_or_else(String::new, |born| born.to_string());
    let raise = raise.arg(seen.highest.to_string()).arg(born);
    Some(raise.arg(seen.confirmed.to_string()))
}

/// Asks how the server is set up.
pub(super) fn info_request() -> Request {
    Request::new("INFO").args(["memory", "replication"])
}

/// What an operator should know about a server that answers so. Managed ones may not tell, which is nothing to warn of.
pub(super) fn warnings_of(info: &Value) -> Vec<String> {
    let field = |name: &str| {
        let lines = info.text().unwrap_or_default().lines();
        let mut fields = lines.filter_map(|line| line.split_once(':'));
        fields.find(|field| field.0 == name).map(|field| field.1)
    };
    let mut warnings = Vec::new();
    if let Some(policy) = field("maxmemory_policy").filter(|policy| *policy != "noeviction") {
        warnings.push(format!(
            "maxmemory-policy is {policy}, so Redis may delete events and last ids at will: set it to noeviction"
        ));
    }
    // It is said only where min-replicas-to-write asks for some.
    if field("min_slaves_good_slaves") == Some("0") {
        warnings.push("no replica of Redis keeps up, and min-replicas-to-write asks for some: it may refuse what is published".into());
    }
    warnings
}
