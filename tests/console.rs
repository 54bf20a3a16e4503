//! The console: one page of the gateway's own, which lets nothing in from elsewhere, and is there only where it is wanted.

use std::{collections::BTreeSet, path::Path};

use crate::support::{Gateway, Request, Response};

const ORDERS: &str = r#"{"topic":"orders","data":"a"}"#;

/// Every path that a text names in quotes, and that is a part of the console.
fn named(text: &str) -> BTreeSet<String> {
    text.split(['"', '\'', '`', '(', ')'])
        .filter(|part| part.starts_with('/') || part.starts_with("./"))
        .filter(|part| {
            let path = |c: char| c.is_ascii_alphanumeric() || "/.-_".contains(c);
            let file = Path::new(part).extension().and_then(|it| it.to_str());
            part.chars().all(path) && file.is_some_and(|it| ["js", "css", "svg"].contains(&it))
        })
        .map(|part| match part.strip_prefix("./") {
            Some(name) => format!("/console/{name}"),
            None => part.to_owned(),
        })
        .collect()
}

/// The page and all that it leads to, each with its path.
async fn parts(gateway: &Gateway) -> Vec<(String, Response)> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    let mut next = vec!["/".to_owned()];
    while let Some(path) = next.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let answer = gateway.get(&path).await;
        assert_eq!(answer.status(), 200, "{path}: {answer:?}");
        next.extend(named(&answer.text()));
        found.push((path, answer));
    }
    assert!(found.len() > 5, "{seen:?}");
    found
}

fn policy(answer: &Response) -> Vec<String> {
    let policy = answer.header("content-security-policy").unwrap();
    policy.split(';').map(|it| it.trim().to_owned()).collect()
}

#[tokio::test]
async fn in_development_mode_it_is_there() {
    let gateway = Gateway::start().await;
    let page = gateway.get("/").await;
    assert_eq!(page.status(), 200, "{page:?}");
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(page.text().starts_with("<!doctype html>"), "{page:?}");
    let client = gateway.get("/tidegate.js").await;
    assert_eq!(
        client.header("content-type"),
        Some("text/javascript; charset=utf-8")
    );
    assert!(client.text().contains("TidegateSource"), "{client:?}");
}

#[tokio::test]
async fn where_others_are_served_it_is_not_there_unless_it_is_wanted() {
    for (key, value) in [
        ("auth.anonymous", "subscribe"),
        ("auth.jwt.secret", "a-secret-that-is-long-enough-for-hs256"),
    ] {
        let gateway = Gateway::with(key, value).start().await;
        let detail = gateway.get("/nowhere").await.refuses(404, "not_found");
        for path in ["/", "/tidegate.js", "/console/main.js", "/console/none"] {
            for method in ["GET", "HEAD", "OPTIONS", "POST"] {
                let answer = gateway.ask(Request::new(method, path)).await;
                assert_eq!(answer.status(), 404, "{method} {path}: {answer:?}");
                if method != "HEAD" {
                    let there = answer.refuses(404, "not_found");
                    assert_eq!(there, detail, "as any unknown route");
                }
            }
        }
        assert!(!detail.contains("tidegate.js"), "{detail}");
    }
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let gateway = Gateway::with("console.enabled", "false").start().await;
    gateway.get("/").await.refuses(404, "not_found");
    gateway.get("/tidegate.js").await.refuses(404, "not_found");
}

/// The page holds nothing of anybody's, and without it there would be nowhere to put a token in.
#[tokio::test]
async fn it_is_for_everybody_where_streams_are_not() {
    let gateway = Gateway::with("auth.jwt.secret", "a-secret-that-is-long-enough-for-hs256")
        .with("console.enabled", "true")
        .with("limits.rate.auth_failure", "2/min")
        .start()
        .await;
    for path in ["/", "/tidegate.js", "/console/main.js"] {
        for cookie in ["", "tidegate=spent", "tidegate="] {
            let request = Request::get(path).header("Cookie", cookie);
            let answer = gateway.ask(request).await;
            assert_eq!(answer.status(), 200, "{path} {cookie}: {answer:?}");
        }
    }
    gateway
        .get("/events?topic=orders")
        .await
        .refuses(401, "unauthorized");
    gateway.post(ORDERS).await.refuses(401, "unauthorized");
}

#[tokio::test]
async fn a_reload_turns_it_on_and_off() {
    let gateway = Gateway::settings()
        .file("gateway.yaml", "console: {enabled: false}\n")
        .argument("--config")
        .argument("gateway.yaml")
        .start()
        .await;
    for (enabled, status) in [("true", 200), ("false", 404), ("auto", 200)] {
        let yaml = format!("console: {{enabled: {enabled}}}\n");
        std::fs::write(gateway.home().join("gateway.yaml"), yaml).unwrap();
        let reload = Request::new("POST", "/admin/reload-config");
        let answer = gateway.ask_admin(reload).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(answer.json()["restart"], serde_json::json!([]));
        assert_eq!(gateway.get("/").await.status(), status, "{enabled}");
    }
}

#[tokio::test]
async fn another_value_is_refused_with_what_is_allowed() {
    let exit = Gateway::with("console.enabled", "perhaps")
        .refuses_to_start()
        .await;
    let told = "console.enabled: invalid value: string \"perhaps\", expected true, false or auto";
    assert!(exit.output.contains(told), "{exit:?}");
}

#[tokio::test]
async fn operators_have_no_console_on_their_listener() {
    let gateway = Gateway::start().await;
    for path in ["/", "/tidegate.js", "/console/main.js"] {
        gateway.get_admin(path).await.refuses(404, "not_found");
    }
}

