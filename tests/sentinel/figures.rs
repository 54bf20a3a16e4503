//! What failovers lose under traffic, with `redis.wait_replicas` and without, and how long they take.
//!
//! `TIDEGATE_FAILOVERS=5 cargo test --test promises figures -- --nocapture` runs each kind five times, with the times of the shipped files,
//! and prints what it saw. Without that, two of them run once and print as much.

use std::{fmt::Write as _, time::Duration};

use tokio::time::sleep;

use super::{is_at, length, ready, recorded};
use crate::support::{
    RedisSentinel, eventually,
    traffic::{Listener, Traffic, is_complete, stored},
};

/// What happens to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It gives way in order.
    Asked,
    /// It is killed.
    Killed,
    /// Its replicas hear nothing of it for a second; then it is killed.
    CutOffAndKilled,
}

struct Run {
    fate: Fate,
    wait_replicas: u8,
    acknowledged: usize,
    lost: usize,
    publishing: Duration,
    reading: Duration,
}

async fn run(fate: Fate, wait_replicas: u8, hurried: bool) -> Run {
    let mut settings = RedisSentinel::settings();
    if !hurried {
        settings = settings.unhurried();
    }
    let mut group = settings.start().await;
    let settings = || {
        let settings = group.gateway().with("redis.wait_replicas", wait_replicas);
        settings.with("publish.timeout", "1s")
    };
    let (a, b) = tokio::join!(ready(settings()), ready(settings()));
    let listeners = [
        Listener::until(a.subscribe("orders").await, "the end"),
        Listener::until(b.subscribe("orders").await, "the end"),
    ];
    let traffic = Traffic::begin([a.public, b.public], "orders");
    sleep(Duration::from_millis(500)).await;
    group.at(0).is_copied().await;
    match fate {
        Fate::Asked => group.fail_over().await,
        Fate::Killed => group.kill(0).await,
        Fate::CutOffAndKilled => {
            group.part_replicas(0);
            sleep(Duration::from_secs(1)).await;
            if wait_replicas == 0 {
                // Of two that the master alone has, one was acknowledged.
                eventually("something to be lost", async || {
                    let all = length(&group, 0, "orders").await;
                    match length(&group, 1, "orders").await {
                        copied if copied + 1 < all => Ok(()),
                        copied => Err(format!("{copied} of {all} are copied")),
                    }
                })
                .await;
            }
            group.kill(0).await;
            group.heal(0);
        }
    }
    let master = group.promoted(0).await;
    for gateway in [&a, &b] {
        is_at(gateway, group.wire(master).port()).await;
    }
    group
        .follows(group.others(master).find(|at| *at != 0).unwrap(), master)
        .await;
    let acknowledged = traffic.end().await;
    a.publish("orders", "the end").await;
    let lost = recorded(&group, master, "orders").await;
    let log = stored(group.at(master), "orders").await;
    let acknowledged = acknowledged.without_unheard(&log, &lost);
    let mut reading = Duration::ZERO;
    for listener in listeners {
        let heard = listener.heard().await;
        is_complete(&heard, &acknowledged, &lost);
        reading = reading.max(heard.silence);
    }
    let run = Run {
        fate,
        wait_replicas,
        acknowledged: acknowledged.events.len(),
        lost: acknowledged.lost(&lost),
        publishing: acknowledged.silence,
        reading,
    };
    println!(
        "{:?}, wait_replicas {}: {} acknowledged, {} lost (recorded {lost:?}); stood still: publishing {:.2} s, reading {:.2} s; refused {:?}",
        run.fate,
        run.wait_replicas,
        run.acknowledged,
        run.lost,
        run.publishing.as_secs_f64(),
        run.reading.as_secs_f64(),
        acknowledged.refusals
    );
    run
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let ends = [times[0], times[times.len() / 2], times[times.len() - 1]];
    let ends = ends.map(|time| format!("{:.2}", time.as_secs_f64()));
    ends.join(" / ") + " s"
}

#[expect(
    clippy::disallowed_methods,
    reason = "how many failovers are run is no setting of the gateway"
)]
fn rounds() -> u32 {
    std::env::var("TIDEGATE_FAILOVERS").map_or(0, |text| text.parse().unwrap())
}

/// Every stream is told of exactly what was lost, while others publish; who waits for a replica loses nothing.
#[tokio::test]
async fn what_replicas_did_not_have_is_lost_unless_they_are_waited_for() {
    let rounds = rounds();
    if rounds == 0 {
        let (careless, careful) = tokio::join!(
            run(Fate::CutOffAndKilled, 0, true),
            run(Fate::CutOffAndKilled, 1, true)
        );
        assert!(careless.lost > 0, "the replicas were cut off");
        assert_eq!(careful.lost, 0);
    }
    let mut summary = String::new();
    for fate in [Fate::Asked, Fate::Killed, Fate::CutOffAndKilled] {
        for wait_replicas in [0, 1] {
            let mut runs = Vec::new();
            for _ in 0..rounds {
                runs.push(run(fate, wait_replicas, false).await);
            }
            if runs.is_empty() {
                continue;
            }
            let lost: Vec<_> = runs.iter().map(|run| run.lost).collect();
            let publishing = spread(runs.iter().map(|run| run.publishing).collect());
            let reading = spread(runs.iter().map(|run| run.reading).collect());
            let _ = writeln!(
                summary,
                "{fate:?}, wait_replicas {wait_replicas}: publishing stood still {publishing}, reading {reading}, lost {lost:?}"
            );
            assert!(wait_replicas == 0 || lost.iter().all(|lost| *lost == 0));
        }
    }
    print!("{summary}");
}
