//! Reading the settings again while serving: on SIGHUP, on request, and when a file has changed.
//!
//! # Invariants
//! 1. One reload at a time, each from the reading of the sources to the last effect.
//! 2. All that can take effect does, or nothing: a bad file changes nothing.
//!
//! What follows from other settings is [`App::apply`]'s; what becomes of them, [`crate::config::reload`]'s.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    signal::unix::Signal,
    time::{self, MissedTickBehavior},
};

use super::{Caller, app::App, tls::Tls};
use crate::{
    auth::Auth,
    config::{
        Config, ConfigError, Setting, Settings, Sources, Stamp, Wrong,
        reload::{Change, Report, next},
    },
    telemetry::metrics::ReloadOutcome,
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long a file has to look the same before it is read: whoever writes it may not be done.
const STILL: Duration = Duration::from_millis(200);
/// After so many looks a file that is missing is gone, and not just being put in place.
const GONE_AFTER: u32 = 3;

/// Where the settings come from, and what they are.
pub struct Reloader {
    sources: Sources,
    /// How many streams there are files for.
    room: usize,
    /// Held by the reload that is under way; reading files may take its time.
    turn: Mutex<()>,
    /// Held for moments.
    state: Mutex<State>,
}

struct State {
    settings: Settings,
    /// What waits for a restart since the last reload.
    waiting: Vec<Change>,
    /// How the files looked before they were read last.
    stamp: Stamp,
}

/// What asked for a reload.
#[derive(Clone, Debug)]
pub enum Trigger {
    /// SIGHUP.
    Signal,
    /// Somebody on the admin listener.
    Request(Caller),
    /// A file looks different.
    File,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signal => "signal",
            Self::Request(_) => "request",
            Self::File => "file",
        })
    }
}

