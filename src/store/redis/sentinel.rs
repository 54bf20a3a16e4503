//! What a sentinel is asked, and what it answers.
//!
//! `GET-MASTER-ADDR-BY-NAME` is what clients ask; the one that leads a failover names the new master there as soon as that has
//! taken over, before it announces `+switch-master`. `MASTER` says by which decision, its epoch. Both are asked again at each
//! news; who may not subscribe to news is asked once a second.

use super::{
    council::Word,
    link::{Link, LinkError},
    resp::{Request, Value},
    url::Address,
};

/// A sentinel has chosen a replica, and makes it the master about 100 ms later.
const CHOSEN: &str = "+failover-state-send-slaveof-noone";
/// After which news the answer may be another one.
const NEWS: [&str; 3] = ["+switch-master", "+promoted-slave", CHOSEN];
/// Others that one sentinel may name.
const OTHERS: usize = 16;

/// Asks for news, which come as pushes. A sentinel that refuses it is asked the more often.
pub(super) async fn listen(link: &mut Link) -> Result<(), LinkError> {
    link.tell(&Request::new("SUBSCRIBE").args(NEWS)).await?;
    // A subscription has no reply, but a refusal is one: what comes before the answer to this is the refusal.
    match link.ask(&Request::new("PING")).await {
        Err(LinkError::Refused(why)) => {
            tracing::debug!(%why, "a sentinel does not tell news");
            link.reply().await.map(|_| ())
        }
        answer => answer.map(|_| ()),
    }
}

/// Where the master is. `known` are the other sentinels, from one time to the next.
pub(super) async fn ask(
    link: &mut Link,
    master: &str,
    known: &mut Vec<Address>,
) -> Result<Word, LinkError> {
    let about = |what: &str| Request::new("SENTINEL").arg(what).arg(master);
    // The epoch first: an old address under a new epoch would win over the right one.
    let state = optional(link.ask(&about("MASTER")).await)?;
    let address = link.ask(&about("GET-MASTER-ADDR-BY-NAME")).await?;
    // Who may not ask for the others knows those that were configured.
    if let Some(others) = optional(link.ask(&about("SENTINELS")).await)? {
        *known = others_of(&others);
    }
    Ok(Word {
        master: address_of(&address),
        epoch: state.as_ref().map_or(0, epoch_of),
        guides: known.clone(),
        masters: Vec::new(),
    })
}

/// The replica that is made the master next, if that is the news: `slave name host port @ master host port`.
pub(super) fn chosen(news: &[Value], master: &str) -> Option<Address> {
    let [_, channel, text] = news else {
        return None;
    };
    if channel.text() != Some(CHOSEN) {
        return None;
    }
    let words: Vec<&str> = text.text()?.split(' ').collect();
    let ["slave", _, host, port, "@", of, ..] = words[..] else {
        return None;
    };
    let replica = Address::new(host, port.parse().ok()?);
    replica.filter(|_| of == master)
}

fn optional(answer: Result<Value, LinkError>) -> Result<Option<Value>, LinkError> {
    match answer {
        Err(LinkError::Refused(_)) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Host and port; null where the sentinel knows no master of that name.
fn address_of(answer: &Value) -> Option<Address> {
    let [host, port] = answer.array()? else {
        return None;
    };
    Address::new(host.text()?, port.number()?)
}

/// Names and values in turn.
fn field<'a>(fields: &'a Value, name: &str) -> Option<&'a Value> {
    let mut pairs = fields.array()?.chunks_exact(2);
    pairs
        .find(|pair| pair[0].text() == Some(name))
        .map(|pair| &pair[1])
}

fn epoch_of(state: &Value) -> u64 {
    let epoch = field(state, "config-epoch").and_then(Value::number);
    epoch
        .and_then(|epoch| u64::try_from(epoch).ok())
        .unwrap_or(0)
}

