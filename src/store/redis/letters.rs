//! Letters from other replicas: a sharded channel of this one's own, on the connection of the feed.
//!
//! It is asked for on each new connection, and again every few seconds, in case it was taken away. That Redis refuses it is
//! no reason to end the feed: events matter more than letters.

use std::sync::atomic::Ordering;

use super::{
    Shared,
    resp::{Request, Value},
};
use crate::store::mailbox::Slot;

/// Where the letters to this replica go.
pub(super) struct Addressee {
    pub(super) channel: String,
    pub(super) slot: Slot,
}

/// The subscription, unless nobody takes the letters.
pub(super) fn subscribe(shared: &Shared) -> Option<Request> {
    let addressee = shared.letters.get()?;
    let subscribe = || Request::new("SSUBSCRIBE").arg(&addressee.channel);
    addressee.slot.is_open().then(subscribe)
}

/// The end of it, once nobody takes the letters any more.
pub(super) fn unsubscribe(shared: &Shared) -> Option<Request> {
    let addressee = shared.letters.get()?;
    let unsubscribe = || Request::new("SUNSUBSCRIBE").arg(&addressee.channel);
    (!addressee.slot.is_open()).then(unsubscribe)
}

/// Takes what came on the channel of the letters. Returns whether it was that channel.
pub(super) fn take(shared: &Shared, message: &[Value]) -> bool {
    let Some(addressee) = shared.letters.get() else {
        return false;
    };
    let [kind, channel, rest @ ..] = message else {
        return false;
    };
    if channel.bytes().is_none_or(|it| *it != addressee.channel) {
        return false;
    }
    if kind.text() == Some("smessage") {
        let letter = rest.first().and_then(Value::bytes);
        if !letter.is_some_and(|letter| addressee.slot.put(letter)) {
            let dropped = &shared.counters.letters_dropped;
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
    true
}
