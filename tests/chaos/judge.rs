//! What every client was told, held against everything that was ever in the log.
//!
//! Pure: it is given what happened as values, so that each kind of mistake can be made here in a few lines, and must be found.
//! A gateway learns of things before a client does, and a client before its record has the time; so every comparison of times
//! forgives what may have been late, and none accuses where the order is not certain.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::{self, Write as _},
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use tidegate::event::EventId;

/// Milliseconds of the clock that Redis and the test share.
pub(super) type Millis = u64;

/// How long after the first event of a new log an open stream is told that it is one. Nothing may be missing by then.
const LATE_RESET: Millis = 5_000;

/// The name of a topic, shared by everything that mentions it.
pub(super) type Name = Arc<str>;

// ---- the log -------------------------------------------------------------------------------------------------------------

/// What took an entry from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taking {
    /// The stream of the topic was trimmed or deleted.
    Trim,
    /// The whole log is gone.
    Flush,
}

/// An entry that was in the log at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: String,
    pub(super) data: String,
    /// The id of the entry before it in the topic, as it says itself.
    pub(super) previous: EventId,
    /// How many logs there were before the one that it was in.
    pub(super) life: usize,
    /// What took it, and when that began.
    pub(super) taken: Option<(Taking, Millis)>,
}

/// The beginning of a log that is not the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Birth {
    pub(super) id: EventId,
    /// When the log before it began to go away.
    pub(super) since: Millis,
}

/// Everything that was ever in the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub(super) topics: BTreeMap<Name, BTreeMap<EventId, Entry>>,
    /// Of the logs after the first, in order.
    pub(super) births: Vec<Birth>,
}

impl Log {
    /// Adds an entry that was seen in the log; seen again it must be the same.
    pub(super) fn add(&mut self, topic: &Name, id: EventId, entry: Entry) -> Result<(), Complaint> {
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
    pub(super) fn judge(&self) -> Result<(), Complaint> {
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

// ---- what may be wrong ---------------------------------------------------------------------------------------------------

/// The kinds of mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    /// An event came twice.
    Doubled,
    /// An event did not come, and the log still has it.
    Lost,
    /// An event did not come because the log no longer had it, and that was not told.
    Untold,
    /// A gap was told where nothing is missing.
    FalseGap,
    /// An id came that does not lie above what had been told.
    Order,
    /// An event came that was never in the log like this.
    Unpublished,
    /// The log was born again, and that was not told.
    UntoldReset,
    /// `$open` does not answer what was asked.
    Verdict,
    /// The log itself is not as it should be.
    Log,
    /// An answer to a publisher is not true.
    Acknowledgement,
}

/// What is wrong, for whoever has to find out why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) mistake: Mistake,
    pub(super) text: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.mistake, self.text)
    }
}

fn complain<T>(mistake: Mistake, text: String) -> Result<T, Complaint> {
    Err(Complaint { mistake, text })
}

// ---- a client ------------------------------------------------------------------------------------------------------------

/// Where a connection asked to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Now,
    Earliest,
    After(EventId),
}

/// Why something is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Retention,
    Reset,
    Lost,
    Unknown,
}

/// Something is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) reason: Reason,
    pub(super) topics: Vec<Name>,
    pub(super) at_least: Option<u64>,
}

/// What `$open` says of a resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    None,
    Complete,
    Gap(Gap),
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Opened {
        /// Which replica was asked, for the reader.
        replica: usize,
        asked: Asked,
        topics: Arc<[Name]>,
        replay: Replay,
        id: EventId,
    },
    Event {
        topic: Name,
        id: EventId,
        kind: String,
        data: String,
    },
    Gap(Gap),
    Live(EventId),
    /// A checkpoint, or the last cursor before a drain.
    Cursor(EventId),
    /// The connection is over, for whatever reason.
    Left(&'static str),
}

/// One line of a client's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// When it was read.
    pub(super) at: Millis,
    pub(super) told: Told,
}

/// What a whole life amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) events: usize,
    pub(super) gaps: usize,
    pub(super) resets: usize,
    pub(super) connections: usize,
}

/// Judges the life of one client, from its first connection until it has everything.
pub(super) fn judge(log: &Log, record: &[Line]) -> Result<Tally, Complaint> {
    let mut client = Client::new(log);
    for (number, line) in record.iter().enumerate() {
        if matches!(line.told, Told::Opened { .. }) {
            client.comes = events_until_the_next(&record[number + 1..]);
        }
        client.hears(line).map_err(|complaint| Complaint {
            text: format!("{}{}", complaint.text, around(record, number)),
            ..complaint
        })?;
    }
    client.end().map_err(|complaint| Complaint {
        text: format!("{}{}", complaint.text, around(record, record.len())),
        ..complaint
    })?;
    Ok(client.tally)
}

