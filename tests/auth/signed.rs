//! A signed token is worth what its signature and its claims are worth.

use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};

use super::{event, stream};
use crate::support::{Claims, Gateway, Request, Settings, Signer, seconds, unsigned};

const SECRET: &str = "a secret of more than thirty-two bytes";

fn settings() -> Settings {
    Gateway::settings().with("limits.rate.auth_failure", "off")
}

/// A gateway that knows one public key.
async fn knows(signer: &Signer) -> Gateway {
    settings()
        .file("key.pem", signer.pem())
        .with("auth.jwt.public_key", "key.pem")
        .start()
        .await
}

fn ann() -> Claims {
    Claims::of("ann")
        .subscribe(&["orders/*"])
        .publish(&["orders/*"])
}

async fn accepts(gateway: &Gateway, token: &str) {
    let mut reader = gateway.events("topic=orders/1").bearer(token).open().await;
    let answer = gateway.ask(event("orders/1").bearer(token)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(reader.take(1).await, ["a"]);
    for request in [event("other"), Request::get("/events?topic=other")] {
        let answer = gateway.ask(request.bearer(token)).await;
        answer.refuses(403, "forbidden");
    }
}

#[tokio::test]
async fn a_shared_secret_signs() {
    let gateway = settings().with("auth.jwt.secret", SECRET).start().await;
    accepts(&gateway, &Signer::hs256(SECRET).sign(&ann())).await;
    let other = Signer::hs256("another secret of more than 32 bytes");
    let request = stream("orders/1").bearer(&other.sign(&ann()));
    assert_eq!(gateway.ask(request).await.status(), 401);
}

/// The guides call it `JWT_SECRET`.
#[tokio::test]
async fn the_secret_has_a_plain_name() {
    let gateway = settings().env("JWT_SECRET", SECRET).start().await;
    accepts(&gateway, &Signer::hs256(SECRET).sign(&ann())).await;
}

#[tokio::test]
async fn each_family_of_public_keys_is_known_by_its_pem() {
    for new in [Signer::rs256, Signer::es256, Signer::eddsa] {
        let signer = new();
        let gateway = knows(&signer).await;
        accepts(&gateway, &signer.sign(&ann())).await;
        let request = stream("orders/1").bearer(&new().sign(&ann()));
        assert_eq!(gateway.ask(request).await.status(), 401);
    }
}

/// The key decides how a token is checked, never the token: a public key is no secret (RFC 8725, 3.1).
#[tokio::test]
async fn a_public_key_does_not_serve_as_a_secret() {
    for signer in [Signer::rs256(), Signer::es256(), Signer::eddsa()] {
        let gateway = knows(&signer).await;
        let pem = signer.pem();
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        for secret in [pem, pem.trim_end(), &der] {
            let forged = Signer::hs256(secret).sign(&ann());
            let request = Request::get("/events?topic=orders/1").bearer(&forged);
            gateway.ask(request).await.challenges(true);
        }
    }
}

#[tokio::test]
async fn a_token_without_a_signature_is_worth_nothing() {
    let gateway = settings().with("auth.jwt.secret", SECRET).start().await;
    let good = Signer::hs256(SECRET).sign(&ann());
    let signature = good.rsplit('.').next().unwrap();
    let (message, _) = good.rsplit_once('.').unwrap();
    let mut tokens = vec![
        message.to_owned(),
        format!("{message}."),
        format!("{message}.AAAA"),
        format!("{good}."),
        format!("{good}.AAAA"),
        format!("{good}="),
        format!(".{good}"),
    ];
    for algorithm in ["none", "None", "NONE", "", "HS384", "RS256", "hs256"] {
        let header = json!({ "alg": algorithm, "typ": "JWT" });
        for signature in ["", "AAAA", signature] {
            tokens.push(unsigned(&header, &ann(), signature));
        }
    }
    for header in [json!({}), json!([]), json!("HS256"), Value::Null] {
        tokens.push(unsigned(&header, &ann(), signature));
    }
    for token in tokens {
        let request = Request::get("/events?topic=orders/1").bearer(&token);
        gateway.ask(request).await.challenges(true);
    }
}

/// Keys that a token brings along or points to are those of whoever wrote it.
#[tokio::test]
async fn a_key_within_the_token_is_not_believed() {
    let gateway = knows(&Signer::rs256()).await;
    let stranger = Signer::rs256().named("stranger");
    let mut header = Header::new(Algorithm::RS256);
    header.jwk = serde_json::from_value(stranger.jwk()).unwrap();
    header.jku = Some("http://127.0.0.1:1/keys".to_owned());
    let request = Request::get("/events?topic=orders/1");
    let token = stranger.sign_as(&header, &ann());
    gateway.ask(request.bearer(&token)).await.challenges(true);
}

#[tokio::test]
async fn a_header_that_asks_for_extensions_is_refused() {
    let gateway = settings().with("auth.jwt.secret", SECRET).start().await;
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["b64".to_owned()]);
    let token = Signer::hs256(SECRET).sign_as(&header, &ann());
    let request = Request::get("/events?topic=orders/1").bearer(&token);
    gateway.ask(request).await.challenges(true);
}

