//! What breaks, and when: drawn from a seed before anything begins, so that a seed repeats it.

use std::{fmt, time::Duration};

use tidegate::store::faulty::Dice;

use super::home::Kind;
use crate::support::{Aim, Way};

/// Replicas of the gateway.
pub(super) const REPLICAS: usize = 3;
/// Topics that many publish to.
pub(super) const BUSY: usize = 4;
/// Topics that few publish to.
pub(super) const QUIET: usize = 26;

/// The name of a topic by its number.
pub(super) fn topic(number: usize) -> String {
    if number < BUSY {
        format!("busy/{number}")
    } else {
        format!("quiet/{}", number - BUSY)
    }
}

/// How hard a storm is on the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    /// The log loses nothing: no gap may be told at all.
    Rough,
    /// Streams of topics are trimmed and deleted.
    Trims,
    /// The same, and the whole log is flushed.
    Floods,
    /// As rough, where Redis has no functions.
    Scripts,
    /// As rough, with users who come and go.
    Crowds,
    /// Masters are killed, and others take over that have everything.
    Failovers,
    /// They take over, and lack what was acknowledged last.
    Losses,
    /// The slot moves to another master of a cluster, and masters are killed.
    Moves,
}

impl Weather {
    /// Where the log lives.
    pub(super) fn home(self) -> Kind {
        match self {
            Self::Rough | Self::Trims | Self::Floods | Self::Crowds => Kind::Single,
            Self::Scripts => Kind::Scripts,
            Self::Failovers | Self::Losses => Kind::Sentinel,
            Self::Moves => Kind::Cluster,
        }
    }
}

impl Weather {
    /// Whether there are users who come and go.
    pub(super) fn has_users(self) -> bool {
        self == Self::Crowds
    }

    /// Whether what waits to be taken in can be lost only with its server.
    pub(super) fn keeps_what_is_handed_over(self) -> bool {
        self != Self::Floods
    }
}

/// One thing that breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `kill -9` of a replica; another takes its place.
    Kill(usize),
    /// SIGTERM; when it has ended, another takes its place.
    Drain(usize),
    /// Connections of a replica to Redis are cut.
    Cut(usize, Aim),
    /// The same after some more bytes towards the replica: in the middle of a reply.
    CutAfter(usize, Aim, usize),
    /// Nothing goes this way between a replica and Redis for a while; without a way, nothing goes either way.
    Hold(usize, Option<Way>, Duration),
    /// A replica is cut off and finds nobody who listens, for a while.
    Refuse(usize, Duration),
    /// Redis ends the connections of all feeds.
    KillFeeds,
    /// Redis neither reads nor answers for a while.
    Freeze(Duration),
    /// `kill -9` of Redis; it comes back with its file after a while.
    Restart(Duration),
    /// Only so many entries of a topic stay.
    Trim(usize, usize),
    /// The stream of a topic is deleted, which replicas do not hear of.
    Delete(usize),
    /// A topic is deleted as the gateway does it: replicas hear of it in its place among the events.
    Erase(usize),
    /// Everything is deleted.
    Flush,
    /// The master is killed and another server takes over; if so, the replicas were parted from it before, and lack something.
    FailOver(bool),
    /// The slot moves to another master.
    Move,
}

/// When each thing breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule(pub(super) Vec<(Duration, Fault)>);

/// A storm that is longer than this has times for silences that a replica takes for the end of a connection.
const LONG: Duration = Duration::from_secs(15);

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Schedule {
    /// The schedule of a seed.
    pub(super) fn draw(weather: Weather, seed: u64, length: Duration) -> Self {
        let mut dice = Dice::new(seed ^ 0xC4A0_5000);
        let mut schedule = Vec::new();
        // Everybody connects first.
        let mut at = millis(400);
        while at < length {
            schedule.push((at, draw(weather, &mut dice, length > LONG)));
            // Some things happen at once.
            if !dice.once_in(3) {
                at += millis(50) + dice.up_to(millis(350));
            }
        }
        let count = schedule.len();
        let (middle, last) = (count / 2, count - 1);
        match weather {
            Weather::Rough | Weather::Scripts | Weather::Crowds => {}
            Weather::Trims => schedule[middle].1 = Fault::Trim(0, 0),
            Weather::Floods => schedule[middle].1 = Fault::Flush,
            Weather::Failovers | Weather::Losses => {
                // In the end all replicas are there to see it.
                for at in [count / 4, last] {
                    schedule[at].1 = Fault::FailOver(weather == Weather::Losses);
                }
            }
            Weather::Moves => {
                schedule[count / 6].1 = Fault::Move;
                schedule[middle].1 = Fault::FailOver(false);
                schedule[last].1 = Fault::Move;
            }
        }
        Self(schedule)
    }
}

