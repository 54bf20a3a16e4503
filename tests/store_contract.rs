//! The promises of every store, kept by Redis, with functions and without.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tidegate::store::{
    Store,
    contract::{Home, Opened, everything},
    memory::MemoryConfig,
    redis::{RedisConfig, RedisStore, RedisTls, Via},
};
use tokio::{runtime::Handle, task::spawn_blocking};

use super::support::RedisServer;

/// Logs in a Redis of their own.
struct RedisHome {
    /// It has no functions.
    scripts: bool,
}

impl Home for RedisHome {
    fn open<'a>(
        &'a self,
        config: MemoryConfig,
        before: Option<&'a Opened>,
    ) -> BoxFuture<'a, Opened> {
        let before = before.and_then(|before| before.place.clone());
        async move {
            let server: Arc<RedisServer> = match before {
                Some(place) => {
                    let server = place.downcast::<RedisServer>().unwrap();
                    command(server.clone(), &["FLUSHALL"]).await;
                    server
                }
                None => start(self.scripts).await,
            };
            let store = connect(&server, config).await;
            Opened {
                store,
                clock: None,
                place: Some(server),
            }
        }
        .boxed()
    }

    fn replica<'a>(&'a self, opened: &'a Opened) -> BoxFuture<'a, Arc<dyn Store>> {
        async move { connect(&opened.place::<RedisServer>(), everything()).await }.boxed()
    }

    fn cut<'a>(&'a self, opened: &'a Opened) -> BoxFuture<'a, bool> {
        let kill = &["CLIENT", "KILL", "TYPE", "pubsub"];
        command(opened.place::<RedisServer>(), kill)
            .map(|()| true)
            .boxed()
    }

    /// Whole nodes of a stream are trimmed.
    fn slack(&self) -> usize {
        100
    }

    fn has_total_budget(&self) -> bool {
        false
    }

    fn tells_expiry(&self) -> bool {
        false
    }
}

// On threads of their own, because what a `Home` returns has to be `Send` for every lifetime.

async fn start(scripts: bool) -> Arc<RedisServer> {
    let mut settings = RedisServer::settings();
    if scripts {
        settings = settings.without_functions();
    }
    let started = spawn_blocking(|| Handle::current().block_on(settings.start()));
    Arc::new(started.await.unwrap())
}

async fn command(server: Arc<RedisServer>, words: &'static [&'static str]) {
    let sent = spawn_blocking(move || {
        Handle::current().block_on(server.command(words));
    });
    sent.await.unwrap();
}

/// A store of one replica, once it is of use.
async fn connect(server: &RedisServer, config: MemoryConfig) -> Arc<dyn Store> {
    let store = RedisStore::start(RedisConfig {
        url: server.url().parse().unwrap(),
        via: Via::Url,
        prefix: "contract".into(),
        tls: RedisTls::default(),
        wait_replicas: 0,
        timeout: Duration::from_secs(5),
        backlog_bytes: 64 * 1024 * 1024,
        retention: config.retention,
        event_bytes: 65_536,
        idempotency_window: config.idempotency_window,
        ingest: false,
    });
    let store = store.unwrap();
    while store.away() || store.position(&[]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Arc::new(store)
}

tidegate::store_contract!(redis, super::RedisHome { scripts: false });
tidegate::store_contract!(redis_without_functions, super::RedisHome { scripts: true });
