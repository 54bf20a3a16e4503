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

/// One event of a producer that can only hand it over. Its data are like those of no other.
#[derive(Clone, Debug)]
pub(in crate::chaos) struct Handed {
    pub(in crate::chaos) producer: usize,
    /// Its place among those of the producer.
    pub(in crate::chaos) number: usize,
    pub(in crate::chaos) topic: Name,
    pub(in crate::chaos) kind: String,
    pub(in crate::chaos) data: String,
    pub(in crate::chaos) keyed: bool,
    /// Whether the gateway can take it in.
    pub(in crate::chaos) valid: bool,
    /// How often it may have come. With a key that is one event at most, but each may be refused.
    pub(in crate::chaos) sent: usize,
    pub(in crate::chaos) acknowledged: bool,
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

/// Entries by their data.
type Stored<'a> = HashMap<&'a str, Vec<(&'a Name, EventId, &'a Entry)>>;

/// What was acknowledged is in the log once, what is in the log was published.
pub(in crate::chaos) fn judge_publications(
    log: &Log,
    left: &Left,
    published: &[Publication],
    handed: &[Handed],
) -> Result<(), Complaint> {
    let mut stored: Stored = HashMap::new();
    for (topic, entries) in &log.topics {
        for (id, entry) in entries {
            stored
                .entry(&entry.data)
                .or_default()
                .push((topic, *id, entry));
        }
    }
    judge_handed(&mut stored, left, handed)?;
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

/// What was handed over is in the log once, and those of a producer in their order; or it was refused, or lost with its server.
fn judge_handed(stored: &mut Stored, left: &Left, handed: &[Handed]) -> Result<(), Complaint> {
    let count = |all: &[String], data: &str| all.iter().filter(|other| *other == data).count();
    let mut newest: HashMap<(usize, &Name), (EventId, usize)> = HashMap::new();
    for event in handed {
        let copies = stored.remove(event.data.as_str()).unwrap_or_default();
        let [waiting, dead, gone] =
            [&left.waiting, &left.dead, &left.gone].map(|all| count(all, &event.data));
        let wrong = |why: &str| {
            complain(
                Mistake::Acknowledgement,
                format!(
                    "{why}: {event:?}, stored {copies:?}, {waiting} waiting, {dead} dead, {gone} gone"
                ),
            )
        };
        if waiting > 0 {
            return wrong("not taken in");
        }
        if !event.valid && !copies.is_empty() {
            return wrong("taken in, and not valid");
        }
        if event.valid && dead > 0 {
            return wrong("refused, and valid");
        }
        let same = |(topic, _, entry): &(&Name, EventId, &Entry)| {
            **topic == event.topic && entry.kind == event.kind
        };
        if !copies.iter().all(same) {
            return wrong("taken in as something else");
        }
        if is_doubled(&copies) || dead > event.sent {
            return wrong("taken in twice");
        }
        let kept = copies.iter().find(|(_, _, entry)| entry.lost().is_none());
        if event.acknowledged && kept.is_none() && dead + gone == 0 {
            return wrong("handed over, and nowhere");
        }
        if let Some((topic, id, _)) = kept {
            let place = (event.producer, *topic);
            let before = newest.get(&place);
            if before.is_some_and(|(before, number)| id < before || event.number < *number) {
                return wrong(&format!("taken in before {before:?}"));
            }
            // What was not answered was given up with its connection: what was handed over next may have come before it.
            if event.acknowledged {
                newest.insert(place, (*id, event.number));
            }
        }
    }
    Ok(())
}
