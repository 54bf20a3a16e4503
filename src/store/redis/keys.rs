//! Every key and channel, named in one place. What they hold is said in `functions.lua`.

use std::fmt::Write as _;

use aws_lc_rs::digest;

use crate::{event::Topic, store::IdempotencyKey};

/// The names of one deployment: all in one hash tag, so that a cluster keeps them together.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    base: String,
    pub(super) meta: String,
    pub(super) last: String,
    pub(super) heads: String,
    pub(super) lost: String,
    pub(super) replicas: String,
    pub(super) secret: String,
    pub(super) ingest: String,
    pub(super) ingest_dead: String,
    pub(super) ingest_lease: String,
    pub(super) presences: String,
    pub(super) users: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let base = format!("{prefix}:{{0}}:");
        let key = |name: &str| format!("{base}{name}");
        Self {
            meta: key("meta"),
            last: key("last"),
            heads: key("heads"),
            lost: key("lost"),
            replicas: key("replicas"),
            secret: key("secret"),
            ingest: key("ingest"),
            ingest_dead: key("ingest:dead"),
            ingest_lease: key("ingest:lease"),
            presences: key("presences"),
            users: key("users"),
            base,
        }
    }

    /// The stream of a topic.
    pub(super) fn topic(&self, topic: &Topic) -> String {
        format!("{}topic:{topic}", self.base)
    }

    /// Stream and channel of a topic that nobody has looked at.
    pub(super) fn unchecked(&self, topic: &[u8]) -> [Vec<u8>; 2] {
        ["topic:", "ch:"].map(|what| [self.base.as_bytes(), what.as_bytes(), topic].concat())
    }

    /// The channel of a topic.
    pub(super) fn channel(&self, topic: &Topic) -> String {
        format!("{}ch:{topic}", self.base)
    }

    /// The name of the topic to which a channel belongs.
    pub(super) fn topic_of_channel<'a>(&self, channel: &'a [u8]) -> Option<&'a str> {
        let name = channel
            .strip_prefix(self.base.as_bytes())?
            .strip_prefix(b"ch:")?;
        std::str::from_utf8(name).ok()
    }

    /// Where it is remembered that something was claimed.
    pub(super) fn claim(&self, name: &str) -> String {
        format!("{}claim:{name}", self.base)
    }

    /// Who follows a topic.
    pub(super) fn presence(&self, topic: &Topic) -> String {
        format!("{}presence:{topic}", self.base)
    }

    /// What a replica has said of who follows what.
    pub(super) fn presence_of(&self, replica: &str) -> String {
        format!("{}presence-of:{replica}", self.base)
    }

    /// The channel of the letters to a replica.
    pub(super) fn letters(&self, replica: &str) -> String {
        format!("{}to:{replica}", self.base)
    }

    /// Where it is remembered that a key was used: a hash, so that no caller's key can name another's.
    pub(super) fn idempotency(&self, topic: &Topic, key: &IdempotencyKey) -> String {
        self.remembered(&key.caller, topic.as_str().as_bytes(), key.key.as_bytes())
    }

    /// The same of topic and key that nobody has looked at.
    pub(super) fn remembered(&self, caller: &str, topic: &[u8], key: &[u8]) -> String {
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in [caller.as_bytes(), topic, key] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut name = format!("{}idem:", self.base);
        for byte in &hash.finish().as_ref()[..16] {
            let _ = write!(name, "{byte:02x}");
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_share_one_hash_tag() {
        let keys = Keys::new("tidegate");
        let topic: Topic = "orders/eu".parse().expect("a topic");
        assert_eq!(keys.meta, "tidegate:{0}:meta");
        assert_eq!(keys.topic(&topic), "tidegate:{0}:topic:orders/eu");
        assert_eq!(keys.channel(&topic), "tidegate:{0}:ch:orders/eu");
        let channel = keys.channel(&topic);
        assert_eq!(keys.topic_of_channel(channel.as_bytes()), Some("orders/eu"));
        assert_eq!(keys.topic_of_channel(b"other:{0}:ch:x"), None);
        assert_eq!(keys.claim("ticket"), "tidegate:{0}:claim:ticket");
        let letters = keys.letters("0a1b");
        assert_eq!(letters, "tidegate:{0}:to:0a1b");
        assert_eq!(keys.topic_of_channel(letters.as_bytes()), None);
    }

    #[test]
    fn an_idempotency_key_belongs_to_its_caller_and_topic() {
        let keys = Keys::new("t");
        let name = |caller: &str, topic: &str, key: &str| {
            let key = IdempotencyKey {
                caller: caller.into(),
                key: key.into(),
            };
            keys.idempotency(&topic.parse().expect("a topic"), &key)
        };
        assert_eq!(name("a", "b", "c"), name("a", "b", "c"));
        assert_eq!(name("a", "b", "c").len(), "t:{0}:idem:".len() + 32);
        assert_ne!(name("a", "bc", "d"), name("ab", "c", "d"));
    }
}