#[tokio::test]
async fn each_claim_that_is_wrong_refuses_the_token() {
    let gateway = settings()
        .with("auth.jwt.secret", SECRET)
        .with("auth.jwt.issuer", "https://issuer.example")
        .with("auth.jwt.audience", "tidegate")
        .start()
        .await;
    let signer = Signer::hs256(SECRET);
    let good = ann()
        .with("iss", "https://issuer.example")
        .with("aud", "tidegate");
    let several = good.clone().with("aud", json!(["other", "tidegate"]));
    for claims in [&good, &several, &good.clone().with("nbf", seconds() - 60)] {
        let request = stream("orders/1").bearer(&signer.sign(claims));
        let answer = gateway.ask(request).await;
        assert_eq!(answer.status(), 200, "{claims:?}: {answer:?}");
    }
    let far = 4_102_444_800_i64;
    for (claim, values) in [
        (
            "exp",
            vec![
                json!("tomorrow"),
                json!(-1),
                json!(null),
                json!(far * 1_000),
            ],
        ),
        ("nbf", vec![json!(seconds() + 60), json!("now")]),
        (
            "iss",
            vec![
                json!("https://issuer.example/"),
                json!(""),
                json!(null),
                json!(1),
            ],
        ),
        (
            "aud",
            vec![json!("Tidegate"), json!(["other"]), json!([]), json!(null)],
        ),
        (
            "tidegate",
            vec![
                json!("*"),
                json!(["*"]),
                json!({ "subscribe": "*" }),
                json!({ "subscribe": ["a*b"] }),
            ],
        ),
    ] {
        for value in values {
            let token = signer.sign(&good.clone().with(claim, value.clone()));
            let request = Request::get("/events?topic=orders/1").bearer(&token);
            let answer = gateway.ask(request).await;
            assert_eq!(answer.status(), 401, "{claim}: {value}: {answer:?}");
            answer.challenges(true);
        }
    }
    for claim in ["exp", "iss", "aud"] {
        let token = signer.sign(&good.clone().without(claim));
        let request = Request::get("/events?topic=orders/1").bearer(&token);
        gateway.ask(request).await.challenges(true);
    }
}

/// Whoever is known and may do nothing is told so, and not that it is unknown.
#[tokio::test]
async fn a_token_without_rights_is_known_and_may_nothing() {
    let gateway = settings().with("auth.jwt.secret", SECRET).start().await;
    let signer = Signer::hs256(SECRET);
    let none = Claims::of("ann");
    for claims in [
        &none,
        &none.clone().subscribe(&[]),
        &none.clone().with("tidegate", json!({})),
    ] {
        let token = signer.sign(claims);
        for request in [event("orders/1"), Request::get("/events?topic=orders/1")] {
            let answer = gateway.ask(request.bearer(&token)).await;
            answer.refuses(403, "forbidden");
        }
    }
}

/// A token ends to the second: a stream that ends with it must not come back for some seconds more.
#[tokio::test]
async fn the_clock_of_an_issuer_may_be_ahead_by_the_leeway() {
    let settings = settings().with("auth.jwt.secret", SECRET);
    let signer = Signer::hs256(SECRET);
    let is_judged = async |gateway: &Gateway, claims: Claims, status: u16| {
        let request = stream("orders/1").bearer(&signer.sign(&claims));
        assert_eq!(gateway.ask(request).await.status(), status, "{claims:?}");
    };
    let gateway = settings.clone().start().await;
    is_judged(&gateway, ann().with("nbf", seconds() + 3), 200).await;
    is_judged(&gateway, ann().with("nbf", seconds() + 30), 401).await;
    is_judged(&gateway, ann().expires_in(-1), 401).await;
    // An end that is nearer than the leeway, and yet does not come while this is asked.
    let gateway = settings.with("auth.jwt.leeway", "5m").start().await;
    is_judged(&gateway, ann().expires_in(60), 200).await;
    is_judged(&gateway, ann().expires_in(-1), 401).await;
}

/// Static tokens and signed ones stand side by side.
#[tokio::test]
async fn several_kinds_of_tokens_are_accepted_at_once() {
    let signer = Signer::eddsa();
    let gateway = super::settings()
        .with("auth.jwt.secret", SECRET)
        .file("key.pem", signer.pem())
        .with("auth.jwt.public_key", "key.pem")
        .start()
        .await;
    for token in [
        signer.sign(&ann()),
        Signer::hs256(SECRET).sign(&ann()),
        super::PAGE.to_owned(),
    ] {
        let request = stream("orders/1").bearer(&token);
        assert_eq!(gateway.ask(request).await.status(), 200);
    }
}

#[tokio::test]
async fn a_weak_secret_is_warned_of_and_a_wrong_key_is_no_setting() {
    let mut gateway = Gateway::with("auth.jwt.secret", "short").start().await;
    gateway
        .program()
        .line("that the secret is short", |line| {
            (line.contains("auth.jwt.secret") && line.contains("WARN")).then_some(())
        })
        .await;
    drop(gateway);
    let exit = Gateway::with("auth.jwt.public_key", "key.pem")
        .file("key.pem", "no key")
        .refuses_to_start()
        .await;
    assert!(exit.output.contains("auth.jwt.public_key"), "{exit:?}");
    let exit = Gateway::with("auth.jwt.public_key", "nowhere.pem")
        .refuses_to_start()
        .await;
    assert!(exit.output.contains("nowhere.pem"), "{exit:?}");
}
