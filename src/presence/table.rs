//! The users of one replica: what they do here, and what the store has been told of it. No clock, no store.
//!
//! # Invariants
//! 1. A user that has a stream here has an entry; one whose entry is gone was told to have gone, or never told of.
//! 2. Whatever differs from what was told is queued, under way, or has a moment at which it is due.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    event::Topic,
    store::presence::{CHANGES, Turn, Whereabouts},
};

/// The users of one replica.
#[derive(Debug)]
pub(super) struct Table {
    /// How long a user may be away.
    pub(super) debounce: Duration,
    /// By topic; under no topic, whoever has a stream at all.
    places: HashMap<Option<Topic>, HashMap<Arc<str>, Entry>>,
    /// What is to be told.
    queue: VecDeque<Whereabouts>,
    /// Who went away when, in the order of time. Those that came back are in it, too.
    departures: VecDeque<(Instant, Whereabouts)>,
}

/// One user at one place.
#[derive(Debug, Default)]
struct Entry {
    streams: u32,
    told: Told,
    queued: bool,
    /// Since when it has had no stream, while that is no more than the debounce.
    away_since: Option<Instant>,
    /// It has been away for long enough.
    gone: bool,
}

/// What the store knows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    /// That it is there: not yet, or it is not known whether.
    #[default]
    No,
    /// It is there.
    Yes,
    /// It knew, and has lost it.
    Lost,
    /// Just being told.
    UnderWay,
}

impl Table {
    pub(super) fn new(debounce: Duration) -> Self {
        Self {
            debounce,
            places: HashMap::new(),
            queue: VecDeque::new(),
            departures: VecDeque::new(),
        }
    }

    /// A stream begins to follow `topics`, and begins itself if it `is_new`. Returns whether there is something to tell.
    pub(super) fn enter(&mut self, user: &Arc<str>, topics: &[Topic], is_new: bool) -> bool {
        let before = self.queue.len();
        for topic in places(topics, is_new) {
            if !self.places.contains_key(&topic) {
                self.places.insert(topic.clone(), HashMap::new());
            }
            let users = self.places.get_mut(&topic).expect("it was put there");
            let entry = users.entry(user.clone()).or_default();
            entry.streams += 1;
            entry.away_since = None;
            entry.gone = false;
            if entry.told == Told::No {
                queue(&mut self.queue, entry, || whereabouts(topic.as_ref(), user));
            }
        }
        self.queue.len() > before
    }

    /// A stream no longer follows `topics`, and ends if it `is_over`. Returns whether the next one is due now that was not.
    pub(super) fn exit(
        &mut self,
        user: &Arc<str>,
        topics: &[Topic],
        is_over: bool,
        now: Instant,
    ) -> bool {
        let nobody_was_away = self.departures.is_empty();
        for topic in places(topics, is_over) {
            let users = self.places.get_mut(&topic);
            let Some(entry) = users.and_then(|users| users.get_mut(user)) else {
                continue;
            };
            entry.streams = entry.streams.saturating_sub(1);
            if entry.streams == 0 {
                entry.away_since = Some(now);
                self.departures
                    .push_back((now, whereabouts(topic.as_ref(), user)));
            }
        }
        nobody_was_away && !self.departures.is_empty()
    }

    /// Whether there is something to tell now.
    pub(super) fn has_news(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When somebody will have been away for long enough.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let (since, _) = self.departures.front()?;
        Some(*since + self.debounce)
    }

    /// What is to be told now, at most [`CHANGES`]. [`Self::done`] has to follow.
    pub(super) fn batch(&mut self, now: Instant) -> Vec<(Turn, Whereabouts)> {
        while self.next_due().is_some_and(|due| due <= now)
            && let Some((since, who)) = self.departures.pop_front()
        {
            if let Some(entry) = entry(&mut self.places, &who)
                && entry.away_since == Some(since)
            {
                entry.away_since = None;
                entry.gone = true;
                queue(&mut self.queue, entry, || who);
            }
        }
        let mut changes = Vec::new();
        while changes.len() < CHANGES
            && let Some(who) = self.queue.pop_front()
        {
            let Some(entry) = entry(&mut self.places, &who) else {
                continue;
            };
            entry.queued = false;
            let turn = match (entry.gone, entry.told) {
                (true, Told::No) => {
                    self.forget(&who);
                    continue;
                }
                (true, Told::Yes | Told::Lost) => Turn::Goes,
                (false, Told::No) => Turn::Comes,
                (false, Told::Lost) => Turn::Stays,
                (false, Told::Yes) | (_, Told::UnderWay) => continue,
            };
            entry.told = Told::UnderWay;
            changes.push((turn, who));
        }
        changes
    }

