//! Everything that was ever in the log, and what took it.

use std::collections::{BTreeMap, HashMap};

use tidegate::event::EventId;

use super::{Complaint, Millis, Mistake, Name, complain};

/// What took an entry from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chaos) enum Taking {
    /// The stream of the topic was trimmed or deleted.
    Trim,
    /// The whole log is gone.
    Flush,
}

/// An entry that was in the log at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::chaos) struct Entry {
    pub(in crate::chaos) kind: String,
    pub(in crate::chaos) data: String,
    /// The id of the entry before it in the topic, as it says itself.
    pub(in crate::chaos) previous: EventId,
    /// How many logs there were before the one that it was in.
    pub(in crate::chaos) life: usize,
    /// What took it, and when that began.
    pub(in crate::chaos) taken: Option<(Taking, Millis)>,
}

/// The beginning of a log that is not the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chaos) struct Birth {
    pub(in crate::chaos) id: EventId,
    /// When the log before it began to go away.
    pub(in crate::chaos) since: Millis,
}

/// Everything that was ever in the log.
#[derive(Clone, Debug, Default)]
pub(in crate::chaos) struct Log {
    pub(in crate::chaos) topics: BTreeMap<Name, BTreeMap<EventId, Entry>>,
    /// Of the logs after the first, in order.
    pub(in crate::chaos) births: Vec<Birth>,
}

impl Log {
    /// Adds an entry that was seen in the log; seen again it must be the same.
    pub(in crate::chaos) fn add(
        &mut self,
        topic: &Name,
        id: EventId,
        entry: Entry,
    ) -> Result<(), Complaint> {
        let entries = self.topics.entry(topic.clone()).or_default();
        match entries.get_mut(&id) {
            None => {
                entries.insert(id, entry);
            }
            Some(known) => {
                let taken = known.taken.take().or(entry.taken);
                known.taken = entry.taken;
                if *known != entry {
                    return complain(
                        Mistake::Log,
                        format!("{topic} {id} was {known:?} and is {entry:?}"),
                    );
                }
                known.taken = taken;
            }
        }
        Ok(())
    }

    /// Each id is given once, and each entry names the one before it.
    pub(in crate::chaos) fn judge(&self) -> Result<(), Complaint> {
        let mut ids = HashMap::new();
        for (topic, entries) in &self.topics {
            let mut before: Option<(EventId, usize)> = None;
            for (id, entry) in entries {
                if let Some(other) = ids.insert(*id, topic) {
                    return complain(Mistake::Log, format!("{id} is in {other} and in {topic}"));
                }
                if let Some((previous, life)) = before
                    && life == entry.life
                    && entry.previous != previous
                {
                    return complain(
                        Mistake::Log,
                        format!(
                            "{topic} {id} follows {previous}, but says {}",
                            entry.previous
                        ),
                    );
                }
                before = Some((*id, entry.life));
            }
        }
        Ok(())
    }
}
