//! Three replicas, one Redis, and everything that can break between them and in them: whatever breaks, every client gets every
//! event of its topics, in order, once, or is told at that place what it will not get.
//!
//! Publishers, clients and faults are drawn from a seed; the timing is that of real processes, and differs. At the end each
//! client's record is held against everything that was ever in the log, by a judge that is itself tested.

mod chronicle;
mod client;
mod handover;
mod home;
mod ingest;
mod judge;
mod publisher;
mod schedule;
mod users;
mod wire;
mod world;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    ops::RangeInclusive,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tidegate::store::faulty::Dice;
use tokio::{
    task::{JoinSet, LocalSet},
    time::{Instant, sleep, sleep_until},
};

use client::{Client, Progress};
use home::Kind;
use ingest::hand_over;
use judge::{Complaint, Left, Tally, judge, judge_presence, judge_publications};
use publisher::{MARK, publish, publish_directly, publish_one};
use schedule::{BUSY, QUIET, REPLICAS, Schedule, Weather, topic};
use world::{Phase, World};

/// Clients of one storm.
const CLIENTS: usize = 100;
/// How long everybody may take to come to the end when nothing breaks any more.
const CALM: Duration = Duration::from_secs(45);

/// Seeds of a run: 1, or as many as `TIDEGATE_CHAOS_SEEDS` says when this is compiled; `7-9` are the seeds 7 to 9.
fn seeds() -> RangeInclusive<u64> {
    let range = option_env!("TIDEGATE_CHAOS_SEEDS").unwrap_or("1");
    let (first, last) = range.split_once('-').unwrap_or(("1", range));
    first.parse().unwrap()..=last.parse().unwrap()
}

/// How long things break: 8 seconds, or as many as `TIDEGATE_CHAOS_SECONDS` says when this is compiled.
fn length() -> Duration {
    let seconds = option_env!("TIDEGATE_CHAOS_SECONDS").unwrap_or("8");
    Duration::from_secs(seconds.parse().unwrap())
}

/// Where a failed run leaves all that was said and told, if `TIDEGATE_CHAOS_FOLDER` names a folder when this is compiled.
const FOLDER: Option<&str> = option_env!("TIDEGATE_CHAOS_FOLDER");

/// Says how a failure can be repeated.
struct Storm {
    weather: Weather,
    seed: u64,
    schedule: Schedule,
    world: Arc<World>,
    clients: Vec<Progress>,
}

impl Drop for Storm {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        println!(
            "chaos failed: {:?}, seed {}, {:?}\n{}",
            self.weather,
            self.seed,
            length(),
            self.schedule
        );
        if let Some(folder) = FOLDER {
            let name = format!("{folder}/{:?}-{}", self.weather, self.seed).to_lowercase();
            let mut told = String::new();
            for (number, client) in self.clients.iter().enumerate() {
                for line in client.record.lock().iter() {
                    let _ = writeln!(told, "client {number}: {} {:?}", line.at, line.told);
                }
            }
            let _ = std::fs::write(format!("{name}.said"), self.world.said());
            let _ = std::fs::write(format!("{name}.told"), told);
        }
    }
}

async fn weather(weather: Weather) {
    for seed in seeds() {
        LocalSet::new().run_until(storm(weather, seed)).await;
    }
}