fn others_of(answer: &Value) -> Vec<Address> {
    let others = answer.array().unwrap_or_default().iter();
    let mut others: Vec<Address> = others
        .filter_map(|it| Address::new(field(it, "ip")?.text()?, field(it, "port")?.number()?))
        .take(OTHERS)
        .collect();
    others.sort();
    others
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::store::redis::resp::{Decoder, tests::any_value};

    fn value(text: &str) -> Value {
        let wire = text.replace(' ', "\r\n") + "\r\n";
        let value = Decoder::default().decode(&mut BytesMut::from(wire.as_str()));
        value.expect("RESP").expect("complete")
    }

    fn texts(texts: &[&str]) -> Value {
        let text = |text: &&str| Value::Text(text.as_bytes().to_vec().into());
        Value::Array(texts.iter().map(text).collect())
    }

    #[test]
    fn an_address_is_a_host_and_a_port_or_nothing() {
        let shown = |it: Option<Address>| it.map(|it| it.to_string());
        let of = |host: &str, port: &str| shown(address_of(&texts(&[host, port])));
        assert_eq!(of("10.0.0.1", "6379").as_deref(), Some("10.0.0.1:6379"));
        assert_eq!(of("Redis-0.local", "1").as_deref(), Some("redis-0.local:1"));
        assert_eq!(of("FD00::0:1", "6379").as_deref(), Some("[fd00::1]:6379"));
        for (host, port) in [
            ("", "1"),
            ("a b", "1"),
            ("a", "0"),
            ("a", "65536"),
            ("a", "x"),
            ("a", "-1"),
        ] {
            assert_eq!(of(host, port), None, "{host}:{port}");
        }
        assert_eq!(address_of(&Value::Null), None);
        assert_eq!(
            shown(address_of(&value("*2 $1 a :7"))).as_deref(),
            Some("a:7")
        );
        assert_eq!(address_of(&texts(&["a", "1", "2"])), None);
    }

    #[test]
    fn others_and_epochs_are_found_among_the_fields() {
        let state = texts(&["name", "mymaster", "config-epoch", "7", "quorum", "2"]);
        assert_eq!(epoch_of(&state), 7);
        assert_eq!(epoch_of(&texts(&["config-epoch", "-1"])), 0);
        assert_eq!(epoch_of(&texts(&["config-epoch"])), 0);
        // RESP3 says it as a map, which is read as names and values in turn.
        assert_eq!(epoch_of(&value("%1 $12 config-epoch $1 8")), 8);
        let other = |ip: &str, port: &str| texts(&["name", "x", "ip", ip, "port", port]);
        let others = Value::Array(vec![
            other("10.0.0.3", "26379"),
            other("", "26379"),
            Value::Null,
            other("10.0.0.2", "26380"),
        ]);
        let others: Vec<String> = others_of(&others).iter().map(ToString::to_string).collect();
        assert_eq!(others, ["10.0.0.2:26380", "10.0.0.3:26379"]);
    }

    #[test]
    fn a_replica_is_chosen_for_the_master_that_is_asked_for() {
        let news = |channel: &str, text: &str| {
            let news = texts(&["message", channel, text]);
            let chosen = chosen(news.array().expect("texts"), "mymaster");
            chosen.map(|it| it.to_string())
        };
        let text = "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379";
        assert_eq!(news(CHOSEN, text).as_deref(), Some("10.0.0.2:6379"));
        assert_eq!(news("+switch-master", text), None);
        assert_eq!(news(CHOSEN, &text.replace("mymaster", "other")), None);
        assert_eq!(news(CHOSEN, "slave a b c"), None);
        assert_eq!(news(CHOSEN, "master mymaster 10.0.0.1 6379"), None);
    }

    proptest! {
        #[test]
        fn no_answer_panics_or_names_many(value in any_value(), channel in prop_oneof![Just(CHOSEN.to_owned()), any::<String>()], text in any::<String>()) {
            let _ = (address_of(&value), epoch_of(&value));
            prop_assert!(others_of(&value).len() <= OTHERS);
            let news = texts(&["message", &channel, &text]);
            let _ = chosen(news.array().expect("texts"), "m");
            let _ = chosen(value.array().unwrap_or_default(), "m");
        }
    }
}
