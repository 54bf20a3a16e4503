//! A set of keys behind a URL, against a real little server: rotation, outages, and sets that are of no use.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{Instant, sleep},
};

use super::{
    Auth, Denied, JwksStats,
    fetch::{Fetch, FetchError, url},
    forge::{EC, ED, NOW, RSA, SECRET, config, hs, new_ec, show},
};

/// A server with one answer, which can be exchanged.
struct Server {
    url: String,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn set(keys: &[Value]) -> String {
    ok(&json!({ "keys": keys }).to_string())
}

impl Server {
    /// An empty answer: it says nothing and keeps the connection.
    async fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (shared, count) = (answer.clone(), asked.clone());
        let task = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                count.fetch_add(1, Ordering::SeqCst);
                let answer = shared.lock().clone();
                tokio::spawn(async move {
                    let mut request = [0; 1_024];
                    let _ = socket.read(&mut request).await;
                    if answer.is_empty() {
                        sleep(Duration::from_hours(1)).await;
                    }
                    let _ = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self {
            url,
            answer,
            asked,
            task,
        }
    }

    fn answers(&self, answer: String) {
        *self.answer.lock() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn auth(&self, refresh: &str) -> Auth {
        let settings = [
            ("auth.jwt.jwks_url", &*self.url),
            ("auth.jwt.jwks_refresh", refresh),
        ];
        Auth::new(&config(&settings), None).expect("settings")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until the statistics say so.
async fn until(auth: &Auth, what: impl Fn(&JwksStats) -> bool) {
    let started = Instant::now();
    while !what(&auth.stats().expect("a set")) {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{:?}",
            auth.stats()
        );
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn each_kind_of_key_is_found_by_its_name() {
    let names = [(&*RSA, "r"), (&*EC, "e"), (&*ED, "d")];
    let keys: Vec<Value> = names
        .iter()
        .map(|(issuer, kid)| issuer.jwk(&json!({"kid": kid, "use": "sig"})))
        .collect();
    let server = Server::start(set(&keys)).await;
    let auth = server.auth("10m");
    for (issuer, kid) in names {
        let claims = json!({"sub": "ann"});
        // The first of them comes before the set does, and waits for it.
        let found = show(&auth, &issuer.token_of(&json!({ "kid": kid }), &claims)).await;
        assert_eq!(found.expect(kid).subject().map(|name| &**name), Some("ann"));
        // One of each kind: without a name there is one that can be meant.
        assert!(show(&auth, &issuer.token(&claims)).await.is_ok(), "{kid}");
        let forged = new_ec().token_of(&json!({ "kid": kid }), &claims);
        assert!(matches!(
            show(&auth, &forged).await,
            Err(Denied::Invalid(_))
        ));
    }
    let stats = auth.stats().expect("a set");
    assert_eq!((stats.keys, stats.failures, stats.failing), (3, 0, false));
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it_and_an_old_one_goes() {
    let (old, new) = (new_ec(), new_ec());
    let server = Server::start(set(&[old.jwk(&json!({"kid": "old"}))])).await;
    let auth = server.auth("10m");
    let token = |issuer: &super::forge::Issuer, kid: &str| {
        issuer.token_of(&json!({ "kid": kid }), &json!({}))
    };
    assert!(show(&auth, &token(&old, "old")).await.is_ok());
    server.answers(set(&[new.jwk(&json!({"kid": "new"}))]));
    assert!(
        show(&auth, &token(&old, "old")).await.is_ok(),
        "nobody knows yet"
    );
    assert!(show(&auth, &token(&new, "new")).await.is_ok());
    assert!(show(&auth, &token(&old, "old")).await.is_err());
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn invented_keys_make_no_flood() {
    let server = Server::start(set(&[EC.jwk(&json!({"kid": "a"}))])).await;
    let auth = server.auth("10m");
    until(&auth, |stats| stats.keys == 1).await;
    let tokens = (0..50).map(|at| new_ec().token_of(&json!({"kid": format!("x{at}")}), &json!({})));
    let tokens: Vec<String> = tokens.collect();
    let shown = tokens.iter().map(|token| show(&auth, token));
    for outcome in futures_util::future::join_all(shown).await {
        assert!(matches!(outcome, Err(Denied::Invalid(_))), "{outcome:?}");
    }
    assert_eq!(server.asked(), 2, "one for the start, one for all of them");
    assert!(
        show(&auth, &EC.token_of(&json!({"kid": "a"}), &json!({})))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn the_set_is_fetched_again_from_time_to_time() {
    let (old, new) = (new_ec(), new_ec());
    let server = Server::start(set(&[old.jwk(&json!({"kid": "k"}))])).await;
    let auth = server.auth("100ms");
    assert!(show(&auth, &old.token(&json!({}))).await.is_ok());
    server.answers(set(&[new.jwk(&json!({"kid": "k"}))]));
    let successes = auth.stats().expect("a set").successes;
    until(&auth, |stats| stats.successes > successes + 1).await;
    assert!(show(&auth, &new.token(&json!({}))).await.is_ok());
    assert!(show(&auth, &old.token(&json!({}))).await.is_err());
}

#[tokio::test]
async fn while_the_issuer_is_away_the_keys_that_are_known_work() {
    let server = Server::start(set(&[EC.jwk(&json!({"kid": "a"}))])).await;
    let auth = server.auth("100ms");
    until(&auth, |stats| stats.keys == 1).await;
    for answer in [
        "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
        ok("<html>"),
        ok("{}"),
        ok("[]"),
        ok(&format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(300_000))),
    ] {
        server.answers(answer.clone());
        let failures = auth.stats().expect("a set").failures;
        until(&auth, |stats| stats.failures > failures).await;
        let known = show(&auth, &EC.token_of(&json!({"kid": "a"}), &json!({}))).await;
        assert!(known.is_ok(), "{known:?} after {answer:.80}");
        // It may be one of the next set: nobody can tell.
        let unknown = show(&auth, &EC.token_of(&json!({"kid": "b"}), &json!({}))).await;
        assert!(
            matches!(unknown, Err(Denied::Unavailable(_))),
            "{unknown:?}"
        );
        server.answers(set(&[EC.jwk(&json!({"kid": "a"}))]));
        until(&auth, |stats| !stats.failing).await;
    }
}

#[tokio::test]
async fn without_a_first_set_tokens_wait_for_better_times() {
    let server = Server::start("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".into()).await;
    let auth = server.auth("100ms");
    let token = EC.token_of(&json!({"kid": "a"}), &json!({"exp": NOW + 60}));
    assert!(matches!(
        show(&auth, &token).await,
        Err(Denied::Unavailable(_))
    ));
    // What is no token is none, whatever the keys are.
    assert!(matches!(show(&auth, "x").await, Err(Denied::Invalid(_))));
    server.answers(set(&[EC.jwk(&json!({"kid": "a"}))]));
    until(&auth, |stats| stats.keys == 1).await;
    assert!(show(&auth, &token).await.is_ok());
}

#[tokio::test]
async fn keys_of_no_use_are_passed_over_and_spoil_nothing() {
    let private = EC.jwk(&json!({"kid": "private", "d": "AAAA"}));
    let short = json!({"kty": "RSA", "kid": "short", "n": "A".repeat(170), "e": "AQAB"});
    let server = Server::start(set(&[
        hs().jwk(&json!({"kid": "secret", "alg": "HS256"})),
        private,
        short,
        EC.jwk(&json!({"kid": "encrypts", "use": "enc"})),
        EC.jwk(&json!({"kid": "signs", "key_ops": ["sign"]})),
        EC.jwk(&json!({"kid": "other", "alg": "ES384"})),
        RSA.jwk(&json!({"kid": "padded", "alg": "PS256"})),
        EC.jwk(&json!({"kid": "off", "x": super::forge::part([7; 32])})),
        json!({"kty": "EC", "crv": "P-384", "kid": "p384", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "P-256", "kid": "half", "x": "AA"}),
        json!({"kty": "AKP", "kid": "new"}),
        json!({"kid": 7}),
        json!("key"),
        EC.jwk(&json!({"kid": "good", "use": "sig", "key_ops": ["verify"], "alg": "ES256", "x5t": "z"})),
    ]))
    .await;
    let auth = server.auth("10m");
    until(&auth, |stats| stats.keys == 1).await;
    for kid in ["secret", "private", "encrypts", "signs", "other"] {
        for issuer in [&hs(), &*EC, &*RSA] {
            let denied = show(&auth, &issuer.token_of(&json!({ "kid": kid }), &json!({}))).await;
            assert!(
                matches!(denied, Err(Denied::Invalid(_))),
                "{kid}: {denied:?}"
            );
        }
    }
    assert!(
        show(&auth, &EC.token_of(&json!({"kid": "good"}), &json!({})))
            .await
            .is_ok()
    );
}

/// The public key of a set as a shared secret, and tokens that do not say which of two keys they mean.
#[tokio::test]
async fn a_set_of_keys_is_not_mixed_up_either() {
    let second = new_ec();
    let server = Server::start(set(&[
        EC.jwk(&json!({"kid": "a"})),
        second.jwk(&json!({"kid": "b"})),
    ]))
    .await;
    let auth = server.auth("10m");
    until(&auth, |stats| stats.keys == 2).await;
    let jwk = EC.jwk["x"].as_str().expect("a number").as_bytes();
    let forger = super::forge::Issuer {
        key: jsonwebtoken::EncodingKey::from_secret(jwk),
        ..hs()
    };
    for header in [
        json!({"kid": "a"}),
        json!({"kid": "a", "alg": "ES256"}),
        json!({}),
    ] {
        let denied = show(&auth, &forger.token_of(&header, &json!({}))).await;
        assert!(matches!(denied, Err(Denied::Invalid(_))), "{denied:?}");
    }
    let unnamed = show(&auth, &EC.token(&json!({}))).await;
    assert!(matches!(unnamed, Err(Denied::Invalid(_))), "{unnamed:?}");
    // The right key under the name of the other one.
    let swapped = show(&auth, &EC.token_of(&json!({"kid": "b"}), &json!({}))).await;
    assert!(matches!(swapped, Err(Denied::Invalid(_))), "{swapped:?}");
    assert_eq!(server.asked(), 1, "none of them was a reason to ask");
}

#[tokio::test]
async fn a_secret_and_a_set_work_side_by_side() {
    let server = Server::start(set(&[EC.jwk(&json!({"kid": "a"}))])).await;
    let settings = [
        ("auth.jwt.jwks_url", &*server.url),
        ("auth.jwt.secret", SECRET),
    ];
    let auth = Auth::new(&config(&settings), None).expect("settings");
    assert!(show(&auth, &hs().token(&json!({}))).await.is_ok());
    assert!(show(&auth, &EC.token(&json!({}))).await.is_ok());
}

#[tokio::test]
async fn a_reload_keeps_the_set_of_the_same_url_and_ends_that_of_another() {
    let server = Server::start(set(&[EC.jwk(&json!({"kid": "a"}))])).await;
    let first = server.auth("100ms");
    until(&first, |stats| stats.keys == 1).await;
    let settings = |url: &str| {
        config(&[
            ("auth.jwt.jwks_url", url),
            ("auth.jwt.jwks_refresh", "100ms"),
        ])
    };
    let second = Auth::new(&settings(&server.url), Some(&first)).expect("settings");
    assert_eq!(
        second.stats().expect("a set").keys,
        1,
        "it is there at once"
    );
    drop(first);
    let other = Server::start(set(&[])).await;
    let third = Auth::new(&settings(&other.url), Some(&second)).expect("settings");
    drop(second);
    until(&third, |stats| stats.successes > 1).await;
    let asked = server.asked();
    until(&third, |stats| stats.successes > 5).await;
    assert_eq!(server.asked(), asked, "nobody asks the first one any more");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let server = Server::start(String::new()).await;
    let fetch = Fetch::new(url(&server.url).expect("a URL"));
    assert!(matches!(fetch.get().await, Err(FetchError::Timeout)));
}

#[tokio::test]
async fn the_log_and_debug_do_not_show_a_secret_of_the_url() {
    let server = Server::start(set(&[])).await;
    let auth = config(&[("auth.jwt.jwks_url", &format!("{}?key=s3cret", server.url))]);
    let auth = Auth::new(&auth, None).expect("settings");
    assert!(!format!("{auth:?}").contains("s3cret"));
    let fetch = Fetch::new(url("https://host:1/keys?key=s3cret").expect("a URL"));
    assert_eq!(fetch.host(), "host:1");
}
