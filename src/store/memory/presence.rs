//! Who follows which topic, in this process.
//!
//! # Invariants
//! 1. A replica is named by a place exactly if it has said so itself: `places` and `said` tell the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::log::{Log, Now};
use crate::{
    event::{EventType, Topic},
    store::{
        Append,
        presence::{
            CHANGES, Heard, LISTED, Mark, Presence, Present, Standing, Turn, Whereabouts, Word,
        },
    },
};

/// Users, and the replicas that have them.
type Users = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

#[derive(Debug)]
pub(super) struct Table {
    name: Arc<str>,
    /// Which users are at a topic, by which replicas.
    places: HashMap<Option<Topic>, Users>,
    said: BTreeMap<Arc<str>, BTreeSet<Whereabouts>>,
    /// When the word of a replica ends, and how many it has said.
    leases: BTreeMap<Arc<str>, (u64, u64)>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            name: format!("{:016x}", rand::random::<u64>()).into(),
            places: HashMap::new(),
            said: BTreeMap::new(),
            leases: BTreeMap::new(),
        }
    }

    fn list(&self, topic: Option<&Topic>) -> Present {
        let users = self.places.get(&topic.cloned());
        Present {
            users: users.map_or_else(Vec::new, |it| it.keys().take(LISTED).cloned().collect()),
            total: users.map_or(0, |it| it.len() as u64),
        }
    }
}

impl Log {
    pub(super) fn hear(&mut self, word: &Word, now: Now) -> Heard {
        let table = &mut self.presence;
        let lease = table.leases.get(&word.replica).copied();
        let alive = lease.filter(|(ends, _)| *ends > now.0);
        let number = lease.map_or(0, |(_, number)| number);
        let standing = match &word.after {
            Some(mark) if mark.table != table.name => Standing::Lost,
            None => Standing::Lost,
            Some(mark) if alive.is_none() || mark.number != number => Standing::Doubtful,
            Some(_) => Standing::Kept,
        };
        let ends = u64::try_from(word.lease.as_millis()).unwrap_or(u64::MAX);
        let number = number + u64::from(!word.changes.is_empty());
        table
            .leases
            .insert(word.replica.clone(), (now.0.saturating_add(ends), number));
        let mark = Mark {
            table: table.name.clone(),
            number,
        };
        let mut living = table.leases.iter().filter(|(_, (ends, _))| *ends > now.0);
        let first = living.next().map(|(replica, _)| replica.clone());
        let over = table.leases.iter().filter(|(_, (ends, _))| *ends <= now.0);
        let over = over.map(|(replica, _)| replica.clone()).collect();
        let mut events = [0; 2];
        for (turn, whereabouts) in &word.changes {
            self.turn(&word.replica, *turn, whereabouts, now, &mut events);
        }
        Heard {
            mark,
            standing,
            events,
            over: if first == Some(word.replica.clone()) {
                over
            } else {
                Vec::new()
            },
        }
    }

    fn turn(
        &mut self,
        replica: &Arc<str>,
        turn: Turn,
        whereabouts: &Whereabouts,
        now: Now,
        events: &mut [u64; 2],
    ) {
        let Whereabouts { topic, user } = whereabouts;
        let table = &mut self.presence;
        let users = table.places.entry(topic.clone()).or_default();
        let changed = if turn == Turn::Goes {
            if let Some(said) = table.said.get_mut(replica) {
                said.remove(whereabouts);
            }
            let here = users.get_mut(user);
            let last = here.is_some_and(|here| here.remove(replica) && here.is_empty());
            if last {
                users.remove(user);
            }
            last
        } else {
            let said = table.said.entry(replica.clone()).or_default();
            said.insert(whereabouts.clone());
            let here = users.entry(user.clone()).or_default();
            let first = here.is_empty();
            here.insert(replica.clone());
            first && turn == Turn::Comes
        };
        if users.is_empty() {
            table.places.remove(topic);
        }
        let (true, Some(topic)) = (changed, topic) else {
            return;
        };
        let (kind, which) = match turn {
            Turn::Goes => ("leave", 1),
            Turn::Comes | Turn::Stays => ("join", 0),
        };
        let kind: EventType = kind.parse().expect("a type");
        let told = self.append(
            Append {
                topic: topic.presence(),
                kind,
                data: Some(serde_json::json!({ "user": user }).to_string().into()),
                end: false,
                key: None,
            },
            now,
        );
        events[which] += u64::from(told.is_ok());
    }

    /// Takes some of what a replica said, if its lease is over. False: there is no more of it, or it lives.
    pub(super) fn sweep(&mut self, replica: &Arc<str>, now: Now, events: &mut [u64; 2]) -> bool {
        let lease = self.presence.leases.get(replica);
        if lease.is_some_and(|(ends, _)| *ends > now.0) {
            return false;
        }
        let said = self.presence.said.get(replica);
        let some: Vec<Whereabouts> = said.map_or_else(Vec::new, |said| {
            said.iter().take(CHANGES).cloned().collect()
        });
        for whereabouts in &some {
            self.turn(replica, Turn::Goes, whereabouts, now, events);
        }
        let table = &mut self.presence;
        let left = table.said.get(replica).is_some_and(|said| !said.is_empty());
        if !left {
            table.said.remove(replica);
            table.leases.remove(replica);
        }
        left
    }

    pub(super) fn said(&self, replica: &str) -> Vec<Whereabouts> {
        let said = self.presence.said.get(replica);
        said.map_or_else(Vec::new, |said| said.iter().cloned().collect())
    }

    pub(super) fn present(&self, places: &[Option<Topic>]) -> Presence {
        Presence {
            places: places
                .iter()
                .map(|it| self.presence.list(it.as_ref()))
                .collect(),
            last: self.last,
        }
    }
}
