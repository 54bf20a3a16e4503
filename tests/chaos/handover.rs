//! Another server takes over, and everybody gets to know what there is to know of it.

use std::time::Duration;

use serde_json::Value;
use tidegate::store::faulty::Dice;
use tokio::time::{Instant, sleep};

use super::{
    judge::Name,
    publisher::{PATIENCE, publish_one},
    schedule::REPLICAS,
    wire::ask,
    world::{Tide, World},
};
use crate::support::Request;

/// A topic that nobody follows but the test itself.
const PROBE: &str = "probe";

/// What is acknowledged for so long, at the least, is lost when replicas are parted from their master.
const PARTED: Duration = Duration::from_millis(700);

impl World {
    /// Kills the server that has the log, and returns when everybody knows what that has cost.
    pub(super) async fn fail_over(&self, parted: bool) {
        let mut home = self.home.lock().await;
        if parted {
            home.part();
            self.tide.send_replace(Tide::Parted);
            sleep(PARTED).await;
        }
        let handover = home.fail_over(parted).await;
        *self.master.lock() = home.master().address();
        home.revive(handover.killed).await;
        let number = self.chronicle.lock().await.hand_over(handover);
        self.everybody_knows().await;
        self.chronicle.lock().await.is_over(number);
        self.tide.send_replace(Tide::Steady);
    }

    /// Waits until every replica has told what it found missing, and heard what the others found. What is published now comes
    /// on a replica only after everything that it had to repair; and what is published after that has come everywhere, after
    /// everything that was recorded by then.
    async fn everybody_knows(&self) {
        let topic = Name::from(PROBE);
        for _ in 0..2 {
            let mut dice = Dice::new(u64::try_from(self.serial()).unwrap());
            let newest = publish_one(self, &mut dice, &topic, "is a probe").await;
            let before = newest.previous();
            let asking = Request::get(&format!("/poll?topic={PROBE}&lastEventId={before}&wait=1s"));
            for replica in 0..REPLICAS {
                let begun = Instant::now();
                loop {
                    let answer = ask(self.address(replica), &asking).await;
                    let has = |body: &Value| {
                        let events = body["events"].as_array();
                        events.is_some_and(|events| !events.is_empty())
                    };
                    match &answer {
                        Ok((200, body)) if has(body) => break,
                        _ => {}
                    }
                    let late = begun.elapsed() > PATIENCE;
                    assert!(!late, "replica {replica} does not go on: {answer:?}");
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}
