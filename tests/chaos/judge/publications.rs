//! What publishers were told.

use std::collections::{HashMap, HashSet};

use tidegate::event::EventId;

use super::{Complaint, Entry, Log, Mistake, Name, complain};

/// One event as its publisher knows it. Its data are like those of no other.
#[derive(Clone, Debug)]
pub(in crate::chaos) struct Publication {
    pub(in crate::chaos) topic: Name,
    pub(in crate::chaos) kind: String,
    pub(in crate::chaos) data: String,
    /// With a key it may be repeated; without one it is only where it was certainly not stored.
    pub(in crate::chaos) keyed: bool,
    /// Whether some attempt was not answered: it may have been stored or not.
    pub(in crate::chaos) unknown: bool,
    /// Each answer with an id, and whether it was called a duplicate.
    pub(in crate::chaos) answers: Vec<(EventId, bool)>,
}

/// What was handed over to be taken in, and is not in the log: its data.
#[derive(Clone, Debug, Default)]
pub(in crate::chaos) struct Left {
    pub(in crate::chaos) waiting: Vec<String>,
    /// Refused.
    pub(in crate::chaos) dead: Vec<String>,
    /// Lost in a failover.
    pub(in crate::chaos) gone: Vec<String>,
}

/// What was acknowledged is in the log once, what is in the log was published.
pub(in crate::chaos) fn judge_publications(
    log: &Log,
    left: &Left,
    published: &[Publication],
) -> Result<(), Complaint> {
    let mut stored: HashMap<&str, Vec<(&Name, EventId, &Entry)>> = HashMap::new();
    for (topic, entries) in &log.topics {
        for (id, entry) in entries {
            stored
                .entry(&entry.data)
                .or_default()
                .push((topic, *id, entry));
        }
    }
    for publication in published {
        let stored = stored.remove(publication.data.as_str()).unwrap_or_default();
        let wrong = |why: &str| {
            complain(
                Mistake::Acknowledgement,
                format!("{why}: {publication:?}, stored {stored:?}"),
            )
        };
        if stored
            .iter()
            .any(|(topic, _, entry)| **topic != publication.topic || entry.kind != publication.kind)
        {
            return wrong("stored as something else");
        }
        if is_doubled(&stored) || (!publication.keyed && stored.len() > 1) {
            return wrong("stored twice");
        }
        let mut first = HashSet::new();
        for (id, duplicate) in &publication.answers {
            if !stored.iter().any(|(_, stored, _)| stored == id) {
                return wrong("acknowledged, and not in the log");
            }
            if !duplicate && !first.insert(id) {
                return wrong("a repetition that is not called a duplicate");
            }
        }
        if !publication.unknown {
            if publication.answers.is_empty() && !stored.is_empty() {
                return wrong("refused, and stored");
            }
            if publication
                .answers
                .first()
                .is_some_and(|(_, duplicate)| *duplicate)
            {
                return wrong("the first of its kind is called a duplicate");
            }
        }
    }
    match stored.into_iter().next() {
        None => Ok(()),
        Some((data, _)) => complain(
            Mistake::Acknowledgement,
            format!("nobody published {data:?}"),
        ),
    }
}

/// Whether one log had something twice at some time. In another log, or where the server was lost that had it, it may stand
/// once more.
fn is_doubled(stored: &[(&Name, EventId, &Entry)]) -> bool {
    let mut entries: Vec<&Entry> = stored.iter().map(|(_, _, entry)| *entry).collect();
    entries.sort_by_key(|entry| (entry.life, entry.era));
    entries.windows(2).any(|pair| {
        let [earlier, later] = pair else { return false };
        let lost = earlier.lost().is_some_and(|failover| failover < later.era);
        earlier.life == later.life && !lost
    })
}
