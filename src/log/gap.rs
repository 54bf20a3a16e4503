//! What a client is told about its resume: complete, or what is missing and why.

use crate::event::{EventId, Topic};

/// Why events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GapReason {
    /// Retention took them.
    Retention,
    /// A failover of the store lost them.
    Lost,
    /// The store was born after the cursor: its log was lost.
    Reset,
    /// The cursor could not be read, or lies in the future: nothing can be said.
    Unknown,
}

impl GapReason {
    /// As it stands in streams, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Lost => "lost",
            Self::Reset => "reset",
            Self::Unknown => "unknown",
        }
    }
}

/// Events that a client will not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// Of which topics.
    pub topics: Vec<Topic>,
    /// How many at the least, where that is known.
    pub missed_at_least: Option<u64>,
}

/// The verdict of a connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Nothing was asked that could be incomplete.
    None,
    /// Every event after the cursor follows.
    Complete,
    /// Some events after the cursor are gone.
    Gap(Gap),
}

impl Replay {
    /// As it stands in `$open`, in `Tidegate-Replay` and in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Complete => "complete",
            Self::Gap(_) => "gap",
        }
    }
}

/// Entries after `after`, up to and with `through`, that a failover lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// The last entry before the range.
    pub after: EventId,
    /// The last entry that is known to have been lost.
    pub through: EventId,
}

impl LostRange {
    /// Whether whoever comes with this cursor may have missed what was lost.
    pub fn holds(&self, cursor: EventId) -> bool {
        self.after <= cursor && cursor < self.through
    }
}

/// What is known of one topic when a cursor is judged.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// The predecessor of the first entry after the cursor that is still there.
    pub first_previous: Option<EventId>,
    /// The topic's last id, as long as it is remembered; it outlives the entries.
    pub last: Option<EventId>,
    /// Last ids up to this one may have been forgotten.
    pub horizon: EventId,
    /// What failovers lost.
    pub lost: Vec<LostRange>,
}

impl Proof {
    /// Why entries after `cursor` are missing, if they are.
    pub fn missing(&self, cursor: EventId) -> Option<GapReason> {
        if self.lost.iter().any(|range| range.holds(cursor)) {
            return Some(GapReason::Lost);
        }
        (self.gone() > cursor).then_some(GapReason::Retention)
    }

    /// Up to which id entries may be gone: what comes after it is there.
    pub fn gone(&self) -> EventId {
        self.first_previous.or(self.last).unwrap_or(self.horizon)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(ms: u64) -> EventId {
        EventId::new(ms, 0)
    }

    #[test]
    fn a_topic_without_entries_is_judged_by_its_last_id_or_the_horizon() {
        let quiet = Proof {
            last: Some(id(5)),
            horizon: id(9),
            ..Proof::default()
        };
        assert_eq!(quiet.missing(id(5)), None);
        assert_eq!(quiet.missing(id(4)), Some(GapReason::Retention));
        let forgotten = Proof {
            horizon: id(9),
            ..Proof::default()
        };
        assert_eq!(forgotten.missing(id(9)), None);
        assert_eq!(forgotten.missing(id(8)), Some(GapReason::Retention));
    }

    #[test]
    fn a_cursor_in_a_lost_range_is_told_so() {
        let lost = vec![LostRange {
            after: id(5),
            through: id(8),
        }];
        let proof = Proof {
            first_previous: Some(id(5)),
            last: Some(id(12)),
            lost,
            ..Proof::default()
        };
        assert_eq!(proof.missing(id(7)), Some(GapReason::Lost));
        assert_eq!(proof.missing(id(5)), Some(GapReason::Lost));
        assert_eq!(proof.missing(id(8)), None);
    }

    proptest! {
        /// Against the model: all ids ever, of which retention keeps a suffix.
        #[test]
        fn missing_is_said_exactly_when_something_is_missing(
            mut ids in proptest::collection::btree_set(1_u64..60, 0..20).prop_map(|set| set.into_iter().collect::<Vec<_>>()),
            keep in 0_usize..20,
            cursor in 0_u64..70,
        ) {
            ids.sort_unstable();
            let kept = &ids[ids.len().saturating_sub(keep)..];
            let first = kept.iter().position(|&ms| ms > cursor).map(|at| kept[at]);
            let proof = Proof {
                first_previous: first.map(|first| ids.iter().rev().find(|&&ms| ms < first).map_or(EventId::ZERO, |&ms| id(ms))),
                last: ids.last().map(|&ms| id(ms)),
                horizon: EventId::ZERO,
                lost: Vec::new(),
            };
            let wanted = ids.iter().filter(|&&ms| ms > cursor).count();
            let got = kept.iter().filter(|&&ms| ms > cursor).count();
            prop_assert_eq!(proof.missing(id(cursor)).is_some(), wanted != got);
        }
    }
}