/// What comes on a connection, up to the next one.
fn events_until_the_next(record: &[Line]) -> HashSet<(Name, EventId)> {
    let connection = record
        .iter()
        .take_while(|line| !matches!(line.told, Told::Opened { .. }));
    let events = connection.filter_map(|line| match &line.told {
        Told::Event { topic, id, .. } => Some((topic.clone(), *id)),
        _ => None,
    });
    events.collect()
}

/// The lines before one, for the message.
fn around(record: &[Line], number: usize) -> String {
    let begin = record[..number.min(record.len())]
        .iter()
        .rposition(|line| matches!(line.told, Told::Opened { .. }))
        .unwrap_or(0)
        .saturating_sub(12)
        .max(number.saturating_sub(60));
    let mut text = String::new();
    for (at, line) in record.iter().enumerate().skip(begin) {
        if at > number + 3 {
            break;
        }
        let mark = if at == number { "=>" } else { "  " };
        let told: String = format!("{:?}", line.told).chars().take(600).collect();
        let _ = write!(text, "\n{mark} {} {told}", line.at);
    }
    text
}

/// What a client may believe of one topic.
#[derive(Clone, Copy, Debug, Default)]
struct Belief {
    /// The next entry that must come or be told: the first above the cursor that was ever in the log.
    next: Option<EventId>,
    /// When a gap was told since the last event of the topic.
    gap: Option<Millis>,
    /// Nothing came yet since it asked for the earliest that there is: nobody promised where that would be.
    from_the_beginning: bool,
}

struct Client<'a> {
    log: &'a Log,
    /// Everything that comes on this connection. Another replica may still have in memory what one has told as a gap.
    comes: HashSet<(Name, EventId)>,
    /// What came so far, in the whole life.
    seen: HashSet<(Name, EventId)>,
    cursor: EventId,
    begun: bool,
    /// When the connection was opened.
    opened: Millis,
    live: bool,
    beliefs: BTreeMap<Name, Belief>,
    reset: Option<Millis>,
    /// When it passed the birth of a log that it has yet to be told of.
    owed: Option<Millis>,
    tally: Tally,
}

impl<'a> Client<'a> {
    fn new(log: &'a Log) -> Self {
        Self {
            log,
            comes: HashSet::new(),
            seen: HashSet::new(),
            cursor: EventId::ZERO,
            begun: false,
            opened: 0,
            live: false,
            beliefs: BTreeMap::new(),
            reset: None,
            owed: None,
            tally: Tally::default(),
        }
    }

    fn hears(&mut self, line: &Line) -> Result<(), Complaint> {
        if let Some(since) = self.owed
            && line.at > since + LATE_RESET
        {
            return complain(
                Mistake::UntoldReset,
                format!("a birth was passed at {since}"),
            );
        }
        match &line.told {
            Told::Opened {
                asked,
                topics,
                replay,
                id,
                ..
            } => self.opens(line.at, *asked, topics, replay, *id),
            Told::Event {
                topic,
                id,
                kind,
                data,
            } => self.receives(line.at, topic, *id, kind, data),
            Told::Gap(gap) => self.is_told(line.at, gap),
            Told::Live(id) => {
                if std::mem::replace(&mut self.live, true) {
                    return complain(Mistake::Order, "$live came twice".to_owned());
                }
                self.moves(line.at, *id, None)
            }
            Told::Cursor(id) => self.moves(line.at, *id, None),
            Told::Left(_) => Ok(()),
        }
    }

    /// The first entry of a topic above the cursor.
    fn next_of(&self, topic: &Name) -> Option<EventId> {
        let entries = self.log.topics.get(topic)?;
        let mut above = entries.range((Excluded(self.cursor), Unbounded));
        above.next().map(|(id, _)| *id)
    }

    fn opens(
        &mut self,
        at: Millis,
        asked: Asked,
        topics: &[Name],
        replay: &Replay,
        id: EventId,
    ) -> Result<(), Complaint> {
        self.tally.connections += 1;
        self.opened = at;
        self.owed = None;
        self.live = asked == Asked::Now;
        let resumes = match asked {
            Asked::After(cursor) => {
                if self.begun && cursor != self.cursor {
                    return complain(
                        Mistake::Verdict,
                        format!("the test is wrong: it resumed after {cursor}"),
                    );
                }
                self.cursor = cursor;
                cursor > EventId::ZERO
            }
            Asked::Earliest => {
                self.cursor = EventId::ZERO;
                false
            }
            Asked::Now => {
                self.cursor = id;
                false
            }
        };
        self.begun = true;
        // A topic that is followed for the first time is followed after the cursor, as all others.
        let mut beliefs = BTreeMap::new();
        for topic in topics {
            let mut belief = self.beliefs.remove(topic).unwrap_or_default();
            belief.next = self.next_of(topic);
            belief.from_the_beginning = asked != Asked::Now && !resumes;
            beliefs.insert(topic.clone(), belief);
        }
        self.beliefs = beliefs;
        let wrong = || {
            complain(
                Mistake::Verdict,
                format!("asked for {asked:?}, told {replay:?} {id}"),
            )
        };
        match replay {
            Replay::None if !resumes => {
                if id != self.cursor {
                    return wrong();
                }
            }
            Replay::Complete if resumes => {
                if id != self.cursor {
                    return wrong();
                }
            }
            Replay::Gap(gap) if resumes => {
                self.is_told(at, gap)?;
                if gap.reason == Reason::Reset {
                    return self.moves(at, id, None);
                }
                if id != self.cursor {
                    return wrong();
                }
            }
            _ => return wrong(),
        }
        Ok(())
    }

