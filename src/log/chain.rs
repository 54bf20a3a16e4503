//! The chain of previous ids: each entry of a topic names its predecessor, and that is what proves completeness.

use crate::event::EventId;

/// Where an entry of the feed belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Right after the head.
    Next,
    /// At or below the head: known already.
    Known,
    /// Something between the head and it is missing.
    Hole,
}

/// Where the entry `id`, whose predecessor is `previous`, belongs in a log whose newest entry is `head`.
pub fn place(head: EventId, previous: EventId, id: EventId) -> Place {
    if id <= head {
        Place::Known
    } else if previous == head {
        Place::Next
    } else {
        Place::Hole
    }
}

/// How a head stands to what the store says is its topic's last id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Nothing is missing.
    Current,
    /// Entries after the head are missing.
    Behind,
    /// The store lacks the head: it lost entries that it had acknowledged.
    Forked,
}

/// Compares a head with the last id that the store has for the topic, `0-0` for none.
pub fn reconcile(head: EventId, last: EventId) -> Head {
    match head.cmp(&last) {
        std::cmp::Ordering::Equal => Head::Current,
        std::cmp::Ordering::Less => Head::Behind,
        std::cmp::Ordering::Greater => Head::Forked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_one_place() {
        let id = |ms| EventId::new(ms, 0);
        assert_eq!(place(id(5), id(5), id(6)), Place::Next);
        assert_eq!(place(id(5), id(6), id(7)), Place::Hole);
        assert_eq!(place(id(5), id(3), id(7)), Place::Hole);
        assert_eq!(place(id(5), id(4), id(5)), Place::Known);
        assert_eq!(place(EventId::ZERO, EventId::ZERO, id(1)), Place::Next);
    }
}
