//! What is tried against a gateway that checks tokens, and what must come of it.

use std::io::Write;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{
    Auth, AuthError, Credential, CredentialKind, Denied, Identity, KeyError, MAX_BYTES,
    forge::{EC, ED, Issuer, NOW, RSA, SECRET, at, auth, config, hs, name, now, part, pem, show},
};
use crate::config::Right;

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

/// A gateway that knows the public key of this issuer.
fn knows(issuer: &Issuer) -> Auth {
    let file = file(&issuer.pem);
    auth(&[("auth.jwt.public_key", file.path().to_str().expect("a path"))])
}

fn shared() -> Auth {
    auth(&[("auth.jwt.secret", SECRET)])
}

/// The text of a refusal for good; it holds nothing of what was shown.
async fn refused(auth: &Auth, token: &str) -> String {
    match show(auth, token).await {
        Err(Denied::Invalid(text)) => {
            for word in token.split('.').filter(|word| word.len() > 8) {
                assert!(!text.contains(word), "{text} repeats the token");
            }
            text.into_owned()
        }
        other => panic!("{token} was not refused: {other:?}"),
    }
}

fn rights(identity: &Identity) -> [bool; 2] {
    [Right::Subscribe, Right::Publish].map(|right| identity.may(right, "orders/1"))
}

#[tokio::test]
async fn each_kind_of_key_checks_the_tokens_of_its_owner() {
    let claims = json!({"sub": "ann", "tidegate": {"subscribe": ["orders/*"]}});
    let shared = hs();
    for issuer in [&shared, &*RSA, &*EC, &*ED] {
        let kind = name(issuer.algorithm);
        let auth = if kind == "HS256" {
            self::shared()
        } else {
            knows(issuer)
        };
        let identity = show(&auth, &issuer.token(&claims)).await.expect(kind);
        assert_eq!(identity.subject().map(|subject| &**subject), Some("ann"));
        assert_eq!(&**identity.caller(), "jwt:0::ann");
        assert_eq!(identity.expires(), Some(at(NOW + 60)));
        assert_eq!(rights(&identity), [true, false], "{kind}");
        assert!(!identity.is_admin());
    }
}

#[tokio::test]
async fn no_token_chooses_how_it_is_checked() {
    let claims = json!({"exp": NOW + 60, "tidegate": {"subscribe": ["*"]}}).to_string();
    for auth in [shared(), knows(&RSA), knows(&EC), knows(&ED)] {
        for none in [
            "none",
            "None",
            "NONE",
            "nOnE",
            "",
            "HS256\u{0}",
            "hs256",
            "HS512",
            "RS512",
            "PS256",
            "ES384",
            "ES256K",
        ] {
            let header = json!({"alg": none, "typ": "JWT"}).to_string();
            let message = format!("{}.{}", part(&header), part(&claims));
            refused(&auth, &format!("{message}.")).await;
            refused(&auth, &format!("{message}.{}", part("x"))).await;
            // Signed well, by the right owner.
            refused(&auth, &hs().sign(&header, &claims)).await;
        }
        for header in [
            "{}",
            r#"{"alg":null}"#,
            r#"{"alg":1}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{"alg":"HS256","alg":"none"}"#,
            "[]",
            "null",
            "\"HS256\"",
            "{",
            "",
        ] {
            refused(&auth, &hs().sign(header, &claims)).await;
        }
    }
}

/// The public key is no secret: whoever has it must not be able to sign with it as if it were one.
#[tokio::test]
async fn a_public_key_is_never_taken_for_a_shared_secret() {
    let claims = json!({"exp": NOW + 60, "tidegate": {"publish": ["*"]}}).to_string();
    for issuer in [&*RSA, &*EC, &*ED] {
        let auth = knows(issuer);
        let raw: Vec<u8> = {
            use base64::{Engine, engine::general_purpose::STANDARD};
            let lines = issuer.pem.lines().filter(|line| !line.starts_with('-'));
            STANDARD.decode(lines.collect::<String>()).expect("DER")
        };
        let secrets = [
            issuer.pem.clone().into_bytes(),
            issuer.pem.trim_end().as_bytes().to_vec(),
            raw,
            Vec::new(),
        ];
        for secret in secrets {
            let forger = Issuer {
                key: jsonwebtoken::EncodingKey::from_secret(&secret),
                ..hs()
            };
            for alg in ["HS256", name(issuer.algorithm)] {
                let header = json!({"alg": alg}).to_string();
                refused(&auth, &forger.sign(&header, &claims)).await;
            }
        }
    }
}

