//! How often one caller may do something: token buckets in bounded memory.
//!
//! A bucket is one number, the moment at which it is full again (the generic cell rate algorithm): a caller who has been
//! quiet for long has no entry at all. A flood from many addresses can fill the table; then the fuller of a few buckets drawn
//! by lot makes room, so that memory stays bounded and those who take most are remembered best.

use std::{
    collections::hash_map::RandomState, hash::BuildHasher, net::IpAddr, num::NonZeroU64,
    time::Duration,
};

use indexmap::IndexMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    config::Rate,
    http::problem::{Code, Problem, Quota},
};

/// Whoever is counted: an address, or a token's subject. The two are never in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(NonZeroU64);

impl Key {
    /// An IPv4 address, or the /64 of an IPv6 address: within it one host has any number of addresses.
    pub(crate) fn address(address: IpAddr) -> Self {
        match address.to_canonical() {
            // No IPv6 network begins with 0:1, so nothing else is here.
            IpAddr::V4(address) => Self::new(1 << 32 | u64::from(address.to_bits())),
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64;
                Self::new(u64::try_from(network).expect("the upper half"))
            }
        }
    }

    /// Somebody who has a name, told apart by a hash that nobody outside can aim at.
    pub(crate) fn subject(subject: &str, hasher: &RandomState) -> Self {
        Self::new(hasher.hash_one(subject))
    }

    fn new(number: u64) -> Self {
        Self(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }
}

/// What is left after one was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// How many more may come now.
    pub(crate) remaining: u32,
    /// Until everything may come again.
    pub(crate) reset: Duration,
}

/// The next one may come after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted {
    pub(crate) wait: Duration,
    /// Until everything may come again.
    pub(crate) reset: Duration,
}

const SHARDS: usize = 16;
/// Entries of all shards together: some 3 MiB.
const ENTRIES: usize = 65_536;
/// How many are drawn to find one that makes room.
const LOTS: usize = 8;

/// The buckets of one kind of doing.
pub(crate) struct Buckets {
    shards: [Mutex<IndexMap<Key, u64>>; SHARDS],
    hasher: RandomState,
    started: Instant,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            started: Instant::now(),
        }
    }
}

impl Buckets {
    /// Takes one out of the bucket of `key`.
    pub(crate) fn take(&self, key: Key, rate: Rate) -> Result<Option<Taken>, Exhausted> {
        self.ask(key, rate, true)
    }

    /// Whether there is one to take; it stays where it is.
    pub(crate) fn peek(&self, key: Key, rate: Rate) -> Result<Option<Taken>, Exhausted> {
        self.ask(key, rate, false)
    }

    fn ask(&self, key: Key, rate: Rate, take: bool) -> Result<Option<Taken>, Exhausted> {
        let Some(allowance) = rate.allowance() else {
            return Ok(None);
        };
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (now, interval) = (nanos(self.started.elapsed()), nanos(allowance.interval));
        // From empty to full.
        let depth = interval.saturating_mul(u64::from(allowance.burst));
        let mut shard = self.shards[self.shard_of(key)].lock();
        let full_at = shard.get(&key).copied().unwrap_or(0).max(now);
        let taken = (full_at - now).saturating_add(interval);
        if taken > depth {
            return Err(Exhausted {
                wait: Duration::from_nanos(taken - depth),
                reset: Duration::from_nanos(full_at - now),
            });
        }
        if take {
            make_room(&mut shard, key, now);
            shard.insert(key, now + taken);
        }
        Ok(Some(Taken {
            remaining: u32::try_from((depth - taken) / interval.max(1)).unwrap_or(u32::MAX),
            reset: Duration::from_nanos(taken),
        }))
    }

    fn shard_of(&self, key: Key) -> usize {
        let hash = self.hasher.hash_one(key) % SHARDS as u64;
        usize::try_from(hash).expect("less than the number of shards")
    }

    /// Forgets who has been quiet for long enough; called now and then.
    pub(crate) fn tidy(&self) {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.retain(|_, full_at| *full_at > now);
            shard.shrink_to(64);
        }
    }

    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

fn make_room(shard: &mut IndexMap<Key, u64>, key: Key, now: u64) {
    if shard.len() < ENTRIES / SHARDS || shard.contains_key(&key) {
        return;
    }
    let drawn = (0..LOTS).map(|_| rand::random_range(0..shard.len()));
    let fullest = drawn.min_by_key(|&at| shard[at].max(now));
    if let Some(at) = fullest {
        shard.swap_remove_index(at);
    }
}

