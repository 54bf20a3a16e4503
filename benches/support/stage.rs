//! A hub to measure, and events for it.

use std::{sync::Arc, time::Duration};

use tidegate::{
    event::{EventType, Topic},
    hub::{Hub, HubConfig},
    log::{Retention, RetentionRules, TailLimits},
    store::{
        Append,
        memory::{MemoryConfig, MemoryStore},
    },
};

/// A hub on a memory store that keeps a million events.
pub(crate) fn hub() -> Hub {
    let keep = Retention {
        events: 1_000_000,
        bytes: 1 << 30,
        age_ms: 3_600_000,
    };
    let retention = RetentionRules::new(keep, Vec::new());
    let store = MemoryStore::new(MemoryConfig {
        retention: retention.clone(),
        total_bytes: 1 << 30,
        idempotency_window: Duration::from_mins(1),
    });
    let config = HubConfig {
        tail: TailLimits {
            events: 1024,
            bytes: 1 << 20,
            age_ms: 600_000,
        },
        tail_total_bytes: 1 << 28,
        linger: Duration::from_secs(30),
        topics: 100_000,
        retention,
        join_timeout: Duration::from_secs(5),
    };
    Hub::start(config, Arc::new(store))
}

/// An event of 128 bytes.
pub(crate) fn append(topic: &Topic) -> Append {
    Append {
        topic: topic.clone(),
        kind: EventType::default(),
        data: Some("x".repeat(128).into()),
        end: false,
        key: None,
    }
}
