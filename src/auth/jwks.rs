//! A set of keys behind a URL (RFC 7517), kept in memory and fetched again now and then.
//!
//! # Invariants
//! 1. One task fetches, so there is one request at a time, and nobody who waits for it can end it by leaving.
//! 2. What was fetched stays until the next *set* arrives: while the issuer is away, the keys that are known still work.
//! 3. Unknown keys make it fetch once in [`ASK_AGAIN`] at most: who invents key ids does not turn this into a flood.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Denied,
    fetch::{Fetch, FetchError},
    jwt::Header,
    key::{Jwk, Key},
};

/// The time between two fetches for the sake of unknown keys.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// How long a token with an unknown key waits for a fetch. It is longer than that takes at most.
const PATIENCE: Duration = Duration::from_secs(6);
/// The first pause after a failure; each one more doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// The shortest `auth.jwt.jwks_refresh`.
const MIN_REFRESH: Duration = Duration::from_millis(100);

/// How the set of keys fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwksStats {
    /// Usable keys.
    pub keys: usize,
    /// When a set was had last.
    pub fetched: Option<SystemTime>,
    /// Fetches that brought a set.
    pub successes: u64,
    /// Fetches that did not.
    pub failures: u64,
    /// Whether the last one failed.
    pub failing: bool,
}

/// What is known of the set.
#[derive(Clone, Default)]
struct State {
    keys: Arc<[Key]>,
    stats: JwksStats,
}

impl State {
    fn attempts(&self) -> u64 {
        self.stats.successes + self.stats.failures
    }
}

/// A set of keys and the task that keeps it fresh, which ends when this is dropped.
pub(super) struct Jwks {
    url: String,
    refresh: Duration,
    state: watch::Receiver<State>,
    wanted: Arc<Notify>,
    /// When an unknown key made it fetch last.
    asked: Mutex<Option<Instant>>,
    _stop: DropGuard,
}

impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a key of its own in its query.
        f.debug_tuple("Jwks").field(&self.stats()).finish()
    }
}

impl Jwks {
    /// Begins to fetch. Has to be called within a runtime.
    pub(super) fn start(url: &str, fetch: Fetch, refresh: Duration) -> Self {
        let refresh = refresh.max(MIN_REFRESH);
        let (publish, state) = watch::channel(State::default());
        let (wanted, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let task = keep_fresh(fetch, refresh, publish, wanted.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(task));
        Self {
            url: url.to_owned(),
            refresh,
            state,
            wanted,
            asked: Mutex::new(None),
            _stop: stop.drop_guard(),
        }
    }

    /// Whether these settings mean this set.
    pub(super) fn is(&self, url: &str, refresh: Duration) -> bool {
        self.url == url && self.refresh == refresh.max(MIN_REFRESH)
    }

    pub(super) fn stats(&self) -> JwksStats {
        self.state.borrow().stats.clone()
    }

    /// The key that a token names; asks for the set again if it is not known.
    ///
    /// # Errors
    /// There is no such key, or nobody can tell now.
    pub(super) async fn key(&self, header: &Header) -> Result<Key, Denied> {
        let state = self.state.borrow().clone();
        if let Some(found) = find(&state.keys, header) {
            return found;
        }
        // The very first fetch is under way, or it is time for another.
        if state.attempts() == 0 || self.may_ask() {
            let mut changes = self.state.clone();
            if state.attempts() > 0 {
                self.wanted.notify_one();
            }
            let done = changes.wait_for(|now| now.attempts() > state.attempts());
            let _ = timeout(PATIENCE, done).await;
        }
        let state = self.state.borrow().clone();
        match find(&state.keys, header) {
            Some(found) => found,
            // The set that is known may be out of date, and this key be one of the next.
            None if state.attempts() == 0 || state.stats.failing => Err(Denied::Unavailable(
                "the keys that tokens are checked with cannot be had now",
            )),
            None => Err(Denied::invalid(
                "the token names a key (kid) that is not known here, or none where there are several",
            )),
        }
    }

    fn may_ask(&self) -> bool {
        let now = Instant::now();
        let mut asked = self.asked.lock();
        let pause = ASK_AGAIN.min(self.refresh);
        let may = asked.is_none_or(|asked| now.duration_since(asked) >= pause);
        if may {
            *asked = Some(now);
        }
        may
    }
}

/// The key that a header names: by its id, or, where it names none, the only one that it can mean. None: it is not there.
fn find(keys: &[Key], header: &Header) -> Option<Result<Key, Denied>> {
    let mut fitting = keys
        .iter()
        .filter(|key| key.algorithm() == header.algorithm);
    match header.key_id.as_deref() {
        Some(id) => fitting.find(|key| key.id() == Some(id)).cloned().map(Ok),
        None => match (fitting.next(), fitting.next()) {
            (None, _) => None,
            (Some(key), None) => Some(Ok(key.clone())),
            (Some(_), Some(_)) => Some(Err(Denied::invalid(
                "the token does not say by which of several keys it is signed (kid)",
            ))),
        },
    }
}

/// Fetches at once, each time that it is wanted, and each `refresh`; sooner where that failed.
async fn keep_fresh(
    fetch: Fetch,
    refresh: Duration,
    publish: watch::Sender<State>,
    wanted: Arc<Notify>,
) {
    let mut retry = FIRST_RETRY;
    loop {
        let outcome = match fetch.get().await {
            Ok(body) => read(&body),
            Err(error) => Err(error),
        };
        let pause = match outcome {
            Ok(keys) => {
                if publish.borrow().stats.failing || publish.borrow().attempts() == 0 {
                    tracing::info!(
                        host = fetch.host(),
                        keys = keys.len(),
                        "the set of keys is there"
                    );
                }
                publish.send_modify(|state| {
                    state.stats.keys = keys.len();
                    state.stats.fetched = Some(SystemTime::now());
                    state.stats.successes += 1;
                    state.stats.failing = false;
                    state.keys = keys.into();
                });
                retry = FIRST_RETRY;
                refresh
            }
            Err(error) => {
                let kept = publish.borrow().stats.keys;
                tracing::warn!(
                    host = fetch.host(),
                    kept,
                    error = &error as &dyn std::error::Error,
                    "the set of keys could not be had, those that are known stay"
                );
                publish.send_modify(|state| {
                    state.stats.failures += 1;
                    state.stats.failing = true;
                });
                let pause = retry.min(refresh);
                retry = (retry * 2).min(LAST_RETRY);
                pause
            }
        };
        // Not all replicas at once.
        let pause = pause.mul_f64(rand::random_range(0.85..=1.0));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wanted.notified() => {}
        }
    }
}

#[derive(Deserialize)]
struct Set<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The usable keys of a set. One that is of no use here does not spoil the others.
fn read(body: &[u8]) -> Result<Vec<Key>, FetchError> {
    let set: Set = serde_json::from_slice(body).map_err(FetchError::NoSet)?;
    let mut keys: Vec<Key> = Vec::new();
    for jwk in &set.keys {
        match serde_json::from_str::<Jwk>(jwk.get()).map(|jwk| (Key::jwk(&jwk), jwk.kid)) {
            Ok((Ok(key), _)) => keys.push(key),
            Ok((Err(error), kid)) => tracing::warn!(kid, %error, "a key of the set is passed over"),
            Err(error) => tracing::warn!(%error, "a key of the set is passed over"),
        }
    }
    if keys.is_empty() {
        tracing::warn!("the set of keys has none that is of use here");
    }
    Ok(keys)
}
