//! The figures of this replica for a person or a script.

use crate::support::Gateway;

#[tokio::test]
async fn the_figures_follow_what_happens() {
    let gateway = Gateway::start().await;
    let quiet = gateway.get_admin("/stats").await;
    assert_eq!(quiet.status(), 200, "{quiet:?}");
    assert_eq!(quiet.header("content-type"), Some("application/json"));
    let json = quiet.json();
    for member in [
        "connections",
        "topics",
        "messages",
        "message_queue",
        "store",
        "memory",
    ] {
        assert!(!json[member].is_null(), "no {member}: {json}");
    }
    let _readers = [
        gateway.subscribe("orders").await,
        gateway.subscribe("orders,other").await,
    ];
    gateway.publish_all("orders", ["a", "b", "c"]).await;
    let busy = gateway.get_admin("/stats").await.json();
    for member in ["connections", "topics", "messages", "store"] {
        assert_ne!(busy[member], json[member], "{member} did not move: {busy}");
    }
    // The name by which the guides of the field ask for it.
    let connections = &busy["connections"];
    let active = connections["active_connections"].as_u64();
    assert_eq!(active.or(connections.as_u64()), Some(2), "{busy}");
}
