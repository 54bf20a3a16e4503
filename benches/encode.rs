//! What does it cost to make an event a frame, once for all its readers?

mod support;

use std::sync::Arc;

use support::measure;
use tidegate::event::{Envelope, Event, EventId, Frame};

fn main() {
    for bytes in [16, 128, 1024, 65_536] {
        for (envelope, name) in [
            (Envelope::Plain, "plain"),
            (Envelope::Topic, "with topic"),
            (Envelope::Json, "as JSON"),
        ] {
            let event = Arc::new(Event {
                id: EventId::new(1_732_096_800_123, 7),
                previous: EventId::ZERO,
                topic: "orders/eu".parse().expect("a topic"),
                kind: "created".parse().expect("a type"),
                data: "x".repeat(bytes).into(),
                end: false,
            });
            let frames = || {
                (0..1_000)
                    .map(|_| Frame::new(event.clone(), 0))
                    .collect::<Vec<_>>()
            };
            measure(
                &format!("encode {bytes} bytes, {name}"),
                1_000,
                frames,
                |frames| {
                    for frame in frames {
                        std::hint::black_box(frame.chunk(envelope));
                    }
                },
            );
        }
    }
}
