//! Keys behind a URL come and go, and their issuer may be away, while tokens are checked all the time.

use tokio::task::JoinSet;

use super::stream;
use crate::support::{
    Claims, Gateway, JwksServer, PATIENCE, Request, Settings, Signer, eventually, eventually_within,
};

fn settings(issuer: &JwksServer) -> Settings {
    Gateway::with("auth.jwt.jwks_url", issuer.url()).with("limits.rate.auth_failure", "off")
}

fn token(signer: &Signer) -> String {
    signer.sign(&Claims::of("ann").subscribe(&["orders"]))
}

fn ask(signer: &Signer) -> Request {
    stream("orders").bearer(&token(signer))
}

#[tokio::test]
async fn each_key_of_the_set_signs() {
    let signers = [
        Signer::rs256().named("a"),
        Signer::es256().named("b"),
        Signer::eddsa().named("c"),
    ];
    let [a, b, c] = &signers;
    let issuer = JwksServer::start(&[a, b, c]).await;
    let gateway = settings(&issuer).start().await;
    for signer in &signers {
        let answer = gateway.ask(ask(signer)).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    assert_eq!(
        issuer.asked(),
        1,
        "keys that are known are not fetched again"
    );
    // The name of a key is not the key.
    for signer in [Signer::rs256().named("a"), Signer::eddsa().named("b")] {
        assert_eq!(gateway.ask(ask(&signer)).await.status(), 401);
    }
}

/// Some issuers have one key and no name for it.
#[tokio::test]
async fn the_only_key_needs_no_name() {
    let signer = Signer::es256();
    let issuer = JwksServer::start(&[&signer]).await;
    let gateway = settings(&issuer).start().await;
    assert_eq!(gateway.ask(ask(&signer)).await.status(), 200);
}

#[tokio::test]
async fn a_new_key_is_noticed_by_the_first_token_that_it_signed() {
    let (old, new) = (Signer::es256().named("old"), Signer::es256().named("new"));
    let issuer = JwksServer::start(&[&old]).await;
    let gateway = settings(&issuer).start().await;
    assert_eq!(gateway.ask(ask(&old)).await.status(), 200);
    issuer.show(&[&new]);
    let answer = gateway.ask(ask(&new)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    // What is not in the set any more was taken back.
    assert_eq!(gateway.ask(ask(&old)).await.status(), 401);
}

#[tokio::test]
async fn a_key_that_was_taken_back_is_noticed_in_time() {
    let (old, new) = (Signer::es256().named("old"), Signer::es256().named("new"));
    let issuer = JwksServer::start(&[&old, &new]).await;
    let gateway = settings(&issuer)
        .with("auth.jwt.jwks_refresh", "300ms")
        .start()
        .await;
    assert_eq!(gateway.ask(ask(&old)).await.status(), 200);
    issuer.show(&[&new]);
    eventually("the old key to be unknown", async || {
        match gateway.ask(ask(&old)).await {
            answer if answer.status() == 401 => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    })
    .await;
    assert_eq!(gateway.ask(ask(&new)).await.status(), 200);
}

#[tokio::test]
async fn known_keys_outlive_an_outage_of_their_issuer() {
    let signer = Signer::es256().named("a");
    let issuer = JwksServer::start(&[&signer]).await;
    let gateway = settings(&issuer)
        .with("auth.jwt.jwks_refresh", "200ms")
        .start()
        .await;
    assert_eq!(gateway.ask(ask(&signer)).await.status(), 200);
    issuer.away(true);
    let before = issuer.asked();
    // It asks again when it has had the answer.
    eventually("the gateway to have asked in vain", async || {
        let asked = issuer.asked();
        if asked > before + 1 {
            Ok(())
        } else {
            Err(asked.to_string())
        }
    })
    .await;
    assert_eq!(gateway.ask(ask(&signer)).await.status(), 200);
}

/// Nobody can tell whether the token is good: that is our trouble, not the client's, and it passes.
#[tokio::test]
async fn an_issuer_that_is_away_from_the_start_is_a_temporary_refusal() {
    let signer = Signer::es256().named("a");
    let issuer = JwksServer::start(&[&signer]).await;
    issuer.away(true);
    let gateway = settings(&issuer).start().await;
    let answer = gateway.ask(ask(&signer)).await;
    assert_eq!(answer.status(), 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let request = Request::event_source("/events?topic=orders").bearer(&token(&signer));
    let answer = gateway.ask(request).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert!(answer.header("tidegate-refused").is_some(), "{answer:?}");
    issuer.away(false);
    // Each failure doubles the pause before the next attempt.
    eventually_within(4 * PATIENCE, "the keys to be there", async || match gateway
        .ask(ask(&signer))
        .await
    {
        answer if answer.status() == 200 => Ok(()),
        answer => Err(format!("{answer:?}")),
    })
    .await;
}

/// Anybody can invent names of keys: that must not become a flood for the issuer.
#[tokio::test]
async fn invented_names_of_keys_do_not_flood_the_issuer() {
    let signer = Signer::es256().named("a");
    let issuer = JwksServer::start(&[&signer]).await;
    let gateway = settings(&issuer).start().await;
    assert_eq!(gateway.ask(ask(&signer)).await.status(), 200);
    let stranger = Signer::es256();
    let mut asking = JoinSet::new();
    for number in 0..60 {
        let request = ask(&stranger.clone().named(&number.to_string()));
        let mut connection = gateway.connect().await;
        asking.spawn(async move { connection.ask(&request).await.status() });
    }
    let answers = asking.join_all().await;
    assert!(answers.iter().all(|status| *status == 401), "{answers:?}");
    let asked = issuer.asked();
    assert!(asked <= 3, "the issuer was asked {asked} times");
    assert_eq!(gateway.ask(ask(&signer)).await.status(), 200);
}

/// A set is public: a secret in it would be one that everybody knows.
#[tokio::test]
async fn a_secret_in_the_set_signs_nothing() {
    let (signer, secret) = (
        Signer::es256().named("a"),
        Signer::hs256("a secret of more than thirty-two bytes").named("b"),
    );
    let issuer = JwksServer::start(&[&secret, &signer]).await;
    let gateway = settings(&issuer).start().await;
    assert_eq!(gateway.ask(ask(&secret)).await.status(), 401);
    assert_eq!(gateway.ask(ask(&signer)).await.status(), 200);
}

/// What cannot be used in a set (other curves, other uses) does not spoil the rest.
#[tokio::test]
async fn keys_of_other_kinds_are_passed_over() {
    let signer = Signer::rs256().named("a");
    let issuer = JwksServer::start(&[]).await;
    let mut encrypts = Signer::rs256().named("e").jwk();
    encrypts["use"] = "enc".into();
    let strange =
        serde_json::json!({ "kty": "EC", "crv": "P-521", "kid": "p", "x": "AA", "y": "AA" });
    issuer.show_as(vec![
        encrypts,
        strange,
        serde_json::json!({ "kty": "new" }),
        signer.jwk(),
    ]);
    let gateway = settings(&issuer).start().await;
    assert_eq!(gateway.ask(ask(&signer)).await.status(), 200);
}
