//! What all guides have said, and what follows from it.
//!
//! Guides may be cut off, and a stale one names a server that must not be written to. So not the first answer counts but the
//! newest, by the epoch that sentinels and clusters number their decisions with. Nothing here waits or connects: time comes in
//! as an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::url::Address;

/// How long the word of a guide counts that has fallen silent.
const COUNTS: Duration = Duration::from_secs(10);
/// How long the first word waits for those of the others.
const OTHERS: Duration = Duration::from_millis(200);
/// How long a server counts that another one has named, against what guides say: they may not know yet.
const NAMED: Duration = Duration::from_secs(2);
/// The same for a server that says itself that it was promoted: sentinels see that within a second or so.
const PROMOTED: Duration = Duration::from_secs(5);
/// How soon after one server another one may be named.
const AGAIN: Duration = Duration::from_millis(100);

/// Guides that are asked at a time.
const GUIDES: usize = 16;
/// The same in a cluster, whose nodes have more to do than to be asked, and more to say.
const NODES: usize = 6;

/// What a guide says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// The server that takes writes; none: it knows of none.
    pub(super) master: Option<Address>,
    /// The number of the decision that made it the master; 0: not known.
    pub(super) epoch: u64,
    /// Others that can be asked, those that will know first before the rest.
    pub(super) guides: Vec<Address>,
    /// All masters of a cluster.
    pub(super) masters: Vec<Address>,
}

/// Which guides are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Those of the settings, and the others.
    All,
    /// Those that will know first, and some more.
    First,
}

/// What all guides have said.
#[derive(Debug)]
pub(super) struct Council {
    configured: Vec<Address>,
    asked: Asked,
    said: BTreeMap<Address, Said>,
    /// A server that counts whatever guides say, unless they have a newer word.
    pinned: Option<Pinned>,
    /// The replica that a sentinel is making the master.
    promoting: Option<(Address, Instant)>,
    /// When the first word came since none counted.
    first: Option<Instant>,
    /// Since when those that count have named more than one server.
    differ: Option<Instant>,
}

#[derive(Debug)]
struct Pinned {
    to: Address,
    since: Instant,
    until: Instant,
    /// The newest that was known before.
    epoch: u64,
}

#[derive(Debug, Default)]
struct Said {
    word: Option<(Word, Instant)>,
    /// Why it says nothing now, and since when.
    silent: Option<(String, Instant)>,
}

impl Council {
    pub(super) fn new(configured: Vec<Address>, asked: Asked) -> Self {
        Self {
            configured,
            asked,
            said: BTreeMap::new(),
            pinned: None,
            promoting: None,
            first: None,
            differ: None,
        }
    }

    /// What a guide says now, or why it says nothing.
    pub(super) fn heard(&mut self, guide: &Address, word: Result<Word, String>, now: Instant) {
        let said = self.said.entry(guide.clone()).or_default();
        match word {
            Ok(word) => {
                said.word = Some((word, now));
                said.silent = None;
            }
            Err(why) => {
                let since = said.silent.take().map_or(now, |(_, since)| since);
                said.silent = Some((why, since));
            }
        }
    }

    /// A server says that another one has the keys.
    pub(super) fn named(&mut self, to: Address, now: Instant) {
        let just_now = |pinned: &Pinned| now.duration_since(pinned.since) < AGAIN;
        // Two servers that name each other would be asked in turn, as fast as they answer.
        if !self.pinned.as_ref().is_some_and(just_now) {
            self.pin(to, now, now + NAMED);
        }
    }

    /// This is newer than everything that was said so far.
    fn pin(&mut self, to: Address, since: Instant, until: Instant) {
        let said = self.said.values_mut().filter_map(|it| it.word.take());
        let epoch = said.map(|(word, _)| word.epoch).max().unwrap_or(0);
        self.pinned = Some(Pinned {
            to,
            since,
            until,
            epoch,
        });
    }

    /// A sentinel is about to make this replica the master. False: one is being made it already.
    pub(super) fn promote(&mut self, replica: Address, now: Instant) -> bool {
        let first = self.promoting.is_none();
        if first {
            self.promoting = Some((replica, now));
        }
        first
    }

    /// The replica says itself that it is the master, or has not said so in time.
    pub(super) fn promoted(&mut self, done: bool, now: Instant) {
        if let Some((replica, _)) = self.promoting.take()
            && done
        {
            self.pin(replica, now, now + PROMOTED);
        }
    }