    /// These were told, or it is not known whether they were.
    pub(super) fn done(&mut self, changes: &[(Turn, Whereabouts)], arrived: bool) {
        for (turn, who) in changes {
            let Some(entry) = entry(&mut self.places, who) else {
                continue;
            };
            entry.told = match (turn, arrived) {
                (Turn::Comes | Turn::Stays, true) | (Turn::Goes, false) => Told::Yes,
                (Turn::Comes, false) | (Turn::Goes, true) => Told::No,
                (Turn::Stays, false) => Told::Lost,
            };
            let is_told = entry.gone == (entry.told == Told::No) && entry.told != Told::Lost;
            if entry.gone && is_told {
                self.forget(who);
            } else if !is_told {
                queue(&mut self.queue, entry, || who.clone());
            }
        }
    }

    /// Some of what was told may not be there any more.
    pub(super) fn doubt(&mut self) {
        self.again(Told::No);
    }

    /// Nothing of what was told is there any more.
    pub(super) fn lost(&mut self) {
        self.again(Told::Lost);
    }

    fn again(&mut self, told: Told) {
        for (topic, users) in &mut self.places {
            for (user, entry) in users {
                if entry.told == Told::Yes && !entry.gone {
                    entry.told = told;
                    queue(&mut self.queue, entry, || whereabouts(topic.as_ref(), user));
                }
            }
        }
    }

    /// What the store has of this replica: whoever is not here has gone, and whoever is about to go is known to be there.
    pub(super) fn compare(&mut self, said: Vec<Whereabouts>) {
        for who in said {
            if let Some(entry) = entry(&mut self.places, &who) {
                // Taken for untold, it would be forgotten here when it goes, and stay there.
                entry.told = Told::Yes;
                continue;
            }
            let users = self.places.entry(who.topic.clone()).or_default();
            let entry = users.entry(who.user.clone()).or_default();
            entry.told = Told::Yes;
            entry.gone = true;
            queue(&mut self.queue, entry, || who);
        }
    }

    fn forget(&mut self, who: &Whereabouts) {
        if let Some(users) = self.places.get_mut(&who.topic) {
            users.remove(&who.user);
            if users.is_empty() {
                self.places.remove(&who.topic);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.queue.is_empty() && self.departures.is_empty()
    }

    /// Whoever has a stream here, or had one a moment ago.
    pub(super) fn users(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        static NOBODY: std::sync::LazyLock<HashMap<Arc<str>, Entry>> =
            std::sync::LazyLock::new(HashMap::new);
        self.places.get(&None).unwrap_or(&NOBODY).keys()
    }
}

/// Where a user is by one stream. Who follows the presence of a topic is not at a place of its own.
fn places(topics: &[Topic], anywhere: bool) -> impl Iterator<Item = Option<Topic>> {
    let ordinary = topics.iter().filter(|topic| topic.presence_of().is_none());
    anywhere
        .then_some(None)
        .into_iter()
        .chain(ordinary.cloned().map(Some))
}

fn whereabouts(topic: Option<&Topic>, user: &Arc<str>) -> Whereabouts {
    Whereabouts {
        topic: topic.cloned(),
        user: user.clone(),
    }
}

fn entry<'a>(
    places: &'a mut HashMap<Option<Topic>, HashMap<Arc<str>, Entry>>,
    who: &Whereabouts,
) -> Option<&'a mut Entry> {
    places.get_mut(&who.topic)?.get_mut(&who.user)
}

fn queue(queue: &mut VecDeque<Whereabouts>, entry: &mut Entry, who: impl FnOnce() -> Whereabouts) {
    if !std::mem::replace(&mut entry.queued, true) {
        queue.push_back(who());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It used to be forgotten here without a word, and stayed there for ever.
    #[test]
    fn who_is_away_when_words_are_in_doubt_is_told_to_have_gone() {
        let user: Arc<str> = "u".into();
        let topic: Topic = "t".parse().expect("a topic");
        let mut table = Table::new(Duration::from_secs(1));
        let now = Instant::now();
        table.enter(&user, std::slice::from_ref(&topic), false);
        let said = table.batch(now);
        table.done(&said, true);
        table.exit(&user, &[topic], false, now);
        table.doubt();
        table.compare(said.into_iter().map(|(_, who)| who).collect());
        let changes = table.batch(now + Duration::from_secs(1));
        assert!(matches!(&changes[..], [(Turn::Goes, _)]), "{changes:?}");
    }
}