    fn receives(
        &mut self,
        at: Millis,
        topic: &Name,
        id: EventId,
        kind: &str,
        data: &str,
    ) -> Result<(), Complaint> {
        self.tally.events += 1;
        let known = self.log.topics.get(topic).and_then(|all| all.get(&id));
        if !known.is_some_and(|known| known.kind == kind && known.data == data) {
            return complain(
                Mistake::Unpublished,
                format!("{topic} {id} {kind} {data:?}, in the log is {known:?}"),
            );
        }
        if !self.seen.insert((topic.clone(), id)) {
            return complain(Mistake::Doubled, format!("{topic} {id} {data:?}"));
        }
        if id <= self.cursor {
            return complain(
                Mistake::Order,
                format!("{topic} {id} came at {}", self.cursor),
            );
        }
        if !self.beliefs.contains_key(topic) {
            return complain(
                Mistake::Unpublished,
                format!("{topic} {id} was not asked for"),
            );
        }
        self.moves(at, id, Some(topic))?;
        let next = self.next_of(topic);
        self.beliefs.insert(
            topic.clone(),
            Belief {
                next,
                ..Belief::default()
            },
        );
        Ok(())
    }

    /// The cursor says: everything up to `to` has come, or was told. `with` is the topic whose event carries it.
    fn moves(&mut self, at: Millis, to: EventId, with: Option<&Name>) -> Result<(), Complaint> {
        if to < self.cursor {
            return complain(
                Mistake::Order,
                format!("the cursor goes back from {} to {to}", self.cursor),
            );
        }
        for birth in &self.log.births {
            let passes = self.cursor < birth.id && birth.id <= to;
            // Whoever asked for the earliest, and may have asked when that log was there already, has lost nothing.
            let open = self.cursor > EventId::ZERO || self.opened < birth.since;
            if passes && open && self.reset.is_none_or(|told| told < birth.since) {
                // What is missing is judged below; that there is a new log may be found a little later.
                self.owed.get_or_insert(at);
            }
        }
        let after = self.cursor;
        self.cursor = to;
        let behind = self.beliefs.iter();
        let behind: Vec<Name> = behind
            .filter(|(_, belief)| belief.next.is_some_and(|next| next <= to))
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in behind {
            for (id, entry) in self.log.topics[&topic].range((Excluded(after), Included(to))) {
                if *id == to && with == Some(&topic) {
                    continue;
                }
                let who = || {
                    format!(
                        "{topic} {id} {:?} is missing when the cursor goes from {after} to {to}",
                        entry.data
                    )
                };
                let belief = self.beliefs[&topic];
                let Some((_, taken)) = entry.taken.filter(|(_, taken)| *taken <= at) else {
                    return complain(
                        Mistake::Lost,
                        format!("{}, taken: {:?}", who(), entry.taken),
                    );
                };
                // What was published after the client had been told is not what it was told of.
                let told = belief.gap.is_some_and(|told| id.ms() <= told);
                if !told && !belief.from_the_beginning {
                    return complain(
                        Mistake::Untold,
                        format!("{}, taken at {taken}, told: {:?}", who(), belief.gap),
                    );
                }
            }
            let next = self.next_of(&topic);
            if let Some(belief) = self.beliefs.get_mut(&topic) {
                belief.next = next;
            }
        }
        Ok(())
    }