    /// The replica that is being made the master.
    pub(super) fn promoting(&self) -> Option<&Address> {
        self.promoting.as_ref().map(|(replica, _)| replica)
    }

    /// Where the server is. The newest decision counts; where it has no number, what most of them say; where that leaves it
    /// open, nothing changes.
    pub(super) fn decide(&mut self, current: Option<&Address>, now: Instant) -> Option<Address> {
        let words = self.said.values().filter_map(|it| it.word.as_ref());
        if let Some((replica, since)) = &self.promoting {
            // The only news can be that it is done.
            let mut after = words.filter(|(_, at)| at > since);
            let done = after.any(|(word, _)| word.master.as_ref() == Some(replica));
            return done.then(|| replica.clone());
        }
        if let Some(Pinned {
            to, until, epoch, ..
        }) = &self.pinned
        {
            let mut newer = words.clone().filter(|(word, _)| word.epoch > *epoch);
            if now < *until && newer.next().is_none() {
                return Some(to.clone());
            }
            self.pinned = None;
        }
        let mut votes: BTreeMap<(u64, &Address), usize> = BTreeMap::new();
        for (word, at) in words {
            if let Some(master) = &word.master
                && now.duration_since(*at) < COUNTS
            {
                *votes.entry((word.epoch, master)).or_default() += 1;
            }
        }
        let Some(&(newest, _)) = votes.keys().next_back() else {
            self.first = None;
            self.differ = None;
            return None;
        };
        let named: BTreeSet<&Address> = votes.keys().map(|(_, master)| *master).collect();
        self.differ = (named.len() > 1).then(|| self.differ.unwrap_or(now));
        let best = votes
            .iter()
            .filter(|((epoch, _), _)| *epoch == newest)
            .max_by_key(|((_, master), votes)| (**votes, Some(*master) == current, *master));
        let best = best.map(|((_, master), _)| (*master).clone());
        // A stale guide may be the first to answer.
        let first = *self.first.get_or_insert(now);
        let wait = current.is_none() && now.duration_since(first) < OTHERS;
        best.filter(|_| {
            !wait
                || self
                    .configured
                    .iter()
                    .all(|guide| self.said.contains_key(guide))
        })
    }

    /// Who is to be asked now.
    pub(super) fn wanted(&mut self, now: Instant) -> Vec<Address> {
        let words = self.said.values().filter_map(|it| it.word.as_ref());
        let mut newest: Vec<&(Word, Instant)> = words
            .filter(|(_, at)| now.duration_since(*at) < COUNTS)
            .collect();
        newest.sort_by_key(|(word, at)| std::cmp::Reverse((word.epoch, *at)));
        let learnt = newest.iter().flat_map(|(word, _)| &word.guides);
        let all: Vec<&Address> = match self.asked {
            Asked::First => learnt.chain(&self.configured).collect(),
            Asked::All => self.configured.iter().chain(learnt).collect(),
        };
        let limit = match self.asked {
            Asked::First if !newest.is_empty() => NODES,
            // Nobody answers: everybody is tried.
            _ => GUIDES.max(self.configured.len()),
        };
        let mut wanted: Vec<Address> = Vec::new();
        for guide in all {
            if wanted.len() < limit && !wanted.contains(guide) {
                wanted.push(guide.clone());
            }
        }
        self.said.retain(|guide, _| wanted.contains(guide));
        wanted
    }

    /// What each guide of the settings says, of which none says where the server is.
    pub(super) fn why(&self) -> String {
        let why = |guide: &Address| {
            let silent = self.said.get(guide).and_then(|it| it.silent.as_ref());
            let why = silent.map_or("no answer yet", |(why, _)| why);
            format!("{guide}: {why}")
        };
        let all: Vec<String> = self.configured.iter().map(why).collect();
        all.join("; ")
    }