#[tokio::test]
async fn a_part_that_does_not_exist_is_not_found() {
    let gateway = Gateway::start().await;
    for path in [
        "/console",
        "/console/",
        "/console/none.js",
        "/console/../main.js",
        "/console/%2e%2e/Cargo.toml",
        "/console/main.js/",
        "/index.html",
    ] {
        gateway.get(path).await.refuses(404, "not_found");
    }
}

#[tokio::test]
async fn every_part_is_kept_to_what_it_is() {
    let gateway = Gateway::start().await;
    for (path, answer) in parts(&gateway).await {
        let expected = match Path::new(&path).extension().and_then(|it| it.to_str()) {
            None => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            other => panic!("{other:?}"),
        };
        assert_eq!(answer.header("content-type"), Some(expected), "{path}");
        let has = |name: &str| answer.header(name);
        assert_eq!(has("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(has("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(has("referrer-policy"), Some("same-origin"), "{path}");
        assert_eq!(has("cross-origin-opener-policy"), Some("same-origin"));
        assert_eq!(has("cache-control"), Some("no-cache"), "{path}");
        assert!(has("content-length").is_some(), "{path}");
        let shared = path == "/tidegate.js";
        let policy = has("cross-origin-resource-policy");
        assert_eq!(policy.is_none(), shared, "{path}: {policy:?}");
    }
}

#[tokio::test]
async fn the_policy_lets_in_nothing_from_elsewhere_and_nothing_inline() {
    let gateway = Gateway::start().await;
    for (path, answer) in parts(&gateway).await {
        let policy = policy(&answer);
        for needed in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.iter().any(|it| it == needed), "{path}: {policy:?}");
        }
        for directive in &policy {
            for open in ["unsafe", "http:", "https:", "blob:", "*"] {
                assert!(!directive.contains(open), "{path}: {directive}");
            }
        }
    }
}

/// What the policy would refuse is not even there; the namespace of SVG is a name, not an address.
#[tokio::test]
async fn no_part_names_anything_elsewhere_or_inline() {
    let gateway = Gateway::start().await;
    for (path, answer) in parts(&gateway).await {
        let text = answer.text().replace("http://www.w3.org/2000/svg", "");
        for scheme in ["http://", "https://", "ws://", "wss://", "//cdn"] {
            assert!(!text.contains(scheme), "{path} names {scheme}");
        }
        for sink in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
        ] {
            assert!(!text.contains(sink), "{path} has {sink}");
        }
        if path == "/" {
            for inline in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
                assert!(!text.contains(inline), "the page has {inline}");
            }
            for script in text.split("<script").skip(1) {
                let (tag, rest) = script.split_once('>').unwrap();
                assert!(tag.contains(" src=\"/console/"), "{tag}");
                assert!(rest.starts_with("</script>"), "{rest}");
            }
        }
    }
}

#[tokio::test]
async fn a_browser_that_has_it_is_not_sent_it_again() {
    let gateway = Gateway::start().await;
    let mut tags = BTreeSet::new();
    for (path, answer) in parts(&gateway).await {
        let tag = answer.header("etag").unwrap();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
        tags.insert(tag.to_owned());
        for known in [
            tag.to_owned(),
            format!("W/{tag}"),
            format!("\"other\", {tag}"),
            "*".to_owned(),
        ] {
            let request = Request::get(&path).header("If-None-Match", &known);
            let again = gateway.ask(request).await;
            assert_eq!(again.status(), 304, "{path} {known}: {again:?}");
            assert!(again.body.is_empty(), "{again:?}");
            assert_eq!(again.header("etag"), Some(tag));
            assert_eq!(again.header("cache-control"), Some("no-cache"));
        }
        let request = Request::get(&path).header("If-None-Match", "\"other\"");
        assert_eq!(gateway.ask(request).await.status(), 200, "{path}");
    }
    assert!(tags.len() > 5, "each has its own: {tags:?}");
}

#[tokio::test]
async fn head_and_options_work_as_for_other_routes() {
    let gateway = Gateway::start().await;
    for path in ["/", "/tidegate.js", "/console/main.js"] {
        let get = gateway.get(path).await;
        let head = gateway.ask(Request::new("HEAD", path)).await;
        assert_eq!(head.status(), 200, "{head:?}");
        for name in ["content-type", "etag", "content-length"] {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
        }
        let options = gateway.ask(Request::new("OPTIONS", path)).await;
        assert_eq!(options.status(), 204, "{options:?}");
        assert_eq!(options.head.list("allow"), ["get", "head", "options"]);
        let post = gateway.ask(Request::new("POST", path)).await;
        post.refuses(405, "method_not_allowed");
        assert_eq!(post.head.list("allow"), ["get", "head", "options"]);
    }
}

/// A name that was made to point here gets nothing, as on all routes.
#[tokio::test]
async fn in_development_mode_it_is_for_this_machine_alone() {
    let gateway = Gateway::start().await;
    let strange = Request::get("/").header("Host", "evil.example");
    gateway.ask(strange).await.refuses(403, "host_forbidden");
    let proxied = Request::get("/").header("X-Forwarded-For", "192.0.2.1");
    gateway
        .ask(proxied)
        .await
        .refuses(403, "proxied_in_development");
}

#[tokio::test]
async fn a_listed_page_of_another_origin_may_import_the_client() {
    let gateway = Gateway::with("auth.anonymous", "subscribe")
        .with("console.enabled", "true")
        .with("cors.origins", "https://app.example")
        .start()
        .await;
    let request = Request::get("/tidegate.js").header("Origin", "https://app.example");
    let answer = gateway.ask(request).await;
    let open = answer.header("access-control-allow-origin");
    assert_eq!(open, Some("https://app.example"), "{answer:?}");
    assert!(answer.head.list("vary").contains(&"origin".to_owned()));
}