    fn is_told(&mut self, at: Millis, gap: &Gap) -> Result<(), Complaint> {
        self.tally.gaps += 1;
        let wrong = |why: &str| {
            complain(
                Mistake::FalseGap,
                format!("{gap:?} at {}: {why}", self.cursor),
            )
        };
        let followed = |topic: &Name| self.beliefs.contains_key(topic);
        if gap.topics.is_empty() || !gap.topics.iter().all(followed) {
            return wrong("it names other topics");
        }
        match gap.reason {
            Reason::Retention => {
                for topic in &gap.topics {
                    if self.missing(topic, at, Some(Taking::Trim)) == 0 {
                        return wrong(&format!("nothing was taken of {topic}"));
                    }
                }
            }
            Reason::Reset => {
                self.tally.resets += 1;
                if self.owed.take().is_none() && !self.is_reborn(at) {
                    return wrong("nothing was born");
                }
                if gap.topics.len() != self.beliefs.len() {
                    return wrong("a reset is for all topics");
                }
            }
            // A log that goes away while a replica reads it looks like one that has lost something, until it is born again.
            Reason::Lost if self.is_reborn(at) => {}
            Reason::Lost | Reason::Unknown => return wrong("nothing of the kind happened"),
        }
        if let Some(at_least) = gap.at_least {
            let missing = gap.topics.iter().map(|topic| self.missing(topic, at, None));
            let missing: usize = missing.sum();
            if u64::try_from(missing).is_ok_and(|missing| missing < at_least) {
                return wrong(&format!("only {missing} are missing"));
            }
        }
        for topic in &gap.topics {
            if let Some(belief) = self.beliefs.get_mut(topic) {
                belief.gap = Some(at);
            }
        }
        if gap.reason == Reason::Reset {
            self.reset = Some(at);
        }
        Ok(())
    }

    /// Whether there may be a log by then that was born above the cursor.
    fn is_reborn(&self, at: Millis) -> bool {
        let above = |birth: &Birth| birth.id > self.cursor && birth.since <= at;
        self.log.births.iter().any(above)
    }

    /// How many entries of a topic above the cursor were taken by then and do not come.
    fn missing(&self, topic: &Name, at: Millis, by: Option<Taking>) -> usize {
        let Some(entries) = self.log.topics.get(topic) else {
            return 0;
        };
        let above = entries.range((Excluded(self.cursor), Unbounded));
        let gone = above.filter(|(id, entry)| {
            let taken = |(taking, taken)| taken <= at && by.is_none_or(|by| by == taking);
            entry.taken.is_some_and(taken) && !self.comes.contains(&(topic.clone(), **id))
        });
        gone.count()
    }

    /// The storm is over, the client has read on to the end: whatever the log has, it has.
    fn end(&self) -> Result<(), Complaint> {
        for (topic, belief) in &self.beliefs {
            let Some(next) = belief.next else { continue };
            let kept = |(_, entry): &(&EventId, &Entry)| entry.taken.is_none();
            if let Some((id, entry)) = self.log.topics[topic].range(next..).find(kept) {
                return complain(
                    Mistake::Lost,
                    format!(
                        "{topic} {id} {:?} has not come when it ends at {}",
                        entry.data, self.cursor
                    ),
                );
            }
        }
        Ok(())
    }
}

// ---- publishers ----------------------------------------------------------------------------------------------------------

/// One event as its publisher knows it. Its data are like those of no other.
#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub(super) topic: Name,
    pub(super) kind: String,
    pub(super) data: String,
    /// With a key it may be repeated; without one it is only where it was certainly not stored.
    pub(super) keyed: bool,
    /// Whether some attempt was not answered: it may have been stored or not.
    pub(super) unknown: bool,
    /// Each answer with an id, and whether it was called a duplicate.
    pub(super) answers: Vec<(EventId, bool)>,
}

