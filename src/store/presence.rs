//! Who follows which topic: what replicas tell each other of their users, through the store.
//!
//! A replica says which users came to it and which left. The store keeps who is where, and appends an event to
//! [`Topic::presence`] when a user is at a topic for the first time on any replica (`join`), and for the last time (`leave`).
//! The word of a replica counts until its lease ends; then any other one may [sweep](super::Store::sweep) what it left behind.
//!
//! # Promises
//! 1. Who is where, and the events of it, are one step: they are lost or kept together.
//! 2. To say a thing again changes nothing, and is no event.
//! 3. A replica that asks what became of its words ([`Word::after`]) is never told [`Standing::Kept`] where any of them was
//!    lost, or where somebody has swept them.
//!
//! Not here: for how long a user may be away ([`crate::presence`]).

use std::{sync::Arc, time::Duration};

use crate::event::{EventId, Topic};

/// Changes of one word, at most: a store that runs one call at a time has others to serve.
pub const CHANGES: usize = 256;
/// Users that are listed, at most.
pub const LISTED: usize = 1_000;

/// A user at a topic; of no topic: anywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Whereabouts {
    /// Which topic is followed; none: it is said that there is a stream at all.
    pub topic: Option<Topic>,
    /// Whose stream it is.
    pub user: Arc<str>,
}

/// What has become of a user at one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// It has come.
    Comes,
    /// It has been there, and this was said before to a store that has lost it: no event.
    Stays,
    /// It has gone.
    Goes,
}

/// What a replica says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Which one.
    pub replica: Arc<str>,
    /// For how long it counts from now on.
    pub lease: Duration,
    /// What its last word was answered with.
    pub after: Option<Mark>,
    /// At most [`CHANGES`].
    pub changes: Vec<(Turn, Whereabouts)>,
}

/// A place in the history of what one replica has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What the table is called; a store that lost it has another one.
    pub table: Arc<str>,
    /// How many words with changes the table holds.
    pub number: u64,
}

/// What a word was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Where it stands now.
    pub mark: Mark,
    /// What became of the words before.
    pub standing: Standing,
    /// How many came and how many left by it, on all replicas together: events that were appended.
    pub events: [u64; 2],
    /// Replicas whose lease is over, and whom this one should sweep. One replica at a time is asked to.
    pub over: Vec<Arc<str>>,
}

/// What became of the earlier words of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All of them are there.
    Kept,
    /// Its lease was over, or some words were lost, or not known to have arrived: say all of it again.
    Doubtful,
    /// There is another table: say all of it again, and that it is nothing new.
    Lost,
}

/// Who is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// The first of them in their order, at most [`LISTED`]; of very many, any.
    pub users: Vec<Arc<str>>,
    /// How many there are.
    pub total: u64,
}

/// A look at some places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// One for each that was asked for.
    pub places: Vec<Present>,
    /// The greatest id that was ever given, at the same moment: all events above it happened since.
    pub last: EventId,
}