#[tokio::test]
async fn keys_of_different_kinds_are_not_mixed_up() {
    let issuers = [
        hs(),
        super::forge::new_rsa(),
        super::forge::new_ec(),
        super::forge::new_ed(),
    ];
    for known in [&*RSA, &*EC, &*ED] {
        let auth = knows(known);
        for other in &issuers {
            for alg in ["HS256", "RS256", "ES256", "EdDSA"] {
                let header = json!({"alg": alg}).to_string();
                let claims = json!({"exp": NOW + 60}).to_string();
                refused(&auth, &other.sign(&header, &claims)).await;
            }
        }
    }
    // The signature of the right key, with the name of another algorithm.
    let header = json!({"alg": "ES256"}).to_string();
    refused(&knows(&RSA), &RSA.sign(&header, "{}")).await;
}

/// Keys that come with a token are those of whoever wrote it.
#[tokio::test]
async fn a_token_does_not_bring_its_own_key() {
    let thief = super::forge::new_rsa();
    let auth = knows(&RSA);
    for header in [
        json!({"jwk": thief.jwk}),
        json!({"jku": "http://127.0.0.1:1/keys"}),
        json!({"x5u": "http://127.0.0.1:1/cert", "x5c": ["AAAA"]}),
        json!({"kid": "../../../../dev/null"}),
        json!({"kid": "' OR 1=1 --"}),
        json!({"kid": "\r\nSet-Cookie: a=b"}),
        json!({"kid": "x".repeat(2_000)}),
    ] {
        refused(&auth, &thief.token_of(&header, &json!({}))).await;
        assert!(
            show(&auth, &RSA.token_of(&header, &json!({})))
                .await
                .is_ok()
        );
    }
    refused(&auth, &RSA.token_of(&json!({"kid": 1}), &json!({}))).await;
    let critical = json!({"crit": ["exp"], "b64": false});
    refused(&auth, &RSA.token_of(&critical, &json!({}))).await;
}

#[tokio::test]
async fn a_token_has_three_parts_of_base64url_and_nothing_else() {
    let auth = shared();
    let good = hs().token(&json!({}));
    assert!(show(&auth, &good).await.is_ok());
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts")
    };
    for wrong in [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        header.into(),
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!(".{claims}.{signature}"),
        format!("{header}..{signature}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{good}"),
        format!("{header}.{header}.{claims}.{claims}.{signature}"),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        format!("{header} .{claims}.{signature}"),
        format!("{good}="),
        format!("{header}=.{claims}.{signature}"),
        format!("{header}.{claims}.{}", signature.replace(['-', '_'], "+")) + "+",
        format!("{header}.{claims}.é"),
        format!("{header}.{claims}.\u{0}"),
        "\u{202e}".into(),
        "x".repeat(MAX_BYTES),
        "x".repeat(MAX_BYTES + 1),
        "x".repeat(10 << 20),
        format!("{header}.{}.{signature}", "A".repeat(10 << 20)),
    ] {
        refused(&auth, &wrong).await;
    }
    for cut in 0..good.len() {
        refused(&auth, &good[..cut]).await;
    }
}