/// What was acknowledged is in the log once, what is in the log was published.
pub(super) fn judge_publishers(log: &Log, published: &[Publication]) -> Result<(), Complaint> {
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
        let lives: HashSet<usize> = stored.iter().map(|(_, _, entry)| entry.life).collect();
        if lives.len() < stored.len() || (!publication.keyed && stored.len() > 1) {
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

mod tests {
    use super::{
        Asked, Birth, Complaint, Entry, EventId, Gap, Line, Log, Mistake, Name, Publication,
        Reason, Replay, Taking, Tally, Told, judge, judge_publishers,
    };

    fn name(text: &str) -> Name {
        text.into()
    }

    const fn id(ms: u64) -> EventId {
        EventId::new(ms, 0)
    }

    fn entry(ms: u64, previous: u64) -> Entry {
        Entry {
            kind: "message".to_owned(),
            data: ms.to_string(),
            previous: id(previous),
            life: 0,
            taken: None,
        }
    }

    /// Topic `a` has 10, 20, 30, 40, topic `b` has 15, 25, 35.
    fn log() -> Log {
        let mut log = Log::default();
        for (topic, ids) in [("a", &[10, 20, 30, 40][..]), ("b", &[15, 25, 35])] {
            let mut previous = 0;
            for &ms in ids {
                log.add(&name(topic), id(ms), entry(ms, previous)).unwrap();
                previous = ms;
            }
        }
        log
    }

    fn take(log: &mut Log, topic: &str, ids: &[u64], taken: (Taking, u64)) {
        let entries = log.topics.get_mut(topic).unwrap();
        for &ms in ids {
            entries.get_mut(&id(ms)).unwrap().taken = Some(taken);
        }
    }

    fn open(asked: Asked, topics: &[&str], replay: Replay, at: u64) -> Told {
        Told::Opened {
            replica: 0,
            asked,
            topics: topics.iter().copied().map(name).collect(),
            replay,
            id: id(at),
        }
    }

    fn now(topics: &[&str], at: u64) -> Told {
        open(Asked::Now, topics, Replay::None, at)
    }

    fn resume(topics: &[&str], at: u64) -> Told {
        open(Asked::After(id(at)), topics, Replay::Complete, at)
    }

    fn event(topic: &str, ms: u64) -> Told {
        Told::Event {
            topic: name(topic),
            id: id(ms),
            kind: "message".to_owned(),
            data: ms.to_string(),
        }
    }

    fn gap_of(reason: Reason, topics: &[&str]) -> Gap {
        Gap {
            reason,
            topics: topics.iter().copied().map(name).collect(),
            at_least: None,
        }
    }

    fn gap(reason: Reason, topics: &[&str]) -> Told {
        Told::Gap(gap_of(reason, topics))
    }

    /// Every line is read at the time that stands beside it.
    fn verdict(log: &Log, told: Vec<(u64, Told)>) -> Result<Tally, Complaint> {
        let lines = told.into_iter().map(|(at, told)| Line { at, told });
        judge(log, &lines.collect::<Vec<_>>())
    }

    fn finds(mistake: Mistake, log: &Log, told: Vec<(u64, Told)>) {
        let found = verdict(log, told).map_err(|complaint| complaint.mistake);
        assert_eq!(found, Err(mistake));
    }

    #[test]
    fn a_life_without_mistakes_is_accepted() {
        let told = vec![
            (5, now(&["a", "b"], 5)),
            (11, event("a", 10)),
            (16, event("b", 15)),
            (17, Told::Left("")),
            (31, resume(&["a", "b"], 15)),
            (32, event("a", 20)),
            (33, event("b", 25)),
            (33, Told::Live(id(25))),
            (34, event("a", 30)),
            (41, event("b", 35)),
            (42, event("a", 40)),
            (50, Told::Cursor(id(47))),
        ];
        let tally = Tally {
            events: 7,
            connections: 2,
            ..Tally::default()
        };
        assert_eq!(verdict(&log(), told), Ok(tally));
    }

    #[test]
    fn an_event_that_comes_twice_is_found() {
        for again in [20, 10] {
            let told = vec![
                (5, now(&["a"], 5)),
                (11, event("a", 10)),
                (21, event("a", 20)),
                (22, Told::Left("")),
                (23, resume(&["a"], 20)),
                (24, event("a", again)),
            ];
            finds(Mistake::Doubled, &log(), told);
        }
    }

    #[test]
    fn an_event_that_never_comes_is_found() {
        let begin = (5, now(&["a", "b"], 5));
        let skipped = vec![begin.clone(), (11, event("a", 10)), (31, event("a", 20))];
        finds(Mistake::Lost, &log(), skipped);
        let by_checkpoint = vec![begin.clone(), (20, Told::Cursor(id(12)))];
        finds(Mistake::Lost, &log(), by_checkpoint);
        let by_the_same_id = vec![begin.clone(), (20, Told::Cursor(id(10)))];
        finds(Mistake::Lost, &log(), by_the_same_id);
        let told = vec![(36, resume(&["a", "b"], 30)), (37, event("b", 35))];
        finds(Mistake::Lost, &log(), told);
        // A gap is no excuse for what is still there.
        let mut trimmed = log();
        take(&mut trimmed, "a", &[10], (Taking::Trim, 12));
        let told = vec![
            (5, now(&["a"], 5)),
            (13, gap(Reason::Retention, &["a"])),
            (31, event("a", 30)),
        ];
        finds(Mistake::Lost, &trimmed, told);
    }

    /// A topic that joins a subscription is followed after the cursor that it was asked with.
    #[test]
    fn an_event_of_a_topic_that_joined_later_is_not_forgotten() {
        let told = vec![
            (5, now(&["a"], 5)),
            (11, event("a", 10)),
            (12, Told::Left("")),
            (13, resume(&["a", "b"], 10)),
            (21, event("a", 20)),
        ];
        finds(Mistake::Lost, &log(), told);
    }

    #[test]
    fn an_event_that_was_taken_before_it_came_must_be_told() {
        let mut log = log();
        take(&mut log, "a", &[10, 20], (Taking::Trim, 28));
        let ends = [(36, event("b", 35)), (41, event("a", 40))];
        let told = |gap: Vec<(u64, Told)>, first: (u64, Told)| {
            let begin = [(5, now(&["a", "b"], 5)), (16, event("b", 15))];
            // 15 lies above 10, so the gap should have been told before it; this begins after it.
            let begin = begin[..1].iter().cloned().chain(gap);
            begin.chain([first]).chain(ends.clone()).collect::<Vec<_>>()
        };
        finds(Mistake::Untold, &log, told(vec![], (31, event("a", 30))));
        let mut rest = log.clone();
        rest.topics.get_mut("b").unwrap().remove(&id(15));
        rest.topics.get_mut("b").unwrap().remove(&id(25));
        let retention = (30, gap(Reason::Retention, &["a"]));
        let fine = told(vec![retention.clone()], (31, event("a", 30)));
        assert_eq!(verdict(&rest, fine).unwrap().gaps, 1);
        // Told of another topic, too late, or before it was published.
        take(&mut rest, "b", &[35], (Taking::Trim, 28));
        let other = vec![
            (5, now(&["a", "b"], 5)),
            (30, gap(Reason::Retention, &["b"])),
        ];
        let other = other.into_iter().chain([(31, event("a", 30))]).collect();
        finds(Mistake::Untold, &rest, other);
        let late = vec![
            (5, now(&["a"], 5)),
            (30, Told::Cursor(id(25))),
            (31, gap(Reason::Retention, &["a"])),
        ];
        finds(Mistake::Untold, &rest, late);
        take(&mut rest, "a", &[10], (Taking::Trim, 12));
        let early = vec![
            (5, now(&["a"], 5)),
            (13, gap(Reason::Retention, &["a"])),
            (31, event("a", 30)),
        ];
        finds(Mistake::Untold, &rest, early);
    }

    /// What was taken after something newer had come was there to be sent.
    #[test]
    fn an_event_that_was_taken_after_it_was_passed_over_is_lost() {
        let mut log = log();
        take(&mut log, "a", &[10, 20], (Taking::Trim, 33));
        let told = vec![
            (5, now(&["a"], 5)),
            (30, gap(Reason::Retention, &["a"])),
            (31, event("a", 30)),
        ];
        finds(Mistake::FalseGap, &log, told);
        take(&mut log, "a", &[10], (Taking::Trim, 29));
        let told = vec![
            (5, now(&["a"], 5)),
            (30, gap(Reason::Retention, &["a"])),
            (31, event("a", 30)),
        ];
        finds(Mistake::Lost, &log, told);
    }

    #[test]
    fn a_gap_where_nothing_is_missing_is_found() {
        let mut log = log();
        let told = |reason| {
            vec![
                (5, now(&["a"], 5)),
                (11, event("a", 10)),
                (25, gap(reason, &["a"])),
                (25, event("a", 20)),
                (31, event("a", 30)),
                (41, event("a", 40)),
            ]
        };
        for reason in [
            Reason::Retention,
            Reason::Reset,
            Reason::Lost,
            Reason::Unknown,
        ] {
            finds(Mistake::FalseGap, &log, told(reason));
        }
        // Taken below the cursor, or taken in another way, or after it had come.
        take(&mut log, "a", &[10], (Taking::Trim, 12));
        finds(Mistake::FalseGap, &log, told(Reason::Retention));
        take(&mut log, "a", &[20], (Taking::Trim, 24));
        finds(Mistake::FalseGap, &log, told(Reason::Retention));
        take(&mut log, "a", &[30], (Taking::Flush, 24));
        finds(Mistake::FalseGap, &log, told(Reason::Retention));
    }

    /// One replica may have in memory what another one had to tell.
    #[test]
    fn a_gap_may_be_filled_on_another_connection_and_not_on_its_own() {
        let mut log = log();
        take(&mut log, "a", &[20], (Taking::Trim, 24));
        let replay = Replay::Gap(gap_of(Reason::Retention, &["a"]));
        let told = |between: Vec<(u64, Told)>| {
            let begin = [(25, open(Asked::After(id(10)), &["a"], replay.clone(), 10))];
            let end = [
                (27, event("a", 20)),
                (31, event("a", 30)),
                (41, event("a", 40)),
            ];
            let all = begin.into_iter().chain(between);
            all.chain(end).collect::<Vec<_>>()
        };
        let elsewhere = vec![(26, Told::Left("")), (27, resume(&["a"], 10))];
        assert!(verdict(&log, told(elsewhere)).is_ok());
        finds(Mistake::FalseGap, &log, told(vec![]));
    }

    #[test]
    fn a_gap_that_says_too_much_is_found() {
        let mut log = log();
        take(&mut log, "a", &[20], (Taking::Trim, 24));
        let told = |at_least| {
            let gap = Gap {
                at_least: Some(at_least),
                ..gap_of(Reason::Retention, &["a"])
            };
            vec![
                (25, open(Asked::After(id(10)), &["a"], Replay::Gap(gap), 10)),
                (31, event("a", 30)),
                (41, event("a", 40)),
            ]
        };
        assert!(verdict(&log, told(1)).is_ok());
        finds(Mistake::FalseGap, &log, told(2));
    }

    #[test]
    fn the_wrong_order_is_found() {
        let begin = (5, now(&["a", "b"], 9));
        let told = vec![
            begin.clone(),
            (11, event("a", 10)),
            (26, event("b", 15)),
            (27, Told::Cursor(id(12))),
        ];
        finds(Mistake::Order, &log(), told);
        let told = vec![(16, resume(&["a", "b"], 15)), (17, event("a", 10))];
        finds(Mistake::Order, &log(), told);
        let mut without = log();
        take(&mut without, "b", &[15], (Taking::Trim, 1));
        let told = vec![
            (9, open(Asked::Earliest, &["a", "b"], Replay::None, 0)),
            (11, event("a", 10)),
            (12, event("a", 20)),
            (13, event("b", 15)),
        ];
        finds(Mistake::Order, &without, told);
    }

    #[test]
    fn an_event_that_nobody_published_is_found() {
        let begin = (5, now(&["a"], 5));
        let never = vec![begin.clone(), (12, event("a", 11))];
        finds(Mistake::Unpublished, &log(), never);
        let other = Told::Event {
            topic: name("a"),
            id: id(10),
            kind: "message".to_owned(),
            data: "11".to_owned(),
        };
        finds(
            Mistake::Unpublished,
            &log(),
            vec![begin.clone(), (12, other)],
        );
        let kind = Told::Event {
            topic: name("a"),
            id: id(10),
            kind: "other".to_owned(),
            data: "10".to_owned(),
        };
        finds(
            Mistake::Unpublished,
            &log(),
            vec![begin.clone(), (12, kind)],
        );
        let not_asked_for = vec![(13, now(&["a"], 13)), (16, event("b", 15))];
        finds(Mistake::Unpublished, &log(), not_asked_for);
    }

    /// The log went away at 22 and was born again at 28.
    fn reborn() -> Log {
        let mut log = log();
        take(&mut log, "a", &[10, 20], (Taking::Flush, 22));
        take(&mut log, "b", &[15], (Taking::Flush, 22));
        log.topics.get_mut("b").unwrap().remove(&id(25));
        log.births.push(Birth {
            id: id(28),
            since: 22,
        });
        log
    }

    #[test]
    fn a_new_log_must_be_told() {
        let log = reborn();
        let begin = [(5, now(&["a"], 5)), (11, event("a", 10))];
        let end = [(32, event("a", 30)), (41, event("a", 40))];
        let told = |between: Vec<(u64, Told)>| {
            let all = begin.iter().cloned().chain(between);
            all.chain(end.clone()).collect::<Vec<_>>()
        };
        let mut never = told(vec![(21, event("a", 20))]);
        never.push((10_000, Told::Cursor(id(50))));
        finds(Mistake::UntoldReset, &log, never);
        // A little late is forgiven where nothing is missing.
        let mut late = told(vec![(21, event("a", 20))]);
        late.push((50, gap(Reason::Reset, &["a"])));
        assert!(verdict(&log, late).is_ok());
        finds(Mistake::Untold, &log, told(vec![]));
        let retention = gap(Reason::Retention, &["a"]);
        finds(Mistake::FalseGap, &log, told(vec![(31, retention)]));
        let reset = gap(Reason::Reset, &["a"]);
        finds(Mistake::FalseGap, &log, told(vec![(21, reset.clone())]));
        let tally = verdict(&log, told(vec![(31, reset.clone())])).unwrap();
        assert_eq!((tally.gaps, tally.resets), (1, 1));
        // Once it was told with its birth there is nothing more to tell.
        let open = |asked: u64| {
            let replay = Replay::Gap(gap_of(Reason::Reset, &["a"]));
            open(Asked::After(id(asked)), &["a"], replay, 28)
        };
        let resumed = vec![(21, Told::Left("")), (30, open(10))];
        assert!(verdict(&log, told(resumed.clone())).is_ok());
        let mut twice = resumed.clone();
        twice.push((30, reset));
        finds(Mistake::FalseGap, &log, told(twice));
        // Of one topic only.
        let both = vec![
            (5, now(&["a", "b"], 9)),
            (11, event("a", 10)),
            (16, event("b", 15)),
            (23, gap(Reason::Reset, &["a"])),
        ];
        finds(Mistake::FalseGap, &log, both);
    }

    #[test]
    fn whoever_asks_for_the_earliest_has_lost_nothing() {
        let told = vec![
            (30, open(Asked::Earliest, &["a"], Replay::None, 0)),
            (31, event("a", 30)),
            (41, event("a", 40)),
        ];
        assert!(verdict(&reborn(), told).is_ok());
        let told = vec![
            (5, open(Asked::Earliest, &["a"], Replay::None, 0)),
            (31, event("a", 30)),
            (10_000, Told::Cursor(id(30))),
        ];
        finds(Mistake::UntoldReset, &reborn(), told);
        let told = vec![
            (5, open(Asked::Earliest, &["a"], Replay::None, 0)),
            (21, event("a", 20)),
        ];
        finds(Mistake::Lost, &log(), told);
    }

    #[test]
    fn a_verdict_that_does_not_answer_is_found() {
        let none = open(Asked::After(id(10)), &["a"], Replay::None, 10);
        finds(Mistake::Verdict, &log(), vec![(1, none)]);
        let elsewhere = open(Asked::After(id(10)), &["a"], Replay::Complete, 20);
        finds(Mistake::Verdict, &log(), vec![(1, elsewhere)]);
        let complete = open(Asked::Now, &["a"], Replay::Complete, 10);
        finds(Mistake::Verdict, &log(), vec![(1, complete)]);
        let later = open(Asked::Earliest, &["a"], Replay::None, 1);
        finds(Mistake::Verdict, &log(), vec![(1, later)]);
    }

    #[test]
    fn a_log_that_contradicts_itself_is_found() {
        assert_eq!(log().judge(), Ok(()));
        let mut twice = log();
        twice.add(&name("b"), id(20), entry(20, 15)).unwrap();
        assert_eq!(twice.judge().unwrap_err().mistake, Mistake::Log);
        let mut broken = log();
        broken.add(&name("a"), id(50), entry(50, 30)).unwrap();
        assert_eq!(broken.judge().unwrap_err().mistake, Mistake::Log);
        let other = Entry {
            data: "x".to_owned(),
            ..entry(10, 0)
        };
        assert!(log().add(&name("a"), id(10), other).is_err());
        assert!(log().add(&name("a"), id(10), entry(10, 0)).is_ok());
    }

    fn publication(data: &str, keyed: bool, answers: &[(u64, bool)]) -> Publication {
        Publication {
            topic: name("a"),
            kind: "message".to_owned(),
            data: data.to_owned(),
            keyed,
            unknown: false,
            answers: answers.iter().map(|&(ms, again)| (id(ms), again)).collect(),
        }
    }

    #[test]
    fn acknowledgements_that_are_not_true_are_found() {
        let mut log = log();
        log.topics.remove("b");
        let true_ones = vec![
            publication("10", true, &[(10, false), (10, true)]),
            publication("20", false, &[(20, false)]),
            publication("30", true, &[(30, false)]),
            Publication {
                unknown: true,
                ..publication("40", true, &[(40, true)])
            },
        ];
        assert_eq!(judge_publishers(&log, &true_ones), Ok(()));
        let finds = |log: &Log, publications: &[Publication]| {
            let found = judge_publishers(log, publications).map_err(|found| found.mistake);
            assert_eq!(found, Err(Mistake::Acknowledgement));
        };
        // Nobody published one; it was published to another topic; with another id; refused.
        finds(&log, &true_ones[..3]);
        let with = |at: usize, other: Publication| {
            let mut all = true_ones.clone();
            all[at] = other;
            all
        };
        let elsewhere = Publication {
            topic: name("b"),
            ..true_ones[1].clone()
        };
        finds(&log, &with(1, elsewhere));
        finds(&log, &with(1, publication("20", false, &[(21, false)])));
        finds(&log, &with(1, publication("20", false, &[])));
        // The same answer twice, as if it had been stored twice; a duplicate of nothing.
        let again = publication("10", true, &[(10, false), (10, false)]);
        finds(&log, &with(0, again));
        finds(&log, &with(2, publication("30", true, &[(30, true)])));
        // Stored twice, in one log and in two.
        let mut twice = log.clone();
        let copy = Entry {
            data: "20".to_owned(),
            ..entry(50, 40)
        };
        twice.add(&name("a"), id(50), copy.clone()).unwrap();
        finds(&twice, &true_ones);
        finds(&twice, &with(1, publication("20", true, &[(20, false)])));
        let mut reborn = log.clone();
        let copy = Entry { life: 1, ..copy };
        reborn.add(&name("a"), id(50), copy).unwrap();
        finds(&reborn, &true_ones);
        let keyed = publication("20", true, &[(20, false), (50, false)]);
        assert_eq!(judge_publishers(&reborn, &with(1, keyed)), Ok(()));
    }
}
