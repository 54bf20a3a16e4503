//! One-time tickets: an identity that this deployment has signed for the next half minute, to be shown in a URL.
//!
//! A ticket may be read by whoever holds it, and shown on any replica that shares the key. That it is used once is not told
//! here: whoever accepts one marks its [`TicketId`] in the store, and refuses what is marked already.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{Denied, Identity, identity::Source};
use crate::{event::TopicPattern, http::app::unix_ms};

/// How long a ticket may be used.
pub const LIFETIME: Duration = Duration::from_secs(30);
/// How long a used ticket has to stay marked. Replicas whose clocks differ by less than the rest of it agree.
pub const MARK: Duration = Duration::from_mins(5);
/// What is signed begins with it, so that no other use of the key can make a ticket.
const CONTEXT: &[u8] = b"tidegate ticket 1\0";
const SIGNATURE_BYTES: usize = 32;
/// An identity comes from a token of 8 KiB at most, and is written at about its length. What is longer is not looked at.
const MAX_BYTES: usize = 16 * 1024;

/// What tells one ticket from all others.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TicketId(String);

impl TicketId {
    /// 22 letters, digits, `-` and `_`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes tickets and reads them.
pub struct Tickets(hmac::Key);

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a ticket holds. Milliseconds since 1970.
#[derive(Serialize, Deserialize)]
struct Payload {
    id: String,
    until: u64,
    subject: Option<Arc<str>>,
    caller: Arc<str>,
    subscribe: Vec<TopicPattern>,
    publish: Vec<TopicPattern>,
    /// An older version does not say it.
    #[serde(default)]
    presence: Vec<TopicPattern>,
    expires: Option<u64>,
    source: Origin,
}

/// What an identity rests on, without what would help to guess a secret.
#[derive(Serialize, Deserialize)]
enum Origin {
    Anonymous,
    Token(Arc<str>),
    Signed,
}

impl Tickets {
    /// All replicas have the same key.
    pub fn new(key: [u8; 32]) -> Self {
        Self(hmac::Key::new(HMAC_SHA256, &key))
    }

    /// A ticket for the next [`LIFETIME`]. It has the identity's rights for topics; the rights of an operator do not travel.
    pub fn mint(&self, identity: &Identity, now: SystemTime) -> String {
        let nobody = Identity::anonymous();
        let identity = match identity.source {
            Source::Admin(_) => &nobody,
            _ => identity,
        };
        let source = match &identity.source {
            Source::Anonymous | Source::Admin(_) => Origin::Anonymous,
            Source::Token { name, .. } => Origin::Token(name.clone()),
            Source::Key(_) | Source::Jwks | Source::Signed => Origin::Signed,
        };
        let payload = Payload {
            id: URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()),
            until: unix_ms(now + LIFETIME),
            subject: identity.subject.clone(),
            caller: identity.caller.clone(),
            subscribe: identity.subscribe.to_vec(),
            publish: identity.publish.to_vec(),
            presence: identity.presence.to_vec(),
            expires: identity.expires.map(unix_ms),
            source,
        };
        self.seal(&payload)
    }

