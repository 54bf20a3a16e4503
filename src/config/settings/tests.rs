//! Settings as a whole: where errors point, and that nothing leaks.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::reload::next;

const SECRET: &str = "s3cret-s3cret-0123";
const DIGITS: &str = "737373737373737373737373";

fn load(
    yaml: &str,
    dotenv: &str,
    environment: &[(String, String)],
) -> Result<Settings, ConfigError> {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, names) = (
        folder.path().join("gateway.yaml"),
        folder.path().join(".env"),
    );
    std::fs::write(&file, yaml).expect("written");
    std::fs::write(&names, dotenv).expect("written");
    Settings::load(&Sources {
        file: Some(file),
        dotenv: Some(names),
        environment: environment.iter().cloned().collect(),
        flags: Vec::new(),
    })
}

fn refused(yaml: &str) -> String {
    let error = load(yaml, "", &[]).map(drop).expect_err(yaml);
    let told = error.told();
    let (_, told) = told.split_once("gateway.yaml").expect("the file is named");
    told.to_owned()
}

#[test]
fn an_error_in_the_file_names_line_and_key() {
    for (yaml, place, told) in [
        (
            "stream:\n  keepalife: 5s\n",
            ", line 2 column 3",
            "unknown setting stream.keepalife, did you mean stream.keepalive?",
        ),
        (
            "\n\nsteam: {}\n",
            ", line 3 column 1",
            "did you mean stream?",
        ),
        (
            "stream.keepalive: 5s\n",
            ", line 1 column 1",
            "did you mean stream: {keepalive: …}?",
        ),
        (
            "stream:\n  retry: 1s\n  keepalive: soon\n",
            ", line 3 column 3",
            "stream.keepalive: invalid value",
        ),
        (
            "stream:\n  # low\n  keepalive: 5ms\n",
            ", line 3 column 3",
            "stream.keepalive: must be at least 100ms",
        ),
        (
            "limits:\n  rate:\n    connect: often\n",
            ", line 3 column 5",
            "limits.rate.connect: \"often\" is no rate",
        ),
        (
            "limits: 5\n",
            ", line 1 column 1",
            "limits: a mapping of settings was expected",
        ),
        (
            "store: disk\n",
            ", line 1 column 1",
            "store: unknown variant `disk`",
        ),
        (
            "redis:\n  tls:\n    key: a.pem\n",
            ", line 3 column 5",
            "redis.tls: certificate and key go together",
        ),
        (
            "stream:\n  retry: 1s\nlimits: {}\nstream:\n  retry: 2s\n",
            ", line 4 column 1",
            "stream: this stands here twice",
        ),
        (
            "retention:\n  rules:\n  - prefix: a\n  - prefix: b\n    agge: 1s\n",
            ", line 5 column 5",
            "unknown setting retention.rules[1].agge, did you mean retention.rules[1].age?",
        ),
        (
            "retention:\n  rules:\n  - prefix: a\n    age: soon\n",
            ", line 4 column 5",
            "retention.rules[0].age: ",
        ),
        (
            "retention:\n  rules:\n  - age: 1s\n",
            ", line 3 column 5",
            "retention.rules[0]: missing field `prefix`",
        ),
        (
            "auth:\n  tokens:\n  - name: a\n    tokens: 0123456789abcdef\n",
            ", line 4 column 5",
            "did you mean auth.tokens[0].token?",
        ),
        (
            "cors:\n  origins:\n  - https://a.example\n  - https://b.example/x\n",
            ", line 4 column 5",
            "cors.origins[1]: ",
        ),
        (
            "server:\n  listen: 0.0.0.0:8080\n",
            ", line 2 column 3",
            "no auth is configured",
        ),
        ("stream: [\n", " is not valid YAML: ", "line 2 column 1"),
        (
            "stream:\n\tretry: 1s\n",
            " is not valid YAML: ",
            "line 2 column 1",
        ),
        ("a: 1\n\nb: \u{1}\n", " is not valid YAML: ", "line 3"),
        (
            "- a\n",
            " is not valid YAML: ",
            "a mapping of settings was expected",
        ),
    ] {
        let error = refused(yaml);
        assert!(error.starts_with(place), "{yaml}{error}");
        assert!(error.contains(told), "{yaml}{error}");
    }
}

#[test]
fn an_error_elsewhere_names_the_line_or_the_name() {
    let told = |dotenv: &str, environment: &[(&str, &str)]| {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let environment: Vec<_> = environment.iter().map(owned).collect();
        load("", dotenv, &environment)
            .map(drop)
            .expect_err("refused")
            .told()
    };
    let error = told("A=1\nMAX_CONNECTIONS=many\n", &[]);
    assert!(
        error.starts_with(".env, line 2, MAX_CONNECTIONS: limits.connections: "),
        "{error}"
    );
    let error = told("\nTIDEGATE_STREAM__RETYR=1s\n", &[]);
    assert!(error.starts_with(".env, line 2: unknown setting TIDEGATE_STREAM__RETYR, did you mean TIDEGATE_STREAM__RETRY?"), "{error}");
    let error = told("", &[("TIDEGATE_STREAM__RETRY", "0s")]);
    assert!(
        error.starts_with("TIDEGATE_STREAM__RETRY: stream.retry: must be"),
        "{error}"
    );
    let error = told("", &[("ALLOWED_ORIGINS", "https://a.example,b")]);
    assert!(
        error.starts_with("ALLOWED_ORIGINS: cors.origins[1]: "),
        "{error}"
    );
}

