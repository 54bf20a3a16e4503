//! The mistakes that can be made when a failover has lost something, each made once.

use super::{
    Asked, Entry, Failover, Left, Log, Mistake, Publication, Reason, Replay, Taking,
    judge_publications,
    tests::{Lines, entry, event, finds, gap, gap_of, id, log, name, now, open, resume, verdict},
};
use crate::chaos::judge::Told;

/// Of topic `a`, 30 and 40 were lost at 45; what was published since follows 20. Everybody knew at 60. Of topic `b`, nothing was.
fn forked() -> Log {
    let mut log = log();
    for ms in [30, 40] {
        let entries = log.topics.get_mut("a").unwrap();
        entries.get_mut(&id(ms)).unwrap().taken = Some((Taking::Lost(0), 45));
    }
    for (topic, ms, previous) in [("a", 50, 20), ("a", 70, 50), ("b", 55, 35)] {
        let entry = Entry {
            era: 1,
            ..entry(ms, previous)
        };
        log.add(&name(topic), id(ms), entry).unwrap();
    }
    log.failovers.push(Failover {
        since: 45,
        over: 60,
        last: id(35),
    });
    log.recorded.insert(name("a"), vec![(id(20), id(40))]);
    log
}

fn lost(topics: &[&str]) -> Told {
    gap(Reason::Lost, topics)
}

fn told_at_once(topics: &[&str], at: u64) -> Told {
    let replay = Replay::Gap(gap_of(Reason::Lost, topics));
    open(Asked::After(id(at)), topics, replay, at)
}

/// It was asked when everybody knew.
fn late(told: Told) -> Told {
    match told {
        Told::Opened {
            replica,
            asked,
            topics,
            replay,
            id,
            ..
        } => Told::Opened {
            sent: 61,
            replica,
            asked,
            topics,
            replay,
            id,
        },
        told => told,
    }
}

const END: [(u64, u64); 2] = [(66, 50), (71, 70)];

fn to_the_end(told: Vec<(u64, Told)>) -> Lines {
    let end = END.into_iter().map(|(at, ms)| (at, event("a", ms)));
    told.into_iter().chain(end).collect()
}

/// Open since the beginning, and has got everything that was lost later.
fn witness() -> Vec<(u64, Told)> {
    vec![
        (5, now(&["a"], 5)),
        (11, event("a", 10)),
        (21, event("a", 20)),
        (31, event("a", 30)),
        (41, event("a", 40)),
    ]
}

#[test]
fn whoever_can_witness_a_loss_and_is_told_is_content_and_so_are_all_others() {
    let log = forked();
    assert_eq!(log.judge(), Ok(()));
    assert_eq!(log.judge_recorded(), Ok(()));
    let mut told = witness();
    told.push((46, lost(&["a"])));
    let sum = verdict(&log, to_the_end(told)).unwrap();
    assert_eq!((sum.gaps, sum.losses), (1, 1));
    // Came back within the range; below it; above it.
    let within = vec![(62, late(told_at_once(&["a"], 30)))];
    assert!(verdict(&log, to_the_end(within)).is_ok());
    let below = vec![(62, late(resume(&["a"], 10))), (62, event("a", 20))];
    assert!(verdict(&log, to_the_end(below)).is_ok());
    let above = vec![(62, late(resume(&["a"], 40)))];
    assert!(verdict(&log, to_the_end(above)).is_ok());
    // Nobody that is left knows what it comes back with.
    let unknown = Replay::Gap(gap_of(Reason::Unknown, &["a"]));
    let unknown = vec![(46, open(Asked::After(id(40)), &["a"], unknown, 35))];
    assert!(verdict(&log, to_the_end(unknown)).is_ok());
    // Left before it could be told, and came back before everybody knew.
    let mut left = witness();
    left.pop();
    left.extend([(42, Told::Left("")), (47, resume(&["a"], 30))]);
    left.extend([(51, event("a", 50)), (52, Told::Left(""))]);
    left.extend([
        (62, late(resume(&["a"], 50))),
        (71, event("a", 70)),
        (72, Told::Live(id(70))),
    ]);
    assert!(verdict(&log, left).is_ok());
}

#[test]
fn an_open_stream_that_is_not_told_of_its_loss_is_found() {
    finds(Mistake::Untold, &forked(), to_the_end(witness()));
    // It stood in the middle of what was lost, by another topic.
    let middle = [
        (5, now(&["a", "b"], 20)),
        (26, event("b", 25)),
        (36, Told::Cursor(id(32))),
        (37, event("b", 35)),
    ];
    let log = forked();
    let end = [
        (51, event("a", 50)),
        (56, event("b", 55)),
        (71, event("a", 70)),
    ];
    // 30 was there when the cursor passed it.
    let all = middle.iter().cloned().chain(end.clone()).collect();
    finds(Mistake::Lost, &log, all);
    let middle = vec![
        (5, now(&["a", "b"], 20)),
        (26, event("b", 25)),
        (31, event("a", 30)),
        (36, event("b", 35)),
    ];
    let all = middle.iter().cloned().chain(end.clone()).collect();
    finds(Mistake::Untold, &log, all);
    let told = [(46, lost(&["a"]))];
    let all = middle.into_iter().chain(told).chain(end).collect();
    assert!(verdict(&log, all).is_ok());
    // Told before it happened is not told of it.
    let mut early = forked();
    early.failovers[0].since = 30;
    let mut told = witness();
    told.push((42, lost(&["a"])));
    finds(Mistake::Untold, &early, to_the_end(told));
}

#[test]
fn a_loss_that_a_replica_could_see_and_did_not_record_is_found() {
    let mut log = forked();
    log.recorded.clear();
    finds(Mistake::Unrecorded, &log, to_the_end(witness()));
    log.recorded.insert(name("a"), vec![(id(20), id(30))]);
    finds(Mistake::Unrecorded, &log, to_the_end(witness()));
}