async fn storm(weather: Weather, seed: u64) {
    let mut dice = Dice::new(seed);
    let world = World::begin(weather).await;
    let mut clients = JoinSet::new();
    let mut storm = Storm {
        weather,
        seed,
        schedule: Schedule::draw(weather, seed, length()),
        world: world.clone(),
        clients: Vec::new(),
    };
    for number in 0..CLIENTS {
        let client = Client::new(world.clone(), number, Dice::new(dice.roll()));
        storm.clients.push(client.progress());
        clients.spawn(client.live());
    }
    let mut users_live = JoinSet::new();
    if weather.has_users() {
        for user in users::all(&world, &mut dice) {
            users_live.spawn(user);
        }
    }
    let begun = Instant::now();
    let mut publishers = JoinSet::new();
    for _ in 0..3 {
        publishers.spawn(publish(world.clone(), Dice::new(dice.roll())));
    }
    if weather.home() != Kind::Scripts {
        let direct = publish_directly(world.clone(), Dice::new(dice.roll()));
        publishers.spawn(direct);
    }
    if weather.keeps_what_is_handed_over() {
        for producer in 0..2 {
            let dice = Dice::new(dice.roll());
            publishers.spawn(hand_over(world.clone(), dice, producer));
        }
    }

    let mut faults = JoinSet::new();
    for (at, fault) in storm.schedule.0.clone() {
        sleep_until(begun + at).await;
        let world = world.clone();
        faults.spawn_local(async move { world.strike(fault).await });
        while let Some(ended) = faults.try_join_next() {
            ended.unwrap();
        }
        nobody_left(&mut clients);
    }
    faults.join_all().await;
    sleep_until(begun + length()).await;
    while !world.figures.have_all_shapes() {
        nobody_left(&mut clients);
        assert!(begun.elapsed() < length() + CALM, "{:?}", world.figures);
        sleep(Duration::from_millis(20)).await;
    }
    world.heal();
    world.phase.send_replace(Phase::Ebb);
    publishers.join_all().await;
    world.is_healthy().await;

    world.phase.send_replace(Phase::Calm);
    for number in 0..BUSY + QUIET {
        publish_one(&world, &mut dice, &topic(number).into(), MARK).await;
    }
    let calm = Instant::now();
    while let Some(missing) = incomplete(&storm.clients) {
        nobody_left(&mut clients);
        if calm.elapsed() > CALM {
            let stats = world.stats().await;
            panic!("after {CALM:?} of calm {missing}\n{stats}");
        }
        sleep(Duration::from_millis(20)).await;
    }
    while world.waiting().await > 0 {
        assert!(calm.elapsed() < CALM, "what was handed over still waits");
        sleep(Duration::from_millis(20)).await;
    }
    for replica in 0..REPLICAS {
        while weather.has_users()
            && let Some(wrong) = users::wrong(&world, replica).await
        {
            if calm.elapsed() > CALM {
                let table = world.table().await;
                panic!("after {CALM:?} of calm {wrong}\n{table}");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    // Something may still come twice.
    sleep(Duration::from_millis(500)).await;
    let (log, left, changes) = world.log().await;
    world.phase.send_replace(Phase::Over);
    clients.join_all().await;
    users_live.join_all().await;

    let came_and_went = if weather.has_users() {
        judge_presence(&changes, &users::there()).unwrap_or_else(|found| panic!("{found}"))
    } else {
        0
    };
    let sum =
        verdict(&world, &log, &left, &storm.clients).unwrap_or_else(|found| panic!("{found}"));
    world.end().await;
    let figures = &world.figures;
    let [faults, refusals, unknown, repeated, checkpoints, newcomers] = [
        &figures.faults,
        &figures.refusals,
        &figures.unknown,
        &figures.repeated,
        &figures.from_checkpoints,
        &figures.newcomers,
    ]
    .map(|counter| counter.load(Ordering::Relaxed));
    let entries: usize = log.topics.values().map(BTreeMap::len).sum();
    let lost = log.count_lost();
    println!(
        "chaos: {weather:?}, seed {seed}: {faults} faults, {} births, {} failovers; {entries} events published, {repeated} requests \
         repeated, {unknown} outcomes unknown, {refusals} refusals; {CLIENTS} clients, {} deliveries, {} reconnects, {checkpoints} \
         from checkpoints, {newcomers} new topics cut at once; {lost} events lost with their master, {} gaps told ({} resets, {} \
         losses), lost otherwise 0, doubled 0; {} events handed over, {came_and_went} times somebody came or went; {:.1} s",
        log.births.len(),
        log.failovers.len(),
        sum.events,
        sum.connections - CLIENTS,
        sum.gaps,
        sum.resets,
        sum.losses,
        world.handed.lock().len(),
        begun.elapsed().as_secs_f32(),
    );
    let losing = weather == Weather::Losses;
    assert_eq!(lost > 0, losing, "a master takes something with it, or not");
    assert_eq!(sum.losses > 0, losing, "and that is told");
}

fn nobody_left(clients: &mut JoinSet<()>) {
    if let Some(ended) = clients.try_join_next() {
        ended.unwrap();
        unreachable!("nobody leaves before it is over");
    }
}

/// Who has not come to the end, and what they were told last.
fn incomplete(clients: &[Progress]) -> Option<String> {
    let open = clients.iter().enumerate();
    let open = open.filter(|(_, client)| !client.complete.load(Ordering::Relaxed));
    let open: Vec<String> = open
        .map(|(number, client)| {
            let record = client.record.lock();
            let last: Vec<_> = record.iter().rev().take(4).collect();
            format!(
                "client {number} has not come to the end, its last lines (newest first): {last:#?}"
            )
        })
        .collect();
    let first = open.first()?;
    Some(format!("{} clients: {first}", open.len()))
}

fn verdict(
    world: &World,
    log: &judge::Log,
    left: &Left,
    clients: &[Progress],
) -> Result<Tally, Complaint> {
    log.judge()?;
    log.judge_recorded()?;
    judge_publications(log, left, &world.publications.lock(), &world.handed.lock())?;
    let mut sum = Tally::default();
    for (number, client) in clients.iter().enumerate() {
        let tally = judge(log, &client.record.lock()).map_err(|found| Complaint {
            text: format!("client {number}: {}", found.text),
            ..found
        })?;
        sum.events += tally.events;
        sum.gaps += tally.gaps;
        sum.resets += tally.resets;
        sum.losses += tally.losses;
        sum.connections += tally.connections;
    }
    Ok(sum)
}

/// Whatever breaks, the log has everything: so every client gets everything, and no gap is told.
#[tokio::test]
async fn nothing_is_lost_while_the_log_is_whole() {
    weather(Weather::Rough).await;
}

/// What was taken from a topic is told to those who miss it, at its place, and to nobody else.
#[tokio::test]
async fn what_is_trimmed_or_deleted_is_told() {
    weather(Weather::Trims).await;
}

/// A log that was flushed is told to everybody, before anything of the new one.
#[tokio::test]
async fn what_is_flushed_is_told() {
    weather(Weather::Floods).await;
}

/// Where a server has no functions, the same promises hold.
#[tokio::test]
async fn nothing_is_lost_without_functions() {
    weather(Weather::Scripts).await;
}

/// Whoever came is there, whoever went is not, and each is told once, however replicas die.
#[tokio::test]
async fn who_is_there_is_told_truly() {
    weather(Weather::Crowds).await;
}

/// A master that is killed takes nothing with it that a replica had, and nobody is told of anything.
#[tokio::test]
async fn nothing_is_lost_when_another_master_takes_over_that_has_everything() {
    weather(Weather::Failovers).await;
}

/// What a master took with it is told to whoever can witness it, and to nobody else.
#[tokio::test]
async fn what_a_failover_lost_is_told_to_those_who_can_witness_it() {
    weather(Weather::Losses).await;
}

/// Everything moves from node to node of a cluster, and nothing is lost on the way.
#[tokio::test]
async fn nothing_is_lost_when_the_slot_moves() {
    weather(Weather::Moves).await;
}
