//! `tidegate serve`: bind, run until a signal, drain.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::sources::SourceArgs;
use crate::{
    http::{
        Listener,
        app::App,
        drain::drain,
        reload::{self, Reloader},
        server,
        tls::Tls,
    },
    hub::Hub,
    store::{
        Store,
        memory::MemoryStore,
        redis::{RedisStore, Via},
    },
    telemetry::{
        self,
        logs::{LogHandle, Logs},
    },
};

/// How long the listeners wait for the first contact with the store; without one they refuse until it is there.
const FIRST_CONTACT: Duration = Duration::from_secs(1);
/// How often this replica renews its lease, which lasts for several times as long.
const ANNOUNCE: Duration = Duration::from_secs(1);
/// File descriptors that streams leave for publishing, health checks and the log.
const SPARE_FILES: u64 = 256;

#[derive(Args, Clone, Debug, Default)]
pub(super) struct Serve {
    #[command(flatten)]
    sources: SourceArgs,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let reloader = Reloader::new(self.sources.sources(), room_for_streams())?;
        let config = reloader.config();
        let logs = telemetry::logs::init(&config)?;
        std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a task panicked")));
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(serve(reloader, &logs))
    }
}

async fn serve(reloader: Reloader, logs: &Logs) -> anyhow::Result<()> {
    let config = reloader.config();
    // Before anything is bound: a signal from here on finds somebody.
    let mut signals = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let aside = signal(SignalKind::user_defined1())?;
    let traces = telemetry::traces::start(&config.traces)?;
    let hangups = signal(SignalKind::hangup())?;
    let public = server::bind(config.server.listen, config.stream.write_timeout)
        .with_context(|| format!("server.listen {}", config.server.listen))?;
    let admin = server::bind(config.admin.listen, config.stream.write_timeout)
        .with_context(|| format!("admin.listen {}", config.admin.listen))?;
    let store: Arc<dyn Store> = match config.redis() {
        Some(redis) => {
            match redis.via {
                Via::Url => {
                    tracing::info!(url = %redis.url, prefix = redis.prefix, "the log is in Redis");
                }
                // The host of the URL is not used.
                ref via => {
                    tracing::info!(
                        via = via.name(),
                        prefix = redis.prefix,
                        "the log is in Redis"
                    );
                }
            }
            Arc::new(RedisStore::start(redis)?)
        }
        None => Arc::new(MemoryStore::new(config.memory())),
    };
    telemetry::begin();
    let hub = Hub::start(config.hub(), store);
    // A store that is there answers within milliseconds: then nobody is refused for coming too early.
    let _ = tokio::time::timeout(FIRST_CONTACT, hub.begun()).await;
    let app = App::new(reloader, hub)?;
    if let Some(tls) = Tls::load(&app.config(), app.metrics.tls.clone())? {
        app.speaks_tls(tls);
    }
    let (background, connections, stop) = (
        TaskTracker::new(),
        TaskTracker::new(),
        CancellationToken::new(),
    );
    if let Some(traces) = traces {
        background.spawn(traces.run(stop.clone()));
    }
    background.spawn(until(stop.clone(), reopen(aside, logs.handle())));
    background.spawn(until(stop.clone(), app.alarms.clone().run()));
    background.spawn(until(stop.clone(), server::watch(app.clone())));
    background.spawn(until(stop.clone(), app.clone().look_after()));
    background.spawn(until(stop.clone(), app.clone().answer_letters()));
    background.spawn(until(stop.clone(), app.clone().watch_certificate()));
    background.spawn(until(stop.clone(), reload::on_signal(app.clone(), hangups)));
    background.spawn(until(stop.clone(), reload::on_change(app.clone())));
    app.listens(public.local_addr()?);
    background.spawn(until(stop.clone(), announce(app.clone())));
    if let Some(presence) = app.presence.clone() {
        // It has a last word when it is stopped.
        background.spawn(presence.run(stop.clone()));
    }
    for (listener, kind) in [(public, Listener::Public), (admin, Listener::Admin)] {
        let address = listener.local_addr()?;
        background.spawn(server::accept(
            app.clone(),
            listener,
            kind,
            connections.clone(),
            stop.clone(),
        ));
        tracing::info!(listener = kind.as_str(), %address, "listening");
    }
    if app.config().development() {
        tracing::info!("development mode: no auth is configured, so only this machine is served");
    }

    tokio::select! {
        () = wait(&mut signals) => {}
        () = app.leave.cancelled() => {}
    }
    let drained = tokio::select! {
        () = drain(&app, &connections) => true,
        () = wait(&mut signals) => false,
    };
    stop.cancel();
    background.close();
    let _ = tokio::time::timeout(Duration::from_millis(500), background.wait()).await;
    // After its last sign of life, which would list it again.
    let _ = tokio::time::timeout(
        Duration::from_millis(500),
        app.hub.store().retire(app.replica()),
    )
    .await;
    let _ = tokio::time::timeout(Duration::from_millis(500), app.hub.stop()).await;
    tracing::info!(drained, "exit");
    // Taking a large log apart event by event takes seconds, and the kernel does it better.
    std::mem::forget(app);
    Ok(())
}

/// On SIGUSR1 somebody (logrotate) has put the log files aside.
async fn reopen(mut aside: Signal, log: LogHandle) {
    while aside.recv().await.is_some() {
        log.reopen();
        tracing::info!("the log files are opened again");
    }
}

/// Tells the other replicas that this one is alive, and how it fares.
async fn announce(app: Arc<App>) {
    let mut moments = tokio::time::interval(ANNOUNCE);
    moments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        moments.tick().await;
        if let Err(error) = app.hub.store().announce(&app.report()).await {
            tracing::debug!(%error, "the other replicas could not be told that this one is alive");
        }
    }
}

async fn wait((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => {}
        () = stop.cancelled() => {}
    }
}

/// Raises the soft limit of open files to the hard one. Some of them are kept from streams.
fn room_for_streams() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(SPARE_FILES)).unwrap_or(usize::MAX)
}
