//! Everything that was ever in the log, and what took it.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included},
};

use tidegate::event::EventId;

use super::{Complaint, Millis, Mistake, Name, complain};

/// What took an entry from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chaos) enum Taking {
    /// The stream of the topic was trimmed or deleted.
    Trim,
    /// The whole log is gone.
    Flush,
    /// It was acknowledged, and went with its server: the one that took over in the failover of this number lacks it.
    Lost(usize),
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
    /// How many failovers there were before it was published.
    pub(in crate::chaos) era: usize,
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

/// Another server took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chaos) struct Failover {
    /// After this moment nothing was stored that the old one alone had.
    pub(in crate::chaos) since: Millis,
    /// From this moment on every replica has told what it found missing, and heard what the others found.
    pub(in crate::chaos) over: Millis,
    /// The newest id that the new one had when it took over.
    pub(in crate::chaos) last: EventId,
}

/// A range that is recorded as lost: what lies above the first id, up to and with the second.
pub(in crate::chaos) type Range = (EventId, EventId);

/// Everything that was ever in the log.
#[derive(Clone, Debug, Default)]
pub(in crate::chaos) struct Log {
    pub(in crate::chaos) topics: BTreeMap<Name, BTreeMap<EventId, Entry>>,
    /// Of the logs after the first, in order.
    pub(in crate::chaos) births: Vec<Birth>,
    pub(in crate::chaos) failovers: Vec<Failover>,
    /// What replicas have recorded as lost.
    pub(in crate::chaos) recorded: BTreeMap<Name, Vec<Range>>,
}

impl Entry {
    /// Whether it was there when the next one of this era was published.
    fn is_of(&self, life: usize, era: usize) -> bool {
        let gone = matches!(self.taken, Some((Taking::Lost(failover), _)) if failover < era);
        self.life == life && self.era <= era && !gone
    }

    /// The failover that lost it.
    pub(super) fn lost(&self) -> Option<usize> {
        match self.taken {
            Some((Taking::Lost(failover), _)) => Some(failover),
            _ => None,
        }
    }
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
                let entry = Entry {
                    era: known.era,
                    ..entry
                };
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

    /// Each id is given once, ids increase through failovers, and each entry names the one that was before it.
    pub(in crate::chaos) fn judge(&self) -> Result<(), Complaint> {
        let mut ids = BTreeMap::new();
        for (topic, entries) in &self.topics {
            for (id, entry) in entries {
                if let Some((other, _)) = ids.insert(*id, (topic, entry.era)) {
                    return complain(Mistake::Log, format!("{id} is in {other} and in {topic}"));
                }
                let earlier = entries.range(..id).rev();
                let mut before = earlier.filter(|(_, it)| it.is_of(entry.life, entry.era));
                if let Some((before, _)) = before.next()
                    && entry.previous != *before
                {
                    let said = entry.previous;
                    return complain(
                        Mistake::Log,
                        format!("{topic} {id} follows {before}, but says {said}"),
                    );
                }
            }
        }
        let mut era = 0;
        for (id, (topic, its)) in ids {
            if its < era {
                return complain(
                    Mistake::Log,
                    format!("{topic} {id} is of era {its}, but ids of era {era} lie below it"),
                );
            }
            era = its;
        }
        Ok(())
    }

    /// What a failover lost of a topic: the id before it, and the last id of it.
    pub(super) fn lost(&self, topic: &Name, failover: usize) -> Option<Range> {
        let entries = self.topics.get(topic)?.iter();
        let mut lost = entries.filter(|(_, entry)| entry.lost() == Some(failover));
        let (first, entry) = lost.next()?;
        let last = lost.next_back().map_or(*first, |(last, _)| *last);
        Some((entry.previous, last))
    }

    /// How many entries failovers lost.
    pub(in crate::chaos) fn count_lost(&self) -> usize {
        let entries = self.topics.values().flat_map(BTreeMap::values);
        entries.filter(|entry| entry.lost().is_some()).count()
    }

    /// Whether it is recorded that this entry is lost.
    pub(super) fn is_recorded(&self, topic: &Name, id: EventId) -> bool {
        let ranges = self.recorded.get(topic).into_iter().flatten();
        ranges
            .into_iter()
            .any(|(after, through)| *after < id && id <= *through)
    }

    /// What is recorded as lost was lost, from the first to the last entry, and nothing of it was kept.
    pub(in crate::chaos) fn judge_recorded(&self) -> Result<(), Complaint> {
        for (topic, ranges) in &self.recorded {
            for &(after, through) in ranges {
                let wrong = |why: &str| {
                    let what =
                        format!("{topic} has lost {after}..{through}, it is recorded: {why}");
                    complain(Mistake::FalseRecord, what)
                };
                let empty = BTreeMap::new();
                let entries = self.topics.get(topic).unwrap_or(&empty);
                let mut inside = entries.range((Excluded(after), Included(through)));
                let Some((_, first)) = inside.next() else {
                    return wrong("nothing was ever there");
                };
                let Some(failover) = first.lost() else {
                    return wrong("its first entry was kept");
                };
                if let Some((kept, _)) = inside.find(|(_, entry)| entry.lost().is_none()) {
                    return wrong(&format!("{kept} was kept"));
                }
                let begin = self.lost(topic, failover).map(|(begin, _)| begin);
                if begin.is_some_and(|begin| begin < after) {
                    return wrong(&format!("more was lost, from {begin:?} on"));
                }
            }
        }
        Ok(())
    }
}