    /// What an operator should mend.
    pub(super) fn warnings(&self, now: Instant) -> Vec<String> {
        let long = |since: Instant| now.duration_since(since) >= COUNTS;
        let mut warnings = Vec::new();
        for guide in &self.configured {
            let silent = self.said.get(guide).and_then(|it| it.silent.as_ref());
            if let Some((why, _)) = silent.filter(|(_, since)| long(*since)) {
                warnings.push(format!("sentinel {guide} is of no use: {why}"));
            }
        }
        if self.differ.is_some_and(long) {
            warnings.push(
                "the sentinels name different servers as the master, the newest decision is followed: compare what SENTINEL MASTER says on each of them".to_owned(),
            );
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(port: u16) -> Address {
        Address::new("redis.internal", port.into()).expect("an address")
    }

    /// Sentinels 1 to 3.
    struct Three {
        council: Council,
        now: Instant,
        current: Option<Address>,
    }

    impl Three {
        fn new() -> Self {
            Self {
                council: Council::new(vec![at(1), at(2), at(3)], Asked::All),
                now: Instant::now(),
                current: None,
            }
        }

        fn passes(&mut self, time: Duration) {
            self.now += time;
        }

        fn says(&mut self, guide: u16, epoch: u64, master: u16) -> Option<u16> {
            let word = Word {
                master: Some(at(master)),
                epoch,
                ..Word::default()
            };
            self.council.heard(&at(guide), Ok(word), self.now);
            self.decided()
        }

        fn falls_silent(&mut self, guide: u16) -> Option<u16> {
            self.council
                .heard(&at(guide), Err("refused".into()), self.now);
            self.decided()
        }

        fn decided(&mut self) -> Option<u16> {
            self.current = self.council.decide(self.current.as_ref(), self.now);
            self.current.as_ref().map(Address::port)
        }
    }

    /// Their words would otherwise send everybody to and fro as fast as they answer.
    #[test]
    fn two_servers_that_name_each_other_are_not_gone_to_in_turn() {
        let mut three = Three::new();
        three.says(1, 5, 7000);
        three.council.named(at(7001), three.now);
        assert_eq!(three.decided(), Some(7001));
        three.passes(Duration::from_millis(50));
        three.council.named(at(7000), three.now);
        assert_eq!(three.decided(), Some(7001));
        three.passes(AGAIN);
        three.council.named(at(7000), three.now);
        assert_eq!(three.decided(), Some(7000));
    }

    #[test]
    fn the_first_word_waits_a_moment_for_those_of_the_others() {
        let mut three = Three::new();
        assert_eq!(three.says(1, 4, 71), None, "it may be a stale one");
        three.passes(OTHERS / 2);
        assert_eq!(three.says(2, 5, 72), None);
        assert_eq!(three.falls_silent(3), Some(72), "all were heard");

        let mut three = Three::new();
        assert_eq!(three.says(1, 4, 71), None);
        three.passes(OTHERS);
        assert_eq!(three.says(1, 4, 71), Some(71), "others take too long");
        assert_eq!(three.says(2, 5, 72), Some(72));
    }

    #[test]
    fn a_stale_sentinel_leads_nobody_astray() {
        let mut three = Three::new();
        for guide in [1, 2, 3] {
            three.says(guide, 5, 71);
        }
        // One leads a failover, the others hear of it later, the third never does.
        assert_eq!(three.says(1, 6, 72), Some(72));
        assert_eq!(three.says(2, 5, 71), Some(72));
        assert_eq!(three.says(2, 6, 72), Some(72));
        // Nor when the first one is gone for long.
        for _ in 0..20 {
            three.passes(Duration::from_secs(1));
            assert_eq!(three.says(3, 5, 71), Some(72));
            assert_eq!(three.says(2, 6, 72), Some(72));
        }
        let warnings = three.council.warnings(three.now);
        assert!(warnings[0].contains("different servers"), "{warnings:?}");
    }

    #[test]
    fn without_numbers_the_majority_counts_and_a_draw_changes_nothing() {
        let mut three = Three::new();
        for guide in [1, 2, 3] {
            three.says(guide, 0, 71);
        }
        assert_eq!(three.says(1, 0, 72), Some(71));
        three.passes(COUNTS / 2);
        three.says(1, 0, 72);
        three.says(2, 0, 71);
        three.passes(COUNTS / 2);
        assert_eq!(three.decided(), Some(71), "one against one");
        assert_eq!(three.says(3, 0, 72), Some(72));
        assert_eq!(three.says(2, 0, 71), Some(72));
    }

    #[test]
    fn silence_is_told_in_the_end_and_changes_nothing_before() {
        let mut three = Three::new();
        for guide in [1, 2, 3] {
            three.says(guide, 1, 71);
        }
        for guide in [1, 2, 3] {
            assert_eq!(three.falls_silent(guide), Some(71));
        }
        assert!(three.council.warnings(three.now).is_empty());
        three.passes(COUNTS);
        assert_eq!(three.falls_silent(1), None);
        assert_eq!(three.council.warnings(three.now).len(), 3);
        let why = three.council.why();
        assert!(
            why.starts_with("redis.internal:1: refused; redis.internal:2: "),
            "{why}"
        );
        assert_eq!(three.says(2, 1, 71), Some(71), "the others say nothing");
    }

    #[test]
    fn a_server_that_another_one_names_counts_until_the_guides_must_know() {
        let mut three = Three::new();
        for guide in [1, 2, 3] {
            three.says(guide, 3, 71);
        }
        three.council.named(at(72), three.now);
        assert_eq!(three.decided(), Some(72));
        assert_eq!(three.says(1, 3, 71), Some(72));
        three.passes(NAMED);
        assert_eq!(three.decided(), Some(71), "it was wrong");

        three.council.named(at(72), three.now);
        assert_eq!(three.says(1, 3, 71), Some(72));
        assert_eq!(three.says(2, 4, 73), Some(73), "a newer decision");
    }

    #[test]
    fn while_a_replica_is_made_the_master_there_is_none() {
        let mut three = Three::new();
        for guide in [1, 2, 3] {
            three.says(guide, 3, 71);
        }
        assert!(three.council.promote(at(72), three.now));
        assert!(!three.council.promote(at(73), three.now), "one at a time");
        three.passes(Duration::from_millis(1));
        assert_eq!(three.says(2, 3, 71), None);
        assert_eq!(three.says(1, 4, 72), Some(72), "its sentinel has seen it");
        three.council.promoted(true, three.now);
        assert_eq!(three.says(2, 3, 71), Some(72));

        assert!(three.council.promote(at(73), three.now));
        assert_eq!(three.decided(), None);
        three.passes(NAMED);
        three.says(1, 4, 72);
        three.council.promoted(false, three.now);
        assert_eq!(three.decided(), Some(72), "nothing has come of it");
    }

    #[test]
    fn all_sentinels_are_asked_and_the_nodes_of_a_cluster_that_will_know_first() {
        let now = Instant::now();
        let word = |guides: std::ops::Range<u16>| Word {
            master: Some(at(71)),
            guides: guides.map(at).collect(),
            ..Word::default()
        };
        let mut sentinels = Council::new(vec![at(1), at(2)], Asked::All);
        assert_eq!(sentinels.wanted(now), [at(1), at(2)]);
        sentinels.heard(&at(2), Ok(word(1..6)), now);
        assert_eq!(sentinels.wanted(now), [at(1), at(2), at(3), at(4), at(5)]);
        sentinels.heard(&at(2), Ok(word(1..1000)), now);
        assert_eq!(sentinels.wanted(now).len(), GUIDES);

        let many: Vec<Address> = (1..=20).map(at).collect();
        let mut nodes = Council::new(many.clone(), Asked::First);
        assert_eq!(nodes.wanted(now), many);
        nodes.heard(&at(3), Ok(word(30..33)), now);
        let few = [at(30), at(31), at(32), at(1), at(2), at(3)];
        assert_eq!(nodes.wanted(now), few);
        assert_eq!(nodes.wanted(now + COUNTS), many, "nobody answers any more");
    }

    proptest! {
        /// Whatever happens: what counts was said by somebody, and nobody with a newer word is passed over.
        #[test]
        fn the_newest_word_that_counts_is_followed(
            steps in prop::collection::vec((1..4_u16, 0..4_u64, 71..74_u16, 0..4_000_u64, any::<bool>()), 1..40)
        ) {
            let mut three = Three::new();
            let mut said: BTreeMap<u16, (u64, u16, Instant)> = BTreeMap::new();
            for (guide, epoch, master, ms, silent) in steps {
                three.passes(Duration::from_millis(ms));
                let decided = if silent {
                    three.falls_silent(guide)
                } else {
                    said.insert(guide, (epoch, master, three.now));
                    three.says(guide, epoch, master)
                };
                let counts: Vec<_> = said
                    .values()
                    .filter(|(.., at)| three.now.duration_since(*at) < COUNTS)
                    .collect();
                let newest = counts.iter().map(|(epoch, ..)| *epoch).max();
                match decided {
                    Some(port) => prop_assert!(
                        counts.iter().any(|(epoch, master, _)| *master == port && Some(*epoch) == newest)
                    ),
                    None => prop_assert!(counts.is_empty() || three.council.first.is_some()),
                }
            }
        }
    }
}
