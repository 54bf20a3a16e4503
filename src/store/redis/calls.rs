//! How what is atomic is called: as a function of the library, or, where a server has no functions or forbids them, as a
//! script made of the same source.
//!
//! Some managed servers run scripts and know nothing of functions. Both ways leave the same keys behind, so replicas that
//! call differently share one log.
//!
//! # Invariants
//! 1. A script is named by the hash of its text: replicas of different versions never run one another's.
//! 2. A script keeps nothing between two calls, as no function relies on that.

use std::sync::LazyLock;

use aws_lc_rs::digest;

/// The functions; their contract stands in the file.
pub const SOURCE: &str = include_str!("functions.lua");

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) effect: Effect,
}

/// What it does, as its registration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Writes: refused when the memory is full.
    Writes,
    /// Writes little, or takes something away: also when the memory is full.
    Small,
    /// Reads.
    Reads,
}

impl Function {
    pub(super) const VERSION: Self = Self::reads("tidegate_version");
    pub(super) const PUBLISH_BATCH: Self = Self::writes("tidegate_publish_batch");
    pub(super) const INIT: Self = Self::small("tidegate_init");
    pub(super) const RAISE: Self = Self::small("tidegate_raise");
    pub(super) const POSITION: Self = Self::reads("tidegate_position");
    pub(super) const SUMMARIES: Self = Self::reads("tidegate_summaries");
    pub(super) const LOST: Self = Self::small("tidegate_lost");
    pub(super) const DELETE: Self = Self::small("tidegate_delete");
    pub(super) const REPLICA: Self = Self::small("tidegate_replica");
    pub(super) const REPLICAS: Self = Self::reads("tidegate_replicas");
    pub(super) const NEWEST: Self = Self::reads("tidegate_newest");
    pub(super) const INGEST: Self = Self::writes("tidegate_ingest");
    pub(super) const INGEST_LEASE: Self = Self::small("tidegate_ingest_lease");
    pub(super) const PRESENCE: Self = Self::writes("tidegate_presence");
    pub(super) const PRESENCE_SWEEP: Self = Self::writes("tidegate_presence_sweep");
    pub(super) const PRESENT: Self = Self::reads("tidegate_present");

    const fn writes(name: &'static str) -> Self {
        let effect = Effect::Writes;
        Self { name, effect }
    }

    const fn small(name: &'static str) -> Self {
        let effect = Effect::Small;
        Self { name, effect }
    }

    const fn reads(name: &'static str) -> Self {
        let effect = Effect::Reads;
        Self { name, effect }
    }
}

/// The way that a server understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Calls {
    /// `FCALL`.
    #[default]
    Functions,
    /// `EVALSHA`.
    Scripts,
}

impl Calls {
    /// Its name, for operators.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Functions => "functions",
            Self::Scripts => "scripts",
        }
    }
}

/// All functions as one script, which calls that which its first argument names.
pub(super) struct Script {
    pub(super) text: String,
    /// Hexadecimal.
    pub(super) sha1: String,
}

impl Effect {
    pub(super) const ALL: [Self; 3] = [Self::Writes, Self::Small, Self::Reads];

    /// The script for functions of this kind: Redis knows what a script may do by its first line.
    pub(super) fn script(self) -> &'static Script {
        static SCRIPTS: LazyLock<[Script; 3]> =
            LazyLock::new(|| ["", " flags=allow-oom", " flags=no-writes"].map(script));
        match self {
            Self::Writes => &SCRIPTS[0],
            Self::Small => &SCRIPTS[1],
            Self::Reads => &SCRIPTS[2],
        }
    }
}

fn script(flags: &str) -> Script {
    let (_, functions) = SOURCE.split_once('\n').unwrap_or(("", SOURCE));
    let text = format!(
        "#!lua{flags}
local registered = {{}}
local redis = setmetatable({{
  register_function = function(name, callback)
    if type(name) == 'table' then name, callback = name.function_name, name.callback end
    registered[name] = callback
  end,
}}, {{ __index = redis }})
{functions}
return registered[table.remove(ARGV, 1)](KEYS, ARGV)
"
    );
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let sha1 = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
    Script {
        sha1: sha1.collect(),
        text,
    }
}

/// Whether an error says that the function, or the script, is not there: the call has done nothing then.
pub(super) fn is_missing(error: &str) -> bool {
    error.contains("Function not found") || error.starts_with("NOSCRIPT")
}

/// Whether an error says that the server does not have such commands, or does not let us use them.
pub(super) fn is_forbidden(error: &str) -> bool {
    error.contains("unknown command") || error.starts_with("NOPERM")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As [`SOURCE`] registers it.
    fn registered(function: Function) -> bool {
        let name = function.name;
        match function.effect {
            Effect::Writes => SOURCE.contains(&format!("redis.register_function('{name}', ")),
            Effect::Small => SOURCE.contains(&format!("register_small('{name}', ")),
            Effect::Reads => {
                let begin = format!("function_name = '{name}',");
                let rest = SOURCE.split_once(&begin).map_or("", |(_, rest)| rest);
                let end = rest.find("\n})").unwrap_or(0);
                rest[..end].contains("'no-writes'")
            }
        }
    }

    #[test]
    fn a_function_is_of_the_kind_that_its_source_says() {
        let functions = [
            Function::VERSION,
            Function::PUBLISH_BATCH,
            Function::INIT,
            Function::RAISE,
            Function::POSITION,
            Function::SUMMARIES,
            Function::LOST,
            Function::DELETE,
            Function::REPLICA,
            Function::REPLICAS,
            Function::NEWEST,
            Function::INGEST,
            Function::INGEST_LEASE,
            Function::PRESENCE,
            Function::PRESENCE_SWEEP,
            Function::PRESENT,
        ];
        for function in functions {
            assert!(registered(function), "{function:?}");
        }
    }

    #[test]
    fn each_kind_has_a_script_of_its_own() {
        let hashes = Effect::ALL.map(|effect| &*effect.script().sha1);
        assert!(hashes.iter().all(|hash| hash.len() == 40));
        assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2] && hashes[0] != hashes[2]);
        assert!(
            Effect::Reads
                .script()
                .text
                .starts_with("#!lua flags=no-writes\n")
        );
    }
}
