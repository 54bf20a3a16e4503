//! Who came and went, as the log tells it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Complaint, Mistake, Name, complain};

/// Somebody came, or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::chaos) struct Change {
    pub(in crate::chaos) comes: bool,
    pub(in crate::chaos) user: String,
}

/// Each user comes, goes, comes: never twice the same. Who came last is there, and nobody else.
pub(in crate::chaos) fn judge_presence(
    changes: &BTreeMap<Name, Vec<Change>>,
    there: &BTreeMap<Name, BTreeSet<String>>,
) -> Result<usize, Complaint> {
    let none = BTreeSet::new();
    for (room, changes) in changes {
        let mut now = BTreeSet::new();
        for (at, change) in changes.iter().enumerate() {
            let Change { comes, user } = change;
            let alternates = if *comes {
                now.insert(user.clone())
            } else {
                now.remove(user)
            };
            if !alternates {
                let before = &changes[..at];
                return complain(
                    Mistake::Presence,
                    format!("{change:?} in {room} after {before:?}"),
                );
            }
        }
        let there = there.get(room).unwrap_or(&none);
        if now != *there {
            return complain(
                Mistake::Presence,
                format!("{now:?} are in {room} by the log, there are {there:?}"),
            );
        }
    }
    if let Some((room, _)) = there.iter().find(|(room, _)| !changes.contains_key(*room)) {
        return complain(Mistake::Presence, format!("nobody ever came to {room}"));
    }
    Ok(changes.values().map(Vec::len).sum())
}

mod tests {
    use std::collections::BTreeMap;

    use super::{Change, judge_presence};

    /// `+a` comes, `-a` goes; `there` are in the room in the end.
    fn judged(changes: &[&str], there: &[&str]) -> bool {
        let changes = changes.iter().map(|text| Change {
            comes: text.starts_with('+'),
            user: text[1..].to_owned(),
        });
        let there = there.iter().map(|user| (*user).to_owned()).collect();
        let changes = BTreeMap::from([("room".into(), changes.collect())]);
        judge_presence(&changes, &BTreeMap::from([("room".into(), there)])).is_ok()
    }

    #[test]
    fn who_comes_twice_or_goes_twice_or_is_there_and_is_not_is_found() {
        assert!(judged(&["+a", "+b", "-a", "+a", "-b"], &["a"]));
        assert!(judged(&[], &[]));
        assert!(!judged(&["+a", "+a"], &["a"]));
        assert!(!judged(&["+a", "-a", "-a"], &[]));
        assert!(!judged(&["-a"], &[]));
        assert!(!judged(&["+a"], &[]));
        assert!(!judged(&["+a", "-a"], &["a"]));
        assert!(!judged(&["+a"], &["a", "b"]));
    }
}