#[test]
fn a_returning_cursor_that_is_not_told_of_its_loss_is_found() {
    let log = forked();
    let back = vec![(62, late(resume(&["a"], 30)))];
    finds(Mistake::Untold, &log, to_the_end(back.clone()));
    // Of another topic.
    let other = open(
        Asked::After(id(30)),
        &["a", "b"],
        Replay::Gap(gap_of(Reason::Lost, &["b"])),
        30,
    );
    finds(Mistake::FalseGap, &log, vec![(62, late(other))]);
    // Nobody had it: so nobody can be told.
    let mut silent = forked();
    silent.recorded.clear();
    assert!(verdict(&silent, to_the_end(back)).is_ok());
}

#[test]
fn a_loss_that_is_told_to_others_is_found() {
    let log = forked();
    // A topic that lost nothing; before it happened; whoever begins above it when everybody knows; one that was below it.
    let mut told = vec![(5, now(&["a", "b"], 36)), (41, event("a", 40))];
    told.push((46, lost(&["b"])));
    finds(Mistake::FalseGap, &log, told);
    let mut told = witness();
    told.push((44, lost(&["a"])));
    finds(Mistake::FalseGap, &log, told);
    let told = vec![(62, late(now(&["a"], 45))), (63, lost(&["a"]))];
    finds(Mistake::FalseGap, &log, told);
    let told = vec![(62, late(told_at_once(&["a"], 40)))];
    finds(Mistake::FalseGap, &log, told);
    for ms in [10, 15] {
        let told = vec![(62, late(told_at_once(&["a"], ms)))];
        finds(Mistake::FalseGap, &log, told);
    }
    let told = vec![
        (5, now(&["a"], 5)),
        (11, event("a", 10)),
        (46, lost(&["a"])),
    ];
    finds(Mistake::FalseGap, &log, told);
    // Unknown where the cursor is known.
    for (at, sent) in [(35, 46), (40, 61)] {
        let unknown = Replay::Gap(gap_of(Reason::Unknown, &["a"]));
        let unknown = open(Asked::After(id(at)), &["a"], unknown, 50);
        let unknown = if sent > 60 { late(unknown) } else { unknown };
        finds(Mistake::FalseGap, &log, vec![(62, unknown)]);
    }
}

#[test]
fn an_event_that_was_kept_and_does_not_come_is_found_whatever_else_was_lost() {
    let mut told = witness();
    told.extend([(46, lost(&["a"])), (71, event("a", 70))]);
    finds(Mistake::Lost, &forked(), told);
}

#[test]
fn a_record_of_what_was_not_lost_is_found() {
    let record = |after: u64, through: u64| {
        let mut log = forked();
        log.recorded
            .insert(name("a"), vec![(id(after), id(through))]);
        log.judge_recorded().map_err(|found| found.mistake)
    };
    assert_eq!(record(20, 30), Ok(()), "a replica that was behind");
    assert_eq!(record(20, 47), Ok(()));
    for (after, through) in [(10, 40), (20, 50), (30, 40), (41, 45), (50, 70)] {
        let found = record(after, through);
        assert_eq!(
            found,
            Err(Mistake::FalseRecord),
            "{after}..{through} is recorded"
        );
    }
    let mut log = forked();
    log.recorded.insert(name("c"), vec![(id(20), id(30))]);
    assert!(log.judge_recorded().is_err());
}

#[test]
fn ids_that_do_not_increase_and_chains_that_break_through_a_failover_are_found() {
    let with = |ms: u64, previous: u64| {
        let mut log = forked();
        let entry = Entry {
            era: 1,
            ..entry(ms, previous)
        };
        log.add(&name("c"), id(ms), entry).unwrap();
        log.judge().map_err(|found| found.mistake)
    };
    assert_eq!(with(41, 0), Ok(()));
    assert_eq!(with(39, 0), Err(Mistake::Log));
    // The new server does not know what was lost.
    let mut log = forked();
    let entries = log.topics.get_mut("a").unwrap();
    entries.get_mut(&id(50)).unwrap().previous = id(40);
    assert_eq!(log.judge().unwrap_err().mistake, Mistake::Log);
}

#[test]
fn a_publication_that_was_lost_may_be_stored_once_more_and_no_other() {
    let mut log = forked();
    log.topics.remove("b");
    let copy = Entry {
        data: "30".to_owned(),
        era: 1,
        ..entry(80, 70)
    };
    log.add(&name("a"), id(80), copy).unwrap();
    let publication = |data: u64, keyed, ids: &[u64]| Publication {
        topic: name("a"),
        kind: "message".to_owned(),
        data: data.to_string(),
        keyed,
        unknown: false,
        answers: ids.iter().map(|&ms| (id(ms), false)).collect(),
    };
    let others = [10, 20, 40, 50, 70].map(|ms| publication(ms, true, &[ms]));
    let with = |last: Publication| {
        let mut all = others.to_vec();
        all.push(last);
        judge_publications(&log, &Left::default(), &all, &[]).map_err(|found| found.mistake)
    };
    assert_eq!(with(publication(30, true, &[30, 80])), Ok(()));
    let unkeyed = publication(30, false, &[30, 80]);
    assert_eq!(with(unkeyed), Err(Mistake::Acknowledgement));
    let kept = log.topics.get_mut("a").unwrap().get_mut(&id(30)).unwrap();
    kept.taken = None;
    let twice = judge_publications(
        &log,
        &Left::default(),
        &{
            let mut all = others.to_vec();
            all.push(publication(30, true, &[30, 80]));
            all
        },
        &[],
    );
    assert!(twice.is_err());
}