#[test]
fn every_value_knows_where_it_came_from() {
    let yaml = "stream:\n  retry: 20s\n  keepalive: 5s\nredis: {url: 'redis://:s3cret@cache'}\n";
    let environment = [("PORT".to_owned(), "7".to_owned())];
    let mut settings =
        load(yaml, "\nTIDEGATE_STREAM__KEEPALIVE=6s\n", &environment).expect("valid");
    settings.lower_connections(100);
    let list = settings.list();
    let of = |key: &str| {
        let setting = list.iter().find(|setting| setting.key == key);
        let setting = setting.expect("a setting");
        let place = setting.place.clone().unwrap_or_default();
        let place = place.rsplit('/').next().unwrap_or_default().to_owned();
        (setting.value.to_string(), setting.source, place)
    };
    let is = |value: &str, source, place: &str| (value.to_owned(), source, place.to_owned());
    assert_eq!(
        of("stream.retry"),
        is("\"20s\"", "file", "gateway.yaml, line 2 column 3")
    );
    assert_eq!(
        of("stream.keepalive"),
        is("\"6s\"", ".env", ".env, line 2, TIDEGATE_STREAM__KEEPALIVE")
    );
    assert_eq!(
        of("server.listen"),
        is("\"127.0.0.1:7\"", "environment", "PORT")
    );
    assert_eq!(of("store"), is("\"redis\"", "derived", "redis.url"));
    assert_eq!(
        of("redis.url"),
        is(
            "\"redis://***@cache\"",
            "file",
            "gateway.yaml, line 4 column 9"
        )
    );
    assert_eq!(of("redis.prefix"), is("\"tidegate\"", "default", ""));
    assert_eq!(
        of("limits.connections"),
        is("100", "derived", "the limit of open files")
    );
    assert_eq!(settings.config().limits.connections, 100);
    assert_eq!(settings.warnings().len(), 1);
}

#[test]
fn a_broken_secret_is_not_repeated() {
    let environment = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
    for (name, value) in [
        ("TIDEGATE_AUTH__TOKENS", "[{name: shop, token: s3cret"),
        ("TIDEGATE_AUTH__TOKENS", "shop:s3cret"),
        ("TIDEGATE_AUTH__TOKENS", "[s3cret]"),
        (
            "TIDEGATE_AUTH__TOKENS",
            "[{name: shop, token: s3cret, publich: [a]}]",
        ),
        ("TIDEGATE_AUTH__TOKENS", "[{s3cret: shop}]"),
        ("TIDEGATE_AUTH", "s3cret@x:"),
        ("TIDEGATE_LIMITS__CONNECTIONS", "app:s3cret@cache"),
        ("TIDEGATE_LOG__LEVEL", "redis://app:s3cret@cache"),
    ] {
        let error = load("", "", &environment(name, value))
            .map(drop)
            .expect_err(value);
        assert!(
            !format!("{} {error:?}", error.told()).contains("s3cret"),
            "{error}"
        );
        let error = load("", &format!("{name}='{value}'"), &[])
            .map(drop)
            .expect_err(value);
        assert!(
            !format!("{} {error:?}", error.told()).contains("s3cret"),
            "{error}"
        );
    }
    for yaml in [
        "auth: {tokens: s3cret}",
        "auth: {tokens: [s3cret]}",
        "auth: {tokens: [{name: [s3cret]}]}",
        "auth: {tokens: [{s3cret: shop}]}",
        "auth: {tokens: [{name: shop, token:s3cret}]}",
        "auth: {jwt: s3cret}",
        "auth: {jwt: {s3cret-0123: 1}}",
        "auth: {jwt: {secret: {s3cret: 1}}}",
        "auth: s3cret",
        "admin: {token: [s3cret]}",
        "redis: {password: [s3cret]}",
        "auth: {tokens: [{s3cret: 1, s3cret: 1}]}",
    ] {
        let error = refused(yaml);
        assert!(!error.contains("s3cret"), "{error}");
    }
    let error = refused(&format!("auth: {{jwt: {{secret: {DIGITS}}}}}"));
    assert!(!error.contains("7373"), "{error}");
}

