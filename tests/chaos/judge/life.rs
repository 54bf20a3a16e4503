//! The life of one client, line by line.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use tidegate::event::EventId;

use super::{Birth, Complaint, Entry, Log, Millis, Mistake, Name, Taking, complain, losses::Owed};

/// Where a connection asked to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chaos) enum Asked {
    Now,
    Earliest,
    After(EventId),
}

/// Why something is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chaos) enum Reason {
    Retention,
    Reset,
    Lost,
    Unknown,
}

/// Something is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::chaos) struct Gap {
    pub(in crate::chaos) reason: Reason,
    pub(in crate::chaos) topics: Vec<Name>,
    pub(in crate::chaos) at_least: Option<u64>,
}

/// What `$open` says of a resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::chaos) enum Replay {
    None,
    Complete,
    Gap(Gap),
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::chaos) enum Told {
    Opened {
        /// Which replica was asked, for the reader.
        replica: usize,
        /// When it was asked.
        sent: Millis,
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
pub(in crate::chaos) struct Line {
    /// When it was read.
    pub(in crate::chaos) at: Millis,
    pub(in crate::chaos) told: Told,
}

/// What a whole life amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::chaos) struct Tally {
    pub(in crate::chaos) events: usize,
    pub(in crate::chaos) gaps: usize,
    pub(in crate::chaos) resets: usize,
    /// Gaps because something was lost in a failover.
    pub(in crate::chaos) losses: usize,
    pub(in crate::chaos) connections: usize,
}

/// Judges the life of one client, from its first connection until it has everything.
pub(in crate::chaos) fn judge(log: &Log, record: &[Line]) -> Result<Tally, Complaint> {
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
pub(super) struct Belief {
    /// The next entry that must come or be told: the first above the cursor that was ever in the log.
    pub(super) next: Option<EventId>,
    /// When a gap was told since the last event of the topic.
    gap: Option<Millis>,
    /// Nothing came yet since it asked for the earliest that there is: nobody promised where that would be.
    from_the_beginning: bool,
}

pub(super) struct Client<'a> {
    pub(super) log: &'a Log,
    /// Everything that comes on this connection. Another replica may still have in memory what one has told as a gap.
    comes: HashSet<(Name, EventId)>,
    /// What came so far, in the whole life.
    seen: HashSet<(Name, EventId)>,
    pub(super) cursor: EventId,
    begun: bool,
    /// When the connection was opened, and when that was asked for.
    opened: Millis,
    pub(super) sent: Millis,
    /// Where it began.
    pub(super) begins: EventId,
    live: bool,
    pub(super) beliefs: BTreeMap<Name, Belief>,
    reset: Option<Millis>,
    /// When it was told on this connection that something of a topic was lost.
    pub(super) losses: BTreeMap<Name, Millis>,
    /// Lost entries that came on this connection, or that it passed over: whoever stays has to be told.
    pub(super) owed: Vec<Owed>,
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
            sent: 0,
            begins: EventId::ZERO,
            live: false,
            beliefs: BTreeMap::new(),
            reset: None,
            losses: BTreeMap::new(),
            owed: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn hears(&mut self, line: &Line) -> Result<(), Complaint> {
        match &line.told {
            Told::Opened {
                sent,
                asked,
                topics,
                replay,
                id,
                ..
            } => {
                self.sent = *sent;
                self.opens(line.at, *asked, topics, replay, *id)
            }
            Told::Event {
                topic,
                id,
                kind,
                data,
            } => self.receives(line.at, topic, *id, kind, data),
            Told::Gap(gap) => self.is_told(line.at, gap, false),
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
    pub(super) fn next_of(&self, topic: &Name) -> Option<EventId> {
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
        self.live = asked == Asked::Now;
        self.owed.clear();
        self.losses.clear();
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
        self.begins = self.cursor;
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
                self.is_in_no_lost_range(&[])?;
            }
            Replay::Gap(gap) if resumes => {
                self.is_told(at, gap, true)?;
                match gap.reason {
                    Reason::Reset => return self.moves(at, id, None),
                    // Nobody knows the cursor any more: it begins anew, and has been told so.
                    Reason::Unknown => {
                        self.begins_anew(id);
                        return Ok(());
                    }
                    Reason::Lost => self.is_in_no_lost_range(&gap.topics)?,
                    Reason::Retention => {}
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
        if let Some((Taking::Lost(_), since)) = known.and_then(|known| known.taken) {
            let topic = topic.clone();
            self.owed.push(Owed {
                topic,
                id,
                since,
                came: true,
            });
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
                return complain(
                    Mistake::UntoldReset,
                    format!("from {} to {to} over the birth {}", self.cursor, birth.id),
                );
            }
        }
        let after = self.cursor;
        self.cursor = to;
        let behind = self.beliefs.iter();
        let behind: Vec<Name> = behind
            .filter(|(_, belief)| belief.next.is_some_and(|next| next <= to))
            .map(|(topic, _)| topic.clone())
            .collect();
        let mut owed = Vec::new();
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
                if let Some(failover) = entry.lost() {
                    // Whoever began below it, and has seen nothing of it, has nothing that could tell; nor has its replica, perhaps.
                    let before = self.log.lost(&topic, failover).map(|(before, _)| before);
                    if before.is_some_and(|before| before < self.begins) && self.begins < *id {
                        owed.push(Owed {
                            topic: topic.clone(),
                            id: *id,
                            since: taken,
                            came: false,
                        });
                    }
                    continue;
                }
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
        self.owed.extend(owed);
        Ok(())
    }

    fn is_told(&mut self, at: Millis, gap: &Gap, verdict: bool) -> Result<(), Complaint> {
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
                if !self.is_reborn(at) {
                    return wrong("nothing was born");
                }
                if gap.topics.len() != self.beliefs.len() {
                    return wrong("a reset is for all topics");
                }
            }
            Reason::Lost => {
                self.tally.losses += 1;
                for topic in &gap.topics {
                    if !self.is_concerned(topic, at, verdict) {
                        return wrong(&format!("it lost nothing of {topic}"));
                    }
                    self.losses.insert(topic.clone(), at);
                }
            }
            Reason::Unknown => {
                if !verdict || !self.is_ahead(at) {
                    return wrong("its cursor is known");
                }
                if gap.topics.len() != self.beliefs.len() {
                    return wrong("whose cursor is unknown misses something of all topics");
                }
                let topics = gap.topics.iter().cloned();
                self.losses.extend(topics.map(|topic| (topic, at)));
            }
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
        self.is_owed_nothing()?;
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
