//! Producers that can only `XADD`: they hand their events over, and the gateway takes them in.

use std::{sync::Arc, time::Duration};

use tidegate::store::faulty::Dice;
use tokio::time::{Instant, sleep, timeout};

use super::{
    judge::{Handed, Name},
    publisher::{NOT_NOW, PATIENCE, connect},
    schedule::{BUSY, QUIET, topic},
    world::World,
};
use crate::support::Value;

/// Hands events over as long as things break. An event with a key is handed over again where it is unknown what became of it.
pub(super) async fn hand_over(world: Arc<World>, mut dice: Dice, producer: usize) {
    let mut connection = None;
    let mut number = 0;
    while world.pours() {
        number += 1;
        let mut event = draw(&world, &mut dice, producer, number);
        let mut words = vec!["XADD", "tidegate:{0}:ingest", "*", "topic", &event.topic];
        words.extend(["event", &event.kind, "data", &event.data]);
        let key = format!("key of {}", event.data);
        if event.keyed {
            words.extend(["key", &key]);
        }
        if !event.valid {
            words.extend(["nonsense", "1"]);
        }
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "Redis did not take {event:?}");
            let ask = async {
                if connection.is_none() {
                    connection = Some(connect(&world).await?);
                }
                connection.as_mut().unwrap().try_ask(&words).await
            };
            match timeout(Duration::from_secs(3), ask).await {
                Ok(Ok(Value::Bulk(_))) => {
                    event.sent += 1;
                    event.acknowledged = true;
                    break;
                }
                Ok(Ok(other)) => {
                    let text = other.text();
                    let known = NOT_NOW.iter().any(|code| text.starts_with(code));
                    assert!(known, "{other}");
                    connection = None;
                }
                Ok(Err(_)) | Err(_) => {
                    event.sent += 1;
                    connection = None;
                    if !event.keyed {
                        break;
                    }
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        world.handed.lock().push(event);
        sleep(dice.up_to(Duration::from_millis(40))).await;
    }
}

fn draw(world: &World, dice: &mut Dice, producer: usize, number: usize) -> Handed {
    let at = if dice.once_in(2) {
        dice.below(BUSY)
    } else {
        BUSY + dice.below(QUIET)
    };
    Handed {
        producer,
        number,
        topic: Name::from(topic(at)),
        kind: "handed".to_owned(),
        data: format!("{} handed over", world.serial()),
        keyed: dice.once_in(2),
        valid: !dice.once_in(12),
        sent: 0,
        acknowledged: false,
    }
}
