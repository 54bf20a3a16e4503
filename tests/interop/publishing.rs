//! What every example of publishing promises, whatever it publishes through.
//!
//! Each is run with `TOPIC DATA [TYPE] [KEY]`, ends with 0 where the event is in the log, and says its id and what became of it.

use tidegate::event::EventId;

use crate::support::{Subscriber, id};

/// How a run of an example ended: the exit code, and what it said.
pub(crate) type Ended = (Option<i32>, String);

/// The event is in the log, and that is what was said of it.
pub(crate) fn stored((code, text): Ended, word: &str) -> EventId {
    assert_eq!(code, Some(0), "{text}");
    let (stored_id, said) = text.split_once(' ').unwrap();
    assert_eq!(said, word, "{text}");
    id(stored_id)
}

/// What is published to `orders` arrives as it was given, and what is repeated with its key is known.
pub(crate) async fn arrives(publish: impl AsyncFn(&[&str]) -> Ended, reader: &mut Subscriber) {
    for (arguments, kind) in [
        (&["orders", r#"{"n": 1}"#][..], None),
        (
            &["orders", "größer\n\nals $1 \"zwei\" @a", "order created"],
            Some("order created"),
        ),
        (&["orders", "", ""], None),
        (
            &["orders", "with a key", "created", "order 7"],
            Some("created"),
        ),
    ] {
        let stored_id = stored(publish(arguments).await, "stored");
        let event = reader.next().await;
        assert_eq!(event.id, stored_id);
        assert_eq!(
            (event.data.as_str(), event.kind.as_deref()),
            (arguments[1], kind)
        );
    }
    let last = reader.cursor();
    let again = ["orders", "with a key", "created", "order 7"];
    let known = stored(publish(&again).await, "duplicate");
    assert_eq!(known.to_string(), last);
}

/// Each of these is refused, and the reason is said.
pub(crate) async fn are_refused(
    publish: impl AsyncFn(&[&str]) -> Ended,
    wrong: &[(&[&str], &str)],
) {
    for (arguments, wanted) in wrong {
        let (code, text) = publish(arguments).await;
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        assert!(text.contains(wanted), "wanted {wanted}, got {text}");
    }
}