#[tokio::test]
async fn a_token_has_to_end_and_says_when_in_seconds() {
    let auth = shared();
    for exp in [
        "null",
        "\"2000000060\"",
        "true",
        "[2000000060]",
        "{}",
        "-1",
        "-0.5",
        "-1e300",
        "1e300",
        "18446744073709551615",
        "18446744073709551616",
        "253402300800",
        "2000000060000",
        "1e999",
        "NaN",
        "Infinity",
        "0x77359400",
    ] {
        let claims = format!(r#"{{"exp":{exp}}}"#);
        let text = refused(&auth, &hs().sign(r#"{"alg":"HS256"}"#, &claims)).await;
        assert!(
            text.contains("exp") || text.contains("JSON"),
            "{exp}: {text}"
        );
    }
    refused(&auth, &hs().sign(r#"{"alg":"HS256"}"#, "{}")).await;
    for exp in [
        "2000000060",
        "2000000060.0",
        "2000000060.999",
        "2.00000006e9",
    ] {
        let claims = format!(r#"{{"exp":{exp}}}"#);
        let identity = show(&auth, &hs().sign(r#"{"alg":"HS256"}"#, &claims)).await;
        assert_eq!(identity.expect(exp).expires(), Some(at(NOW + 60)), "{exp}");
    }
    // The last moment that can be written down can be written down.
    let last = show(&auth, &hs().token(&json!({"exp": 253_402_300_799_u64}))).await;
    let last = last.expect("a token").expires().expect("an end");
    assert_eq!(crate::http::app::rfc3339(last), "9999-12-31T23:59:59.000Z");
}

/// Only what was right in all else was valid once.
#[tokio::test]
async fn what_has_expired_is_told_apart_from_what_was_never_valid() {
    let auth = auth(&[
        ("auth.jwt.secret", SECRET),
        ("auth.jwt.issuer", "me"),
        ("auth.jwt.leeway", "5s"),
    ]);
    let expired = |claims: Value| hs().token(&claims);
    for ago in [5, 6, 1_000, NOW] {
        let token = expired(json!({"iss": "me", "exp": NOW - ago}));
        let denied = show(&auth, &token).await;
        assert_eq!(denied, Err(Denied::Expired(at(NOW - ago))), "{ago} s ago");
    }
    // The leeway is for the beginning: a stream that has ended with its token does not come back with it.
    for ago in [0, 1, 4] {
        let denied = show(&auth, &expired(json!({"iss": "me", "exp": NOW - ago}))).await;
        assert_eq!(denied, Err(Denied::Expired(at(NOW - ago))));
    }
    for never in [
        json!({"iss": "you", "exp": 1}),
        json!({"exp": 1}),
        json!({"iss": "me", "exp": 1, "tidegate": {"subscribe": "*"}}),
        json!({"iss": "me", "exp": 1, "nbf": NOW + 60}),
    ] {
        refused(&auth, &expired(never)).await;
    }
    let mut forged = expired(json!({"iss": "me", "exp": 1}));
    forged.replace_range(forged.len() - 4.., "AAAA");
    refused(&auth, &forged).await;
}

#[tokio::test]
async fn a_token_is_not_valid_before_its_time() {
    let auth = shared();
    for nbf in [
        json!(0),
        json!(NOW),
        json!(NOW + 5),
        Value::Null,
        json!(1.5),
    ] {
        let token = hs().token(&json!({ "nbf": nbf }));
        assert!(show(&auth, &token).await.is_ok(), "{nbf}");
    }
    for nbf in [
        json!(NOW + 6),
        json!(NOW + 1_000),
        json!("0"),
        json!(-1),
        json!(true),
        json!(1e300),
    ] {
        let text = refused(&auth, &hs().token(&json!({ "nbf": nbf }))).await;
        assert!(text.contains("nbf"), "{text}");
    }
}

#[tokio::test]
async fn issuer_and_audience_are_those_that_are_expected() {
    let auth = auth(&[
        ("auth.jwt.secret", SECRET),
        ("auth.jwt.issuer", "https://id.example"),
        ("auth.jwt.audience", "tidegate"),
    ]);
    let claims = |iss: Value, aud: Value| hs().token(&json!({"iss": iss, "aud": aud}));
    for aud in [
        json!("tidegate"),
        json!(["tidegate"]),
        json!(["a", "tidegate"]),
    ] {
        let token = claims(json!("https://id.example"), aud);
        assert!(show(&auth, &token).await.is_ok());
    }
    for (iss, aud) in [
        (Value::Null, json!("tidegate")),
        (json!(""), json!("tidegate")),
        (json!("https://id.example/"), json!("tidegate")),
        (json!(["https://id.example"]), json!("tidegate")),
        (json!("https://id.example"), Value::Null),
        (json!("https://id.example"), json!("Tidegate")),
        (json!("https://id.example"), json!("tidegate2")),
        (json!("https://id.example"), json!([])),
        (json!("https://id.example"), json!([["tidegate"]])),
        (json!("https://id.example"), json!({"tidegate": 1})),
        (json!("https://id.example"), json!(1)),
    ] {
        refused(&auth, &claims(iss, aud)).await;
    }
    refused(&auth, &hs().token(&json!({}))).await;
}

#[tokio::test]
async fn a_claim_is_there_once() {
    let auth = shared();
    for claims in [
        r#"{"exp":1,"exp":2000000060}"#,
        r#"{"exp":2000000060,"sub":"a","sub":"b"}"#,
        r#"{"exp":2000000060,"tidegate":{"subscribe":["a"]},"tidegate":{"subscribe":["*"]}}"#,
        r#"{"exp":2000000060,"tidegate":{"subscribe":["a"],"subscribe":["*"]}}"#,
        r#"{"exp":2000000060,"\u0065xp":1}"#,
        "[]",
        "null",
        "{\"exp\":2000000060}{}",
        "{\"exp\":2000000060",
        "\u{feff}{\"exp\":2000000060}",
    ] {
        refused(&auth, &hs().sign(r#"{"alg":"HS256"}"#, claims)).await;
    }
    let deep = format!(
        r#"{{"exp":2000000060,"tidegate":{}1{}}}"#,
        "[".repeat(2_000),
        "]".repeat(2_000)
    );
    refused(&auth, &hs().sign(r#"{"alg":"HS256"}"#, &deep)).await;
}

#[tokio::test]
async fn rights_are_patterns_and_a_mistake_in_them_is_told() {
    let auth = shared();
    for (claim, told) in [
        (json!("*"), "object"),
        (json!(["*"]), "object"),
        (json!(true), "object"),
        (
            json!({"subscribe": "orders/*"}),
            "tidegate.subscribe is no array",
        ),
        (
            json!({"publish": {"a": true}}),
            "tidegate.publish is no array",
        ),
        (json!({"subscribe": ["a", 1]}), "tidegate.subscribe[1]"),
        (json!({"subscribe": [["a"]]}), "tidegate.subscribe[0]"),
        (json!({"publish": ["a*b"]}), "at the end"),
        (json!({"publish": ["$sys"]}), "reserved"),
        (json!({"subscribe": ["a b"]}), "tidegate.subscribe[0]"),
        (json!({"subscribe": [""]}), "tidegate.subscribe[0]"),
        // No more rights than were meant: what is not known may be a limit of them.
        (json!({"subscribe": ["*"], "except": ["a"]}), "object"),
        (json!({"subscribe": ["*"], "admin": true}), "object"),
    ] {
        let text = refused(&auth, &hs().token(&json!({"tidegate": claim}))).await;
        assert!(text.contains(told), "{claim}: {text}");
    }
    for (claim, expected) in [
        (Value::Null, [false, false]),
        (json!({}), [false, false]),
        (
            json!({"subscribe": null, "publish": ["orders/1"]}),
            [false, true],
        ),
        (
            json!({"subscribe": ["a", "orders/*"], "publish": []}),
            [true, false],
        ),
        (
            json!({"subscribe": ["order", "orders/11"], "publish": ["*"]}),
            [false, true],
        ),
    ] {
        let identity = show(&auth, &hs().token(&json!({"tidegate": claim}))).await;
        assert_eq!(rights(&identity.expect("a token")), expected, "{claim}");
    }
}

#[tokio::test]
async fn a_token_never_makes_an_operator() {
    let auth = shared();
    let claims = json!({"admin": true, "role": "admin", "sub": "admin", "scope": "admin"});
    let identity = show(&auth, &hs().token(&claims)).await.expect("a token");
    assert!(!identity.is_admin());
    assert_ne!(&**identity.caller(), "admin");
}

#[tokio::test]
async fn a_subject_is_a_name_that_can_stand_in_a_log() {
    let auth = shared();
    for sub in [
        json!("a\nb"),
        json!("a\u{0}"),
        json!("\u{85}"),
        json!(7),
        json!(["a"]),
        json!("x".repeat(256)),
    ] {
        refused(&auth, &hs().token(&json!({ "sub": sub }))).await;
        refused(&auth, &hs().token(&json!({ "iss": sub }))).await;
    }
    let caller = |claims: Value| {
        let (auth, token) = (&auth, hs().token(&claims));
        async move { show(auth, &token).await.expect("a token").caller().clone() }
    };
    // No two subjects share a caller, however colons are placed.
    let mut callers = vec![
        caller(json!({"iss": "a:b", "sub": "c"})).await,
        caller(json!({"iss": "a", "sub": "b:c"})).await,
        caller(json!({"iss": "a"})).await,
        caller(json!({"iss": "a", "sub": ""})).await,
        caller(json!({"sub": "a"})).await,
        caller(json!({})).await,
    ];
    callers.sort();
    callers.dedup();
    assert_eq!(callers.len(), 6, "{callers:?}");
}

#[tokio::test]
async fn static_tokens_and_the_token_of_the_operator_are_told_apart() {
    let mut config = config(&[
        ("admin.token", "the-operators-own"),
        ("auth.jwt.secret", SECRET),
    ]);
    config.auth.tokens = serde_json::from_value(json!([
        {"name": "shop", "token": "s3cret-1", "publish": ["orders/*"]},
        {"name": "page", "token": "s3cret-2", "subscribe": ["*"]},
        {"name": "ops", "token": "s3cret-3", "admin": true},
    ]))
    .expect("tokens");
    let auth = Auth::new(&config, None).expect("settings");
    for (token, subject, caller, expected, admin) in [
        ("s3cret-1", "shop", "token:shop", [false, true], false),
        ("s3cret-2", "page", "token:page", [true, false], false),
        ("s3cret-3", "ops", "token:ops", [false, false], true),
        ("the-operators-own", "admin", "admin", [false, false], true),
    ] {
        let identity = show(&auth, token).await.expect(token);
        assert_eq!(identity.subject().map(|name| &**name), Some(subject));
        assert_eq!(&**identity.caller(), caller);
        assert_eq!(rights(&identity), expected, "{token}");
        assert_eq!(identity.is_admin(), admin, "{token}");
        assert_eq!(identity.expires(), None);
        assert_eq!(auth.current(&identity), Some(identity));
    }
    let mut texts = Vec::new();
    for wrong in [
        "s3cret",
        "s3cret-",
        "s3cret-11",
        "S3CRET-1",
        "s3cret-4",
        "shop",
        "the-operators-own ",
        "x",
    ] {
        texts.push(refused(&auth, wrong).await);
    }
    texts.dedup();
    assert_eq!(
        texts.len(),
        1,
        "all wrong ones are told the same: {texts:?}"
    );
    let debug = format!("{auth:?} {config:?}");
    for secret in ["s3cret", "operator's", SECRET] {
        assert!(!debug.contains(secret), "{debug}");
    }
}

#[tokio::test]
async fn a_reload_takes_effect_on_who_is_known_already() {
    let with = |tokens: Value, secret: Option<&str>| {
        let mut config = config(&[("admin.token", "the-operators-own")]);
        config.auth.tokens = serde_json::from_value(tokens).expect("tokens");
        config.auth.jwt.secret =
            secret.map(|secret| serde_json::from_value(json!(secret)).expect("a secret"));
        Auth::new(&config, None).expect("settings")
    };
    let old = with(
        json!([{"name": "a", "token": "one", "publish": ["*"]}]),
        Some(SECRET),
    );
    let a = show(&old, "one").await.expect("a token");
    let signed = show(&old, &hs().token(&json!({"sub": "s"})))
        .await
        .expect("a token");
    let operator = show(&old, "the-operators-own").await.expect("a token");

    let narrower = with(
        json!([{"name": "a", "token": "one", "publish": ["b"]}]),
        Some(SECRET),
    );
    let now = narrower.current(&a).expect("it is still known");
    assert_eq!(rights(&now), [false, false]);
    assert_eq!(narrower.current(&signed).as_ref(), Some(&signed));
    // The name is the same, the secret is not: whoever has the old one is out.
    let changed = with(
        json!([{"name": "a", "token": "two", "publish": ["*"]}]),
        None,
    );
    assert_eq!(changed.current(&a), None);
    assert_eq!(changed.current(&signed), None);
    let other_key = with(json!([]), Some("another secret of thirty-two bytes!!"));
    assert_eq!(other_key.current(&signed), None);
    assert_eq!(other_key.current(&operator).as_ref(), Some(&operator));
    assert_eq!(
        other_key.current(&Identity::anonymous()),
        Some(Identity::anonymous())
    );
    assert_eq!(auth(&[]).current(&operator), None);
}

#[test]
fn what_anybody_may_do_a_known_caller_may_too() {
    let topic = "orders".parse().expect("a topic");
    let auth = auth(&[("auth.anonymous", "subscribe")]);
    let nobody = Identity::anonymous();
    assert!(auth.may(&nobody, Right::Subscribe, &topic));
    assert!(!auth.may(&nobody, Right::Publish, &topic));
    assert!(auth.anybody_may(Right::Subscribe, &[]) && !auth.anybody_may(Right::Publish, &[]));
}

#[test]
fn keys_that_cannot_be_used_are_told_at_the_start() {
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let short_rsa = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC0jZXrOn4aNBtHvr+SSv+SFIGd
RuxGhCA3LPXbG/5jMLcTVnUKdczWZd5iVyIuedlrg2mz4x9UZ9pXhpJEgtR0as1E
Gyo+O3HjNsO9FRQ1R9qgrBvdm6Z/vjDRZtmCvdKN7M0/aE95PXMztCQQdOJYpPFv
RXlX1TOj1GsTcUBE7wIDAQAB
-----END PUBLIC KEY-----
";
    let p384 = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEHFpj+AHeYFJnX+56zdp2FKEuudvhlXW9
1BgzDSCQRiOSo2O03qYjiQXRrUDVRFsCirw3TjTsa+ttM9YO6NYQieJeyWFugrR3
GNVnEo6xesOC5Eoz/TTbqfxM/WCiLWPs
-----END PUBLIC KEY-----
";
    let secp256k1 = "-----BEGIN PUBLIC KEY-----
MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEvyP+2SI/5j/VOQD7pdwHdnWBIFRDZJKd
q9SIgV8HfOdv6bo+f48MIPxV2PyeMrUf092gfWh7OyB6Zi6cKGabfA==
-----END PUBLIC KEY-----
";
    let ed448 = "-----BEGIN PUBLIC KEY-----
MEMwBQYDK2VxAzoA58VjYwy0NCyhmu2THFhbM8Tnbik1Y/VsWi4wRRYK92VX4v2h
3dJ5jZt/Gb7oDWB9DwkGo18E2QaA
-----END PUBLIC KEY-----
";
    for (text, expected) in [
        ("", KeyError::NoPem),
        ("hello", KeyError::NoPem),
        (certificate, KeyError::Certificate),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----",
            KeyError::Private,
        ),
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----\n", KeyError::Private),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            KeyError::Kind,
        ),
        (short_rsa, KeyError::Kind),
        (p384, KeyError::Kind),
        (secp256k1, KeyError::Kind),
        (ed448, KeyError::Kind),
    ] {
        let file = file(text);
        let path = file.path().to_str().expect("a path");
        let error = Auth::check(&config(&[("auth.jwt.public_key", path)])).expect_err(text);
        assert!(error.to_string().contains(path), "{error}");
        let AuthError::PublicKey { error, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(error, expected);
    }
    let pkcs1 = file(
        "-----BEGIN RSA PUBLIC KEY-----\nMIIBCgKCAQEA25D/45nGM6UWT4lBH3GgywBJ/Kp1baezBzZIfqBlM1a8EGC84Ojl\nrNqQpjkUn0Wqc9PVTV2OaRHBlgD5iYbEQxBdauzJQLI85Wu1HdGVOda8JKuQhdXj\nYAo1o7Mr6n9vZ9oKy7xjJbaZD7Qv155z0keOBoow2hDHgIkAL1dxe4a3z1T64sdv\nW91IcTpIqysfWSrf3IPbR7XayaHhH0zHdp0Z4tNnk0wtv5Dz8es4A6mh7RU9Hs7p\njbnmqL9sdKEtv+nZWeHQ3NGtOo+GteYubCjUi0BogX4Vv8cqsgwVspv8MRBO5gey\nNBv73r3Rl5WeUrYIdq0ksS4KAIUjx71dcQIDAQAB\n-----END RSA PUBLIC KEY-----\n",
    );
    let path = pkcs1.path().to_str().expect("a path");
    assert!(Auth::check(&config(&[("auth.jwt.public_key", path)])).is_ok());
    assert_eq!(super::Key::secret("").map(drop), Err(KeyError::EmptySecret));
    let public = pem("PUBLIC KEY", b"x");
    let mixed_up = Auth::check(&config(&[("auth.jwt.secret", &public)]));
    assert!(matches!(
        mixed_up,
        Err(AuthError::Secret(KeyError::PemAsSecret))
    ));
    let gone = Auth::check(&config(&[("auth.jwt.public_key", "/nowhere/key.pem")]));
    assert!(matches!(gone, Err(AuthError::File { .. })));
    for url in [
        "",
        "keys.json",
        "ftp://a/b",
        "https://",
        "https://u:p@host/keys",
    ] {
        // The settings look at it, too; what they let through is not relied upon.
        let mut config = config(&[]);
        config.auth.jwt.jwks_url = Some(url.into());
        let wrong = Auth::check(&config);
        assert!(matches!(wrong, Err(AuthError::Url(_))), "{url}: {wrong:?}");
    }
    assert!(Auth::check(&config(&[("auth.jwt.leeway", "2h")])).is_err());
}

#[test]
fn tokens_that_cannot_be_told_apart_are_refused_at_the_start() {
    for (tokens, admin) in [
        (
            json!([{"name": "a", "token": "s3cret"}, {"name": "b", "token": "s3cret"}]),
            None,
        ),
        (
            json!([{"name": "a", "token": "s3cret"}, {"name": "a", "token": "y"}]),
            None,
        ),
        (json!([{"name": "a", "token": "s3cret"}]), Some("s3cret")),
        (json!([{"name": "", "token": "s3cret"}]), None),
        (json!([{"name": "a\nb", "token": "s3cret"}]), None),
        (json!([{"name": "a", "token": ""}]), None),
    ] {
        let mut config = config(&[]);
        config.auth.tokens = serde_json::from_value(tokens.clone()).expect("tokens");
        config.admin.token =
            admin.map(|token| serde_json::from_value(json!(token)).expect("a token"));
        let error = Auth::check(&config).expect_err(&tokens.to_string());
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

proptest! {
    /// Whatever is shown is answered, and nothing that was made up gets in.
    #[test]
    fn nothing_made_up_is_accepted(text in r"(\PC{0,40}|[A-Za-z0-9_.-]{0,80}|eyJ[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40})") {
        use futures_util::FutureExt;
        let auth = shared();
        let credential = Credential::new(CredentialKind::Cookie, text);
        let read = auth.identify(&credential, now()).now_or_never();
        prop_assert!(matches!(read, Some(Err(Denied::Invalid(_)))));
    }

    /// One bit of any part.
    #[test]
    fn a_token_that_was_changed_is_not_accepted(at in any::<prop::sample::Index>(), bit in 0_u8..7) {
        use futures_util::FutureExt;
        let auth = shared();
        let mut bytes = hs().token(&json!({"sub": "ann", "tidegate": {"subscribe": ["a"]}})).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(text) = String::from_utf8(bytes) {
            let credential = Credential::new(CredentialKind::Bearer, text);
            let read = auth.identify(&credential, now()).now_or_never();
            prop_assert!(matches!(read, Some(Err(Denied::Invalid(_)))));
        }
    }
}