/// The buckets of all kinds.
#[derive(Default)]
pub(crate) struct Rates {
    pub(crate) connect: Buckets,
    pub(crate) publish: Buckets,
    pub(crate) poll: Buckets,
    pub(crate) message: Buckets,
    pub(crate) auth_failure: Buckets,
    pub(crate) connect_per_subject: Buckets,
    pub(crate) publish_per_subject: Buckets,
    hasher: RandomState,
}

impl Rates {
    /// The key of a subject.
    pub(crate) fn subject(&self, subject: &str) -> Key {
        Key::subject(subject, &self.hasher)
    }

    /// Forgets who has been quiet for long enough.
    pub(crate) fn tidy(&self) {
        for buckets in self.all() {
            buckets.tidy();
        }
    }

    /// How many callers are remembered.
    pub(crate) fn len(&self) -> usize {
        self.all().iter().map(|buckets| buckets.len()).sum()
    }

    fn all(&self) -> [&Buckets; 7] {
        [
            &self.connect,
            &self.publish,
            &self.poll,
            &self.message,
            &self.auth_failure,
            &self.connect_per_subject,
            &self.publish_per_subject,
        ]
    }
}

/// Takes one, or refuses and says when the next may come; `name` is the setting.
pub(crate) fn admit(
    buckets: &Buckets,
    key: Key,
    rate: Rate,
    name: &'static str,
) -> Result<(), Problem> {
    let taken = buckets.take(key, rate);
    taken.map(drop).map_err(|left| refusal(left, rate, name))
}

/// As a problem.
pub(crate) fn refusal(left: Exhausted, rate: Rate, name: &'static str) -> Problem {
    let seconds =
        |time: Duration| u64::try_from(time.as_millis().div_ceil(1_000).max(1)).unwrap_or(u64::MAX);
    let burst = rate.allowance().map_or(0, |allowance| allowance.burst);
    let detail = format!("too many requests from you: {name} allows {rate}");
    Problem {
        retry_after: Some(seconds(left.wait)),
        quota: Some(Box::new(Quota {
            limit: burst,
            remaining: 0,
            reset: seconds(left.reset),
        })),
        ..Problem::new(Code::RateLimited, detail)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn rate(text: &str) -> Rate {
        serde_json::from_value(text.into()).expect("a rate")
    }

    fn key(address: &str) -> Key {
        Key::address(address.parse().expect("an address"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_comes_at_once_and_the_rest_at_its_rate() {
        let (buckets, rate, key) = (Buckets::default(), rate("60/min burst 3"), key("192.0.2.1"));
        for remaining in [2, 1, 0] {
            let taken = buckets.take(key, rate).expect("allowed").expect("limited");
            assert_eq!(taken.remaining, remaining);
        }
        let second = Duration::from_secs(1);
        let exhausted = Exhausted {
            wait: second,
            reset: 3 * second,
        };
        assert_eq!(buckets.take(key, rate), Err(exhausted));
        advance(second).await;
        assert!(buckets.peek(key, rate).is_ok() && buckets.take(key, rate).is_ok());
        assert!(buckets.peek(key, rate).is_err() && buckets.take(key, rate).is_err());
        advance(Duration::from_mins(1)).await;
        let taken = buckets.take(key, rate).expect("allowed").expect("limited");
        assert_eq!(taken.remaining, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_pays_for_another() {
        let (buckets, rate) = (Buckets::default(), rate("1/h"));
        assert!(buckets.take(key("192.0.2.1"), rate).is_ok());
        assert!(buckets.take(key("192.0.2.1"), rate).is_err());
        assert!(buckets.take(key("192.0.2.2"), rate).is_ok());
        assert!(buckets.take(key("2001:db8:0:1::1"), rate).is_ok());
        assert!(buckets.take(key("2001:db8:0:1:ffff::2"), rate).is_err());
        assert!(buckets.take(key("2001:db8:0:2::1"), rate).is_ok());
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_eq!(buckets.take(key("192.0.2.1"), Rate::OFF), Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_addresses_takes_bounded_memory_and_forgets_the_greedy_last() {
        let (buckets, rate) = (Buckets::default(), rate("60/min burst 100"));
        let greedy = key("192.0.2.1");
        while buckets.take(greedy, rate).is_ok() {}
        for number in 0..200_000_u32 {
            assert!(
                buckets
                    .take(Key::new(u64::from(number) << 33), rate)
                    .is_ok()
            );
        }
        assert!(buckets.len() <= ENTRIES, "{}", buckets.len());
        assert!(
            buckets.take(greedy, rate).is_err(),
            "it is still remembered"
        );
        advance(Duration::from_mins(2)).await;
        buckets.tidy();
        assert_eq!(buckets.len(), 0);
    }
}
