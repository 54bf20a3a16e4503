//! The mistakes that can be made with what producers hand over, each made once.

use super::{
    Entry, Handed, Left, Log, Mistake, Taking, judge_publications,
    tests::{entry, id, log, name},
};

/// Topic `a` with 10 to 40, all handed over by one producer.
fn taken_in() -> (Log, Vec<Handed>) {
    let mut log = log();
    log.topics.remove("b");
    let handed = [10, 20, 30, 40].map(|ms: usize| Handed {
        producer: 0,
        number: ms,
        topic: name("a"),
        kind: "message".to_owned(),
        data: ms.to_string(),
        keyed: false,
        valid: true,
        sent: 1,
        acknowledged: true,
    });
    (log, handed.to_vec())
}

fn found(log: &Log, left: &Left, handed: &[Handed]) -> Result<(), Mistake> {
    judge_publications(log, left, &[], handed).map_err(|found| found.mistake)
}

const WRONG: Result<(), Mistake> = Err(Mistake::Acknowledgement);

fn left() -> Left {
    Left::default()
}

#[test]
fn what_was_taken_in_once_and_in_order_is_accepted() {
    let (mut log, mut handed) = taken_in();
    assert_eq!(found(&log, &left(), &handed), Ok(()));
    // Refused, because it is not valid.
    let refused = Handed {
        data: "x".to_owned(),
        valid: false,
        ..handed[0].clone()
    };
    handed.push(refused);
    let dead = Left {
        dead: vec!["x".to_owned()],
        ..left()
    };
    assert_eq!(found(&log, &dead, &handed), Ok(()));
    // And sent again, because the answer did not come.
    let dead = Left {
        dead: vec!["x".to_owned(); 2],
        ..left()
    };
    assert_eq!(found(&log, &dead, &handed), WRONG);
    handed.last_mut().unwrap().sent = 2;
    assert_eq!(found(&log, &dead, &handed), Ok(()));
    handed.pop();
    // Lost after it was taken in, and taken in again where it still waited; or lost altogether.
    let entries = log.topics.get_mut("a").unwrap();
    entries.get_mut(&id(40)).unwrap().taken = Some((Taking::Lost(0), 45));
    let gone = Left {
        gone: vec!["40".to_owned()],
        ..left()
    };
    assert_eq!(found(&log, &gone, &handed), Ok(()));
    assert_eq!(found(&log, &left(), &handed), WRONG, "lost, and unknown");
    let again = Entry {
        data: "40".to_owned(),
        era: 1,
        ..entry(50, 30)
    };
    log.add(&name("a"), id(50), again).unwrap();
    assert_eq!(found(&log, &left(), &handed), Ok(()));
}

#[test]
fn what_was_taken_in_wrongly_is_found() {
    let (log, handed) = taken_in();
    let with = |change: &dyn Fn(&mut Handed)| {
        let mut handed = handed.clone();
        change(&mut handed[1]);
        found(&log, &left(), &handed)
    };
    assert_eq!(with(&|event| event.topic = name("b")), WRONG);
    assert_eq!(with(&|event| event.kind = "other".to_owned()), WRONG);
    assert_eq!(with(&|event| event.valid = false), WRONG);
    // Nobody handed one over; one is nowhere.
    assert_eq!(found(&log, &left(), &handed[1..]), WRONG);
    let mut without = log.clone();
    without.topics.get_mut("a").unwrap().remove(&id(40));
    assert_eq!(found(&without, &left(), &handed), WRONG);
    let mut unknown = handed.clone();
    unknown[3].acknowledged = false;
    assert_eq!(found(&without, &left(), &unknown), Ok(()));
    // Twice; in the wrong order; still waiting; refused though it is in the log.
    let mut twice = log.clone();
    let copy = Entry {
        data: "20".to_owned(),
        ..entry(50, 40)
    };
    twice.add(&name("a"), id(50), copy).unwrap();
    assert_eq!(found(&twice, &left(), &handed), WRONG);
    let mut swapped = handed.clone();
    swapped.swap(1, 2);
    assert_eq!(found(&log, &left(), &swapped), WRONG);
    let twenty = || vec!["20".to_owned()];
    let waiting = Left {
        waiting: twenty(),
        ..left()
    };
    assert_eq!(found(&log, &waiting, &handed), WRONG);
    let dead = Left {
        dead: twenty(),
        ..left()
    };
    assert_eq!(found(&log, &dead, &handed), WRONG);
}

/// It was sent on a connection that was given up, and what came next on another one.
#[test]
fn what_was_not_answered_may_come_after_what_was_handed_over_later_and_not_before_what_was_earlier()
{
    let (log, mut handed) = taken_in();
    handed[0].data = "20".to_owned();
    handed[1].data = "10".to_owned();
    assert_eq!(found(&log, &left(), &handed), WRONG);
    handed[0].acknowledged = false;
    assert_eq!(found(&log, &left(), &handed), Ok(()));
    handed[0].acknowledged = true;
    handed[1].acknowledged = false;
    assert_eq!(found(&log, &left(), &handed), WRONG);
}
