//! What failovers lost, in the life of one client: who has to be told, who may be, and who may not.

use std::ops::Bound::{Excluded, Included};

use tidegate::event::EventId;

use super::{Complaint, Millis, Mistake, Name, complain, life::Client};

/// An entry that was lost, as one connection knows it.
#[derive(Clone, Debug)]
pub(super) struct Owed {
    pub(super) topic: Name,
    pub(super) id: EventId,
    /// When it was lost.
    pub(super) since: Millis,
    /// It came: so the replica had it, and can witness the loss.
    pub(super) came: bool,
}

impl Client<'_> {
    /// Whether it was told, on this connection and since it was lost, that something of that topic is missing.
    pub(super) fn told_of(&self, owed: &Owed) -> bool {
        let told = self.losses.get(&owed.topic);
        told.is_some_and(|told| *told >= owed.since)
    }

    /// It goes on somewhere else, and knows nothing of what lies between.
    pub(super) fn begins_anew(&mut self, at: EventId) {
        self.cursor = at;
        self.begins = at;
        let topics: Vec<Name> = self.beliefs.keys().cloned().collect();
        for topic in topics {
            let next = self.next_of(&topic);
            if let Some(belief) = self.beliefs.get_mut(&topic) {
                belief.next = next;
            }
        }
    }

    /// Whoever asked when everybody knew what was lost, with a cursor in such a range, is told so; `told` are the topics of
    /// which it was. At the beginning of the range one may see it so or so.
    pub(super) fn is_in_no_lost_range(&self, told: &[Name]) -> Result<(), Complaint> {
        for topic in self.beliefs.keys().filter(|topic| !told.contains(topic)) {
            for &(after, through) in self.log.recorded.get(topic).into_iter().flatten() {
                let entries = &self.log.topics[topic];
                let mut inside = entries.range((Excluded(after), Included(through)));
                // Where nothing was kept of a topic, the range holds what an earlier failover lost, too.
                let entry = inside.next_back();
                let failover = entry.and_then(|(_, entry)| entry.lost());
                let known = failover.is_some_and(|it| self.log.failovers[it].over <= self.sent);
                if known && after < self.cursor && self.cursor < through {
                    return complain(
                        Mistake::Untold,
                        format!(
                            "it came back with {} to {topic}, where {after}..{through} is recorded as lost",
                            self.cursor
                        ),
                    );
                }
            }
        }
        Ok(())
    }

    /// Whether something that a failover lost concerns this connection: it was open then, or began below what was lost; and
    /// it stands above the last entry that was kept. A verdict is for a cursor within the range alone.
    pub(super) fn is_concerned(&self, topic: &Name, at: Millis, verdict: bool) -> bool {
        self.log.failovers.iter().enumerate().any(|(number, it)| {
            let Some((before, last)) = self.log.lost(topic, number) else {
                return false;
            };
            let concerned = if verdict {
                before <= self.cursor && self.cursor < last
            } else {
                before <= self.cursor && (self.sent < it.over || self.begins < last)
            };
            it.since <= at && concerned
        })
    }

    /// Whether nobody may know the cursor: what it stands for was lost, and nothing newer was stored yet.
    pub(super) fn is_ahead(&self, at: Millis) -> bool {
        let mut failovers = self.log.failovers.iter();
        failovers.any(|it| it.since <= at && self.sent < it.over && it.last < self.cursor)
    }

    /// Whoever stays to the end has been told of what it got, or passed over, and was lost; and what a replica had is recorded.
    pub(super) fn is_owed_nothing(&self) -> Result<(), Complaint> {
        for owed in self.owed.iter().filter(|owed| owed.came) {
            if !self.log.is_recorded(&owed.topic, owed.id) {
                return complain(
                    Mistake::Unrecorded,
                    format!("{owed:?}: the replica had it, and its loss is not recorded"),
                );
            }
        }
        for owed in self.owed.iter().filter(|owed| !self.told_of(owed)) {
            if owed.came || self.log.is_recorded(&owed.topic, owed.id) {
                return complain(
                    Mistake::Untold,
                    format!(
                        "{owed:?}: it was lost while the stream was open, and that was not told"
                    ),
                );
            }
        }
        Ok(())
    }
}