    fn seal(&self, payload: &Payload) -> String {
        let mut bytes = serde_json::to_vec(payload).expect("names and numbers are JSON");
        let signature = self.sign(&bytes);
        bytes.extend_from_slice(signature.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn sign(&self, payload: &[u8]) -> hmac::Tag {
        hmac::sign(&self.0, &[CONTEXT, payload].concat())
    }

    /// What a ticket says, if it is one of ours and in its time.
    ///
    /// # Errors
    /// It is no ticket of this deployment, or it, or the token that it was made for, has expired.
    pub fn read(&self, ticket: &str, now: SystemTime) -> Result<(TicketId, Identity), Denied> {
        let foreign = || Denied::invalid("the ticket is not one of this gateway");
        if ticket.len() > MAX_BYTES {
            return Err(foreign());
        }
        let bytes = URL_SAFE_NO_PAD.decode(ticket).map_err(|_| foreign())?;
        let (payload, signature) = bytes
            .split_last_chunk::<SIGNATURE_BYTES>()
            .ok_or_else(foreign)?;
        let signed = [CONTEXT, payload].concat();
        let is_ours = hmac::verify(&self.0, &signed, signature).is_ok();
        let payload = serde_json::from_slice::<Payload>(payload);
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        if !is_ours {
            // A store in memory forgets its key with the process. The pages that come back with the tickets of the last one
            // have done nothing wrong, and must survive it; whoever makes up such a ticket gets nothing but this answer.
            let last_life = payload.map(|it| at(it.until));
            let last_life = last_life.ok().filter(|until| *until <= now + 2 * LIFETIME);
            return Err(last_life.map_or_else(foreign, Denied::Expired));
        }
        // A replica of another version may have signed what this one cannot read.
        let payload = payload
            .map_err(|_| Denied::invalid("the ticket is of another version of this gateway"))?;
        let until = at(payload.until);
        if now >= until {
            return Err(Denied::Expired(until));
        }
        // Its mark would be gone before it is.
        if until > now + 2 * LIFETIME {
            return Err(Denied::invalid(
                "the ticket comes from the future: the clocks of the replicas differ",
            ));
        }
        let expires = payload.expires.map(at);
        if let Some(expires) = expires
            && now >= expires
        {
            return Err(Denied::Expired(expires));
        }
        let identity = Identity {
            subject: payload.subject,
            caller: payload.caller,
            subscribe: payload.subscribe.into(),
            publish: payload.publish.into(),
            presence: payload.presence.into(),
            admin: false,
            expires,
            source: match payload.source {
                Origin::Anonymous => Source::Anonymous,
                Origin::Token(name) => Source::Token { name, print: None },
                Origin::Signed => Source::Signed,
            },
            ticket: true,
        };
        Ok((TicketId(payload.id), identity))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::auth::forge::{NOW, at, now};

    const KEY: [u8; 32] = [7; 32];

    fn identity() -> Identity {
        let patterns = |names: &[&str]| -> Arc<[TopicPattern]> {
            let patterns = names.iter().map(|name| name.parse().expect("a pattern"));
            patterns.collect()
        };
        Identity {
            subject: Some("ann".into()),
            caller: "jwt:0::ann".into(),
            subscribe: patterns(&["orders/*", "数据"]),
            publish: patterns(&["chat"]),
            presence: patterns(&["orders/1"]),
            admin: true,
            expires: Some(at(NOW + 600)),
            source: Source::Jwks,
            ticket: false,
        }
    }

    #[test]
    fn a_ticket_carries_an_identity_but_no_operator() {
        let tickets = Tickets::new(KEY);
        let ticket = tickets.mint(&identity(), now());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        assert!(ticket.bytes().all(plain), "{ticket}");
        // Another replica reads it, a moment later.
        let (id, read) = Tickets::new(KEY)
            .read(&ticket, now() + Duration::from_secs(29))
            .expect("a ticket");
        assert_eq!(id.as_str().len(), 22);
        let expected = Identity {
            admin: false,
            source: Source::Signed,
            ticket: true,
            ..identity()
        };
        assert_eq!(read, expected);
        assert!(read.by_ticket() && Identity::same_subject(&read, &identity()));
    }

    #[test]
    fn no_two_tickets_are_one() {
        let tickets = Tickets::new(KEY);
        let ids = (0..100).map(|_| {
            let ticket = tickets.mint(&identity(), now());
            tickets.read(&ticket, now()).expect("a ticket").0
        });
        assert_eq!(ids.collect::<HashSet<_>>().len(), 100);
    }

    #[test]
    fn a_ticket_ends_with_its_time_and_with_its_token() {
        let tickets = Tickets::new(KEY);
        let ticket = tickets.mint(&identity(), now());
        let read = |ticket: &str, seconds| tickets.read(ticket, at(NOW + seconds)).map(drop);
        assert_eq!(read(&ticket, 30), Err(Denied::Expired(at(NOW + 30))));
        assert_eq!(read(&ticket, 10_000), Err(Denied::Expired(at(NOW + 30))));
        let soon = Identity {
            expires: Some(at(NOW + 10)),
            ..identity()
        };
        let ticket = tickets.mint(&soon, now());
        assert_eq!(read(&ticket, 9), Ok(()));
        assert_eq!(read(&ticket, 10), Err(Denied::Expired(at(NOW + 10))));
        let never = Identity {
            expires: None,
            ..identity()
        };
        assert_eq!(read(&tickets.mint(&never, now()), 29), Ok(()));
        // Its mark would be gone before it ends.
        let ahead = tickets.mint(&identity(), at(NOW + 100));
        assert!(matches!(read(&ahead, 0), Err(Denied::Invalid(_))));
    }

    #[test]
    fn a_ticket_of_which_any_byte_was_changed_is_none() {
        let tickets = Tickets::new(KEY);
        let ticket = tickets.mint(&identity(), now());
        let foreign = |ticket: &str| {
            let read = tickets.read(ticket, now());
            // What looks like a ticket of another process is told as that.
            let denied = matches!(read, Err(Denied::Invalid(_) | Denied::Expired(_)));
            assert!(denied, "{ticket}: {read:?}");
        };
        for at in 0..ticket.len() {
            foreign(&ticket[..at]);
            for other in ["A", "z", "-", "=", "\n", "."] {
                let mut changed = ticket.clone();
                changed.replace_range(at..=at, other);
                if changed != ticket {
                    foreign(&changed);
                }
            }
            let mut bytes = URL_SAFE_NO_PAD.decode(&ticket).expect("base64url");
            let at = at % bytes.len();
            bytes[at] ^= 1;
            foreign(&URL_SAFE_NO_PAD.encode(bytes));
        }
        foreign(&(ticket.clone() + "A"));
        foreign(&Tickets::new([8; 32]).mint(&identity(), now()));
        foreign(&"A".repeat(MAX_BYTES + 1));
        foreign("é");
    }

    /// A store in memory forgets its key: what it gave out is told as expired, whatever does not look like that is not.
    #[test]
    fn a_ticket_of_another_life_is_told_as_expired() {
        let (old, new) = (Tickets::new([8; 32]), Tickets::new(KEY));
        let read = |ticket: &str| new.read(ticket, now()).map(drop);
        let ticket = old.mint(&identity(), now());
        assert_eq!(read(&ticket), Err(Denied::Expired(at(NOW + 30))));
        let ahead = old.mint(&identity(), at(NOW + 100));
        assert!(matches!(read(&ahead), Err(Denied::Invalid(_))));
        let cut = &ticket[..ticket.len() - 60];
        assert!(matches!(read(cut), Err(Denied::Invalid(_))));
    }

    /// What the key signs elsewhere is no ticket.
    #[test]
    fn a_signature_for_something_else_makes_no_ticket() {
        let tickets = Tickets::new(KEY);
        let ticket = tickets.mint(&identity(), now());
        let bytes = URL_SAFE_NO_PAD.decode(ticket).expect("base64url");
        let payload = &bytes[..bytes.len() - SIGNATURE_BYTES];
        let bare = hmac::sign(&hmac::Key::new(HMAC_SHA256, &KEY), payload);
        let forged = URL_SAFE_NO_PAD.encode([payload, bare.as_ref()].concat());
        assert!(tickets.read(&forged, now()).is_err());
    }

    #[test]
    fn a_ticket_holds_nothing_to_guess_a_secret_by() {
        let token = Identity {
            source: Source::Token {
                name: "shop".into(),
                print: Some([9; 16]),
            },
            ..identity()
        };
        let tickets = Tickets::new(KEY);
        let bytes = URL_SAFE_NO_PAD.decode(tickets.mint(&token, now()));
        let text = String::from_utf8_lossy(&bytes.expect("base64url")).into_owned();
        assert!(text.contains("shop") && !text.contains("9,9"), "{text}");
        assert_eq!(format!("{tickets:?}"), "***");
        let operator = Identity {
            source: Source::Admin([9; 16]),
            ..identity()
        };
        let (_, read) = tickets
            .read(&tickets.mint(&operator, now()), now())
            .expect("a ticket");
        assert!(!read.is_known() && !read.is_admin());
    }
}
