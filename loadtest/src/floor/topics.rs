//! What the floor knows of a topic: who follows it, and, where it keeps them, its frames.

use std::collections::HashMap;

use super::frame::Id;

/// All topics, by the number that stands for their name.
#[derive(Default)]
pub(super) struct Topics {
    by_name: HashMap<Vec<u8>, usize>,
    pub(super) all: Vec<Topic>,
}

/// One topic.
#[derive(Default)]
pub(super) struct Topic {
    /// The connections of its subscribers.
    pub(super) members: Vec<usize>,
    /// Its kept frames, one behind the other.
    pub(super) kept: Vec<u8>,
    /// The id and the end of each kept frame.
    ends: Vec<(Id, usize)>,
}

impl Topics {
    /// The topic with this name, which begins with the first who names it.
    pub(super) fn find(&mut self, name: &[u8]) -> usize {
        if let Some(&topic) = self.by_name.get(name) {
            return topic;
        }
        self.all.push(Topic::default());
        self.by_name.insert(name.to_vec(), self.all.len() - 1);
        self.all.len() - 1
    }
}

impl Topic {
    /// Keeps a frame, to replay it.
    pub(super) fn keep(&mut self, id: Id, frame: &[u8]) {
        self.kept.extend_from_slice(frame);
        self.ends.push((id, self.kept.len()));
    }

    /// The first kept byte after the event with this id.
    pub(super) fn offset_after(&self, id: Id) -> usize {
        let before = self.ends.partition_point(|(kept, _)| *kept <= id);
        before.checked_sub(1).map_or(0, |last| self.ends[last].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_begins_behind_the_cursor() {
        let mut topic = Topic::default();
        topic.keep((1, 0), b"one");
        topic.keep((1, 1), b"two");
        let offsets = [(0, 0), (1, 0), (1, 1), (9, 0)].map(|id| topic.offset_after(id));
        assert_eq!(offsets, [0, 3, 6, 6]);
    }
}