impl Reloader {
    /// Reads the settings for the first time. `room` is how many streams there are files for.
    ///
    /// # Errors
    /// When they are not valid.
    pub fn new(sources: Sources, room: usize) -> Result<Self, ConfigError> {
        let stamp = sources.stamp();
        let mut settings = Settings::load(&sources)?;
        check(&settings)?;
        settings.lower_connections(room);
        Ok(Self {
            sources,
            room,
            turn: Mutex::new(()),
            state: Mutex::new(State {
                settings,
                waiting: Vec::new(),
                stamp,
            }),
        })
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<Config> {
        self.state.lock().settings.config().clone()
    }

    /// Every setting in force, and what would be another after a restart.
    pub fn list(&self) -> (Vec<Setting>, Vec<Change>) {
        let state = self.state.lock();
        (state.settings.list(), state.waiting.clone())
    }

    /// Reads the settings again and puts into force what can be.
    fn reload(&self, app: &App) -> Result<(Report, Vec<String>), ConfigError> {
        let _turn = self.turn.lock();
        // Before reading: what is written meanwhile is found at the next look.
        let stamp = self.sources.stamp();
        let running = {
            let mut state = self.state.lock();
            state.stamp = stamp;
            state.settings.clone()
        };
        let mut fresh = Settings::load(&self.sources)?;
        fresh.lower_connections(self.room);
        let (settings, report) = next(&running, fresh)?;
        app.apply(settings.config().clone())
            .map_err(|wrong| settings.refuse(wrong))?;
        let old = running.warnings();
        let news = report.warnings.iter().filter(|it| !old.contains(it));
        let news = news.cloned().collect();
        let mut state = self.state.lock();
        state.settings = settings;
        state.waiting.clone_from(&report.restart);
        Ok((report, news))
    }
}

/// Whether the files that settings name can be used: keys and certificates.
///
/// # Errors
/// When one cannot be.
pub fn check(settings: &Settings) -> Result<(), ConfigError> {
    let config = settings.config();
    let usable = Auth::check(config)
        .map_err(|error| unusable(&error))
        .and_then(|()| Tls::check(&config.server.tls).map_err(|error| unusable(&error)));
    usable.map_err(|wrong| settings.refuse(wrong))
}

/// What such an error says begins with the setting.
pub(super) fn unusable(error: &dyn std::error::Error) -> Wrong {
    let mut text = error.to_string();
    if let Some(cause) = error.source().map(ToString::to_string)
        && !text.contains(&cause)
    {
        text = format!("{text}: {cause}");
    }
    match text.split_once([':', ' ']) {
        Some((key, message)) => Wrong::new(key, message.trim_start()),
        None => Wrong::new("settings", text),
    }
}

/// Reads the settings again, and says in log and metrics what came of it.
///
/// # Errors
/// When they are not valid; then nothing has changed.
pub async fn reload(app: &Arc<App>, trigger: Trigger) -> Result<Report, ConfigError> {
    let app = app.clone();
    // It reads files. And once begun, it ends, though nobody may wait for it any more.
    let task = tokio::task::spawn_blocking(move || {
        let result = app.reloader.reload(&app);
        tell(&app, &trigger, result)
    });
    task.await.unwrap_or_else(|_| {
        // The log has said why. Who asks next time shall find somebody.
        Err(ConfigError::Value {
            place: "reload".into(),
            key: "settings".into(),
            message: "something went wrong here, the log says what".into(),
        })
    })
}

fn tell(
    app: &App,
    trigger: &Trigger,
    result: Result<(Report, Vec<String>), ConfigError>,
) -> Result<Report, ConfigError> {
    let caller = match trigger {
        Trigger::Request(caller) => Some(caller),
        Trigger::Signal | Trigger::File => None,
    };
    let address = caller.map(|caller| tracing::field::display(caller.address));
    let request_id = caller.map(|caller| &*caller.request_id);
    let subject = caller.and_then(|caller| caller.identity.subject().map(|subject| &**subject));
    let (report, warnings) = match result {
        Ok(done) => done,
        Err(error) => {
            app.metrics.reloaded(ReloadOutcome::Failed);
            let told = error.told();
            tracing::warn!(
                target: "audit",
                event = "config_reloaded",
                outcome = "FAILED",
                %trigger,
                address,
                request_id,
                subject,
                error = %told,
                "reload failed"
            );
            tracing::error!(%trigger, error = %told, "the settings could not be reloaded and stay as they are");
            return Err(error);
        }
    };
    let keys = |changes: &[Change]| {
        let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
        keys.join(" ")
    };
    let (applied, restart) = (keys(&report.applied), keys(&report.restart));
    app.metrics.reloaded(if report.applied.is_empty() {
        ReloadOutcome::Unchanged
    } else {
        ReloadOutcome::Applied
    });
    tracing::info!(
        target: "audit",
        event = "config_reloaded",
        outcome = "OK",
        %trigger,
        address,
        request_id,
        subject,
        applied,
        restart,
        "settings reloaded"
    );
    tracing::info!(%trigger, applied, "the settings were reloaded");
    if !restart.is_empty() {
        tracing::warn!(restart, "some settings take effect after a restart only");
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(report)
}

/// Reloads at each signal. Never returns.
pub async fn on_signal(app: Arc<App>, mut signals: Signal) {
    while signals.recv().await.is_some() {
        // Whoever sent it reads in the log what came of it.
        let _ = reload(&app, Trigger::Signal).await;
    }
}

/// Reloads when a file looks different from when it was read last. Never returns.
///
/// Looked for and not waited for: a `ConfigMap` is exchanged by a link two folders up, which a watch of the file misses.
pub async fn on_change(app: Arc<App>) {
    let mut looks = time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missing = 0;
    loop {
        looks.tick().await;
        let Some(stamp) = settled(&app).await else {
            missing = 0;
            continue;
        };
        if stamp.lacks_file(&app.reloader.sources) {
            missing += 1;
            if missing < GONE_AFTER {
                continue;
            }
        }
        missing = 0;
        let _ = reload(&app, Trigger::File).await;
    }
}

/// How the files look, if different from when they were read last, once they do not change any more.
async fn settled(app: &Arc<App>) -> Option<Stamp> {
    let mut stamp = look(app).await?;
    loop {
        time::sleep(STILL).await;
        // None: somebody else has read them meanwhile, or they are back as they were.
        let now = look(app).await?;
        if now == stamp {
            return Some(stamp);
        }
        stamp = now;
    }
}

/// How the files look, if different from when they were read last.
async fn look(app: &Arc<App>) -> Option<Stamp> {
    let app = app.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let reloader = &app.reloader;
        let stamp = reloader.sources.stamp();
        (stamp != reloader.state.lock().stamp).then_some(stamp)
    });
    looked.await.ok().flatten()
}
