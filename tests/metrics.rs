//! What Prometheus scrapes: the names that dashboards rely on, and no more series than there are kinds.

use crate::support::{Gateway, Request, Subscriber};

#[tokio::test]
async fn the_page_is_open_metrics() {
    let gateway = Gateway::start().await;
    let answer = gateway.get_admin("/metrics").await;
    assert_eq!(answer.status(), 200);
    let media_type = answer.header("content-type").unwrap();
    assert!(
        media_type.starts_with("application/openmetrics-text;") && media_type.contains("version=1"),
        "{media_type}"
    );
    let page = answer.text();
    assert!(page.ends_with("# EOF\n"), "{page}");
    assert_eq!(page.matches("# EOF").count(), 1);
    let mut helps = 0;
    for line in page.lines() {
        helps += usize::from(line.starts_with("# HELP "));
        assert!(!line.is_empty(), "OpenMetrics has no blank lines");
    }
    assert!(helps > 0, "{page}");
}

#[tokio::test]
async fn open_streams_are_counted_and_go_back_to_zero() {
    let gateway = Gateway::start().await;
    gateway.has_open_streams(0).await;
    let mut readers: Vec<Subscriber> = Vec::new();
    for count in 1..=5 {
        readers.push(gateway.subscribe("orders").await);
        gateway.has_open_streams(count).await;
    }
    readers.truncate(2);
    gateway.has_open_streams(2).await;
    gateway.finish("orders", None).await;
    gateway.has_open_streams(0).await;
}

#[tokio::test]
async fn requests_are_timed_by_method_route_and_status() {
    let gateway = Gateway::start().await;
    gateway.get("/health/live").await;
    gateway.publish("orders", "a").await;
    gateway.get("/events?topic=$x").await;
    drop(gateway.subscribe("orders").await);
    gateway.has_open_streams(0).await;
    let page = gateway.get_admin("/metrics").await.text();
    let counts: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("http_request_duration_seconds_count{"))
        .collect();
    for (method, route, status) in [
        ("GET", "/health/live", "200"),
        ("POST", "/publish", "200"),
        ("GET", "/events", "400"),
        ("GET", "/events", "200"),
    ] {
        let labels = [
            format!("method=\"{method}\""),
            format!("route=\"{route}\""),
            format!("status=\"{status}\""),
        ];
        let found = counts
            .iter()
            .find(|line| labels.iter().all(|label| line.contains(label)));
        let found = found.unwrap_or_else(|| panic!("{labels:?} in {counts:#?}"));
        assert!(found.ends_with(" 1"), "{found}");
    }
    assert!(
        page.contains("http_request_duration_seconds_bucket{"),
        "{page}"
    );
    assert!(
        page.contains("http_request_duration_seconds_sum{"),
        "{page}"
    );
}

/// Whoever scans the gateway with made-up paths and methods fills no memory of Prometheus.
#[tokio::test]
async fn what_a_client_makes_up_makes_no_label() {
    async fn series(gateway: &Gateway) -> usize {
        let page = gateway.get_admin("/metrics").await.text();
        page.lines().filter(|line| !line.starts_with('#')).count()
    }
    let gateway = Gateway::start().await;
    let ask = async |number: usize| {
        let path = format!("/made-up/{number}");
        gateway.get(&path).await;
        gateway.get_admin(&path).await;
        gateway
            .ask(Request::new(&format!("BREW{number}"), "/publish"))
            .await;
        gateway
            .ask(Request::new("GET", &format!("/publish?x={number}")))
            .await;
        gateway.publish(&format!("topic-{number}"), "a").await;
        drop(gateway.subscribe(&format!("topic-{number}")).await);
    };
    ask(0).await;
    gateway.has_open_streams(0).await;
    let before = series(&gateway).await;
    for number in 1..20 {
        ask(number).await;
    }
    gateway.has_open_streams(0).await;
    // The page about pages may have counted itself meanwhile.
    let after = series(&gateway).await;
    let page = gateway.get_admin("/metrics").await.text();
    assert!(!page.contains("made-up"), "a path is no label: {page}");
    assert!(
        !page.contains("BREW"),
        "a method of one's own is no label: {page}"
    );
    assert!(!page.contains("topic-1"), "a topic is no label: {page}");
    assert!(after <= before + 20, "{before} series became {after}");
}

/// A stream of one frame that refuses counts as the refusal that it is.
#[tokio::test]
async fn a_refusal_as_a_stream_is_counted_as_a_refusal() {
    let gateway = Gateway::with("limits.connections", 1).start().await;
    let _reader = gateway.subscribe("orders").await;
    let request = Request::get("/events?topic=orders").header("Accept", "text/event-stream");
    let answer = gateway.ask(request).await;
    assert_eq!(answer.header("tidegate-refused"), Some("connection_limit"));
    let page = gateway.get_admin("/metrics").await.text();
    let counted = page.lines().any(|line| {
        line.contains("connection_limit")
            || (line.starts_with("http_request_duration_seconds_count")
                && line.contains("status=\"503\""))
    });
    assert!(counted, "{page}");
    gateway.has_open_streams(1).await;
}
