//! Each mistake, made once: a judge that finds nothing proves nothing.

use tidegate::event::EventId;

use super::{
    Asked, Birth, Complaint, Entry, Gap, Left, Line, Log, Mistake, Name, Publication, Reason,
    Replay, Taking, Tally, Told, judge, judge_publications,
};

/// What was told, and when it was read.
pub(super) type Lines = Vec<(u64, Told)>;

pub(super) fn name(text: &str) -> Name {
    text.into()
}

pub(super) const fn id(ms: u64) -> EventId {
    EventId::new(ms, 0)
}

pub(super) fn entry(ms: u64, previous: u64) -> Entry {
    Entry {
        kind: "message".to_owned(),
        data: ms.to_string(),
        previous: id(previous),
        life: 0,
        era: 0,
        taken: None,
    }
}

/// Topic `a` has 10, 20, 30, 40, topic `b` has 15, 25, 35.
pub(super) fn log() -> Log {
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

pub(super) fn open(asked: Asked, topics: &[&str], replay: Replay, at: u64) -> Told {
    Told::Opened {
        replica: 0,
        sent: 0,
        asked,
        topics: topics.iter().copied().map(name).collect(),
        replay,
        id: id(at),
    }
}

pub(super) fn now(topics: &[&str], at: u64) -> Told {
    open(Asked::Now, topics, Replay::None, at)
}

pub(super) fn resume(topics: &[&str], at: u64) -> Told {
    open(Asked::After(id(at)), topics, Replay::Complete, at)
}

pub(super) fn event(topic: &str, ms: u64) -> Told {
    Told::Event {
        topic: name(topic),
        id: id(ms),
        kind: "message".to_owned(),
        data: ms.to_string(),
    }
}

pub(super) fn gap_of(reason: Reason, topics: &[&str]) -> Gap {
    Gap {
        reason,
        topics: topics.iter().copied().map(name).collect(),
        at_least: None,
    }
}

pub(super) fn gap(reason: Reason, topics: &[&str]) -> Told {
    Told::Gap(gap_of(reason, topics))
}

/// Every line is read at the time that stands beside it.
pub(super) fn verdict(log: &Log, told: Lines) -> Result<Tally, Complaint> {
    let lines = told.into_iter().map(|(at, told)| Line { at, told });
    judge(log, &lines.collect::<Vec<_>>())
}

pub(super) fn finds(mistake: Mistake, log: &Log, told: Lines) {
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
    finds(Mistake::UntoldReset, &log, told(vec![(21, event("a", 20))]));
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
    assert_eq!(
        judge_publications(&log, &Left::default(), &true_ones, &[]),
        Ok(())
    );
    let finds = |log: &Log, publications: &[Publication]| {
        let found = judge_publications(log, &Left::default(), publications, &[])
            .map_err(|found| found.mistake);
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
    assert_eq!(
        judge_publications(&reborn, &Left::default(), &with(1, keyed), &[]),
        Ok(())
    );
}
