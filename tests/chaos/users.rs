//! Users who come and go, with more than one tab, on all replicas; and who of them is there in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tidegate::store::faulty::Dice;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    judge::Name,
    schedule::REPLICAS,
    wire::{Asking, Stream, ask},
    world::{Phase, World},
};
use crate::support::{Claims, Request, Settings, Signer};

const USERS: usize = 16;
const ROOMS: usize = 3;
/// Streams that each user has at most.
const TABS: usize = 2;
const SECRET: &str = "a secret of more than thirty-two bytes";

/// How a gateway is told that there are users.
pub(super) fn tell(settings: Settings) -> Settings {
    let off = ["connect", "publish", "poll"].into_iter();
    off.map(|what| format!("limits.rate.{what}"))
        .fold(settings, |settings, rate| settings.with(&rate, "off"))
        .with("limits.connections_per_address", 10_000)
        .with("auth.jwt.secret", SECRET)
        .with("auth.anonymous", "subscribe,publish,presence")
        .with("presence.enabled", true)
        .with("presence.debounce", "300ms")
}

fn room(number: usize) -> Name {
    format!("room/{}", number % ROOMS).into()
}

fn name(user: usize) -> String {
    format!("user-{user:02}")
}

/// Whether a user is there when the storm is over, and stays.
fn stays(user: usize) -> bool {
    user.is_multiple_of(2)
}

/// Who is where when the storm is over.
pub(super) fn there() -> BTreeMap<Name, BTreeSet<String>> {
    let rooms = (0..ROOMS).map(|number| {
        let users = (0..USERS).filter(|user| stays(*user) && user % ROOMS == number);
        (room(number), users.map(name).collect())
    });
    rooms.collect()
}

/// Every tab of every user, with dice of its own.
pub(super) fn all(
    world: &Arc<World>,
    dice: &mut Dice,
) -> Vec<impl Future<Output = ()> + Send + use<>> {
    let tabs = (0..USERS * TABS).map(|tab| live(world.clone(), tab / TABS, Dice::new(dice.roll())));
    tabs.collect()
}

/// One tab: here and there while things break, then in the user's own room, or nowhere.
async fn live(world: Arc<World>, user: usize, mut dice: Dice) {
    let token = Signer::hs256(SECRET).sign(&Claims::of(&name(user)));
    let mut phase = world.phase.subscribe();
    loop {
        let storming = *phase.borrow_and_update() < Phase::Calm;
        if !storming && !stays(user) {
            return;
        }
        let at = if storming { dice.below(ROOMS) } else { user };
        let request = Request::get(&format!("/events?topic={}", room(at)));
        let request = request.header("Authorization", &format!("Bearer {token}"));
        let address = world.address(dice.below(REPLICAS));
        let until = storming.then(|| Instant::now() + dice.up_to(Duration::from_millis(1_500)));
        if let Ok(Asking::Open(mut stream)) = Stream::ask(address, &request, None).await {
            loop {
                let end = until.unwrap_or_else(|| Instant::now() + Duration::from_mins(1));
                tokio::select! {
                    read = timeout_at(end, stream.read(4_096)) => match read {
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    },
                    changed = phase.changed() => {
                        changed.unwrap();
                        if *phase.borrow() == Phase::Over {
                            return;
                        }
                        if storming && *phase.borrow() == Phase::Calm {
                            break;
                        }
                    }
                }
            }
        }
        if *phase.borrow() == Phase::Over {
            return;
        }
        let pause = if storming { 1_000 } else { 50 };
        sleep(dice.up_to(Duration::from_millis(pause))).await;
    }
}

/// What is not yet as it should be in what a replica says of who is there.
pub(super) async fn wrong(world: &World, replica: usize) -> Option<String> {
    let there = there();
    let topics: Vec<&str> = there.keys().map(AsRef::as_ref).collect();
    let request = Request::get(&format!("/presence?topic={}", topics.join(",")));
    let Ok((200, body)) = ask(world.address(replica), &request).await else {
        return Some(format!("replica {replica} does not answer"));
    };
    let rooms = body["topics"].as_array().unwrap();
    let found: BTreeMap<Name, BTreeSet<String>> = rooms
        .iter()
        .map(|room| {
            let users = room["users"].as_array().unwrap().iter();
            let users = users.map(|user| user.as_str().unwrap().to_owned());
            (room["topic"].as_str().unwrap().into(), users.collect())
        })
        .collect();
    let streams: u64 = rooms
        .iter()
        .filter_map(|room| room["subscribers"].as_u64())
        .sum();
    let all = u64::try_from(there.values().map(BTreeSet::len).sum::<usize>() * TABS).unwrap();
    let live = &body["replicas"]["live"];
    let well = found == there && streams == all && live.as_u64() == u64::try_from(REPLICAS).ok();
    (!well)
        .then(|| format!("replica {replica} says {body}; there are {there:?}, with {all} streams"))
}