/// YAML that is nearly right, with secrets where they belong.
fn nearly() -> impl Strategy<Value = String> {
    let secret = || prop_oneof![Just(SECRET), Just(DIGITS), Just("'73737373737373737373'")];
    let lines = (secret(), secret(), secret(), secret()).prop_map(|(a, b, c, d)| {
        vec![
            "admin:".to_owned(),
            format!("  token: {a}"),
            "redis:".to_owned(),
            format!("  url: redis://app:{SECRET}@cache:6379/0"),
            format!("  password: {b}"),
            "auth:".to_owned(),
            "  anonymous: [subscribe]".to_owned(),
            "  tokens:".to_owned(),
            "  - name: shop".to_owned(),
            format!("    token: {c}"),
            "    publish: ['*']".to_owned(),
            format!("  - {{name: other, token: {SECRET}-2, admin: true}}"),
            "  jwt:".to_owned(),
            format!("    secret: {d}"),
            "stream: {keepalive: 5s}".to_owned(),
        ]
    });
    let edit = (
        any::<prop::sample::Index>(),
        0..6_u8,
        any::<prop::sample::Index>(),
        "[ -~\\n\\tü]",
    );
    (lines, prop::collection::vec(edit, 0..4)).prop_map(|(mut lines, edits)| {
        for (line, kind, at, new) in edits {
            let index = line.index(lines.len());
            let line = &mut lines[index];
            let at = at.index(line.len() + 1);
            if !line.is_char_boundary(at) {
                continue;
            }
            match kind {
                0 if at < line.len() && line.is_char_boundary(at + 1) => {
                    line.remove(at);
                }
                1 => line.insert_str(at, &new),
                2 => {
                    let copy = line.clone();
                    lines.insert(index, copy);
                }
                3 => *line = line.trim_start().to_owned(),
                4 => line.insert_str(0, "  "),
                _ => {
                    lines.remove(index);
                    if lines.is_empty() {
                        break;
                    }
                }
            }
        }
        lines.join("\n")
    })
}

/// The environment, with secrets where they belong and anything elsewhere.
fn environment() -> impl Strategy<Value = Vec<(String, String)>> {
    let of_secrets = (
        prop_oneof![
            Just("TIDEGATE_ADMIN__TOKEN"),
            Just("TIDEGATE_AUTH__JWT__SECRET"),
            Just("JWT_SECRET"),
            Just("TIDEGATE_REDIS__PASSWORD"),
            Just("TIDEGATE_AUTH__TOKENS"),
        ],
        "[ -~]{0,3}",
        "[ -~]{0,3}",
    )
        .prop_map(|(name, before, after)| (name.to_owned(), format!("{before}{SECRET}{after}")));
    let of_others = (
        prop_oneof![
            prop::sample::select(leaves(&KNOWN, ""))
                .prop_map(|key| format!("TIDEGATE_{}", key.to_uppercase().replace('.', "__"))),
            prop::sample::select(vec![
                "HOST",
                "PORT",
                "LOG_LEVEL",
                "REDIS_URL",
                "REDIS_HOST",
                "TIDEGATE_X"
            ])
            .prop_map(str::to_owned),
            "TIDEGATE_[A-Z_/~.]{0,12}",
        ],
        prop_oneof!["\\PC{0,12}", Just(format!("redis://app:{SECRET}@cache/0"))],
    );
    (
        prop::collection::vec(of_secrets, 0..2),
        prop::collection::vec(of_others, 0..3),
    )
        .prop_map(|(secrets, others)| others.into_iter().chain(secrets).collect())
}

fn shows(text: &str) -> bool {
    text.contains("s3cret") || text.contains("7373737")
}

/// Everything that is ever said of settings.
fn told(result: &Result<Settings, ConfigError>) -> String {
    match result {
        Err(error) => format!("{} {error:?}", error.told()),
        Ok(settings) => {
            let list: BTreeMap<_, _> = settings
                .list()
                .into_iter()
                .map(|setting| (setting.key.clone(), serde_json::to_string(&setting)))
                .collect();
            format!("{list:?} {:?}", settings.warnings())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_panics_and_no_secret_is_told(
        yaml in nearly(),
        other in nearly(),
        environment in environment(),
        dotenv in prop::collection::vec(environment_line(), 0..3),
    ) {
        let before = load(&other, "", &[]);
        let after = load(&yaml, &dotenv.join("\n"), &environment);
        if let Ok(before) = &before {
            let typed = format!("{:?}", before.config());
            prop_assert!(!shows(&typed), "{typed}");
        }
        for result in [&before, &after] {
            prop_assert!(!shows(&told(result)), "{}", told(result));
        }
        if let (Ok(before), Ok(after)) = (before, after) {
            let report = match next(&before, after) {
                Ok((_, report)) => format!("{report:?}"),
                Err(error) => format!("{error:?}"),
            };
            prop_assert!(!shows(&report), "{report}");
        }
    }

    #[test]
    fn no_text_panics(yaml in "\\PC{0,60}|([a-z]+:[ \n-]{0,3}|[\\[\\]{}&*!|>'\"#,]){0,20}", dotenv in "\\PC{0,40}") {
        let _ = load(&yaml, &dotenv, &[]);
    }
}

fn environment_line() -> impl Strategy<Value = String> {
    (
        "[ -~]{0,2}",
        "(export )?(TIDEGATE_REDIS__PASSWORD|JWT_SECRET)",
        "=?['\"]?",
        "['\"]?.{0,2}",
    )
        .prop_map(|(before, name, open, close)| format!("{before}{name}{open}{SECRET}{close}"))
}
