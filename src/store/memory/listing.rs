//! What operators ask of the log in memory. The names of topics are kept in order, so that each look under the store's lock
//! is short, however many there are.

use std::{
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use super::log::{Log, TopicLog};
use crate::{
    event::{Event, EventId, EventType, Topic},
    store::{Listing, TopicPage, TopicSummary},
};

/// Topics that one look under the lock takes.
pub(super) const STEP: usize = 512;

impl Log {
    /// What is known of one topic.
    pub(super) fn summary(&self, topic: &Topic) -> Option<TopicSummary> {
        let entry = self.topics.get(topic)?;
        // One that is only followed remembers nothing of its own.
        let known = !entry.events.is_empty() || entry.newest() > self.horizon;
        known.then(|| TopicSummary {
            topic: entry.name.clone(),
            events: entry.events.len() as u64,
            bytes: entry.bytes as u64,
            first: entry.events.front().map(|event| event.id),
            last: (entry.last > self.born).then_some(entry.last),
            end: entry.end,
        })
    }

    /// Names after `after`, in order.
    fn names_after<'a>(&'a self, after: &'a str) -> impl Iterator<Item = &'a Topic> {
        self.names.range::<str, _>((Excluded(after), Unbounded))
    }

    /// One step of a listing: adds topics to `page` and returns the name from which to go on; none at its end.
    pub(super) fn list(
        &self,
        listing: &Listing,
        after: &str,
        page: &mut TopicPage,
    ) -> Option<String> {
        let from = if after < listing.prefix.as_str() {
            Included(listing.prefix.as_str())
        } else {
            Excluded(after)
        };
        let mut last = None;
        for topic in self.names.range::<str, _>((from, Unbounded)).take(STEP) {
            if !topic.as_str().starts_with(&listing.prefix) {
                return None;
            }
            if let Some(summary) = self.summary(topic) {
                if page.topics.len() == listing.limit {
                    page.more = true;
                    return None;
                }
                page.topics.push(summary);
            }
            last = Some(topic);
        }
        last.map(|topic| topic.as_str().to_owned())
    }

    /// The entry of `topic` with this id.
    pub(super) fn find_in(&self, topic: &Topic, id: EventId) -> Option<Arc<Event>> {
        find(self.topics.get(topic)?, id)
    }

    /// One step of a search: the entry, or the name from which to go on; neither at its end.
    pub(super) fn find_after(
        &self,
        after: &str,
        id: EventId,
    ) -> (Option<Arc<Event>>, Option<String>) {
        let mut last = None;
        for topic in self.names_after(after).take(STEP) {
            if let Some(event) = self.find_in(topic, id) {
                return (Some(event), None);
            }
            last = Some(topic);
        }
        (None, last.map(|topic| topic.as_str().to_owned()))
    }
}

fn find(entry: &TopicLog, id: EventId) -> Option<Arc<Event>> {
    if entry.end == Some(id) {
        return Some(Arc::new(Event {
            id,
            previous: entry.last,
            topic: entry.name.clone(),
            kind: EventType::default(),
            data: Box::default(),
            end: true,
        }));
    }
    let at = entry
        .events
        .binary_search_by_key(&id, |event| event.id)
        .ok()?;
    entry.events.get(at).cloned()
}
