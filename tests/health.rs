//! Whether the process is alive, may take traffic, and how it is.

use crate::support::{Gateway, Request};

#[tokio::test]
async fn the_full_report_is_json_on_both_listeners() {
    let gateway = Gateway::start().await;
    for answer in [
        gateway.get("/health").await,
        gateway.get_admin("/health").await,
    ] {
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let json = answer.json();
        for member in ["status", "timestamp", "uptime", "memory", "dependencies"] {
            assert!(!json[member].is_null(), "no {member}: {json}");
        }
        let status = json["status"].as_str().unwrap();
        assert!(!status.is_empty(), "{json}");
    }
}

#[tokio::test]
async fn alive_and_ready_are_asked_apart() {
    let gateway = Gateway::start().await;
    for route in ["/health/live", "/health/ready"] {
        assert_eq!(gateway.get(route).await.status(), 200, "{route}");
        assert_eq!(gateway.get_admin(route).await.status(), 200, "{route}");
        let head = gateway.ask(Request::new("HEAD", route)).await;
        assert_eq!(head.status(), 200, "{route}");
    }
}

/// A balancer must not be told what was true a minute ago.
#[tokio::test]
async fn no_cache_keeps_a_report() {
    let gateway = Gateway::start().await;
    for route in ["/health", "/health/live", "/health/ready"] {
        let answer = gateway.get(route).await;
        let control = answer.head.list("cache-control");
        assert!(
            control
                .iter()
                .any(|one| one == "no-store" || one == "no-cache"),
            "{route}: {answer:?}"
        );
    }
}