fn draw(weather: Weather, dice: &mut Dice, patient: bool) -> Fault {
    let replica = dice.below(REPLICAS);
    let aim = match dice.below(5) {
        0 => Aim::All,
        1 | 2 => Aim::Feed,
        _ => Aim::Command(dice.below(8)),
    };
    let short = millis(30) + dice.up_to(millis(700));
    let long = match dice.below(24) {
        0 if patient => short + millis(4_000),
        0..3 => short + millis(1_500),
        _ => short,
    };
    let way = match dice.below(3) {
        0 => None,
        1 => Some(Way::ToStore),
        _ => Some(Way::ToGateway),
    };
    let (topic, keep) = match dice.below(3) {
        0 => (dice.below(BUSY), dice.below(30)),
        _ => (BUSY + dice.below(QUIET), dice.below(3)),
    };
    if weather.home() == Kind::Sentinel || weather.home() == Kind::Cluster {
        // Nothing that is taken for the death of a server. What nobody is left to witness cannot be told.
        let die = if weather == Weather::Losses { 90 } else { 70 };
        return match dice.below(100) {
            0..10 => Fault::Freeze(short / 3),
            10..25 => Fault::KillFeeds,
            at if at < die => Fault::Cut(replica, aim),
            _ if dice.once_in(3) => Fault::Drain(replica),
            _ => Fault::Kill(replica),
        };
    }
    match (dice.below(100), weather) {
        (0..12, Weather::Trims | Weather::Floods) => Fault::Trim(topic, keep),
        (12..18, Weather::Trims | Weather::Floods) => Fault::Delete(topic),
        (18..24, Weather::Trims | Weather::Floods) => Fault::Erase(topic),
        (24..31, Weather::Floods) => Fault::Flush,
        (0..33, _) => Fault::Cut(replica, aim),
        (33..46, _) => Fault::CutAfter(replica, aim, dice.below(3_000)),
        (46..63, _) => Fault::Hold(replica, way, long),
        (63..69, _) => Fault::Refuse(replica, short),
        (69..75, _) => Fault::KillFeeds,
        (75..81, _) => Fault::Freeze(long),
        (81..86, _) => Fault::Restart(short / 4),
        (86..92, _) => Fault::Drain(replica),
        _ => Fault::Kill(replica),
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in &self.0 {
            writeln!(f, "  {:>6} ms  {fault:?}", at.as_millis())?;
        }
        Ok(())
    }
}

mod tests {
    use std::time::Duration;

    use super::{Fault, Schedule, Weather};

    #[test]
    fn a_seed_repeats_its_schedule_and_the_weather_is_kept() {
        let draw = |weather, seed| Schedule::draw(weather, seed, Duration::from_mins(1));
        let hurts_the_log = |fault: &Fault| {
            matches!(
                fault,
                Fault::Trim(..) | Fault::Delete(_) | Fault::Erase(_) | Fault::Flush
            )
        };
        for weather in [Weather::Rough, Weather::Trims, Weather::Floods] {
            let Schedule(faults) = draw(weather, 7);
            assert_eq!(Schedule(faults.clone()), draw(weather, 7));
            assert_ne!(Schedule(faults.clone()), draw(weather, 8));
            let Schedule(short) = Schedule::draw(weather, 5, Duration::from_secs(8));
            let flushed = short.iter().any(|(_, fault)| *fault == Fault::Flush);
            assert_eq!(flushed, weather == Weather::Floods, "also in a short storm");
            let hurt = faults.iter().any(|(_, fault)| hurts_the_log(fault));
            assert_eq!(hurt, weather != Weather::Rough);
            let flushed = faults.iter().any(|(_, fault)| *fault == Fault::Flush);
            assert_eq!(flushed, weather == Weather::Floods);
        }
    }
}
